//! `limosa bench switch`: what it costs to go from one to another, directly and by cold caches.
//!
//! Two of a kind run by turns on one processor; each touches its working set, a byte in every
//! cache line, and lets the other run: processes by `sched_yield`, threads and OS processes by a
//! token in a pipe, as lmbench's `lat_ctx` does. For comparison one alone touches its working set
//! as often: a process does nothing else, a thread also passes the token to itself, since reading and
//! writing a pipe is no part of a switch. A switch is what a turn of two takes longer than a turn of one: without a working set, the
//! direct cost; what it grows by with one, the indirect cost. Where the working sets of two no
//! longer fit into a cache that one's would, the cache shows.

mod process;
mod report;

use crate::harness::{Error, Machine, Native};
use crate::progress::Progress;
use crate::stats::median;
use report::Kind;
pub(crate) use report::Report;

/// Bytes that each touches between two switches.
const WORKING_SETS: [usize; 6] = [0, 4 << 10, 32 << 10, 256 << 10, 1 << 20, 4 << 20];
const PEER: (&str, &str) = ("peer.c", include_str!("peer.c"));

/// Nanoseconds of a turn.
struct Turns {
    kind: Kind,
    working_set: usize,
    alone_ns: f64,
    two_ns: f64,
}

/// Measures everything.
pub(crate) fn measure(quick: bool) -> Result<Report, Error> {
    let (repeats, budget) = if quick {
        (3, 20_000_000)
    } else {
        (7, 100_000_000)
    };
    let machine = Machine::of_this();
    let progress = Progress::new(3 * WORKING_SETS.len() as u64);
    let mut skipped = Vec::new();
    let peer = match Native::compile("peer", &[PEER])? {
        Ok(peer) => Some(peer),
        Err(reason) => {
            skipped.push(reason);
            None
        }
    };
    let mut turns = Vec::new();
    for working_set in WORKING_SETS {
        // A cache line from memory takes tens of nanoseconds, a switch some thousand.
        let rounds = (budget / (4_000 + working_set / 64 * 4)).max(50);
        progress.say(format!("processes, {} KiB", working_set >> 10));
        let both = |count| process::turn_ns(count, working_set, rounds);
        turns.push(turn(Kind::Process, working_set, repeats, both)?);
        progress.step();
        for (kind, name) in [(Kind::Thread, "threads"), (Kind::OsProcess, "processes")] {
            let Some(peer) = &peer else { continue };
            progress.say(format!("{}, {} KiB", kind.name(), working_set >> 10));
            let (bytes, rounds) = (working_set.to_string(), rounds.to_string());
            let both = |count| {
                let how = if count == 1 { "alone" } else { name };
                let printed = peer.output(&[how, &bytes, &rounds])?;
                printed.trim().parse().map_err(|_| Error::System {
                    doing: "cannot run a peer",
                    error: std::io::Error::other(format!("it printed {printed:?}")),
                })
            };
            turns.push(turn(kind, working_set, repeats, both)?);
            progress.step();
        }
    }
    progress.finish();
    Ok(Report::new(&turns, skipped, machine))
}

/// The middle of some turns of one and of two, taken by turns.
fn turn(
    kind: Kind,
    working_set: usize,
    repeats: usize,
    turn_ns: impl Fn(usize) -> Result<f64, Error>,
) -> Result<Turns, Error> {
    let (mut alone, mut two) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        alone.push(turn_ns(1)?);
        two.push(turn_ns(2)?);
    }
    Ok(Turns {
        kind,
        working_set,
        alone_ns: median(&alone),
        two_ns: median(&two),
    })
}
