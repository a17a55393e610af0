//! Which processes have waited for so long that they are folded.
//!
//! A process that has used no processor time between two looks has not run. One for which that has
//! been so for long is asked to fold; it decides by itself whether it waits for something. What a
//! process of long ago used is forgotten once it is not listed any more.

use super::Processes;
use super::managed::Managed;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};
use wire::ProcessId;

/// How long a process waits before it is folded, if nothing else is said.
pub const FOLD_AFTER: Duration = Duration::from_secs(30);
/// A process is folded at most this part of the time late.
const LOOKS: u32 = 4;
const SHORTEST: Duration = Duration::from_millis(5);
/// Processes that are folded at one look, at most: each needs some times its memory meanwhile.
const AT_ONCE: usize = 32;

/// What was seen of processes.
#[derive(Debug, Default)]
struct Idle {
    /// CPU time, and since when it has been that.
    seen: HashMap<ProcessId, (u64, Instant)>,
}

impl Idle {
    /// Looks at all processes and what CPU time they have used. Returns those that have used none
    /// for so long.
    fn look(
        &mut self,
        now: Instant,
        after: Duration,
        all: impl Iterator<Item = (ProcessId, u64)>,
    ) -> Vec<ProcessId> {
        let mut idle = Vec::new();
        let mut seen = HashMap::with_capacity(self.seen.len());
        for (process, cpu_ns) in all {
            let known = self.seen.get(&process).filter(|known| known.0 == cpu_ns);
            let since = known.map_or(now, |known| known.1);
            if now.saturating_duration_since(since) >= after {
                idle.push(process);
            }
            seen.insert(process, (cpu_ns, since));
        }
        self.seen = seen;
        idle
    }
}

/// Folds what has waited for `after`, until the processes are gone.
pub async fn fold_idle(processes: Weak<Processes>, after: Duration) {
    let mut idle = Idle::default();
    let mut looks = interval((after / LOOKS).max(SHORTEST));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(processes) = processes.upgrade() else {
            return;
        };
        let unfolded: HashMap<ProcessId, Arc<Managed>> = processes
            .all()
            .into_iter()
            .filter(|managed| managed.may_fold())
            .map(|managed| (managed.id, managed))
            .collect();
        let used = unfolded.values();
        let used = used.map(|managed| (managed.id, managed.cpu_ns()));
        let found = idle.look(Instant::now(), after, used);
        for process in found.into_iter().take(AT_ONCE) {
            if let Some(managed) = unfolded.get(&process) {
                managed.fold();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(10);

    #[test]
    fn only_what_has_used_nothing_for_so_long_is_idle() {
        let begin = Instant::now();
        let mut idle = Idle::default();
        let (waits, works) = (ProcessId(1), ProcessId(2));
        for second in 0..30u64 {
            let now = begin + Duration::from_secs(second);
            let used = [(waits, 7), (works, second / 4)];
            let found = idle.look(now, AFTER, used.into_iter());
            let expected = if second < 10 { vec![] } else { vec![waits] };
            assert_eq!(found, expected, "second {second}");
        }
    }

    #[test]
    fn one_that_has_run_begins_anew_and_one_that_is_gone_is_forgotten() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let mut idle = Idle::default();
        let process = ProcessId(1);
        let mut look = |second, used: Option<u64>| {
            let used = used.map(|used| (process, used));
            !idle.look(at(second), AFTER, used.into_iter()).is_empty()
        };
        assert!(!look(0, Some(1)));
        assert!(look(10, Some(1)));
        assert!(!look(11, Some(2)));
        assert!(!look(20, Some(2)));
        assert!(look(21, Some(2)));
        // It was folded, or has ended.
        assert!(!look(22, None));
        assert!(!look(23, Some(2)));
        assert!(idle.seen.len() == 1);
    }
}
