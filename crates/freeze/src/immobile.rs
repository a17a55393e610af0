//! Modules that cannot be frozen, made ready for the same host all the same.
//!
//! Nothing is instrumented: every section is taken over as it is, whatever it holds, and only the
//! exports that a host counts on are added. The start function becomes an export like the others.

use crate::error::{Error, Place};
use crate::image::InitialMemory;
use crate::interface::MemoryLimits;
use crate::interface::{self as names, Export, ExportKind, ImportedFunction, Interface, PREFIX};
use crate::module::{broken_in, collect};
use crate::sites::{SiteTable, Slot};
use crate::{Artefact, FORMAT_VERSION};
use std::ops::Range;
use wasm_encoder::{Encode, RawSection};
use wasmparser::{
    CompositeInnerType, Encoding, ExternalKind, FuncType, MemoryType, Parser, Payload, TypeRef,
    Validator, WasmFeatures,
};

/// The sections by number, in the order in which they stand in a module.
const ORDER: [u8; 13] = [1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11];
const MEMORIES: u8 = 5;
const GLOBALS: u8 = 6;
const EXPORTS: u8 = 7;
const START: u8 = 8;

/// What has to be known of a module.
#[derive(Default)]
struct Outline {
    /// `None` for what is no function type.
    types: Vec<Option<FuncType>>,
    /// Type index of every function.
    type_of: Vec<u32>,
    imports: Vec<ImportedFunction>,
    memories: Vec<MemoryType>,
    globals: u32,
    exports: Vec<Export>,
    start: Option<u32>,
    /// Number and place of every section but custom ones.
    sections: Vec<(u8, Range<u64>)>,
}

/// Makes a module ready to run for a host of [`Artefact`]s, but not freezable: it has no sites, does
/// not poll, and its thaw module is empty. All the features that there are may be used; whether an
/// engine can run them is for it to say.
pub fn immobile(wasm: &[u8]) -> Result<Artefact, Error> {
    if !wasm.starts_with(b"\0asm") {
        return Err(Error::NotWasm);
    }
    let failed = |error| broken_in(Place::Module, &error);
    if matches!(
        Parser::new(0).parse_all(wasm).next(),
        Some(Ok(Payload::Version {
            encoding: Encoding::Component,
            ..
        }))
    ) {
        return Err(Error::Component);
    }
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    validator.validate_all(wasm).map_err(failed)?;
    let mut outline = Outline::default();
    for payload in Parser::new(0).parse_all(wasm) {
        outline.take(payload.map_err(failed)?)?;
    }
    if let Some(export) = outline
        .exports
        .iter()
        .find(|export| export.name.starts_with(PREFIX))
    {
        return Err(Error::ReservedName {
            place: Place::Module,
            name: export.name.clone(),
        });
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"limosa immobile artefact");
    hasher.update(&FORMAT_VERSION.to_le_bytes());
    hasher.update(blake3::hash(wasm).as_bytes());
    let memories = outline.memories.iter();
    Ok(Artefact {
        run: outline.write(wasm),
        thaw: wasm_encoder::Module::new().finish(),
        sites: SiteTable::default(),
        image: memories
            .map(|memory| InitialMemory {
                pages: memory.initial,
                chunks: Vec::new(),
            })
            .collect(),
        interface: outline.interface(),
        id: *hasher.finalize().as_bytes(),
        mobile: false,
    })
}

impl Outline {
    fn take(&mut self, payload: Payload<'_>) -> Result<(), Error> {
        if let Some((id, range)) = payload.as_section()
            && id != 0
        {
            self.sections.push((id, range));
        }
        let failed = |error| broken_in(Place::Module, &error);
        match payload {
            Payload::TypeSection(section) => {
                for group in section {
                    for kind in group.map_err(failed)?.into_types() {
                        self.types.push(match kind.composite_type.inner {
                            CompositeInnerType::Func(function) => Some(function),
                            _ => None,
                        });
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(failed)?;
                    match import.ty {
                        TypeRef::Func(kind) | TypeRef::FuncExact(kind) => {
                            let (params, results) = self.slots(kind);
                            self.type_of.push(kind);
                            self.imports.push(ImportedFunction {
                                module: import.module.to_owned(),
                                name: import.name.to_owned(),
                                params,
                                results,
                                may_freeze: false,
                            });
                        }
                        TypeRef::Memory(memory) => self.memories.push(memory),
                        TypeRef::Global(_) => self.globals += 1,
                        TypeRef::Table(_) | TypeRef::Tag(_) => {}
                    }
                }
            }
            Payload::FunctionSection(section) => self.type_of.extend(collect(section)?),
            Payload::MemorySection(section) => self.memories.extend(collect(section)?),
            Payload::GlobalSection(section) => self.globals += section.count(),
            Payload::ExportSection(section) => {
                for export in collect(section)? {
                    let index = export.index;
                    let kind = match export.kind {
                        ExternalKind::Func | ExternalKind::FuncExact => {
                            let kind = self.type_of.get(index as usize).copied();
                            let (params, results) = self.slots(kind.unwrap_or(u32::MAX));
                            ExportKind::Function {
                                index,
                                params,
                                results,
                            }
                        }
                        ExternalKind::Table => ExportKind::Table(index),
                        ExternalKind::Memory => ExportKind::Memory(index),
                        ExternalKind::Global => ExportKind::Global(index),
                        ExternalKind::Tag => ExportKind::Tag(index),
                    };
                    let name = export.name.to_owned();
                    self.exports.push(Export { name, kind });
                }
            }
            Payload::StartSection { func, .. } => self.start = Some(func),
            _ => {}
        }
        Ok(())
    }

    /// Parameters and results of a type.
    fn slots(&self, kind: u32) -> (Vec<Option<Slot>>, Vec<Option<Slot>>) {
        match self.types.get(kind as usize) {
            Some(Some(function)) => {
                let slots = |kinds: &[_]| kinds.iter().map(|kind| Slot::of(*kind)).collect();
                (slots(function.params()), slots(function.results()))
            }
            _ => (Vec::new(), Vec::new()),
        }
    }

    fn interface(self) -> Interface {
        let memories = self.memories.iter();
        Interface {
            imports: self.imports,
            exports: self.exports,
            memories: memories
                .map(|memory| MemoryLimits {
                    minimum: memory.initial,
                    maximum: memory.maximum,
                    wide: memory.memory64,
                })
                .collect(),
            start: self.start.is_some(),
            // It may have any kind of reference.
            heap: true,
            frames_pages: 1,
            ..Interface::default()
        }
    }

    /// The module with the exports that a host counts on.
    fn write(&self, wasm: &[u8]) -> Vec<u8> {
        let mut module = wasm_encoder::Module::new();
        let mut sections = self.sections.iter().peekable();
        for id in ORDER {
            let given = sections.next_if(|(given, _)| *given == id);
            let content =
                given.and_then(|(_, range)| wasm.get(range.start as usize..range.end as usize));
            let (count, added) = self.added(id);
            if id == START || (content.is_none() && count == 0) {
                continue;
            }
            let data = match (count, content) {
                (0, Some(content)) => content.to_vec(),
                _ => append(content.unwrap_or(&[0]), count, &added),
            };
            module.section(&RawSection { id, data: &data });
        }
        module.finish()
    }

    /// What is added to a section: the number of entries, and their bytes.
    fn added(&self, section: u8) -> (u32, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut count = 0;
        match section {
            MEMORIES => {
                // One page, for frames that never come.
                bytes.extend([0, 1]);
                count = 1;
            }
            GLOBALS => {
                // Two mutable i32 that begin as 0.
                bytes.extend([0x7f, 1, 0x41, 0, 0x0b].repeat(2));
                count = 2;
            }
            EXPORTS => {
                let mut export = |name: &str, kind: u8, index: u32| {
                    name.encode(&mut bytes);
                    bytes.push(kind);
                    index.encode(&mut bytes);
                    count += 1;
                };
                let memories = self.memories.len() as u32;
                for memory in 0..memories {
                    export(&names::memory_export(memory), 2, memory);
                }
                export(names::FRAMES, 2, memories);
                export(names::SP, 3, self.globals);
                export(names::FROZEN, 3, self.globals + 1);
                if let Some(start) = self.start {
                    export(names::START, 0, start);
                }
            }
            _ => {}
        }
        (count, bytes)
    }
}

/// A section's content, which begins with the number of its entries, with more entries.
fn append(content: &[u8], count: u32, added: &[u8]) -> Vec<u8> {
    let (mut have, mut length) = (0u64, 0);
    for byte in content {
        have |= u64::from(byte & 0x7f) << (7 * length).min(56);
        length += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut data = Vec::with_capacity(content.len() + added.len() + 5);
    (have as u32).saturating_add(count).encode(&mut data);
    data.extend(content.get(length as usize..).unwrap_or_default());
    data.extend(added);
    data
}
