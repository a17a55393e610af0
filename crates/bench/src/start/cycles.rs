//! How many starts a core does.

use crate::harness::{CpuTime, Error};
use std::thread;
use std::time::{Duration, Instant};

/// Starts that were done, and the CPU time they took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub starts: u64,
    pub cpu: Duration,
}

impl Count {
    /// CPU time of one, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.starts as f64
    }
}

/// Does `cycle` over and over on so many threads. Each thread makes its own.
pub(super) fn count<C: FnMut() -> Result<(), Error>>(
    threads: usize,
    length: Duration,
    make: impl Fn() -> Result<C, Error> + Sync,
) -> Result<Count, Error> {
    let one = || -> Result<Count, Error> {
        let mut cycle = make()?;
        for _ in 0..20 {
            cycle()?;
        }
        let (start, cpu) = (Instant::now(), CpuTime::now());
        let mut starts = 0;
        while start.elapsed() < length {
            for _ in 0..20 {
                cycle()?;
            }
            starts += 20;
        }
        Ok(Count {
            starts,
            cpu: cpu.elapsed(),
        })
    };
    let counts: Vec<Result<Count, Error>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Count, Error>>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let mut sum = Count::default();
    for count in counts {
        let count = count?;
        sum.starts += count.starts;
        sum.cpu += count.cpu;
    }
    Ok(sum)
}
