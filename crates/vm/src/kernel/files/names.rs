//! Making, removing and renaming entries of directories.

use super::super::abi::{Call, Errno};
use super::path::Place;
use super::tree::{Tree, name_cost};
use wire::snapshot::{Content, Directory, Entry, InodeKind};

/// Names that one inode may have.
const MAX_LINKS: u64 = 1 << 16;
/// Directories above one that something is moved into: more than any path can name.
const MAX_DEPTH: u32 = 4096;

impl Tree {
    /// Gives `inode` a name in `directory`; `serial` is the one that its entry had there before, if
    /// it only changes its name.
    fn name(
        &mut self,
        directory: u64,
        name: Vec<u8>,
        inode: u64,
        serial: Option<u64>,
        now: u64,
    ) -> Call {
        // A directory that was removed while it was open takes no new entries.
        if self.inode(directory)?.links == 0 {
            return Err(Errno::NOENT);
        }
        self.charge(name_cost(&name))?;
        match self.insert_entry(directory, &name, inode, serial, now) {
            Ok(()) => {}
            Err(error) => {
                self.refund(name_cost(&name));
                return Err(error);
            }
        }
        let named = self.inode_mut(inode)?;
        named.links += 1;
        named.changed_ns = now;
        if let InodeKind::Directory(state) = &mut named.node {
            state.parent = directory;
        }
        Ok(())
    }

    /// Takes a name away; the inode stays.
    fn unname(&mut self, directory: u64, name: &[u8], now: u64) -> Call<Entry> {
        let entry = self.remove_entry(directory, name, now)?;
        self.refund(name_cost(name));
        let unnamed = self.inode_mut(entry.inode)?;
        unnamed.links = unnamed.links.saturating_sub(1);
        unnamed.changed_ns = now;
        if let InodeKind::Directory(state) = &mut unnamed.node {
            state.parent = entry.inode;
        }
        Ok(entry)
    }

    /// A new inode at a place where there is none.
    fn make(&mut self, place: Place, node: InodeKind, now: u64) -> Call<u64> {
        if place.inode.is_some() {
            return Err(Errno::EXIST);
        }
        let inode = self.create(node, now)?;
        match self.name(place.directory, place.name, inode, None, now) {
            Ok(()) => Ok(inode),
            Err(error) => {
                self.forget(inode);
                Err(error)
            }
        }
    }

    pub(super) fn make_file(&mut self, place: Place, now: u64) -> Call<u64> {
        if place.slash {
            return Err(Errno::ISDIR);
        }
        self.make(place, InodeKind::File(Content::default()), now)
    }

    pub(super) fn make_directory(&mut self, base: u64, path: &[u8], now: u64) -> Call {
        let place = self.lookup_new(base, path)?;
        let node = InodeKind::Directory(Directory::new(place.directory));
        self.make(place, node, now).map(|_| ())
    }

    pub(super) fn make_link(&mut self, target: &[u8], base: u64, path: &[u8], now: u64) -> Call {
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        if target.len() > 4096 {
            return Err(Errno::NAMETOOLONG);
        }
        // It would lead nowhere: no lookup leaves the directory that it starts from.
        if target.starts_with(b"/") {
            return Err(Errno::PERM);
        }
        if target.contains(&0) {
            return Err(Errno::INVAL);
        }
        let place = self.lookup_new(base, path)?;
        if place.slash {
            return Err(place.inode.map_or(Errno::NOENT, |_| Errno::EXIST));
        }
        let node = InodeKind::Link(target.to_vec());
        self.make(place, node, now).map(|_| ())
    }

    /// A second name for an inode that is not a directory.
    pub(super) fn link(&mut self, inode: u64, base: u64, path: &[u8], now: u64) -> Call {
        let place = self.lookup_new(base, path)?;
        if place.inode.is_some() {
            return Err(Errno::EXIST);
        }
        if place.slash {
            return Err(Errno::NOENT);
        }
        if self.is_directory(inode) {
            return Err(Errno::PERM);
        }
        if self.inode(inode)?.links >= MAX_LINKS {
            return Err(Errno::MLINK);
        }
        self.name(place.directory, place.name, inode, None, now)
    }

    /// Removes the name of a file or link; gives the inode, which the caller forgets unless it
    /// is open.
    pub(super) fn unlink(&mut self, base: u64, path: &[u8], now: u64) -> Call<u64> {
        let place = self.lookup_entry(base, path)?;
        if self.is_directory(place.existing()?) {
            return Err(Errno::ISDIR);
        }
        Ok(self.unname(place.directory, &place.name, now)?.inode)
    }

    /// Removes an empty directory; gives its inode like [`Tree::unlink`].
    pub(super) fn remove_directory(&mut self, base: u64, path: &[u8], now: u64) -> Call<u64> {
        let place = self.lookup_entry(base, path)?;
        let inode = place.existing()?;
        if place.name.is_empty() {
            let last = path
                .split(|byte| *byte == b'/')
                .rfind(|part| !part.is_empty());
            return Err(match last {
                Some(b"..") => Errno::NOTEMPTY,
                _ => Errno::INVAL,
            });
        }
        if !self.directory(inode)?.entries.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        Ok(self.unname(place.directory, &place.name, now)?.inode)
    }

    /// Moves a name; gives the inode that was replaced, like [`Tree::unlink`].
    pub(super) fn rename(
        &mut self,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        now: u64,
    ) -> Call<Option<u64>> {
        let from = self.lookup_new(from.0, from.1)?;
        let to = self.lookup_new(to.0, to.1)?;
        if from.name.is_empty() || to.name.is_empty() {
            return Err(Errno::BUSY);
        }
        let inode = from.existing()?;
        if self.inode(to.directory)?.links == 0 {
            return Err(Errno::NOENT);
        }
        let directory = self.is_directory(inode);
        if (from.slash || to.slash) && !directory {
            return Err(Errno::NOTDIR);
        }
        if directory && self.contains(inode, to.directory)? {
            return Err(Errno::INVAL);
        }
        if let Some(replaced) = to.inode {
            if self.is_directory(replaced) && self.contains(replaced, from.directory)? {
                return Err(Errno::NOTEMPTY);
            }
            if replaced == inode {
                return Ok(None);
            }
            match (directory, self.is_directory(replaced)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.directory(replaced)?.entries.is_empty() => {
                    return Err(Errno::NOTEMPTY);
                }
                _ => {}
            }
            self.unname(to.directory, &to.name, now)?;
        }
        // What follows only fails for want of room, and only where nothing was replaced by a
        // name as long: check before the old name is given up.
        let growth = name_cost(&to.name).saturating_sub(name_cost(&from.name));
        self.charge(growth)?;
        self.refund(growth);
        let entry = self.unname(from.directory, &from.name, now)?;
        // A listing of the directory that is under way shows a renamed entry once.
        let serial = (from.directory == to.directory).then_some(entry.serial);
        self.name(to.directory, to.name, inode, serial, now)?;
        Ok(to.inode)
    }

    /// Whether the directory `above` is `below` or one of its parents.
    fn contains(&self, above: u64, mut below: u64) -> Call<bool> {
        for _ in 0..MAX_DEPTH {
            if below == above {
                return Ok(true);
            }
            let parent = self.parent(below)?;
            if parent == below {
                return Ok(false);
            }
            below = parent;
        }
        Err(Errno::NAMETOOLONG)
    }
}
