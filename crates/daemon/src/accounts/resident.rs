//! Which pages of a process are in memory, by `/proc/self/pagemap`: 8 bytes for each page, of which
//! the highest bits say whether it is present, in swap, and of a file or shared.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use vm::Meter;

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;
const ENTRY_BYTES: usize = 8;
/// Entries read at once.
const ENTRIES: usize = 8192;

/// Pages in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Bytes that are in memory.
    pub bytes: u64,
    /// Bytes that are in memory or swap for this process alone: those it has written.
    pub private_bytes: u64,
}

/// Of all memories of a process. Takes some 20 ns per page: not for a thread that must not wait.
pub fn of_process(meter: &Meter) -> io::Result<Resident> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut resident = Resident::default();
    let mut result = Ok(());
    meter.each_memory(|range| {
        if result.is_ok() {
            result = count(&pagemap, range, &mut resident);
        }
    });
    result.map(|()| resident)
}

fn count(pagemap: &File, range: Range<usize>, resident: &mut Resident) -> io::Result<()> {
    let page = rustix::param::page_size();
    let mut buffer = vec![0; ENTRIES * ENTRY_BYTES];
    let (mut at, end) = (range.start / page, range.end.div_ceil(page));
    while at < end {
        let entries = ENTRIES.min(end - at);
        let wanted = buffer.get_mut(..entries * ENTRY_BYTES).unwrap_or_default();
        pagemap.read_exact_at(wanted, (at * ENTRY_BYTES) as u64)?;
        for entry in wanted.as_chunks::<ENTRY_BYTES>().0 {
            let entry = u64::from_le_bytes(*entry);
            if entry & PRESENT != 0 {
                resident.bytes += page as u64;
            }
            if entry & (PRESENT | SWAPPED) != 0 && entry & FILE_OR_SHARED == 0 {
                resident.private_bytes += page as u64;
            }
        }
        at += entries;
    }
    Ok(())
}

/// Of this whole OS process, in bytes; none where the system does not say.
pub fn of_this_program() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_were_written_are_counted_and_others_are_not() {
        let page = rustix::param::page_size();
        // Two more than are written, so that nothing else lies in the pages counted.
        let mut bytes: Vec<u8> = Vec::with_capacity(102 * page);
        let start = (bytes.as_ptr() as usize).next_multiple_of(page);
        let range = start..start + 100 * page;
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let resident = |range: Range<usize>| {
            let mut resident = Resident::default();
            count(&pagemap, range, &mut resident).unwrap();
            resident
        };
        let before = resident(range.clone());
        bytes.resize(50 * page, 1);
        std::hint::black_box(&bytes);
        let after = resident(range);
        let more = after.bytes - before.bytes;
        // Whole huge pages may have come.
        assert!(more >= 48 * page as u64, "{before:?} {after:?}");
        assert_eq!(after.bytes, after.private_bytes);
        assert!(of_this_program().unwrap() >= after.bytes);
    }
}
