//! `limosa bench freeze`: how fast a running program is frozen, and what its stack costs.
//!
//! * `request_to_frozen_us`: another thread sets the freeze request at a random instant; from there
//!   to the return of the guest's outermost call, by the wall clock. Of every four samples of a
//!   program one freezes its run module and three go on where it was thawed, so that the clones are
//!   frozen too.
//! * `capture`: a recursion calls the host at its bottom, which freezes; from there to the return of
//!   the outermost call, over the number of frames.
//! * `thaw`: from the call of the outermost clone to the instant at which that host call is issued
//!   again, over the number of frames.
//! * `snapshot`: 8 MiB of memory that is like nothing else, to bytes and back, checksum included.

mod depth;
mod latency;
mod report;
mod snapshot;

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

/// Measures everything that is there.
pub(crate) fn measure(quick: bool) -> Result<Report, Error> {
    let extent = if quick { QUICK } else { FULL };
    let machine = Machine::of_this();
    let folder = harness::third_party_folder();
    let (programs, skipped) = harness::programs(folder.as_deref());
    let progress = Progress::new(programs.len() as u64 + depth::DEPTHS.len() as u64 + 1);
    let (latencies, depths) = harness::with_stack(|| {
        let latencies = latency::measure(&programs, extent.samples, &progress)?;
        Ok((latencies, depth::measure(extent.repeats, &progress)?))
    })?;
    progress.say("snapshot".into());
    let snapshot = snapshot::measure(extent.snapshots)?;
    progress.finish();
    Ok(Report::new(latencies, depths, snapshot, skipped, machine))
}
