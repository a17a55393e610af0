//! Which pages of a process's memory are written while it runs: a dirty tracker for precopy.
//!
//! ```text
//!   new --> (pages are write-protected) --> a write: the system lets it pass, and notes the page
//!             ^                                                   |
//!             +---- protected again, in the same look <--- take: which pages were written?
//! ```
//! `userfaultfd` in the mode in which the system answers its faults itself (`WP_ASYNC`), and
//! `PAGEMAP_SCAN`, which tells the pages that were written and protects them again in one go: Linux
//! 6.7 and later. The first write to a page after each look costs the program a fault, under a
//! microsecond. Writes by the kernel for a host call are noted like any other. No fault is ever
//! waited for, so no thread serves any, and no privilege is needed.
//!
//! Whether the system does so, and right, is tried out before it is relied upon: on this hangs that
//! a process that was moved has the memory that it had.

use super::pagemap::Pagemap;
use super::slot::Slot;
use super::space::{Room, Space};
use super::window::Window;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// No pages can be tracked here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untracked {
    /// The system refuses, or does not know how.
    #[error(
        "this system does not tell which pages a process writes while it runs ({0}): that takes \
         Linux 6.7 and leave to use userfaultfd, which some containers do not give"
    )]
    System(String),
    /// The process has no instance whose memory could be looked at.
    #[error("there is no memory to look at: the process is folded, or has none")]
    NoMemory,
}

/// See the module's documentation. When it is dropped, writes are as fast as before.
#[derive(Debug)]
pub struct Tracker {
    faults: Faults,
    pagemap: Pagemap,
    windows: Vec<Window>,
}

impl Tracker {
    /// Tracks these memories of a process from now on.
    pub fn new(windows: Vec<Window>) -> Result<Tracker, Untracked> {
        static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
        let tried = TRIED.get_or_init(|| match try_out() {
            Ok(true) => Ok(()),
            Ok(false) => Err("it tells the wrong pages".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        tried.clone().map_err(Untracked::System)?;
        if windows.is_empty() || windows.iter().any(|window| window.slot().is_none()) {
            return Err(Untracked::NoMemory);
        }
        let system = |error: io::Error| Untracked::System(error.to_string());
        let pagemap = Pagemap::open().ok_or(Untracked::System("no page map".to_owned()))?;
        let mut tracker = Tracker {
            faults: Faults::open().map_err(system)?,
            pagemap,
            windows,
        };
        let slots = tracker.windows.iter().filter_map(Window::slot);
        let spaces = slots.filter_map(|slot| slot.space());
        for space in spaces {
            tracker.faults.register(space).map_err(system)?;
        }
        // What was written up to now is for the first round anyway.
        tracker.take().map_err(system)?;
        Ok(tracker)
    }

    /// Whether these are the memories that it tracks.
    pub fn tracks(&self, windows: &[Window]) -> bool {
        let (ours, theirs) = (self.windows.iter(), windows.iter());
        ours.len() == theirs.len() && ours.zip(theirs).all(|(one, other)| one.same(other))
    }

    /// The parts of each memory, in bytes and in order, that were written since the last look, and
    /// perhaps some more. What is read of them after this call is at least as new.
    pub fn take(&mut self) -> io::Result<Vec<Vec<Range<u64>>>> {
        let slots = self.windows.iter().filter_map(Window::slot);
        let taken = slots.map(|slot: &Arc<Slot>| {
            let space = slot.space().ok_or(io::ErrorKind::NotFound)?;
            let parts = self.pagemap.take_written(space, 0..slot.size())?;
            let parts = parts.into_iter();
            Ok(parts
                .map(|part| part.start as u64..part.end as u64)
                .collect())
        });
        taken.collect()
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        let slots = self.windows.iter().filter_map(Window::slot);
        for space in slots.filter_map(|slot| slot.space()) {
            // Closing the descriptor does it too, if this fails.
            let _ = self.faults.unregister(space);
        }
    }
}

/// Whether of a mapping's pages just those are told that were written, by a program or by the
/// kernel, and again when they are written again.
fn try_out() -> io::Result<bool> {
    let page = rustix::param::page_size();
    let room = Room {
        capacity: 16 * page,
        guard: 0,
    };
    let mut space = Space::new(room)?;
    space.open(0..8 * page)?;
    space.write(page, &[1]);
    let faults = Faults::open()?;
    faults.register(&space)?;
    let pagemap = Pagemap::open().ok_or(io::ErrorKind::Unsupported)?;
    let take = |space: &Space| pagemap.take_written(space, 0..10 * page);
    take(&space)?;
    let mut right = take(&space)?.is_empty();
    // A page that was there and one that was not; one of what was opened since; and by the kernel.
    space.open(8 * page..10 * page)?;
    for at in [page, 3 * page, 8 * page] {
        space.write(at, &[2]);
    }
    let (read, write) = rustix::pipe::pipe()?;
    rustix::io::write(&write, &[3])?;
    rustix::io::read(&read, space.lend(5 * page..5 * page + 1))?;
    let covers = |parts: &[Range<usize>], at| parts.iter().any(|part| part.contains(&at));
    let parts = take(&space)?;
    right &= [page, 3 * page, 5 * page, 8 * page]
        .iter()
        .all(|at| covers(&parts, *at));
    right &= !covers(&parts, 2 * page) && space.read(5 * page..5 * page + 1) == [3];
    space.write(3 * page, &[4]);
    let parts = take(&space)?;
    right &= covers(&parts, 3 * page) && !covers(&parts, page);
    right &= take(&space)?.is_empty();
    faults.unregister(&space)?;
    Ok(right)
}

/// A `userfaultfd` that is never read, since the system answers all faults itself.
#[derive(Debug)]
struct Faults(OwnedFd);

/// Of the system's `linux/userfaultfd.h`.
const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const REGISTER_MODE_WP: u64 = 1 << 1;

/// The system's `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// The system's `struct uffdio_range`.
#[repr(C)]
struct FaultRange {
    start: u64,
    length: u64,
}

/// The system's `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: FaultRange,
    mode: u64,
    ioctls: u64,
}

const API: Opcode = opcode::read_write::<Api>(0xaa, 0x3f);
const REGISTER: Opcode = opcode::read_write::<Register>(0xaa, 0x00);
const UNREGISTER: Opcode = opcode::read::<FaultRange>(0xaa, 0x01);

impl Faults {
    fn open() -> io::Result<Faults> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
        // SAFETY: a system call that takes flags and gives a new descriptor.
        let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let descriptor = libc::c_int::try_from(descriptor).unwrap_or(-1);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, and nobody else's.
        let faults = Faults(unsafe { OwnedFd::from_raw_fd(descriptor) });
        let mut api = Api {
            api: UFFD_API,
            features: FEATURE_WP_ASYNC,
            ioctls: 0,
        };
        // SAFETY: `UFFDIO_API` reads and writes a `struct uffdio_api`.
        unsafe { ioctl(faults.0.as_fd(), Updater::<API, Api>::new(&mut api)) }?;
        Ok(faults)
    }

    fn range(space: &Space) -> FaultRange {
        FaultRange {
            start: space.address(0),
            length: space.capacity() as u64,
        }
    }

    /// From now on what is protected in the space and written is noted. Nothing is protected yet.
    fn register(&self, space: &Space) -> io::Result<()> {
        let mut register = Register {
            range: Faults::range(space),
            mode: REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: `UFFDIO_REGISTER` reads and writes a `struct uffdio_register`. It changes no
        // content and no access: in this mode the system lets every write pass.
        unsafe {
            let register = Updater::<REGISTER, Register>::new(&mut register);
            ioctl(self.0.as_fd(), register)
        }?;
        Ok(())
    }

    fn unregister(&self, space: &Space) -> io::Result<()> {
        let mut range = Faults::range(space);
        // SAFETY: `UFFDIO_UNREGISTER` reads a `struct uffdio_range`.
        unsafe {
            let range = Updater::<UNREGISTER, FaultRange>::new(&mut range);
            ioctl(self.0.as_fd(), range)
        }?;
        Ok(())
    }
}
