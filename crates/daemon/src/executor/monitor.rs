//! The thread that watches: slices, deadlines, load.
//!
//! While anything is polled it looks every slice, so that a poll is detached after one to two
//! slices. After a while without polls it sleeps until there is one, or a deadline comes.

use super::pool::Pool;
use super::timers::Timers;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Looks without a poll before the monitor sleeps for good: waking it costs a worker as much as
/// some looks cost the monitor.
const QUIET_LOOKS: u32 = 50;
/// Load averages are sampled this often, as in Linux.
const SAMPLING: Duration = Duration::from_secs(5);

pub(super) fn start(pool: &Arc<Pool>, timers: &Arc<Timers>) -> io::Result<()> {
    let (pool, timers) = (pool.clone(), timers.clone());
    let thread = std::thread::Builder::new().name("limosa-monitor".to_owned());
    thread.spawn(move || watch(&pool, &timers))?;
    Ok(())
}

fn watch(pool: &Pool, timers: &Timers) {
    let mut quiet = 0;
    let mut sampled = Instant::now();
    loop {
        timers.ring();
        let now = Instant::now();
        let busy = pool.watch(now);
        quiet = if busy { 0 } else { quiet + 1 };
        if now.saturating_duration_since(sampled) >= SAMPLING {
            sampled = now;
            timers.load(now, pool.runnable());
        }
        let on = if quiet < QUIET_LOOKS {
            timers.sleep(Some(pool.slice()))
        } else {
            timers.set_dormant(true);
            // A poll that began before this was set is seen now; one that begins after wakes us.
            if pool.watch(Instant::now()) {
                timers.set_dormant(false);
                quiet = 0;
                continue;
            }
            let on = timers.sleep(None);
            timers.set_dormant(false);
            on
        };
        if !on {
            return;
        }
    }
}
