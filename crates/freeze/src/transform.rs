//! The pipeline: parse, scan, call graph, then function by function (take apart, place polls,
//! liveness, write both forms), then assemble.

use crate::assemble::{Parts, Written};
use crate::body::Body;
use crate::bulk::Range;
use crate::callgraph::{self, CallGraph};
use crate::emit::{Context, Form, emit};
use crate::error::{Error, Place};
use crate::helpers::{Helper, Helpers};
use crate::interface::{
    Export, ExportKind, ImportedFunction, Interface, MemoryLimits, MutableGlobal, MutableTable,
};
use crate::module::{FEATURES, Module};
use crate::remap::{Indices, Remap};
use crate::scan::{Summary, scan};
use crate::sites::{FunctionSites, SiteTable, Slot};
use crate::types::{Types, plain};
use crate::{Artefact, FORMAT_VERSION, Options, Poll, image, liveness, names, polls, room};
use std::collections::{BTreeMap, BTreeSet};
use wasmparser::{ExternalKind, ValType, Validator, WasmFeatures};

pub(crate) fn transform(wasm: &[u8], options: &Options) -> Result<Artefact, Error> {
    let module = Module::parse(wasm)?;
    let summaries = scan(wasm, &module)?;
    let image = image::evaluate(&module)?;
    let freezing: Vec<bool> = module
        .imports
        .iter()
        .map(|import| {
            options
                .freezing_imports
                .contains(import.module, import.name)
        })
        .collect();
    let calls = CallGraph::new(&module, &summaries, &freezing)?;

    let wrappers = wrappers(&module, &summaries, &freezing)?;
    let first_range = module.type_of.len() + wrappers.len();
    let ranges: BTreeSet<Range> = summaries.iter().flat_map(|s| &s.ranges).copied().collect();
    let ranges: BTreeMap<Range, u32> = ranges.into_iter().zip(first_range as u32..).collect();
    let first_helper = first_range + ranges.len();
    let remap = Remap {
        helpers: Helpers::new(&module, &summaries, first_helper as u32),
        wrappers,
        ranges,
    };
    let (globals, tables) = (module.globals.len() as u32, module.tables.len() as u32);
    let indices = Indices {
        flag_memory: 0,
        frames_memory: module.memories.len() as u32 + 1,
        sp: globals,
        frozen: globals + 1,
        rp: globals + 2,
        dropped: globals + 3,
        functions_table: tables,
        references_table: tables + 1,
        clones_table: tables + if remap.helpers.references { 2 } else { 0 },
    };
    let written_tables = written_tables(&module, &summaries)?;
    let mut types = Types::new(module.types.len() as u32);
    let mut functions = Functions {
        module: &module,
        context: Context {
            indices: &indices,
            remap: &remap,
            types: &mut types,
            poll: options.poll,
            wide_memories: module.memories.iter().map(|m| m.memory64).collect(),
        },
        written: Vec::new(),
        sites: SiteTable::default(),
        limit: options.max_output_bytes,
        size: 0,
    };
    for position in 0..module.functions.len() {
        let function = module.imported() + position as u32;
        if calls.may_freeze(function) {
            let mut body = Body::parse(&module, &calls, position)?;
            polls::place(&mut body, &options.unroll);
            functions.add(body, None)?;
        }
    }
    for import in remap.wrappers.keys() {
        let kind = module.type_of[*import as usize];
        functions.add(Body::wrapper(&module, *import), Some(kind))?;
    }
    for (range, function) in &remap.ranges {
        let kind = functions
            .context
            .types
            .function(&range.params(&module), &[]);
        functions.add(Body::range(&module, *range, *function), Some(kind))?;
    }
    let Functions { written, sites, .. } = functions;
    let helpers = remap.helpers.write(&module, &indices, &mut types);
    let referable = match remap.helpers.references {
        true => referable(&module, &summaries)?,
        false => Vec::new(),
    };

    let frames_pages = room::pages(&module, &calls, &sites, options.stack_bytes)?;
    let parts = Parts {
        module: &module,
        names: &names::read(wasm),
        remap: &remap,
        indices: &indices,
        types: &types,
        written: &written,
        helpers: &helpers,
        functions: &referable,
        written_tables: &written_tables,
        frames_pages,
        shared_flags: options.poll == Poll::Atomic,
        keeps_data: summaries.iter().any(|summary| summary.reads_data),
    };
    let artefact = Artefact {
        run: parts.run_module()?,
        thaw: parts.thaw_module()?,
        id: id(wasm, &sites),
        mobile: true,
        sites,
        image,
        interface: Interface {
            imports: imports(&module, &freezing),
            exports: exports(&module),
            memories: memories(&module),
            globals: mutable_globals(&module, &remap.helpers, &indices),
            tables: mutable_tables(&module, &written_tables),
            functions: referable,
            references: remap.helpers.references,
            settle: remap.helpers.index(Helper::Settle).is_some(),
            heap: module.has_heap_references() || summaries.iter().any(|summary| summary.heap),
            start: module.start.is_some(),
            frames_pages,
        },
    };
    if artefact.thaw.len() > options.max_output_bytes {
        return Err(output_too_large(options.max_output_bytes));
    }
    check(&artefact.run)?;
    check(&artefact.thaw)?;
    Ok(artefact)
}

fn output_too_large(limit: usize) -> Error {
    Error::too_large(
        Place::Module,
        format!("what is made of it would exceed {limit} bytes"),
    )
}

/// Engines limit numbers of functions, types, memories and so on, and a module close to a limit can
/// be pushed over it.
fn check(output: &[u8]) -> Result<(), Error> {
    let mut validator = Validator::new_with_features(FEATURES | WasmFeatures::THREADS);
    match validator.validate_all(output) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::too_large(
            Place::Module,
            format!("what is made of it exceeds a limit of engines ({error})"),
        )),
    }
}

/// Writes functions one at a time, and forgets their bodies.
struct Functions<'f, 'a> {
    module: &'f Module<'a>,
    context: Context<'f>,
    written: Vec<Written>,
    sites: SiteTable,
    /// Most bytes of code to write, and bytes written.
    limit: usize,
    size: usize,
}

impl<'a> Functions<'_, 'a> {
    /// `added` is the type of a function that the module as given has not.
    fn add(&mut self, mut body: Body<'a>, added: Option<u32>) -> Result<(), Error> {
        if body.points.is_empty() {
            // What could freeze was in unreachable code.
            return Ok(());
        }
        liveness::solve(&mut body)?;
        let id = self.written.len() as u32;
        let run = emit(&mut self.context, &body, id, Form::Run)?;
        let clone = emit(&mut self.context, &body, id, Form::Clone)?;
        self.size += run.code.len() + clone.code.len();
        if self.size > self.limit {
            return Err(output_too_large(self.limit));
        }
        let clone_type = self.context.types.function(&[], &body.results);
        self.sites.functions.push(FunctionSites {
            function: body.function,
            sites: run.sites.clone(),
        });
        self.written.push(Written {
            function: body.function,
            run_type: added.unwrap_or_else(|| self.module.type_of[body.function as usize]),
            clone_type,
            run,
            clone,
            added: added.is_some(),
        });
        Ok(())
    }
}

/// The imports that may freeze and whose reference is taken or that are called in place of a return,
/// with the indices of their wrappers.
fn wrappers(
    module: &Module<'_>,
    summaries: &[Summary],
    freezing: &[bool],
) -> Result<BTreeMap<u32, u32>, Error> {
    let mut referenced: BTreeSet<u32> = module.referenced()?.into_iter().collect();
    for export in &module.exports {
        if export.kind == ExternalKind::Func {
            referenced.insert(export.index);
        }
    }
    for summary in summaries {
        referenced.extend(summary.references.iter().chain(&summary.tail_calls));
    }
    referenced.extend(module.start);
    let functions = module.type_of.len() as u32;
    let freezing = |import: &u32| freezing.get(*import as usize).copied().unwrap_or(false);
    let wrapped = referenced.into_iter().filter(freezing);
    Ok(wrapped.zip(functions..).collect())
}

fn id(wasm: &[u8], sites: &SiteTable) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"limosa artefact");
    hasher.update(&FORMAT_VERSION.to_le_bytes());
    hasher.update(blake3::hash(wasm).as_bytes());
    hasher.update(&sites.encode());
    *hasher.finalize().as_bytes()
}

/// The functions that references can lead to, ascending.
fn referable(module: &Module<'_>, summaries: &[Summary]) -> Result<Vec<u32>, Error> {
    let mut functions: BTreeSet<u32> = module.referenced()?.into_iter().collect();
    functions.extend(summaries.iter().flat_map(|summary| &summary.references));
    Ok(functions.into_iter().collect())
}

/// The tables that are written to; those of exceptions cannot be.
fn written_tables(module: &Module<'_>, summaries: &[Summary]) -> Result<BTreeSet<u32>, Error> {
    let written = callgraph::written_tables(summaries);
    for index in &written {
        let table = &module.tables[*index as usize];
        if plain(ValType::Ref(table.ty.element_type)) == ValType::EXNREF {
            let what = "a table of exceptions that is written to";
            return Err(Error::unsupported(Place::Table(*index), what, 0));
        }
    }
    Ok(written)
}

/// Numbers and vectors; `None` for references.
fn slots(kinds: &[ValType]) -> Vec<Option<Slot>> {
    kinds.iter().map(|kind| Slot::of(*kind)).collect()
}

fn imports(module: &Module<'_>, freezing: &[bool]) -> Vec<ImportedFunction> {
    let imports = module.imports.iter().zip(freezing).zip(0..);
    imports
        .map(|((import, freezes), index)| {
            let signature = module.signature(index);
            ImportedFunction {
                module: import.module.to_owned(),
                name: import.name.to_owned(),
                params: slots(signature.params()),
                results: slots(signature.results()),
                may_freeze: *freezes,
            }
        })
        .collect()
}

fn exports(module: &Module<'_>) -> Vec<Export> {
    let exports = module.exports.iter().map(|export| {
        let index = export.index;
        let kind = match export.kind {
            ExternalKind::Func | ExternalKind::FuncExact => {
                let signature = module.signature(index);
                ExportKind::Function {
                    index,
                    params: slots(signature.params()),
                    results: slots(signature.results()),
                }
            }
            ExternalKind::Table => ExportKind::Table(index),
            ExternalKind::Memory => ExportKind::Memory(index),
            ExternalKind::Global => ExportKind::Global(index),
            ExternalKind::Tag => ExportKind::Tag(index),
        };
        Export {
            name: export.name.to_owned(),
            kind,
        }
    });
    exports.collect()
}

fn memories(module: &Module<'_>) -> Vec<MemoryLimits> {
    let memories = module.memories.iter();
    memories
        .map(|memory| MemoryLimits {
            minimum: memory.initial,
            maximum: memory.maximum,
            wide: memory.memory64,
        })
        .collect()
}

fn mutable_globals(
    module: &Module<'_>,
    helpers: &Helpers,
    indices: &Indices,
) -> Vec<MutableGlobal> {
    let globals = (0..).zip(&module.globals).filter(|(_, g)| g.ty.mutable);
    let given = globals.filter_map(|(index, global)| {
        let kind = match plain(global.ty.content_type) {
            ValType::FUNCREF => Slot::Function,
            // A reference of the host is null.
            other => Slot::of(other)?,
        };
        Some(MutableGlobal { index, kind })
    });
    let drops = helpers.drops().zip(indices.dropped..);
    let kind = Slot::I32;
    let drops = drops.map(|(_, index)| MutableGlobal { index, kind });
    given.chain(drops).collect()
}

fn mutable_tables(module: &Module<'_>, written: &BTreeSet<u32>) -> Vec<MutableTable> {
    let tables = written.iter().map(|index| {
        let kind = &module.tables[*index as usize].ty;
        MutableTable {
            index: *index,
            functions: plain(ValType::Ref(kind.element_type)) == ValType::FUNCREF,
            minimum: kind.initial,
            maximum: kind.maximum,
        }
    });
    tables.collect()
}
