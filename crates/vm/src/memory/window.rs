//! A window on a memory of a process: what lies in it, seen from outside.
//!
//! A process is moved page by page, while it runs and when it is frozen; whoever sends the pages
//! looks at them through a window. The memory stays where it is as long as there is one, even if the
//! process ends meanwhile.
//!
//! What is read while the process runs may be old and new in one page. That is of use only to one
//! who will read what was written meanwhile again.

use super::pages::Pages;
use super::slot::Slot;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use wire::snapshot::{PAGE_BYTES, PageKind};

/// See the module's documentation.
#[derive(Clone)]
pub struct Window {
    view: View,
    image: Arc<Pages>,
}

#[derive(Clone)]
enum View {
    /// Where the process has it.
    Slot(Arc<Slot>),
    /// What there was, of a process that is put away.
    Copy(Arc<[u8]>),
}

impl Window {
    pub(crate) fn on(slot: &Arc<Slot>, image: &Arc<Pages>) -> Window {
        Window {
            view: View::Slot(Arc::clone(slot)),
            image: Arc::clone(image),
        }
    }

    pub(crate) fn of_copy(bytes: Vec<u8>, image: &Arc<Pages>) -> Window {
        Window {
            view: View::Copy(bytes.into()),
            image: Arc::clone(image),
        }
    }

    pub(super) fn slot(&self) -> Option<&Arc<Slot>> {
        match &self.view {
            View::Slot(slot) => Some(slot),
            View::Copy(_) => None,
        }
    }

    /// Bytes of the memory now, a multiple of the page size. Never shrinks.
    pub fn size(&self) -> u64 {
        match &self.view {
            View::Slot(slot) => slot.size() as u64,
            View::Copy(bytes) => bytes.len() as u64,
        }
    }

    /// The bytes from `at` on.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let beyond = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let start = usize::try_from(at).map_err(|_| beyond())?;
        let end = start.checked_add(buffer.len()).ok_or_else(beyond)?;
        match &self.view {
            View::Copy(bytes) => {
                buffer.copy_from_slice(bytes.get(start..end).ok_or_else(beyond)?);
                Ok(())
            }
            View::Slot(slot) if end <= slot.size() => {
                // The guest may write there at this moment, so no reference can be made. The system
                // copies as it would for another process, and what cannot be read is an error.
                let length = buffer.len();
                let local = libc::iovec {
                    iov_base: buffer.as_mut_ptr().cast(),
                    iov_len: length,
                };
                let remote = libc::iovec {
                    iov_base: slot.base().wrapping_add(start).cast(),
                    iov_len: length,
                };
                // SAFETY: it writes into `buffer` alone, no more than it is long; that the other
                // addresses can be read is looked at by the system.
                let read =
                    unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
                match usize::try_from(read) {
                    Ok(read) if read == length => Ok(()),
                    Ok(_) => Err(beyond()),
                    Err(_) => Err(io::Error::last_os_error()),
                }
            }
            View::Slot(_) => Err(beyond()),
        }
    }

    /// The parts, in order, outside of which every page is as in the image. Exact to the page where
    /// the system tells which ones were written, else the whole memory.
    pub fn differing(&self) -> Vec<Range<u64>> {
        let size = self.size();
        let written = match &self.view {
            View::Slot(slot) if slot.began_as(&self.image) => slot.written(),
            _ => None,
        };
        let Some(written) = written else {
            return Vec::from_iter((size > 0).then_some(0..size));
        };
        let page = PAGE_BYTES as u64;
        let parts = written.into_iter().map(|part| {
            let (start, end) = (part.start as u64, part.end as u64);
            start / page * page..end.next_multiple_of(page).min(size)
        });
        parts.collect()
    }

    /// What `page`, read as the page of this number, is. One of zeros where the image has zeros is
    /// the image's.
    pub(super) fn kind_of(&self, number: u64, page: &[u8]) -> PageKind {
        const ZERO: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        let start = usize::try_from(number).ok();
        let start = start.and_then(|number| number.checked_mul(PAGE_BYTES));
        let of_image = start.and_then(|start| self.image.bytes().get(start..)?.get(..PAGE_BYTES));
        if page == of_image.unwrap_or(&ZERO) {
            PageKind::Image
        } else if page == ZERO {
            PageKind::Zero
        } else {
            PageKind::Given
        }
    }

    /// Whether both look at the same memory.
    pub fn same(&self, other: &Window) -> bool {
        match (self.slot(), other.slot()) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Window({} bytes)", self.size())
    }
}
