//! From a path to an inode. A path is resolved against the directory of a descriptor and never
//! leads above it, neither by `..` nor by a symbolic link nor by a leading slash.

use super::super::abi::{Call, Errno};
use super::tree::Tree;
use wire::snapshot::{Entry, InodeKind};

/// Bytes of one name.
const MAX_NAME_BYTES: usize = 255;
const MAX_PATH_BYTES: usize = 4096;
const MAX_LINKS: u32 = 40;
/// Names that one lookup goes through, those of links included: more than any path has, and few
/// enough that a lookup takes well under a millisecond.
const MAX_STEPS: u32 = 4096;

/// Whether `name` can be the name of a directory entry.
pub(super) fn valid_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The directory that holds, or would hold, the last name.
    pub directory: u64,
    /// The last name; empty where the path ends in `.` or `..` and so names a directory itself.
    pub name: Vec<u8>,
    /// The inode, if there is one.
    pub inode: Option<u64>,
    /// The path ends in a slash: only a directory will do.
    pub slash: bool,
}

impl Place {
    /// The inode, or `ENOENT`.
    pub(super) fn existing(&self) -> Call<u64> {
        self.inode.ok_or(Errno::NOENT)
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let parts = path.split(|byte| *byte == b'/');
    parts.filter(|part| !part.is_empty())
}

impl Tree {
    /// Resolves the path of something to be made. A slash at its end is noted, but does not ask
    /// for what is there to be a directory: whatever it is, it is in the way.
    pub(super) fn lookup_new(&self, base: u64, path: &[u8]) -> Call<Place> {
        let end = path.iter().rposition(|byte| *byte != b'/');
        match end.and_then(|last| path.get(..=last)) {
            Some(bare) if bare.len() < path.len() => Ok(Place {
                slash: true,
                ..self.lookup(base, bare, false)?
            }),
            _ => self.lookup(base, path, false),
        }
    }

    /// Resolves the path of an entry to be removed or renamed: a link at its end is never followed,
    /// not even for a slash behind it.
    pub(super) fn lookup_entry(&self, base: u64, path: &[u8]) -> Call<Place> {
        let place = self.lookup_new(base, path)?;
        match place.inode {
            Some(inode) if place.slash && !self.is_directory(inode) => Err(Errno::NOTDIR),
            _ => Ok(place),
        }
    }

    /// Resolves the path of a file to be opened, and made if it is not there. A slash behind its
    /// name, be it in a link, asks for something else than a file.
    pub(super) fn lookup_to_create(&self, base: u64, path: &[u8], follow: bool) -> Call<Place> {
        self.resolve(base, path, follow, true)
    }

    /// Resolves `path` from the directory `base`. With `follow` a symbolic link at the end is
    /// followed; in the middle it always is.
    pub(super) fn lookup(&self, base: u64, path: &[u8], follow: bool) -> Call<Place> {
        self.resolve(base, path, follow, false)
    }

    fn resolve(&self, base: u64, path: &[u8], follow: bool, create: bool) -> Call<Place> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if path.len() > MAX_PATH_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        if path.contains(&0) {
            return Err(Errno::INVAL);
        }
        if path.starts_with(b"/") {
            return Err(Errno::PERM);
        }
        let mut way = vec![base];
        let mut rest: Vec<&[u8]> = components(path).rev().collect();
        let mut slash = path.ends_with(b"/");
        let (mut links, mut steps) = (0, 0);
        while let Some(name) = rest.pop() {
            steps += 1;
            if steps > MAX_STEPS {
                return Err(Errno::LOOP);
            }
            let &directory = way.last().ok_or(Errno::PERM)?;
            let entries = &self.directory(directory)?.entries;
            match name {
                b"." => continue,
                b".." => {
                    way.pop();
                    if way.is_empty() {
                        return Err(Errno::PERM);
                    }
                    continue;
                }
                name if name.len() > MAX_NAME_BYTES => return Err(Errno::NAMETOOLONG),
                _ => {}
            }
            let last = rest.is_empty();
            if last && slash && create {
                return Err(Errno::ISDIR);
            }
            let place = |inode, slash| Place {
                directory,
                name: name.to_vec(),
                inode,
                slash,
            };
            let Some(&Entry { inode, .. }) = entries.get(name) else {
                return match last {
                    true => Ok(place(None, slash)),
                    false => Err(Errno::NOENT),
                };
            };
            match &self.inode(inode)?.node {
                InodeKind::Link(target) if !last || follow || slash => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.is_empty() {
                        return Err(Errno::NOENT);
                    }
                    if target.starts_with(b"/") {
                        return Err(Errno::PERM);
                    }
                    slash |= last && target.ends_with(b"/");
                    rest.extend(components(target).rev());
                }
                InodeKind::Directory(_) if !last => way.push(inode),
                InodeKind::Directory(_) => return Ok(place(Some(inode), slash)),
                _ if !last || slash => return Err(Errno::NOTDIR),
                _ => return Ok(place(Some(inode), slash)),
            }
        }
        let &directory = way.last().ok_or(Errno::PERM)?;
        // The directory itself; it may have been removed while it was open.
        self.directory(directory)?;
        Ok(Place {
            directory,
            name: Vec::new(),
            inode: Some(directory),
            slash: true,
        })
    }
}
