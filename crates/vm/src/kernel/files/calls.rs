//! The host calls over the file tree: `path_*`, and those of `fd_*` that only files have.

use super::super::Kernel;
use super::super::abi::{Call, Errno, LOOKUP_SYMLINK_FOLLOW, fdflags, fstflags, oflags, rights};
use super::super::guest::Guest;
use wire::snapshot::{Descriptor, InodeKind, Target};

const WHENCE_SET: u32 = 0;
const WHENCE_CURRENT: u32 = 1;
const WHENCE_END: u32 = 2;

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
        let needed = [
            (true, rights::PATH_OPEN),
            (create, rights::PATH_CREATE_FILE),
            (truncate, rights::PATH_FILESTAT_SET_SIZE),
        ];
        let needed = needed.iter().filter(|(is_needed, _)| *is_needed);
        let needed = needed.fold(0, |all, (_, right)| all | right);
        let base = self.directory(open.directory, needed)?;
        // What is asked for beyond what can be had is left out: some programs ask for everything.
        let inheriting = self.descriptor(open.directory)?.rights_inheriting;
        let rights_base = open.rights_base & inheriting;
        let writes = rights_base & rights::FD_WRITE != 0;
        let number = self.free_descriptor()?;
        let now = self.now_ns();
        let path = guest.bytes(open.path, open.path_length)?;
        let follow = follow && !(create && exclusive);
        let place = match create {
            true => self.tree.lookup_to_create(base, path, follow)?,
            false => self.tree.lookup(base, path, follow)?,
        };
        let inode = match place.inode {
            Some(_) if create && exclusive => return Err(Errno::EXIST),
            Some(inode) => {
                match &self.tree.inode(inode)?.node {
                    InodeKind::Directory(_) if create || truncate || writes => {
                        return Err(Errno::ISDIR);
                    }
                    InodeKind::Directory(_) => {}
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
        let descriptor = match self.tree.is_directory(inode) {
            true => Descriptor {
                target: Target::Directory {
                    inode,
                    preopen: None,
                },
                flags,
                rights_base: rights_base & rights::DIRECTORY,
                rights_inheriting: open.rights_inheriting & inheriting,
            },
            false => Descriptor {
                target: Target::File { inode, position: 0 },
                flags,
                rights_base: rights_base & rights::FILE,
                rights_inheriting: 0,
            },
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
        let base = self.directory(directory, rights::PATH_CREATE_DIRECTORY)?;
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
        let base = self.directory(directory, rights::PATH_REMOVE_DIRECTORY)?;
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
        let base = self.directory(directory, rights::PATH_UNLINK_FILE)?;
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
        let from_base = self.directory(from_directory, rights::PATH_RENAME_SOURCE)?;
        let to_base = self.directory(to_directory, rights::PATH_RENAME_TARGET)?;
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
        let from_base = self.directory(from_directory, rights::PATH_LINK_SOURCE)?;
        let to_base = self.directory(to_directory, rights::PATH_LINK_TARGET)?;
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
        let base = self.directory(directory, rights::PATH_SYMLINK)?;
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
        let base = self.directory(directory, rights::PATH_READLINK)?;
        let path = guest.bytes(path, length)?;
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
        let base = self.directory(directory, rights::PATH_FILESTAT_SET_TIMES)?;
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
                self.permitted(descriptor, rights::FD_FILESTAT_SET_TIMES)?;
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
        // Of a file that is not open for writing this is what Linux says.
        let inode = match self.file(descriptor, rights::FD_WRITE) {
            Err(Errno::SPIPE | Errno::BADF) if self.descriptors.contains_key(&descriptor) => {
                return Err(Errno::INVAL);
            }
            other => other?.0,
        };
        self.permitted(descriptor, rights::FD_FILESTAT_SET_SIZE)?;
        let now = self.now_ns();
        self.tree.resize(inode, size)?;
        self.tree.touch_modified(inode, now);
        Ok(())
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
            Target::File { .. } | Target::Directory { .. } => {}
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
        let (inode, position) = self.seekable(descriptor, needed)?;
        let from = match whence {
            WHENCE_SET => 0,
            WHENCE_CURRENT => position,
            WHENCE_END => self.tree.size(inode),
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

    fn seekable(&self, descriptor: u32, needed: u64) -> Call<(u64, u64)> {
        match self.file(descriptor, needed) {
            Err(Errno::ISDIR) => Err(Errno::BADF),
            other => other,
        }
    }
}
