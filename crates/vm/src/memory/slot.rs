//! A slot: where one linear memory lies while an instance uses it.
//!
//! It comes from the pool, and goes back to it when the last one that uses it lets go. Its first
//! bytes are memory; they grow, never shrink, and are charged to a budget.

use super::Budget;
use super::pages::Pages;
use super::pool::{Begin, Pool};
use super::space::{Room, Space};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Address space in use by a linear memory.
pub(crate) struct Slot {
    /// There until it is dropped.
    space: Option<Space>,
    base: *mut u8,
    room: Room,
    begin: Begin,
    size: AtomicUsize,
    /// Whose memory it is; none for the host's own.
    budget: Mutex<Option<Arc<Budget>>>,
    pool: Arc<Pool>,
}

// SAFETY: `base` is the space's, which may be sent and shared; what goes on in it is ordered by
// the engine (a memory belongs to one store, which one thread uses at a time), and the slot's other
// fields are atomic, locked, or never change.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// A slot that begins as `pages` say.
    pub(super) fn of_pages(pages: &Arc<Pages>, room: Room) -> io::Result<Slot> {
        let begin = Begin {
            size: pages.size(),
            pages: Some(Arc::clone(pages)),
        };
        Slot::new(pages.pool(), begin, room)
    }

    /// A slot that begins with `size` bytes of zeros.
    pub(super) fn of_zeros(pool: &Arc<Pool>, size: usize, room: Room) -> io::Result<Slot> {
        Slot::new(pool, Begin { size, pages: None }, room)
    }

    fn new(pool: &Arc<Pool>, begin: Begin, room: Room) -> io::Result<Slot> {
        let space = pool.take(&begin, room)?;
        Ok(Slot {
            base: space.base(),
            space: Some(space),
            room,
            size: begin.size.into(),
            begin,
            budget: Mutex::new(None),
            pool: Arc::clone(pool),
        })
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Acquire)
    }

    pub(crate) fn room(&self) -> Room {
        self.room
    }

    /// Where it lies.
    pub(super) fn space(&self) -> Option<&Space> {
        self.space.as_ref()
    }

    /// What it began with.
    pub(super) fn pages(&self) -> Option<&Pages> {
        self.begin.pages.as_deref()
    }

    /// Whether it began as these pages say.
    pub(super) fn began_as(&self, pages: &Pages) -> bool {
        self.pages().is_some_and(|own| std::ptr::eq(own, pages))
    }

    /// The parts of the memory that were written since the slot was taken, in order, and perhaps
    /// some more; nothing if the system cannot tell.
    pub(super) fn written(&self) -> Option<Vec<Range<usize>>> {
        self.pool.own_pages(self.space.as_ref()?, 0..self.size())
    }

    /// Bytes in the pages that [`Slot::written`] tells.
    pub(crate) fn written_bytes(&self) -> Option<u64> {
        let written = self.written()?;
        Some(written.iter().map(|part| part.len() as u64).sum())
    }

    /// Writes bytes into a slot that no instance uses yet. Panics beyond its size.
    pub(super) fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at <= self.size() && bytes.len() <= self.size() - at);
        if let Some(space) = &self.space {
            space.populate(at..at + bytes.len());
            space.write(at, bytes);
        }
    }

    /// Fills a part of a slot that no instance uses yet with zeros. Panics beyond its size.
    pub(super) fn put_zeros(&self, part: Range<usize>) {
        assert!(part.start <= part.end && part.end <= self.size());
        if let Some(space) = &self.space {
            space.zero(part);
        }
    }

    /// Puts whole pages of a slot that no instance uses yet back to how they began.
    pub(super) fn as_it_began(&self, part: Range<usize>) -> io::Result<()> {
        if part.end > self.size() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let page = rustix::param::page_size();
        match (&self.space, &self.begin.pages) {
            (None, _) => Ok(()),
            (Some(space), _)
                if part.start.is_multiple_of(page) && part.end.is_multiple_of(page) =>
            {
                space.discard(part)
            }
            // The system's pages are larger than ours.
            (Some(space), Some(pages)) => {
                pages.restore(space, part);
                Ok(())
            }
            (Some(space), None) => {
                space.zero(part);
                Ok(())
            }
        }
    }

    fn budget(&self) -> MutexGuard<'_, Option<Arc<Budget>>> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the slot's bytes count in `budget`. False, and nothing changed, if they do not
    /// fit.
    pub(crate) fn charge_to(&self, budget: &Arc<Budget>) -> bool {
        let mut current = self.budget();
        if let Some(old) = current.as_ref() {
            if Arc::ptr_eq(old, budget) {
                return true;
            }
            old.give_back(self.size() as u64);
            *current = None;
        }
        if !budget.take(self.size() as u64) {
            return false;
        }
        *current = Some(Arc::clone(budget));
        true
    }

    /// Makes the first `size` bytes memory; what is new is zero. Never shrinks.
    pub(crate) fn grow(&self, size: usize) -> io::Result<()> {
        let old = self.size();
        if size <= old {
            return Ok(());
        }
        let space = self.space.as_ref().ok_or(io::ErrorKind::OutOfMemory)?;
        if size > self.room.capacity {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let budget = self.budget();
        let more = (size - old) as u64;
        if budget.as_ref().is_some_and(|budget| !budget.take(more)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        match space.open(old..size) {
            Ok(()) => {
                self.size.store(size, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                if let Some(budget) = budget.as_ref() {
                    budget.give_back(more);
                }
                Err(error)
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let size = self.size();
        if let Some(budget) = self.budget().take() {
            budget.give_back(size as u64);
        }
        if let Some(space) = self.space.take() {
            self.pool.give_back(space, &self.begin, size);
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({:?}, {} bytes)", self.base, self.size())
    }
}
