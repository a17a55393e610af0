//! The native stacks that programs run on, used again and again.
//!
//! A stack that comes back keeps its uppermost bytes resident; the rest is emptied, so that a
//! program that recursed deep leaves nothing behind. What stays cannot be seen by the next program:
//! compiled code never reads a stack slot that it has not written, and the stack is in no memory
//! that a program can address.
//!
//! Stacks lie side by side in slabs, each above a page that cannot be touched. Where the system has
//! guards that are no mappings of their own (`MADV_GUARD_INSTALL`, Linux 6.13), a slab is one
//! mapping; elsewhere a stack takes two.

use super::exhausted::exhausted;
use super::slab::{Piece, Slabs};
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use wasmtime::{StackCreator, StackMemory};

/// Bytes of a free stack that stay resident.
const KEPT_BYTES: usize = 64 << 10;
/// Free stacks that keep them.
const WARM_STACKS: usize = 256;
/// Address space of a slab, and how many stacks it has at most.
const SLAB_BYTES: usize = 1 << 30;
const SLAB_STACKS: usize = 64;

/// A source of stacks for an engine. All its stacks have one size.
#[derive(Default)]
pub(crate) struct Stacks {
    /// Made with the first stack, whose size the engine says.
    slabs: OnceLock<Arc<Slabs>>,
}

/// ```text
/// base      guard                       base + size
///  | guard   |  stack, grows downwards  |
/// ```
struct Stack {
    piece: Piece,
    guard: usize,
    size: usize,
}

impl Stacks {
    fn take(&self, size: usize) -> io::Result<Stack> {
        let guard = rustix::param::page_size();
        let size = size.next_multiple_of(guard);
        let size = size.checked_add(guard).ok_or(io::ErrorKind::OutOfMemory)?;
        let slabs = self.slabs.get_or_init(|| {
            let count = (SLAB_BYTES / size).clamp(1, SLAB_STACKS);
            Slabs::open(size, count, 0)
        });
        if slabs.piece_bytes() != size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let piece = slabs.take(|slab, offset| slab.guard(offset..offset + guard))?;
        Ok(Stack { piece, guard, size })
    }
}

impl Stack {
    /// Empties a part of it.
    fn discard(&self, part: Range<usize>) -> io::Result<()> {
        let (slab, offset) = self.piece.place();
        slab.discard(offset + part.start..offset + part.end)
    }
}

// SAFETY: a stack is page-aligned memory of at least the size that is asked for, with a page below
// that cannot be touched; it lives as long as the engine holds it, and no one else uses it
// meanwhile. It is zero where it was never used; the engine does not ask for more unless it is told
// to.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let stack = self.take(size).map_err(|error| {
            let what = format!("a native stack of {size} bytes");
            wasmtime::Error::msg(exhausted(&what, &error))
        })?;
        if zeroed {
            stack.discard(stack.guard..stack.size)?;
        }
        Ok(Box::new(stack))
    }
}

// SAFETY: see `Stacks`.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.piece.base().wrapping_add(self.size)
    }

    fn range(&self) -> Range<usize> {
        let base = self.piece.base() as usize;
        base + self.guard..base + self.size
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let base = self.piece.base();
        base..base.wrapping_add(self.guard)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let warm = self.piece.warm_ones() < WARM_STACKS;
        let kept = if warm { KEPT_BYTES } else { 0 };
        let end = self.size.saturating_sub(kept).max(self.guard);
        // Where the system cannot, the rest stays resident, and is as invisible as what is kept.
        let _ = self.discard(self.guard..end);
        if !warm {
            self.piece.set_cold();
        }
    }
}
