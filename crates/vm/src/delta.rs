//! A memory as what differs from its image, byte by byte: for processes that are put away for long.
//!
//! ```text
//! number of runs | (pages * 4 + kind)*                   the page map; kind: 0 zero, 1 image, 2 given
//! of each given page: length | (skip, count, bytes)*     skip: equal bytes before
//!                     0 | 4096 bytes                     where that is shorter
//! ```
//! Numbers take seven bits to a byte, the lowest first. Programs change a few words in most pages
//! that they write at all, so this takes a tenth of the pages, and less. It is never written down: a
//! snapshot tells whole pages.

use wire::snapshot::{Memory, PAGE_BYTES, PageKind, PageMap};

/// What a span costs beside its bytes, mostly: two that are no further apart become one.
const SPAN_BYTES: usize = 2;
const WORD: usize = 8;

static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    wasm_pages: u64,
    bytes: Box<[u8]>,
}

/// The given pages of a memory, by their number.
fn given_pages(map: &PageMap) -> impl Iterator<Item = usize> + '_ {
    let mut at = 0;
    map.runs.iter().flat_map(move |run| {
        let pages = at..at + run.pages as usize;
        at = pages.end;
        pages.filter(move |_| run.kind == PageKind::Given)
    })
}

fn page_of(image: &[u8], index: usize) -> &[u8] {
    let start = index * PAGE_BYTES;
    image.get(start..start + PAGE_BYTES).unwrap_or(&ZEROS)
}

impl Delta {
    /// What `memory` is beside the content that `image` begins with; that may be shorter, and is
    /// zero behind.
    pub(crate) fn of(memory: Memory, image: &[u8]) -> Delta {
        let Memory {
            wasm_pages,
            map,
            given,
        } = memory;
        let mut bytes = Vec::new();
        push_map(&map, &mut bytes);
        for (index, page) in given_pages(&map).zip(given.chunks_exact(PAGE_BYTES)) {
            push_page(page, page_of(image, index), &mut bytes);
        }
        Delta {
            wasm_pages,
            bytes: bytes.into(),
        }
    }

    /// The memory again, given the same image.
    pub(crate) fn memory(&self, image: &[u8]) -> Memory {
        let mut packed = &*self.bytes;
        let map = take_map(&mut packed);
        let mut given = Vec::with_capacity(given_bytes(&map) as usize);
        for index in given_pages(&map) {
            given.extend_from_slice(page_of(image, index));
            let start = given.len() - PAGE_BYTES;
            apply_page(&mut packed, &mut given[start..]);
        }
        Memory {
            wasm_pages: self.wasm_pages,
            map,
            given,
        }
    }

    /// Bytes of the memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.wasm_pages * crate::machine::WASM_PAGE_BYTES
    }

    /// Bytes of the pages that it gives.
    pub(crate) fn given_bytes(&self) -> u64 {
        given_bytes(&take_map(&mut &*self.bytes))
    }
}

fn given_bytes(map: &PageMap) -> u64 {
    map.count(PageKind::Given) as u64 * PAGE_BYTES as u64
}

fn push(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number off the front.
fn take(packed: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let Some((byte, rest)) = packed.split_first() else {
            break;
        };
        *packed = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// Takes so many bytes off the front.
fn take_bytes<'a>(packed: &mut &'a [u8], count: u64) -> &'a [u8] {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let (bytes, rest) = packed.split_at(count.min(packed.len()));
    *packed = rest;
    bytes
}

fn push_map(map: &PageMap, bytes: &mut Vec<u8>) {
    push(map.runs.len() as u64, bytes);
    for run in &map.runs {
        let kind = match run.kind {
            PageKind::Zero => 0,
            PageKind::Image => 1,
            PageKind::Given => 2,
        };
        push(run.pages * 4 + kind, bytes);
    }
}

fn take_map(packed: &mut &[u8]) -> PageMap {
    let mut map = PageMap::default();
    for _ in 0..take(packed) {
        let run = take(packed);
        let kind = match run % 4 {
            0 => PageKind::Zero,
            1 => PageKind::Image,
            _ => PageKind::Given,
        };
        map.push_run(kind, run / 4);
    }
    map
}

/// The spans in which a page differs, near ones as one.
fn spans(page: &[u8], from: &[u8]) -> Vec<(usize, usize)> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    let words = page.chunks_exact(WORD).zip(from.chunks_exact(WORD));
    for (number, (new, old)) in words.enumerate() {
        if new == old {
            continue;
        }
        let bytes = new.iter().zip(old).enumerate();
        for (index, _) in bytes.filter(|(_, (new, old))| new != old) {
            let at = number * WORD + index;
            match spans.last_mut() {
                Some((_, end)) if at - *end <= SPAN_BYTES => *end = at + 1,
                _ => spans.push((at, at + 1)),
            }
        }
    }
    spans
}

fn push_page(page: &[u8], from: &[u8], bytes: &mut Vec<u8>) {
    let mut packed = Vec::new();
    let mut at = 0;
    for (start, end) in spans(page, from) {
        push((start - at) as u64, &mut packed);
        push((end - start) as u64, &mut packed);
        packed.extend_from_slice(&page[start..end]);
        at = end;
    }
    if packed.is_empty() || packed.len() >= PAGE_BYTES {
        push(0, bytes);
        bytes.extend_from_slice(page);
    } else {
        push(packed.len() as u64, bytes);
        bytes.extend_from_slice(&packed);
    }
}

/// Makes of a page of the image the page that comes next.
fn apply_page(packed: &mut &[u8], page: &mut [u8]) {
    let length = take(packed);
    if length == 0 {
        page.copy_from_slice(take_bytes(packed, page.len() as u64));
        return;
    }
    let mut spans = take_bytes(packed, length);
    let mut at = 0;
    while !spans.is_empty() {
        let start = at + take(&mut spans) as usize;
        let count = take(&mut spans);
        let bytes = take_bytes(&mut spans, count);
        at = start + bytes.len();
        page[start..at].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    const UNIT: usize = 65536;

    #[test]
    fn every_memory_comes_back_as_it_was() {
        let seed = std::env::var("LIMOSA_SEED").map_or(1, |seed| seed.parse().unwrap());
        println!("seed {seed}");
        let mut rng = Rng::with_seed(seed);
        for round in 0..200 {
            let mut image = vec![0; rng.usize(..3) * UNIT];
            for _ in 0..rng.usize(..20) * image.len().min(1) {
                let at = rng.usize(..image.len());
                image[at] = rng.u8(..);
            }
            let mut bytes = image.clone();
            bytes.resize(image.len() + rng.usize(..3) * UNIT, 0);
            for _ in 0..rng.usize(..8) * bytes.len().min(1) {
                let at = rng.usize(..bytes.len());
                match rng.u8(..3) {
                    // Single bytes, near and far; a stretch; whole pages.
                    0 => {
                        for step in 0..rng.usize(..40) {
                            let at = (at + step * rng.usize(1..30)) % bytes.len();
                            bytes[at] = rng.u8(..);
                        }
                    }
                    1 => {
                        let end = (at + rng.usize(..3000)).min(bytes.len());
                        rng.fill(&mut bytes[at..end]);
                    }
                    _ => {
                        let start = at - at % PAGE_BYTES;
                        rng.fill(&mut bytes[start..start + PAGE_BYTES]);
                    }
                }
            }
            let memory = Memory::from_bytes(&bytes, &image);
            let delta = Delta::of(memory.clone(), &image);
            assert_eq!(delta.memory(&image), memory, "round {round}");
            let pages = delta.given_bytes() as usize / PAGE_BYTES;
            assert!(delta.bytes.len() <= delta.given_bytes() as usize + 4 * pages + 100);
            assert_eq!(delta.memory_bytes(), bytes.len() as u64);
        }
    }

    #[test]
    fn a_changed_word_takes_a_few_bytes() {
        let image = vec![1; UNIT];
        let mut bytes = image.clone();
        bytes[5000..5004].fill(2);
        bytes[5006] = 3;
        let delta = Delta::of(Memory::from_bytes(&bytes, &image), &image);
        // Three runs; the length; one span of seven bytes, of which two are as they were.
        assert_eq!(delta.bytes.len(), 4 + 1 + 3 + 7);
    }
}
