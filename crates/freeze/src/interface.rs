//! The seam between an instrumented module and its host: names, and what the module asks for.

use crate::sites::Slot;

/// The module name of everything the pass imports, and the prefix of everything it exports.
pub const MODULE: &str = "limosa";

/// Prefix of the exports that the pass adds. A module that exports such a name is refused.
pub const PREFIX: &str = "limosa:";

/// Name of the imported memory of one page with the words below.
pub const FLAG_MEMORY: &str = "flag";

/// Byte offset in the flag memory of the freeze request (i32): not zero asks for a freeze.
pub const FLAG_REQUEST: u32 = 0;

/// Byte offset in the flag memory of the countdown (i32), used with [`crate::Poll::Countdown`]:
/// every poll subtracts one and freezes when the result is zero; so 0 means never.
pub const FLAG_COUNTDOWN: u32 = 4;

/// Byte offset in the flag memory of a word that [`crate::Poll::Plain`] writes and no one reads.
pub const FLAG_SCRATCH: u32 = 8;

/// Export: the memory that frames are pushed to.
pub const FRAMES: &str = "limosa:frames";

/// Export: the mutable i32 global with the number of bytes in the frames memory.
pub const SP: &str = "limosa:sp";

/// Export: the mutable i32 global that is 1 while a stack is being frozen. A host function that
/// freezes sets it; the host clears it before it runs the module again.
pub const FROZEN: &str = "limosa:frozen";

/// Export: the function that was the module's start function.
pub const START: &str = "limosa:start";

/// Export of the thaw module: the table of clones, by function id.
pub const CLONES: &str = "limosa:clones";

/// Export: memory `index` of the module as given.
pub fn memory_export(index: u32) -> String {
    format!("{PREFIX}memory.{index}")
}

/// Export: mutable global `index` of the module as given.
pub fn global_export(index: u32) -> String {
    format!("{PREFIX}global.{index}")
}

/// Export: table `index` of the module as given, if the module writes to it.
pub fn table_export(index: u32) -> String {
    format!("{PREFIX}table.{index}")
}

/// Export: the table of the functions that references can lead to, as [`Interface::functions`]
/// lists them. Only with [`Interface::references`].
pub const FUNCTIONS: &str = "limosa:functions";

/// Export: the table that references in frames are pushed to, as the bytes are to [`FRAMES`]. Only
/// with [`Interface::references`].
pub const REFERENCES: &str = "limosa:references";

/// Export: the mutable i32 global with the number of entries in [`REFERENCES`]. Only with
/// [`Interface::references`].
pub const RP: &str = "limosa:rp";

/// Export: a function without parameters that drops again, in a new instance, the segments that
/// the globals say were dropped. Only with [`Interface::settle`].
pub const SETTLE: &str = "limosa:settle";

/// What a module needs from its host and offers to it, apart from the names above.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The functions the module imports, in order.
    pub imports: Vec<ImportedFunction>,
    /// What the module exported as given, in order.
    pub exports: Vec<Export>,
    /// Types of the memories, in order.
    pub memories: Vec<MemoryLimits>,
    /// The mutable globals, and after them those that the pass added to note dropped segments.
    pub globals: Vec<MutableGlobal>,
    /// The tables that the module writes to.
    pub tables: Vec<MutableTable>,
    /// The functions that references can lead to, by index in the module as given, ascending. In
    /// tables, globals and frames a reference is null or leads to one of these.
    pub functions: Vec<u32>,
    /// Whether references can be part of the state: [`FUNCTIONS`], [`REFERENCES`] and [`RP`] are
    /// exported then.
    pub references: bool,
    /// Whether [`SETTLE`] is exported and must be called after the globals were set.
    pub settle: bool,
    /// Whether the engine needs a heap for exceptions or external references.
    pub heap: bool,
    /// Whether [`START`] is exported and must be run before anything else, at birth only.
    pub start: bool,
    /// Smallest size of the frames memory, in pages of 64 KiB.
    pub frames_pages: u32,
}

/// An imported function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedFunction {
    /// Module name.
    pub module: String,
    /// Field name.
    pub name: String,
    /// Parameter types; `None` for a reference.
    pub params: Vec<Option<Slot>>,
    /// Result types; `None` for a reference.
    pub results: Vec<Option<Slot>>,
    /// Whether the module was instrumented for it to freeze.
    pub may_freeze: bool,
}

/// An export of the module as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ExportKind,
}

/// What an export is; with its index in the module as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportKind {
    /// A function, with its parameter and result types (`None` for a reference).
    Function {
        /// Index.
        index: u32,
        /// Parameter types.
        params: Vec<Option<Slot>>,
        /// Result types.
        results: Vec<Option<Slot>>,
    },
    /// A table.
    Table(u32),
    /// A memory.
    Memory(u32),
    /// A global.
    Global(u32),
    /// An exception tag.
    Tag(u32),
}

/// Limits of a memory, in pages of 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Initial size.
    pub minimum: u64,
    /// Largest size, if limited by the module.
    pub maximum: Option<u64>,
    /// Whether its addresses have 64 bits.
    pub wide: bool,
}

/// A table that the module writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MutableTable {
    /// Index in the module as given.
    pub index: u32,
    /// Whether it holds functions. If not, all its entries are null.
    pub functions: bool,
    /// Initial size, in entries.
    pub minimum: u64,
    /// Largest size, if limited by the module.
    pub maximum: Option<u64>,
}

/// A mutable global.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MutableGlobal {
    /// Index in the module as given.
    pub index: u32,
    /// Its type: a number, a vector or a function reference.
    pub kind: Slot,
}
