//! The guest's memory as the kernel sees it. Every pointer is hostile: each access is checked
//! against the memory and answers `EFAULT`.

use super::abi::{Call, Errno, MAX_IOVECS};
use std::ops::Range;

/// The linear memory of the process during one host call.
pub(crate) struct Guest<'a> {
    bytes: &'a mut [u8],
}

/// Buffers of one vectored read or write, all inside the memory.
pub(crate) type Buffers = Vec<Range<usize>>;

impl<'a> Guest<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Guest<'a> {
        Guest { bytes }
    }

    /// The range of `length` bytes at `pointer`, if all of it is memory.
    pub(crate) fn range(&self, pointer: u32, length: u32) -> Call<Range<usize>> {
        let start = pointer as usize;
        let end = start.checked_add(length as usize).ok_or(Errno::FAULT)?;
        if end > self.bytes.len() {
            return Err(Errno::FAULT);
        }
        Ok(start..end)
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> Call<&[u8]> {
        self.bytes.get(range).ok_or(Errno::FAULT)
    }

    pub(crate) fn slice_mut(&mut self, range: Range<usize>) -> Call<&mut [u8]> {
        self.bytes.get_mut(range).ok_or(Errno::FAULT)
    }

    pub(crate) fn bytes(&self, pointer: u32, length: u32) -> Call<&[u8]> {
        self.slice(self.range(pointer, length)?)
    }

    pub(crate) fn bytes_mut(&mut self, pointer: u32, length: u32) -> Call<&mut [u8]> {
        let range = self.range(pointer, length)?;
        self.slice_mut(range)
    }

    pub(crate) fn write(&mut self, pointer: u32, bytes: &[u8]) -> Call {
        let length = u32::try_from(bytes.len()).map_err(|_| Errno::FAULT)?;
        self.bytes_mut(pointer, length)?.copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn write_u32(&mut self, pointer: u32, value: u32) -> Call {
        self.write(pointer, &value.to_le_bytes())
    }

    pub(crate) fn write_u64(&mut self, pointer: u32, value: u64) -> Call {
        self.write(pointer, &value.to_le_bytes())
    }

    /// The buffers of a vectored call; all are checked before the call has any effect.
    pub(crate) fn buffers(&self, pointer: u32, count: u32) -> Call<Buffers> {
        if count > MAX_IOVECS {
            return Err(Errno::INVAL);
        }
        let list = self.bytes(pointer, count * 8)?;
        let buffer = |entry: &[u8]| self.range(u32_at(entry, 0), u32_at(entry, 4));
        let buffers: Buffers = list.chunks_exact(8).map(buffer).collect::<Call<_>>()?;
        let total: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        // The count of bytes moved is returned in 32 bits.
        if total > u64::from(u32::MAX) {
            return Err(Errno::INVAL);
        }
        Ok(buffers)
    }
}

/// A little-endian number inside a structure that was read whole; 0 beyond its end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..at + 4).and_then(|part| part.try_into().ok());
    u32::from_le_bytes(part.unwrap_or_default())
}

/// The same for 64 bits.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
    u64::from_le_bytes(part.unwrap_or_default())
}

/// The same for 16 bits.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let part = bytes.get(at..at + 2).and_then(|part| part.try_into().ok());
    u16::from_le_bytes(part.unwrap_or_default())
}

/// A structure that is filled field by field before it is written.
pub(crate) struct Record<const N: usize>(pub [u8; N]);

impl<const N: usize> Record<N> {
    pub(crate) fn new() -> Self {
        Record([0; N])
    }

    /// Puts a field at its offset; an offset beyond the end is a bug in the kernel.
    pub(crate) fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_outside_the_memory_are_faults_and_never_panics() {
        let mut memory = vec![0; 64];
        let mut guest = Guest::new(&mut memory);
        for (pointer, length) in [
            (0, 65),
            (64, 1),
            (u32::MAX, 1),
            (u32::MAX, u32::MAX),
            (65, 0),
        ] {
            assert_eq!(guest.bytes(pointer, length), Err(Errno::FAULT));
            assert_eq!(guest.bytes_mut(pointer, length), Err(Errno::FAULT));
        }
        assert_eq!(guest.bytes(64, 0), Ok(&[][..]));
        assert_eq!(guest.write_u64(57, 1), Err(Errno::FAULT));
        assert_eq!(guest.write_u64(56, 1), Ok(()));
    }

    #[test]
    fn a_vectored_call_is_bounded_and_checked_as_a_whole() {
        let mut memory = vec![0; 64];
        memory[0..8].copy_from_slice(&[8, 0, 0, 0, 4, 0, 0, 0]);
        memory[8..16].copy_from_slice(&[60, 0, 0, 0, 5, 0, 0, 0]);
        let guest = Guest::new(&mut memory);
        assert_eq!(guest.buffers(0, 1).unwrap(), vec![8..12]);
        assert_eq!(guest.buffers(0, 2), Err(Errno::FAULT));
        assert_eq!(guest.buffers(0, MAX_IOVECS + 1), Err(Errno::INVAL));
        assert_eq!(guest.buffers(0, u32::MAX), Err(Errno::INVAL));
    }
}
