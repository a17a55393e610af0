//! Operators on ranges of memory: one instruction that can take seconds.
//!
//! A range that may be longer than [`PIECE_BYTES`] is worked through in pieces with a poll before
//! each, by a function that the pass adds for all operators alike; so what it needs takes no
//! registers from the functions around it. Shorter ones cost a comparison. Operators on tables stay
//! whole: the host bounds tables.

use crate::module::Module;
use wasmparser::{Operator, ValType};

/// Most bytes between two polls: some 100 µs, if every page of them is touched for the first time.
pub(crate) const PIECE_BYTES: u64 = 256 << 10;

/// What operators that are worked through alike have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Range {
    /// `memory.fill` of this memory.
    Fill(u32),
    /// `memory.copy` to this memory from that.
    Copy(u32, u32),
    /// `memory.init` with this segment of that memory.
    Init(u32, u32),
}

impl Range {
    /// That of an operator, if it is one on a range of memory.
    pub fn of(operator: &Operator<'_>) -> Option<Range> {
        match *operator {
            Operator::MemoryFill { mem } => Some(Range::Fill(mem)),
            Operator::MemoryCopy { dst_mem, src_mem } => Some(Range::Copy(dst_mem, src_mem)),
            Operator::MemoryInit { data_index, mem } => Some(Range::Init(data_index, mem)),
            _ => None,
        }
    }

    /// The operator.
    pub fn operator(self) -> Operator<'static> {
        match self {
            Range::Fill(mem) => Operator::MemoryFill { mem },
            Range::Copy(dst_mem, src_mem) => Operator::MemoryCopy { dst_mem, src_mem },
            Range::Init(data_index, mem) => Operator::MemoryInit { data_index, mem },
        }
    }

    /// What it takes: where to, from where (or what with), how much.
    pub fn params(self, module: &Module<'_>) -> [ValType; 3] {
        let address = |index: u32| match module.memories.get(index as usize) {
            Some(memory) if memory.memory64 => ValType::I64,
            _ => ValType::I32,
        };
        match self {
            Range::Fill(mem) => [address(mem), ValType::I32, address(mem)],
            Range::Copy(to, from) => match (address(to), address(from)) {
                (ValType::I64, ValType::I64) => [ValType::I64; 3],
                (to, from) => [to, from, ValType::I32],
            },
            Range::Init(_, mem) => [address(mem), ValType::I32, ValType::I32],
        }
    }
}

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
