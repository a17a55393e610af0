//! Making, removing and renaming entries of directories.

use super::super::abi::{Call, Errno};
use super::path::Place;
use super::tree::{Tree, name_cost};
use std::collections::BTreeMap;
use wire::snapshot::InodeKind;

/// Names that one inode may have.
const MAX_LINKS: u64 = 1 << 16;

impl Tree {
    /// Gives `inode` a name in `directory`.
    fn name(&mut self, directory: u64, name: Vec<u8>, inode: u64, now: u64) -> Call {
        // A directory that was removed while it was open takes no new entries.
        if self.inode(directory)?.links == 0 {
            return Err(Errno::NOENT);
        }
        self.charge(name_cost(&name))?;
        let holder = self.inode_mut(directory)?;
        let InodeKind::Directory { entries, .. } = &mut holder.node else {
            self.refund(name_cost(&name));
            return Err(Errno::NOTDIR);
        };
        entries.insert(name, inode);
        holder.modified_ns = now;
        holder.changed_ns = now;
        let named = self.inode_mut(inode)?;
        named.links += 1;
        named.changed_ns = now;
        if let InodeKind::Directory { parent, .. } = &mut named.node {
            *parent = directory;
        }
        Ok(())
    }

    /// Takes a name away; the inode stays.
    fn unname(&mut self, directory: u64, name: &[u8], now: u64) -> Call<u64> {
        let holder = self.inode_mut(directory)?;
        let InodeKind::Directory { entries, .. } = &mut holder.node else {
            return Err(Errno::NOTDIR);
        };
        let inode = entries.remove(name).ok_or(Errno::NOENT)?;
        holder.modified_ns = now;
        holder.changed_ns = now;
        self.refund(name_cost(name));
        let unnamed = self.inode_mut(inode)?;
        unnamed.links = unnamed.links.saturating_sub(1);
        unnamed.changed_ns = now;
        if let InodeKind::Directory { parent, .. } = &mut unnamed.node {
            *parent = inode;
        }
        Ok(inode)
    }

    /// A new inode at a place where there is none.
    fn make(&mut self, place: Place, node: InodeKind, now: u64) -> Call<u64> {
        if place.inode.is_some() {
            return Err(Errno::EXIST);
        }
        let inode = self.create(node, now)?;
        match self.name(place.directory, place.name, inode, now) {
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
        self.make(place, InodeKind::File(Vec::new()), now)
    }

    pub(super) fn make_directory(&mut self, base: u64, path: &[u8], now: u64) -> Call {
        let place = self.lookup_new(base, path)?;
        let node = InodeKind::Directory {
            entries: BTreeMap::new(),
            parent: place.directory,
        };
        self.make(place, node, now).map(|_| ())
    }

    pub(super) fn make_link(&mut self, target: &[u8], base: u64, path: &[u8], now: u64) -> Call {
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        if target.len() > 4096 {
            return Err(Errno::NAMETOOLONG);
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
        self.name(place.directory, place.name, inode, now)
    }

    /// Removes the name of a file or link; gives the inode, which the caller forgets unless it
    /// is open.
    pub(super) fn unlink(&mut self, base: u64, path: &[u8], now: u64) -> Call<u64> {
        let place = self.lookup_entry(base, path)?;
        if self.is_directory(place.existing()?) {
            return Err(Errno::ISDIR);
        }
        self.unname(place.directory, &place.name, now)
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
        if !self.directory(inode)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.unname(place.directory, &place.name, now)
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
                (true, true) if !self.directory(replaced)?.is_empty() => {
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
        self.unname(from.directory, &from.name, now)?;
        self.name(to.directory, to.name, inode, now)?;
        Ok(to.inode)
    }

    /// Whether the directory `above` is `below` or one of its parents.
    fn contains(&self, above: u64, mut below: u64) -> Call<bool> {
        loop {
            if below == above {
                return Ok(true);
            }
            let parent = self.parent(below)?;
            if parent == below {
                return Ok(false);
            }
            below = parent;
        }
    }
}
