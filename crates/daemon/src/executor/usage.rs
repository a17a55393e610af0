//! What the calling thread has used of the processor: a thin module over two system calls.
//!
//! The time is exact (`CLOCK_THREAD_CPUTIME_ID`, 0.25 µs to read on the machine of the
//! specification). How it divides into the program's and the kernel's, and faults and switches,
//! come from `getrusage`, which takes as long again, and divides by ticks of the scheduler anyway.
//! So `getrusage` is asked after long polls and every eighth short one, and a poll begins with what
//! was read at the end of the one before, unless the thread has waited in between. A poll then
//! costs about 0.3 µs on a busy worker, 0.5 µs on one that was idle.
#![allow(unsafe_code)]

use std::cell::Cell;
use vm::ports::Usage;

/// A poll that used more than this is long, in nanoseconds.
const LONG_NS: u64 = 20_000;
/// Short polls after one of which `getrusage` is asked.
const SHORT_POLLS: u32 = 8;

#[derive(Clone, Copy, Default)]
struct Reading {
    usage: Usage,
    /// Nothing but polls were on this thread since.
    fresh: bool,
    polls_since: u32,
}

thread_local! {
    static LAST: Cell<Reading> = const {
        Cell::new(Reading {
            usage: Usage::NOTHING,
            fresh: false,
            polls_since: 0,
        })
    };
}

/// What the thread had used when the poll that it is in began.
pub fn begin() -> Usage {
    let mut last = LAST.get();
    if !last.fresh {
        if last.usage.thread == 0 {
            last.usage.thread = rustix::thread::gettid().as_raw_nonzero().get();
            read_rusage(&mut last.usage);
        }
        last.usage.cpu_ns = cpu_ns();
        last.fresh = true;
        LAST.set(last);
    }
    last.usage
}

/// What it has used now that a poll ends.
pub fn end() -> Usage {
    let mut last = LAST.get();
    let used_before = last.usage.cpu_ns;
    last.usage.cpu_ns = cpu_ns();
    last.polls_since += 1;
    let long = last.usage.cpu_ns.saturating_sub(used_before) > LONG_NS;
    if long || last.polls_since >= SHORT_POLLS {
        last.polls_since = 0;
        read_rusage(&mut last.usage);
    }
    LAST.set(last);
    last.usage
}

/// The thread does something else now, or nothing.
pub fn pause() {
    let last = LAST.get();
    LAST.set(Reading {
        fresh: false,
        ..last
    });
}

/// CPU time of this thread, in nanoseconds.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// CPU time of another thread of this OS process, in nanoseconds; none if it has ended.
pub fn cpu_ns_of(thread: i32) -> Option<u64> {
    // The clock of a thread by its number, as pthread_getcpuclockid(3) makes it.
    const PER_THREAD_SCHEDULED: libc::clockid_t = 0b110;
    let clock = (!thread << 3) | PER_THREAD_SCHEDULED;
    let mut time = std::mem::MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to a `timespec` that the call may write; a clock that is none is an
    // error.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call has succeeded, so it has written all of it.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Some(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default())
}

/// CPU time of this whole OS process, outside of the system's kernel and within, in nanoseconds.
pub fn of_all() -> [u64; 2] {
    rusage(libc::RUSAGE_SELF).map_or([0, 0], |read| {
        [read.ru_utime, read.ru_stime].map(nanoseconds)
    })
}

fn read_rusage(usage: &mut Usage) {
    let Some(read) = rusage(libc::RUSAGE_THREAD) else {
        return;
    };
    let count = |count: libc::c_long| u64::try_from(count).unwrap_or_default();
    usage.kernel_ns = nanoseconds(read.ru_stime);
    usage.involuntary_switches = count(read.ru_nivcsw);
    usage.minor_faults = count(read.ru_minflt);
    usage.major_faults = count(read.ru_majflt);
}

fn nanoseconds(time: libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_usec).unwrap_or_default() * 1000
}

/// None only if `whose` is not one of the system's constants.
fn rusage(whose: libc::c_int) -> Option<libc::rusage> {
    let mut read = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is to a `rusage` that the call may write; nothing else is touched.
    if unsafe { libc::getrusage(whose, read.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call has succeeded, so it has written all of it.
    Some(unsafe { read.assume_init() })
}
