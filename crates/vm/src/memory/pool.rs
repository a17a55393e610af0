//! Slots that were used and can be used again.
//!
//! To make a slot anew costs several system calls, and a fault for each page that a program writes
//! soon. A slot that comes back is put as it began, and waits for the next process that begins the
//! same way:
//!
//! ```text
//!   take --> in use --> dropped --> closed beyond its first size --> own pages found
//!     ^                                                                | few      | many, or the
//!     |                                                          written over   system cannot tell
//!     +------------------ kept, within bounds <-----------------------+------- emptied
//! ```
//! Nothing of one process is ever seen by the next: what cannot be put back is unmapped.

use super::pagemap::{Pagemap, Region};
use super::pages::Pages;
use super::shelves::Shelves;
use super::slab::Slabs;
use super::space::{Room, Space};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A slot with at most so many bytes of its own keeps them, written over; one with more is emptied.
const RESTORED_BYTES: usize = 256 << 10;
/// What all free slots together may keep resident.
const RESIDENT_BYTES: usize = 64 << 20;
/// Free slots. Each takes a few mappings, of which a system allows some 65,000.
const FREE_SLOTS: usize = 1024;

/// New slots for which address space is reserved at a time, up to what size of slot, and for how many
/// different ones.
const SLAB_SLOTS: usize = 16;
const SLAB_BYTES: usize = 5 << 30;
const SLAB_ROOMS: usize = 4;

/// Which free slots are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Those that begin with so many bytes of zeros.
    Zeros(usize, Room),
    /// Those that begin with the same pages.
    Pages(u64),
}

impl Key {
    /// A key that nothing else has.
    pub(super) fn unique() -> Key {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Key::Pages(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// How a slot begins: so many bytes, with these pages at their start; what follows is zero.
#[derive(Clone, Debug)]
pub(super) struct Begin {
    pub size: usize,
    pub pages: Option<Arc<Pages>>,
}

impl Begin {
    fn key(&self, room: Room) -> Key {
        let pages = self.pages.as_ref().and_then(|pages| pages.key());
        pages.unwrap_or(Key::Zeros(self.size, room))
    }
}

struct Free {
    space: Space,
    resident: usize,
}

struct Kept {
    shelves: Shelves<Key, Free>,
    resident: usize,
}

/// The free slots of an engine.
pub(crate) struct Pool {
    pagemap: Option<Pagemap>,
    kept: Mutex<Kept>,
    /// Address space for new slots.
    slabs: Mutex<HashMap<Room, Arc<Slabs>>>,
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new() -> Arc<Pool> {
        Pool::with(Pagemap::open())
    }

    /// A pool on a system that cannot tell which pages were written.
    #[cfg(test)]
    pub(super) fn without_pagemap() -> Arc<Pool> {
        Pool::with(None)
    }

    fn with(pagemap: Option<Pagemap>) -> Arc<Pool> {
        Arc::new(Pool {
            pagemap,
            kept: Mutex::new(Kept {
                shelves: Shelves::new(FREE_SLOTS),
                resident: 0,
            }),
            slabs: Mutex::default(),
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A space in that room that begins so: a used one, or a new one.
    pub(super) fn take(&self, begin: &Begin, room: Room) -> io::Result<Space> {
        if begin.size > room.capacity {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut kept = self.kept();
        if let Some(free) = kept.shelves.take(begin.key(room)) {
            kept.resident -= free.resident;
            if free.space.room() == room {
                return Ok(free.space);
            }
        }
        drop(kept);
        let space = self.new_space(room)?;
        let file = begin.pages.as_ref().and_then(|pages| pages.file());
        let mapped = file.map_or(0, |(_, length)| length);
        space.open(mapped..begin.size)?;
        if let Some((file, length)) = file {
            space.map(file, length)?;
        }
        Ok(space)
    }

    /// A closed space: a piece of a mapping of many, where there is address space for one.
    fn new_space(&self, room: Room) -> io::Result<Space> {
        let mut slabs = self.slabs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = slabs.contains_key(&room) || slabs.len() < SLAB_ROOMS;
        if !known || room.bytes() > SLAB_BYTES {
            drop(slabs);
            return Space::new(room);
        }
        let new = || Slabs::closed(room.bytes(), SLAB_SLOTS);
        let slabs_of_room = Arc::clone(slabs.entry(room).or_insert_with(new));
        drop(slabs);
        match slabs_of_room.take(|_, _| Ok(())) {
            Ok(piece) => Space::of_piece(piece, room),
            Err(_) => Space::new(room),
        }
    }

    /// Takes a space back that began so, and of which the first `size` bytes are open now. No one
    /// may refer into it any more.
    pub(super) fn give_back(&self, space: Space, begin: &Begin, size: usize) {
        // What cannot be put back is dropped, which unmaps it.
        let Ok(mut resident) = self.put_back(&space, begin, size) else {
            return;
        };
        let mut kept = self.kept();
        if kept.resident + resident > RESIDENT_BYTES {
            drop(kept);
            if space.discard(0..begin.size).is_err() {
                return;
            }
            resident = 0;
            kept = self.kept();
        }
        kept.resident += resident;
        let key = begin.key(space.room());
        let gone = kept.shelves.put(key, Free { space, resident });
        kept.resident -= gone.as_ref().map_or(0, |gone| gone.resident);
        drop(kept);
        drop(gone);
    }

    /// Puts a space as it began; gives how many bytes of its own it keeps.
    fn put_back(&self, space: &Space, begin: &Begin, size: usize) -> io::Result<usize> {
        space.close(begin.size..size.max(begin.size))?;
        if begin.size == 0 {
            return Ok(0);
        }
        let Some(pieces) = self.few_own_pages(space, 0..begin.size)? else {
            space.discard(0..begin.size)?;
            return Ok(0);
        };
        let mut resident = 0;
        for piece in pieces {
            resident += piece.len();
            match &begin.pages {
                Some(pages) => pages.restore(space, piece),
                None => space.zero(piece),
            }
        }
        Ok(resident)
    }

    fn few_own_pages(
        &self,
        space: &Space,
        range: Range<usize>,
    ) -> io::Result<Option<Vec<Range<usize>>>> {
        let Some(pagemap) = &self.pagemap else {
            return Ok(None);
        };
        let mut regions = [Region::default(); 64];
        pagemap.own_pages(space, range, RESTORED_BYTES, &mut regions)
    }

    /// The parts of a space that are its own pages; nothing if the system cannot tell.
    pub(super) fn own_pages(
        &self,
        space: &Space,
        range: Range<usize>,
    ) -> Option<Vec<Range<usize>>> {
        self.pagemap.as_ref()?.all_own_pages(space, range).ok()
    }

    /// Drops the free slots of this key.
    pub(super) fn forget(&self, key: Key) {
        let mut kept = self.kept();
        let gone: Vec<_> = kept.shelves.clear(key).collect();
        kept.resident -= gone.iter().map(|free| free.resident).sum::<usize>();
        drop(kept);
        drop(gone);
    }

    /// Free slots, and the bytes that they keep resident.
    #[cfg(test)]
    pub(super) fn free(&self) -> (usize, usize) {
        let kept = self.kept();
        (kept.shelves.len(), kept.resident)
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool")
    }
}
