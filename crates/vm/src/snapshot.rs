//! Whether a snapshot is a state of this image that a process can have.
//!
//! A snapshot may come from anywhere, so everything that the engine or the kernel will rely on is
//! checked against the artefact. What passes and is still a lie (any bytes can be in a memory) is
//! harmless: it is the guest's own state, and the guest is confined.

use crate::image::{Image, LoadError};
use crate::kernel::KernelError;
use freeze::FrameError;
use freeze::Slot;
use wire::snapshot::{GlobalValue, PageMapError, Phase, Snapshot};
use wire::{ArtefactId, ImageId};

/// Bytes of a frozen stack.
const MAX_FRAMES_BYTES: usize = 1 << 30;

/// A snapshot that this image cannot go on from.
#[derive(Debug, thiserror::Error)]
pub enum ThawError {
    /// It is a state of another program.
    #[error("the snapshot is of image {}, but this is image {}", found.short(), expected.short())]
    Image {
        /// This image.
        expected: ImageId,
        /// The snapshot's.
        found: ImageId,
    },
    /// It was written with another version of the pass.
    #[error(
        "the snapshot uses artefact {}, but this version makes artefact {} of the image: thaw it \
         with the version that wrote it", found.short(), expected.short()
    )]
    Artefact {
        /// What this version makes of the image.
        expected: ArtefactId,
        /// The snapshot's.
        found: ArtefactId,
    },
    /// The globals are not those of the program.
    #[error("the snapshot's globals are not those of the program: {0}")]
    Globals(String),
    /// There are more or fewer memories than the program has.
    #[error("the snapshot has {found} memories, the program {expected}")]
    Memories {
        /// The program's.
        expected: usize,
        /// The snapshot's.
        found: usize,
    },
    /// A memory's size is not one that it can have.
    #[error("memory {index} has {pages} pages; the program allows {minimum} to {maximum}")]
    MemorySize {
        /// Which memory.
        index: usize,
        /// Its pages of 64 KiB.
        pages: u64,
        /// The fewest.
        minimum: u64,
        /// The most.
        maximum: u64,
    },
    /// All memories together are larger than the limit of the process.
    #[error("the memories take {bytes} bytes, but the limit is {limit}")]
    MemoryLimit {
        /// Their bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A page map that does not fit its memory.
    #[error("memory {index}: {error}")]
    PageMap {
        /// Which memory.
        index: usize,
        /// What is wrong.
        error: PageMapError,
    },
    /// The frozen stack is not one.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// Frames where there can be none, or too many.
    #[error("{0}")]
    Stack(&'static str),
    /// The kernel's state is not one.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The thaw module could not be compiled.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine refused.
    #[error("the engine cannot set up the process: {0}")]
    Engine(String),
    /// The stack could not be rebuilt, or not to what the snapshot says.
    #[error("the frozen stack cannot be rebuilt: {0}")]
    Rebuild(String),
}

/// Checks everything but the kernel's state, which is checked when it is taken over.
pub(crate) fn check(image: &Image, snapshot: &Snapshot) -> Result<(), ThawError> {
    if snapshot.image != image.id() {
        return Err(ThawError::Image {
            expected: image.id(),
            found: snapshot.image,
        });
    }
    if snapshot.artefact != image.artefact_id() {
        return Err(ThawError::Artefact {
            expected: image.artefact_id(),
            found: snapshot.artefact,
        });
    }
    check_globals(image, &snapshot.globals)?;
    check_memories(image, snapshot)?;
    check_frames(image, snapshot)
}

fn kind_of(value: &GlobalValue) -> Slot {
    match value {
        GlobalValue::I32(_) => Slot::I32,
        GlobalValue::I64(_) => Slot::I64,
        GlobalValue::F32(_) => Slot::F32,
        GlobalValue::F64(_) => Slot::F64,
        GlobalValue::V128(_) => Slot::V128,
    }
}

fn check_globals(image: &Image, values: &[GlobalValue]) -> Result<(), ThawError> {
    let globals = &image.artefact().interface.globals;
    if globals.len() != values.len() {
        let counts = format!("{} instead of {}", values.len(), globals.len());
        return Err(ThawError::Globals(counts));
    }
    let wrong = globals
        .iter()
        .zip(values)
        .find(|(global, value)| global.kind != kind_of(value));
    match wrong {
        Some((global, value)) => Err(ThawError::Globals(format!(
            "global {} is {:?}, not {:?}",
            global.index,
            global.kind,
            kind_of(value)
        ))),
        None => Ok(()),
    }
}

fn check_memories(image: &Image, snapshot: &Snapshot) -> Result<(), ThawError> {
    const PAGES_OF_32_BITS: u64 = 1 << 16;
    let memories = &image.artefact().interface.memories;
    if memories.len() != snapshot.memories.len() {
        return Err(ThawError::Memories {
            expected: memories.len(),
            found: snapshot.memories.len(),
        });
    }
    let mut bytes = 0u64;
    for (index, (limits, memory)) in memories.iter().zip(&snapshot.memories).enumerate() {
        let minimum = u64::from(limits.minimum);
        let maximum = limits.maximum.map_or(PAGES_OF_32_BITS, u64::from);
        let pages = memory.wasm_pages;
        if pages < minimum || pages > maximum.min(PAGES_OF_32_BITS) {
            return Err(ThawError::MemorySize {
                index,
                pages,
                minimum,
                maximum,
            });
        }
        let checked = memory.check();
        checked.map_err(|error| ThawError::PageMap { index, error })?;
        bytes += pages * crate::machine::WASM_PAGE_BYTES;
    }
    let limit = snapshot.kernel.limits.memory_bytes;
    if bytes > limit {
        return Err(ThawError::MemoryLimit { bytes, limit });
    }
    Ok(())
}

fn check_frames(image: &Image, snapshot: &Snapshot) -> Result<(), ThawError> {
    match snapshot.phase {
        Phase::Born if snapshot.frames.is_empty() => return Ok(()),
        Phase::Born => return Err(ThawError::Stack("an unborn process has no frozen stack")),
        Phase::Start if !image.artefact().interface.start => {
            return Err(ThawError::Stack(
                "the program has no start function to be in",
            ));
        }
        Phase::Start | Phase::Main => {}
    }
    if snapshot.frames.len() > MAX_FRAMES_BYTES {
        return Err(ThawError::Stack(
            "the frozen stack is larger than any program's",
        ));
    }
    image.artefact().sites.frames(&snapshot.frames)?;
    Ok(())
}
