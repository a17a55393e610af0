//! The inodes of a file tree, and their cost.
//!
//! The tree is the snapshot's own structure ([`FileTree`]); what is kept beside it, the bytes in
//! use and the order in which directories are listed, follows from it. A tree that comes from a
//! snapshot is checked before anything walks it.
//!
//! No call takes time in the size of a file. What a file that shrinks or goes leaves behind is
//! freed little by little, by the calls that follow.

use super::super::abi::{Call, Errno, filetype};
use super::path::valid_name;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use wire::snapshot::{Chunk, Content, Directory, Entry, FileTree, Inode, InodeKind};

/// The inode of the root directory.
pub(crate) const ROOT: u64 = 1;
/// What an inode costs beside its content, so that empty files are not free. This and the next two
/// are what they take in the memory of the node, rounded up.
const INODE_COST: u64 = 256;
/// What a name costs beside its bytes, which are kept twice.
const NAME_COST: u64 = 128;
/// What a chunk of a file costs beside its bytes.
const CHUNK_COST: u64 = 128;
/// Numbers of inodes and of entries stay below this: no one counts so far, and a snapshot that
/// says so lies.
const MAX_NUMBER: u64 = 1 << 62;
/// The largest size of a file: offsets are signed.
pub(crate) const MAX_FILE_BYTES: u64 = i64::MAX as u64;
/// Chunks that are freed by one call: some tens of microseconds.
const FREED_AT_ONCE: usize = 16;
/// Access times are set when they are older than this, or than a change of the file.
const ACCESS_TIME_NS: u64 = 24 * 60 * 60 * 1_000_000_000;

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
    /// An entry whose serial number another one has, or that was not given yet.
    #[error("directory {directory} does not count its entries")]
    Serial {
        /// The directory's inode.
        directory: u64,
    },
    /// A file larger than any file can be.
    #[error("file {inode} is larger than {MAX_FILE_BYTES} bytes")]
    Size {
        /// The inode.
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
    /// The names of all entries by (directory, serial number).
    listing: BTreeMap<(u64, u64), Vec<u8>>,
    /// What is still to be freed; it counts as used.
    trash: Vec<Chunk>,
    used: u64,
    limit: u64,
}

pub(super) fn name_cost(name: &[u8]) -> u64 {
    NAME_COST + 2 * name.len() as u64
}

fn content_cost(node: &InodeKind) -> u64 {
    INODE_COST
        + match node {
            InodeKind::File(content) => {
                content.stored_bytes() + CHUNK_COST * content.stored_chunks()
            }
            InodeKind::Directory(directory) => {
                directory.entries.keys().map(|name| name_cost(name)).sum()
            }
            InodeKind::Link(target) => target.len() as u64,
        }
}

fn chunk_cost(chunk: &Chunk) -> u64 {
    CHUNK_COST + chunk.len() as u64
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
        let listing = check(&mut tree, open)?;
        let used = tree.inodes.values().fold(0u64, |sum, inode| {
            sum.saturating_add(content_cost(&inode.node))
        });
        if used > limit {
            return Err(TreeError::TooLarge { bytes: used, limit });
        }
        Ok(Tree {
            inodes: tree.inodes,
            next: tree.next,
            listing,
            trash: Vec::new(),
            used,
            limit,
        })
    }

    /// Bytes of files and names, as they count for the limit.
    pub(crate) fn used(&self) -> u64 {
        self.used
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

    pub(super) fn directory(&self, number: u64) -> Call<&Directory> {
        match &self.inode(number)?.node {
            InodeKind::Directory(directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn parent(&self, number: u64) -> Call<u64> {
        Ok(self.directory(number)?.parent)
    }

    /// The entries of a directory from the newest to the oldest, as (serial number, name, inode);
    /// from the one before the serial number `before` on, if that is given.
    pub(super) fn list(
        &self,
        number: u64,
        before: Option<u64>,
    ) -> Call<impl Iterator<Item = (u64, &[u8], u64)>> {
        let entries = &self.directory(number)?.entries;
        let end = (number, before.unwrap_or(MAX_NUMBER));
        let range = (Bound::Included((number, 0)), Bound::Excluded(end));
        Ok(self
            .listing
            .range(range)
            .rev()
            .filter_map(|((_, serial), name)| {
                let entry = entries.get(name)?;
                Some((*serial, name.as_slice(), entry.inode))
            }))
    }

    /// Adds an entry to a directory, under a serial number that it had there before or a new one.
    pub(super) fn insert_entry(
        &mut self,
        number: u64,
        name: &[u8],
        inode: u64,
        serial: Option<u64>,
        now: u64,
    ) -> Call {
        let holder = self.inode_mut(number)?;
        let InodeKind::Directory(directory) = &mut holder.node else {
            return Err(Errno::NOTDIR);
        };
        let serial = serial.unwrap_or(directory.next);
        directory.next = directory.next.max(serial + 1);
        let entry = Entry { inode, serial };
        directory.entries.insert(name.to_vec(), entry);
        holder.modified_ns = now;
        holder.changed_ns = now;
        self.listing.insert((number, serial), name.to_vec());
        Ok(())
    }

    /// Removes an entry from a directory.
    pub(super) fn remove_entry(&mut self, number: u64, name: &[u8], now: u64) -> Call<Entry> {
        let holder = self.inode_mut(number)?;
        let InodeKind::Directory(directory) = &mut holder.node else {
            return Err(Errno::NOTDIR);
        };
        let entry = directory.entries.remove(name).ok_or(Errno::NOENT)?;
        holder.modified_ns = now;
        holder.changed_ns = now;
        self.listing.remove(&(number, entry.serial));
        Ok(entry)
    }

    pub(crate) fn is_directory(&self, number: u64) -> bool {
        self.directory(number).is_ok()
    }

    /// The content of a regular file.
    pub(crate) fn content(&self, number: u64) -> Call<&Content> {
        match &self.inode(number)?.node {
            InodeKind::File(content) => Ok(content),
            InodeKind::Directory(_) => Err(Errno::ISDIR),
            InodeKind::Link(_) => Err(Errno::LOOP),
        }
    }

    fn content_mut(&mut self, number: u64) -> Call<&mut Content> {
        match &mut self.inode_mut(number)?.node {
            InodeKind::File(content) => Ok(content),
            InodeKind::Directory(_) => Err(Errno::ISDIR),
            InodeKind::Link(_) => Err(Errno::LOOP),
        }
    }

    pub(crate) fn filetype(&self, number: u64) -> u8 {
        match self.inodes.get(&number).map(|inode| &inode.node) {
            Some(InodeKind::File(_)) => filetype::REGULAR_FILE,
            Some(InodeKind::Directory(_)) => filetype::DIRECTORY,
            Some(InodeKind::Link(_)) => filetype::SYMBOLIC_LINK,
            None => filetype::UNKNOWN,
        }
    }

    /// What a file's `size` reads as.
    pub(crate) fn size(&self, number: u64) -> u64 {
        match self.inodes.get(&number).map(|inode| &inode.node) {
            Some(InodeKind::File(content)) => content.size(),
            Some(InodeKind::Link(target)) => target.len() as u64,
            _ => 0,
        }
    }

    /// Takes room for `bytes` more.
    pub(super) fn charge(&mut self, bytes: u64) -> Call {
        let left = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        let mut used = self.used;
        // What is only not freed yet is in nobody's way.
        while left(used).is_none() {
            let chunk = self.trash.pop().ok_or(Errno::NOSPC)?;
            used -= chunk_cost(&chunk);
            self.used = used;
        }
        self.used = used + bytes;
        Ok(())
    }

    pub(super) fn refund(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// A new inode, not yet named.
    pub(super) fn create(&mut self, node: InodeKind, now: u64) -> Call<u64> {
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
            let cost = content_cost(&inode.node);
            match inode.node {
                InodeKind::File(content) => {
                    self.refund(INODE_COST);
                    self.trash.extend(content.into_chunks());
                }
                _ => self.refund(cost),
            }
        }
    }

    /// Frees a little of what files that shrank or went have left behind.
    pub(crate) fn free_some(&mut self) {
        let kept = self.trash.len().saturating_sub(FREED_AT_ONCE);
        let freed: u64 = self
            .trash
            .drain(kept..)
            .map(|chunk| chunk_cost(&chunk))
            .sum();
        self.refund(freed);
    }

    /// Reads at `position` as much as fits.
    pub(crate) fn read(&self, number: u64, position: u64, buffer: &mut [u8]) -> Call<usize> {
        Ok(self.content(number)?.read(position, buffer))
    }

    /// Takes room for all bytes of `range` that are not stored yet.
    fn charge_range(&mut self, number: u64, range: Range<u64>) -> Call {
        if range.end > MAX_FILE_BYTES {
            return Err(Errno::FBIG);
        }
        let growth = self.content(number)?.growth(range);
        self.charge(growth.bytes + CHUNK_COST * growth.chunks)
    }

    /// Writes at `position`: all or, where there is no room, nothing.
    pub(crate) fn write(&mut self, number: u64, position: u64, bytes: &[u8]) -> Call {
        let end = position.checked_add(bytes.len() as u64);
        self.charge_range(number, position..end.ok_or(Errno::FBIG)?)?;
        self.content_mut(number)?.write(position, bytes);
        Ok(())
    }

    /// Whether there can be room for all of `range`, for all that can be told at once.
    pub(super) fn may_store(&self, number: u64, range: &Range<u64>) -> Call {
        if range.end > MAX_FILE_BYTES {
            return Err(Errno::FBIG);
        }
        let stored = self.content(number)?.stored_bytes();
        match (range.end - range.start).saturating_sub(stored) > self.limit {
            true => Err(Errno::NOSPC),
            false => Ok(()),
        }
    }

    /// Takes room for all of `range`, so that writing it cannot fail for want of it.
    pub(super) fn store(&mut self, number: u64, range: Range<u64>) -> Call {
        self.charge_range(number, range.clone())?;
        self.content_mut(number)?.store(range);
        Ok(())
    }

    /// Cuts a file, or lets it grow by a hole, which reads as zeros.
    pub(crate) fn resize(&mut self, number: u64, size: u64) -> Call {
        if size > MAX_FILE_BYTES {
            return Err(Errno::FBIG);
        }
        let (removed, less) = self.content_mut(number)?.resize(size);
        let whole: u64 = removed.iter().map(|chunk| chunk.len() as u64).sum();
        self.refund(less - whole);
        self.trash.extend(removed);
        Ok(())
    }

    /// Notes that a file or directory was read, as file systems mounted `relatime` do: only if it
    /// has changed since the last time, or that is a day ago.
    pub(crate) fn touch_accessed(&mut self, number: u64, now: u64) {
        if let Ok(inode) = self.inode_mut(number) {
            let last = inode.accessed_ns;
            let changed = inode.modified_ns.max(inode.changed_ns);
            if last <= changed || now.saturating_sub(last) >= ACCESS_TIME_NS {
                inode.accessed_ns = now;
            }
        }
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
        if accessed.is_none() && modified.is_none() {
            return Ok(());
        }
        inode.accessed_ns = accessed.unwrap_or(inode.accessed_ns);
        inode.modified_ns = modified.unwrap_or(inode.modified_ns);
        inode.changed_ns = now;
        Ok(())
    }

    /// The tree's account, taken anew.
    #[cfg(test)]
    pub(crate) fn recount(&self) -> u64 {
        let costs = self.inodes.values().map(|inode| content_cost(&inode.node));
        let trash = self.trash.iter().map(chunk_cost);
        costs.chain(trash).sum()
    }
}

fn empty_directory(parent: u64, now: u64) -> Inode {
    Inode {
        node: InodeKind::Directory(Directory::new(parent)),
        accessed_ns: now,
        modified_ns: now,
        changed_ns: now,
        links: 1,
    }
}

/// Checks the shape of a tree and counts its links anew. Gives the order of its listings.
fn check(
    tree: &mut FileTree,
    open: &BTreeSet<u64>,
) -> Result<BTreeMap<(u64, u64), Vec<u8>>, TreeError> {
    if let Some((&inode, _)) = tree.inodes.last_key_value()
        && (inode >= tree.next || tree.next > MAX_NUMBER)
    {
        return Err(TreeError::Number { inode });
    }
    if tree.inodes.contains_key(&0) {
        return Err(TreeError::Number { inode: 0 });
    }
    let parent_of_root = match tree.inodes.get(&ROOT).map(|inode| &inode.node) {
        Some(InodeKind::Directory(root)) => root.parent,
        _ => return Err(TreeError::NoRoot),
    };
    if parent_of_root != ROOT {
        return Err(TreeError::Directory { inode: ROOT });
    }
    let mut links: BTreeMap<u64, u64> = BTreeMap::from([(ROOT, 1)]);
    let mut listing = Vec::new();
    let mut queue = vec![ROOT];
    while let Some(number) = queue.pop() {
        let Some(InodeKind::Directory(directory)) =
            tree.inodes.get(&number).map(|inode| &inode.node)
        else {
            continue;
        };
        if directory.next > MAX_NUMBER {
            return Err(TreeError::Serial { directory: number });
        }
        for (name, &Entry { inode, serial }) in &directory.entries {
            if !valid_name(name) {
                return Err(TreeError::BadName { directory: number });
            }
            if serial >= directory.next {
                return Err(TreeError::Serial { directory: number });
            }
            let Some(child) = tree.inodes.get(&inode) else {
                return Err(TreeError::Missing {
                    directory: number,
                    inode,
                });
            };
            listing.push(((number, serial), name.clone()));
            let count = links.entry(inode).or_insert(0);
            *count += 1;
            if let InodeKind::Directory(state) = &child.node {
                if *count > 1 || state.parent != number {
                    return Err(TreeError::Directory { inode });
                }
                queue.push(inode);
            }
        }
    }
    for (&number, inode) in &mut tree.inodes {
        if let InodeKind::File(content) = &inode.node
            && content.size() > MAX_FILE_BYTES
        {
            return Err(TreeError::Size { inode: number });
        }
        inode.links = links.get(&number).copied().unwrap_or(0);
        if inode.links > 0 {
            continue;
        }
        if !open.contains(&number) {
            return Err(TreeError::Unreachable { inode: number });
        }
        // A removed directory that is still open is empty and leads nowhere.
        if let InodeKind::Directory(state) = &inode.node
            && (!state.entries.is_empty() || state.parent != number)
        {
            return Err(TreeError::Directory { inode: number });
        }
    }
    listing.sort_unstable();
    let twins = listing.windows(2).find(|pair| pair[0].0 == pair[1].0);
    match twins {
        Some(pair) => Err(TreeError::Serial {
            directory: pair[0].0.0,
        }),
        None => Ok(listing.into_iter().collect()),
    }
}
