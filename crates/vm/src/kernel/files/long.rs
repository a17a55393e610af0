//! The host calls over the file tree that may take long, and therefore may freeze on the way:
//! listing a directory, and taking room for a file. Issued again, each does all of its work anew.

use super::super::Kernel;
use super::super::abi::{Call, DIRENT_BYTES, Errno, PIECE_BYTES, rights};
use super::super::guest::{Guest, Record};
use super::super::store::Store;
use super::super::waiting::{Blocking, Step, Wait};
use super::MAX_FILE_BYTES;

/// Entries that are listed in one turn: some tenths of a millisecond.
const ENTRIES_AT_ONCE: usize = 1000;
/// Cookies: where a listing begins, and what follows the two entries that every directory begins
/// with.
const COOKIE_START: u64 = 0;
const COOKIE_AFTER_SELF: u64 = 1;
const COOKIE_AFTER_PARENT: u64 = 2;
/// What is added to an entry's serial number to make the cookie that follows it.
const COOKIE_FIRST: u64 = 3;

/// `fd_readdir`: lists a directory from a cookie on, from its newest entry to its oldest. So an
/// entry that stays is listed exactly once, whatever comes and goes between two calls, and what
/// comes is not listed: a program that makes an entry for each that it finds comes to an end.
pub(in super::super) struct ReadDirectory {
    pub descriptor: u32,
    pub buffer: u32,
    pub length: u32,
    pub out: u32,
    /// Where the next turn goes on.
    pub cookie: u64,
    /// Bytes of the buffer that are filled.
    pub used: usize,
}

/// Appends an entry to `target`, of which `used` bytes are filled. One that does not fit is cut: a
/// full buffer tells the guest that there is more. Gives whether it is full.
fn append(
    target: &mut [u8],
    used: &mut usize,
    (cookie, inode, filetype, name): (u64, u64, u8, &[u8]),
) -> bool {
    let header = Record::<DIRENT_BYTES>::new()
        .put(0, &cookie.to_le_bytes())
        .put(8, &inode.to_le_bytes())
        .put(16, &(name.len() as u32).to_le_bytes())
        .put(20, &[filetype]);
    for part in [&header.0[..], name] {
        let rest = target.get_mut(*used..).unwrap_or_default();
        let count = part.len().min(rest.len());
        rest[..count].copy_from_slice(&part[..count]);
        *used += count;
    }
    *used == target.len()
}

impl ReadDirectory {
    /// Lists some entries; whether the listing has come to its end, or that of the buffer.
    fn some(&mut self, kernel: &Kernel, guest: &mut Guest<'_>, directory: u64) -> Call<bool> {
        let target = guest.bytes_mut(self.buffer, self.length)?;
        let tree = &kernel.tree;
        let start = self.cookie;
        let mut add = |cookie: u64, inode: u64, name: &[u8]| {
            self.cookie = cookie;
            let entry = (cookie, inode, tree.filetype(inode), name);
            append(target, &mut self.used, entry)
        };
        if start == COOKIE_START && add(COOKIE_AFTER_SELF, directory, b".") {
            return Ok(true);
        }
        let parent = tree.parent(directory)?;
        if start <= COOKIE_AFTER_SELF && add(COOKIE_AFTER_PARENT, parent, b"..") {
            return Ok(true);
        }
        let before = start.checked_sub(COOKIE_FIRST);
        let mut entries = tree.list(directory, before)?;
        for (serial, name, inode) in entries.by_ref().take(ENTRIES_AT_ONCE) {
            if add(serial + COOKIE_FIRST, inode, name) {
                return Ok(true);
            }
        }
        Ok(entries.next().is_none())
    }

    /// The same for a directory of a volume, in the order of its file system.
    fn some_of_volume(
        &mut self,
        kernel: &Kernel,
        guest: &mut Guest<'_>,
        descriptor: u32,
    ) -> Call<bool> {
        let target = guest.bytes_mut(self.buffer, self.length)?;
        kernel.volumes.list(descriptor, self.cookie, |entry| {
            self.cookie = entry.cookie;
            let entry = (entry.cookie, entry.inode, entry.filetype, entry.name);
            append(target, &mut self.used, entry)
        })
    }
}

impl Blocking for ReadDirectory {
    fn attempt(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Call<Step> {
        guest.range(self.out, 4)?;
        let directory = kernel.directory(self.descriptor, rights::FD_READDIR)?;
        let done = self.length == 0
            || match directory {
                Store::Tree(inode) => self.some(kernel, guest, inode)?,
                Store::Volume(descriptor) => self.some_of_volume(kernel, guest, descriptor)?,
            };
        if !done {
            return Ok(Step::Block(Wait::TURN));
        }
        guest.write_u32(self.out, self.used as u32)?;
        kernel.note_read(directory);
        Ok(Step::Done)
    }
}

/// `fd_allocate`.
pub(in super::super) struct Allocate {
    pub descriptor: u32,
    pub offset: u64,
    pub length: u64,
    /// The file's size before, and bytes that there is room for, once it has begun.
    pub begun: Option<(u64, u64)>,
}

impl Blocking for Allocate {
    fn attempt(&mut self, kernel: &mut Kernel, _: &mut Guest<'_>) -> Call<Step> {
        let needed = rights::FD_WRITE | rights::FD_ALLOCATE;
        let (store, _) = kernel.file(self.descriptor, needed)?;
        if self.length == 0 {
            return Err(Errno::INVAL);
        }
        let end = self.offset.checked_add(self.length).ok_or(Errno::FBIG)?;
        if let Store::Tree(inode) = store {
            kernel.tree.may_store(inode, &(self.offset..end))?;
        } else if end > MAX_FILE_BYTES {
            return Err(Errno::FBIG);
        }
        let (size, done) = match self.begun {
            Some(begun) => begun,
            None => (kernel.size_of(store)?, 0),
        };
        let start = self.offset + done;
        let piece = (end - start).min(PIECE_BYTES as u64);
        let range = start..start + piece;
        match store {
            Store::Tree(inode) => {
                if let Err(error) = kernel.tree.store(inode, range) {
                    kernel.tree.resize(inode, size)?;
                    return Err(error);
                }
            }
            Store::Volume(descriptor) => kernel.store_on_volume(descriptor, size, range)?,
        }
        if start + piece < end {
            self.begun = Some((size, done + piece));
            return Ok(Step::Block(Wait::TURN));
        }
        kernel.note_written(store);
        Ok(Step::Done)
    }
}
