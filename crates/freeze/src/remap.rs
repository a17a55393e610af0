//! From the index spaces of the module as given to those of the modules made of it.
//!
//! - Memory 0 is the imported flag memory, so that all others move up by one.
//! - An import that may freeze and whose reference is taken (in an element segment, an export or
//!   by `ref.func`) is replaced there by a wrapper: a call through a table leaves no frame of the
//!   caller's choosing, so something must push one that knows the arguments.
//! - Dropping a segment is state, so it becomes a call of a helper that notes it.
//! - References to exceptions become nullable, see [`plain`].
//! - All other indices stay; what the pass adds comes after.

use crate::bulk::Range;
use crate::helpers::{Helper, Helpers};
use crate::types::plain;
use std::collections::BTreeMap;
use std::convert::Infallible;
use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{Encode, Instruction, RefType, ValType};
use wasmparser::Operator;

/// Where the things that the pass added are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Indices {
    pub flag_memory: u32,
    pub frames_memory: u32,
    pub sp: u32,
    pub frozen: u32,
    /// Number of references pushed.
    pub rp: u32,
    /// The first of the globals that note dropped segments.
    pub dropped: u32,
    pub functions_table: u32,
    pub references_table: u32,
    pub clones_table: u32,
}

/// The renumbering.
pub(crate) struct Remap {
    /// Index of the wrapper of an import.
    pub wrappers: BTreeMap<u32, u32>,
    /// Index of the function that works through long ranges.
    pub ranges: BTreeMap<Range, u32>,
    pub helpers: Helpers,
}

impl Remap {
    /// Writes an operator of the module as given.
    pub fn write(&self, operator: &wasmparser::Operator<'_>, code: &mut Vec<u8>) {
        match Renumbering(self).instruction(operator.clone()) {
            Ok(instruction) => instruction.encode(code),
            // Only operators and types that the validator refused have no encoding.
            Err(error) => debug_assert!(false, "{error}"),
        }
    }

    /// The same block type; the types of the module as given keep their indices.
    pub fn block_type(&self, kind: wasmparser::BlockType) -> wasm_encoder::BlockType {
        match kind {
            wasmparser::BlockType::Empty => wasm_encoder::BlockType::Empty,
            wasmparser::BlockType::Type(result) => {
                wasm_encoder::BlockType::Result(value_type(result))
            }
            wasmparser::BlockType::FuncType(index) => wasm_encoder::BlockType::FunctionType(index),
        }
    }

    /// For sections and whole bodies.
    pub fn reencoder(&self) -> Renumbering<'_> {
        Renumbering(self)
    }
}

/// The renumbering as wasm-encoder wants it.
pub(crate) struct Renumbering<'r>(&'r Remap);

impl Reencode for Renumbering<'_> {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Error> {
        Ok(self.0.wrappers.get(&function).copied().unwrap_or(function))
    }

    fn memory_index(&mut self, memory: u32) -> Result<u32, Error> {
        Ok(memory + 1)
    }

    fn ref_type(&mut self, kind: wasmparser::RefType) -> Result<RefType, Error> {
        Ok(ref_type(kind))
    }

    fn instruction<'a>(&mut self, operator: Operator<'a>) -> Result<Instruction<'a>, Error> {
        let helper = match operator {
            Operator::ElemDrop { elem_index } => Helper::DropElements(elem_index),
            Operator::DataDrop { data_index } => Helper::DropData(data_index),
            other => return wasm_encoder::reencode::utils::instruction(self, other),
        };
        match self.0.helpers.index(helper) {
            Some(function) => Ok(Instruction::Call(function)),
            None => wasm_encoder::reencode::utils::instruction(self, operator),
        }
    }
}

/// The type of a reference in the modules that are made.
pub(crate) fn ref_type(kind: wasmparser::RefType) -> RefType {
    match plain(wasmparser::ValType::Ref(kind)) {
        wasmparser::ValType::EXNREF => RefType::EXNREF,
        wasmparser::ValType::EXTERNREF => RefType::EXTERNREF,
        _ => RefType::FUNCREF,
    }
}

/// The type of a value in the modules that are made.
pub(crate) fn value_type(kind: wasmparser::ValType) -> ValType {
    match kind {
        wasmparser::ValType::I32 => ValType::I32,
        wasmparser::ValType::I64 => ValType::I64,
        wasmparser::ValType::F32 => ValType::F32,
        wasmparser::ValType::F64 => ValType::F64,
        wasmparser::ValType::V128 => ValType::V128,
        wasmparser::ValType::Ref(kind) => ValType::Ref(ref_type(kind)),
    }
}
