//! Many processes on a few threads.
//!
//! ```text
//!             wake                       taken by a worker
//!   waits ----------> ready (one queue) -------------------> is polled --> waits, or is over
//!     ^                                                        |   longer than a slice
//!     |                                                        v
//!     +---------------------- its poll ends ------------- detached: keeps its thread, alone
//!                                                              |   the bound is reached
//!                                                              v
//!                                        tired (another queue): asked to yield, takes turns
//! ```
//! As many *workers* as there are cores poll the futures of processes. Pre-emption is not
//! freezing: when a poll lasts longer than a slice, the monitor takes the worker's role from its
//! thread and gives it to another, as Go's runtime does with a thread that is long in a system
//! call. The thread ends its poll by itself and goes back to the pool. So whatever a poll does,
//! compute, compile or thaw, nobody waits behind it for longer than a slice, and who gets which
//! share of the cores is the kernel's business: while it is *detached*, a thread has the nice value
//! of its process's weight ([`weight`]); workers, and with them all that only reacts, have the
//! normal one.
//!
//! Detached threads are bounded. At the bound a process that outruns its slice is asked to yield,
//! which it does by freezing in place, and becomes *tired*: it goes on when a detached thread is
//! free, and while others are tired, each is asked to yield after a turn. The workers stay free
//! for the rest.
//!
//! A process that waits costs no thread. One lock guards queues and roles; it is taken once per
//! wake and once per poll. The monitor watches slices, and wakes at deadlines (`timers`).

mod monitor;
mod pool;
mod task;
mod timers;
pub mod usage;
pub mod weight;

pub use pool::Activity;
pub use task::yield_now;
pub use timers::{ProcessClock, SystemEntropy};

use pool::Pool;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use task::Task;
use timers::Timers;
use weight::Weight;

/// How an executor is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Threads that poll what is ready; at least one.
    pub workers: usize,
    /// How long a poll may hold a worker.
    pub slice: Duration,
    /// Threads that may each be held by one process that outran its slice.
    pub most_detached: usize,
    /// How long a detached process may run while tired ones wait.
    pub turn: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            slice: Duration::from_millis(2),
            most_detached: 256,
            turn: Duration::from_millis(100),
        }
    }
}

/// What is known of a task beside its future.
#[derive(Default)]
pub struct Traits {
    /// Its share of the cores while it runs longer than a slice.
    pub weight: Weight,
    /// Goes before what is ready already: others are waiting for it.
    pub urgent: bool,
    /// Asks the future to come to an end of its poll soon and be ready again, from any thread. A
    /// future that cannot be asked holds its worker at the bound.
    pub yields: Option<Box<dyn Fn() + Send + Sync>>,
}

/// The threads. When it is dropped they end, each after the poll that it is in, and so do the
/// futures that are left.
pub struct Executor {
    pool: Arc<Pool>,
    timers: Arc<Timers>,
}

impl Executor {
    /// Starts the workers and their monitor.
    pub fn new(config: Config) -> io::Result<Executor> {
        let timers = Arc::new(Timers::new());
        let pool = Pool::start(config, &timers)?;
        let executor = Executor { pool, timers };
        monitor::start(&executor.pool, &executor.timers)?;
        Ok(executor)
    }

    /// Runs a future to its end.
    pub fn spawn(&self, traits: Traits, future: impl Future<Output = ()> + Send + 'static) {
        Task::spawn(&self.pool, traits, Box::pin(future));
    }

    /// A clock whose deadlines this executor meets.
    pub fn clock(&self) -> ProcessClock {
        ProcessClock::new(&self.timers)
    }

    /// What it is doing.
    pub fn activity(&self) -> Activity {
        self.pool.activity()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.pool.stop();
        self.timers.stop();
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Executor({:?})", self.pool.activity())
    }
}

#[cfg(test)]
mod tests;
