//! Address space: reserved whole, of which parts are opened, closed and emptied.
//!
//! ```text
//! base           open            capacity        capacity + guard
//!  | read, write  |  no access    |  no access    |
//! ```
//! Compiled code leaves out bounds checks within `capacity + guard`, and the engine turns a fault
//! there into a trap; so nothing else may ever be mapped in that range while the space lives.
//!
//! Who uses a space sees to it that no reference into a part is alive while that part is closed,
//! mapped over, emptied or written from here.

use super::slab::Piece;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// A mapping of its own, unmapped when dropped, or a piece of one, which is closed. Offsets are in
/// bytes from its start; those of parts to open, close, map or empty are multiples of the host's
/// page size.
pub(super) struct Space {
    base: NonNull<u8>,
    room: Room,
    /// What it is a piece of.
    piece: Option<Piece>,
}

/// What a space takes: bytes of address space to use, and of guard behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Room {
    pub capacity: usize,
    pub guard: usize,
}

impl Room {
    pub(super) fn bytes(self) -> usize {
        self.capacity.saturating_add(self.guard)
    }
}

// SAFETY: a space is plain address space that it alone owns; who reads and writes what lies in it
// is ordered by its user, as for any memory.
unsafe impl Send for Space {}
// SAFETY: as above; its own fields never change.
unsafe impl Sync for Space {}

impl Space {
    /// Reserves room, all closed.
    pub(super) fn new(room: Room) -> io::Result<Space> {
        if room.bytes() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let (anywhere, closed) = (std::ptr::null_mut(), ProtFlags::empty());
        // SAFETY: a new anonymous mapping where the system likes; it aliases nothing.
        let base = unsafe { rustix::mm::mmap_anonymous(anywhere, room.bytes(), closed, flags) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let piece = None;
        Ok(Space { base, room, piece })
    }

    /// The same room in a piece of a closed slab.
    pub(super) fn of_piece(piece: Piece, room: Room) -> io::Result<Space> {
        if piece.bytes() < room.bytes() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let base = NonNull::new(piece.base()).ok_or(io::ErrorKind::OutOfMemory)?;
        let piece = Some(piece);
        Ok(Space { base, room, piece })
    }

    /// Maps a file of `length` bytes, which must never change, to be read only.
    pub(super) fn of_file(file: BorrowedFd<'_>, length: usize) -> io::Result<Space> {
        let room = Room {
            capacity: length,
            guard: 0,
        };
        let space = Space::new(room)?;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: it replaces the whole of the space just made, which no one has seen.
        unsafe {
            let start = space.base.as_ptr().cast();
            rustix::mm::mmap(start, length, ProtFlags::READ, flags, file, 0)?;
        }
        Ok(space)
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(super) fn room(&self) -> Room {
        self.room
    }

    pub(super) fn capacity(&self) -> usize {
        self.room.capacity
    }

    /// The address at an offset, as the system takes it.
    pub(super) fn address(&self, offset: usize) -> u64 {
        (self.base.as_ptr() as usize + offset) as u64
    }

    /// The offset of an address, within the capacity.
    pub(super) fn offset(&self, address: u64) -> usize {
        let offset = address.saturating_sub(self.address(0));
        usize::try_from(offset).map_or(self.capacity(), |offset| offset.min(self.capacity()))
    }

    /// The start of a part, which must lie within the capacity.
    fn part(&self, range: &Range<usize>) -> io::Result<*mut u8> {
        if range.start > range.end || range.end > self.capacity() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: within the mapping, as just checked.
        Ok(unsafe { self.base.as_ptr().add(range.start) })
    }

    /// Opens a part: it can be read and written. What was never open before is zero.
    pub(super) fn open(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let start = self.part(&range)?.cast::<c_void>();
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the part lies in this space's own mapping; more access takes nothing away.
        unsafe { rustix::mm::mprotect(start, range.len(), access) }?;
        Ok(())
    }

    /// Closes a part: what was in it is gone.
    pub(super) fn close(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let start = self.part(&range)?.cast::<c_void>();
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the part lies in this space's own mapping, and no one refers into it (see the
        // module).
        unsafe { rustix::mm::mmap_anonymous(start, range.len(), ProtFlags::empty(), flags) }?;
        Ok(())
    }

    /// Makes a part impossible to touch, where the system can without a mapping of its own for it;
    /// else closes it.
    pub(super) fn guard(&self, range: Range<usize>) -> io::Result<()> {
        /// Linux 6.13 and later.
        const MADV_GUARD_INSTALL: libc::c_int = 102;
        if range.is_empty() {
            return Ok(());
        }
        let start = self.part(&range)?.cast::<c_void>();
        // SAFETY: the part lies in this space's own mapping, and no one refers into it.
        match unsafe { libc::madvise(start, range.len(), MADV_GUARD_INSTALL) } {
            0 => Ok(()),
            _ => self.close(range),
        }
    }

    /// Maps the first `length` bytes of a file, which must never change, over the start, to be
    /// read and written; what is written stays here.
    pub(super) fn map(&self, file: BorrowedFd<'_>, length: usize) -> io::Result<()> {
        let start = self.part(&(0..length))?.cast::<c_void>();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the part lies in this space's own mapping, and no one refers into it.
        unsafe { rustix::mm::mmap(start, length, access, flags, file, 0) }?;
        Ok(())
    }

    /// Empties a part: where a file is mapped its bytes are back, all else is zero.
    pub(super) fn discard(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let start = self.part(&range)?.cast::<c_void>();
        // SAFETY: the part lies in this space's own mapping, and no one refers into it.
        unsafe { rustix::mm::madvise(start, range.len(), Advice::LinuxDontNeed) }?;
        Ok(())
    }

    /// Makes an open part resident that is about to be written: one call for many pages costs a
    /// fraction of a fault for each. It is only a hint; where the system does not take it the faults
    /// come one by one.
    pub(super) fn populate(&self, range: Range<usize>) {
        /// Fewer bytes are not worth a call.
        const WORTH_A_CALL: usize = 32 << 10;
        let page = rustix::param::page_size();
        let whole = range.start.next_multiple_of(page)..range.end / page * page;
        if range.len() < WORTH_A_CALL || whole.is_empty() {
            return;
        }
        if let Ok(start) = self.part(&whole) {
            // SAFETY: the part lies in this space's own mapping, and its content does not change.
            let _ = unsafe {
                let start = start.cast::<c_void>();
                rustix::mm::madvise(start, whole.len(), Advice::LinuxPopulateWrite)
            };
        }
    }

    /// Writes bytes into an open part. Panics beyond the capacity.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.capacity() && bytes.len() <= self.capacity() - offset);
        // SAFETY: within the mapping, as just checked, and open; no one refers into it, so `bytes`
        // does not overlap it either.
        unsafe {
            let start = self.base.as_ptr().add(offset);
            start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// Fills an open part with zeros. Panics beyond the capacity.
    pub(super) fn zero(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.capacity());
        // SAFETY: within the mapping, as just checked, and open; no one refers into it.
        unsafe {
            self.base
                .as_ptr()
                .add(range.start)
                .write_bytes(0, range.len())
        }
    }

    /// The bytes of an open part, for the one who is the only user of the space. Panics beyond the
    /// capacity.
    pub(super) fn lend(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.capacity());
        // SAFETY: within the mapping, as just checked, open, and nobody else has the space.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(range.start), range.len()) }
    }

    /// The bytes of an open part that no one writes while they are borrowed. Panics beyond the
    /// capacity.
    pub(super) fn read(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.capacity());
        // SAFETY: within the mapping, as just checked, open, and not written meanwhile.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(range.start), range.len()) }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let (start, bytes) = (self.base.as_ptr().cast(), self.room.bytes());
        let Some(piece) = self.piece.take() else {
            // SAFETY: the mapping is this space's own, and whoever uses it holds it. Failure would
            // only leak address space.
            let _ = unsafe { rustix::mm::munmap(start, bytes) };
            return;
        };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the piece is this space's own, and whoever uses it holds it.
        let closed = unsafe { rustix::mm::mmap_anonymous(start, bytes, ProtFlags::empty(), flags) };
        if closed.is_err() {
            // Nobody may have it who takes it for closed.
            std::mem::forget(piece);
        }
    }
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Space({:?}, {} bytes)", self.base, self.capacity())
    }
}
