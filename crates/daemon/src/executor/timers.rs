//! Deadlines of processes, their clocks, and when the monitor must look next.
//!
//! Each clock has at most one entry in a tree ordered by time. A deadline that is later than the
//! clock's entry leaves the entry where it is: most deadlines are put off again and again and
//! never come, and the entry moves on when its time has come.

use crate::accounts::load::Load;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vm::ports::{Clock, Usage};

struct Alarm {
    deadline_ns: u64,
    /// The time of its entry in the tree.
    entry_ns: u64,
    waker: Waker,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<(u64, u64), ()>,
    alarms: HashMap<u64, Alarm>,
    next_clock: u64,
    /// Until when the monitor sleeps, if it does; `u64::MAX` is until it is woken.
    sleeps_until_ns: Option<u64>,
    load: Load,
    stopping: bool,
}

/// See the module's documentation.
pub(super) struct Timers {
    origin: Instant,
    state: Mutex<State>,
    changed: Condvar,
    /// The monitor sleeps until somebody polls something.
    dormant: AtomicBool,
}

impl Timers {
    pub(super) fn new() -> Timers {
        Timers {
            origin: Instant::now(),
            state: Mutex::default(),
            changed: Condvar::new(),
            dormant: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn set(&self, clock: u64, deadline_ns: u64, waker: &Waker) {
        let mut state = self.state();
        let State {
            entries, alarms, ..
        } = &mut *state;
        match alarms.get_mut(&clock) {
            Some(alarm) => {
                alarm.deadline_ns = deadline_ns;
                alarm.waker.clone_from(waker);
                if deadline_ns >= alarm.entry_ns {
                    return;
                }
                entries.remove(&(alarm.entry_ns, clock));
                alarm.entry_ns = deadline_ns;
            }
            None => {
                let alarm = Alarm {
                    deadline_ns,
                    entry_ns: deadline_ns,
                    waker: waker.clone(),
                };
                alarms.insert(clock, alarm);
            }
        }
        entries.insert((deadline_ns, clock), ());
        if state
            .sleeps_until_ns
            .is_some_and(|until| deadline_ns < until)
        {
            drop(state);
            self.changed.notify_one();
        }
    }

    fn remove(&self, clock: u64) {
        let mut state = self.state();
        if let Some(alarm) = state.alarms.remove(&clock) {
            state.entries.remove(&(alarm.entry_ns, clock));
            drop(state);
            // Its waker may be the last to hold something that has a clock.
            drop(alarm);
        }
    }

    /// Wakes those whose deadlines have passed.
    pub(super) fn ring(&self) {
        let now_ns = self.now_ns();
        loop {
            let mut state = self.state();
            let State {
                entries, alarms, ..
            } = &mut *state;
            let Some(entry) = entries.first_entry() else {
                return;
            };
            let (at, clock) = *entry.key();
            if at > now_ns {
                return;
            }
            entry.remove();
            let Some(alarm) = alarms.get_mut(&clock) else {
                continue;
            };
            if alarm.deadline_ns > now_ns {
                alarm.entry_ns = alarm.deadline_ns;
                entries.insert((alarm.entry_ns, clock), ());
                continue;
            }
            let alarm = alarms.remove(&clock);
            drop(state);
            if let Some(alarm) = alarm {
                alarm.waker.wake();
            }
        }
    }

    /// The monitor sleeps until the next deadline, but no longer than `most`; without that, also
    /// until a poll begins. False if all is over.
    pub(super) fn sleep(&self, most: Option<Duration>) -> bool {
        let mut state = self.state();
        if state.stopping {
            return false;
        }
        if most.is_none() && !self.dormant.load(Ordering::SeqCst) {
            // A poll has begun since the monitor's last look.
            return true;
        }
        let now_ns = self.now_ns();
        let limit = most.map(|most| {
            let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
            now_ns.saturating_add(most)
        });
        let next = state.entries.first_key_value().map(|(key, ())| key.0);
        let until = limit.into_iter().chain(next).min();
        match until {
            Some(until) if until <= now_ns => return true,
            _ => state.sleeps_until_ns = Some(until.unwrap_or(u64::MAX)),
        }
        let away = until.map(|until| Duration::from_nanos(until - now_ns));
        let wait = |state| match away {
            Some(away) => {
                let waited = self.changed.wait_timeout(state, away);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
        };
        let mut state = wait(state);
        state.sleeps_until_ns = None;
        !state.stopping
    }

    /// The monitor is about to sleep until polls begin. It must look once more before it does.
    pub(super) fn set_dormant(&self, dormant: bool) {
        self.dormant.store(dormant, Ordering::SeqCst);
    }

    /// A poll begins: the monitor must be awake.
    pub(super) fn polls_begin(&self) {
        if self.dormant.load(Ordering::SeqCst) && self.dormant.swap(false, Ordering::SeqCst) {
            // Taken and given back: the monitor sleeps by now, or will see the word when it is
            // about to.
            drop(self.state());
            self.changed.notify_one();
        }
    }

    /// Load averages, with `runnable` for the time since they were last asked for.
    pub(super) fn load(&self, now: Instant, runnable: usize) -> [f64; 3] {
        let since = now.saturating_duration_since(self.origin);
        self.state().load.sample(since, runnable)
    }

    pub(super) fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_all();
    }
}

/// The clocks of one process.
pub struct ProcessClock {
    timers: Arc<Timers>,
    number: u64,
}

impl ProcessClock {
    pub(super) fn new(timers: &Arc<Timers>) -> ProcessClock {
        let mut state = timers.state();
        state.next_clock += 1;
        ProcessClock {
            timers: timers.clone(),
            number: state.next_clock,
        }
    }
}

impl Drop for ProcessClock {
    fn drop(&mut self) {
        self.timers.remove(self.number);
    }
}

impl Clock for ProcessClock {
    fn realtime_ns(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
    }

    fn monotonic_ns(&self) -> u64 {
        self.timers.now_ns()
    }

    fn wake_at(&self, deadline_ns: u64, waker: &Waker) {
        self.timers.set(self.number, deadline_ns, waker);
    }

    fn poll_begins(&self) -> Usage {
        super::usage::begin()
    }

    fn poll_ends(&self) -> Usage {
        super::usage::end()
    }
}

/// Randomness of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl vm::ports::Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        // Linux gives randomness to everyone who asks; a system that cannot is a dead end, and
        // handing a guest predictable bytes in its place would be worse.
        getrandom::fill(buffer).expect("the system gives random bytes");
    }
}
