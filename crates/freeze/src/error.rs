//! Why a module cannot be made freezable: every reason is a value that names the place.

use std::fmt;
use thiserror::Error;

/// The part of a module that an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The module as a whole.
    Module,
    /// A function, by its index in the module as given, and its name if the module tells one.
    Function {
        /// Index in the function index space of the module as given.
        index: u32,
        /// From the name section, or else from an export.
        name: Option<String>,
    },
    /// An import.
    Import {
        /// The module it is imported from.
        module: String,
        /// The name it is imported by.
        name: String,
    },
    /// A global, by index.
    Global(u32),
    /// A memory, by index.
    Memory(u32),
    /// A table, by index.
    Table(u32),
    /// A data segment, by index.
    Data(u32),
}

impl Place {
    pub(crate) fn function(index: u32) -> Place {
        Place::Function { index, name: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Module => f.write_str("the module"),
            Place::Function { index, name: None } => write!(f, "function {index}"),
            Place::Function {
                index,
                name: Some(name),
            } => write!(f, "function {index} \"{name}\""),
            Place::Import { module, name } => write!(f, "import \"{module}\" \"{name}\""),
            Place::Global(index) => write!(f, "global {index}"),
            Place::Memory(index) => write!(f, "memory {index}"),
            Place::Table(index) => write!(f, "table {index}"),
            Place::Data(index) => write!(f, "data segment {index}"),
        }
    }
}

/// Why a module was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not begin as WebAssembly does.
    #[error("this is not a WebAssembly module: it does not begin with the bytes 00 61 73 6d")]
    NotWasm,

    /// A component, not a core module.
    #[error(
        "this is a WebAssembly component; only core modules can be run \
         (build the program for wasm32-wasip1, or take the core module out of the component)"
    )]
    Component,

    /// The bytes are not a valid module.
    #[error("invalid WebAssembly at byte {offset:#x}, in {place}: {message}")]
    Invalid {
        /// Where the validator was.
        place: Place,
        /// Offset in the bytes as given.
        offset: u64,
        /// What the validator says.
        message: String,
    },

    /// The module is valid, but uses what cannot be frozen (yet).
    #[error("{place} uses {feature}, which is not supported (at byte {offset:#x})")]
    Unsupported {
        /// Who uses it.
        place: Place,
        /// What is used, in words that can be searched for.
        feature: String,
        /// Offset in the bytes as given.
        offset: u64,
    },

    /// An active data segment lies outside its memory: the module could never be instantiated.
    #[error(
        "{place} writes bytes {start}..{end} of memory {memory}, which begins with only {size} \
         bytes: the module can never be instantiated"
    )]
    DataOutOfBounds {
        /// The segment.
        place: Place,
        /// The memory it is for.
        memory: u32,
        /// First byte written.
        start: u64,
        /// One past the last byte written.
        end: u64,
        /// Initial size of the memory, in bytes.
        size: u64,
    },

    /// An import or export uses a name that the pass needs for itself.
    #[error("{place} uses a name that begins with \"limosa:\", which is reserved: {name:?}")]
    ReservedName {
        /// Who uses it.
        place: Place,
        /// The name.
        name: String,
    },

    /// A limit of WebAssembly engines, or of the pass itself, would be exceeded.
    #[error("{place} is too large to be made freezable: {what}")]
    TooLarge {
        /// What is too large.
        place: Place,
        /// Which limit, and by what.
        what: String,
    },
}

impl Error {
    /// An error of the validator about `place`, as "invalid" or as "unsupported": the latter if
    /// the validator names a missing feature.
    pub(crate) fn from_validator(place: Place, error: &wasmparser::Error) -> Error {
        match error.missing_wasm_feature() {
            Some(feature) => Error::Unsupported {
                place,
                feature: describe(feature, error.message()),
                offset: error.offset(),
            },
            None => Error::Invalid {
                place,
                offset: error.offset(),
                message: error.message().to_owned(),
            },
        }
    }

    pub(crate) fn unsupported(place: Place, feature: impl Into<String>, offset: u64) -> Error {
        Error::Unsupported {
            place,
            feature: feature.into(),
            offset,
        }
    }

    pub(crate) fn too_large(place: Place, what: impl Into<String>) -> Error {
        Error::TooLarge {
            place,
            what: what.into(),
        }
    }

    /// The place it is about, if it is about one.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Error::NotWasm | Error::Component => None,
            Error::Invalid { place, .. }
            | Error::Unsupported { place, .. }
            | Error::DataOutOfBounds { place, .. }
            | Error::ReservedName { place, .. }
            | Error::TooLarge { place, .. } => Some(place),
        }
    }

    pub(crate) fn place_mut(&mut self) -> Option<&mut Place> {
        match self {
            Error::NotWasm | Error::Component => None,
            Error::Invalid { place, .. }
            | Error::Unsupported { place, .. }
            | Error::DataOutOfBounds { place, .. }
            | Error::ReservedName { place, .. }
            | Error::TooLarge { place, .. } => Some(place),
        }
    }
}

/// The features a user may know by name, before the validator's own words.
fn describe(feature: wasmparser::WasmFeatures, message: &str) -> String {
    use wasmparser::WasmFeatures as F;
    let name = match feature {
        F::THREADS | F::SHARED_EVERYTHING_THREADS | F::ACQUIRE_RELEASE_ATOMICS => {
            "threads (atomics or shared memory)"
        }
        F::LEGACY_EXCEPTIONS => {
            "legacy exceptions (compile and link with -mllvm -wasm-use-legacy-eh=false, or \
             translate the module with wasm-opt --translate-to-exnref)"
        }
        F::GC | F::GC_TYPES | F::CUSTOM_DESCRIPTORS | F::MULTIBYTE_ARRAY_ACCESS => {
            "garbage-collected types"
        }
        F::FUNCTION_REFERENCES => "typed function references",
        F::STACK_SWITCHING => "stack switching",
        F::WIDE_ARITHMETIC => "wide arithmetic",
        F::CUSTOM_PAGE_SIZES => "custom page sizes",
        F::COMPONENT_MODEL => "the component model",
        F::COMPACT_IMPORTS => "compact imports",
        _ => return message.to_owned(),
    };
    name.to_owned()
}
