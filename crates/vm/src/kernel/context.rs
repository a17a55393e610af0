//! Arguments and environment, clocks, randomness.

use super::abi::{Call, Errno, clockid};
use super::guest::Guest;
use super::waiting::{Blocking, Step, Wait};
use super::{Kernel, MONOTONIC_ORIGIN_NS};
use wire::snapshot::Pending;

/// Bytes of entropy that are asked for at once: some tenths of a millisecond.
const ENTROPY_PIECE: usize = 1 << 16;

fn write_sizes(strings: &[Vec<u8>], guest: &mut Guest<'_>, count: u32, size: u32) -> Call {
    let bytes: usize = strings.iter().map(|string| string.len() + 1).sum();
    guest.range(size, 4)?;
    guest.write_u32(count, strings.len() as u32)?;
    guest.write_u32(size, bytes as u32)
}

fn write_strings(strings: &[Vec<u8>], guest: &mut Guest<'_>, pointers: u32, buffer: u32) -> Call {
    let (mut pointer, mut at) = (pointers, buffer);
    for string in strings {
        guest.write_u32(pointer, at)?;
        guest.write(at, string)?;
        let end = at.checked_add(string.len() as u32).ok_or(Errno::FAULT)?;
        guest.write(end, &[0])?;
        pointer = pointer.checked_add(4).ok_or(Errno::FAULT)?;
        at = end.checked_add(1).ok_or(Errno::FAULT)?;
    }
    Ok(())
}

impl Kernel {
    pub(super) fn args_sizes_get(&self, guest: &mut Guest<'_>, count: u32, size: u32) -> Call {
        write_sizes(&self.args, guest, count, size)
    }

    pub(super) fn args_get(&self, guest: &mut Guest<'_>, pointers: u32, buffer: u32) -> Call {
        write_strings(&self.args, guest, pointers, buffer)
    }

    pub(super) fn environ_sizes_get(&self, guest: &mut Guest<'_>, count: u32, size: u32) -> Call {
        write_sizes(&self.env, guest, count, size)
    }

    pub(super) fn environ_get(&self, guest: &mut Guest<'_>, pointers: u32, buffer: u32) -> Call {
        write_strings(&self.env, guest, pointers, buffer)
    }

    pub(super) fn clock_res_get(&self, guest: &mut Guest<'_>, clock: u32, out: u32) -> Call {
        if clock > clockid::THREAD_CPUTIME {
            return Err(Errno::INVAL);
        }
        guest.write_u64(out, 1)
    }

    pub(super) fn clock_time_get(
        &self,
        guest: &mut Guest<'_>,
        clock: u32,
        _precision: u64,
        out: u32,
    ) -> Call {
        let time = match clock {
            clockid::REALTIME => self.ports.clock.realtime_ns(),
            clockid::MONOTONIC => self.monotonic_ns(),
            clockid::PROCESS_CPUTIME | clockid::THREAD_CPUTIME => {
                self.meter.cpu_now(self.ports.clock.thread_cpu_ns())
            }
            _ => return Err(Errno::INVAL),
        };
        self.meter.count_clock_read();
        guest.write_u64(out, time)
    }

    /// Monotonic time since the process was born.
    pub(super) fn since_birth_ns(&self) -> u64 {
        self.origin.since_birth_ns(&self.ports)
    }

    /// What the guest reads as its monotonic clock.
    pub(super) fn monotonic_ns(&self) -> u64 {
        self.since_birth_ns().saturating_add(MONOTONIC_ORIGIN_NS)
    }

    /// The port's reading at an instant given since birth.
    pub(super) fn port_deadline_ns(&self, since_birth_ns: u64) -> u64 {
        self.origin.port_ns(since_birth_ns)
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.ports.clock.realtime_ns()
    }
}

/// `random_get`. Frozen on the way, it goes on where it was: bytes that are drawn once are not drawn
/// again.
pub(super) struct RandomGet {
    buffer: u32,
    length: u32,
    /// Bytes filled, once it has begun.
    filled: Option<u32>,
}

impl RandomGet {
    pub(super) fn new(buffer: u32, length: u32) -> RandomGet {
        RandomGet {
            buffer,
            length,
            filled: None,
        }
    }
}

impl Blocking for RandomGet {
    fn attempt(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Call<Step> {
        let filled = *self.filled.get_or_insert(match kernel.pending {
            Some(Pending::Random { filled }) => filled,
            _ => 0,
        });
        let bytes = guest.bytes_mut(self.buffer, self.length)?;
        let rest = bytes.get_mut(filled as usize..).unwrap_or_default();
        let piece = rest.len().min(ENTROPY_PIECE);
        kernel.ports.entropy.fill(&mut rest[..piece]);
        if piece < rest.len() {
            self.filled = Some(filled + piece as u32);
            return Ok(Step::Block(Wait::TURN));
        }
        Ok(Step::Done)
    }

    fn freeze(&mut self, kernel: &mut Kernel) {
        // Frozen before the first attempt, it has nothing to add to what an earlier issue left.
        if let Some(filled) = self.filled.take() {
            kernel.pending = Some(Pending::Random { filled });
        }
    }
}
