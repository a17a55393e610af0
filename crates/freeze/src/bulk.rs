//! Operators on ranges of memory: one instruction that can take seconds.
//!
//! A range that may be longer than [`PIECE_BYTES`] is worked through in pieces with a poll before
//! each. Shorter ones cost a comparison. Operators on tables stay whole: the host bounds tables.

use crate::module::Module;
use wasmparser::Operator;

/// Most bytes between two polls: some 100 µs, if every page of them is touched for the first time.
pub(crate) const PIECE_BYTES: u64 = 256 << 10;

/// Whether an operator works on a range that may be longer than a piece; `previous` is the
/// operator before it, which most often gives the length.
pub(crate) fn is_long(
    module: &Module<'_>,
    previous: Option<&Operator<'_>>,
    operator: &Operator<'_>,
) -> bool {
    let memory = |index: u32| {
        let memory = module.memories.get(index as usize);
        memory.is_some_and(|memory| {
            let most = memory.maximum.map(|pages| pages.saturating_mul(65_536));
            most.is_none_or(|most| most > PIECE_BYTES)
        })
    };
    let possible = match operator {
        Operator::MemoryFill { mem } => memory(*mem),
        Operator::MemoryCopy { dst_mem, src_mem } => memory(*dst_mem) && memory(*src_mem),
        Operator::MemoryInit { data_index, mem } => {
            let segment = module.data.get(*data_index as usize);
            memory(*mem) && segment.is_some_and(|s| s.data.len() as u64 > PIECE_BYTES)
        }
        _ => false,
    };
    let short = match previous {
        Some(Operator::I32Const { value }) => u64::from(value.cast_unsigned()) <= PIECE_BYTES,
        Some(Operator::I64Const { value }) => value.cast_unsigned() <= PIECE_BYTES,
        _ => false,
    };
    possible && !short
}
