//! A process's own thread as an executor of one future, and its clock.
//!
//! The thread sleeps until a port wakes it or the deadline that the machine has set on its clock
//! comes. One thread serves both, so a timer costs nothing but the time limit of the sleep, and
//! it is as exact as the kernel's.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The clocks of one process. Deadlines are set and met on the thread that runs [`block_on`] with
/// it.
#[derive(Debug)]
pub struct ThreadClock {
    origin: Instant,
    alarm: Mutex<Option<(u64, Waker)>>,
}

impl ThreadClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> ThreadClock {
        ThreadClock {
            origin: Instant::now(),
            alarm: Mutex::new(None),
        }
    }

    /// Wakes who waits for a deadline that has passed; else says how long it is away.
    fn ring(&self) -> Option<Duration> {
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let (deadline, _) = alarm.as_ref()?;
        let now = vm::ports::Clock::monotonic_ns(self);
        if *deadline > now {
            return Some(Duration::from_nanos(deadline - now));
        }
        if let Some((_, waker)) = alarm.take() {
            waker.wake();
        }
        None
    }
}

impl Default for ThreadClock {
    fn default() -> Self {
        ThreadClock::new()
    }
}

impl vm::ports::Clock for ThreadClock {
    fn realtime_ns(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn wake_at(&self, deadline_ns: u64, waker: &Waker) {
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        *alarm = Some((deadline_ns, waker.clone()));
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

struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

/// Runs a future on this thread until it is done, sleeping when it waits.
pub fn block_on<F: Future>(clock: &ThreadClock, future: F) -> F::Output {
    let mut future = pin!(future);
    let unpark = Arc::new(Unpark {
        thread: std::thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = Waker::from(unpark.clone());
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        while !unpark.woken.swap(false, Ordering::Acquire) {
            match clock.ring() {
                Some(away) => std::thread::park_timeout(away),
                // The alarm just rang, or there is none: only then is it safe to sleep long.
                None if unpark.woken.load(Ordering::Acquire) => {}
                None => std::thread::park(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use vm::ports::Clock;

    #[test]
    fn a_deadline_wakes_the_thread_not_before_it_has_come() {
        let clock = ThreadClock::new();
        let deadline = clock.monotonic_ns() + 3_000_000;
        let reached = block_on(
            &clock,
            poll_fn(|context| {
                let now = clock.monotonic_ns();
                if now >= deadline {
                    return Poll::Ready(now);
                }
                clock.wake_at(deadline, context.waker());
                Poll::Pending
            }),
        );
        assert!(reached >= deadline);
    }

    #[test]
    fn a_wake_from_another_thread_is_never_lost() {
        let clock = ThreadClock::new();
        for _ in 0..200 {
            let flag = Arc::new(AtomicBool::new(false));
            let mut helper = None;
            block_on(
                &clock,
                poll_fn(|context| {
                    if flag.load(Ordering::Acquire) {
                        return Poll::Ready(());
                    }
                    if helper.is_none() {
                        let (flag, waker) = (flag.clone(), context.waker().clone());
                        helper = Some(std::thread::spawn(move || {
                            flag.store(true, Ordering::Release);
                            waker.wake();
                        }));
                    }
                    Poll::Pending
                }),
            );
            helper.unwrap().join().unwrap();
        }
    }
}
