//! Whether a snapshot is a state of this image that a process can have.
//!
//! A snapshot may come from anywhere, so everything that the engine or the kernel will rely on is
//! checked against the artefact. What passes and is still a lie (any bytes can be in a memory) is
//! harmless: it is the guest's own state, and the guest is confined.

use crate::image::{Image, LoadError, MAX_WASM_PAGES};
use crate::kernel::KernelError;
use crate::machine::MAX_TABLE_ENTRIES;
use crate::state::kind_of;
use freeze::FrameError;
use wire::snapshot::{GlobalValue, PageMapError, Phase, Reference, Snapshot};
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
    /// It is given other volumes than it names.
    #[error("the process is not given the volumes that its snapshot names")]
    Volumes,
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
    /// A reference or a table that the program cannot have.
    #[error("the snapshot's references are not those of the program: {0}")]
    References(String),
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
    /// Not what belongs to the pages that have landed.
    #[error("the pages that arrived do not belong to the snapshot: {0}")]
    Landed(&'static str),
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
    check_tables(image, &snapshot.references.tables)?;
    check_references(image, snapshot.references.frames.iter())?;
    check_memories(image, snapshot)?;
    check_frames(image, snapshot)
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
        None => check_references(image, values.iter().filter_map(reference_of)),
    }
}

fn reference_of(value: &GlobalValue) -> Option<&Reference> {
    match value {
        GlobalValue::Function(reference) => Some(reference),
        _ => None,
    }
}

/// Every reference leads to a function that references can lead to.
fn check_references<'a>(
    image: &Image,
    mut references: impl Iterator<Item = &'a Reference>,
) -> Result<(), ThawError> {
    let functions = image.artefact().interface.functions.len();
    let unknown = references
        .find(|reference| reference.is_some_and(|position| position as usize >= functions));
    match unknown {
        Some(position) => Err(ThawError::References(format!(
            "there is no function {} to refer to, but only {functions}",
            position.unwrap_or_default()
        ))),
        None => Ok(()),
    }
}

fn check_tables(image: &Image, found: &[Vec<Reference>]) -> Result<(), ThawError> {
    let tables = &image.artefact().interface.tables;
    if tables.len() != found.len() {
        let counts = format!("{} tables instead of {}", found.len(), tables.len());
        return Err(ThawError::References(counts));
    }
    for (table, entries) in tables.iter().zip(found) {
        let size = entries.len() as u64;
        let most = (MAX_TABLE_ENTRIES as u64).max(table.minimum);
        let most = table.maximum.map_or(most, |maximum| maximum.min(most));
        if size < table.minimum || size > most {
            return Err(ThawError::References(format!(
                "table {} has {size} entries; the program allows {} to {most}",
                table.index, table.minimum
            )));
        }
        if !table.functions && entries.iter().any(Option::is_some) {
            return Err(ThawError::References(format!(
                "table {} holds functions, but can hold none",
                table.index
            )));
        }
        check_references(image, entries.iter())?;
    }
    Ok(())
}

fn check_memories(image: &Image, snapshot: &Snapshot) -> Result<(), ThawError> {
    let memories = &image.artefact().interface.memories;
    if memories.len() != snapshot.memories.len() {
        return Err(ThawError::Memories {
            expected: memories.len(),
            found: snapshot.memories.len(),
        });
    }
    let mut bytes = 0u64;
    for (index, (limits, memory)) in memories.iter().zip(&snapshot.memories).enumerate() {
        let minimum = limits.minimum;
        let maximum = limits.maximum.unwrap_or(MAX_WASM_PAGES);
        let pages = memory.wasm_pages;
        if pages < minimum || pages > maximum.min(MAX_WASM_PAGES) {
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
        Phase::Born if snapshot.frames.is_empty() && snapshot.references.frames.is_empty() => {
            return Ok(());
        }
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
    let sites = &image.artefact().sites;
    let frames = sites.frames(&snapshot.frames)?;
    let (found, expected) = (snapshot.references.frames.len(), sites.references(&frames));
    if found as u64 != expected {
        return Err(ThawError::References(format!(
            "the frozen stack has {found} references instead of {expected}"
        )));
    }
    Ok(())
}
