//! The page map: where the bytes of each page of a linear memory come from.

use serde::{Deserialize, Serialize};

/// Bytes of a page in the page map, on every machine.
pub const PAGE_BYTES: usize = 4096;

/// Where a page comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageKind {
    /// All zeros.
    Zero,
    /// Equal to the same page of the image (the artefact's initial memory).
    Image,
    /// The next page among the given ones.
    Given,
}

impl PageKind {
    /// What page `index` of a memory is, against the image's initial content, which may be
    /// shorter: what it lacks is zero.
    pub fn of(page: &[u8], image: &[u8], index: usize) -> PageKind {
        let start = index * PAGE_BYTES;
        let of_image = image.get(start..start + PAGE_BYTES).unwrap_or(&ZERO);
        if page == of_image {
            match of_image == ZERO {
                true => PageKind::Zero,
                false => PageKind::Image,
            }
        } else if page == ZERO {
            PageKind::Zero
        } else {
            PageKind::Given
        }
    }
}

/// Pages of one kind in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where they come from.
    pub kind: PageKind,
    /// How many.
    pub pages: u64,
}

/// Runs in address order, of maximal length, that cover the memory exactly.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PageMap {
    /// The runs.
    pub runs: Vec<Run>,
}

/// A linear memory.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Memory {
    /// Its size in WebAssembly pages of 64 KiB.
    pub wasm_pages: u64,
    /// Where its bytes come from.
    pub map: PageMap,
    /// The given pages, concatenated.
    pub given: Vec<u8>,
}

/// A page map that does not fit its memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageMapError {
    /// The runs do not cover the memory exactly.
    #[error("the page map covers {covered} bytes of a memory of {memory}")]
    Coverage {
        /// Bytes covered.
        covered: u128,
        /// Bytes of the memory.
        memory: u128,
    },
    /// The given pages are not as many as the map says.
    #[error("the page map names {named} given bytes but {given} are there")]
    Given {
        /// Bytes named by the map.
        named: u128,
        /// Bytes there.
        given: u128,
    },
}

impl PageMap {
    /// Appends a page, merging it with the last run where it can.
    pub fn push(&mut self, kind: PageKind) {
        self.push_run(kind, 1);
    }

    /// Appends pages of one kind, merging them with the last run where it can.
    pub fn push_run(&mut self, kind: PageKind, pages: u64) {
        match self.runs.last_mut() {
            _ if pages == 0 => {}
            Some(run) if run.kind == kind => run.pages += pages,
            _ => self.runs.push(Run { kind, pages }),
        }
    }

    /// The number of pages of `kind`.
    pub fn count(&self, kind: PageKind) -> u128 {
        let of_kind = self.runs.iter().filter(|run| run.kind == kind);
        of_kind.map(|run| u128::from(run.pages)).sum()
    }
}

/// A page of nothing. Comparing with it is many times as fast as looking at each byte.
const ZERO: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

impl Memory {
    /// Classifies the pages of `bytes` (a whole memory) against the image's initial content, which
    /// may be shorter: what it lacks is zero.
    pub fn from_bytes(bytes: &[u8], image: &[u8]) -> Memory {
        let mut map = PageMap::default();
        for (index, page) in bytes.chunks_exact(PAGE_BYTES).enumerate() {
            map.push(PageKind::of(page, image, index));
        }
        Memory::with_map(bytes, map)
    }

    /// A memory of this size that is as in the image. In the snapshot that ends a move it is as its
    /// pages have landed, of which those that did not come are as in the image.
    pub fn of_image(wasm_pages: u64) -> Memory {
        let mut map = PageMap::default();
        map.push_run(PageKind::Image, wasm_pages * (65536 / PAGE_BYTES) as u64);
        Memory {
            wasm_pages,
            map,
            given: Vec::new(),
        }
    }

    /// Whether nothing but its size is told.
    pub fn is_of_image(&self) -> bool {
        let kinds = self.map.runs.iter().map(|run| run.kind);
        kinds.eq(std::iter::repeat_n(PageKind::Image, self.map.runs.len()))
    }

    /// The memory `bytes` with a page map that covers it; the given pages are copied.
    pub fn with_map(bytes: &[u8], map: PageMap) -> Memory {
        let mut memory = Memory {
            wasm_pages: (bytes.len() / 65536) as u64,
            map,
            given: Vec::new(),
        };
        // Copied at the end, into room of the right size: growing would copy everything again.
        let given = memory.map.count(PageKind::Given) as usize;
        memory.given.reserve_exact(given * PAGE_BYTES);
        let mut at = 0;
        for run in &memory.map.runs {
            let end = at + run.pages as usize * PAGE_BYTES;
            if run.kind == PageKind::Given {
                memory.given.extend_from_slice(&bytes[at..end]);
            }
            at = end;
        }
        memory
    }

    /// Checks that the map covers the memory and names as many given pages as there are.
    pub fn check(&self) -> Result<(), PageMapError> {
        let page = PAGE_BYTES as u128;
        let covered: u128 = self.map.runs.iter().map(|run| u128::from(run.pages)).sum();
        let memory = u128::from(self.wasm_pages) * 65536;
        if covered * page != memory {
            return Err(PageMapError::Coverage {
                covered: covered * page,
                memory,
            });
        }
        let named = self.map.count(PageKind::Given) * page;
        let given = self.given.len() as u128;
        if named != given {
            return Err(PageMapError::Given { named, given });
        }
        Ok(())
    }
}
