//! CPU time of a thread: what the guest cost, whoever else had the processor meanwhile.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// An instant on the CPU clock of the calling thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime(Duration);

impl CpuTime {
    /// Now. Two instants can be compared only if one thread took both.
    pub fn now() -> CpuTime {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        CpuTime(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// CPU time that this thread used since then.
    pub fn elapsed(self) -> Duration {
        CpuTime::now().0.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_costs_no_cpu_time_and_working_does() {
        let start = CpuTime::now();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let wall = std::time::Instant::now();
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        drop(sender);
        let waited = start.elapsed();
        assert!(waited < wall.elapsed() / 2, "waiting counted as {waited:?}");
        let mut state = 1u64;
        while start.elapsed() < Duration::from_millis(5) {
            state = std::hint::black_box(state.wrapping_mul(6364136223846793005) + 1);
        }
    }
}
