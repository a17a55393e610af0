//! A loaded program: what the pass made of a module, compiled.

use crate::code::Code;
use crate::engine::{Engine, FRAMES_STACK_BYTES, Side};
use crate::kernel::{FREEZING, Interface, MODULE};
use crate::machine::{self, Part};
use crate::memory::{Landing, LandingError, Pages, Room};
use crate::state::State;
use freeze::interface::{ExportKind, Interface as Seam};
use freeze::{Artefact, Chunk, InitialMemory, Slot};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use wire::snapshot::{Memory, PAGE_BYTES, PageKind};
use wire::{ArtefactId, ImageId};

const WASM_PAGE_BYTES: usize = 65536;
/// No memory grows beyond this, those with 64-bit addresses included.
pub(crate) const MAX_WASM_PAGES: u64 = 1 << 16;
/// The entry functions of a program, in the order in which they are looked for.
const ENTRIES: [&str; 2] = ["_start", "_initialize"];

/// A program that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The pass refuses the module; it says which function uses what.
    #[error(transparent)]
    Pass(#[from] freeze::Error),
    /// The module imports something that the kernel has not.
    #[error(
        "the program imports `{name}` from `{module}`, which Limosa does not offer; programs are \
         built for WASI preview 1 (target wasm32-wasip1)"
    )]
    UnknownImport {
        /// Module name.
        module: String,
        /// Field name.
        name: String,
    },
    /// The module imports a function with parameters or results that it has not.
    #[error("the program imports `{name}` from `{module}` as {found}, but it is {expected}")]
    Signature {
        /// Module name.
        module: String,
        /// Field name.
        name: String,
        /// Its type.
        expected: String,
        /// What the program takes it for.
        found: String,
    },
    /// The module exports no entry function.
    #[error("the program has no entry: it exports neither `_start` nor `_initialize`")]
    NoEntry,
    /// The entry function has parameters or results.
    #[error("the program's entry `{name}` must have no parameters and no results")]
    EntryType {
        /// Its name.
        name: &'static str,
    },
    /// The engine cannot compile what the pass emitted.
    #[error("cannot compile the program: {0}")]
    Compile(String),
    /// A memory that begins beyond what any memory may grow to.
    #[error(
        "the program begins with a memory of {pages} pages of 64 KiB; at most 65536 (4 GiB) are possible"
    )]
    MemoryTooLarge {
        /// Its pages.
        pages: u64,
    },
    /// There is no room for the initial memory.
    #[error("cannot set up the program's memory: {0}")]
    Memory(#[from] io::Error),
}

/// A loaded program. Its run module is compiled; its thaw module is being compiled in the
/// background.
pub struct Image {
    engine: Engine,
    id: ImageId,
    artefact: Artefact,
    artefact_id: ArtefactId,
    entry: &'static str,
    run: Code,
    thaw: Arc<OnceLock<Result<Code, String>>>,
    pages: Vec<Arc<Pages>>,
    initial_memories: Vec<Memory>,
    initial_state: State,
    /// What the engine wants for each memory.
    rooms: Vec<Room>,
    load_time: LoadTime,
}

/// How long loading took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadTime {
    /// The pass.
    pub pass: Duration,
    /// Compiling the run module, or finding it in the cache.
    pub compile: Duration,
}

impl Engine {
    /// Loads a program: runs the pass over it, unless the engine is for immobile programs, and
    /// compiles the run module. The thaw module is compiled by a background thread.
    pub fn load(&self, wasm: &[u8]) -> Result<Arc<Image>, LoadError> {
        let start = Instant::now();
        let artefact = match self.immobile() {
            true => freeze::immobile(wasm)?,
            false => freeze::transform(wasm, &pass_options(self.poll()))?,
        };
        let pass = start.elapsed();
        check_imports(&artefact.interface)?;
        let entry = find_entry(&artefact.interface)?;
        let start = Instant::now();
        let failed = |error: wasmtime::Error| LoadError::Compile(format!("{error:#}"));
        let run = self.compile(self.run(), &artefact.run).map_err(failed)?;
        let run = Code::new(self.run(), run, &artefact.interface, entry).map_err(failed)?;
        let compile = start.elapsed();
        let (mut pages, mut initial_memories) = (Vec::new(), Vec::new());
        for (memory, limits) in artefact.image.iter().zip(&artefact.interface.memories) {
            if limits.minimum > MAX_WASM_PAGES {
                return Err(LoadError::MemoryTooLarge {
                    pages: limits.minimum,
                });
            }
            let size = limits.minimum as usize * WASM_PAGE_BYTES;
            let bytes = contents(memory);
            pages.push(Pages::of_image(self.pool(), &bytes, size)?);
            initial_memories.push(initial_memory(&bytes, size));
        }
        let thaw = Arc::new(OnceLock::new());
        let mut image = Image {
            engine: self.clone(),
            id: ImageId(*blake3::hash(wasm).as_bytes()),
            artefact_id: ArtefactId(artefact.id()),
            artefact,
            entry,
            run,
            thaw,
            pages,
            initial_memories,
            initial_state: State::default(),
            rooms: Vec::new(),
            load_time: LoadTime { pass, compile },
        };
        let (initial_state, rooms) = machine::initial_state(&image).map_err(failed)?;
        image.initial_state = initial_state;
        image.rooms = rooms;
        if image.is_mobile() {
            image.compile_thaw()?;
        } else {
            let never = "an immobile program is never thawed".to_owned();
            let _ = image.thaw.set(Err(never));
        }
        Ok(Arc::new(image))
    }
}

/// What the pass is asked for.
pub fn pass_options(poll: freeze::Poll) -> freeze::Options {
    let freezing = FREEZING
        .iter()
        .map(|name| (MODULE.to_owned(), (*name).to_owned()));
    freeze::Options {
        poll,
        freezing_imports: freeze::Imports::Only(freezing.collect()),
        stack_bytes: FRAMES_STACK_BYTES,
        ..freeze::Options::default()
    }
}

fn slots(kinds: &[Option<Slot>]) -> String {
    let name = |kind: &Option<Slot>| match kind {
        Some(kind) => format!("{kind:?}").to_lowercase(),
        None => "ref".to_owned(),
    };
    let names: Vec<_> = kinds.iter().map(name).collect();
    format!("({})", names.join(", "))
}

fn check_imports(seam: &Seam) -> Result<(), LoadError> {
    for import in &seam.imports {
        let (module, name) = (import.module.clone(), import.name.clone());
        let Some((params, results)) = Interface::signature(&module, &name) else {
            return Err(LoadError::UnknownImport { module, name });
        };
        let params: Vec<_> = params.into_iter().map(Some).collect();
        let results: Vec<_> = results.into_iter().map(Some).collect();
        if params != import.params || results != import.results {
            return Err(LoadError::Signature {
                module,
                name,
                expected: format!("{} -> {}", slots(&params), slots(&results)),
                found: format!("{} -> {}", slots(&import.params), slots(&import.results)),
            });
        }
    }
    Ok(())
}

fn find_entry(seam: &Seam) -> Result<&'static str, LoadError> {
    for name in ENTRIES {
        let export = seam.exports.iter().find(|export| export.name == name);
        match export.map(|export| &export.kind) {
            Some(ExportKind::Function {
                params, results, ..
            }) if params.is_empty() && results.is_empty() => return Ok(name),
            Some(_) => return Err(LoadError::EntryType { name }),
            None => {}
        }
    }
    Err(LoadError::NoEntry)
}

/// What the module writes into a memory, up to where only zeros follow, in whole pages.
fn contents(memory: &InitialMemory) -> Vec<u8> {
    let end = |chunk: &Chunk| chunk.offset as usize + chunk.bytes.len();
    let length = memory.chunks.iter().map(end).max().unwrap_or(0);
    let mut bytes = vec![0; length.next_multiple_of(WASM_PAGE_BYTES)];
    for chunk in &memory.chunks {
        bytes[chunk.offset as usize..end(chunk)].copy_from_slice(&chunk.bytes);
    }
    bytes
}

/// The page map of a memory before the first instruction.
fn initial_memory(bytes: &[u8], size: usize) -> Memory {
    let mut memory = Memory::from_bytes(bytes, bytes);
    for _ in (bytes.len()..size).step_by(PAGE_BYTES) {
        memory.map.push(PageKind::Zero);
    }
    memory.wasm_pages = (size / WASM_PAGE_BYTES) as u64;
    memory
}

impl Image {
    /// The image's name: the hash of the module as given.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// The name of what the pass made of it; snapshots tell theirs.
    pub fn artefact_id(&self) -> ArtefactId {
        self.artefact_id
    }

    /// What the pass made of it.
    pub fn artefact(&self) -> &Artefact {
        &self.artefact
    }

    /// Whether its processes can be frozen.
    pub fn is_mobile(&self) -> bool {
        self.artefact.is_mobile()
    }

    /// The engine that it was loaded with.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How long loading took.
    pub fn load_time(&self) -> LoadTime {
        self.load_time
    }

    /// Bytes of linear memory that a program of this image begins with.
    pub fn initial_memory_bytes(&self) -> u64 {
        let pages = self
            .artefact
            .interface
            .memories
            .iter()
            .map(|memory| memory.minimum);
        pages.map(|pages| pages * WASM_PAGE_BYTES as u64).sum()
    }

    /// A place for the memory of a process of this image that comes from another node, with at most
    /// `limit` bytes.
    pub fn landing(&self, limit: u64) -> Result<Landing, LandingError> {
        let limits = self.artefact.interface.memories.iter();
        let most = limits.map(|limits| limits.maximum.unwrap_or(MAX_WASM_PAGES));
        let most = most.map(|pages| pages.min(MAX_WASM_PAGES) * WASM_PAGE_BYTES as u64);
        let memories = self.pages.iter().zip(&self.rooms).zip(most);
        Landing::new(
            memories.map(|((pages, room), most)| (pages, *room, most)),
            limit,
        )
    }

    /// Waits until the thaw module is compiled.
    pub fn prepare_thaw(&self) -> Result<(), LoadError> {
        self.thaw_module().map(|_| ())
    }

    /// Whether the thaw module is compiled, and well, so that [`Image::prepare_thaw`] returns at once.
    pub fn thaw_is_prepared(&self) -> bool {
        matches!(self.thaw.get(), Some(Ok(_)))
    }

    fn thaw_module(&self) -> Result<&Code, LoadError> {
        let module = self.thaw.wait().as_ref();
        module.map_err(|reason| LoadError::Compile(reason.clone()))
    }

    fn compile_thaw(&self) -> Result<(), LoadError> {
        let (engine, cell) = (self.engine.clone(), Arc::clone(&self.thaw));
        let wasm = self.artefact.thaw.clone();
        let (interface, entry) = (self.artefact.interface.clone(), self.entry);
        let compile = move || {
            let module = catch_unwind(AssertUnwindSafe(|| {
                let module = engine.compile(engine.thaw(), &wasm)?;
                Code::new(engine.thaw(), module, &interface, entry)
            }));
            let module = match module {
                Ok(module) => module.map_err(|error| format!("{error:#}")),
                Err(_) => Err("the compiler failed on the thaw module".to_owned()),
            };
            let _ = cell.set(module);
        };
        let thread = thread::Builder::new().name("limosa-compile".to_owned());
        thread.spawn(compile)?;
        Ok(())
    }

    pub(crate) fn part(&self, part: Part) -> Result<(&Side, &Code), LoadError> {
        Ok(match part {
            Part::Run => (self.engine.run(), &self.run),
            Part::Thaw => (self.engine.thaw(), self.thaw_module()?),
        })
    }

    pub(crate) fn pages(&self) -> &[Arc<Pages>] {
        &self.pages
    }

    pub(crate) fn initial_memories(&self) -> &[Memory] {
        &self.initial_memories
    }

    /// The globals and tables before the first instruction.
    pub(crate) fn initial_state(&self) -> &State {
        &self.initial_state
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({:?}, {:?})", self.id, self.engine)
    }
}
