//! How the engine gets its memories: from slots of ours.
//!
//! Around an instantiation, [`collect`] notes the slots that are made on this thread, in order,
//! and may offer slots to be taken over instead: an instance that replaces another one (a thaw in
//! place) goes on in the very same memory, without copying a byte.

use super::Slot;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

thread_local! {
    static COLLECTING: RefCell<Option<Collecting>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Collecting {
    offered: VecDeque<Arc<Slot>>,
    made: Vec<Arc<Slot>>,
}

/// Runs `instantiate` and gives the slots of the memories made meanwhile, in order. `offered`
/// slots are taken over, one per memory, in order; they must be those of an instance with the same
/// memories, which must not run any more.
pub(crate) fn collect<T>(
    offered: Vec<Arc<Slot>>,
    instantiate: impl FnOnce() -> T,
) -> (T, Vec<Arc<Slot>>) {
    let collecting = Collecting {
        offered: offered.into(),
        made: Vec::new(),
    };
    let outer = COLLECTING.replace(Some(collecting));
    let result = instantiate();
    let collected = COLLECTING.replace(outer).unwrap_or_default();
    (result, collected.made)
}

/// The engine's source of memories.
pub(crate) struct Creator;

// SAFETY: a slot is zeroed, page-aligned address space of the capacity and guard that are asked
// for, never moves, and lives until the last user lets go of it.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        COLLECTING.with_borrow_mut(|collecting| {
            let offered = collecting.as_mut().and_then(|it| it.offered.pop_front());
            let capacity = reserved.unwrap_or(0).max(minimum);
            let slot = match offered {
                Some(slot) if slot.size() >= minimum && slot.capacity() >= capacity => slot,
                Some(_) => return Err("a memory taken over is smaller than declared".to_owned()),
                None => {
                    let slot = Slot::new(minimum, capacity, guard);
                    Arc::new(slot.map_err(|error| {
                        format!("cannot reserve {capacity} bytes of address space: {error}")
                    })?)
                }
            };
            if let Some(collecting) = collecting {
                collecting.made.push(Arc::clone(&slot));
            }
            Ok(Box::new(InSlot(slot)) as Box<dyn LinearMemory>)
        })
    }
}

/// A linear memory in a slot.
struct InSlot(Arc<Slot>);

// SAFETY: see `Creator`.
unsafe impl LinearMemory for InSlot {
    fn byte_size(&self) -> usize {
        self.0.size()
    }

    fn byte_capacity(&self) -> usize {
        self.0.capacity()
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        Ok(self.0.grow(size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base()
    }
}
