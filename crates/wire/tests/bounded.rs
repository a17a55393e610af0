//! A hostile snapshot makes its reader allocate no more than a small multiple of its own length.
//! Alone in its file, for it looks at the address space of the whole process.
#![cfg(target_os = "linux")]

mod support;

use support::{full, mutate};
use wire::snapshot::{Snapshot, fix_header};

/// The largest that this process's address space has been, in KiB. Reserved memory counts, so an
/// allocation is seen even if nothing is written to it.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmPeak:"))
        .unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn decoding_hostile_snapshots_stays_within_memory_bounds() {
    let original = full().encode();
    Snapshot::decode(&original).unwrap();
    let before = peak_kib();
    let try_all = |original: &[u8], seed| {
        mutate(
            original,
            seed,
            |_, mut bytes| {
                fix_header(&mut bytes);
                let _ = Snapshot::decode(&bytes);
            },
            3000,
        );
    };
    try_all(&original, 1);
    // Lengths in the small sections, which mutations of everything hit too rarely.
    let mut small = full();
    small.memories.clear();
    small.frames.clear();
    try_all(&small.encode(), 2);
    let grown = peak_kib() - before;
    assert!(grown < 64 * 1024, "the address space grew by {grown} KiB");
}
