//! The header of a snapshot: enough to know how much to read, and whether to.

use super::cursor::Cursor;
use super::error::{DecodeError, malformed};

/// The first eight bytes of every snapshot.
pub const MAGIC: [u8; 8] = *b"LIMOSA\r\n";
/// The version this code writes; it reads this one and the one before.
pub const FORMAT_VERSION: u16 = 1;
/// The oldest version this code reads.
pub const OLDEST_FORMAT_VERSION: u16 = 1;
/// Bytes before the first section.
pub const HEADER_BYTES: usize = 56;

/// Where the checksum lies in the header.
const CHECKSUM_AT: usize = 24;

/// What precedes the sections; `codec` draws it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format version.
    pub version: u16,
    /// The number of sections.
    pub sections: u32,
    /// The length of everything after the header, in bytes.
    pub body_bytes: u64,
    /// BLAKE3 over the header before the checksum and everything after the header.
    pub checksum: [u8; 32],
}

impl Header {
    /// Reads the header at the beginning of `bytes` ([`HEADER_BYTES`] are enough). A reader of
    /// files or links compares [`Header::total_bytes`] with its own limit before it goes on.
    pub fn read(bytes: &[u8]) -> Result<Header, DecodeError> {
        let magic = bytes.get(..MAGIC.len()).unwrap_or(bytes);
        if magic.is_empty() || !MAGIC.starts_with(magic) {
            return Err(DecodeError::NotASnapshot);
        }
        let truncated = || DecodeError::Truncated {
            have: bytes.len() as u64,
            need: HEADER_BYTES as u64,
        };
        let mut fields = Cursor {
            section: "header",
            rest: bytes.get(MAGIC.len()..).ok_or_else(truncated)?,
        };
        // The version comes before the rest: another version may have another header.
        let version = fields.u16().map_err(|_| truncated())?;
        if version > FORMAT_VERSION {
            return Err(DecodeError::Newer {
                version,
                newest: FORMAT_VERSION,
            });
        }
        if version < OLDEST_FORMAT_VERSION {
            return Err(DecodeError::Older {
                version,
                oldest: OLDEST_FORMAT_VERSION,
            });
        }
        if bytes.len() < HEADER_BYTES {
            return Err(truncated());
        }
        let reserved = fields.u16()?;
        let header = Header {
            version,
            sections: fields.u32()?,
            body_bytes: fields.u64()?,
            checksum: fields.array()?,
        };
        if reserved != 0 {
            return Err(malformed("header", "its reserved bytes are not zero"));
        }
        Ok(header)
    }

    /// The length of the whole snapshot, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.body_bytes.saturating_add(HEADER_BYTES as u64)
    }
}

/// The checksum of a snapshot whose header's first bytes are `head`.
pub(super) fn checksum(head: &[u8], body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&head[..CHECKSUM_AT]).update(body);
    *hasher.finalize().as_bytes()
}

/// Makes the length and checksum of an altered snapshot right again, for tests that want to reach
/// what lies behind them. Does nothing to bytes shorter than a header.
#[doc(hidden)]
pub fn fix_header(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let (head, body) = bytes.split_at_mut(HEADER_BYTES);
    head[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    let checksum = checksum(head, body);
    head[CHECKSUM_AT..].copy_from_slice(&checksum);
}
