//! The inodes of a file tree, and their cost.
//!
//! The tree is the snapshot's own structure ([`FileTree`]); what is kept beside it, the bytes in
//! use, follows from it. A tree that comes from a snapshot is checked before anything walks it.

use super::super::abi::{Call, Errno, filetype};
use super::path::valid_name;
use std::collections::{BTreeMap, BTreeSet};
use wire::snapshot::{FileTree, Inode, InodeKind};

/// The inode of the root directory.
pub(crate) const ROOT: u64 = 1;
/// What an inode costs beside its content, so that empty files are not free.
const INODE_COST: u64 = 128;
/// What a name costs beside its bytes.
const NAME_COST: u64 = 32;
/// Inode numbers stay below this, so that directory cookies fit.
const MAX_INODE: u64 = 1 << 44;

/// A file tree that no process can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Inode 1 is missing or not a directory.
    #[error("the file tree has no root directory")]
    NoRoot,
    /// A directory names an inode that is not there.
    #[error("directory {directory} names inode {inode}, which is not there")]
    Missing {
        /// The directory's inode.
        directory: u64,
        /// The missing inode.
        inode: u64,
    },
    /// An entry's name is empty, too long, or contains a slash or a zero.
    #[error("directory {directory} has an entry whose name is not a file name")]
    BadName {
        /// The directory's inode.
        directory: u64,
    },
    /// A directory with two names, a wrong parent, or one that contains itself.
    #[error("directory {inode} does not hang in the tree exactly once")]
    Directory {
        /// The directory's inode.
        inode: u64,
    },
    /// An inode number that is not below `next`.
    #[error("inode {inode} has a number that is not in use")]
    Number {
        /// The inode.
        inode: u64,
    },
    /// An inode that has no name and that nothing has open.
    #[error("inode {inode} has no name, and no descriptor refers to it")]
    Unreachable {
        /// The inode.
        inode: u64,
    },
    /// More bytes than the limit.
    #[error("the files take {bytes} bytes, but the limit is {limit}")]
    TooLarge {
        /// Bytes that the tree takes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

/// A file tree in use.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    used: u64,
    limit: u64,
}

/// Key by which the entries of a directory are ordered when they are listed: it does not change
/// while other entries come and go. The name only tells hard links in one directory apart.
pub(super) fn cookie_of(inode: u64, name: &[u8]) -> u64 {
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    (inode << 16) + u64::from(hash >> 16 ^ hash & 0xffff)
}

pub(super) fn name_cost(name: &[u8]) -> u64 {
    NAME_COST + name.len() as u64
}

fn content_cost(node: &InodeKind) -> u64 {
    INODE_COST
        + match node {
            InodeKind::File(bytes) => bytes.len() as u64,
            InodeKind::Directory { entries, .. } => {
                entries.keys().map(|name| name_cost(name)).sum()
            }
            InodeKind::Link(target) => target.len() as u64,
        }
}

impl Tree {
    /// Takes a tree over; `open` are the inodes that descriptors refer to.
    pub(crate) fn new(
        mut tree: FileTree,
        limit: u64,
        open: &BTreeSet<u64>,
    ) -> Result<Tree, TreeError> {
        if tree.inodes.is_empty() {
            tree.inodes.insert(ROOT, empty_directory(ROOT, 0));
            tree.next = ROOT + 1;
        }
        check(&mut tree, open)?;
        let used = tree.inodes.values().fold(0u64, |sum, inode| {
            sum.saturating_add(content_cost(&inode.node))
        });
        if used > limit {
            return Err(TreeError::TooLarge { bytes: used, limit });
        }
        Ok(Tree {
            inodes: tree.inodes,
            next: tree.next,
            used,
            limit,
        })
    }

    /// The tree as it is written down.
    pub(crate) fn save(&self) -> FileTree {
        FileTree {
            inodes: self.inodes.clone(),
            next: self.next,
        }
    }

    pub(crate) fn inode(&self, number: u64) -> Call<&Inode> {
        self.inodes.get(&number).ok_or(Errno::NOENT)
    }

    pub(super) fn inode_mut(&mut self, number: u64) -> Call<&mut Inode> {
        self.inodes.get_mut(&number).ok_or(Errno::NOENT)
    }

    pub(super) fn directory(&self, number: u64) -> Call<&BTreeMap<Vec<u8>, u64>> {
        match &self.inode(number)?.node {
            InodeKind::Directory { entries, .. } => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn parent(&self, number: u64) -> Call<u64> {
        match &self.inode(number)?.node {
            InodeKind::Directory { parent, .. } => Ok(*parent),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(crate) fn is_directory(&self, number: u64) -> bool {
        self.directory(number).is_ok()
    }

    /// The content of a regular file.
    pub(crate) fn content(&self, number: u64) -> Call<&Vec<u8>> {
        match &self.inode(number)?.node {
            InodeKind::File(bytes) => Ok(bytes),
            InodeKind::Directory { .. } => Err(Errno::ISDIR),
            InodeKind::Link(_) => Err(Errno::LOOP),
        }
    }

    pub(crate) fn filetype(&self, number: u64) -> u8 {
        match self.inodes.get(&number).map(|inode| &inode.node) {
            Some(InodeKind::File(_)) => filetype::REGULAR_FILE,
            Some(InodeKind::Directory { .. }) => filetype::DIRECTORY,
            Some(InodeKind::Link(_)) => filetype::SYMBOLIC_LINK,
            None => filetype::UNKNOWN,
        }
    }

    /// What a file's `size` reads as.
    pub(crate) fn size(&self, number: u64) -> u64 {
        match self.inodes.get(&number).map(|inode| &inode.node) {
            Some(InodeKind::File(bytes)) => bytes.len() as u64,
            Some(InodeKind::Link(target)) => target.len() as u64,
            _ => 0,
        }
    }

    /// Takes room for `bytes` more.
    pub(super) fn charge(&mut self, bytes: u64) -> Call {
        let used = self.used.checked_add(bytes).ok_or(Errno::NOSPC)?;
        if used > self.limit {
            return Err(Errno::NOSPC);
        }
        self.used = used;
        Ok(())
    }

    pub(super) fn refund(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// A new inode, not yet named.
    pub(super) fn create(&mut self, node: InodeKind, now: u64) -> Call<u64> {
        if self.next >= MAX_INODE {
            return Err(Errno::NOSPC);
        }
        self.charge(content_cost(&node))?;
        let number = self.next;
        self.next += 1;
        let inode = Inode {
            node,
            accessed_ns: now,
            modified_ns: now,
            changed_ns: now,
            links: 0,
        };
        self.inodes.insert(number, inode);
        Ok(number)
    }

    /// Removes an inode that has neither a name nor a descriptor any more.
    pub(crate) fn forget(&mut self, number: u64) {
        if number == ROOT || self.inodes.get(&number).is_none_or(|inode| inode.links > 0) {
            return;
        }
        if let Some(inode) = self.inodes.remove(&number) {
            self.refund(content_cost(&inode.node));
        }
    }

    /// Reads at `position` as much as fits.
    pub(crate) fn read(&self, number: u64, position: u64, buffer: &mut [u8]) -> Call<usize> {
        let content = self.content(number)?;
        let start = usize::try_from(position).unwrap_or(usize::MAX);
        let rest = content.get(start..).unwrap_or(&[]);
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    /// Makes room for a write that ends at `end`; the gap reads as zeros.
    pub(crate) fn reserve(&mut self, number: u64, end: u64) -> Call {
        let length = self.content(number)?.len() as u64;
        if end > length {
            self.resize(number, end)?;
        }
        Ok(())
    }

    /// Writes at `position`, which [`Tree::reserve`] has made room for.
    pub(crate) fn write(&mut self, number: u64, position: u64, bytes: &[u8]) -> Call {
        let InodeKind::File(content) = &mut self.inode_mut(number)?.node else {
            return Err(Errno::ISDIR);
        };
        let start = usize::try_from(position).map_err(|_| Errno::FBIG)?;
        let end = start.checked_add(bytes.len()).ok_or(Errno::FBIG)?;
        let target = content.get_mut(start..end).ok_or(Errno::NOSPC)?;
        target.copy_from_slice(bytes);
        Ok(())
    }

    /// Cuts a file or fills it up with zeros.
    pub(crate) fn resize(&mut self, number: u64, size: u64) -> Call {
        let length = self.content(number)?.len() as u64;
        if size > self.limit.max(length) {
            return Err(Errno::FBIG);
        }
        if size > length {
            self.charge(size - length)?;
        } else {
            self.refund(length - size);
        }
        let size = usize::try_from(size).map_err(|_| Errno::FBIG)?;
        if let InodeKind::File(content) = &mut self.inode_mut(number)?.node {
            content.resize(size, 0);
            if size == 0 {
                content.shrink_to_fit();
            }
        }
        Ok(())
    }

    pub(crate) fn touch_modified(&mut self, number: u64, now: u64) {
        if let Ok(inode) = self.inode_mut(number) {
            inode.modified_ns = now;
            inode.changed_ns = now;
        }
    }

    /// Sets the times that are given.
    pub(crate) fn set_times(
        &mut self,
        number: u64,
        accessed: Option<u64>,
        modified: Option<u64>,
        now: u64,
    ) -> Call {
        let inode = self.inode_mut(number)?;
        inode.accessed_ns = accessed.unwrap_or(inode.accessed_ns);
        inode.modified_ns = modified.unwrap_or(inode.modified_ns);
        inode.changed_ns = now;
        Ok(())
    }

    /// Bytes in use, by the tree's own account.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// The tree's account, taken anew.
    #[cfg(test)]
    pub(crate) fn recount(&self) -> u64 {
        let costs = self.inodes.values().map(|inode| content_cost(&inode.node));
        costs.sum()
    }
}

pub(super) fn empty_directory(parent: u64, now: u64) -> Inode {
    Inode {
        node: InodeKind::Directory {
            entries: BTreeMap::new(),
            parent,
        },
        accessed_ns: now,
        modified_ns: now,
        changed_ns: now,
        links: 1,
    }
}

/// Checks the shape of a tree and counts its links anew.
fn check(tree: &mut FileTree, open: &BTreeSet<u64>) -> Result<(), TreeError> {
    if let Some((&inode, _)) = tree.inodes.last_key_value()
        && (inode >= tree.next || tree.next > MAX_INODE)
    {
        return Err(TreeError::Number { inode });
    }
    if tree.inodes.contains_key(&0) {
        return Err(TreeError::Number { inode: 0 });
    }
    let parent_of_root = match tree.inodes.get(&ROOT).map(|inode| &inode.node) {
        Some(InodeKind::Directory { parent, .. }) => *parent,
        _ => return Err(TreeError::NoRoot),
    };
    if parent_of_root != ROOT {
        return Err(TreeError::Directory { inode: ROOT });
    }
    let mut links: BTreeMap<u64, u64> = BTreeMap::from([(ROOT, 1)]);
    let mut queue = vec![ROOT];
    while let Some(directory) = queue.pop() {
        let Some(InodeKind::Directory { entries, .. }) =
            tree.inodes.get(&directory).map(|inode| &inode.node)
        else {
            continue;
        };
        for (name, &inode) in entries {
            if !valid_name(name) {
                return Err(TreeError::BadName { directory });
            }
            let Some(child) = tree.inodes.get(&inode) else {
                return Err(TreeError::Missing { directory, inode });
            };
            let count = links.entry(inode).or_insert(0);
            *count += 1;
            if let InodeKind::Directory { parent, .. } = &child.node {
                if *count > 1 || *parent != directory {
                    return Err(TreeError::Directory { inode });
                }
                queue.push(inode);
            }
        }
    }
    for (&number, inode) in &mut tree.inodes {
        inode.links = links.get(&number).copied().unwrap_or(0);
        if inode.links > 0 {
            continue;
        }
        if !open.contains(&number) {
            return Err(TreeError::Unreachable { inode: number });
        }
        // A removed directory that is still open is empty and leads nowhere.
        if let InodeKind::Directory { entries, parent } = &inode.node
            && (!entries.is_empty() || *parent != number)
        {
            return Err(TreeError::Directory { inode: number });
        }
    }
    Ok(())
}
