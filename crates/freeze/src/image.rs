//! The initial contents of memories, evaluated ahead of time.
//!
//! An active data segment runs at every instantiation: it would overwrite the memory of a process
//! that is being thawed. So neither module has any, and what they would have written is here, for
//! the host to place at birth.

use crate::error::{Error, Place};
use crate::module::Module;
use std::collections::BTreeMap;
use wasmparser::{ConstExpr, DataKind, Operator};

/// Size of a page of WebAssembly memory.
pub const PAGE_BYTES: u64 = 65_536;

/// A memory as it is before the first instruction runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitialMemory {
    /// Initial size, in pages of 64 KiB.
    pub pages: u64,
    /// Its bytes that are given by the module, by ascending offset, with gaps between them;
    /// everything else is zero.
    pub chunks: Vec<Chunk>,
}

/// Bytes at an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where in the memory.
    pub offset: u64,
    /// The bytes; never empty.
    pub bytes: Vec<u8>,
}

/// Evaluates all active data segments.
pub(crate) fn evaluate(module: &Module<'_>) -> Result<Vec<InitialMemory>, Error> {
    // Later segments overwrite earlier ones, so go backwards and fill only what is still free.
    let mut filled: Vec<BTreeMap<u64, &[u8]>> = vec![BTreeMap::new(); module.memories.len()];
    let mut outside = None;
    for (index, segment) in module.data.iter().enumerate().rev() {
        let DataKind::Active {
            memory_index,
            offset_expr,
        } = &segment.kind
        else {
            continue;
        };
        let place = Place::Data(index as u32);
        let memory = &module.memories[*memory_index as usize];
        let size = memory.initial.saturating_mul(PAGE_BYTES);
        let start = offset(offset_expr, &place)?;
        let end = start.saturating_add(segment.data.len() as u64);
        if end > size {
            // The first such segment is the one that traps.
            outside = Some(Error::DataOutOfBounds {
                place,
                memory: *memory_index,
                start,
                end,
                size,
            });
            continue;
        }
        fill(&mut filled[*memory_index as usize], start, segment.data);
    }
    if let Some(error) = outside {
        return Err(error);
    }
    let memories = module.memories.iter().zip(filled);
    Ok(memories
        .map(|(memory, filled)| InitialMemory {
            pages: memory.initial,
            chunks: join(filled),
        })
        .collect())
}

/// Puts those of `bytes` into the map that lie in its gaps.
fn fill<'a>(filled: &mut BTreeMap<u64, &'a [u8]>, start: u64, bytes: &'a [u8]) {
    let end = start + bytes.len() as u64;
    let before = filled.range(..=start).next_back();
    let mut at = before.map_or(start, |(from, have)| start.max(from + have.len() as u64));
    let mut gaps = Vec::new();
    for (from, have) in filled.range(start + 1..end.max(start + 1)) {
        if at < *from {
            gaps.push(at..*from);
        }
        at = at.max(from + have.len() as u64);
    }
    if at < end {
        gaps.push(at..end);
    }
    for gap in gaps {
        let part = &bytes[(gap.start - start) as usize..(gap.end - start) as usize];
        filled.insert(gap.start, part);
    }
}

/// Joins neighbours.
fn join(filled: BTreeMap<u64, &[u8]>) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for (offset, bytes) in filled {
        match chunks.last_mut() {
            Some(last) if last.offset + last.bytes.len() as u64 == offset => {
                last.bytes.extend(bytes);
            }
            _ => chunks.push(Chunk {
                offset,
                bytes: bytes.to_vec(),
            }),
        }
    }
    chunks
}

/// The value of an offset expression: constants, added, subtracted and multiplied. It can read
/// no global, since only imported globals can be read in one.
fn offset(expression: &ConstExpr<'_>, place: &Place) -> Result<u64, Error> {
    let mut stack: Vec<u64> = Vec::new();
    let narrow = |operation: fn(u32, u32) -> u32| {
        move |left: u64, right: u64| u64::from(operation(left as u32, right as u32))
    };
    let (add, sub, mul) = (
        narrow(u32::wrapping_add),
        narrow(u32::wrapping_sub),
        narrow(u32::wrapping_mul),
    );
    for operator in expression.get_operators_reader() {
        let operator = operator.map_err(|e| Error::from_validator(place.clone(), &e))?;
        let operation = match operator {
            Operator::I32Const { value } => {
                stack.push(u64::from(value.cast_unsigned()));
                continue;
            }
            Operator::I64Const { value } => {
                stack.push(value.cast_unsigned());
                continue;
            }
            Operator::I32Add => &add as &dyn Fn(u64, u64) -> u64,
            Operator::I32Sub => &sub,
            Operator::I32Mul => &mul,
            Operator::I64Add => &u64::wrapping_add,
            Operator::I64Sub => &u64::wrapping_sub,
            Operator::I64Mul => &u64::wrapping_mul,
            Operator::End => break,
            _ => {
                let what = "an offset that is not a constant";
                let at = expression.get_binary_reader().original_position();
                return Err(Error::unsupported(place.clone(), what, at));
            }
        };
        if let (Some(right), Some(left)) = (stack.pop(), stack.pop()) {
            stack.push(operation(left, right));
        }
    }
    Ok(stack.pop().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_segments_overwrite_earlier_ones() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let segments: Vec<(u64, Vec<u8>)> = (0..random.usize(0..12))
                .map(|n| {
                    let bytes = vec![n as u8 + 1; random.usize(0..20)];
                    (random.u64(0..60), bytes)
                })
                .collect();
            let mut expected = [0; 80];
            for (start, bytes) in &segments {
                expected[*start as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            let mut filled = BTreeMap::new();
            for (start, bytes) in segments.iter().rev() {
                fill(&mut filled, *start, bytes);
            }
            let chunks = join(filled);
            let mut found = [0; 80];
            let mut end = None;
            for chunk in &chunks {
                assert!(!chunk.bytes.is_empty(), "seed {seed}");
                assert!(end.is_none_or(|end| end < chunk.offset), "seed {seed}");
                end = Some(chunk.offset + chunk.bytes.len() as u64);
                found[chunk.offset as usize..][..chunk.bytes.len()].copy_from_slice(&chunk.bytes);
            }
            assert_eq!(found, expected, "seed {seed}");
        }
    }
}
