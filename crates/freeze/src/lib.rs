//! A WebAssembly pass that makes a module freezable.
//!
//! [`transform`] turns one module into two: the **run module**, which does what the original does
//! and can be frozen, and the **thaw module**, which continues a frozen stack. Between them passes
//! nothing but bytes: memories, globals and frames, with one format on every engine and machine;
//! and, where a program keeps them, references to functions, which the host names by number.
//!
//! ```text
//!            run module                                     thaw module
//!   ┌───────────────────────────────┐              ┌───────────────────────────────┐
//!   │ run ──poll or host call──▶ unwind ──frames──▶ clones ──innermost resumed──▶ run │
//!   └───────────────────────────────┘              └───────────────────────────────┘
//! ```
//!
//! # How a host uses it
//!
//! Both modules import what the original imports, and the memory `limosa` `flag` (one page; shared
//! with [`Poll::Atomic`]). They export what the original exports, and the names in [`interface`].
//! Every function may be called as in the original.
//!
//! **Birth.** Instantiate the run module; write [`Artefact::image`] to the memories; call
//! `limosa:start` if [`interface::Interface::start`] says so; then call the entry.
//!
//! **Freezing.** Set word 0 of the flag memory, from any thread: the next poll freezes. A host
//! function that may freeze (and has had no effect yet) can do so by setting `limosa:frozen` to 1
//! and returning dummies. Either way the call into the module returns, with dummies, and
//! `limosa:frozen` is 1: its state is then in the memories, the mutable globals, the first
//! `limosa:sp` bytes of `limosa:frames`, and, where the [interface](interface::Interface) lists
//! them, the written tables and the first `limosa:rp` entries of `limosa:references`. A reference
//! in those leads to an entry of `limosa:functions`, or is null, and is written down as that
//! entry's number. A call that trapped, threw or ended leaves `limosa:frozen` 0. Word 0 must stay
//! set until the call has returned; where a host function has frozen, the module sets it itself.
//!
//! **Thawing.** Instantiate the thaw module; grow and fill the memories and the written tables; set
//! the globals, then call `limosa:settle` if there is one; put the frames at 0 of `limosa:frames`
//! and their size into `limosa:sp`, and references likewise; clear the flag word; then call
//! `limosa:clones[id]` without arguments, `id` being the u32 at `limosa:sp - 8`. The function
//! returns what the function frozen would have returned, or freezes again. A host call that froze
//! is issued again, with the same arguments. A poll polls again when it is resumed,
//! so a flag that is still set freezes the same state once more, without progress; with
//! [`Poll::Countdown`], a countdown of at least 2 makes progress.
//!
//! A frozen instance may be thawed by an instance of the thaw module again, and that be frozen,
//! without end. What it must not be is re-entered: freezing is not possible while a host function
//! that called back into the module is on the stack; the host has to see to that.
//!
//! # The frame format
//!
//! Frames lie in `limosa:frames` from byte 0 to `limosa:sp`, the innermost first. All numbers are
//! little endian; values have no gaps between them. A frame is
//!
//! | bytes | what |
//! |---|---|
//! | 4, 8 or 16 each | the locals (parameters included) that are read later, by ascending index |
//! | 4, 8 or 16 each | operands below the call or loop (at another poll: all), from the bottom of the function's operand stack |
//! | 4, 8 or 16 each | at a host call: its arguments; at a loop head: the loop's parameters; within a range of memory: what is left of it (two operands, length) |
//! | 4 | function id: index into [`SiteTable::functions`] |
//! | 4 | site number: index into [`FunctionSites::sites`] |
//!
//! Types and sizes of the values of every site are in the [`SiteTable`], which also
//! [takes a stack apart](SiteTable::frames). An innermost frame is always at a poll, a host call or
//! within a range of memory, every other one at a call.
//!
//! A function reference takes no bytes: it is pushed to `limosa:references`, in the order in which
//! values are saved. A reference to an exception is its tag (4 bytes, `u32::MAX` for null), then the
//! numbers of its payload, zeros up to the largest payload of any tag, and its references pushed,
//! nulls up to the most of any tag. External references take nothing: no host may give a module
//! any but null, so that is what they are.
//!
//! # Exceptions and calls in place of a return
//!
//! A freeze throws nothing and so no handler ever sees one: calls return. A function that calls in
//! place of a return leaves no frame. Only if it calls an import so, does a wrapper, whose frame
//! has the arguments.
//!
//! # Ranges of memory
//!
//! `memory.fill`, `memory.copy` and `memory.init` of more than 256 KiB are worked through in pieces
//! of that size, with a poll before each, by functions that the pass adds. A range that is out of
//! bounds traps before anything is written, as ever. Operators on tables are not divided: a host that wants a
//! bound must limit what tables may grow to.
//!
//! # Room for frames
//!
//! A freeze must not run out of room half way, and growing a memory in the cold path would cost in
//! the hot one. So the frames memory begins with room for the largest stack there can be: a
//! function that is not recursive is on the stack once at most, and every frame of a recursive one
//! takes at least 32 bytes of native stack (return address, frame pointer, and the saved register
//! that holds the instance over the call), of which there are [`Options::stack_bytes`]. This
//! supposes that the engine does not inline calls. It is address space, not memory: pages that no
//! freeze touches are never given. Should a host allow a larger stack, a freeze that overflows
//! traps at the memory's bound; it never corrupts anything.
//!
//! # What is not supported
//!
//! Refused, with the function and feature named: threads, legacy exceptions, garbage-collected
//! types, typed function references, stack switching, imported memories, tables, globals and tags,
//! imports that return references, and exceptions in mutable globals, written tables and payloads.
//! A host must not write to an exported table, and must make relaxed SIMD deterministic.

mod assemble;
mod body;
mod bulk;
mod callgraph;
mod emit;
mod error;
mod helpers;
mod image;
mod immobile;
pub mod interface;
mod liveness;
mod module;
mod names;
mod polls;
mod remap;
mod room;
mod scan;
mod sites;
mod transform;
mod types;

pub use error::{Error, Place};
pub use image::{Chunk, InitialMemory, PAGE_BYTES};
pub use immobile::immobile;
pub use polls::Unroll;
pub use sites::{
    FRAME_TRAILER_BYTES, Frame, FrameError, FunctionSites, Site, SiteKind, SiteTable, Slot,
};

use interface::Interface;

/// Version of the pass's output. It changes when frames of the same module would.
pub const FORMAT_VERSION: u32 = 3;

/// How a running module learns that it is to freeze. The sites are the same for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    /// An atomic load from a shared memory. The choice for native code.
    #[default]
    Atomic,
    /// A plain load from an unshared memory, for engines without threads (Pulley).
    Plain,
    /// As `Plain`, and freezes also when the countdown reaches zero: for tests and torture.
    Countdown,
}

/// Which imports may freeze.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Imports {
    /// All of them.
    #[default]
    All,
    /// Only these, by module and name. The host must not freeze in any other.
    Only(Vec<(String, String)>),
}

impl Imports {
    fn contains(&self, module: &str, name: &str) -> bool {
        match self {
            Imports::All => true,
            Imports::Only(list) => list.iter().any(|(m, n)| m == module && n == name),
        }
    }
}

/// What to make of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How it polls. Does not change the [artefact's id](Artefact::id).
    pub poll: Poll,
    /// Which imports may freeze.
    pub freezing_imports: Imports,
    /// How small loops are unrolled. Does not change the artefact's id.
    pub unroll: Unroll,
    /// Largest native stack, in bytes, that the host will let the module use: this decides the size
    /// of the frames memory. Does not change the artefact's id.
    pub stack_bytes: u32,
    /// Largest thaw module, in bytes, that may come out.
    pub max_output_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            poll: Poll::default(),
            freezing_imports: Imports::default(),
            unroll: Unroll::default(),
            stack_bytes: 4 << 20,
            max_output_bytes: 512 << 20,
        }
    }
}

/// What the pass makes of a module.
#[derive(Clone, Debug)]
pub struct Artefact {
    /// The module that runs from the start.
    pub run: Vec<u8>,
    /// The module that continues frozen stacks.
    pub thaw: Vec<u8>,
    /// What lies in frames.
    pub sites: SiteTable,
    /// The initial contents of the memories.
    pub image: Vec<InitialMemory>,
    /// What the module asks of its host.
    pub interface: Interface,
    id: [u8; 32],
    mobile: bool,
}

impl Artefact {
    /// The name of this artefact: a BLAKE3 hash over the format version, the module as given and
    /// the site table. A frozen stack can be thawed by an artefact of the same id and no other.
    /// The kind of poll does not change it.
    pub fn id(&self) -> [u8; 32] {
        self.id
    }

    /// Whether it can be frozen: [`transform`] made it, and not [`immobile`].
    pub fn is_mobile(&self) -> bool {
        self.mobile
    }
}

/// Makes a module freezable.
///
/// The result depends on nothing but the arguments. Any bytes may be given: what is no module, or
/// no module that can be frozen, is refused with an [`Error`].
pub fn transform(wasm: &[u8], options: &Options) -> Result<Artefact, Error> {
    transform::transform(wasm, options).map_err(|error| names::add_to(wasm, error))
}
