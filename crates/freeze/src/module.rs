//! The module as given: validated, taken apart by section, and checked for what cannot be frozen.

use crate::error::{Error, Place};
use crate::interface::{MODULE, PREFIX};
use crate::types::{plain, plain_types};
use wasmparser::{
    BlockType, CompositeInnerType, ConstExpr, Data, Element, ElementItems, ElementKind, Encoding,
    Export, FromReader, FuncToValidate, FuncType, FunctionBody, Global, Import, MemoryType,
    Operator, Parser, Payload, SectionLimited, Table, TableInit, TypeRef, ValType, ValidPayload,
    Validator, ValidatorResources, WasmFeatures,
};

/// What the pass understands. Everything else is refused by the validator, which then names the
/// missing feature.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::EXCEPTIONS)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::RELAXED_SIMD);

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
    /// Type index of every exception tag.
    pub tags: Vec<u32>,
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
            Payload::TagSection(section) => {
                let tags = collect(section)?;
                self.tags = tags.iter().map(|tag| tag.func_type_idx).collect();
            }
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
            TypeRef::Func(kind) if self.returns_references(kind) => {
                "an imported function that returns a reference"
            }
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

    /// A host could give references that cannot be written down.
    fn returns_references(&self, kind: u32) -> bool {
        let kind = self.types.get(kind as usize);
        kind.is_some_and(|kind| kind.results().iter().any(ValType::is_reference_type))
    }

    fn check_globals(&self) -> Result<(), Error> {
        for (index, global) in self.globals.iter().enumerate() {
            if global.ty.mutable && plain(global.ty.content_type) == ValType::EXNREF {
                return Err(Error::unsupported(
                    Place::Global(index as u32),
                    "a mutable reference to exceptions",
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
            BlockType::Type(result) => (Vec::new(), vec![plain(result)]),
            BlockType::FuncType(index) => {
                let function = &self.types[index as usize];
                (
                    plain_types(function.params()),
                    plain_types(function.results()),
                )
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
                    functions.extend(self.functions_of(&expression)?);
                }
                Ok(functions)
            }
        }
    }

    /// The functions that a constant expression refers to.
    fn functions_of(&self, expression: &ConstExpr<'a>) -> Result<Vec<u32>, Error> {
        let mut functions = Vec::new();
        for operator in expression.get_operators_reader() {
            if let Operator::RefFunc { function_index } = operator.map_err(broken)? {
                functions.push(function_index);
            }
        }
        Ok(functions)
    }

    /// The functions that references outside of function bodies lead to: those in element segments
    /// of any kind, in initial values of tables and in globals.
    pub fn referenced(&self) -> Result<Vec<u32>, Error> {
        let mut functions = Vec::new();
        for element in &self.elements {
            functions.extend(self.element_functions(&element.items)?);
        }
        for global in &self.globals {
            functions.extend(self.functions_of(&global.init_expr)?);
        }
        for table in &self.tables {
            if let TableInit::Expr(expression) = &table.init {
                functions.extend(self.functions_of(expression)?);
            }
        }
        Ok(functions)
    }

    /// Whether a type of the module or a mutable global has a reference to functions.
    pub fn has_reference_state(&self) -> bool {
        self.mentions(ValType::FUNCREF)
            || self.globals.iter().any(|global| {
                global.ty.mutable && plain(global.ty.content_type) == ValType::FUNCREF
            })
    }

    /// Whether there can be exceptions.
    pub fn has_exceptions(&self) -> bool {
        !self.tags.is_empty()
    }

    /// Whether a type, table or global is of references that the engine keeps in a heap.
    pub fn has_heap_references(&self) -> bool {
        let tables = self.tables.iter().map(|t| ValType::Ref(t.ty.element_type));
        let globals = self.globals.iter().map(|global| global.ty.content_type);
        let mut kinds = tables.chain(globals).map(plain);
        self.has_exceptions()
            || self.mentions(ValType::EXNREF)
            || self.mentions(ValType::EXTERNREF)
            || kinds.any(|kind| kind == ValType::EXNREF || kind == ValType::EXTERNREF)
    }

    /// Whether parameters or results of any type are of this kind.
    fn mentions(&self, kind: ValType) -> bool {
        let types = self.types.iter();
        let mut kinds = types.flat_map(|t| t.params().iter().chain(t.results()));
        kinds.any(|found| plain(*found) == kind)
    }

    /// What the tables hold before anything is written to them.
    pub fn table_contents(&self) -> Result<Vec<Vec<u32>>, Error> {
        let mut contents = Vec::with_capacity(self.tables.len());
        for table in &self.tables {
            contents.push(match &table.init {
                TableInit::Expr(expression) => self.functions_of(expression)?,
                TableInit::RefNull => Vec::new(),
            });
        }
        for element in &self.elements {
            if let ElementKind::Active { table_index, .. } = &element.kind {
                contents[table_index.unwrap_or(0) as usize]
                    .extend(self.element_functions(&element.items)?);
            }
        }
        Ok(contents)
    }
}

pub(crate) fn collect<'a, T: FromReader<'a>>(
    section: SectionLimited<'a, T>,
) -> Result<Vec<T>, Error> {
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
