//! How the engine gets its memories: from slots of ours.
//!
//! Around an instantiation, [`collect`] says what each of its memories is to be, in order, and notes
//! the slots that they get: slots that begin with certain pages, so that nothing need be written
//! into them; or the very slots of an instance that is replaced (a thaw in place), which goes on in
//! the same memory without copying a byte.

use super::exhausted::exhausted;
use super::flag::Flag;
use super::pages::Pages;
use super::pool::Pool;
use super::slot::Slot;
use super::space::Room;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Address space of the engine's own heap, for exceptions, if a program needs one. By this size it
/// is told from memories, of which it is none; so no memory may be reserved as large.
pub(crate) const ENGINE_HEAP_BYTES: usize = 64 << 20;

thread_local! {
    static COLLECTING: RefCell<Option<Collecting>> = const { RefCell::new(None) };
}

/// What a memory is to be.
pub(crate) enum Source {
    /// One that begins with these pages.
    Pages(Arc<Pages>),
    /// The slot of an instance with the same memories, which does not run any more.
    Slot(Arc<Slot>),
    /// A flag memory.
    Flag(Flag),
}

#[derive(Default)]
struct Collecting {
    sources: VecDeque<Source>,
    made: Vec<Arc<Slot>>,
}

/// Runs `instantiate` and gives the slots of the memories made meanwhile, in order. `sources` say
/// what they are, in order; those beyond are zero.
pub(crate) fn collect<T>(
    sources: Vec<Source>,
    instantiate: impl FnOnce() -> T,
) -> (T, Vec<Arc<Slot>>) {
    let collecting = Collecting {
        sources: sources.into(),
        made: Vec::new(),
    };
    let outer = COLLECTING.replace(Some(collecting));
    let result = instantiate();
    let collected = COLLECTING.replace(outer).unwrap_or_default();
    (result, collected.made)
}

/// The engine's source of memories.
pub(crate) struct Creator {
    pool: Arc<Pool>,
}

impl Creator {
    pub(crate) fn new(pool: Arc<Pool>) -> Creator {
        Creator { pool }
    }

    fn slot(
        &self,
        source: Option<Source>,
        minimum: usize,
        room: Room,
    ) -> Result<Arc<Slot>, String> {
        let slot = match source {
            Some(Source::Slot(slot)) => Ok(slot),
            Some(Source::Pages(pages)) => Slot::of_pages(&pages, room).map(Arc::new),
            None => Slot::of_zeros(&self.pool, minimum, room).map(Arc::new),
            Some(Source::Flag(_)) => return Err("a flag memory is no slot".to_owned()),
        };
        let slot = slot.map_err(|error| {
            let what = format!("a memory in {} bytes of address space", room.capacity);
            exhausted(&what, &error)
        })?;
        if slot.size() < minimum || slot.room() != room {
            return Err("a memory is smaller than the program declares".to_owned());
        }
        Ok(slot)
    }
}

// SAFETY (of flag memories, see there): a slot is page-aligned address space of the capacity and
// guard that are asked for, never moves, and lives until the last user lets go of it. It is not always zero at first, but the
// modules that run here initialise no memory themselves: what is there at first is what their
// memories hold.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let capacity = reserved.unwrap_or(0).max(minimum);
        let room = Room { capacity, guard };
        if reserved == Some(ENGINE_HEAP_BYTES) {
            let slot = self.slot(None, minimum, room)?;
            return Ok(Box::new(InSlot(slot)));
        }
        COLLECTING.with_borrow_mut(|collecting| {
            let source = collecting.as_mut().and_then(|it| it.sources.pop_front());
            if let Some(Source::Flag(flag)) = source {
                return Ok(Box::new(flag) as Box<dyn LinearMemory>);
            }
            let slot = self.slot(source, minimum, room)?;
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
        self.0.room().capacity
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        Ok(self.0.grow(size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base()
    }
}
