//! Checkpoint files: a snapshot with all that is needed to go on from it.
//!
//! ```text
//! offset  size
//!      0     8  magic "LIMOSACP"
//!      8     2  format version, little-endian
//!     10     2  zero
//!     12     4  length of the head; at most 4 KiB
//!     16     8  length of the snapshot
//!     24     8  length of the module
//!     32    32  BLAKE3 over bytes 0..32 and everything after byte 64
//!     64     …  head, in postcard's encoding: process id, name, places of
//!            its listeners
//!      …     …  snapshot (see `wire::snapshot`)
//!      …     …  module, as given
//! ```

use crate::ProcessId;
use serde::{Deserialize, Serialize};

/// The first eight bytes of every checkpoint file.
pub const MAGIC: [u8; 8] = *b"LIMOSACP";
/// The version this code writes and reads.
pub const FORMAT_VERSION: u16 = 1;

const HEADER_BYTES: usize = 64;
const CHECKSUM_AT: usize = 32;
const MAX_HEAD: usize = 4096;

/// Bytes that are not a checkpoint file that this code can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// It does not begin like one.
    #[error("this is not a Limosa checkpoint; give a file that `limosa checkpoint` wrote")]
    NotACheckpoint,
    /// There are fewer bytes than it says.
    #[error(
        "the checkpoint is truncated: {have} bytes of {need} are there; it was cut off while it \
         was written or copied: copy it again"
    )]
    Truncated {
        /// Bytes there.
        have: u64,
        /// Bytes that it must have.
        need: u64,
    },
    /// There are more bytes than it says.
    #[error("{0} bytes follow the end of the checkpoint; copy it again")]
    Trailing(u64),
    /// A release after this one wrote it.
    #[error(
        "the checkpoint has format version {0}; this release reads {FORMAT_VERSION}: restore it \
         with the release that wrote it, or a later one"
    )]
    Newer(u16),
    /// Its bytes are not those that were written.
    #[error(
        "the checkpoint was altered: its checksum does not match its content; copy it again, or \
         take a new one"
    )]
    Altered,
    /// The checksum matches but the content is not a checkpoint's.
    #[error("the checkpoint is malformed: {0}; whatever wrote it is faulty")]
    Malformed(&'static str),
}

/// Whose state it is. Says nothing about who may run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The process.
    pub process: ProcessId,
    /// Its name.
    pub name: String,
    /// Where its listeners were, `ADDR:PORT` each, in their order: a wish, no right.
    pub listeners: Vec<String>,
}

/// A checkpoint file, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint<'a> {
    /// Whose state it is.
    pub head: Head,
    /// The snapshot, encoded.
    pub snapshot: &'a [u8],
    /// The module, as given.
    pub module: &'a [u8],
}

impl<'a> Checkpoint<'a> {
    /// The file's beginning: the snapshot and then the module follow it.
    pub fn encode_header(&self) -> Result<Vec<u8>, CheckpointError> {
        let too_long = CheckpointError::Malformed("its name is too long");
        let head = postcard::to_stdvec(&self.head).map_err(|_| too_long.clone())?;
        if head.len() > MAX_HEAD {
            return Err(too_long);
        }
        let mut header = MAGIC.to_vec();
        header.extend(FORMAT_VERSION.to_le_bytes());
        header.extend([0; 2]);
        header.extend((head.len() as u32).to_le_bytes());
        header.extend((self.snapshot.len() as u64).to_le_bytes());
        header.extend((self.module.len() as u64).to_le_bytes());
        let mut hasher = blake3::Hasher::new();
        for part in [&header[..], &head, self.snapshot, self.module] {
            hasher.update(part);
        }
        header.extend(hasher.finalize().as_bytes());
        header.extend(head);
        Ok(header)
    }

    /// The whole file.
    pub fn encode(&self) -> Result<Vec<u8>, CheckpointError> {
        Ok([&self.encode_header()?, self.snapshot, self.module].concat())
    }

    /// Takes a file apart, after checking that it is whole.
    pub fn decode(file: &'a [u8]) -> Result<Checkpoint<'a>, CheckpointError> {
        let magic = file.get(..MAGIC.len()).unwrap_or(file);
        if magic.is_empty() || !MAGIC.starts_with(magic) {
            return Err(CheckpointError::NotACheckpoint);
        }
        let have = file.len() as u64;
        let truncated = |need: u64| CheckpointError::Truncated { have, need };
        let number = |at: usize, bytes: usize| {
            let field = file.get(at..at + bytes)?;
            let place = |(index, byte): (usize, &u8)| u64::from(*byte) << (8 * index);
            Some(field.iter().enumerate().map(place).sum::<u64>())
        };
        let minimum = || truncated(HEADER_BYTES as u64);
        let version = number(8, 2).ok_or_else(minimum)?;
        if version > u64::from(FORMAT_VERSION) {
            return Err(CheckpointError::Newer(version as u16));
        }
        let (header, rest) = file.split_at_checked(HEADER_BYTES).ok_or_else(minimum)?;
        let mut lengths = [0; 3];
        for (length, (at, bytes)) in lengths.iter_mut().zip([(12, 4), (16, 8), (24, 8)]) {
            *length = number(at, bytes).ok_or_else(minimum)?;
        }
        let body = lengths
            .iter()
            .fold(0u64, |sum, length| sum.saturating_add(*length));
        let need = body.saturating_add(HEADER_BYTES as u64);
        if have < need {
            return Err(truncated(need));
        }
        if have > need {
            return Err(CheckpointError::Trailing(have - need));
        }
        let (fields, checksum) = header.split_at(CHECKSUM_AT);
        let mut hasher = blake3::Hasher::new();
        hasher.update(fields).update(rest);
        if hasher.finalize().as_bytes() != checksum {
            return Err(CheckpointError::Altered);
        }
        if version == 0 || number(10, 2) != Some(0) {
            return Err(CheckpointError::Malformed("its header is not one"));
        }
        // The sum of the lengths is the length of what is there, so each fits.
        let [head, snapshot, _] = lengths.map(|length| length as usize);
        let (head, rest) = rest.split_at_checked(head).ok_or_else(minimum)?;
        let (snapshot, module) = rest.split_at_checked(snapshot).ok_or_else(minimum)?;
        if head.len() > MAX_HEAD {
            return Err(CheckpointError::Malformed("its head is too long"));
        }
        let (head, rest): (Head, &[u8]) = postcard::take_from_bytes(head)
            .map_err(|_| CheckpointError::Malformed("its head cannot be read"))?;
        if !rest.is_empty() {
            return Err(CheckpointError::Malformed("bytes follow its head"));
        }
        Ok(Checkpoint {
            head,
            snapshot,
            module,
        })
    }
}

/// Makes the checksum of a file right, so that what follows it is looked at: for tests.
pub(crate) fn fix_checksum(file: &mut [u8]) {
    let Some((header, rest)) = file.split_at_mut_checked(HEADER_BYTES) else {
        return;
    };
    let (fields, checksum) = header.split_at_mut(CHECKSUM_AT);
    let mut hasher = blake3::Hasher::new();
    hasher.update(fields).update(rest);
    checksum.copy_from_slice(hasher.finalize().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint<'static> {
        Checkpoint {
            head: Head {
                process: ProcessId(7),
                name: "web".to_owned(),
                listeners: vec!["127.0.0.1:80".to_owned()],
            },
            snapshot: b"the snapshot",
            module: b"\0asm",
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let file = checkpoint().encode().unwrap();
        assert_eq!(Checkpoint::decode(&file).unwrap(), checkpoint());
    }

    #[test]
    fn the_format_is_the_documented_one() {
        let file = checkpoint().encode().unwrap();
        assert_eq!(&file[..12], b"LIMOSACP\x01\0\0\0");
        assert_eq!(
            &file[12..32],
            b"\x13\0\0\0\x0c\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0"
        );
        assert_eq!(&file[64..83], b"\x07\x03web\x01\x0c127.0.0.1:80");
        assert_eq!(&file[83..], b"the snapshot\0asm");
    }

    #[test]
    fn a_truncated_file_is_refused_wherever_it_ends() {
        let file = checkpoint().encode().unwrap();
        assert_eq!(
            Checkpoint::decode(b""),
            Err(CheckpointError::NotACheckpoint)
        );
        for length in 1..file.len() {
            let error = Checkpoint::decode(&file[..length]).unwrap_err();
            assert!(
                matches!(error, CheckpointError::Truncated { .. }),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn a_file_altered_at_any_byte_is_refused() {
        let file = checkpoint().encode().unwrap();
        for index in 0..file.len() {
            let mut altered = file.clone();
            altered[index] ^= 0x10;
            assert!(Checkpoint::decode(&altered).is_err(), "byte {index}");
        }
    }

    #[test]
    fn what_follows_and_what_is_newer_is_said() {
        let mut file = checkpoint().encode().unwrap();
        file.push(0);
        assert_eq!(Checkpoint::decode(&file), Err(CheckpointError::Trailing(1)));
        file[8] = 2;
        assert_eq!(Checkpoint::decode(&file), Err(CheckpointError::Newer(2)));
    }
}
