//! Files on volumes: what a process has open outside its own tree.
//!
//! - [`beneath`]: paths, resolved by the system and confined by it;
//! - [`calls`]: the host calls over them.
//!
//! A descriptor of a volume is state like any other: the volume's number, the path from its root,
//! a position. Beside it, and not written down, an open file of this machine is kept. When the
//! process is thawed elsewhere, the file is opened again by its path, as it was when the process
//! was frozen, whatever it was called when it was opened.

pub(super) mod beneath;
mod calls;

pub(super) use calls::timestamps;

use super::KernelError;
use super::abi::{Call, Errno, filetype, rights};
use crate::volumes::Volume;
use beneath::errno;
use rustix::fs::{FileType, OFlags, RawDir, SeekFrom, Stat, Timestamps};
use rustix::io::{IoSlice, ReadWriteFlags, retry_on_intr};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use wire::snapshot::{Descriptor, Target};

/// The number of the volume that an open file or directory is on, if it is on one.
pub(super) fn volume_of(target: &Target) -> Option<u16> {
    match target {
        Target::VolumeFile { volume, .. } | Target::VolumeDirectory { volume, .. } => Some(*volume),
        _ => None,
    }
}

/// Bytes of entries that the system gives at once.
const LISTING_BYTES: usize = 1 << 14;

/// The volumes of a process, and the files and directories that it has open on them.
#[derive(Clone)]
pub(crate) struct Volumes {
    granted: Arc<[Volume]>,
    /// By descriptor. Shared with a copy that is kept while the process has no kernel.
    open: BTreeMap<u32, Arc<OwnedFd>>,
}

/// An entry of a directory.
pub(super) struct Listed<'a> {
    /// Where the listing goes on behind it.
    pub cookie: u64,
    pub inode: u64,
    pub filetype: u8,
    pub name: &'a [u8],
}

/// What WASI calls a type of file.
fn filetype_of(kind: FileType) -> u8 {
    match kind {
        FileType::RegularFile => filetype::REGULAR_FILE,
        FileType::Directory => filetype::DIRECTORY,
        FileType::Symlink => filetype::SYMBOLIC_LINK,
        FileType::CharacterDevice => filetype::CHARACTER_DEVICE,
        FileType::BlockDevice => filetype::BLOCK_DEVICE,
        FileType::Socket => filetype::SOCKET_STREAM,
        _ => filetype::UNKNOWN,
    }
}

/// The type of a file, of what the system tells of it.
pub(super) fn kind(stat: &Stat) -> u8 {
    filetype_of(FileType::from_raw_mode(stat.st_mode))
}

/// How a file is opened to be used with these rights.
pub(super) fn access(rights_base: u64) -> OFlags {
    // Whatever else changes a file needs the right to write it, too.
    match rights_base & (rights::FD_READ | rights::FD_WRITE) {
        rights::FD_WRITE => OFlags::WRONLY,
        both if both & rights::FD_WRITE != 0 => OFlags::RDWR,
        _ => OFlags::RDONLY,
    }
}

impl Volumes {
    /// Opens again what the process had open.
    pub(super) fn new(
        granted: Arc<[Volume]>,
        descriptors: &BTreeMap<u32, Descriptor>,
    ) -> Result<Volumes, KernelError> {
        let mut volumes = Volumes {
            granted,
            open: BTreeMap::new(),
        };
        for (&number, state) in descriptors {
            let (volume, path, flags) = match &state.target {
                Target::VolumeFile { volume, path, .. } => {
                    (*volume, path, access(state.rights_base) | OFlags::NOFOLLOW)
                }
                Target::VolumeDirectory { volume, path, .. } => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                    (*volume, path, flags)
                }
                _ => continue,
            };
            let expected = match state.target {
                Target::VolumeFile { .. } => filetype::REGULAR_FILE,
                _ => filetype::DIRECTORY,
            };
            let opened = volumes.open_again(volume, path, flags, expected);
            let file = opened.map_err(|reason| KernelError::Volume {
                descriptor: number,
                what: volumes.name(volume, path),
                reason,
            })?;
            volumes.insert(number, file);
        }
        Ok(volumes)
    }

    fn open_again(
        &self,
        volume: u16,
        path: &[u8],
        flags: OFlags,
        expected: u8,
    ) -> Result<OwnedFd, &'static str> {
        let root = self.root(volume).map_err(|_| "there is no such volume")?;
        let file = beneath::open(root, path, flags).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => "it is not there",
            Errno::ACCES | Errno::PERM | Errno::ROFS => "it is not permitted",
            Errno::LOOP => "there is a link in its place",
            Errno::MFILE | Errno::NFILE => "too many files are open",
            _ => "the system refuses",
        })?;
        match rustix::fs::fstat(&file) {
            Ok(stat) if kind(&stat) == expected => Ok(file),
            _ => Err("something else is there"),
        }
    }

    fn name(&self, volume: u16, path: &[u8]) -> String {
        let path = String::from_utf8_lossy(path);
        match self.granted.get(usize::from(volume)) {
            Some(volume) => format!("`{path}` on the volume {}", volume.description),
            None => format!("`{path}` on volume {volume}"),
        }
    }

    fn root(&self, volume: u16) -> Call<BorrowedFd<'_>> {
        let volume = self.granted.get(usize::from(volume));
        volume.map(Volume::root).ok_or(Errno::BADF)
    }

    /// An open file or directory.
    pub(super) fn file(&self, descriptor: u32) -> Call<BorrowedFd<'_>> {
        let file = self.open.get(&descriptor);
        file.map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    pub(super) fn insert(&mut self, descriptor: u32, file: OwnedFd) {
        self.open.insert(descriptor, Arc::new(file));
    }

    pub(super) fn close(&mut self, descriptor: u32) {
        self.open.remove(&descriptor);
    }

    /// What was open as `from` is open as `to`, in place of what was.
    pub(super) fn renumber(&mut self, from: u32, to: u32) {
        self.close(to);
        if let Some(file) = self.open.remove(&from) {
            self.open.insert(to, file);
        }
    }

    /// The descriptors as they are written down: with the paths that files have now. Fails, with what
    /// it is, if a file that is open has no path on its volume any more.
    pub(crate) fn save(
        &self,
        descriptors: &BTreeMap<u32, Descriptor>,
    ) -> Result<BTreeMap<u32, Descriptor>, String> {
        let mut saved = descriptors.clone();
        for (number, state) in &mut saved {
            let (volume, path) = match &mut state.target {
                Target::VolumeFile { volume, path, .. }
                | Target::VolumeDirectory { volume, path, .. } => (*volume, path),
                _ => continue,
            };
            let now = self.root(volume).ok().zip(self.file(*number).ok());
            let now = now.and_then(|(root, file)| beneath::path_of(root, file));
            *path = now.ok_or_else(|| self.name(volume, path))?;
        }
        Ok(saved)
    }

    pub(super) fn stat(&self, descriptor: u32) -> Call<Stat> {
        rustix::fs::fstat(self.file(descriptor)?).map_err(errno)
    }

    pub(super) fn size(&self, descriptor: u32) -> Call<u64> {
        Ok(u64::try_from(self.stat(descriptor)?.st_size).unwrap_or(0))
    }

    pub(super) fn read(&self, descriptor: u32, position: u64, buffer: &mut [u8]) -> Call<usize> {
        let file = self.file(descriptor)?;
        retry_on_intr(|| rustix::io::pread(file, &mut *buffer, position)).map_err(errno)
    }

    pub(super) fn write(&self, descriptor: u32, position: u64, bytes: &[u8]) -> Call<usize> {
        let file = self.file(descriptor)?;
        retry_on_intr(|| rustix::io::pwrite(file, bytes, position)).map_err(errno)
    }

    /// Writes behind all that is there, whoever else does; gives also where what was written ends.
    pub(super) fn append(&self, descriptor: u32, bytes: &[u8]) -> Call<(usize, u64)> {
        // At the file's own position, which nothing else uses, and which tells the end.
        const OWN_POSITION: u64 = u64::MAX;
        let file = self.file(descriptor)?;
        let slices = [IoSlice::new(bytes)];
        let written = retry_on_intr(|| {
            rustix::io::pwritev2(file, &slices, OWN_POSITION, ReadWriteFlags::APPEND)
        });
        let written = written.map_err(errno)?;
        Ok((written, rustix::fs::tell(file).map_err(errno)?))
    }

    /// Waits until the disk has what was written; with `whole` also what is told of the file. Does
    /// nothing for what is on no volume.
    pub(super) fn sync(&self, descriptor: u32, whole: bool) -> Call {
        let Some(file) = self.open.get(&descriptor) else {
            return Ok(());
        };
        let synced = match whole {
            true => rustix::fs::fsync(file),
            false => rustix::fs::fdatasync(file),
        };
        synced.map_err(errno)
    }

    pub(super) fn set_times(&self, descriptor: u32, times: &Timestamps) -> Call {
        rustix::fs::futimens(self.file(descriptor)?, times).map_err(errno)
    }

    pub(super) fn resize(&self, descriptor: u32, size: u64) -> Call {
        rustix::fs::ftruncate(self.file(descriptor)?, size).map_err(errno)
    }

    /// Lists from a cookie on, as many entries as the system gives at once, until `add` says that
    /// there is no room for more. Whether the listing has come to its end, or that of the room.
    ///
    /// Cookies are the file system's own. As on any system, one that was given before a move is
    /// good behind it where the file system is the same.
    pub(super) fn list(
        &self,
        descriptor: u32,
        cookie: u64,
        mut add: impl FnMut(Listed<'_>) -> bool,
    ) -> Call<bool> {
        let directory = self.file(descriptor)?;
        if cookie > i64::MAX.cast_unsigned() {
            return Err(Errno::INVAL);
        }
        rustix::fs::seek(directory, SeekFrom::Start(cookie)).map_err(errno)?;
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        let mut any = false;
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(errno)?;
            any = true;
            let full = add(Listed {
                cookie: entry.next_entry_cookie(),
                inode: entry.ino(),
                filetype: filetype_of(entry.file_type()),
                name: entry.file_name().to_bytes(),
            });
            if full {
                return Ok(true);
            }
            if entries.is_buffer_empty() {
                return Ok(false);
            }
        }
        Ok(!any)
    }
}
