//! `limosa bench freeze`: how fast a running program is frozen, and what its stack costs.
//!
//! * `request_to_frozen_us`: a process runs a program; another thread asks it to freeze, at a random
//!   instant. From there until `Process::run` has said `Frozen`, by the wall clock. Each life of a
//!   process has four freezes: the first in its run module; then its snapshot is taken
//!   (`snapshot_us`) and thawed as a new process (`thaw_us`), which is frozen three times more, so
//!   that clones are frozen too.
//! * `capture`, without a process around it: a recursion calls the host at its bottom, which freezes; from there to the return of
//!   the outermost call, over the number of frames.
//! * `thaw`: from the call of the outermost clone to the instant at which that host call is issued
//!   again, over the number of frames.
//! * `snapshot`: 8 MiB of memory that is like nothing else, to bytes and back, checksum included.

mod depth;
mod latency;
mod report;
mod snapshot;
mod world;

use crate::harness::{self, Error, Machine};
use crate::progress::Progress;
pub(crate) use report::Report;

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    /// Freezes per program.
    samples: usize,
    /// Freezes per depth of recursion.
    repeats: usize,
    /// Times a snapshot is written and read.
    snapshots: usize,
}

const FULL: Extent = Extent {
    samples: 400,
    repeats: 31,
    snapshots: 15,
};
const QUICK: Extent = Extent {
    samples: 60,
    repeats: 9,
    snapshots: 5,
};

/// Measures everything that is there; if programs are named, only those.
pub(crate) fn measure(quick: bool, only: &[String]) -> Result<Report, Error> {
    let extent = if quick { QUICK } else { FULL };
    let machine = Machine::of_this();
    let folder = harness::third_party_folder();
    let (programs, mut skipped) = harness::programs(folder.as_deref());
    let programs = harness::only(programs, &skipped, only)?;
    if !only.is_empty() {
        // What was not asked for is not missed.
        skipped.clear();
    }
    let progress = Progress::new(programs.len() as u64 + depth::DEPTHS.len() as u64 + 1);
    let latencies = latency::measure(&programs, extent.samples, &progress)?;
    let depths = harness::with_stack(|| depth::measure(extent.repeats, &progress))?;
    progress.say("snapshot".into());
    let snapshot = snapshot::measure(extent.snapshots)?;
    progress.finish();
    Ok(Report::new(latencies, depths, snapshot, skipped, machine))
}
