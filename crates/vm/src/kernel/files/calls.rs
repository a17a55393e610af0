//! The host calls over the file tree: `path_*`, and those of `fd_*` that only files have.
//!
//! Access times change only when a program sets them, as on a file system mounted `noatime`.

use super::super::Kernel;
use super::super::abi::{
    Call, DIRENT_BYTES, Errno, LOOKUP_SYMLINK_FOLLOW, fdflags, fstflags, oflags, rights,
};
use super::super::guest::{Guest, Record};
use super::tree::cookie_of;
use wire::snapshot::{Descriptor, InodeKind, Target};

/// Opening a file for writing is told by any of these rights.
const WRITING: u64 = rights::FD_WRITE;
/// Cookies of the two entries that every directory begins with.
const COOKIE_SELF: u64 = 1;
const COOKIE_PARENT: u64 = 2;

/// Arguments of `path_open`, in the standard's order.
pub(in super::super) struct Open {
    pub directory: u32,
    pub lookup: u32,
    pub path: u32,
    pub path_length: u32,
    pub flags: u32,
    pub rights_base: u64,
    pub rights_inheriting: u64,
    pub fdflags: u32,
    pub out: u32,
}

fn follows(lookup: u32) -> Call<bool> {
    if lookup & !LOOKUP_SYMLINK_FOLLOW != 0 {
        return Err(Errno::INVAL);
    }
    Ok(lookup & LOOKUP_SYMLINK_FOLLOW != 0)
}

impl Kernel {
    pub(in super::super) fn path_open(&mut self, guest: &mut Guest<'_>, open: Open) -> Call {
        let follow = follows(open.lookup)?;
        let flag = |flag| open.flags & flag != 0;
        let (create, exclusive) = (flag(oflags::CREAT), flag(oflags::EXCL));
        let (only_directory, truncate) = (flag(oflags::DIRECTORY), flag(oflags::TRUNC));
        if open.flags & !oflags::ALL != 0 || (create && only_directory) {
            return Err(Errno::INVAL);
        }
        let flags = match u16::try_from(open.fdflags) {
            Ok(flags) if flags & !fdflags::ALL == 0 => flags,
            _ => return Err(Errno::INVAL),
        };
        guest.range(open.out, 4)?;
        let holder = self.descriptor(open.directory)?;
        let rights_base = open.rights_base & holder.rights_inheriting;
        let rights_inheriting = open.rights_inheriting & holder.rights_inheriting;
        let writes = rights_base & WRITING != 0;
        if truncate && holder.rights_inheriting & WRITING == 0 {
            return Err(Errno::NOTCAPABLE);
        }
        let base = self.directory(open.directory)?;
        let number = self.free_descriptor()?;
        let now = self.now_ns();
        let path = guest.bytes(open.path, open.path_length)?;
        // As on Linux: whatever is there, it is not a file to be made.
        if create && path.ends_with(b"/") && !self.tree.lookup_new(base, path)?.name.is_empty() {
            return Err(Errno::ISDIR);
        }
        let place = self
            .tree
            .lookup(base, path, follow && !(create && exclusive))?;
        let inode = match place.inode {
            Some(_) if create && exclusive => return Err(Errno::EXIST),
            Some(inode) => {
                match &self.tree.inode(inode)?.node {
                    InodeKind::Directory { .. } if create || truncate => return Err(Errno::ISDIR),
                    InodeKind::Directory { .. } if writes && !only_directory => {
                        return Err(Errno::ISDIR);
                    }
                    InodeKind::Directory { .. } => {}
                    _ if only_directory => return Err(Errno::NOTDIR),
                    InodeKind::Link(_) => return Err(Errno::LOOP),
                    InodeKind::File(_) if truncate => {
                        self.tree.resize(inode, 0)?;
                        self.tree.touch_modified(inode, now);
                    }
                    InodeKind::File(_) => {}
                }
                inode
            }
            None if create => self.tree.make_file(place, now)?,
            None => return Err(Errno::NOENT),
        };
        let target = match self.tree.is_directory(inode) {
            true => Target::Directory {
                inode,
                preopen: None,
            },
            false => Target::File { inode, position: 0 },
        };
        let descriptor = Descriptor {
            target,
            flags,
            rights_base,
            rights_inheriting,
        };
        self.descriptors.insert(number, descriptor);
        guest.write_u32(open.out, number)
    }

    pub(in super::super) fn path_create_directory(
        &mut self,
        guest: &mut Guest<'_>,
        directory: u32,
        path: u32,
        length: u32,
    ) -> Call {
        let base = self.directory(directory)?;
        let now = self.now_ns();
        let path = guest.bytes(path, length)?;
        self.tree.make_directory(base, path, now)
    }

    pub(in super::super) fn path_remove_directory(
        &mut self,
        guest: &mut Guest<'_>,
        directory: u32,
        path: u32,
        length: u32,
    ) -> Call {
        let base = self.directory(directory)?;
        let now = self.now_ns();
        let path = guest.bytes(path, length)?;
        let removed = self.tree.remove_directory(base, path, now)?;
        self.release(removed);
        Ok(())
    }

    pub(in super::super) fn path_unlink_file(
        &mut self,
        guest: &mut Guest<'_>,
        directory: u32,
        path: u32,
        length: u32,
    ) -> Call {
        let base = self.directory(directory)?;
        let now = self.now_ns();
        let path = guest.bytes(path, length)?;
        let removed = self.tree.unlink(base, path, now)?;
        self.release(removed);
        Ok(())
    }

    pub(in super::super) fn path_rename(
        &mut self,
        guest: &mut Guest<'_>,
        (from_directory, from, from_length): (u32, u32, u32),
        (to_directory, to, to_length): (u32, u32, u32),
    ) -> Call {
        let from_base = self.directory(from_directory)?;
        let to_base = self.directory(to_directory)?;
        let now = self.now_ns();
        let from = guest.bytes(from, from_length)?;
        let to = guest.bytes(to, to_length)?;
        let replaced = self.tree.rename((from_base, from), (to_base, to), now)?;
        if let Some(replaced) = replaced {
            self.release(replaced);
        }
        Ok(())
    }

    pub(in super::super) fn path_link(
        &mut self,
        guest: &mut Guest<'_>,
        lookup: u32,
        (from_directory, from, from_length): (u32, u32, u32),
        (to_directory, to, to_length): (u32, u32, u32),
    ) -> Call {
        let follow = follows(lookup)?;
        let from_base = self.directory(from_directory)?;
        let to_base = self.directory(to_directory)?;
        let now = self.now_ns();
        let from = guest.bytes(from, from_length)?;
        let to = guest.bytes(to, to_length)?;
        let inode = self.tree.lookup(from_base, from, follow)?.existing()?;
        self.tree.link(inode, to_base, to, now)
    }

    pub(in super::super) fn path_symlink(
        &mut self,
        guest: &mut Guest<'_>,
        (target, target_length): (u32, u32),
        directory: u32,
        (path, length): (u32, u32),
    ) -> Call {
        let base = self.directory(directory)?;
        let now = self.now_ns();
        let target = guest.bytes(target, target_length)?;
        let path = guest.bytes(path, length)?;
        self.tree.make_link(target, base, path, now)
    }

    pub(in super::super) fn path_readlink(
        &mut self,
        guest: &mut Guest<'_>,
        directory: u32,
        (path, length): (u32, u32),
        (buffer, buffer_length): (u32, u32),
        out: u32,
    ) -> Call {
        guest.range(out, 4)?;
        let base = self.directory(directory)?;
        let path = guest.bytes(path, length)?;
        let inode = self.tree.lookup(base, path, false)?.existing()?;
        let InodeKind::Link(target) = &self.tree.inode(inode)?.node else {
            return Err(Errno::INVAL);
        };
        let count = target.len().min(buffer_length as usize);
        guest.write(buffer, &target[..count])?;
        guest.write_u32(out, count as u32)
    }

    pub(in super::super) fn path_filestat_get(
        &self,
        guest: &mut Guest<'_>,
        directory: u32,
        lookup: u32,
        (path, length): (u32, u32),
        out: u32,
    ) -> Call {
        let follow = follows(lookup)?;
        let base = self.directory(directory)?;
        let path = guest.bytes(path, length)?;
        let inode = self.tree.lookup(base, path, follow)?.existing()?;
        self.write_filestat(guest, inode, out)
    }

    pub(in super::super) fn path_filestat_set_times(
        &mut self,
        guest: &mut Guest<'_>,
        (directory, lookup): (u32, u32),
        (path, length): (u32, u32),
        times: (u64, u64, u32),
    ) -> Call {
        let follow = follows(lookup)?;
        let base = self.directory(directory)?;
        let path = guest.bytes(path, length)?;
        let inode = self.tree.lookup(base, path, follow)?.existing()?;
        self.set_times(inode, times)
    }

    pub(in super::super) fn fd_filestat_set_times(
        &mut self,
        _: &mut Guest<'_>,
        descriptor: u32,
        times: (u64, u64, u32),
    ) -> Call {
        match self.descriptor(descriptor)?.target {
            Target::File { inode, .. } | Target::Directory { inode, .. } => {
                self.set_times(inode, times)
            }
            _ => Err(Errno::INVAL),
        }
    }

    fn set_times(&mut self, inode: u64, (accessed, modified, flags): (u64, u64, u32)) -> Call {
        let now = self.now_ns();
        let time =
            |set: u32, set_now: u32, value: u64| match (flags & set != 0, flags & set_now != 0) {
                (true, true) => Err(Errno::INVAL),
                (true, false) => Ok(Some(value)),
                (false, true) => Ok(Some(now)),
                (false, false) => Ok(None),
            };
        if flags & !fstflags::ALL != 0 {
            return Err(Errno::INVAL);
        }
        let accessed = time(fstflags::ATIM, fstflags::ATIM_NOW, accessed)?;
        let modified = time(fstflags::MTIM, fstflags::MTIM_NOW, modified)?;
        self.tree.set_times(inode, accessed, modified, now)
    }

    pub(in super::super) fn fd_filestat_set_size(
        &mut self,
        _: &mut Guest<'_>,
        descriptor: u32,
        size: u64,
    ) -> Call {
        let inode = self.writable_file(descriptor)?;
        let now = self.now_ns();
        self.tree.resize(inode, size)?;
        self.tree.touch_modified(inode, now);
        Ok(())
    }

    pub(in super::super) fn fd_allocate(
        &mut self,
        _: &mut Guest<'_>,
        descriptor: u32,
        offset: u64,
        length: u64,
    ) -> Call {
        let inode = self.writable_file(descriptor)?;
        if length == 0 {
            return Err(Errno::INVAL);
        }
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        let now = self.now_ns();
        self.tree.reserve(inode, end)?;
        self.tree.touch_modified(inode, now);
        Ok(())
    }

    /// The inode of a regular file that is open for writing.
    fn writable_file(&self, descriptor: u32) -> Call<u64> {
        match self.file(descriptor, rights::FD_WRITE) {
            Ok((inode, _)) => Ok(inode),
            Err(Errno::SPIPE) => Err(Errno::INVAL),
            Err(error) => Err(error),
        }
    }

    pub(in super::super) fn fd_advise(
        &self,
        _: &mut Guest<'_>,
        descriptor: u32,
        _offset: u64,
        _length: u64,
        advice: u32,
    ) -> Call {
        match self.descriptor(descriptor)?.target {
            Target::File { .. } | Target::Directory { .. } if advice <= 5 => Ok(()),
            Target::File { .. } | Target::Directory { .. } => Err(Errno::INVAL),
            _ => Err(Errno::SPIPE),
        }
    }

    pub(in super::super) fn fd_seek(
        &mut self,
        guest: &mut Guest<'_>,
        descriptor: u32,
        offset: u64,
        whence: u32,
        out: u32,
    ) -> Call {
        guest.range(out, 8)?;
        let (inode, position) = self.seekable(descriptor)?;
        let from = match whence {
            0 => 0,
            1 => position,
            2 => self.tree.size(inode),
            _ => return Err(Errno::INVAL),
        };
        let to = i128::from(from) + i128::from(offset.cast_signed());
        let to = i64::try_from(to).map_err(|_| Errno::OVERFLOW)?;
        let to = u64::try_from(to).map_err(|_| Errno::INVAL)?;
        self.set_position(descriptor, to);
        guest.write_u64(out, to)
    }

    pub(in super::super) fn fd_tell(
        &self,
        guest: &mut Guest<'_>,
        descriptor: u32,
        out: u32,
    ) -> Call {
        let (_, position) = self.seekable(descriptor)?;
        guest.write_u64(out, position)
    }

    fn seekable(&self, descriptor: u32) -> Call<(u64, u64)> {
        match self.file(descriptor, 0) {
            Err(Errno::ISDIR) => Err(Errno::BADF),
            other => other,
        }
    }

    /// Lists a directory from a cookie on. Entries come ordered by inode, so an entry that stays
    /// is listed exactly once, whatever comes and goes between two calls.
    pub(in super::super) fn fd_readdir(
        &self,
        guest: &mut Guest<'_>,
        descriptor: u32,
        (buffer, length): (u32, u32),
        cookie: u64,
        out: u32,
    ) -> Call {
        guest.range(out, 4)?;
        let directory = self.directory(descriptor)?;
        let mut entries: Vec<(u64, u64, &[u8])> = vec![
            (COOKIE_SELF, directory, b"."),
            (COOKIE_PARENT, self.tree.parent(directory)?, b".."),
        ];
        let named = self.tree.directory(directory)?;
        for (name, inode) in named {
            entries.push((cookie_of(*inode, name), *inode, name));
        }
        entries.sort_unstable();
        let target = guest.bytes_mut(buffer, length)?;
        let mut used = 0;
        for (next, inode, name) in entries.into_iter().filter(|entry| entry.0 > cookie) {
            let header = Record::<DIRENT_BYTES>::new()
                .put(0, &next.to_le_bytes())
                .put(8, &inode.to_le_bytes())
                .put(16, &(name.len() as u32).to_le_bytes())
                .put(20, &[self.tree.filetype(inode)]);
            // An entry that does not fit is cut: a full buffer tells the guest that there is more.
            for part in [&header.0[..], name] {
                let rest = &mut target[used..];
                let count = part.len().min(rest.len());
                rest[..count].copy_from_slice(&part[..count]);
                used += count;
            }
            if used == target.len() {
                break;
            }
        }
        guest.write_u32(out, used as u32)
    }
}
