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

/// What a module needs from its host and offers to it, apart from the names above.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The functions the module imports, in order.
    pub imports: Vec<ImportedFunction>,
    /// What the module exported as given, in order.
    pub exports: Vec<Export>,
    /// Types of the memories, in order.
    pub memories: Vec<MemoryLimits>,
    /// The mutable globals: all the state that is neither memory nor stack.
    pub globals: Vec<MutableGlobal>,
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
}

/// Limits of a memory, in pages of 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Initial size.
    pub minimum: u32,
    /// Largest size, if limited by the module.
    pub maximum: Option<u32>,
}

/// A mutable global.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MutableGlobal {
    /// Index in the module as given.
    pub index: u32,
    /// Its type.
    pub kind: Slot,
}
