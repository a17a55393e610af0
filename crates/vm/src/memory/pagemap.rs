//! Which pages of a mapping are its own, that is, have been written, or were written since the last
//! look: asked of the system by `PAGEMAP_SCAN` (Linux 6.7 and later).
//!
//! A page of a private mapping is its own once it has been written; until then it is not there, or
//! is a page of the file, or the system's page of zeros. So own pages are those that are present or
//! swapped out, and neither the file's nor that page. (A page that is just being moved elsewhere in
//! physical memory counts as swapped out: asking for present ones only would miss it.)
//!
//! Where the system cannot tell, [`Pagemap::open`] gives nothing, and whoever asks must take every
//! page for written.

use super::space::{Room, Space};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;

const IS_WRITTEN: u64 = 1 << 1;
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_PFNZERO: u64 = 1 << 5;

/// Protects the pages that it tells, where that is registered to be done, and fails elsewhere.
const PROTECT: u64 = 1 << 0;
const CHECK_PROTECTION: u64 = 1 << 1;

/// The system's `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// The system's `struct pm_scan_arg`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Arguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

impl Arguments {
    fn own_pages() -> Arguments {
        Arguments {
            category_inverted: IS_FILE | IS_PFNZERO,
            category_mask: IS_FILE | IS_PFNZERO,
            category_anyof_mask: IS_PRESENT | IS_SWAPPED,
            ..Arguments::default()
        }
    }

    fn take_written() -> Arguments {
        Arguments {
            flags: PROTECT | CHECK_PROTECTION,
            category_mask: IS_WRITTEN,
            category_anyof_mask: IS_PRESENT | IS_SWAPPED,
            ..Arguments::default()
        }
    }
}

struct Scan(Arguments);

// SAFETY: number and direction are those of `PAGEMAP_SCAN`, `_IOWR('f', 16, struct pm_scan_arg)`,
// which writes into the structure and the regions that it names, no more than it says there are.
unsafe impl Ioctl for Scan {
    /// How many regions were found, and up to where it looked.
    type Output = (usize, u64);

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<Arguments>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        arguments: *mut c_void,
    ) -> rustix::io::Result<Self::Output> {
        // SAFETY: it is the pointer that `as_ptr` gave.
        let walk_end = unsafe { (*arguments.cast::<Arguments>()).walk_end };
        Ok((usize::try_from(out).unwrap_or(0), walk_end))
    }
}

/// This operating-system process's page map.
#[derive(Debug)]
pub(super) struct Pagemap(File);

impl Pagemap {
    /// Opens it, if the system can answer, and answers right.
    pub(super) fn open() -> Option<Pagemap> {
        let pagemap = Pagemap(File::open("/proc/self/pagemap").ok()?);
        pagemap.tells_the_truth().ok()?.then_some(pagemap)
    }

    /// Whether it finds the one page of a mapping that was written, and not one that was read. On
    /// this hangs that no process sees another's memory, so it is tried out.
    fn tells_the_truth(&self) -> io::Result<bool> {
        let page = rustix::param::page_size();
        let space = Space::new(Room {
            capacity: 8 * page,
            guard: 0,
        })?;
        space.open(0..8 * page)?;
        space.write(5 * page, &[1]);
        // A read that is left out would not be tried out.
        let read = std::hint::black_box(space.read(2 * page..2 * page + 1)[0]);
        let mut regions = [Region::default(); 8];
        let found = self.own_pages(&space, 0..8 * page, 8 * page, &mut regions)?;
        let mut found = found.iter().flatten();
        let written = found.next() == Some(&(5 * page..6 * page));
        Ok(read == 0 && written && found.next().is_none())
    }

    /// The parts of `range` that are the mapping's own pages, in order; nothing if they are more
    /// than `most` bytes, or in more pieces than there are `regions`.
    pub(super) fn own_pages(
        &self,
        space: &Space,
        range: Range<usize>,
        most: usize,
        regions: &mut [Region],
    ) -> io::Result<Option<Vec<Range<usize>>>> {
        let mut pieces = Vec::new();
        // One more than is wanted, to see whether there are more.
        let pages = most / rustix::param::page_size() + 1;
        let what = Arguments {
            max_pages: pages as u64,
            ..Arguments::own_pages()
        };
        let (found, end) = self.scan(space, &range, &what, regions)?;
        let mut bytes = 0;
        for region in regions.iter().take(found) {
            let piece = space.offset(region.start)..space.offset(region.end);
            bytes += piece.len();
            pieces.push(piece);
        }
        Ok((end == range.end && bytes <= most).then_some(pieces))
    }

    /// All parts of `range` that are the mapping's own pages, in order.
    pub(super) fn all_own_pages(
        &self,
        space: &Space,
        range: Range<usize>,
    ) -> io::Result<Vec<Range<usize>>> {
        self.all(space, range, &Arguments::own_pages())
    }

    /// All parts of `range`, registered to be tracked (see `tracker`), that were written since this
    /// was asked for the last time, in order; and some that were only read for the first time. Pages
    /// that are not there were never written, and are not told.
    pub(super) fn take_written(
        &self,
        space: &Space,
        range: Range<usize>,
    ) -> io::Result<Vec<Range<usize>>> {
        self.all(space, range, &Arguments::take_written())
    }

    fn all(
        &self,
        space: &Space,
        range: Range<usize>,
        what: &Arguments,
    ) -> io::Result<Vec<Range<usize>>> {
        let mut regions = vec![Region::default(); 512];
        let mut pieces: Vec<Range<usize>> = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let (found, end) = self.scan(space, &(start..range.end), what, &mut regions)?;
            for region in regions.iter().take(found) {
                let piece = space.offset(region.start)..space.offset(region.end);
                match pieces.last_mut() {
                    Some(last) if last.end == piece.start => last.end = piece.end,
                    _ => pieces.push(piece),
                }
            }
            if end <= start {
                return Err(io::Error::other("the page map cannot be read"));
            }
            start = end;
        }
        Ok(pieces)
    }

    /// Looks for pages until there are as many as wanted or no more regions. Gives how many regions it
    /// filled, and up to which offset it looked.
    fn scan(
        &self,
        space: &Space,
        range: &Range<usize>,
        what: &Arguments,
        regions: &mut [Region],
    ) -> io::Result<(usize, usize)> {
        let arguments = Arguments {
            size: size_of::<Arguments>() as u64,
            start: space.address(range.start),
            end: space.address(range.end),
            regions: regions.as_mut_ptr() as u64,
            regions_length: regions.len() as u64,
            ..*what
        };
        // SAFETY: `regions` is borrowed for writing and as long as the arguments say. Protected is
        // only what is registered for that, where it changes nothing that a program could see.
        let (found, end) = unsafe { rustix::ioctl::ioctl(&self.0, Scan(arguments)) }?;
        Ok((found.min(regions.len()), space.offset(end)))
    }
}
