//! The state of a process that is frozen for a move, ready to be sent.

use std::sync::Arc;
use vm::Window;
use wire::snapshot::{Chunk, Encoded, Hints, LeftOut, Snapshot};

/// What is sent, and what is kept here once the process is gone.
#[derive(Debug)]
pub struct Sealed {
    /// Its memory, which stays where it is, and goes first.
    pub memories: Vec<Window>,
    encoded: Encoded,
    left_out: Vec<LeftOut>,
    chunks: Vec<Chunk>,
}

impl Sealed {
    /// Of a snapshot that has lent its memory, without those parts of its files that the target has.
    pub fn new(mut snapshot: Snapshot, memories: Vec<Window>, kept: &Hints) -> Sealed {
        let chunks = snapshot.kernel.files.chunks_to_keep().cloned().collect();
        let left_out = snapshot.kernel.files.leave_out(kept);
        Sealed {
            memories,
            encoded: Encoded::for_link(Arc::new(snapshot)),
            left_out,
            chunks,
        }
    }

    /// Bytes that are sent, at most.
    pub fn total_bytes(&self) -> u64 {
        let memories = self.memories.iter().map(Window::size);
        memories.sum::<u64>() + self.encoded.total_bytes()
    }

    /// What is sent after the memory, in order.
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
