//! Pages of a process on their way to another node.
//!
//! Memory goes over a bulk link before the snapshot, in *batches*: pages of one memory that lie in a
//! row, and of each what it is. The target writes a batch where the memory will lie, and needs no
//! other, so batches may come in any number and order; what comes later about a page holds. A part
//! of a bulk link is as many batches as fit, one behind the other:
//!
//! ```text
//! offset  size
//!      0     4  number of the memory; all numbers are little-endian
//!      4     4  number of pages n, of 4 KiB: 1 to 64
//!      8     8  number of the first page
//!     16     n  of each page: 0 zero, 1 equal to the image's, 2 given
//!   16+n     …  the given pages, in order
//! ```

use crate::snapshot::{PAGE_BYTES, PageKind};

/// The most pages of a batch.
pub const MAX_PAGES: usize = 64;
/// The most bytes of a part: room for that many pages, whichever they are.
pub const MAX_PART_BYTES: usize = MAX_PAGES * (HEAD_BYTES + 1 + PAGE_BYTES);

const HEAD_BYTES: usize = 16;
/// No memory has more pages: 2^48 bytes, the address space of today's machines.
const MOST_PAGES: u64 = 1 << 36;
/// Bytes that are no batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are too few.
    #[error("a batch of pages ends after {found} bytes where it says {expected}")]
    Length {
        /// As many as there are.
        found: usize,
        /// As many as its head asks for.
        expected: usize,
    },
    /// It has no pages or too many, or some that no memory has.
    #[error("a batch of {pages} pages, from page {first} on")]
    Range {
        /// The first page.
        first: u64,
        /// How many.
        pages: u32,
    },
    /// A page is of no known kind.
    #[error("a page of kind {0}")]
    Kind(u8),
}

/// Pages of one memory in a row, as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Of which memory.
    pub memory: u32,
    /// The number of the first page.
    pub first: u64,
    kinds: &'a [u8],
    given: &'a [u8],
}

/// Pages of a batch that are of one kind, in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch<'a> {
    /// The number of the first page.
    pub first: u64,
    /// How many pages.
    pub pages: u64,
    /// What they are.
    pub kind: PageKind,
    /// Their bytes, if they are given.
    pub given: &'a [u8],
}

fn code(kind: PageKind) -> u8 {
    match kind {
        PageKind::Zero => 0,
        PageKind::Image => 1,
        PageKind::Given => 2,
    }
}

fn kind(code: u8) -> Result<PageKind, BatchError> {
    Ok(match code {
        0 => PageKind::Zero,
        1 => PageKind::Image,
        2 => PageKind::Given,
        other => return Err(BatchError::Kind(other)),
    })
}

impl<'a> Batch<'a> {
    /// Takes a batch off the front.
    pub fn take(bytes: &mut &'a [u8]) -> Result<Batch<'a>, BatchError> {
        let found = bytes.len();
        let wrong = |expected| BatchError::Length { found, expected };
        let head = bytes.split_first_chunk::<HEAD_BYTES>();
        let (head, rest) = head.ok_or(wrong(HEAD_BYTES))?;
        let [a, b, c, d, e, f, g, h, first @ ..] = *head;
        let memory = u32::from_le_bytes([a, b, c, d]);
        let pages = u32::from_le_bytes([e, f, g, h]);
        let first = u64::from_le_bytes(first);
        let count = pages as usize;
        if count == 0 || count > MAX_PAGES || first > MOST_PAGES - MAX_PAGES as u64 {
            return Err(BatchError::Range { first, pages });
        }
        let (kinds, rest) = rest
            .split_at_checked(count)
            .ok_or(wrong(HEAD_BYTES + count))?;
        let mut given = 0;
        for code in kinds {
            if kind(*code)? == PageKind::Given {
                given += PAGE_BYTES;
            }
        }
        let (given, rest) = rest
            .split_at_checked(given)
            .ok_or(wrong(HEAD_BYTES + count + given))?;
        *bytes = rest;
        Ok(Batch {
            memory,
            first,
            kinds,
            given,
        })
    }

    /// How many pages it tells of.
    pub fn pages(&self) -> u64 {
        self.kinds.len() as u64
    }

    /// What its pages are, in order.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch<'a>> + use<'a> {
        let mut given = self.given;
        let mut first = self.first;
        let runs = self.kinds.chunk_by(|one, next| one == next);
        runs.map_while(move |run| {
            let kind = kind(*run.first()?).ok()?;
            let bytes = match kind {
                PageKind::Given => run.len() * PAGE_BYTES,
                PageKind::Zero | PageKind::Image => 0,
            };
            let (these, rest) = given.split_at_checked(bytes)?;
            let stretch = Stretch {
                first,
                pages: run.len() as u64,
                kind,
                given: these,
            };
            given = rest;
            first += stretch.pages;
            Some(stretch)
        })
    }
}

/// Makes parts, one after the other, in one buffer: pages are read into it, and those that need not
/// be sent are taken out again.
#[derive(Debug)]
pub struct PartWriter {
    buffer: Box<[u8]>,
    used: usize,
}

impl Default for PartWriter {
    fn default() -> Self {
        PartWriter::new()
    }
}

impl PartWriter {
    /// A writer of an empty part.
    pub fn new() -> PartWriter {
        PartWriter {
            buffer: vec![0; MAX_PART_BYTES].into(),
            used: 0,
        }
    }

    /// How many pages the next batch may have; 0 if the part is full.
    pub fn fits(&self) -> usize {
        let rest = self.buffer.len() - self.used;
        (rest.saturating_sub(HEAD_BYTES) / (1 + PAGE_BYTES)).min(MAX_PAGES)
    }

    /// Where to put the pages of the next batch, as many as fit at most.
    pub fn pages(&mut self, count: usize) -> &mut [u8] {
        let count = count.min(self.fits());
        let start = self.used + HEAD_BYTES + count;
        let pages = self.buffer.get_mut(start..start + count * PAGE_BYTES);
        pages.unwrap_or_default()
    }

    /// Appends the batch of the `count` pages of a memory that were put there, from page `first` on.
    /// `kind_of` says of each, by its number, what it is. A batch of which nothing need be said is
    /// left out: if all of its pages are of the kind `implied`.
    pub fn append(
        &mut self,
        (memory, first): (u32, u64),
        count: usize,
        implied: Option<PageKind>,
        mut kind_of: impl FnMut(u64, &[u8]) -> PageKind,
    ) {
        let count = count.min(self.fits());
        let Some(batch) = self.buffer.get_mut(self.used..) else {
            return;
        };
        let Some((head, rest)) = batch.split_first_chunk_mut::<HEAD_BYTES>() else {
            return;
        };
        let Some((kinds, pages)) = rest.split_at_mut_checked(count) else {
            return;
        };
        let mut end = 0;
        for ((place, number), at) in kinds.iter_mut().zip(first..).zip((0..).step_by(PAGE_BYTES)) {
            let kind = kind_of(number, pages.get(at..at + PAGE_BYTES).unwrap_or_default());
            *place = code(kind);
            if kind == PageKind::Given {
                if end < at {
                    pages.copy_within(at..at + PAGE_BYTES, end);
                }
                end += PAGE_BYTES;
            }
        }
        if implied.is_some_and(|implied| kinds.iter().all(|kind| *kind == code(implied))) {
            return;
        }
        let (numbers, place) = head.split_at_mut(8);
        numbers[..4].copy_from_slice(&memory.to_le_bytes());
        numbers[4..].copy_from_slice(&(count as u32).to_le_bytes());
        place.copy_from_slice(&first.to_le_bytes());
        self.used += HEAD_BYTES + count + end;
    }

    /// The part as it is now.
    pub fn part(&self) -> &[u8] {
        self.buffer.get(..self.used).unwrap_or_default()
    }

    /// Begins the next part.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of ones is the image's, others are given, but for zeros.
    fn classify(page: &[u8]) -> PageKind {
        match page[0] {
            0 => PageKind::Zero,
            1 => PageKind::Image,
            _ => PageKind::Given,
        }
    }

    fn append(writer: &mut PartWriter, first: u64, pages: &[u8]) {
        let room = writer.pages(pages.len());
        for (place, code) in room.chunks_exact_mut(PAGE_BYTES).zip(pages) {
            place.fill(*code);
        }
        let implied = Some(PageKind::Image);
        writer.append((3, first), pages.len(), implied, |_, page| classify(page));
    }

    /// The pages that a batch tells of, as they were put there.
    fn pages_of(batch: &Batch<'_>) -> Vec<u8> {
        let mut pages = Vec::new();
        for stretch in batch.stretches() {
            assert_eq!(stretch.first, batch.first + pages.len() as u64);
            match stretch.kind {
                PageKind::Zero => pages.extend((0..stretch.pages).map(|_| 0)),
                PageKind::Image => pages.extend((0..stretch.pages).map(|_| 1)),
                PageKind::Given => {
                    let given = stretch.given.chunks_exact(PAGE_BYTES);
                    assert_eq!(given.len() as u64, stretch.pages);
                    pages.extend(given.map(|page| page[0]));
                }
            }
        }
        assert_eq!(pages.len() as u64, batch.pages());
        pages
    }

    #[test]
    fn a_part_is_exactly_these_bytes() {
        let mut writer = PartWriter::new();
        append(&mut writer, 0x0102, &[0, 9, 1, 1, 8]);
        append(&mut writer, 100, &[1, 1]);
        append(&mut writer, 7, &[0]);
        let given = |code: u8| [code; PAGE_BYTES];
        let first = b"\x03\0\0\0\x05\0\0\0\x02\x01\0\0\0\0\0\0\x00\x02\x01\x01\x02";
        let second = b"\x03\0\0\0\x01\0\0\0\x07\0\0\0\0\0\0\0\x00";
        let expected = [&first[..], &given(9), &given(8), &second[..]].concat();
        assert!(writer.part() == expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut writer = PartWriter::new();
        let mut dice = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let mut written = Vec::new();
            while written.is_empty() || dice.u8(..5) > 0 {
                let count = dice.usize(1..=MAX_PAGES).min(writer.fits());
                let pages: Vec<u8> = (0..count).map(|_| dice.u8(..4)).collect();
                let first = dice.u64(..1 << 20);
                append(&mut writer, first, &pages);
                if pages.iter().any(|page| *page != 1) {
                    written.push((first, pages));
                }
            }
            let mut part = writer.part();
            assert!(part.len() <= MAX_PART_BYTES);
            for (first, pages) in written {
                let batch = Batch::take(&mut part).unwrap();
                assert_eq!((batch.memory, batch.first), (3, first));
                assert_eq!(pages_of(&batch), pages);
            }
            assert!(part.is_empty());
            writer.clear();
        }
    }

    #[test]
    fn a_part_holds_as_many_pages_as_it_says_however_they_lie() {
        let mut writer = PartWriter::new();
        for page in 0..MAX_PAGES as u64 {
            assert!(writer.fits() > 0);
            append(&mut writer, 2 * page, &[9]);
        }
        assert_eq!(writer.fits(), 0);
        assert_eq!(writer.part().len(), MAX_PART_BYTES);
        assert!(writer.pages(1).is_empty());
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let mut writer = PartWriter::new();
        append(&mut writer, 7, &[0, 9]);
        let part = writer.part();
        let with = |at: usize, value: u8| {
            let mut bytes = part.to_vec();
            bytes[at] = value;
            bytes
        };
        assert!(Batch::take(&mut &*part).is_ok());
        for end in 0..part.len() {
            assert!(Batch::take(&mut &part[..end]).is_err());
        }
        for wrong in [
            with(4, 0),
            with(4, 65),
            with(7, 1),
            with(15, 1),
            with(16, 3),
            with(16, 2),
        ] {
            assert!(Batch::take(&mut &*wrong).is_err());
        }
    }
}
