//! References to functions, wherever a program can keep them: as positions in the list of functions
//! that the artefact gives, for an address means nothing elsewhere.

use super::cursor::Cursor;
use super::error::DecodeError;

/// A reference to a function: its position in the artefact's list, or null.
pub type Reference = Option<u32>;

/// How null is written.
const NULL: u32 = u32::MAX;

/// The references in frames and tables; those in globals are with the globals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Those in frames, in the order in which the pass pushes them.
    pub frames: Vec<Reference>,
    /// All entries of every table that the program writes to, in index order.
    pub tables: Vec<Vec<Reference>>,
}

impl References {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.tables.is_empty()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let entries: usize = self.tables.iter().map(|table| 4 + 4 * table.len()).sum();
        let mut out = Vec::with_capacity(8 + 4 * self.frames.len() + entries);
        encode_list(&self.frames, &mut out);
        out.extend((self.tables.len() as u32).to_le_bytes());
        for table in &self.tables {
            encode_list(table, &mut out);
        }
        out
    }

    pub(super) fn decode(mut cursor: Cursor<'_>) -> Result<References, DecodeError> {
        let frames = decode_list(&mut cursor)?;
        let count = cursor.count(4, "tables")?;
        let mut tables = Vec::with_capacity(count);
        for _ in 0..count {
            tables.push(decode_list(&mut cursor)?);
        }
        cursor.finish()?;
        Ok(References { frames, tables })
    }
}

pub(super) fn encode(reference: Reference) -> [u8; 4] {
    reference.unwrap_or(NULL).to_le_bytes()
}

pub(super) fn decode(word: u32) -> Reference {
    (word != NULL).then_some(word)
}

fn encode_list(list: &[Reference], out: &mut Vec<u8>) {
    out.extend((list.len() as u32).to_le_bytes());
    out.extend(list.iter().flat_map(|reference| encode(*reference)));
}

fn decode_list(cursor: &mut Cursor<'_>) -> Result<Vec<Reference>, DecodeError> {
    let count = cursor.count(4, "references")?;
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        list.push(decode(cursor.u32()?));
    }
    Ok(list)
}
