//! What a memory begins with: pages in a sealed file in memory, which every process that begins so
//! maps copy-on-write, so that they share a page until one of them writes it.
//!
//! An image's memories begin with its data; those of a process that is thawed again and again begin
//! with what a snapshot says. Behind the pages of the file, a memory is zero.

use super::pool::{Key, Pool};
use super::slot::Slot;
use super::space::Space;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::Advice;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use wire::snapshot::{Memory, PAGE_BYTES, PageKind, PageMap};

/// Initial contents are mapped in units that are a multiple of every page size in use.
const UNIT: usize = 65536;

/// Makes pages resident that are about to be written: one call for many costs a fraction of a
/// fault for each. It is only a hint; on other systems the faults come one by one.
fn populate(part: &mut [u8]) {
    const WORTH_A_CALL: usize = 8 * PAGE_BYTES;
    if part.len() >= WORTH_A_CALL {
        let start = part.as_mut_ptr().cast();
        // SAFETY: the content of the range, which is borrowed for writing, does not change.
        let _ = unsafe { rustix::mm::madvise(start, part.len(), Advice::LinuxPopulateWrite) };
    }
}

/// What one memory begins with. Its free slots go with it.
#[derive(Debug)]
pub(crate) struct Pages {
    pool: Arc<Pool>,
    /// Bytes of the memory at its beginning.
    size: usize,
    content: Option<Content>,
    /// Of each page of the content, what it is in terms of the image.
    kinds: Vec<PageKind>,
}

/// A sealed file and its bytes.
#[derive(Debug)]
struct Content {
    key: Key,
    file: File,
    bytes: Space,
}

impl Content {
    /// Writes and seals a file. Pages of zeros are left out: they take no room until they are read.
    fn new(bytes: &[u8], kinds: &[PageKind]) -> io::Result<Content> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("limosa-image", flags)?);
        file.set_len(bytes.len() as u64)?;
        for (index, (page, kind)) in bytes.chunks(PAGE_BYTES).zip(kinds).enumerate() {
            if *kind != PageKind::Zero {
                file.write_all_at(page, (index * PAGE_BYTES) as u64)?;
            }
        }
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        let bytes = Space::of_file(file.as_fd(), bytes.len())?;
        Ok(Content {
            key: Key::unique(),
            file,
            bytes,
        })
    }
}

impl Pages {
    /// What a memory of `size` bytes begins with in an image: `bytes`, then zeros.
    pub(crate) fn of_image(pool: &Arc<Pool>, bytes: &[u8], size: usize) -> io::Result<Arc<Pages>> {
        Pages::new(pool, bytes, bytes, size)
    }

    /// What a memory begins with that a snapshot tells; `image` is what the image's begins with.
    pub(crate) fn of_snapshot(image: &Pages, state: &Memory) -> io::Result<Arc<Pages>> {
        let bytes = image.whole(state)?;
        Pages::new(&image.pool, &bytes, image.bytes(), bytes.len())
    }

    /// All bytes of a memory of this image that a snapshot tells.
    pub(crate) fn whole(&self, state: &Memory) -> io::Result<Vec<u8>> {
        let size = usize::try_from(state.wasm_pages).ok();
        let size = size.and_then(|pages| pages.checked_mul(UNIT));
        let size = size.ok_or(io::ErrorKind::OutOfMemory)?;
        let mut bytes = vec![0; size];
        let known = self.bytes().len().min(size);
        bytes[..known].copy_from_slice(&self.bytes()[..known]);
        self.apply(state, &mut bytes);
        Ok(bytes)
    }

    /// What bytes of the host's own begin with, which no snapshot tells page by page.
    pub(crate) fn of_host(pool: &Arc<Pool>, bytes: &[u8], size: usize) -> io::Result<Arc<Pages>> {
        Pages::new(pool, bytes, &[], size)
    }

    fn new(pool: &Arc<Pool>, bytes: &[u8], image: &[u8], size: usize) -> io::Result<Arc<Pages>> {
        let end = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let mut bytes = bytes[..end].to_vec();
        bytes.resize(end.next_multiple_of(UNIT), 0);
        if bytes.len() > size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let pages = bytes.chunks_exact(PAGE_BYTES).enumerate();
        let kinds = pages.map(|(index, page)| PageKind::of(page, image, index));
        let kinds: Vec<_> = kinds.collect();
        let content = match bytes.is_empty() {
            true => None,
            false => Some(Content::new(&bytes, &kinds)?),
        };
        Ok(Arc::new(Pages {
            pool: Arc::clone(pool),
            size,
            content,
            kinds,
        }))
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The key of slots that begin so; none if they are all zero.
    pub(super) fn key(&self) -> Option<Key> {
        Some(self.content.as_ref()?.key)
    }

    /// Bytes of the memory at its beginning.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The file, and how many of its bytes are mapped.
    pub(super) fn file(&self) -> Option<(BorrowedFd<'_>, usize)> {
        let content = self.content.as_ref()?;
        Some((content.file.as_fd(), content.bytes.capacity()))
    }

    /// The contents, up to where only zeros follow.
    pub(crate) fn bytes(&self) -> &[u8] {
        let bytes = self.content.as_ref().map(|content| &content.bytes);
        bytes.map_or(&[], |bytes| bytes.read(0..bytes.capacity()))
    }

    fn kind(&self, page: usize) -> PageKind {
        self.kinds.get(page).copied().unwrap_or(PageKind::Zero)
    }

    /// Puts a part of a space of these pages, page by page, back to how it began.
    pub(super) fn restore(&self, space: &Space, part: Range<usize>) {
        for start in part.step_by(PAGE_BYTES) {
            let page = start..start + PAGE_BYTES;
            match self.kind(start / PAGE_BYTES) {
                PageKind::Zero => space.zero(page),
                PageKind::Image | PageKind::Given => match self.bytes().get(page.clone()) {
                    Some(bytes) => space.write(start, bytes),
                    None => space.zero(page),
                },
            }
        }
    }

    /// Writes a snapshot's memory into `target`, a memory as long as it with these pages at its
    /// start and zeros behind. Pages that stay as they are are not even read: that alone would
    /// make them resident.
    pub(crate) fn apply(&self, state: &Memory, mut target: &mut [u8]) {
        let mut given = state.given.as_slice();
        let mut first = 0;
        for run in &state.map.runs {
            let count = run.pages as usize;
            let Some((part, behind)) = target.split_at_mut_checked(count * PAGE_BYTES) else {
                return;
            };
            match run.kind {
                PageKind::Image => {}
                PageKind::Zero => {
                    for (index, page) in (first..).zip(part.chunks_exact_mut(PAGE_BYTES)) {
                        if index >= self.kinds.len() {
                            break;
                        }
                        if self.kind(index) != PageKind::Zero {
                            page.fill(0);
                        }
                    }
                }
                PageKind::Given => {
                    let Some((bytes, more)) = given.split_at_checked(part.len()) else {
                        return;
                    };
                    populate(part);
                    part.copy_from_slice(bytes);
                    given = more;
                }
            }
            first += count;
            target = behind;
        }
    }

    /// A memory of this image, `bytes` in `slot`, as a snapshot tells it. Pages that were never
    /// written since the slot was taken are as they began, so they are not even read; where the
    /// system cannot tell which those are, all are compared.
    pub(crate) fn capture(&self, slot: &Slot, bytes: &[u8]) -> Memory {
        match slot.written() {
            Some(written) => self.capture_written(slot.pages(), &written, bytes),
            None => Memory::from_bytes(bytes, self.bytes()),
        }
    }

    /// `written` are the parts, in order, where `bytes` may differ from what was `begun` with.
    fn capture_written(
        &self,
        begun: Option<&Pages>,
        written: &[Range<usize>],
        bytes: &[u8],
    ) -> Memory {
        let pages = bytes.len() / PAGE_BYTES;
        let begun = begun.map_or(&[][..], |begun| &begun.kinds);
        let mut map = PageMap::default();
        let mut at = 0;
        let unwritten = |map: &mut PageMap, from: usize, to: usize| {
            let known = begun.get(from..begun.len().min(to).max(from));
            let known = known.unwrap_or_default();
            for kind in known {
                map.push(*kind);
            }
            map.push_run(PageKind::Zero, (to - from - known.len()) as u64);
        };
        for part in written {
            let start = (part.start / PAGE_BYTES).clamp(at, pages);
            let end = part.end.div_ceil(PAGE_BYTES).clamp(start, pages);
            unwritten(&mut map, at, start);
            for index in start..end {
                let page = &bytes[index * PAGE_BYTES..(index + 1) * PAGE_BYTES];
                map.push(PageKind::of(page, self.bytes(), index));
            }
            at = end;
        }
        unwritten(&mut map, at, pages);
        Memory::with_map(bytes, map)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(key) = self.key() {
            self.pool.forget(key);
        }
    }
}
