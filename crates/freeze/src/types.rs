//! Function types that the pass needs beyond those of the module as given.

use crate::remap::value_type;
use std::collections::HashMap;
use wasm_encoder::BlockType;
use wasmparser::{AbstractHeapType, HeapType, ValType};

/// The type that a value of `kind` has in the modules that are made. References are nullable there
/// and have no finer type than function, external or exception: nothing that the validator lets
/// pass needs more, and every local of ours can begin as null.
pub(crate) fn plain(kind: ValType) -> ValType {
    let ValType::Ref(reference) = kind else {
        return kind;
    };
    match reference.heap_type() {
        HeapType::Abstract { ty, .. } => match ty {
            AbstractHeapType::Exn | AbstractHeapType::NoExn => ValType::EXNREF,
            AbstractHeapType::Extern | AbstractHeapType::NoExtern => ValType::EXTERNREF,
            _ => ValType::FUNCREF,
        },
        HeapType::Concrete(_) | HeapType::Exact(_) => ValType::FUNCREF,
    }
}

/// The same for a list.
pub(crate) fn plain_types(kinds: &[ValType]) -> Vec<ValType> {
    kinds.iter().copied().map(plain).collect()
}

/// Parameters and results.
pub(crate) type Signature = (Vec<ValType>, Vec<ValType>);

/// The added types. They follow those of the module as given, in both modules alike.
pub(crate) struct Types {
    first: u32,
    index: HashMap<Signature, u32>,
    added: Vec<Signature>,
}

impl Types {
    /// `first` is the number of types in the module as given.
    pub fn new(first: u32) -> Types {
        Types {
            first,
            index: HashMap::new(),
            added: Vec::new(),
        }
    }

    /// The index of a function type.
    pub fn function(&mut self, params: &[ValType], results: &[ValType]) -> u32 {
        let signature = (params.to_vec(), results.to_vec());
        if let Some(index) = self.index.get(&signature) {
            return *index;
        }
        let index = self.first + self.added.len() as u32;
        self.added.push(signature.clone());
        self.index.insert(signature, index);
        index
    }

    /// The type of a block.
    pub fn block(&mut self, params: &[ValType], results: &[ValType]) -> BlockType {
        match (params, results) {
            ([], []) => BlockType::Empty,
            ([], [result]) => BlockType::Result(value_type(*result)),
            _ => BlockType::FunctionType(self.function(params, results)),
        }
    }

    /// The added types, in order of index.
    pub fn added(&self) -> &[Signature] {
        &self.added
    }
}
