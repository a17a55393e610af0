//! Arguments and environment, clocks, randomness.

use super::abi::{Call, Errno, clockid};
use super::guest::Guest;
use super::{Kernel, MONOTONIC_ORIGIN_NS};

/// Bytes of entropy that are asked for at once.
const ENTROPY_CHUNK: usize = 1 << 16;

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
        guest.write_u64(out, time)
    }

    /// Monotonic time since the process was born. It never runs backwards: the port's clock does
    /// not, and a thaw goes on from where the freeze was.
    pub(super) fn since_birth_ns(&self) -> u64 {
        let passed = self
            .ports
            .clock
            .monotonic_ns()
            .saturating_sub(self.origin_ns);
        self.base_ns.saturating_add(passed)
    }

    /// What the guest reads as its monotonic clock.
    pub(super) fn monotonic_ns(&self) -> u64 {
        self.since_birth_ns().saturating_add(MONOTONIC_ORIGIN_NS)
    }

    /// The port's reading at an instant given since birth.
    pub(super) fn port_deadline_ns(&self, since_birth_ns: u64) -> u64 {
        let ahead = since_birth_ns.saturating_sub(self.base_ns);
        self.origin_ns.saturating_add(ahead)
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.ports.clock.realtime_ns()
    }

    pub(super) fn random_get(&self, guest: &mut Guest<'_>, buffer: u32, length: u32) -> Call {
        for chunk in guest.bytes_mut(buffer, length)?.chunks_mut(ENTROPY_CHUNK) {
            self.ports.entropy.fill(chunk);
        }
        Ok(())
    }
}
