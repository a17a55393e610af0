//! Snapshots as bytes.

use super::Snapshot;

/// The first eight bytes of every snapshot.
pub const MAGIC: [u8; 8] = *b"LIMOSA\r\n";
/// The version this code writes; it reads this one and the one before.
pub const FORMAT_VERSION: u16 = 1;

/// Bytes that are not a snapshot this code can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It does not begin like one.
    #[error("this is not a Limosa snapshot")]
    NotASnapshot,
}

impl Snapshot {
    /// Writes the snapshot as bytes.
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Reads a snapshot.
    pub fn decode(_bytes: &[u8]) -> Result<Snapshot, DecodeError> {
        Err(DecodeError::NotASnapshot)
    }
}
