//! Modules compiled to machine code: one in plain Wasmtime, and its freezable form.

use super::host::{self, Host, PAUSE};
use super::{Error, GUEST_STACK_BYTES, engine_error};
use freeze::{Artefact, interface};
use std::sync::Arc;
use wasmtime::{Config, Engine, Linker, MemoryType, Module, SharedMemory, Store};

/// Wasmtime as it comes, for the module as given. Two settings only: initial memory contents are
/// copied and not mapped, because the freezable form gets them copied too, so that both find the
/// same pages present; and the stack is large, because the depth bench goes deep.
pub(crate) fn plain_engine() -> Result<Engine, Error> {
    let mut config = Config::new();
    config.memory_init_cow(false);
    started(config)
}

/// The same with epoch interruption: compiled code looks at a counter at loop heads and function
/// entries, so that it can be interrupted, though not be frozen.
pub(crate) fn epoch_engine() -> Result<Engine, Error> {
    let mut config = Config::new();
    config.memory_init_cow(false);
    config.epoch_interruption(true);
    started(config)
}

/// The engine for the freezable form: it makes the code that the process VM makes.
pub(crate) fn freezable_engine() -> Result<Engine, Error> {
    let config = vm::code_settings(vm::Backend::Native);
    started(config.map_err(engine_error("starting the engine"))?)
}

fn started(mut config: Config) -> Result<Engine, Error> {
    config.max_wasm_stack(GUEST_STACK_BYTES);
    // Not used, but it must be the larger.
    config.async_stack_size(GUEST_STACK_BYTES + (1 << 20));
    Engine::new(&config).map_err(engine_error("starting the engine"))
}

/// A module in machine code, with the functions it imports.
pub(crate) struct Compiled {
    /// The program's name, for messages.
    pub program: String,
    pub module: Module,
    pub linker: Linker<Host>,
    /// What the pass made, if this is one of its modules.
    pub artefact: Option<Arc<Artefact>>,
}

impl Compiled {
    /// The module as given.
    pub fn plain(engine: &Engine, program: &str, wasm: &[u8]) -> Result<Compiled, Error> {
        Compiled::new(engine, program, wasm, None)
    }

    fn new(
        engine: &Engine,
        program: &str,
        wasm: &[u8],
        pass: Option<(&Arc<Artefact>, &SharedMemory)>,
    ) -> Result<Compiled, Error> {
        let doing = || engine_error(format!("{program}: compiling it"));
        let module = Module::new(engine, wasm).map_err(doing())?;
        let mut linker = host::linker(engine, &module).map_err(doing())?;
        if let Some((_, flag)) = pass {
            let store = Store::new(engine, Host::new(vec![], vec![], None));
            let (module, name) = (interface::MODULE, interface::FLAG_MEMORY);
            linker
                .define(&store, module, name, flag.clone())
                .map_err(doing())?;
        }
        Ok(Compiled {
            program: program.to_owned(),
            module,
            linker,
            artefact: pass.map(|(artefact, _)| artefact.clone()),
        })
    }
}

/// The freezable form of a program.
pub(crate) struct Freezable {
    /// What it runs in from its start.
    pub run: Compiled,
    /// What it goes on in after a freeze.
    pub thaw: Compiled,
    /// The memory with the freeze request, of both.
    pub flag: SharedMemory,
}

impl Freezable {
    /// Applies the pass as the process VM does, and compiles both modules.
    pub fn new(engine: &Engine, program: &str, wasm: &[u8]) -> Result<Freezable, Error> {
        let mut options = vm::pass_options(freeze::Poll::Atomic);
        if let freeze::Imports::Only(freezing) = &mut options.freezing_imports {
            freezing.push(PAUSE.map(str::to_owned).into());
        }
        let artefact = freeze::transform(wasm, &options);
        let artefact = Arc::new(artefact.map_err(|error| Error::Pass {
            program: program.to_owned(),
            error,
        })?);
        let flag = SharedMemory::new(engine, MemoryType::shared(1, 1))
            .map_err(engine_error("making the flag memory"))?;
        let pass = Some((&artefact, &flag));
        Ok(Freezable {
            run: Compiled::new(engine, program, &artefact.run, pass)?,
            thaw: Compiled::new(engine, program, &artefact.thaw, pass)?,
            flag,
        })
    }
}
