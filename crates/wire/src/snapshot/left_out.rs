//! What is left out of a snapshot on its way, because its target has it.
//!
//! ```text
//! target: has chunks of the process's files, from its last stay --Hints--> source
//! source: takes what they name out of the files ---------snapshot, [LeftOut]--> target puts it back
//! ```
//! A hint is the beginning of a digest, and only saves bytes: two chunks may share one. What is put
//! back is found by its whole digest, which the target has computed itself of the bytes that it has.
//! So whatever either side says, files come out as they were, or are refused.

use super::{Chunk, Content, FileTree, InodeKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Bytes from which on a chunk is left out: below, naming it saves little.
pub const LEFT_OUT_FROM: usize = 256;
/// Chunks that are left out of one snapshot, and hints that are given.
pub const MAX_LEFT_OUT: usize = 1 << 16;

const HINT_BYTES: usize = 8;

/// The BLAKE3 hash of a chunk's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    fn hint(&self) -> [u8; HINT_BYTES] {
        let mut hint = [0; HINT_BYTES];
        hint.copy_from_slice(&self.0[..HINT_BYTES]);
        hint
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = self.0.iter().take(HINT_BYTES);
        f.write_str("Digest(")?;
        hint.clone().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}

/// What a target has: the beginnings of the digests of chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints(BTreeSet<[u8; HINT_BYTES]>);

impl Hints {
    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> FromIterator<&'a Digest> for Hints {
    /// No more than [`MAX_LEFT_OUT`] of them.
    fn from_iter<T: IntoIterator<Item = &'a Digest>>(digests: T) -> Hints {
        let hints = digests.into_iter().map(Digest::hint);
        Hints(hints.take(MAX_LEFT_OUT).collect())
    }
}

/// A chunk that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The file that it is a part of.
    pub inode: u64,
    /// Its index there.
    pub index: u64,
    /// What it is.
    pub digest: Digest,
}

/// A chunk was left out and cannot be put back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a part of file {inode} was left out of the snapshot, and is not here any more or does not fit; \
     move the process again"
)]
pub struct Missing {
    /// The file.
    pub inode: u64,
}

impl FileTree {
    fn content_mut(&mut self, inode: u64) -> Option<&mut Content> {
        match &mut self.inodes.get_mut(&inode)?.node {
            InodeKind::File(content) => Some(content),
            _ => None,
        }
    }

    /// The chunks of all files that are worth being left out.
    pub fn chunks_to_keep(&self) -> impl Iterator<Item = &Chunk> {
        let contents = self.inodes.values().filter_map(|inode| match &inode.node {
            InodeKind::File(content) => Some(content),
            _ => None,
        });
        let chunks = contents.flat_map(Content::chunks).map(|(_, chunk)| chunk);
        chunks.filter(|chunk| chunk.len() >= LEFT_OUT_FROM)
    }

    /// Takes out what a target has, and says what that was. Computes digests that are not known yet,
    /// if there are any hints.
    pub fn leave_out(&mut self, hints: &Hints) -> Vec<LeftOut> {
        let mut left_out = Vec::new();
        if hints.is_empty() {
            return left_out;
        }
        for (&inode, state) in &mut self.inodes {
            let InodeKind::File(content) = &mut state.node else {
                continue;
            };
            let worth = content.chunks();
            let worth = worth.filter(|(_, chunk)| chunk.len() >= LEFT_OUT_FROM);
            let there = worth.filter(|(_, chunk)| hints.0.contains(&chunk.digest().hint()));
            let there: Vec<u64> = there.map(|(index, _)| index).collect();
            for index in there {
                if left_out.len() == MAX_LEFT_OUT {
                    return left_out;
                }
                if let Some(chunk) = content.take(index) {
                    let digest = *chunk.digest();
                    left_out.push(LeftOut {
                        inode,
                        index,
                        digest,
                    });
                }
            }
        }
        left_out
    }

    /// Puts back what was left out; `kept` finds a chunk that has a digest. On failure the tree is not
    /// to be used.
    pub fn put_back(
        &mut self,
        left_out: &[LeftOut],
        kept: impl Fn(&Digest) -> Option<Chunk>,
    ) -> Result<(), Missing> {
        for part in left_out {
            let chunk = kept(&part.digest);
            let content = self.content_mut(part.inode);
            let put = content.zip(chunk);
            if !put.is_some_and(|(content, chunk)| content.put(part.index, chunk)) {
                return Err(Missing { inode: part.inode });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CHUNK_BYTES, Inode};
    use super::*;
    use std::collections::HashMap;

    fn tree(files: &[&[u8]]) -> FileTree {
        let inodes = (2..).zip(files).map(|(number, bytes)| {
            let inode = Inode {
                node: InodeKind::File(Content::from(*bytes)),
                accessed_ns: 0,
                modified_ns: 0,
                changed_ns: 0,
                links: 1,
            };
            (number, inode)
        });
        FileTree {
            inodes: inodes.collect(),
            next: 100,
        }
    }

    fn stored(tree: &FileTree) -> u64 {
        let inodes = tree.inodes.values();
        let stored = inodes.map(|inode| match &inode.node {
            InodeKind::File(content) => content.stored_bytes(),
            _ => 0,
        });
        stored.sum()
    }

    fn kept(tree: &FileTree) -> HashMap<Digest, Chunk> {
        let chunks = tree.chunks_to_keep();
        chunks
            .map(|chunk| (*chunk.digest(), chunk.clone()))
            .collect()
    }

    #[test]
    fn only_what_has_changed_stays_and_the_files_come_out_as_they_were() {
        let large: Vec<u8> = (0..4 * CHUNK_BYTES + 5)
            .map(|at| (at / 1000) as u8)
            .collect();
        let small = vec![7; LEFT_OUT_FROM];
        let tiny = vec![9; LEFT_OUT_FROM - 1];
        let before = tree(&[&large, &small, &tiny, &small]);
        let kept = kept(&before);
        let mut changed = large.clone();
        changed[CHUNK_BYTES + 3] ^= 1;
        let now = tree(&[&changed, &small, &tiny, &small, b"new"]);

        let mut sent = now.clone();
        let left_out = sent.leave_out(&kept.keys().collect());
        // The last chunk of the large file is smaller than what is named.
        assert_eq!(left_out.len(), 3 + 2);
        assert_eq!(
            stored(&sent),
            (CHUNK_BYTES + 5 + LEFT_OUT_FROM - 1 + 3) as u64
        );
        assert_ne!(sent, now);
        let encoded = postcard::to_allocvec(&sent).unwrap();
        let mut arrived: FileTree = postcard::from_bytes(&encoded).unwrap();
        arrived
            .put_back(&left_out, |digest| kept.get(digest).cloned())
            .unwrap();
        assert_eq!(arrived, now);
        assert_eq!(stored(&arrived), stored(&now));

        let mut all = now.clone();
        assert!(all.leave_out(&Hints::default()).is_empty());
        assert_eq!(all, now);
    }

    #[test]
    fn what_is_not_there_or_does_not_fit_is_refused_whatever_is_claimed() {
        let (long, short) = (vec![1; CHUNK_BYTES], vec![2; 1000]);
        let full = tree(&[&long, &short]);
        let kept = kept(&full);
        let find = |digest: &Digest| kept.get(digest).cloned();
        let mut holes = full.clone();
        let left_out = holes.leave_out(&kept.keys().collect());
        assert_eq!(left_out.len(), 2);

        // A hint that is another chunk's leaves out what nobody has.
        let missing = holes.clone().put_back(&left_out, |_| None);
        assert_eq!(missing, Err(Missing { inode: 2 }));
        let with = |change: &dyn Fn(&mut LeftOut)| {
            let mut left_out = left_out.clone();
            change(&mut left_out[1]);
            holes.clone().put_back(&left_out, find)
        };
        assert_eq!(with(&|_| ()), Ok(()));
        let long = *kept
            .values()
            .find(|chunk| chunk.len() > 1000)
            .unwrap()
            .digest();
        assert!(with(&|part| part.digest = long).is_err(), "too long");
        assert!(with(&|part| part.index = 1).is_err(), "beyond the end");
        assert!(with(&|part| part.index = u64::MAX).is_err());
        assert!(with(&|part| part.inode = 9).is_err(), "no file");
        let first = left_out[0].clone();
        assert!(with(&|part| *part = first.clone()).is_err(), "twice");
        assert!(full.clone().put_back(&left_out, find).is_err(), "no hole");
    }
}
