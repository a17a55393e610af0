//! The table of descriptors: opening, closing, renumbering, and what can be asked of one.

use super::abi::{Call, Errno, FDSTAT_BYTES, FILESTAT_BYTES, fdflags, filetype, rights};
use super::guest::{Guest, Record};
use super::store::Store;
use super::{Kernel, inode_of};
use wire::snapshot::{Descriptor, Target};

/// Answered by `fd_prestat_get` for a directory; for anything else that is there before the
/// program starts (a listener) any other number, so that programs scan on.
const PREOPEN_DIRECTORY: u8 = 0;
const PREOPEN_OTHER: u8 = 1;

/// Descriptors that a process can have whatever its limit says: what is done to each of them takes
/// well under a millisecond for all.
pub(super) const MAX_DESCRIPTORS: u32 = 1 << 16;

/// Device numbers: the private tree, standard streams, listeners, connections.
const TREE_DEVICE: u64 = 1;
const STDIO_DEVICE: u64 = 2;
const LISTENER_DEVICE: u64 = 3;
const SOCKET_DEVICE: u64 = 4;

impl Kernel {
    pub(super) fn descriptor(&self, descriptor: u32) -> Call<&Descriptor> {
        self.descriptors.get(&descriptor).ok_or(Errno::BADF)
    }

    pub(super) fn descriptor_mut(&mut self, descriptor: u32) -> Call<&mut Descriptor> {
        self.descriptors.get_mut(&descriptor).ok_or(Errno::BADF)
    }

    /// A descriptor that has the right, or all of the rights, `needed`. Reading and writing without
    /// the right is what POSIX programs know from a descriptor that was opened for the other.
    pub(super) fn permitted(&self, descriptor: u32, needed: u64) -> Call<&Descriptor> {
        let state = self.descriptor(descriptor)?;
        match needed & !state.rights_base {
            0 => Ok(state),
            missing if missing & (rights::FD_READ | rights::FD_WRITE) != 0 => Err(Errno::BADF),
            _ => Err(Errno::NOTCAPABLE),
        }
    }

    /// The lowest free number, if the limit allows one more.
    pub(super) fn free_descriptor(&self) -> Call<u32> {
        let limit = self.limits.descriptors.min(MAX_DESCRIPTORS);
        if self.descriptors.len() >= limit as usize {
            return Err(Errno::MFILE);
        }
        let used = self.descriptors.keys();
        let free = used.zip(0..).find(|(used, number)| *used != number);
        Ok(free.map_or(self.descriptors.len() as u32, |(_, number)| number))
    }

    /// Where a directory is whose descriptor has all of `needed`.
    pub(super) fn directory(&self, descriptor: u32, needed: u64) -> Call<Store> {
        let store = match self.descriptor(descriptor)?.target {
            Target::Directory { inode, .. } => Store::Tree(inode),
            Target::VolumeDirectory { .. } => Store::Volume(descriptor),
            _ => return Err(Errno::NOTDIR),
        };
        self.permitted(descriptor, needed)?;
        Ok(store)
    }

    /// Where a regular file is whose descriptor has all of `needed`, and the position in it.
    pub(super) fn file(&self, descriptor: u32, needed: u64) -> Call<(Store, u64)> {
        let file = match self.descriptor(descriptor)?.target {
            Target::File { inode, position } => (Store::Tree(inode), position),
            Target::VolumeFile { position, .. } => (Store::Volume(descriptor), position),
            Target::Directory { .. } | Target::VolumeDirectory { .. } => return Err(Errno::ISDIR),
            _ => return Err(Errno::SPIPE),
        };
        self.permitted(descriptor, needed)?;
        Ok(file)
    }

    pub(super) fn set_position(&mut self, descriptor: u32, to: u64) {
        if let Some(state) = self.descriptors.get_mut(&descriptor)
            && let Target::File { position, .. } | Target::VolumeFile { position, .. } =
                &mut state.target
        {
            *position = to;
        }
    }

    /// Whether any descriptor refers to the inode.
    pub(super) fn is_open(&self, inode: u64) -> bool {
        let mut inodes = self.descriptors.values().filter_map(inode_of);
        inodes.any(|open| open == inode)
    }

    /// Lets go of an inode that lost a name or a descriptor.
    pub(super) fn release(&mut self, inode: u64) {
        if !self.is_open(inode) {
            self.tree.forget(inode);
        }
    }

    fn dispose(&mut self, closed: &Descriptor) {
        match closed.target {
            Target::File { inode, .. } | Target::Directory { inode, .. } => self.release(inode),
            Target::Socket(stream) => self.ports.network.close(stream),
            _ => {}
        }
    }

    pub(super) fn fd_close(&mut self, _: &mut Guest<'_>, descriptor: u32) -> Call {
        let closed = self.descriptors.remove(&descriptor).ok_or(Errno::BADF)?;
        self.volumes.close(descriptor);
        self.dispose(&closed);
        Ok(())
    }

    pub(super) fn fd_renumber(&mut self, _: &mut Guest<'_>, from: u32, to: u32) -> Call {
        self.descriptor(from)?;
        self.descriptor(to)?;
        if from == to {
            return Ok(());
        }
        self.volumes.renumber(from, to);
        if let Some(moved) = self.descriptors.remove(&from)
            && let Some(closed) = self.descriptors.insert(to, moved)
        {
            self.dispose(&closed);
        }
        Ok(())
    }

    pub(super) fn filetype_of(&self, descriptor: &Descriptor) -> u8 {
        let stream = |number| match self.ports.stdio.terminal(number) {
            true => filetype::CHARACTER_DEVICE,
            false => filetype::UNKNOWN,
        };
        match descriptor.target {
            Target::Stdin => stream(0),
            Target::Stdout => stream(1),
            Target::Stderr => stream(2),
            Target::File { .. } | Target::VolumeFile { .. } => filetype::REGULAR_FILE,
            Target::Directory { .. } | Target::VolumeDirectory { .. } => filetype::DIRECTORY,
            Target::Listener(_) | Target::Socket(_) => filetype::SOCKET_STREAM,
        }
    }

    pub(super) fn fd_fdstat_get(&self, guest: &mut Guest<'_>, descriptor: u32, out: u32) -> Call {
        let state = self.descriptor(descriptor)?;
        let record = Record::<FDSTAT_BYTES>::new()
            .put(0, &[self.filetype_of(state)])
            .put(2, &state.flags.to_le_bytes())
            .put(8, &state.rights_base.to_le_bytes())
            .put(16, &state.rights_inheriting.to_le_bytes());
        guest.write(out, &record.0)
    }

    pub(super) fn fd_fdstat_set_flags(
        &mut self,
        _: &mut Guest<'_>,
        descriptor: u32,
        flags: u32,
    ) -> Call {
        self.permitted(descriptor, rights::FD_FDSTAT_SET_FLAGS)?;
        let state = self.descriptor_mut(descriptor)?;
        match u16::try_from(flags) {
            Ok(flags) if flags & !fdflags::ALL == 0 => {
                state.flags = flags;
                Ok(())
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// Rights can be given up, never gained.
    pub(super) fn fd_fdstat_set_rights(
        &mut self,
        _: &mut Guest<'_>,
        descriptor: u32,
        base: u64,
        inheriting: u64,
    ) -> Call {
        let state = self.descriptor_mut(descriptor)?;
        if base & !state.rights_base != 0 || inheriting & !state.rights_inheriting != 0 {
            return Err(Errno::NOTCAPABLE);
        }
        state.rights_base = base;
        state.rights_inheriting = inheriting;
        Ok(())
    }

    pub(super) fn fd_filestat_get(&self, guest: &mut Guest<'_>, descriptor: u32, out: u32) -> Call {
        let state = self.permitted(descriptor, rights::FD_FILESTAT_GET)?;
        let (device, number) = match state.target {
            Target::File { inode, .. } | Target::Directory { inode, .. } => {
                return self.write_filestat(guest, inode, out);
            }
            Target::VolumeFile { .. } | Target::VolumeDirectory { .. } => {
                let stat = self.volumes.stat(descriptor)?;
                let record = self.filestat_on_volume(descriptor, &stat)?;
                return guest.write(out, &record.0);
            }
            Target::Stdin => (STDIO_DEVICE, 1),
            Target::Stdout => (STDIO_DEVICE, 2),
            Target::Stderr => (STDIO_DEVICE, 3),
            Target::Listener(index) => (LISTENER_DEVICE, u64::from(index) + 1),
            Target::Socket(stream) => (SOCKET_DEVICE, stream.0),
        };
        let record = Record::<FILESTAT_BYTES>::new()
            .put(0, &device.to_le_bytes())
            .put(8, &number.to_le_bytes())
            .put(16, &[self.filetype_of(state)])
            .put(24, &1u64.to_le_bytes());
        guest.write(out, &record.0)
    }

    pub(super) fn write_filestat(&self, guest: &mut Guest<'_>, inode: u64, out: u32) -> Call {
        let state = self.tree.inode(inode)?;
        let record = Record::<FILESTAT_BYTES>::new()
            .put(0, &TREE_DEVICE.to_le_bytes())
            .put(8, &inode.to_le_bytes())
            .put(16, &[self.tree.filetype(inode)])
            .put(24, &state.links.to_le_bytes())
            .put(32, &self.tree.size(inode).to_le_bytes())
            .put(40, &state.accessed_ns.to_le_bytes())
            .put(48, &state.modified_ns.to_le_bytes())
            .put(56, &state.changed_ns.to_le_bytes());
        guest.write(out, &record.0)
    }

    pub(super) fn fd_prestat_get(&self, guest: &mut Guest<'_>, descriptor: u32, out: u32) -> Call {
        let (tag, length) = match &self.descriptor(descriptor)?.target {
            Target::Directory {
                preopen: Some(name),
                ..
            }
            | Target::VolumeDirectory {
                preopen: Some(name),
                ..
            } => (PREOPEN_DIRECTORY, name.len() as u32),
            Target::Listener(_) => (PREOPEN_OTHER, 0),
            _ => return Err(Errno::BADF),
        };
        let record = Record::<8>::new()
            .put(0, &[tag])
            .put(4, &length.to_le_bytes());
        guest.write(out, &record.0)
    }

    pub(super) fn fd_prestat_dir_name(
        &self,
        guest: &mut Guest<'_>,
        descriptor: u32,
        buffer: u32,
        length: u32,
    ) -> Call {
        match &self.descriptor(descriptor)?.target {
            Target::Directory {
                preopen: Some(name),
                ..
            }
            | Target::VolumeDirectory {
                preopen: Some(name),
                ..
            } => {
                if name.len() > length as usize {
                    return Err(Errno::NAMETOOLONG);
                }
                guest.write(buffer, name)
            }
            Target::Listener(_) => Err(Errno::NOTDIR),
            _ => Err(Errno::BADF),
        }
    }

    /// Only volumes have anything to do: the tree is memory, and what is sent is sent.
    pub(super) fn fd_sync(&self, _: &mut Guest<'_>, descriptor: u32) -> Call {
        self.permitted(descriptor, rights::FD_SYNC)?;
        self.volumes.sync(descriptor, true)
    }

    /// The same, without what is not needed to find the bytes again.
    pub(super) fn fd_datasync(&self, _: &mut Guest<'_>, descriptor: u32) -> Call {
        self.permitted(descriptor, rights::FD_DATASYNC)?;
        self.volumes.sync(descriptor, false)
    }
}

/// The descriptors a program is born with, by number: standard streams, listeners from 3, then
/// directories of the tree, then volumes.
pub(crate) fn newborn(
    listeners: u16,
    preopens: &[Vec<u8>],
    volumes: &[Vec<u8>],
) -> Vec<Descriptor> {
    let streams = [Target::Stdin, Target::Stdout, Target::Stderr];
    let listeners = (0..listeners).map(Target::Listener);
    let directories = preopens.iter().map(|name| Target::Directory {
        inode: super::files::ROOT,
        preopen: Some(name.clone()),
    });
    let volumes = (0..)
        .zip(volumes)
        .map(|(volume, name)| Target::VolumeDirectory {
            volume,
            path: b".".to_vec(),
            preopen: Some(name.clone()),
        });
    let targets = streams.into_iter().chain(listeners);
    let targets = targets.chain(directories).chain(volumes);
    let descriptor = |target| {
        let (rights_base, rights_inheriting) = rights_of_newborn(&target);
        Descriptor {
            target,
            flags: 0,
            rights_base,
            rights_inheriting,
        }
    };
    targets.map(descriptor).collect()
}

/// What a descriptor may be used for at most, and what those opened through it may.
fn rights_of_newborn(target: &Target) -> (u64, u64) {
    match target {
        Target::Stdin => (rights::INPUT, 0),
        Target::Stdout | Target::Stderr => (rights::OUTPUT, 0),
        Target::File { .. } | Target::VolumeFile { .. } => (rights::FILE, 0),
        Target::Directory { .. } | Target::VolumeDirectory { .. } => {
            (rights::DIRECTORY, rights::DIRECTORY | rights::FILE)
        }
        Target::Listener(_) => (rights::LISTENER, rights::SOCKET),
        Target::Socket(_) => (rights::SOCKET, 0),
    }
}
