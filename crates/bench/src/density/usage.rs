//! What this operating-system process takes, as the system tells it.

use crate::harness::Error;
use std::fs;

/// Where the system does not tell how large the record of a mapping is.
const MAPPING_BYTES: u64 = 256;

/// Memory in use, in bytes, and mappings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Pages of its own; those it shares with a file are not counted.
    pub private: u64,
    pub page_tables: u64,
    pub mappings: u64,
    /// The system's records of the mappings.
    pub mapping_records: u64,
    pub descriptors: u64,
}

impl Usage {
    /// Now.
    pub fn now() -> Result<Usage, Error> {
        let read = |file: &str| {
            fs::read_to_string(file).map_err(|error| Error::System {
                doing: "cannot read how much memory is in use",
                error,
            })
        };
        let status = read("/proc/self/status")?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.unwrap_or(0u64) * 1024
        };
        let mappings = read("/proc/self/maps")?.lines().count() as u64;
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
        Ok(Usage {
            private: kib("RssAnon:"),
            page_tables: kib("VmPTE:"),
            mappings,
            mapping_records: mappings * mapping_bytes(),
            descriptors,
        })
    }

    /// What has been added since.
    pub fn since(self, before: Usage) -> Usage {
        Usage {
            private: self.private.saturating_sub(before.private),
            page_tables: self.page_tables.saturating_sub(before.page_tables),
            mappings: self.mappings.saturating_sub(before.mappings),
            mapping_records: self.mapping_records.saturating_sub(before.mapping_records),
            descriptors: self.descriptors.saturating_sub(before.descriptors),
        }
    }
}

/// Bytes of the system's record of one mapping: the structure, and its share of the tree of them.
fn mapping_bytes() -> u64 {
    const IN_TREE: u64 = 32;
    let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let line = slabs
        .lines()
        .find(|line| line.starts_with("vm_area_struct "));
    let size = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    size.unwrap_or(MAPPING_BYTES) + IN_TREE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_and_written_is_seen() {
        // What other tests free meanwhile is not in it.
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let now = Usage::now().unwrap();
        assert!(now.private >= block.len() as u64, "{now:?}");
        drop(std::hint::black_box(block));
        assert!(now.page_tables > 0 && now.mappings > 0 && now.descriptors > 0);
        assert!(now.mapping_records > now.mappings * 100);
        let more = Usage {
            private: now.private + 7,
            mappings: 0,
            ..now
        };
        let added = more.since(now);
        assert_eq!((added.private, added.mappings), (7, 0));
    }
}
