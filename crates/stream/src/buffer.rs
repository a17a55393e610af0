//! A queue of bytes in chunks: received chunks go in without being copied, and memory goes back as
//! soon as bytes leave.

use std::collections::VecDeque;
use std::fmt;

/// Chunks are filled up to this before another is begun, so that many small writes do not make many
/// small chunks.
const CHUNK_BYTES: usize = 16 * 1024;

/// A queue of bytes.
#[derive(Clone, Default)]
pub(crate) struct Buffer {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes at the front of the first chunk that have left.
    left: usize,
    len: usize,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

impl Buffer {
    pub fn from_vec(bytes: Vec<u8>) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.push_vec(bytes);
        buffer
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `bytes`.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        if let Some(last) = self.chunks.back_mut() {
            let fits = CHUNK_BYTES.saturating_sub(last.len()).min(bytes.len());
            let (now, later) = bytes.split_at(fits);
            last.extend_from_slice(now);
            bytes = later;
        }
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.chunks.push_back(chunk.to_vec());
        }
    }

    /// Appends `bytes`, without copying where there are many.
    pub fn push_vec(&mut self, bytes: Vec<u8>) {
        if bytes.len() < CHUNK_BYTES / 4 {
            self.push(&bytes);
        } else {
            self.len += bytes.len();
            self.chunks.push_back(bytes);
        }
    }

    /// The bytes at the front, as many as lie together.
    pub fn front(&self) -> &[u8] {
        let first = self.chunks.front().map(Vec::as_slice);
        first
            .unwrap_or_default()
            .get(self.left..)
            .unwrap_or_default()
    }

    /// Copies from the front into `target`; the bytes stay.
    pub fn peek(&self, target: &mut [u8]) -> usize {
        let mut done = 0;
        for part in self.parts(0) {
            let rest = target.get_mut(done..).unwrap_or_default();
            let length = part.len().min(rest.len());
            if length == 0 {
                break;
            }
            rest[..length].copy_from_slice(&part[..length]);
            done += length;
        }
        done
    }

    /// A copy of up to `length` bytes from `offset` on.
    pub fn copy(&self, offset: usize, length: usize) -> Vec<u8> {
        let length = length.min(self.len.saturating_sub(offset));
        let mut copy = Vec::with_capacity(length);
        for part in self.parts(offset) {
            let missing = length - copy.len();
            if missing == 0 {
                break;
            }
            copy.extend_from_slice(&part[..part.len().min(missing)]);
        }
        copy
    }

    /// Drops up to `length` bytes from the front.
    pub fn discard(&mut self, length: usize) {
        let mut rest = length.min(self.len);
        self.len -= rest;
        while let Some(first) = self.chunks.front() {
            let there = first.len() - self.left;
            if rest < there {
                self.left += rest;
                return;
            }
            rest -= there;
            self.chunks.pop_front();
            self.left = 0;
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Buffer::default();
    }

    /// The slices from `offset` on.
    fn parts(&self, offset: usize) -> impl Iterator<Item = &[u8]> {
        let mut skip = offset + self.left;
        self.chunks.iter().filter_map(move |chunk| {
            let part = chunk.get(skip..);
            skip = skip.saturating_sub(chunk.len());
            part
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_behaves_like_one_long_queue() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut buffer = Buffer::default();
            let mut model: VecDeque<u8> = VecDeque::new();
            for _ in 0..100 {
                let length = [3, 300, 5000, 40_000][random.usize(..4)];
                let length = random.usize(..=length);
                match random.u8(..6) {
                    0 => {
                        let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
                        model.extend(&bytes);
                        buffer.push(&bytes);
                    }
                    1 => {
                        let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
                        model.extend(&bytes);
                        buffer.push_vec(bytes);
                    }
                    2 | 3 => {
                        model.drain(..length.min(model.len()));
                        buffer.discard(length);
                    }
                    4 => {
                        let mut target = vec![0; length];
                        let done = buffer.peek(&mut target);
                        let expected: Vec<u8> = model.iter().take(length).copied().collect();
                        assert_eq!(target[..done], expected);
                    }
                    _ => {
                        let offset = random.usize(..=model.len());
                        let expected: Vec<u8> =
                            model.iter().skip(offset).take(length).copied().collect();
                        assert_eq!(buffer.copy(offset, length), expected);
                    }
                }
                assert_eq!(buffer.len(), model.len());
                assert_eq!(buffer.is_empty(), model.is_empty());
                let front = buffer.front();
                assert_eq!(front.is_empty(), model.is_empty());
                assert!(front.iter().eq(model.iter().take(front.len())));
            }
        }
    }

    #[test]
    fn many_small_writes_make_few_chunks() {
        let mut buffer = Buffer::default();
        for _ in 0..64 * 1024 {
            buffer.push_vec(vec![1]);
        }
        assert_eq!(buffer.chunks.len(), 4);
    }
}
