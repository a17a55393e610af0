//! The native stacks that programs run on, used again and again.
//!
//! A stack that comes back keeps its uppermost bytes resident; the rest is emptied, so that a
//! program that recursed deep leaves nothing behind. What stays cannot be seen by the next program:
//! compiled code never reads a stack slot that it has not written, and the stack is in no memory
//! that a program can address.

use super::space::{Room, Space};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wasmtime::{StackCreator, StackMemory};

/// Bytes of a free stack that stay resident.
const KEPT_BYTES: usize = 64 << 10;
/// Free stacks.
const FREE_STACKS: usize = 256;

/// A source of stacks for an engine. All its stacks have one size.
#[derive(Default)]
pub(crate) struct Stacks {
    free: Arc<Mutex<Vec<Space>>>,
}

fn lock(free: &Mutex<Vec<Space>>) -> MutexGuard<'_, Vec<Space>> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

/// ```text
/// base      guard                     capacity
///  | closed  |  stack, grows downwards  |
/// ```
struct Stack {
    /// There until it is dropped.
    space: Option<Space>,
    base: usize,
    guard: usize,
    end: usize,
    home: Arc<Mutex<Vec<Space>>>,
}

impl Stacks {
    fn take(&self, size: usize) -> io::Result<Stack> {
        let guard = rustix::param::page_size();
        let size = size.next_multiple_of(guard);
        let capacity = guard.checked_add(size).ok_or(io::ErrorKind::OutOfMemory)?;
        let used = lock(&self.free).pop();
        let space = match used.filter(|space| space.capacity() == capacity) {
            Some(space) => space,
            None => {
                let space = Space::new(Room { capacity, guard: 0 })?;
                space.open(guard..capacity)?;
                space
            }
        };
        let base = space.base() as usize;
        Ok(Stack {
            space: Some(space),
            base,
            guard: base + guard,
            end: base + capacity,
            home: Arc::clone(&self.free),
        })
    }
}

// SAFETY: a stack is page-aligned memory of at least the size that is asked for, with a closed page
// below; it lives as long as the engine holds it, and no one else uses it meanwhile. It is zero
// where it was never used; the engine does not ask for more unless it is told to.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let stack = self.take(size)?;
        if zeroed && let Some(space) = &stack.space {
            space.discard(stack.guard - stack.base..space.capacity())?;
        }
        Ok(Box::new(stack))
    }
}

// SAFETY: see `Stacks`.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        let base = self
            .space
            .as_ref()
            .map_or(std::ptr::null_mut(), Space::base);
        base.wrapping_add(self.end - self.base)
    }

    fn range(&self) -> Range<usize> {
        self.guard..self.end
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let base = self
            .space
            .as_ref()
            .map_or(std::ptr::null_mut(), Space::base);
        base..base.wrapping_add(self.guard - self.base)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let Some(space) = self.space.take() else {
            return;
        };
        let end = space.capacity().saturating_sub(KEPT_BYTES);
        let deep = self.guard - self.base..end.max(self.guard - self.base);
        if space.discard(deep).is_ok() {
            let mut free = lock(&self.home);
            if free.len() < FREE_STACKS {
                free.push(space);
            }
        }
    }
}
