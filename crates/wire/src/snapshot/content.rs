//! The bytes of a regular file, in chunks: holes take no room, and a copy shares what neither side
//! has changed.
//!
//! Every operation on a file takes time in the bytes it is given and the chunks it touches, never in the
//! size of the file, so that a kernel can bound how long each of its calls takes.

use super::left_out::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

/// Bytes of one chunk.
pub const CHUNK_BYTES: usize = 1 << 16;

/// A chunk: the bytes at its place that were written; what it lacks up to its end is zero.
pub type Chunk = Arc<ChunkBytes>;

/// The bytes of a chunk. Their digest is computed once for all that share them, until they change.
#[derive(Debug, Default)]
pub struct ChunkBytes {
    bytes: Vec<u8>,
    digest: OnceLock<Digest>,
}

impl ChunkBytes {
    /// The digest of the bytes. Takes some ten microseconds the first time.
    pub fn digest(&self) -> &Digest {
        self.digest.get_or_init(|| Digest::of(&self.bytes))
    }

    /// The bytes, to be changed.
    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        self.digest.take();
        &mut self.bytes
    }
}

impl From<Vec<u8>> for ChunkBytes {
    fn from(bytes: Vec<u8>) -> ChunkBytes {
        let digest = OnceLock::new();
        ChunkBytes { bytes, digest }
    }
}

impl Clone for ChunkBytes {
    /// A copy is made to be changed.
    fn clone(&self) -> ChunkBytes {
        self.bytes.clone().into()
    }
}

impl PartialEq for ChunkBytes {
    fn eq(&self, other: &ChunkBytes) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for ChunkBytes {}

impl Deref for ChunkBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes of a regular file. Nothing in it is empty or beyond the size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    size: u64,
    chunks: BTreeMap<u64, Chunk>,
    /// Bytes in all chunks.
    stored: u64,
}

/// What an operation adds to what is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Bytes.
    pub bytes: u64,
    /// Chunks.
    pub chunks: u64,
}

/// The part of chunk `index` that lies in `range` of the file.
fn part(index: u64, range: &Range<u64>) -> Range<usize> {
    let start = index * CHUNK_BYTES as u64;
    let inside = |at: u64| at.saturating_sub(start).min(CHUNK_BYTES as u64) as usize;
    inside(range.start)..inside(range.end)
}

/// The chunks that `range` of a file touches.
fn touched(range: &Range<u64>) -> Range<u64> {
    match range.is_empty() {
        true => 0..0,
        false => range.start / CHUNK_BYTES as u64..(range.end - 1) / CHUNK_BYTES as u64 + 1,
    }
}

impl Content {
    /// A file's size, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that are stored: those of holes are not.
    pub fn stored_bytes(&self) -> u64 {
        self.stored
    }

    /// Chunks that are stored.
    pub fn stored_chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// All bytes, holes as zeros. As large as the file: not for files of an unknown origin.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(0)];
        self.read(0, &mut bytes);
        bytes
    }

    /// Reads from `position` on, as much as there is and fits; gives the number of bytes.
    pub fn read(&self, position: u64, buffer: &mut [u8]) -> usize {
        let left = self.size.saturating_sub(position);
        let length = (buffer.len() as u64).min(left);
        let range = position..position.saturating_add(length);
        let mut rest = &mut buffer[..length as usize];
        for index in touched(&range) {
            let part = part(index, &range);
            let (target, after) = rest.split_at_mut(part.len());
            let chunk = self.chunks.get(&index).map_or(&[][..], |chunk| chunk);
            let there = chunk.get(part.start..part.end.min(chunk.len()));
            let there = there.unwrap_or_default();
            target[..there.len()].copy_from_slice(there);
            target[there.len()..].fill(0);
            rest = after;
        }
        length as usize
    }

    /// What storing all of `range` would add, whether or not it is written.
    pub fn growth(&self, range: Range<u64>) -> Growth {
        let mut growth = Growth::default();
        for index in touched(&range) {
            let end = part(index, &range).end;
            match self.chunks.get(&index) {
                Some(chunk) => growth.bytes += end.saturating_sub(chunk.len()) as u64,
                None => {
                    growth.bytes += end as u64;
                    growth.chunks += 1;
                }
            }
        }
        growth
    }

    /// The chunk at `index`, `end` bytes long or longer, to be written.
    fn chunk(&mut self, index: u64, end: usize) -> &mut Vec<u8> {
        let chunk = Arc::make_mut(self.chunks.entry(index).or_default()).bytes_mut();
        if chunk.len() < end {
            self.stored += (end - chunk.len()) as u64;
            if chunk.capacity() < end {
                // Doubled, but never beyond what a chunk can hold.
                let room = (2 * chunk.capacity()).clamp(end, CHUNK_BYTES);
                chunk.reserve_exact(room - chunk.len());
            }
            chunk.resize(end, 0);
        }
        chunk
    }

    /// Writes at `position`; the file grows as it must, and a gap before reads as zeros. The end
    /// of what is written must fit into 64 bits: writes nothing otherwise.
    pub fn write(&mut self, position: u64, bytes: &[u8]) {
        let Some(end) = position.checked_add(bytes.len() as u64) else {
            return;
        };
        let range = position..end;
        let mut rest = bytes;
        for index in touched(&range) {
            let part = part(index, &range);
            let (now, after) = rest.split_at(part.len());
            self.chunk(index, part.end)[part].copy_from_slice(now);
            rest = after;
        }
        if !bytes.is_empty() {
            self.size = self.size.max(end);
        }
    }

    /// Stores all of `range`, zeros where nothing was, so that writing it adds nothing any more.
    /// The file grows to its end.
    pub fn store(&mut self, range: Range<u64>) {
        for index in touched(&range) {
            let end = part(index, &range).end;
            self.chunk(index, end);
        }
        self.size = self.size.max(range.end);
    }

    /// Makes the file `size` bytes long, by a hole where it grows. Gives the chunks that are no
    /// longer part of it, and how many bytes less are stored.
    pub fn resize(&mut self, size: u64) -> (Vec<Chunk>, u64) {
        let before = self.stored;
        let mut removed = Vec::new();
        if size < self.size {
            let (last, kept) = (size / CHUNK_BYTES as u64, size % CHUNK_BYTES as u64);
            removed.extend(self.chunks.split_off(&(last + 1)).into_values());
            match self.chunks.get_mut(&last) {
                Some(_) if kept == 0 => removed.extend(self.chunks.remove(&last)),
                Some(chunk) if chunk.len() as u64 > kept => {
                    self.stored -= chunk.len() as u64 - kept;
                    let bytes = Arc::make_mut(chunk).bytes_mut();
                    bytes.truncate(kept as usize);
                }
                _ => {}
            }
            self.stored -= removed.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        }
        self.size = size;
        (removed, before - self.stored)
    }

    /// The chunks and their indexes, in order.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, &Chunk)> {
        self.chunks.iter().map(|(index, chunk)| (*index, chunk))
    }

    /// Takes a chunk out and leaves a hole.
    pub(super) fn take(&mut self, index: u64) -> Option<Chunk> {
        let chunk = self.chunks.remove(&index)?;
        self.stored -= chunk.len() as u64;
        Some(chunk)
    }

    /// Puts a chunk where a hole is. False if there is none of its size.
    pub(super) fn put(&mut self, index: u64, chunk: Chunk) -> bool {
        let fits = self.fits(index, chunk.len()) && !self.chunks.contains_key(&index);
        if fits {
            self.stored += chunk.len() as u64;
            self.chunks.insert(index, chunk);
        }
        fits
    }

    /// Whether a chunk can have so many bytes.
    fn fits(&self, index: u64, length: usize) -> bool {
        let start = index.checked_mul(CHUNK_BYTES as u64);
        let end = start.and_then(|start| start.checked_add(length as u64));
        (1..=CHUNK_BYTES).contains(&length) && end.is_some_and(|end| end <= self.size)
    }

    /// The chunks, when the file is gone.
    pub fn into_chunks(self) -> impl Iterator<Item = Chunk> {
        self.chunks.into_values()
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Content {
        let mut content = Content::default();
        content.write(0, bytes);
        content
    }
}

/// As it is written: the size, then index and bytes of every chunk in order.
#[derive(Serialize)]
struct Written<'a>(u64, Vec<(u64, &'a serde_bytes::Bytes)>);

#[derive(Deserialize)]
struct Read(u64, Vec<(u64, serde_bytes::ByteBuf)>);

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let chunks = self.chunks.iter();
        let chunks = chunks.map(|(index, chunk)| (*index, serde_bytes::Bytes::new(chunk)));
        Written(self.size, chunks.collect()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
        let Read(size, chunks) = Read::deserialize(deserializer)?;
        let wrong = |what| Err(serde::de::Error::custom(what));
        let mut content = Content {
            size,
            ..Content::default()
        };
        for (index, bytes) in chunks {
            let bytes = bytes.into_vec();
            if !content.fits(index, bytes.len()) {
                return wrong("a chunk of a file is empty, too long or beyond its end");
            }
            let last = content.chunks.last_key_value();
            if last.is_some_and(|(&last, _)| last >= index) {
                return wrong("the chunks of a file are not in order");
            }
            content.stored += bytes.len() as u64;
            content.chunks.insert(index, Arc::new(bytes.into()));
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = CHUNK_BYTES as u64;

    #[test]
    fn it_behaves_like_a_vector_and_counts_what_it_stores() {
        for seed in 0..50 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let (mut content, mut model) = (Content::default(), Vec::new());
            for step in 0..60 {
                let position = dice.u64(..4 * CHUNK);
                let length = [3, 1000, CHUNK, 2 * CHUNK][dice.usize(..4)];
                let length = dice.u64(..length) as usize;
                let end = position as usize + length;
                match dice.u8(..5) {
                    0 | 1 => {
                        let bytes = vec![dice.u8(1..); length];
                        let growth = content.growth(position..end as u64);
                        let before = (content.stored_bytes(), content.stored_chunks());
                        content.write(position, &bytes);
                        let after = (content.stored_bytes(), content.stored_chunks());
                        assert_eq!(before.0 + growth.bytes, after.0);
                        assert_eq!(before.1 + growth.chunks, after.1);
                        if length > 0 {
                            model.resize(model.len().max(end), 0);
                            model[position as usize..end].copy_from_slice(&bytes);
                        }
                    }
                    2 => {
                        let (stored, chunks) = (content.stored_bytes(), content.stored_chunks());
                        let (removed, less) = content.resize(position);
                        assert_eq!(content.stored_bytes() + less, stored);
                        assert_eq!(content.stored_chunks() + removed.len() as u64, chunks);
                        model.resize(position as usize, 0);
                    }
                    3 => {
                        content.store(position..end as u64);
                        model.resize(model.len().max(end), 0);
                        let growth = content.growth(position..end as u64);
                        assert_eq!(growth, Growth::default());
                    }
                    _ => {
                        let mut buffer = vec![7; length];
                        let count = content.read(position, &mut buffer);
                        let expected = model.get(position as usize..).unwrap_or_default();
                        let expected = &expected[..expected.len().min(length)];
                        assert!(buffer[..count] == *expected, "seed {seed}, step {step}");
                    }
                }
                assert_eq!(content.size(), model.len() as u64);
                let stored: usize = content.chunks.values().map(|chunk| chunk.len()).sum();
                assert_eq!(content.stored_bytes(), stored as u64);
                assert!(content.chunks.values().all(|chunk| !chunk.is_empty()));
            }
            assert!(content.to_vec() == model, "seed {seed}");
            let bytes = postcard::to_allocvec(&content).unwrap();
            assert_eq!(postcard::from_bytes::<Content>(&bytes).unwrap(), content);
        }
    }

    #[test]
    fn a_file_of_any_size_costs_only_what_is_written() {
        let mut content = Content::default();
        content.write(1 << 60, b"end");
        assert_eq!(content.size(), (1 << 60) + 3);
        assert_eq!((content.stored_bytes(), content.stored_chunks()), (3, 1));
        let mut buffer = [9; 4];
        assert_eq!(content.read((1 << 60) - 1, &mut buffer), 4);
        assert_eq!(&buffer, b"\0end");
        content.write(u64::MAX, b"too far");
        assert_eq!(content.size(), (1 << 60) + 3);
        let copy = content.clone();
        content.write(0, b"x");
        assert_eq!(copy.stored_chunks(), 1);
        let (removed, less) = content.resize(0);
        assert_eq!((removed.len(), less), (2, 4));
    }

    #[test]
    fn a_chunk_that_has_changed_has_another_digest() {
        let mut content = Content::from(&b"one"[..]);
        let digest = |content: &Content| *content.chunks().next().unwrap().1.digest();
        let before = digest(&content);
        let copy = content.clone();
        for change in [0, 1] {
            // Shared with the copy at first, then its own.
            content.write(change, b"2");
            assert_eq!(digest(&content), Digest::of(&content.to_vec()));
            assert_ne!(digest(&content), before);
        }
        content.resize(2);
        assert_eq!(digest(&content), Digest::of(&content.to_vec()));
        assert_eq!(digest(&copy), before);
    }

    #[test]
    fn chunks_that_do_not_fit_are_refused() {
        let encode = |size: u64, chunks: &[(u64, &[u8])]| {
            let chunks = chunks.iter();
            let chunks = chunks.map(|(index, bytes)| (*index, serde_bytes::Bytes::new(bytes)));
            postcard::to_allocvec(&Written(size, chunks.collect())).unwrap()
        };
        let long = vec![1; CHUNK_BYTES + 1];
        assert!(postcard::from_bytes::<Content>(&encode(3, &[(0, b"abc")])).is_ok());
        for bad in [
            encode(2, &[(0, b"abc")]),
            encode(3, &[(0, b"")]),
            encode(9 * CHUNK, &[(0, &long)]),
            encode(9 * CHUNK, &[(1, b"a"), (1, b"b")]),
            encode(9 * CHUNK, &[(2, b"a"), (1, b"b")]),
            encode(u64::MAX, &[(u64::MAX, b"a")]),
        ] {
            assert!(postcard::from_bytes::<Content>(&bad).is_err());
        }
    }
}
