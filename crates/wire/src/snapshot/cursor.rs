//! Numbers off the front of bytes that somebody else wrote: nothing is read beyond their end, and no
//! count is believed that they could not hold.

use super::error::{DecodeError, malformed};

/// Reads numbers off the front of a section's content.
pub(super) struct Cursor<'a> {
    pub(super) section: &'static str,
    pub(super) rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(length) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(malformed(
                self.section,
                format!(
                    "{length} bytes are needed where {} are left",
                    self.rest.len()
                ),
            )),
        }
    }
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }
    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }
    /// A count of things that take at least `each` bytes, so no more than the rest can hold.
    pub(super) fn count(&mut self, each: usize, things: &str) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        if count > self.rest.len() / each {
            return Err(malformed(
                self.section,
                format!(
                    "{count} {things} do not fit into the {} bytes left",
                    self.rest.len()
                ),
            ));
        }
        Ok(count)
    }
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(malformed(
            self.section,
            format!("{} bytes follow its end", self.rest.len()),
        ))
    }
}
