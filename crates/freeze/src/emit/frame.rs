//! How values get into a frame and out again.

use super::Emitter;
use crate::body::PointId;
use crate::error::Error;
use crate::helpers::{EXN, Exceptions, Helper, load, store};
use crate::sites::{FRAME_TRAILER_BYTES, Slot};
use crate::types::plain;
use wasm_encoder::{HeapType, MemArg, MemArgTarget};
use wasmparser::ValType;

/// The heap type whose null is the null of a type.
pub(super) fn null_of(kind: ValType) -> HeapType {
    match plain(kind) {
        ValType::EXNREF => EXN,
        ValType::EXTERNREF => HeapType::EXTERN,
        _ => HeapType::FUNC,
    }
}

impl Emitter<'_, '_, '_> {
    /// The locals that a frame for this point holds, in order: the live locals, the operands below,
    /// then `own`: the arguments of a host call, the parameters of a loop, or what is left of a
    /// range.
    pub(super) fn values(&self, point: PointId, own: &[u32]) -> Vec<u32> {
        let mut values = self.body.points[point].live.clone();
        values.extend(&self.spilled);
        values.extend(own);
        values
    }

    fn slot(&self, kind: ValType) -> Result<Slot, Error> {
        if let Some(slot) = Slot::of(kind) {
            return Ok(slot);
        }
        match (plain(kind), self.context.remap.helpers.exceptions) {
            (ValType::FUNCREF, _) => Ok(Slot::Function),
            (ValType::EXNREF, Some(Exceptions::Slot(slot))) => Ok(slot),
            (ValType::EXNREF, Some(Exceptions::Nested)) => {
                let what = "a reference to an exception that is kept over a call or loop that may \
                            be frozen, where exceptions can carry other exceptions";
                Err(Error::unsupported(self.place(), what, 0))
            }
            // Without tags nothing is ever thrown.
            _ => Ok(Slot::External),
        }
    }

    pub(super) fn slots(&self, values: &[u32]) -> Result<Vec<Slot>, Error> {
        let kinds = values.iter().map(|local| self.locals[*local as usize]);
        kinds.map(|kind| self.slot(kind)).collect()
    }

    fn in_frame(&self, offset: u32) -> MemArg {
        MemArg {
            offset: offset.into(),
            align: 2,
            target: MemArgTarget::Memory(self.context.indices.frames_memory),
            ordering: None,
        }
    }

    fn call_helper(&mut self, helper: Helper) {
        if let Some(function) = self.context.remap.helpers.index(helper) {
            self.write().call(function);
        } else {
            debug_assert!(false, "{helper:?} is missing");
        }
    }

    /// Pushes a frame of a point with these values.
    pub(super) fn push_frame(&mut self, point: PointId, values: &[u32]) -> Result<(), Error> {
        let slots = self.slots(values)?;
        let (sp, frame) = (self.context.indices.sp, self.frame);
        let size = slots.iter().map(|s| s.bytes()).sum::<u32>() + FRAME_TRAILER_BYTES;
        self.write()
            .global_get(sp)
            .local_tee(frame)
            .i32_const(size as i32)
            .i32_add()
            .global_set(sp);
        let mut offset = 0;
        for (local, slot) in values.iter().zip(&slots) {
            match slot {
                Slot::Function => {
                    self.write().local_get(*local);
                    self.call_helper(Helper::PushReference);
                }
                Slot::External => {}
                Slot::Exception { .. } => {
                    self.write()
                        .local_get(frame)
                        .i32_const(offset as i32)
                        .i32_add()
                        .local_get(*local);
                    self.call_helper(Helper::SaveException);
                }
                slot => {
                    let to = self.in_frame(offset);
                    let mut sink = self.write();
                    sink.local_get(frame).local_get(*local);
                    store(&mut sink, *slot, to);
                }
            }
            offset += slot.bytes();
        }
        let (function, site) = (self.in_frame(offset), self.in_frame(offset + 4));
        let id = self.function_id;
        let mut sink = self.write();
        sink.local_get(frame)
            .i32_const(id as i32)
            .i32_store(function);
        sink.local_get(frame)
            .i32_const(point as i32)
            .i32_store(site);
        self.check_size()
    }

    /// Pops the frame of a point into the locals it came from. The resumption is then done.
    pub(super) fn restore(&mut self, values: &[u32]) -> Result<(), Error> {
        let slots = self.slots(values)?;
        let size = slots.iter().map(|s| s.bytes()).sum::<u32>() + FRAME_TRAILER_BYTES;
        let references: u32 = slots.iter().map(|slot| slot.references()).sum();
        let indices = self.context.indices;
        let (sp, rp, table) = (indices.sp, indices.rp, indices.references_table);
        let frame = self.frame;
        self.write()
            .global_get(sp)
            .i32_const(size as i32)
            .i32_sub()
            .local_tee(frame)
            .global_set(sp);
        if references > 0 {
            self.write()
                .global_get(rp)
                .i32_const(references as i32)
                .i32_sub()
                .global_set(rp);
        }
        let (mut offset, mut reference) = (0, 0);
        for (local, slot) in values.iter().zip(&slots) {
            let kind = self.locals[*local as usize];
            match slot {
                Slot::Function => {
                    self.write()
                        .global_get(rp)
                        .i32_const(reference)
                        .i32_add()
                        .table_get(table);
                }
                Slot::External => {
                    self.write().ref_null(null_of(kind));
                }
                Slot::Exception { .. } => {
                    self.write()
                        .local_get(frame)
                        .i32_const(offset as i32)
                        .i32_add();
                    if references > 0 {
                        self.write().global_get(rp).i32_const(reference).i32_add();
                    } else {
                        self.write().i32_const(0);
                    }
                    self.call_helper(Helper::LoadException);
                }
                slot => {
                    let from = self.in_frame(offset);
                    let mut sink = self.write();
                    sink.local_get(frame);
                    load(&mut sink, *slot, from);
                }
            }
            self.write().local_set(*local);
            offset += slot.bytes();
            reference += slot.references() as i32;
        }
        self.resumed();
        self.check_size()
    }

    /// Whether a clone must ask where to resume: with a single point it need not.
    pub(super) fn asks(&self) -> bool {
        self.body.points.len() > 1
    }

    pub(super) fn resumed(&mut self) {
        if self.asks() {
            let resume = self.resume;
            self.write().i32_const(-1).local_set(resume);
        }
    }

    /// Loads the word that lies `distance` bytes before the end of the frames.
    pub(super) fn load_from_top(&mut self, distance: u32) {
        let (sp, from) = (self.context.indices.sp, self.in_frame(0));
        self.write()
            .global_get(sp)
            .i32_const(distance as i32)
            .i32_sub()
            .i32_load(from);
    }

    /// Calls the clone of the function whose frame is now the outermost.
    pub(super) fn call_clone(&mut self, results: &[ValType]) {
        self.load_from_top(FRAME_TRAILER_BYTES);
        let kind = self.context.types.function(&[], results);
        let table = self.context.indices.clones_table;
        self.write().call_indirect(table, kind);
    }
}
