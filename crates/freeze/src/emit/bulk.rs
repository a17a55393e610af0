//! An operator on a range of memory.
//!
//! ```text
//! if the range is longer than a piece
//!   …call of the function for such ranges…
//! else
//!   …the operator…
//! end
//! ```
//! That function works through it in pieces, with a poll before each:
//!
//! ```text
//! block
//!   loop
//!     br_if 1 if the range is at most a piece long, or not within the memory
//!     …poll: freezes with what is left of the range…
//!     …the operator on one piece…; what is left of the range
//!     br 0
//!   end
//! end
//! …the operator on what is left…
//! ```
//! A range that is not within the memory goes to the operator as it is, which traps before it has
//! written anything: the first turn sees to that, since memories never shrink. A copy to a higher
//! address takes its pieces from the end, so that ranges may overlap.

use super::Emitter;
use super::dispatch::Entry;
use crate::body::PointId;
use crate::bulk::{PIECE_BYTES, Range};
use crate::error::Error;
use crate::sites::SiteKind;
use wasm_encoder::BlockType;
use wasmparser::{Operator, ValType};

/// Addresses or lengths: of 32 or 64 bits.
#[derive(Clone, Copy)]
struct Number {
    local: u32,
    kind: ValType,
}

impl Emitter<'_, '_, '_> {
    pub(super) fn bulk(&mut self, id: PointId) -> Result<(), Error> {
        let point = &self.body.points[id];
        let Some(operator) = &point.call else {
            return Ok(());
        };
        if point.kind != SiteKind::Bulk {
            return self.perhaps_long(id, operator);
        }
        let below = point.stack.len() - point.takes;
        let operands = self.spills_for(point.base, &point.stack);
        let arrival = self.arrive(operands);
        let (below, range) = arrival.operands.split_at(below);
        self.spilled.extend(below);
        let values = self.values(id, range);
        self.resume_with(id, arrival.entry, &values)?;
        if let [to, from, length] = range {
            self.pieces(id, operator, [*to, *from, *length], &values)?;
        }
        self.push_from(range);
        self.context.remap.write(operator, &mut self.code);
        self.spilled.truncate(self.spilled.len() - below.len());
        self.put_back(below, point.base, &[]);
        Ok(())
    }

    /// The operator on a short range, or the call for a long one.
    fn perhaps_long(&mut self, id: PointId, operator: &Operator<'_>) -> Result<(), Error> {
        let point = &self.body.points[id];
        let below = point.stack.len() - point.takes;
        let operands = self.spills_for(point.base, &point.stack);
        let arrival = self.arrive(operands);
        let (below, range) = arrival.operands.split_at(below);
        self.spilled.extend(below);
        let values = self.values(id, &[]);
        if arrival.entry != Entry::Start {
            if arrival.entry == Entry::Both {
                self.resumes_at(id);
                self.open_cold_if();
            }
            self.restore(&values)?;
            self.call_clone(&[]);
            self.follow(id, &values)?;
            if arrival.entry == Entry::Both {
                self.write().else_();
            }
        }
        let function = Range::of(operator).and_then(|range| {
            let ranges = &self.context.remap.ranges;
            ranges.get(&range).copied()
        });
        if let (true, Some(function), [.., length]) =
            (arrival.entry != Entry::Resume, function, range)
        {
            let kind = self.locals[*length as usize];
            self.write().local_get(*length);
            self.constant(PIECE_BYTES as i64, kind);
            match kind {
                ValType::I64 => self.write().i64_gt_u(),
                _ => self.write().i32_gt_u(),
            };
            self.open_cold_if();
            self.push_from(range);
            self.write().call(function);
            self.follow(id, &values)?;
            self.write().else_();
            self.push_from(range);
            self.context.remap.write(operator, &mut self.code);
            self.close();
        }
        if arrival.entry == Entry::Both {
            self.close();
        }
        self.spilled.truncate(self.spilled.len() - below.len());
        self.put_back(below, point.base, &[]);
        Ok(())
    }

    fn pieces(
        &mut self,
        id: PointId,
        operator: &Operator<'_>,
        range: [u32; 3],
        values: &[u32],
    ) -> Result<(), Error> {
        let [to, from, length] = range.map(|local| Number {
            local,
            kind: self.locals[local as usize],
        });
        // The memories of the two ranges, as the modules that are made number them.
        let (memory, source) = match operator {
            Operator::MemoryCopy { dst_mem, src_mem } => (dst_mem + 1, Some(src_mem + 1)),
            Operator::MemoryFill { mem } | Operator::MemoryInit { mem, .. } => (mem + 1, None),
            _ => return Ok(()),
        };
        let copies = source.is_some();
        let initialises = matches!(operator, Operator::MemoryInit { .. });

        let done = self.open_block(BlockType::Empty);
        let turn = self.open_loop(BlockType::Empty);
        self.get(length);
        self.constant(PIECE_BYTES as i64, length.kind);
        match length.kind {
            ValType::I64 => self.write().i64_le_u(),
            _ => self.write().i32_le_u(),
        };
        let depth = self.relative(done);
        self.write().br_if(depth);
        self.leave_unless_within(to, length, memory, done);
        if let Some(source) = source {
            self.leave_unless_within(from, length, source, done);
        }
        self.poll(id, values)?;

        // Where the piece begins: `from < to` copies from the end.
        if copies {
            self.get_wide(from);
            self.get_wide(to);
            self.write().i64_lt_u();
            let backward = self.open_if(BlockType::Empty);
            self.add(length, -(PIECE_BYTES as i64));
            for start in [to, from] {
                self.get(start);
                self.get(length);
                match (start.kind, length.kind) {
                    (ValType::I64, ValType::I64) => self.write().i64_add(),
                    (ValType::I64, _) => self.write().i64_extend_i32_u().i64_add(),
                    _ => self.write().i32_add(),
                };
            }
            self.constant(PIECE_BYTES as i64, length.kind);
            self.context.remap.write(operator, &mut self.code);
            self.branch(turn);
            debug_assert_eq!(backward, self.depth - 1);
            self.close();
        }
        self.get(to);
        self.get(from);
        self.constant(PIECE_BYTES as i64, length.kind);
        self.context.remap.write(operator, &mut self.code);
        self.add(to, PIECE_BYTES as i64);
        if copies || initialises {
            self.add(from, PIECE_BYTES as i64);
        }
        self.add(length, -(PIECE_BYTES as i64));
        self.branch(turn);
        self.close();
        self.close();
        Ok(())
    }

    fn get(&mut self, number: Number) {
        self.write().local_get(number.local);
    }

    fn get_wide(&mut self, number: Number) {
        self.get(number);
        if number.kind != ValType::I64 {
            self.write().i64_extend_i32_u();
        }
    }

    fn constant(&mut self, value: i64, kind: ValType) {
        match kind {
            ValType::I64 => self.write().i64_const(value),
            _ => self.write().i32_const(value as i32),
        };
    }

    fn add(&mut self, number: Number, value: i64) {
        self.get(number);
        self.constant(value, number.kind);
        match number.kind {
            ValType::I64 => self.write().i64_add(),
            _ => self.write().i32_add(),
        };
        self.write().local_set(number.local);
    }

    /// Leaves for `done` unless `[start, start + length)` lies within the memory.
    fn leave_unless_within(&mut self, start: Number, length: Number, memory: u32, done: u32) {
        // The memory's size in bytes, less the length: negative if there is not so much.
        let wide = self.body_memory_is_wide(memory);
        let size = |emitter: &mut Self| {
            emitter.write().memory_size(memory);
            if !wide {
                emitter.write().i64_extend_i32_u();
            }
            emitter.write().i64_const(16).i64_shl();
        };
        size(self);
        self.get_wide(length);
        self.write().i64_lt_u();
        let depth = self.relative(done);
        self.write().br_if(depth);
        self.get_wide(start);
        size(self);
        self.get_wide(length);
        self.write().i64_sub().i64_gt_u();
        self.write().br_if(depth);
    }

    /// Whether a memory, as the modules that are made number it, has 64-bit addresses.
    fn body_memory_is_wide(&self, memory: u32) -> bool {
        let wide = &self.context.wide_memories;
        wide.get(memory as usize - 1).copied().unwrap_or(false)
    }
}
