//! One mapping: address space reserved whole, of which the first bytes are memory.
//!
//! ```text
//! base           size            capacity        capacity + guard
//!  | read, write  |  no access    |  no access    |
//! ```
//! Compiled code leaves out bounds checks within `capacity + guard`, and the engine turns a fault
//! there into a trap; so nothing else may ever be mapped in that range while the slot lives.

use super::Budget;
use super::pages::Pages;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A mapping that a linear memory lies in.
pub(crate) struct Slot {
    base: NonNull<u8>,
    mapped: usize,
    capacity: usize,
    size: AtomicUsize,
    /// Whose memory it is; none for the host's own.
    budget: Mutex<Option<Arc<Budget>>>,
}

// SAFETY: the slot is plain address space; what goes on in it is ordered by the engine (a memory
// belongs to one store, which one thread uses at a time), and the slot's own fields are atomic or
// locked.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// Reserves `capacity` bytes and a guard, of which the first `size` are memory, all zero.
    /// Sizes are multiples of the host's page size.
    pub(crate) fn new(size: usize, capacity: usize, guard: usize) -> io::Result<Slot> {
        let mapped = capacity
            .checked_add(guard)
            .filter(|mapped| *mapped > 0 && size <= capacity)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping where the system likes; it aliases nothing.
        let base = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), mapped, ProtFlags::empty(), flags)
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let slot = Slot {
            base,
            mapped,
            capacity,
            size: 0.into(),
            budget: Mutex::new(None),
        };
        slot.grow(size)?;
        Ok(slot)
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Acquire)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    fn budget(&self) -> std::sync::MutexGuard<'_, Option<Arc<Budget>>> {
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
        if size > self.capacity {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let budget = self.budget();
        let more = (size - old) as u64;
        if budget.as_ref().is_some_and(|budget| !budget.take(more)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: [old, size) lies in this slot's own mapping, beyond what is memory so far, so
        // no one holds a reference into it.
        let result = unsafe {
            let start = self.base.as_ptr().add(old);
            rustix::mm::mprotect(start.cast::<c_void>(), size - old, access)
        };
        match result {
            Ok(()) => {
                self.size.store(size, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                if let Some(budget) = budget.as_ref() {
                    budget.give_back(more);
                }
                Err(error.into())
            }
        }
    }

    /// Puts the image's pages over the start of the memory, copy-on-write. Only before the guest
    /// runs: what was there is gone.
    pub(crate) fn map(&self, pages: &Pages) -> io::Result<()> {
        let Some(file) = pages.file() else {
            return Ok(());
        };
        if pages.mapped_bytes() > self.size() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the range lies in this slot's own mapping and is memory; the caller has not
        // yet let the guest see it, and the file is sealed, so its pages never change.
        unsafe {
            let start = self.base.as_ptr().cast();
            rustix::mm::mmap(start, pages.mapped_bytes(), access, flags, file, 0)?;
        }
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(budget) = self.budget().take() {
            budget.give_back(self.size() as u64);
        }
        // SAFETY: the mapping is this slot's own; the engine's memories and flags hold the slot
        // by `Arc` for as long as they use it. Failure would only leak address space.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({:?}, {} bytes)", self.base, self.size())
    }
}
