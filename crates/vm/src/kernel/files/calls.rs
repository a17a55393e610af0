//! The host calls over the file tree: `path_*`, and those of `fd_*` that only files have.

use super::super::Kernel;
use super::super::abi::{Call, Errno, LOOKUP_SYMLINK_FOLLOW, fdflags, fstflags, oflags, rights};
use super::super::guest::Guest;
use super::super::store::Store;
use super::super::volumes::{beneath, timestamps, volume_of};
use std::os::fd::BorrowedFd;
use wire::snapshot::{Descriptor, InodeKind, Target};

const WHENCE_SET: u32 = 0;
const WHENCE_CURRENT: u32 = 1;
const WHENCE_END: u32 = 2;

/// Arguments of `path_open`, in the standard's order.
#[derive(Clone, Copy)]
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

/// How something is opened.
#[derive(Clone, Copy)]
pub(in super::super) struct How {
    pub create: bool,
    pub exclusive: bool,
    pub directory: bool,
    pub truncate: bool,
    /// Whether a link at the end of the path is followed.
    pub follow: bool,
    /// The rights of what is opened.
    pub rights_base: u64,
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
        let mut how = How {
            create: flag(oflags::CREAT),
            exclusive: flag(oflags::EXCL),
            directory: flag(oflags::DIRECTORY),
            truncate: flag(oflags::TRUNC),
            follow: follow && !(flag(oflags::CREAT) && flag(oflags::EXCL)),
            rights_base: open.rights_base,
        };
        if open.flags & !oflags::ALL != 0 || (how.create && how.directory) {
            return Err(Errno::INVAL);
        }
        let flags = match u16::try_from(open.fdflags) {
            Ok(flags) if flags & !fdflags::ALL == 0 => flags,
            _ => return Err(Errno::INVAL),
        };
        guest.range(open.out, 4)?;
        let needed = [
            (true, rights::PATH_OPEN),
            (how.create, rights::PATH_CREATE_FILE),
            (how.truncate, rights::PATH_FILESTAT_SET_SIZE),
        ];
        let needed = needed.iter().filter(|(is_needed, _)| *is_needed);
        let needed = needed.fold(0, |all, (_, right)| all | right);
        let base = self.directory(open.directory, needed)?;
        // What is asked for beyond what can be had is left out: some programs ask for everything.
        let inheriting = self.descriptor(open.directory)?.rights_inheriting;
        how.rights_base &= inheriting;
        let number = self.free_descriptor()?;
        let path = guest.bytes(open.path, open.path_length)?;
        let target = match base {
            Store::Tree(base) => self.open_in_tree(base, path, how)?,
            Store::Volume(base) => self.open_on_volume(base, number, path, how)?,
        };
        let (usable, inheriting) = match target {
            Target::Directory { .. } | Target::VolumeDirectory { .. } => {
                (rights::DIRECTORY, open.rights_inheriting & inheriting)
            }
            _ => (rights::FILE, 0),
        };
        let descriptor = Descriptor {
            target,
            flags,
            rights_base: how.rights_base & usable,
            rights_inheriting: inheriting,
        };
        self.descriptors.insert(number, descriptor);
        guest.write_u32(open.out, number)
    }

    fn open_in_tree(&mut self, base: u64, path: &[u8], how: How) -> Call<Target> {
        let now = self.now_ns();
        let writes = how.rights_base & rights::FD_WRITE != 0;
        let place = match how.create {
            true => self.tree.lookup_to_create(base, path, how.follow)?,
            false => self.tree.lookup(base, path, how.follow)?,
        };
        let inode = match place.inode {
            Some(_) if how.create && how.exclusive => return Err(Errno::EXIST),
            Some(inode) => {
                match &self.tree.inode(inode)?.node {
                    InodeKind::Directory(_) if how.create || how.truncate || writes => {
                        return Err(Errno::ISDIR);
                    }
                    InodeKind::Directory(_) => {}
                    _ if how.directory => return Err(Errno::NOTDIR),
                    InodeKind::Link(_) => return Err(Errno::LOOP),
                    InodeKind::File(_) if how.truncate => {
                        self.tree.resize(inode, 0)?;
                        self.tree.touch_modified(inode, now);
                    }
                    InodeKind::File(_) => {}
                }
                inode
            }
            None if how.create => self.tree.make_file(place, now)?,
            None => return Err(Errno::NOENT),
        };
        Ok(match self.tree.is_directory(inode) {
            true => Target::Directory {
                inode,
                preopen: None,
            },
            false => Target::File { inode, position: 0 },
        })
    }

    pub(in super::super) fn path_create_directory(
        &mut self,
        guest: &mut Guest<'_>,
        directory: u32,
        path: u32,
        length: u32,
    ) -> Call {
        let base = self.directory(directory, rights::PATH_CREATE_DIRECTORY)?;
        let now = self.now_ns();
        let path = guest.bytes(path, length)?;
        match base {
            Store::Tree(base) => self.tree.make_directory(base, path, now),
            Store::Volume(base) => beneath::make_directory(self.volumes.file(base)?, path),
        }
    }

    pub(in super::super) fn path_remove_directory(
        &mut self,
        guest: &mut Guest<'_>,
        directory: u32,
        path: u32,
        length: u32,
    ) -> Call {
        let base = self.directory(directory, rights::PATH_REMOVE_DIRECTORY)?;
        let now = self.now_ns();
        let path = guest.bytes(path, length)?;
        match base {
            Store::Tree(base) => {
                let removed = self.tree.remove_directory(base, path, now)?;
                self.release(removed);
                Ok(())
            }
            Store::Volume(base) => beneath::remove_directory(self.volumes.file(base)?, path),
        }
    }

    pub(in super::super) fn path_unlink_file(
        &mut self,
        guest: &mut Guest<'_>,
        directory: u32,
        path: u32,
        length: u32,
    ) -> Call {
        let base = self.directory(directory, rights::PATH_UNLINK_FILE)?;
        let now = self.now_ns();
        let path = guest.bytes(path, length)?;
        match base {
            Store::Tree(base) => {
                let removed = self.tree.unlink(base, path, now)?;
                self.release(removed);
                Ok(())
            }
            Store::Volume(base) => beneath::unlink(self.volumes.file(base)?, path),
        }
    }

    pub(in super::super) fn path_rename(
        &mut self,
        guest: &mut Guest<'_>,
        (from_directory, from, from_length): (u32, u32, u32),
        (to_directory, to, to_length): (u32, u32, u32),
    ) -> Call {
        let from_base = self.directory(from_directory, rights::PATH_RENAME_SOURCE)?;
        let to_base = self.directory(to_directory, rights::PATH_RENAME_TARGET)?;
        let now = self.now_ns();
        let from = guest.bytes(from, from_length)?;
        let to = guest.bytes(to, to_length)?;
        match (from_base, to_base) {
            (Store::Tree(from_base), Store::Tree(to_base)) => {
                let replaced = self.tree.rename((from_base, from), (to_base, to), now)?;
                if let Some(replaced) = replaced {
                    self.release(replaced);
                }
                Ok(())
            }
            (from_base, to_base) => {
                let (from_base, to_base) = self.volume_of_both(from_base, to_base)?;
                beneath::rename((from_base, from), (to_base, to))
            }
        }
    }

    pub(in super::super) fn path_link(
        &mut self,
        guest: &mut Guest<'_>,
        lookup: u32,
        (from_directory, from, from_length): (u32, u32, u32),
        (to_directory, to, to_length): (u32, u32, u32),
    ) -> Call {
        let follow = follows(lookup)?;
        let from_base = self.directory(from_directory, rights::PATH_LINK_SOURCE)?;
        let to_base = self.directory(to_directory, rights::PATH_LINK_TARGET)?;
        let now = self.now_ns();
        let from = guest.bytes(from, from_length)?;
        let to = guest.bytes(to, to_length)?;
        match (from_base, to_base) {
            (Store::Tree(from_base), Store::Tree(to_base)) => {
                let inode = self.tree.lookup(from_base, from, follow)?.existing()?;
                self.tree.link(inode, to_base, to, now)
            }
            (from_base, to_base) => {
                let (from_base, to_base) = self.volume_of_both(from_base, to_base)?;
                // The system has no call that would follow a link and stay beneath.
                match follow {
                    true => Err(Errno::NOTSUP),
                    false => beneath::link((from_base, from), (to_base, to)),
                }
            }
        }
    }

    /// Two directories of one volume: nothing is renamed or linked from one file system to another.
    fn volume_of_both(&self, one: Store, other: Store) -> Call<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        let (Store::Volume(one), Store::Volume(other)) = (one, other) else {
            return Err(Errno::XDEV);
        };
        let volume = |descriptor: u32| -> Call<Option<u16>> {
            Ok(volume_of(&self.descriptor(descriptor)?.target))
        };
        match volume(one)? == volume(other)? {
            true => Ok((self.volumes.file(one)?, self.volumes.file(other)?)),
            false => Err(Errno::XDEV),
        }
    }

    pub(in super::super) fn path_symlink(
        &mut self,
        guest: &mut Guest<'_>,
        (target, target_length): (u32, u32),
        directory: u32,
        (path, length): (u32, u32),
    ) -> Call {
        let base = self.directory(directory, rights::PATH_SYMLINK)?;
        let now = self.now_ns();
        let target = guest.bytes(target, target_length)?;
        let path = guest.bytes(path, length)?;
        match base {
            Store::Tree(base) => self.tree.make_link(target, base, path, now),
            Store::Volume(base) => beneath::symlink(target, self.volumes.file(base)?, path),
        }
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
        let base = self.directory(directory, rights::PATH_READLINK)?;
        let path = guest.bytes(path, length)?;
        let base = match base {
            Store::Tree(base) => base,
            Store::Volume(base) => {
                let target = beneath::read_link(self.volumes.file(base)?, path)?.into_bytes();
                let count = target.len().min(buffer_length as usize);
                guest.write(buffer, &target[..count])?;
                return guest.write_u32(out, count as u32);
            }
        };
        let inode = self.tree.lookup(base, path, false)?.existing()?;
        let InodeKind::Link(target) = &self.tree.inode(inode)?.node else {
            return Err(Errno::INVAL);
        };
        let count = target.len().min(buffer_length as usize);
        guest.write(buffer, &target[..count])?;
        guest.write_u32(out, count as u32)?;
        let now = self.now_ns();
        self.tree.touch_accessed(inode, now);
        Ok(())
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
        let base = self.directory(directory, rights::PATH_FILESTAT_GET)?;
        let path = guest.bytes(path, length)?;
        match base {
            Store::Tree(base) => {
                let inode = self.tree.lookup(base, path, follow)?.existing()?;
                self.write_filestat(guest, inode, out)
            }
            Store::Volume(base) => {
                let stat = beneath::stat(self.volumes.file(base)?, path, follow)?;
                let record = self.filestat_on_volume(base, &stat)?;
                guest.write(out, &record.0)
            }
        }
    }

    pub(in super::super) fn path_filestat_set_times(
        &mut self,
        guest: &mut Guest<'_>,
        (directory, lookup): (u32, u32),
        (path, length): (u32, u32),
        times: (u64, u64, u32),
    ) -> Call {
        let follow = follows(lookup)?;
        let base = self.directory(directory, rights::PATH_FILESTAT_SET_TIMES)?;
        let path = guest.bytes(path, length)?;
        let now = self.now_ns();
        let (accessed, modified) = times_to_set(times, now)?;
        match base {
            Store::Tree(base) => {
                let inode = self.tree.lookup(base, path, follow)?.existing()?;
                self.tree.set_times(inode, accessed, modified, now)
            }
            Store::Volume(base) => {
                let times = timestamps(accessed, modified);
                beneath::set_times(self.volumes.file(base)?, path, follow, &times)
            }
        }
    }

    pub(in super::super) fn fd_filestat_set_times(
        &mut self,
        _: &mut Guest<'_>,
        descriptor: u32,
        times: (u64, u64, u32),
    ) -> Call {
        let now = self.now_ns();
        let target = &self.descriptor(descriptor)?.target;
        match *target {
            Target::File { inode, .. } | Target::Directory { inode, .. } => {
                self.permitted(descriptor, rights::FD_FILESTAT_SET_TIMES)?;
                let (accessed, modified) = times_to_set(times, now)?;
                self.tree.set_times(inode, accessed, modified, now)
            }
            Target::VolumeFile { .. } | Target::VolumeDirectory { .. } => {
                self.permitted(descriptor, rights::FD_FILESTAT_SET_TIMES)?;
                let (accessed, modified) = times_to_set(times, now)?;
                let times = timestamps(accessed, modified);
                self.volumes.set_times(descriptor, &times)
            }
            _ => Err(Errno::INVAL),
        }
    }

    pub(in super::super) fn fd_filestat_set_size(
        &mut self,
        _: &mut Guest<'_>,
        descriptor: u32,
        size: u64,
    ) -> Call {
        // Of a file that is not open for writing this is what Linux says.
        let store = match self.file(descriptor, rights::FD_WRITE) {
            Err(Errno::SPIPE | Errno::BADF) if self.descriptors.contains_key(&descriptor) => {
                return Err(Errno::INVAL);
            }
            other => other?.0,
        };
        self.permitted(descriptor, rights::FD_FILESTAT_SET_SIZE)?;
        self.resize(store, size)
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
            Target::File { .. }
            | Target::Directory { .. }
            | Target::VolumeFile { .. }
            | Target::VolumeDirectory { .. } => {}
            _ => return Err(Errno::SPIPE),
        }
        self.permitted(descriptor, rights::FD_ADVISE)?;
        match advice {
            0..=5 => Ok(()),
            _ => Err(Errno::INVAL),
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
        // Asking where it is is telling.
        let needed = match (offset, whence) {
            (0, WHENCE_CURRENT) => rights::FD_TELL,
            _ => rights::FD_SEEK,
        };
        let (store, position) = self.seekable(descriptor, needed)?;
        let from = match whence {
            WHENCE_SET => 0,
            WHENCE_CURRENT => position,
            WHENCE_END => self.size_of(store)?,
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
        let (_, position) = self.seekable(descriptor, rights::FD_TELL)?;
        guest.write_u64(out, position)
    }

    fn seekable(&self, descriptor: u32, needed: u64) -> Call<(Store, u64)> {
        match self.file(descriptor, needed) {
            Err(Errno::ISDIR) => Err(Errno::BADF),
            other => other,
        }
    }
}

/// Access and modification time as `flags` ask for them.
fn times_to_set(
    (accessed, modified, flags): (u64, u64, u32),
    now: u64,
) -> Call<(Option<u64>, Option<u64>)> {
    let time = |set: u32, set_now: u32, value: u64| match (flags & set != 0, flags & set_now != 0) {
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
    Ok((accessed, modified))
}
