//! Functions that the pass adds for state that is not plain bytes: references, exceptions and
//! dropped segments.
//!
//! WebAssembly cannot write a reference down. A function reference is pushed to a table, of which
//! the host can tell what its entries are. An exception is thrown under a handler for every tag of
//! the module, which gives its tag and payload; thrown again under a handler for all, it is a
//! reference once more. That a reference is another one then, no program can see. Whether a segment
//! was dropped is noted in a global.

use crate::module::Module;
use crate::remap::{Indices, value_type};
use crate::scan::Summary;
use crate::sites::Slot;
use crate::types::{Types, plain};
use std::collections::BTreeMap;
use wasm_encoder::{
    AbstractHeapType, BlockType, Catch, HeapType, InstructionSink, MemArg, MemArgTarget,
};
use wasmparser::{DataKind, ElementKind, ValType};

/// The heap type of exceptions.
pub(crate) const EXN: HeapType = HeapType::Abstract {
    shared: false,
    ty: AbstractHeapType::Exn,
};

/// The tag in a frame of an exception reference that is null.
const NO_TAG: i32 = -1;

/// A function that the pass adds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Helper {
    /// `(funcref)`: pushes it to the table of references.
    PushReference,
    /// `(address, exnref)`: writes it to a frame.
    SaveException,
    /// `(address, first reference) -> exnref`: reads it from a frame.
    LoadException,
    /// Drops an element segment and notes it.
    DropElements(u32),
    /// Drops a data segment and notes it.
    DropData(u32),
    /// Drops all segments that were noted.
    Settle,
}

/// How a reference to an exception lies in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exceptions {
    /// As this slot.
    Slot(Slot),
    /// Not at all: a tag carries a reference to another exception.
    Nested,
}

/// The helpers of a module.
#[derive(Default)]
pub(crate) struct Helpers {
    /// With their function indices.
    index: BTreeMap<Helper, u32>,
    /// Whether references to functions can be part of the state.
    pub references: bool,
    /// What a reference to an exception is in a frame, if the module has any.
    pub exceptions: Option<Exceptions>,
}

/// A helper's code.
pub(crate) struct Written {
    /// Type index.
    pub kind: u32,
    /// Types of its locals beyond its parameters.
    pub locals: Vec<wasm_encoder::ValType>,
    /// Its operators, the last `end` included.
    pub code: Vec<u8>,
}

impl Helpers {
    /// Finds out what a module needs; `first` is the function index of the first helper.
    pub fn new(module: &Module<'_>, summaries: &[Summary], first: u32) -> Helpers {
        let mut needed = Vec::new();
        let kept =
            |summary: &Summary| summary.references_kept || !summary.written_tables.is_empty();
        let references = module.has_reference_state() || summaries.iter().any(kept);
        let exceptions = module.has_exceptions().then(|| exception_slot(module));
        if references {
            needed.push(Helper::PushReference);
        }
        if let Some(Exceptions::Slot(_)) = exceptions {
            needed.extend([Helper::SaveException, Helper::LoadException]);
        }
        let all = |list: fn(&Summary) -> &Vec<u32>| {
            let mut list: Vec<u32> = summaries.iter().flat_map(list).copied().collect();
            list.sort_unstable();
            list.dedup();
            list
        };
        let passive = |index: &u32| {
            let segment = module.elements.get(*index as usize);
            segment.is_some_and(|segment| matches!(segment.kind, ElementKind::Passive))
        };
        let elements = all(|summary| &summary.dropped_elements);
        let drops = elements.into_iter().filter(passive);
        needed.extend(drops.map(Helper::DropElements));
        let passive = |index: &u32| {
            let segment = module.data.get(*index as usize);
            segment.is_some_and(|segment| matches!(segment.kind, DataKind::Passive))
        };
        let drops = all(|summary| &summary.dropped_data);
        needed.extend(drops.into_iter().filter(passive).map(Helper::DropData));
        let drops =
            |helper: &Helper| matches!(helper, Helper::DropElements(_) | Helper::DropData(_));
        if needed.iter().any(drops) {
            needed.push(Helper::Settle);
        }
        Helpers {
            index: needed.into_iter().zip(first..).collect(),
            references,
            exceptions,
        }
    }

    /// The function index of a helper, if the module has it.
    pub fn index(&self, helper: Helper) -> Option<u32> {
        self.index.get(&helper).copied()
    }

    /// The helpers that note dropped segments, in the order of their globals.
    pub fn drops(&self) -> impl Iterator<Item = Helper> {
        let helpers = self.index.keys().copied();
        helpers.filter(|helper| matches!(helper, Helper::DropElements(_) | Helper::DropData(_)))
    }

    /// The code of all helpers, in order of index.
    pub fn write(&self, module: &Module<'_>, indices: &Indices, types: &mut Types) -> Vec<Written> {
        let mut writer = Writer {
            helpers: self,
            module,
            indices,
            types,
        };
        let mut helpers: Vec<_> = self.index.iter().collect();
        helpers.sort_by_key(|(_, index)| **index);
        let helpers = helpers.into_iter();
        helpers.map(|(helper, _)| writer.write(*helper)).collect()
    }
}

/// The payload of a tag.
fn payload<'m>(module: &'m Module<'_>, tag: u32) -> &'m [ValType] {
    module.types[tag as usize].params()
}

fn exception_slot(module: &Module<'_>) -> Exceptions {
    let (mut bytes, mut references) = (0, 0);
    for tag in &module.tags {
        let (mut own_bytes, mut own_references) = (0, 0);
        for kind in payload(module, *tag) {
            match (Slot::of(*kind), plain(*kind)) {
                (Some(slot), _) => own_bytes += slot.bytes(),
                (None, ValType::EXNREF) => return Exceptions::Nested,
                (None, ValType::EXTERNREF) => {}
                (None, _) => own_references += 1,
            }
        }
        bytes = bytes.max(own_bytes);
        references = references.max(own_references);
    }
    Exceptions::Slot(Slot::Exception {
        bytes: 4 + bytes,
        references,
    })
}

struct Writer<'w, 'a> {
    helpers: &'w Helpers,
    module: &'w Module<'a>,
    indices: &'w Indices,
    types: &'w mut Types,
}

impl Writer<'_, '_> {
    fn write(&mut self, helper: Helper) -> Written {
        let (params, results): (&[ValType], &[ValType]) = match helper {
            Helper::PushReference => (&[ValType::FUNCREF], &[]),
            Helper::SaveException => (&[ValType::I32, ValType::EXNREF], &[]),
            Helper::LoadException => (&[ValType::I32, ValType::I32], &[ValType::EXNREF]),
            Helper::DropElements(_) | Helper::DropData(_) | Helper::Settle => (&[], &[]),
        };
        let mut written = Written {
            kind: self.types.function(params, results),
            locals: Vec::new(),
            code: Vec::new(),
        };
        match helper {
            Helper::PushReference => self.push_reference(&mut written.code),
            Helper::SaveException => self.save_exception(&mut written),
            Helper::LoadException => self.load_exception(&mut written),
            Helper::DropElements(_) | Helper::DropData(_) => {
                let flag = self.flag(helper);
                drop_segment(helper, &mut written.code);
                let mut sink = InstructionSink::new(&mut written.code);
                sink.i32_const(1).global_set(flag);
            }
            Helper::Settle => {
                for drops in self.helpers.drops() {
                    let flag = self.flag(drops);
                    let code = &mut written.code;
                    InstructionSink::new(code)
                        .global_get(flag)
                        .if_(BlockType::Empty);
                    drop_segment(drops, code);
                    InstructionSink::new(code).end();
                }
            }
        }
        InstructionSink::new(&mut written.code).end();
        written
    }

    /// The global that notes a dropped segment.
    fn flag(&self, drops: Helper) -> u32 {
        let before = self.helpers.drops().take_while(|helper| *helper != drops);
        self.indices.dropped + before.count() as u32
    }

    fn push_reference(&self, code: &mut Vec<u8>) {
        let (rp, table) = (self.indices.rp, self.indices.references_table);
        InstructionSink::new(code)
            .global_get(rp)
            .table_size(table)
            .i32_eq()
            .if_(BlockType::Empty)
            .ref_null(HeapType::FUNC)
            // Half as many again. If there is no room, the table.set traps.
            .global_get(rp)
            .i32_const(1)
            .i32_shr_u()
            .i32_const(64)
            .i32_add()
            .table_grow(table)
            .drop()
            .end()
            .global_get(rp)
            .local_get(0)
            .table_set(table)
            .global_get(rp)
            .i32_const(1)
            .i32_add()
            .global_set(rp);
    }

    fn in_frame(&self, offset: u32) -> MemArg {
        MemArg {
            offset: offset.into(),
            align: 2,
            target: MemArgTarget::Memory(self.indices.frames_memory),
            ordering: None,
        }
    }

    /// Bytes and references of an exception in a frame.
    fn room(&self) -> (u32, u32) {
        match self.helpers.exceptions {
            Some(Exceptions::Slot(slot)) => (slot.bytes(), slot.references()),
            _ => (0, 0),
        }
    }

    /// Fills what the payload leaves free, so that equal states have equal bytes.
    fn fill(&self, code: &mut Vec<u8>, bytes: u32, references: u32) {
        let (all_bytes, all_references) = self.room();
        for offset in (bytes..all_bytes).step_by(4) {
            let to = self.in_frame(offset);
            InstructionSink::new(code)
                .local_get(0)
                .i32_const(0)
                .i32_store(to);
        }
        for _ in references..all_references {
            InstructionSink::new(code).ref_null(HeapType::FUNC);
            self.push(code);
        }
    }

    fn push(&self, code: &mut Vec<u8>) {
        if let Some(push) = self.helpers.index(Helper::PushReference) {
            InstructionSink::new(code).call(push);
        }
    }

    fn save_exception(&mut self, written: &mut Written) {
        let tags: Vec<Vec<ValType>> = self
            .module
            .tags
            .iter()
            .map(|tag| payload(self.module, *tag).to_vec())
            .collect();
        let to_tag = self.in_frame(0);
        let code = &mut written.code;
        InstructionSink::new(code)
            .local_get(1)
            .ref_is_null()
            .if_(BlockType::Empty)
            .local_get(0)
            .i32_const(NO_TAG)
            .i32_store(to_tag);
        self.fill(code, 4, 0);
        InstructionSink::new(code).return_().end();
        // Around the throw a block for every tag, which its payload is left in.
        for kinds in tags.iter().rev() {
            let block = self.types.block(&[], kinds);
            InstructionSink::new(code).block(block);
        }
        let catches: Vec<Catch> = (0..tags.len() as u32)
            .map(|tag| Catch::One { tag, label: tag })
            .collect();
        InstructionSink::new(code)
            .try_table(BlockType::Empty, catches)
            .local_get(1)
            .throw_ref()
            .end()
            .unreachable();
        let mut next = 2;
        for (tag, kinds) in tags.iter().enumerate() {
            let first = next;
            next += kinds.len() as u32;
            written
                .locals
                .extend(kinds.iter().map(|kind| value_type(*kind)));
            let mut sink = InstructionSink::new(code);
            sink.end();
            for local in (first..next).rev() {
                sink.local_set(local);
            }
            sink.local_get(0).i32_const(tag as i32).i32_store(to_tag);
            let (mut offset, mut references) = (4, 0);
            for (kind, local) in kinds.iter().zip(first..) {
                let to = self.in_frame(offset);
                let mut sink = InstructionSink::new(code);
                match Slot::of(*kind) {
                    Some(slot) => {
                        sink.local_get(0).local_get(local);
                        store(&mut sink, slot, to);
                        offset += slot.bytes();
                    }
                    None if plain(*kind) == ValType::FUNCREF => {
                        sink.local_get(local);
                        self.push(code);
                        references += 1;
                    }
                    None => {}
                }
            }
            self.fill(code, offset, references);
            InstructionSink::new(code).return_();
        }
        // The function ends here if there is no tag, and so no exception but null.
        InstructionSink::new(code).unreachable();
    }

    fn load_exception(&mut self, written: &mut Written) {
        let from_tag = self.in_frame(0);
        let code = &mut written.code;
        let exception = BlockType::Result(wasm_encoder::ValType::EXNREF);
        InstructionSink::new(code)
            .local_get(0)
            .i32_load(from_tag)
            .i32_const(NO_TAG)
            .i32_eq()
            .if_(BlockType::Empty)
            .ref_null(EXN)
            .return_()
            .end();
        for (tag, kind) in (0..).zip(&self.module.tags) {
            InstructionSink::new(code)
                .local_get(0)
                .i32_load(from_tag)
                .i32_const(tag)
                .i32_eq()
                .if_(BlockType::Empty)
                .block(exception)
                .try_table(BlockType::Empty, [Catch::AllRef { label: 0 }]);
            let (mut offset, mut references) = (4, 0);
            for kind in payload(self.module, *kind) {
                let from = self.in_frame(offset);
                let mut sink = InstructionSink::new(code);
                match Slot::of(*kind) {
                    Some(slot) => {
                        sink.local_get(0);
                        load(&mut sink, slot, from);
                        offset += slot.bytes();
                    }
                    None if plain(*kind) == ValType::FUNCREF => {
                        sink.local_get(1)
                            .i32_const(references)
                            .i32_add()
                            .table_get(self.indices.references_table);
                        references += 1;
                    }
                    None => {
                        sink.ref_null(HeapType::EXTERN);
                    }
                }
            }
            InstructionSink::new(code)
                .throw(tag as u32)
                .end()
                .unreachable()
                .end()
                .return_()
                .end();
        }
        InstructionSink::new(code).unreachable();
    }
}

fn drop_segment(helper: Helper, code: &mut Vec<u8>) {
    let mut sink = InstructionSink::new(code);
    match helper {
        Helper::DropElements(segment) => sink.elem_drop(segment),
        Helper::DropData(segment) => sink.data_drop(segment),
        _ => &mut sink,
    };
}

/// Stores a number or vector.
pub(crate) fn store(sink: &mut InstructionSink<'_>, slot: Slot, to: MemArg) {
    match slot {
        Slot::I32 => sink.i32_store(to),
        Slot::I64 => sink.i64_store(to),
        Slot::F32 => sink.f32_store(to),
        Slot::F64 => sink.f64_store(to),
        Slot::V128 => sink.v128_store(to),
        Slot::Function | Slot::External | Slot::Exception { .. } => sink,
    };
}

/// Loads a number or vector.
pub(crate) fn load(sink: &mut InstructionSink<'_>, slot: Slot, from: MemArg) {
    match slot {
        Slot::I32 => sink.i32_load(from),
        Slot::I64 => sink.i64_load(from),
        Slot::F32 => sink.f32_load(from),
        Slot::F64 => sink.f64_load(from),
        Slot::V128 => sink.v128_load(from),
        Slot::Function | Slot::External | Slot::Exception { .. } => sink,
    };
}
