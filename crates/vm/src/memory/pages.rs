//! The initial pages of one memory of an image, in a sealed file in memory, so that every process
//! of the image maps the same ones until it writes them.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::Advice;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use wire::snapshot::{Memory, PAGE_BYTES, PageKind};

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

/// The initial contents of one memory. What lies beyond them is zero.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    file: Option<File>,
    bytes: Vec<u8>,
    /// Of each page, whether it is not all zeros.
    filled: Vec<bool>,
}

impl Pages {
    /// Takes the initial contents of a memory; trailing zeros are dropped.
    pub(crate) fn new(bytes: &[u8]) -> io::Result<Pages> {
        let end = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let mut bytes = bytes[..end].to_vec();
        bytes.resize(end.next_multiple_of(UNIT), 0);
        if bytes.is_empty() {
            return Ok(Pages::default());
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create("limosa-image", flags)?);
        file.write_all(&bytes)?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        let pages = bytes.chunks(PAGE_BYTES);
        let filled = pages.map(|page| page.iter().any(|byte| *byte != 0));
        Ok(Pages {
            file: Some(file),
            filled: filled.collect(),
            bytes,
        })
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
                    let filled = self.filled.iter().skip(first);
                    for (page, filled) in part.chunks_exact_mut(PAGE_BYTES).zip(filled) {
                        if *filled {
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

    /// The contents, up to where only zeros follow.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn mapped_bytes(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_s_memory_comes_back_whatever_its_pages_are() {
        let mut dice = fastrand::Rng::with_seed(3);
        for _ in 0..50 {
            let mut random = |length: usize| {
                let page = |dice: &mut fastrand::Rng| [dice.u8(..3); PAGE_BYTES];
                let pages = (0..length).map(|_| page(&mut dice));
                pages.collect::<Vec<_>>().concat()
            };
            let image = random(16);
            let pages = Pages::new(&image).unwrap();
            let bytes = random(64);
            let state = Memory::from_bytes(&bytes, pages.bytes());
            let mut target = pages.bytes().to_vec();
            target.resize(bytes.len(), 0);
            pages.apply(&state, &mut target);
            assert!(target == bytes);
        }
    }
}
