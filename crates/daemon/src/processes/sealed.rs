//! The state of a process that is frozen for a move, ready to be sent.

use std::sync::Arc;
use wire::snapshot::{Chunk, Encoded, Hints, LeftOut, Snapshot};

/// What is sent, and what is kept here once the process is gone.
#[derive(Debug)]
pub struct Sealed {
    encoded: Encoded,
    left_out: Vec<LeftOut>,
    chunks: Vec<Chunk>,
}

impl Sealed {
    /// Of a snapshot, without those parts of its files that the target has. A snapshot that others
    /// use too is sent whole.
    pub fn new(mut snapshot: Arc<Snapshot>, kept: &Hints) -> Sealed {
        let chunks = snapshot.kernel.files.chunks_to_keep().cloned().collect();
        let own = Arc::get_mut(&mut snapshot);
        let left_out = own.map(|snapshot| snapshot.kernel.files.leave_out(kept));
        Sealed {
            encoded: Encoded::for_link(snapshot),
            left_out: left_out.unwrap_or_default(),
            chunks,
        }
    }

    /// Bytes that are sent.
    pub fn total_bytes(&self) -> u64 {
        self.encoded.total_bytes()
    }

    /// What is sent, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.encoded.slices()
    }

    /// What was left out of that.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// The parts of its files that are kept here when it is gone.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}
