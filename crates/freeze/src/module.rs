//! The module as given: validated, taken apart by section, and checked for what cannot be frozen.

use crate::error::{Error, Place};
use crate::interface::{MODULE, PREFIX};
use wasmparser::{
    BlockType, CompositeInnerType, Data, Element, ElementItems, ElementKind, Encoding, Export,
    FromReader, FuncToValidate, FuncType, FunctionBody, Global, Import, MemoryType, Operator,
    Parser, Payload, SectionLimited, Table, TypeRef, ValType, ValidPayload, Validator,
    ValidatorResources, WasmFeatures,
};

/// What the pass understands. Everything else is refused by the validator, which then names the
/// missing feature.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::EXTENDED_CONST)
    .difference(WasmFeatures::GC_TYPES);

/// An imported function.
pub(crate) struct ImportedFunction<'a> {
    pub module: &'a str,
    pub name: &'a str,
}

/// A function defined by the module.
pub(crate) struct DefinedFunction<'a> {
    pub body: FunctionBody<'a>,
    validation: FuncToValidate<ValidatorResources>,
}

impl DefinedFunction<'_> {
    /// A validator for the body; it can be had any number of times.
    pub fn validation(&self) -> FuncToValidate<ValidatorResources> {
        FuncToValidate {
            resources: self.validation.resources.clone(),
            index: self.validation.index,
            ty: self.validation.ty,
            features: self.validation.features,
        }
    }
}

/// The module as given, by section.
#[derive(Default)]
pub(crate) struct Module<'a> {
    pub types: Vec<FuncType>,
    /// Type index of every function, imported ones first.
    pub type_of: Vec<u32>,
    pub imports: Vec<ImportedFunction<'a>>,
    pub functions: Vec<DefinedFunction<'a>>,
    pub tables: Vec<Table<'a>>,
    pub memories: Vec<MemoryType>,
    pub globals: Vec<Global<'a>>,
    pub exports: Vec<Export<'a>>,
    pub start: Option<u32>,
    pub elements: Vec<Element<'a>>,
    pub data: Vec<Data<'a>>,
}

impl<'a> Module<'a> {
    /// Takes a module apart. Function bodies are not validated yet: the scan does that.
    pub fn parse(wasm: &'a [u8]) -> Result<Module<'a>, Error> {
        if !wasm.starts_with(b"\0asm") {
            return Err(Error::NotWasm);
        }
        let mut parser = Parser::new(0);
        parser.set_features(FEATURES);
        let mut validator = Validator::new_with_features(FEATURES);
        let mut module = Module::default();
        for payload in parser.parse_all(wasm) {
            let payload = payload.map_err(|e| classify(wasm, Place::Module, e))?;
            if let Payload::Version {
                encoding: Encoding::Component,
                ..
            } = payload
            {
                return Err(Error::Component);
            }
            let valid = validator
                .payload(&payload)
                .map_err(|e| classify(wasm, Place::Module, e))?;
            if let ValidPayload::Func(validation, body) = valid {
                module.functions.push(DefinedFunction { body, validation });
                continue;
            }
            module.take(payload)?;
        }
        module.check_globals()?;
        module.check_names()?;
        Ok(module)
    }

    /// Keeps what a section holds. The validator has read it before, so that errors of the parser
    /// do not occur here.
    fn take(&mut self, payload: Payload<'a>) -> Result<(), Error> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section {
                    for kind in group.map_err(broken)?.into_types() {
                        match kind.composite_type.inner {
                            CompositeInnerType::Func(function) => self.types.push(function),
                            _ => {
                                let what = "garbage-collected types";
                                return Err(Error::unsupported(Place::Module, what, 0));
                            }
                        }
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports_with_offsets() {
                    let (offset, import) = import.map_err(broken)?;
                    self.take_import(import, offset)?;
                }
            }
            Payload::FunctionSection(section) => self.type_of.extend(collect(section)?),
            Payload::TableSection(section) => self.tables = collect(section)?,
            Payload::MemorySection(section) => self.memories = collect(section)?,
            Payload::GlobalSection(section) => self.globals = collect(section)?,
            Payload::ExportSection(section) => self.exports = collect(section)?,
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::ElementSection(section) => self.elements = collect(section)?,
            Payload::DataSection(section) => self.data = collect(section)?,
            _ => {}
        }
        Ok(())
    }

    fn take_import(&mut self, import: Import<'a>, offset: u64) -> Result<(), Error> {
        let what = match import.ty {
            TypeRef::Func(kind) => {
                self.type_of.push(kind);
                self.imports.push(ImportedFunction {
                    module: import.module,
                    name: import.name,
                });
                return Ok(());
            }
            TypeRef::Memory(_) => "an imported memory",
            TypeRef::Table(_) => "an imported table",
            TypeRef::Global(_) => "an imported global",
            TypeRef::Tag(_) => "an imported exception tag",
            TypeRef::FuncExact(_) => "an imported function of exact type",
        };
        let place = Place::Import {
            module: import.module.to_owned(),
            name: import.name.to_owned(),
        };
        Err(Error::unsupported(place, what, offset))
    }

    fn check_globals(&self) -> Result<(), Error> {
        for (index, global) in self.globals.iter().enumerate() {
            if global.ty.mutable && matches!(global.ty.content_type, ValType::Ref(_)) {
                return Err(Error::unsupported(
                    Place::Global(index as u32),
                    "a mutable reference",
                    global.init_expr.get_binary_reader().original_position(),
                ));
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), Error> {
        for export in &self.exports {
            if export.name.starts_with(PREFIX) {
                return Err(Error::ReservedName {
                    place: Place::Module,
                    name: export.name.to_owned(),
                });
            }
        }
        for import in &self.imports {
            if import.module == MODULE {
                return Err(Error::ReservedName {
                    place: Place::Import {
                        module: import.module.to_owned(),
                        name: import.name.to_owned(),
                    },
                    name: format!("{MODULE}:{}", import.name),
                });
            }
        }
        Ok(())
    }

    /// Number of imported functions, and index of the first defined one.
    pub fn imported(&self) -> u32 {
        self.imports.len() as u32
    }

    /// The signature of a function, by function index.
    pub fn signature(&self, function: u32) -> &FuncType {
        &self.types[self.type_of[function as usize] as usize]
    }

    /// Parameters and results of a block type.
    pub fn block_signature(&self, kind: BlockType) -> (Vec<ValType>, Vec<ValType>) {
        match kind {
            BlockType::Empty => (Vec::new(), Vec::new()),
            BlockType::Type(result) => (Vec::new(), vec![result]),
            BlockType::FuncType(index) => {
                let function = &self.types[index as usize];
                (function.params().to_vec(), function.results().to_vec())
            }
        }
    }

    /// The functions that an element segment holds; null entries are left out.
    pub fn element_functions(&self, items: &ElementItems<'a>) -> Result<Vec<u32>, Error> {
        match items {
            ElementItems::Functions(indices) => collect(indices.clone()),
            ElementItems::Expressions(_, expressions) => {
                let mut functions = Vec::new();
                for expression in collect(expressions.clone())? {
                    for operator in expression.get_operators_reader() {
                        if let Operator::RefFunc { function_index } = operator.map_err(broken)? {
                            functions.push(function_index);
                        }
                    }
                }
                Ok(functions)
            }
        }
    }

    /// The tables into which active element segments put functions, with what they put.
    pub fn table_contents(&self) -> Result<Vec<Vec<u32>>, Error> {
        let mut contents = vec![Vec::new(); self.tables.len()];
        for element in &self.elements {
            if let ElementKind::Active { table_index, .. } = &element.kind {
                contents[table_index.unwrap_or(0) as usize]
                    .extend(self.element_functions(&element.items)?);
            }
        }
        Ok(contents)
    }
}

fn collect<'a, T: FromReader<'a>>(section: SectionLimited<'a, T>) -> Result<Vec<T>, Error> {
    section
        .into_iter()
        .map(|item| item.map_err(broken))
        .collect()
}

fn broken(error: wasmparser::Error) -> Error {
    broken_in(Place::Module, &error)
}

/// An error of the parser about what the validator has already passed.
pub(crate) fn broken_in(place: Place, error: &wasmparser::Error) -> Error {
    Error::from_validator(place, error)
}

/// An error of the restricted validator: "unsupported" if the module is valid WebAssembly with
/// every feature there is, "invalid" otherwise.
pub(crate) fn classify(wasm: &[u8], place: Place, error: wasmparser::Error) -> Error {
    let first = Error::from_validator(place, &error);
    match first {
        Error::Invalid {
            place,
            offset,
            message,
        } if valid_with_every_feature(wasm) => Error::Unsupported {
            place,
            feature: format!("what the supported WebAssembly has not ({message})"),
            offset,
        },
        other => other,
    }
}

fn valid_with_every_feature(wasm: &[u8]) -> bool {
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    validator.validate_all(wasm).is_ok()
}
