//! One future, and the waker that makes it ready.
//!
//! ```text
//!            wake            taken             ends: nothing came meanwhile
//!   Waiting ------> Queued --------> Polled --------------------------------> Waiting
//!                     ^                 | wake
//!                     |     ends        v
//!                     +------------- Woken                       Polled, Woken --> Over
//! ```
//! A task is in at most one queue, once. A wake during a poll is never lost: the task goes back to
//! the queue when the poll ends.

use super::Traits;
use super::pool::Pool;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll, Wake, Waker};

const WAITING: u8 = 0;
const QUEUED: u8 = 1;
const POLLED: u8 = 2;
const WOKEN: u8 = 3;
const OVER: u8 = 4;

/// Where a task stands. See the module's documentation.
pub(super) struct Standing(AtomicU8);

impl Standing {
    /// A new task waits for its first wake.
    pub(super) fn new() -> Standing {
        Standing(AtomicU8::new(WAITING))
    }

    /// Whether whoever wakes it must put it into the queue.
    pub(super) fn wake(&self) -> bool {
        let next = |now| match now {
            WAITING => Some(QUEUED),
            POLLED => Some(WOKEN),
            _ => None,
        };
        // Release: what was done before the wake is seen by the poll that follows.
        let was = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        was == Ok(WAITING)
    }

    /// It was taken from the queue. False if it is over.
    pub(super) fn begin(&self) -> bool {
        self.0
            .compare_exchange(QUEUED, POLLED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Its poll has ended and it is not over. Whether it must go back to the queue.
    pub(super) fn end(&self) -> bool {
        let next = |now| match now {
            POLLED => Some(WAITING),
            WOKEN => Some(QUEUED),
            _ => None,
        };
        let was = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        was == Ok(WOKEN)
    }

    /// It is over, for ever.
    pub(super) fn finish(&self) {
        self.0.store(OVER, Ordering::Release);
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module's documentation.
pub(super) struct Task {
    id: u64,
    pool: Weak<Pool>,
    standing: Standing,
    /// Locked by the thread that polls it, and by nobody else unless the executor ends.
    work: Mutex<Option<Work>>,
    pub(super) traits: Traits,
    /// It was asked to yield for outrunning its slice, or its turn.
    pub(super) tired: AtomicBool,
}

impl Task {
    /// A task that is ready at once.
    pub(super) fn spawn(pool: &Arc<Pool>, traits: Traits, work: Work) {
        let task = Arc::new(Task {
            id: pool.next_id(),
            pool: Arc::downgrade(pool),
            standing: Standing::new(),
            work: Mutex::new(Some(work)),
            traits,
            tired: AtomicBool::new(false),
        });
        if !pool.enrol(task.id, &task) {
            // The executor has ended: so has the future.
            task.cancel();
            return;
        }
        if task.standing.wake() {
            let urgent = task.traits.urgent;
            pool.push(task, urgent);
        }
    }

    /// Polls it once, on this thread. Whether it is ready again.
    pub(super) fn poll(self: &Arc<Task>) -> bool {
        if !self.standing.begin() {
            return false;
        }
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(future) = work.as_mut() else {
            return false;
        };
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        if let Ok(Poll::Pending) = polled {
            drop(work);
            return self.standing.end();
        }
        if polled.is_err() {
            // Said by the panic itself; whoever waits for the future sees that it is gone.
            tracing::error!("a task was ended by a fault in limosa itself");
        }
        let taken = work.take();
        drop(work);
        self.over(taken);
        false
    }

    /// Ends it without its having come to its end. False if it is being polled: then its thread
    /// does it.
    pub(super) fn cancel(&self) -> bool {
        let mut work = match self.work.try_lock() {
            Ok(work) => work,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let taken = work.take();
        drop(work);
        self.over(taken);
        true
    }

    fn over(&self, work: Option<Work>) {
        self.standing.finish();
        // What it holds may hold wakers of this very task: taken out, that ring is broken.
        if catch_unwind(AssertUnwindSafe(|| drop(work))).is_err() {
            tracing::error!("what a task held could not be put away: a fault in limosa itself");
        }
        if let Some(pool) = self.pool.upgrade() {
            pool.strike_off(self.id);
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Task>) {
        if self.standing.wake()
            && let Some(pool) = self.pool.upgrade()
        {
            pool.push(self, false);
        }
    }

    fn wake_by_ref(self: &Arc<Task>) {
        if self.standing.wake()
            && let Some(pool) = self.pool.upgrade()
        {
            pool.push(self.clone(), false);
        }
    }
}

/// Lets others run once.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
