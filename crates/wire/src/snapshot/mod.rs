//! The whole state of a process at one instant; equal on every architecture; carries no authority.

mod codec;
mod content;
mod cursor;
mod error;
mod header;
mod kernel;
mod kernel_1;
mod left_out;
mod pages;
mod references;
mod volume;

pub use codec::{Encoded, Encoder};
pub use content::{CHUNK_BYTES, Chunk, ChunkBytes, Content, Growth};
pub use error::DecodeError;
#[doc(hidden)]
pub use header::fix_header;
pub use header::{FORMAT_VERSION, HEADER_BYTES, Header, MAGIC, OLDEST_FORMAT_VERSION};
pub use kernel::*;
pub use left_out::{Digest, Hints, LEFT_OUT_FROM, LeftOut, MAX_LEFT_OUT, Missing};
pub use pages::{Memory, PAGE_BYTES, PageKind, PageMap, PageMapError, Run};
pub use references::{Reference, References};
pub use volume::{Binding, Volume};

use crate::{ArtefactId, ImageId};
use serde::{Deserialize, Serialize};

/// A process, written down. `Snapshot::encode` and `Snapshot::decode` turn it into bytes and back.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The image it is a state of.
    pub image: ImageId,
    /// The artefact whose frame format and site numbers it uses.
    pub artefact: ArtefactId,
    /// Where the program stands.
    pub phase: Phase,
    /// The frames, innermost first; the format is the pass's (`freeze`).
    pub frames: Vec<u8>,
    /// Every mutable global, in index order.
    pub globals: Vec<GlobalValue>,
    /// References in frames and tables.
    pub references: References,
    /// Every linear memory, in index order.
    pub memories: Vec<Memory>,
    /// Descriptors, files, clocks, sockets.
    pub kernel: Kernel,
    /// The volumes that descriptors refer to by index. The node that thaws it grants them, or not.
    pub volumes: Vec<Volume>,
}

/// Which entry function the frames belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Before the first instruction: the birth snapshot.
    Born,
    /// Inside the module's start function.
    Start,
    /// Inside `_start` (or `_initialize`, or the named export).
    Main,
}

/// The value of a mutable global. Floats as bits, so that NaNs survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalValue {
    /// i32
    I32(u32),
    /// i64
    I64(u64),
    /// f32, as bits
    F32(u32),
    /// f64, as bits
    F64(u64),
    /// v128
    V128([u8; 16]),
    /// A reference to a function.
    Function(Reference),
}
