//! The snapshot format: golden bytes, and what bad input gets.

mod support;

use std::path::PathBuf;
use support::{birth, full, mutate, with_partners, with_references, with_volume};
use wire::snapshot::{
    DecodeError, Encoded, HEADER_BYTES, Header, MAGIC, PageKind, Run, Snapshot, fix_header,
};

fn golden(name: &str, snapshot: &Snapshot) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let encoded = snapshot.encode();
    // LIMOSA_BLESS=1 writes the files anew, for a new format version only.
    if std::env::var_os("LIMOSA_BLESS").is_some() {
        std::fs::write(&path, &encoded).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    assert!(encoded == bytes, "{name}: the format has changed");
    assert_eq!(&Snapshot::decode(&bytes).unwrap(), snapshot);
}

#[test]
fn a_snapshot_is_exactly_the_golden_bytes() {
    golden("birth-2.snapshot", &birth());
    golden("full-2.snapshot", &full());
    golden("references-2.snapshot", &with_references());
    golden("volumes-1.snapshot", &with_volume());
    golden("partners-2.snapshot", &with_partners());
}

#[test]
fn what_the_release_before_wrote_is_read() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (name, snapshot) in [("birth-1.snapshot", birth()), ("full-1.snapshot", full())] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        assert_eq!(Snapshot::decode(&bytes).unwrap(), snapshot, "{name}");
    }
}

#[test]
fn writing_in_slices_gives_the_same_bytes() {
    let snapshot = full();
    let encoder = snapshot.encoder();
    let bytes = snapshot.encode();
    assert_eq!(encoder.slices().collect::<Vec<_>>().concat(), bytes);
    assert_eq!(encoder.total_bytes(), bytes.len() as u64);
    let header = Header::read(&bytes[..HEADER_BYTES]).unwrap();
    assert_eq!(header.total_bytes(), bytes.len() as u64);
}

#[test]
fn the_given_pages_are_borrowed() {
    let snapshot = full();
    let encoder = snapshot.encoder();
    let given = snapshot.memories[0].given.as_ptr();
    assert!(encoder.slices().any(|slice| slice.as_ptr() == given));
}

#[test]
fn what_is_no_snapshot_is_called_so() {
    for bytes in [&b""[..], b"\0asm\x01\0\0\0", b"LIMOSA\n\n", b"hello"] {
        assert_eq!(Snapshot::decode(bytes), Err(DecodeError::NotASnapshot));
    }
}

#[test]
fn every_truncation_is_called_one() {
    let bytes = full().encode();
    for have in 1..bytes.len() {
        let error = Snapshot::decode(&bytes[..have]).unwrap_err();
        let need = if have < HEADER_BYTES {
            HEADER_BYTES
        } else {
            bytes.len()
        };
        assert_eq!(
            error,
            DecodeError::Truncated {
                have: have as u64,
                need: need as u64
            }
        );
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let mut bytes = full().encode();
    bytes.push(0);
    assert_eq!(
        Snapshot::decode(&bytes),
        Err(DecodeError::Trailing { extra: 1 })
    );
}

#[test]
fn any_altered_byte_is_noticed() {
    let bytes = birth().encode();
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 0x10;
        let error = Snapshot::decode(&altered).unwrap_err();
        if at >= 24 {
            assert_eq!(error, DecodeError::Altered, "byte {at}");
        }
    }
}

#[test]
fn a_snapshot_without_checksum_is_for_links_only() {
    let snapshot = birth();
    let encoded = Encoded::for_link(snapshot.clone().into());
    let bytes = encoded.slices().collect::<Vec<_>>().concat();
    assert_eq!(encoded.total_bytes(), bytes.len() as u64);
    let decoded = Snapshot::decode_from_link(bytes.clone()).unwrap();
    assert_eq!(decoded, snapshot);
    assert_eq!(Snapshot::decode(&bytes), Err(DecodeError::Altered));
    // And one with a checksum is none that came over a link.
    let error = Snapshot::decode_from_link(snapshot.encode()).unwrap_err();
    assert_eq!(error, DecodeError::Altered);
}

#[test]
fn over_a_link_every_memory_comes_back_and_the_largest_is_not_copied() {
    for largest in 0..3 {
        let mut snapshot = full();
        let page = |index: usize| vec![index as u8 + 1; wire::snapshot::PAGE_BYTES];
        snapshot.memories = (0..3)
            .map(|index| {
                let given = if index == largest { 16 } else { index };
                let mut map = wire::snapshot::PageMap::default();
                for number in 0..16 {
                    map.push(if number < given {
                        PageKind::Given
                    } else {
                        PageKind::Zero
                    });
                }
                wire::snapshot::Memory {
                    wasm_pages: 1,
                    map,
                    given: page(index).repeat(given),
                }
            })
            .collect();
        let encoded = Encoded::for_link(snapshot.clone().into());
        let bytes = encoded.slices().collect::<Vec<_>>().concat();
        let at = bytes.as_ptr();
        let decoded = Snapshot::decode_from_link(bytes).unwrap();
        assert_eq!(decoded.memories[largest].given.as_ptr(), at);
        assert_eq!(decoded, snapshot);
    }
}

#[test]
fn a_newer_version_is_named_whatever_follows() {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([7, 0]);
    let error = Snapshot::decode(&bytes).unwrap_err();
    assert_eq!(
        error,
        DecodeError::Newer {
            version: 7,
            newest: 1
        }
    );
    assert!(error.to_string().contains("reads up to 1"));
    bytes[8] = 0;
    assert_eq!(
        Snapshot::decode(&bytes),
        Err(DecodeError::Older {
            version: 0,
            oldest: 1
        })
    );
}

/// The sections of a snapshot as (kind, version, content).
fn sections(bytes: &[u8]) -> Vec<(u16, u16, Vec<u8>)> {
    let mut rest = &bytes[HEADER_BYTES..];
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let kind = u16::from_le_bytes([rest[0], rest[1]]);
        let version = u16::from_le_bytes([rest[2], rest[3]]);
        let length = u64::from_le_bytes(rest[4..12].try_into().unwrap()) as usize;
        sections.push((kind, version, rest[12..12 + length].to_vec()));
        rest = &rest[12 + length..];
    }
    sections
}

fn assemble(sections: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = birth().encode()[..HEADER_BYTES].to_vec();
    bytes[12..16].copy_from_slice(&(sections.len() as u32).to_le_bytes());
    for (kind, version, content) in sections {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(version.to_le_bytes());
        bytes.extend((content.len() as u64).to_le_bytes());
        bytes.extend(content);
    }
    fix_header(&mut bytes);
    bytes
}

#[test]
fn sections_are_required_once_in_order_and_known() {
    let snapshot = full();
    let good = sections(&snapshot.encode());
    assert_eq!(assemble(&good), snapshot.encode());

    let mut unknown = good.clone();
    unknown.push((9, 1, vec![1]));
    let error = Snapshot::decode(&assemble(&unknown)).unwrap_err();
    assert_eq!(error, DecodeError::UnknownSection { kind: 9 });

    let mut optional = good.clone();
    optional.push((0x8006, 9, vec![1]));
    assert_eq!(Snapshot::decode(&assemble(&optional)), Ok(snapshot));

    let mut twice = good.clone();
    twice.insert(1, good[1].clone());
    let error = Snapshot::decode(&assemble(&twice)).unwrap_err();
    assert_eq!(error, DecodeError::DuplicateSection { kind: 2 });

    let mut swapped = good.clone();
    swapped.swap(1, 2);
    let error = Snapshot::decode(&assemble(&swapped)).unwrap_err();
    assert_eq!(error, DecodeError::SectionOrder { kind: 2, after: 3 });

    for (at, name) in ["identity", "frames", "globals", "memories", "kernel"]
        .iter()
        .enumerate()
    {
        let mut missing = good.clone();
        missing.remove(at);
        let error = Snapshot::decode(&assemble(&missing)).unwrap_err();
        assert_eq!(error, DecodeError::MissingSection { section: name });

        let mut newer = good.clone();
        let known = newer[at].1;
        newer[at].1 = known + 1;
        let error = Snapshot::decode(&assemble(&newer)).unwrap_err();
        let expected = DecodeError::SectionVersion {
            section: name,
            version: known + 1,
            known,
        };
        assert_eq!(error, expected);

        // Frames are any bytes; all others know their end.
        if *name != "frames" {
            let mut longer = good.clone();
            longer[at].2.push(0);
            let error = Snapshot::decode(&assemble(&longer)).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            let mut shorter = good.clone();
            shorter[at].2.pop();
            let error = Snapshot::decode(&assemble(&shorter)).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

#[test]
fn a_page_map_that_does_not_fit_its_memory_is_refused() {
    let mut snapshot = full();
    snapshot.memories[1].wasm_pages = 2;
    let error = Snapshot::decode(&snapshot.encode()).unwrap_err();
    assert!(
        matches!(error, DecodeError::Memory { index: 1, .. }),
        "{error}"
    );

    let mut snapshot = full();
    snapshot.memories[1].wasm_pages = u64::MAX / 65536;
    snapshot.memories[1].map.runs[0].pages = u64::MAX / 4096;
    assert!(Snapshot::decode(&snapshot.encode()).is_err());

    let mut snapshot = full();
    snapshot.memories[1].map.runs = vec![
        Run {
            kind: PageKind::Zero,
            pages: 8,
        };
        2
    ];
    let error = Snapshot::decode(&snapshot.encode()).unwrap_err();
    assert!(error.to_string().contains("maximal"), "{error}");
}

#[test]
fn mutated_snapshots_are_refused_or_hold_together() {
    let (mut refused, mut read) = (0, 0);
    let all = [birth(), full(), with_references(), with_volume()];
    for original in all.map(|snapshot| snapshot.encode()) {
        mutate(
            &original,
            0x5eed,
            |number, mut bytes| {
                let as_is = Snapshot::decode(&bytes);
                assert!(
                    bytes == original || as_is.is_err(),
                    "mutation {number} was not noticed"
                );
                fix_header(&mut bytes);
                match Snapshot::decode(&bytes) {
                    Ok(snapshot) => {
                        read += 1;
                        for memory in &snapshot.memories {
                            memory.check().unwrap();
                        }
                        assert_eq!(Snapshot::decode(&snapshot.encode()).as_ref(), Ok(&snapshot));
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(!error.to_string().is_empty());
                    }
                }
            },
            4000,
        );
    }
    assert!(
        refused > 1000 && read > 100,
        "{refused} refused, {read} read"
    );
}
