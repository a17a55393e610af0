//! Puts the modules together, section by section.

use crate::emit::Emitted;
use crate::error::{Error, Place};
use crate::helpers::{self, Helper};
use crate::interface as names;
use crate::module::Module;
use crate::names::Names;
use crate::remap::{Indices, Remap, value_type};
use crate::types::Types;
use std::collections::BTreeSet;
use wasm_encoder::reencode::{Error as Reencoding, Reencode};
use wasm_encoder::{
    BranchHint, BranchHints, CodeSection, ConstExpr, DataCountSection, DataSection, ElementSection,
    Elements, EntityType, ExportKind, ExportSection, Function, FunctionSection, GlobalSection,
    GlobalType, ImportSection, MemorySection, MemoryType, NameMap, NameSection, RefType,
    TableSection, TableType, TagKind, TagSection, TagType, TypeSection, ValType,
};

/// A function that the pass wrote.
pub(crate) struct Written {
    /// Index in the module as given; of a wrapper, the index of the import; of a function for ranges
    /// of memory, its own.
    pub function: u32,
    /// Type index of its run form.
    pub run_type: u32,
    /// Type index of its clone.
    pub clone_type: u32,
    pub run: Emitted,
    pub clone: Emitted,
    /// Whether the module as given has not got it: it wraps an import, or is for ranges of memory.
    pub added: bool,
}

/// Everything that goes into the modules.
pub(crate) struct Parts<'p, 'a> {
    pub module: &'p Module<'a>,
    pub names: &'p Names,
    pub remap: &'p Remap,
    pub indices: &'p Indices,
    pub types: &'p Types,
    /// By function id.
    pub written: &'p [Written],
    /// In order of function index.
    pub helpers: &'p [helpers::Written],
    /// The functions that references can lead to.
    pub functions: &'p [u32],
    /// Indices of the tables that are written to.
    pub written_tables: &'p BTreeSet<u32>,
    pub frames_pages: u32,
    /// Whether the flag memory is shared.
    pub shared_flags: bool,
    /// Whether data segments are used by `memory.init`.
    pub keeps_data: bool,
}

impl Parts<'_, '_> {
    /// The run module.
    pub fn run_module(&self) -> Result<Vec<u8>, Error> {
        self.assemble(false).map_err(reencoding)
    }

    /// The thaw module: the run module and the clones.
    pub fn thaw_module(&self) -> Result<Vec<u8>, Error> {
        self.assemble(true).map_err(reencoding)
    }

    fn assemble(&self, clones: bool) -> Result<Vec<u8>, Reencoding> {
        let mut out = wasm_encoder::Module::new();
        out.section(&self.types());
        out.section(&self.imports());
        out.section(&self.functions(clones));
        out.section(&self.tables(clones)?);
        out.section(&self.memories());
        if !self.module.tags.is_empty() {
            out.section(&self.tags());
        }
        out.section(&self.globals()?);
        out.section(&self.exports(clones)?);
        out.section(&self.elements(clones)?);
        if self.keeps_data {
            let count = self.module.data.len() as u32;
            out.section(&DataCountSection { count });
        }
        let (code, hints) = self.code(clones)?;
        out.section(&hints);
        out.section(&code);
        if self.keeps_data {
            out.section(&self.data());
        }
        out.section(&self.function_names(clones));
        Ok(out.finish())
    }

    fn types(&self) -> TypeSection {
        let mut section = TypeSection::new();
        let all = self.module.types.iter().map(|t| (t.params(), t.results()));
        let added = self.types.added().iter().map(|(p, r)| (&p[..], &r[..]));
        for (params, results) in all.chain(added) {
            let params = params.iter().map(|kind| value_type(*kind));
            let results = results.iter().map(|kind| value_type(*kind));
            section.ty().function(params, results);
        }
        section
    }

    fn imports(&self) -> ImportSection {
        let mut section = ImportSection::new();
        for (import, kind) in self.module.imports.iter().zip(&self.module.type_of) {
            section.import(import.module, import.name, EntityType::Function(*kind));
        }
        let flags = MemoryType {
            minimum: 1,
            maximum: Some(1),
            memory64: false,
            shared: self.shared_flags,
            page_size_log2: None,
        };
        section.import(names::MODULE, names::FLAG_MEMORY, flags);
        section
    }

    fn added(&self) -> impl Iterator<Item = &Written> {
        self.written.iter().filter(|written| written.added)
    }

    /// Index of the first clone.
    fn first_clone(&self) -> u32 {
        let before = self.module.type_of.len() + self.added().count() + self.helpers.len();
        before as u32
    }

    fn functions(&self, clones: bool) -> FunctionSection {
        let mut section = FunctionSection::new();
        for kind in self.module.type_of.iter().skip(self.module.imports.len()) {
            section.function(*kind);
        }
        for added in self.added() {
            section.function(added.run_type);
        }
        for helper in self.helpers {
            section.function(helper.kind);
        }
        if clones {
            for written in self.written {
                section.function(written.clone_type);
            }
        }
        section
    }

    fn tables(&self, clones: bool) -> Result<TableSection, Reencoding> {
        let mut section = TableSection::new();
        let mut reencoder = self.remap.reencoder();
        for table in &self.module.tables {
            reencoder.parse_table(&mut section, table.clone())?;
        }
        let functions = |minimum: usize, maximum: Option<usize>| TableType {
            element_type: RefType::FUNCREF,
            table64: false,
            minimum: minimum as u64,
            maximum: maximum.map(|maximum| maximum as u64),
            shared: false,
        };
        if self.remap.helpers.references {
            let size = self.functions.len();
            section.table(functions(size, Some(size)));
            section.table(functions(0, None));
        }
        if clones {
            let size = self.written.len();
            section.table(functions(size, Some(size)));
        }
        Ok(section)
    }

    fn tags(&self) -> TagSection {
        let mut section = TagSection::new();
        for func_type_idx in &self.module.tags {
            section.tag(TagType {
                kind: TagKind::Exception,
                func_type_idx: *func_type_idx,
            });
        }
        section
    }

    fn memories(&self) -> MemorySection {
        let mut section = MemorySection::new();
        let mut reencoder = self.remap.reencoder();
        for memory in &self.module.memories {
            if let Ok(memory) = reencoder.memory_type(*memory) {
                section.memory(memory);
            }
        }
        section.memory(MemoryType {
            minimum: self.frames_pages.into(),
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        section
    }

    fn globals(&self) -> Result<GlobalSection, Reencoding> {
        let mut section = GlobalSection::new();
        let mut reencoder = self.remap.reencoder();
        for global in &self.module.globals {
            reencoder.parse_global(&mut section, global.clone())?;
        }
        let drops = self.remap.helpers.drops().count();
        for _ in 0..self.indices.dropped as usize + drops - self.module.globals.len() {
            let kind = GlobalType {
                val_type: ValType::I32,
                mutable: true,
                shared: false,
            };
            section.global(kind, &ConstExpr::i32_const(0));
        }
        Ok(section)
    }

    fn exports(&self, clones: bool) -> Result<ExportSection, Reencoding> {
        let mut section = ExportSection::new();
        let mut reencoder = self.remap.reencoder();
        for export in &self.module.exports {
            reencoder.parse_export(&mut section, *export)?;
        }
        let indices = self.indices;
        section.export(names::FRAMES, ExportKind::Memory, indices.frames_memory);
        section.export(names::SP, ExportKind::Global, indices.sp);
        section.export(names::FROZEN, ExportKind::Global, indices.frozen);
        for index in 0..self.module.memories.len() as u32 {
            let memory = reencoder.memory_index(index)?;
            section.export(&names::memory_export(index), ExportKind::Memory, memory);
        }
        for (index, global) in (0..).zip(&self.module.globals) {
            if global.ty.mutable {
                section.export(&names::global_export(index), ExportKind::Global, index);
            }
        }
        for (helper, index) in self.remap.helpers.drops().zip(indices.dropped..) {
            debug_assert!(self.remap.helpers.index(helper).is_some());
            section.export(&names::global_export(index), ExportKind::Global, index);
        }
        for index in self.written_tables {
            section.export(&names::table_export(*index), ExportKind::Table, *index);
        }
        if self.remap.helpers.references {
            section.export(names::FUNCTIONS, ExportKind::Table, indices.functions_table);
            section.export(
                names::REFERENCES,
                ExportKind::Table,
                indices.references_table,
            );
            section.export(names::RP, ExportKind::Global, indices.rp);
        }
        if let Some(settle) = self.remap.helpers.index(Helper::Settle) {
            section.export(names::SETTLE, ExportKind::Func, settle);
        }
        if let Some(start) = self.module.start {
            let start = reencoder.function_index(start)?;
            section.export(names::START, ExportKind::Func, start);
        }
        if clones {
            section.export(names::CLONES, ExportKind::Table, indices.clones_table);
        }
        Ok(section)
    }

    fn elements(&self, clones: bool) -> Result<ElementSection, Reencoding> {
        let mut section = ElementSection::new();
        let mut reencoder = self.remap.reencoder();
        for element in &self.module.elements {
            reencoder.parse_element(&mut section, element.clone())?;
        }
        if self.remap.helpers.references && !self.functions.is_empty() {
            let mut all = Vec::with_capacity(self.functions.len());
            for function in self.functions {
                all.push(reencoder.function_index(*function)?);
            }
            section.active(
                Some(self.indices.functions_table),
                &ConstExpr::i32_const(0),
                Elements::Functions(all.into()),
            );
        }
        if clones && !self.written.is_empty() {
            let first = self.first_clone();
            let all: Vec<u32> = (first..).take(self.written.len()).collect();
            section.active(
                Some(self.indices.clones_table),
                &ConstExpr::i32_const(0),
                Elements::Functions(all.into()),
            );
        }
        Ok(section)
    }

    fn code(&self, clones: bool) -> Result<(CodeSection, BranchHints), Reencoding> {
        let mut section = CodeSection::new();
        let mut hints = BranchHints::new();
        let mut reencoder = self.remap.reencoder();
        let imported = self.module.imported();
        let mut index = imported;
        let mut add = |section: &mut CodeSection, index: u32, emitted: &Emitted| {
            let mut function = Function::new_with_locals_types(emitted.locals.iter().copied());
            let start = function.byte_len();
            function.raw(emitted.code.iter().copied());
            section.function(&function);
            if !emitted.cold.is_empty() {
                let unlikely = emitted.cold.iter().map(|offset| BranchHint {
                    branch_func_offset: (start + offset) as u32,
                    branch_hint_value: 0,
                });
                hints.function_hints(index, unlikely);
            }
        };
        let mut written = self.written.iter().filter(|w| !w.added).peekable();
        for function in &self.module.functions {
            match written.next_if(|written| written.function == index) {
                Some(written) => add(&mut section, index, &written.run),
                None => reencoder.parse_function_body(&mut section, function.body.clone())?,
            }
            index += 1;
        }
        for added in self.added() {
            add(&mut section, index, &added.run);
            index += 1;
        }
        for helper in self.helpers {
            let mut function = Function::new_with_locals_types(helper.locals.iter().copied());
            function.raw(helper.code.iter().copied());
            section.function(&function);
            index += 1;
        }
        if clones {
            for written in self.written {
                add(&mut section, index, &written.clone);
                index += 1;
            }
        }
        Ok((section, hints))
    }

    /// Passive segments as they are. Active ones have run, and are as good as dropped: empty.
    fn data(&self) -> DataSection {
        let mut section = DataSection::new();
        for segment in &self.module.data {
            match segment.kind {
                wasmparser::DataKind::Passive => section.passive(segment.data.iter().copied()),
                wasmparser::DataKind::Active { .. } => section.passive([]),
            };
        }
        section
    }

    fn function_names(&self, clones: bool) -> NameSection {
        let mut section = NameSection::new();
        if let Some(module) = &self.names.module {
            section.module(module);
        }
        let mut map = NameMap::new();
        let known = &self.names.functions;
        let functions = self.module.type_of.len() as u32;
        for (index, name) in known.range(..functions) {
            map.append(*index, name);
        }
        let added = (functions..).zip(self.added());
        let clones = self.written.iter().filter(|_| clones);
        for (index, written) in added.chain((self.first_clone()..).zip(clones)) {
            // A clone does the work of its original, and so bears its name in a trap's trace.
            if let Some(name) = known.get(&written.function) {
                map.append(index, name);
            }
        }
        if !map.is_empty() {
            section.functions(&map);
        }
        section
    }
}

/// What the validator has passed can be written again; an error of the encoder is told all the
/// same, rather than trusted not to be.
fn reencoding(error: Reencoding) -> Error {
    Error::Invalid {
        place: Place::Module,
        offset: 0,
        message: error.to_string(),
    }
}
