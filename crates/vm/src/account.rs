//! What a process has consumed.

use crate::memory::Budget;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a process has consumed since it was born, on all machines together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// CPU time, in nanoseconds, up to the last time it blocked or froze.
    pub cpu_ns: u64,
    /// Times it was frozen.
    pub freezes: u64,
    /// Times it was folded here.
    pub folds: u64,
    /// Bytes of linear memory that it has now.
    pub memory_bytes: u64,
}

/// A handle on the accounts of a process that may be read from any thread while it runs.
#[derive(Clone, Debug)]
pub struct Meter {
    counts: Arc<Counts>,
    pub(crate) budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Counts {
    cpu_ns: AtomicU64,
    /// CPU time of the thread when it began to run the process.
    slice_start_ns: AtomicU64,
    freezes: AtomicU64,
    folds: AtomicU64,
}

impl Meter {
    pub(crate) fn new(cpu_ns: u64, freezes: u64, budget: Arc<Budget>) -> Meter {
        let counts = Counts {
            cpu_ns: cpu_ns.into(),
            slice_start_ns: 0.into(),
            freezes: freezes.into(),
            folds: 0.into(),
        };
        Meter {
            counts: Arc::new(counts),
            budget,
        }
    }

    /// The accounts as of now.
    pub fn read(&self) -> Accounts {
        Accounts {
            cpu_ns: self.counts.cpu_ns.load(Ordering::Relaxed),
            freezes: self.counts.freezes.load(Ordering::Relaxed),
            folds: self.counts.folds.load(Ordering::Relaxed),
            memory_bytes: self.budget.used(),
        }
    }

    pub(crate) fn begin_slice(&self, thread_cpu_ns: u64) {
        let start = &self.counts.slice_start_ns;
        start.store(thread_cpu_ns, Ordering::Relaxed);
    }

    pub(crate) fn end_slice(&self, thread_cpu_ns: u64) {
        let spent = self.slice(thread_cpu_ns);
        self.counts.cpu_ns.fetch_add(spent, Ordering::Relaxed);
    }

    fn slice(&self, thread_cpu_ns: u64) -> u64 {
        let start = self.counts.slice_start_ns.load(Ordering::Relaxed);
        thread_cpu_ns.saturating_sub(start)
    }

    /// CPU time up to now, in the middle of a slice.
    pub(crate) fn cpu_now(&self, thread_cpu_ns: u64) -> u64 {
        let before = self.counts.cpu_ns.load(Ordering::Relaxed);
        before.saturating_add(self.slice(thread_cpu_ns))
    }

    pub(crate) fn count_fold(&self) {
        self.counts.folds.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_freeze(&self) {
        self.counts.freezes.fetch_add(1, Ordering::Relaxed);
    }
}
