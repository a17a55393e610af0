//! Engines: what makes code of a module, native or Pulley bytecode.
//!
//! # Stack
//! A program may use [`RUN_STACK_BYTES`] of native stack, four times Wasmtime's default: the pass
//! makes frames larger, and a program should recurse as deep as it does in a plain engine. To
//! rebuild a stack, clones need more: an interpreter's main loop was seen to take 54 times as much
//! per frame as in the run module. So what thaws runs in an engine of its own, with 64 times the
//! stack ([`THAW_STACK_BYTES`]); that is address space, not memory, until it is used. Every thaw is
//! tried out before it counts, so a stack that still does not fit is an error, never a loss.
//!
//! So a thawed program can call itself deeper than a plain run could. The room for frames is that
//! of a plain run's stack: a freeze of a stack that only a thawed program can have may find none,
//! and ends the program as an overflow does.

use crate::cache::Cache;
use crate::code::Seats;
use crate::kernel::{Context, Interface};
use crate::memory::{Creator, ENGINE_HEAP_BYTES, Flags, Pool, Stacks};
use std::path::PathBuf;
use std::sync::Arc;
use wasmtime::{Linker, OptLevel};

/// Native stack of a program.
pub(crate) const RUN_STACK_BYTES: usize = 2 << 20;
/// Native stack of a program that was thawed.
pub(crate) const THAW_STACK_BYTES: usize = 64 * RUN_STACK_BYTES;
/// What the pass makes room for in the frames memory.
pub(crate) const FRAMES_STACK_BYTES: u32 = 2 * RUN_STACK_BYTES as u32;
/// What host functions may use beyond.
const HOST_STACK_BYTES: usize = 256 << 10;
/// Address space of a memory: less would cost bounds checks.
const RESERVATION_BYTES: u64 = 4 << 30;
/// And of the guard behind it. An access costs a check if its constant offset is larger, and that of
/// a static array is the array's address: this suits programs with so much static data, stack
/// included.
const GUARD_BYTES: u64 = 32 << 20;
/// The guard behind the engine's own heap.
const HEAP_GUARD_BYTES: u64 = 64 << 10;
const DEFAULT_CACHE_BYTES: u64 = 2 << 30;

/// What programs are compiled to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Code of this machine's processor.
    #[default]
    Native,
    /// Bytecode of a portable interpreter: slower, the same on every machine.
    Pulley,
}

/// How compiled code learns that it should freeze.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Polls {
    /// By a request ([`crate::Control::freeze`]).
    #[default]
    Request,
    /// By counting down: for [`crate::torture`].
    Countdown,
}

/// How an engine is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// What programs are compiled to.
    pub backend: Backend,
    /// How compiled code learns that it should freeze.
    pub polls: Polls,
    /// Where compiled code is kept; nowhere if `None`. The directory is made if need be, and must
    /// belong to the user: code found there is run.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that the cache may take; the oldest entries go first.
    pub cache_bytes: u64,
    /// Make NaN bit patterns equal on every machine, at some cost.
    pub canonical_nan: bool,
    /// Run programs as they are, without the pass: also those that it refuses, if the engine can.
    /// They can be killed, but never frozen: requests to freeze have no effect, and there are no
    /// snapshots of them.
    pub immobile: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            backend: Backend::Native,
            polls: Polls::Request,
            cache_dir: None,
            cache_bytes: DEFAULT_CACHE_BYTES,
            canonical_nan: false,
            immobile: false,
        }
    }
}

/// An engine that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine does not run on this machine.
    #[error("cannot set up the WebAssembly engine: {0}")]
    Engine(String),
    /// The cache directory cannot be used.
    #[error("cannot keep compiled code in {path}: {reason}")]
    Cache {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What makes code of modules. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    polls: Polls,
    immobile: bool,
    poll: freeze::Poll,
    pool: Arc<Pool>,
    run: Side,
    thaw: Side,
    cache: Option<Cache>,
}

/// One of the two engines, by the stack that they give.
pub(crate) struct Side {
    pub engine: wasmtime::Engine,
    pub linker: Linker<Context>,
    pub flags: Flags,
    pub seats: Arc<Seats>,
}

/// The pass's kind of poll.
fn poll_of(config: &Config) -> freeze::Poll {
    match (config.polls, config.backend) {
        (Polls::Countdown, _) => freeze::Poll::Countdown,
        (Polls::Request, Backend::Native) => freeze::Poll::Atomic,
        (Polls::Request, Backend::Pulley) => freeze::Poll::Plain,
    }
}

/// How code is made, apart from where its memory and stack come from: so that whoever measures
/// such code can make the same.
pub fn code_settings(backend: Backend) -> wasmtime::Result<wasmtime::Config> {
    let mut settings = wasmtime::Config::new();
    settings.memory_init_cow(false);
    settings.memory_reservation(RESERVATION_BYTES);
    settings.memory_reservation_for_growth(0);
    settings.memory_guard_size(GUARD_BYTES);
    settings.memory_may_move(false);
    settings.guard_before_linear_memory(false);
    settings.gc_heap_reservation(ENGINE_HEAP_BYTES as u64);
    settings.gc_heap_reservation_for_growth(0);
    settings.gc_heap_guard_size(HEAP_GUARD_BYTES);
    settings.gc_heap_may_move(false);
    settings.cranelift_opt_level(OptLevel::Speed);
    // The pass marks the ways that only a freeze takes.
    settings.wasm_branch_hinting(true);
    // Results must not depend on the machine.
    settings.relaxed_simd_deterministic(true);
    match backend {
        Backend::Native => {
            settings.wasm_threads(true);
            settings.shared_memory(true);
        }
        Backend::Pulley => {
            settings.target("pulley64")?;
            settings.wasm_threads(false);
        }
    }
    Ok(settings)
}

impl Side {
    fn new(config: &Config, stack: usize, pool: &Arc<Pool>) -> wasmtime::Result<Side> {
        let mut settings = code_settings(config.backend)?;
        settings.max_wasm_stack(stack);
        settings.async_stack_size(stack + HOST_STACK_BYTES);
        settings.with_host_memory(Arc::new(Creator::new(Arc::clone(pool))));
        settings.with_host_stack(Arc::new(Stacks::default()));
        settings.cranelift_nan_canonicalization(config.canonical_nan);
        if config.immobile {
            // Without polls, this is how an endless loop is ended.
            settings.epoch_interruption(true);
            settings.wasm_function_references(true);
            settings.wasm_gc(true);
            settings.wasm_wide_arithmetic(true);
        }
        let engine = wasmtime::Engine::new(&settings)?;
        let linker = Interface::linker(&engine)?;
        let shared = poll_of(config) == freeze::Poll::Atomic;
        let flags = Flags::new(&engine, shared)?;
        Ok(Side {
            engine,
            linker,
            flags,
            seats: Seats::new(),
        })
    }
}

impl Engine {
    /// Makes an engine.
    pub fn new(config: Config) -> Result<Engine, EngineError> {
        let failed = |error: wasmtime::Error| EngineError::Engine(format!("{error:#}"));
        let poll = poll_of(&config);
        let pool = Pool::new();
        let run = Side::new(&config, RUN_STACK_BYTES, &pool).map_err(failed)?;
        let thaw = Side::new(&config, THAW_STACK_BYTES, &pool).map_err(failed)?;
        let cache = match config.cache_dir {
            Some(path) => {
                let cache = Cache::open(&path, config.cache_bytes);
                Some(cache.map_err(|error| EngineError::Cache {
                    path,
                    reason: error.to_string(),
                })?)
            }
            None => None,
        };
        let inner = Inner {
            backend: config.backend,
            polls: config.polls,
            immobile: config.immobile,
            poll,
            pool,
            run,
            thaw,
            cache,
        };
        Ok(Engine {
            inner: Arc::new(inner),
        })
    }

    /// What programs are compiled to.
    pub fn backend(&self) -> Backend {
        self.inner.backend
    }

    /// How compiled code learns that it should freeze.
    pub fn polls(&self) -> Polls {
        self.inner.polls
    }

    pub(crate) fn run(&self) -> &Side {
        &self.inner.run
    }

    pub(crate) fn thaw(&self) -> &Side {
        &self.inner.thaw
    }

    /// Where memories come from.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.inner.pool
    }

    /// Whether programs run as they are and cannot be frozen.
    pub fn immobile(&self) -> bool {
        self.inner.immobile
    }

    /// The pass's kind of poll.
    pub(crate) fn poll(&self) -> freeze::Poll {
        self.inner.poll
    }

    /// Compiles a module, or finds it in the cache.
    pub(crate) fn compile(&self, side: &Side, wasm: &[u8]) -> wasmtime::Result<wasmtime::Module> {
        match &self.inner.cache {
            Some(cache) => cache.compile(&side.engine, wasm),
            None => wasmtime::Module::new(&side.engine, wasm),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Engine({:?}, {:?})",
            self.inner.backend, self.inner.polls
        )
    }
}
