//! Building a file tree for a process, and reading one back.

use std::collections::BTreeMap;
use wire::snapshot::{Content, Directory, FileTree, Inode, InodeKind};

const ROOT: u64 = 1;
const MAX_NAME_BYTES: usize = 255;

/// A path that cannot be put into a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// A part of it is `..`, too long, or contains a zero byte.
    #[error("`{path}` is not a path inside the process's file tree")]
    Path {
        /// The path.
        path: String,
    },
    /// A part of it is already there as something else.
    #[error("`{path}` cannot be added: there is already something else at this place")]
    Taken {
        /// The path.
        path: String,
    },
}

/// Builds the private file tree of a process. Paths are those that the program sees; a leading
/// slash changes nothing; missing directories are made.
#[derive(Clone, Debug)]
pub struct TreeBuilder {
    tree: FileTree,
    now_ns: u64,
}

impl TreeBuilder {
    /// An empty tree; `now_ns` (nanoseconds since 1970) becomes the times of all that is added.
    pub fn new(now_ns: u64) -> TreeBuilder {
        let tree = FileTree {
            inodes: BTreeMap::new(),
            next: ROOT,
        };
        let mut builder = TreeBuilder { tree, now_ns };
        builder.insert(InodeKind::Directory(Directory::new(ROOT)));
        builder
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &[u8]) -> Result<&mut Self, FilesError> {
        let parts = split(path)?;
        self.walk(&parts, path)?;
        Ok(self)
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &[u8], bytes: Vec<u8>) -> Result<&mut Self, FilesError> {
        self.add(path, InodeKind::File(Content::from(bytes.as_slice())))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<&mut Self, FilesError> {
        self.add(path, InodeKind::Link(target.to_vec()))
    }

    /// The tree.
    pub fn build(self) -> FileTree {
        self.tree
    }

    fn add(&mut self, path: &[u8], node: InodeKind) -> Result<&mut Self, FilesError> {
        let mut parts = split(path)?;
        let name = parts.pop().ok_or_else(|| taken(path))?;
        let holder = self.walk(&parts, path)?;
        if self.entry(holder, &name).is_some() {
            return Err(taken(path));
        }
        self.hang(holder, name, node);
        Ok(self)
    }

    /// The directory at the end of `parts`, made where it is missing.
    fn walk(&mut self, parts: &[Vec<u8>], path: &[u8]) -> Result<u64, FilesError> {
        let mut at = ROOT;
        for part in parts {
            at = match self.entry(at, part) {
                Some(inode) => inode,
                None => {
                    let made = InodeKind::Directory(Directory::new(at));
                    self.hang(at, part.clone(), made)
                }
            };
            let node = self.tree.inodes.get(&at).map(|inode| &inode.node);
            if !matches!(node, Some(InodeKind::Directory(_))) {
                return Err(taken(path));
            }
        }
        Ok(at)
    }

    fn entry(&self, directory: u64, name: &[u8]) -> Option<u64> {
        match &self.tree.inodes.get(&directory)?.node {
            InodeKind::Directory(directory) => Some(directory.entries.get(name)?.inode),
            _ => None,
        }
    }

    fn insert(&mut self, node: InodeKind) -> u64 {
        let number = self.tree.next;
        self.tree.next += 1;
        let inode = Inode {
            node,
            accessed_ns: self.now_ns,
            modified_ns: self.now_ns,
            changed_ns: self.now_ns,
            links: 1,
        };
        self.tree.inodes.insert(number, inode);
        number
    }

    fn hang(&mut self, holder: u64, name: Vec<u8>, node: InodeKind) -> u64 {
        let number = self.insert(node);
        if let Some(Inode {
            node: InodeKind::Directory(directory),
            ..
        }) = self.tree.inodes.get_mut(&holder)
        {
            directory.insert(name, number);
        }
        number
    }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn taken(path: &[u8]) -> FilesError {
    FilesError::Taken { path: text(path) }
}

fn split(path: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
    let parts = path.split(|byte| *byte == b'/');
    let parts: Vec<_> = parts
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    let bad = |part: &&[u8]| *part == b".." || part.len() > MAX_NAME_BYTES || part.contains(&0);
    if parts.iter().any(bad) {
        return Err(FilesError::Path { path: text(path) });
    }
    Ok(parts.into_iter().map(<[u8]>::to_vec).collect())
}

/// The content of the regular file at `path` in `tree`, if there is one. Links are not followed.
pub fn read_file(tree: &FileTree, path: &[u8]) -> Option<Vec<u8>> {
    let mut at = ROOT;
    for part in split(path).ok()? {
        match &tree.inodes.get(&at)?.node {
            InodeKind::Directory(directory) => at = directory.entries.get(&part)?.inode,
            _ => return None,
        }
    }
    match &tree.inodes.get(&at)?.node {
        InodeKind::File(content) => Some(content.to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_found_and_what_is_taken_is_refused() {
        let mut builder = TreeBuilder::new(7);
        builder.file(b"/a/b/c.txt", b"hello".to_vec()).unwrap();
        builder.directory(b"a/b").unwrap();
        builder.link(b"a/l", b"b/c.txt").unwrap();
        assert!(matches!(
            builder.file(b"a/b", Vec::new()),
            Err(FilesError::Taken { .. })
        ));
        assert!(matches!(
            builder.file(b"a/b/c.txt/d", Vec::new()),
            Err(FilesError::Taken { .. })
        ));
        assert!(matches!(
            builder.directory(b"../a"),
            Err(FilesError::Path { .. })
        ));
        let tree = builder.build();
        assert_eq!(read_file(&tree, b"/a/./b//c.txt"), Some(b"hello".to_vec()));
        assert_eq!(read_file(&tree, b"/a/b"), None);
        assert_eq!(read_file(&tree, b"/a/l"), None);
    }
}
