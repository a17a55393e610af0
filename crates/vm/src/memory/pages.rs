//! The initial pages of one memory of an image, in a sealed file in memory, so that every process
//! of the image maps the same ones until it writes them.

use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// Initial contents are mapped in units that are a multiple of every page size in use.
const UNIT: usize = 65536;

/// The initial contents of one memory. What lies beyond them is zero.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    file: Option<File>,
    bytes: Vec<u8>,
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
        Ok(Pages {
            file: Some(file),
            bytes,
        })
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
