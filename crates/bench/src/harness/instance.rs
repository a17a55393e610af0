//! One guest in one form: born, run, frozen, thawed.

use super::clock::CpuTime;
use super::compiled::Compiled;
use super::host::{Exit, Host, Observer};
use super::programs::Work;
use super::{Error, engine_error};
use freeze::interface;
use std::time::Duration;
use wasmtime::{Func, Global, Memory, Store, Val};

const PAGE_BYTES: usize = 1 << 16;

/// What a program came to: equal in every form, or something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What the export returned.
    pub result: Option<i32>,
    /// Its exit code, if it left through `proc_exit`.
    pub exit: Option<i32>,
    /// What it printed.
    pub output: String,
    /// What its clients got, in short.
    pub answers: Option<String>,
}

/// How a stretch of running ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The program is finished.
    Done(Outcome),
    /// It was frozen: [`Instance::freeze`] takes its state, [`Instance::run`] goes on in place (only
    /// where its clones are).
    Frozen,
}

/// A stretch of running.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// How it ended.
    pub end: End,
    /// The CPU time it took.
    pub cpu: Duration,
}

/// All state of a frozen guest.
pub(crate) struct Frozen {
    memories: Vec<Vec<u8>>,
    globals: Vec<Val>,
    /// Its stack.
    pub frames: Vec<u8>,
    host: Host,
}

impl Frozen {
    /// What the depth bench sees and sets.
    pub fn observer(&mut self) -> &mut Observer {
        &mut self.host.observer
    }
}

/// What only a freezable instance has.
struct Freezing {
    frames: Memory,
    sp: Global,
    frozen: Global,
    memories: Vec<Memory>,
    globals: Vec<Global>,
}

/// A guest in one form.
pub(crate) struct Instance {
    program: String,
    store: Store<Host>,
    instance: wasmtime::Instance,
    freezing: Option<Freezing>,
    entry: Entry,
}

/// Where it runs next.
#[derive(Clone)]
enum Entry {
    /// The program's entry, with these arguments.
    Program(&'static str, Vec<Val>),
    /// The clone of the outermost frame's function.
    Clone,
}

impl Instance {
    /// A guest before its first instruction.
    pub fn birth(compiled: &Compiled, work: &Work) -> Result<Instance, Error> {
        let entry = match work {
            Work::Export { function, size } => {
                Entry::Program(function, vec![Val::I32(*size as i32)])
            }
            Work::Command { .. } | Work::Server { .. } => Entry::Program("_start", vec![]),
        };
        let mut instance = Instance::new(compiled, work.host(), entry)?;
        if let (Some(freezing), Some(artefact)) = (&instance.freezing, &compiled.artefact) {
            for (memory, image) in freezing.memories.iter().zip(&artefact.image) {
                let bytes = memory.data_mut(&mut instance.store);
                for chunk in &image.chunks {
                    // The pass has checked that chunks lie within the memory.
                    let start = chunk.offset as usize;
                    bytes[start..start + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
                }
            }
            if artefact.interface.start {
                let start = instance.function(interface::START)?;
                start
                    .call(&mut instance.store, &[], &mut [])
                    .map_err(instance.engine_error("its start function"))?;
            }
        }
        Ok(instance)
    }

    /// A frozen guest in a new instance of its thaw module.
    pub fn thaw(compiled: &Compiled, frozen: Frozen) -> Result<Instance, Error> {
        let mut instance = Instance::new(compiled, frozen.host, Entry::Clone)?;
        let store = &mut instance.store;
        let Some(freezing) = &instance.freezing else {
            return Ok(instance);
        };
        let doing = || engine_error(format!("{}: thawing it", compiled.program));
        for (memory, bytes) in freezing.memories.iter().zip(&frozen.memories) {
            fill(store, memory, bytes).map_err(doing())?;
        }
        for (global, value) in freezing.globals.iter().zip(frozen.globals) {
            global.set(&mut *store, value).map_err(doing())?;
        }
        fill(store, &freezing.frames, &frozen.frames).map_err(doing())?;
        let sp = Val::I32(frozen.frames.len() as i32);
        freezing.sp.set(store, sp).map_err(doing())?;
        Ok(instance)
    }

    fn new(compiled: &Compiled, host: Host, entry: Entry) -> Result<Instance, Error> {
        let doing = || engine_error(format!("{}: making an instance", compiled.program));
        let mut store = Store::new(compiled.module.engine(), host);
        // Where code looks at epochs, none ever ends.
        store.set_epoch_deadline(u64::MAX / 2);
        let instance = compiled
            .linker
            .instantiate(&mut store, &compiled.module)
            .map_err(doing())?;
        let freezing = match &compiled.artefact {
            Some(artefact) => {
                let found = Freezing::find(&mut store, &instance, &artefact.interface);
                Some(found.ok_or_else(|| Error::Engine {
                    doing: format!("{}: making an instance", compiled.program),
                    error: wasmtime::format_err!("an export that the pass adds is missing"),
                })?)
            }
            None => None,
        };
        let memory = match &freezing {
            Some(freezing) => freezing.memories.first().copied(),
            None => instance.get_memory(&mut store, "memory"),
        };
        store.data_mut().memory = memory;
        store.data_mut().frozen = freezing.as_ref().map(|freezing| freezing.frozen);
        Ok(Instance {
            program: compiled.program.clone(),
            store,
            instance,
            freezing,
            entry,
        })
    }

    /// Runs until the program is finished or frozen.
    pub fn run(&mut self) -> Result<Stretch, Error> {
        let (function, arguments) = match self.entry.clone() {
            Entry::Program(name, arguments) => (self.function(name)?, arguments),
            Entry::Clone => (self.clone_of_outermost()?, Vec::new()),
        };
        let kind = function.ty(&self.store);
        let mut results: Vec<Val> = kind
            .results()
            .map(|kind| Val::default_for_ty(&kind).unwrap_or(Val::I32(0)))
            .collect();
        if let Some(freezing) = &self.freezing {
            let cleared = freezing.frozen.set(&mut self.store, Val::I32(0));
            cleared.map_err(self.engine_error("running it"))?;
        }
        let start = CpuTime::now();
        let returned = function.call(&mut self.store, &arguments, &mut results);
        let cpu = start.elapsed();
        let exit = match returned {
            Ok(()) => None,
            Err(error) => match error.downcast_ref::<Exit>() {
                Some(exit) => Some(exit.0),
                None => return Err(self.engine_error("running it")(error)),
            },
        };
        if exit.is_none() && self.is_frozen() {
            self.entry = Entry::Clone;
            return Ok(Stretch {
                end: End::Frozen,
                cpu,
            });
        }
        let host = self.store.data();
        let outcome = Outcome {
            result: results.first().and_then(Val::i32),
            exit,
            output: String::from_utf8_lossy(&host.output).into_owned(),
            answers: host.traffic.as_ref().map(|traffic| traffic.summary()),
        };
        Ok(Stretch {
            end: End::Done(outcome),
            cpu,
        })
    }

    /// Takes the state out of a frozen guest; the instance is gone.
    pub fn freeze(mut self) -> Frozen {
        let mut frozen = Frozen {
            memories: Vec::new(),
            globals: Vec::new(),
            frames: Vec::new(),
            host: Host::new(vec![], vec![], None),
        };
        if let Some(freezing) = &self.freezing {
            let store = &mut self.store;
            for memory in &freezing.memories {
                frozen.memories.push(memory.data(&*store).to_vec());
            }
            for global in &freezing.globals {
                frozen.globals.push(global.get(&mut *store));
            }
            let sp = freezing.sp.get(&mut *store).i32().unwrap_or(0) as usize;
            let frames = freezing.frames.data(&*store);
            frozen.frames = frames.get(..sp).unwrap_or(frames).to_vec();
        }
        frozen.host = self.store.into_data();
        frozen
    }

    /// What the depth bench sees and sets.
    pub fn observer(&mut self) -> &mut Observer {
        &mut self.store.data_mut().observer
    }

    fn is_frozen(&mut self) -> bool {
        self.freezing.as_ref().is_some_and(|freezing| {
            let value = freezing.frozen.get(&mut self.store);
            value.i32().is_some_and(|frozen| frozen != 0)
        })
    }

    fn clone_of_outermost(&mut self) -> Result<Func, Error> {
        let store = &mut self.store;
        let found = self.freezing.as_ref().and_then(|freezing| {
            let sp = freezing.sp.get(&mut *store).i32()? as usize;
            let trailer = freezing.frames.data(&*store).get(..sp)?.last_chunk::<8>()?;
            let [a, b, c, d, ..] = *trailer;
            let clones = self.instance.get_table(&mut *store, interface::CLONES)?;
            let function = u64::from(u32::from_le_bytes([a, b, c, d]));
            clones.get(&mut *store, function)?.as_func()?.copied()
        });
        found.ok_or_else(|| Error::Engine {
            doing: format!("{}: thawing it", self.program),
            error: wasmtime::format_err!("the outermost frame names no clone"),
        })
    }

    fn function(&mut self, name: &str) -> Result<Func, Error> {
        let found = self.instance.get_func(&mut self.store, name);
        found.ok_or_else(|| Error::Engine {
            doing: format!("{}: running it", self.program),
            error: wasmtime::format_err!("it exports no function {name:?}"),
        })
    }

    fn engine_error(&self, doing: &str) -> impl FnOnce(wasmtime::Error) -> Error + use<> {
        engine_error(format!("{}: {doing}", self.program))
    }
}

impl Freezing {
    fn find(
        store: &mut Store<Host>,
        instance: &wasmtime::Instance,
        interface: &interface::Interface,
    ) -> Option<Freezing> {
        let mut memories = Vec::new();
        for index in 0..interface.memories.len() as u32 {
            let name = interface::memory_export(index);
            memories.push(instance.get_memory(&mut *store, &name)?);
        }
        let mut globals = Vec::new();
        for global in &interface.globals {
            let name = interface::global_export(global.index);
            globals.push(instance.get_global(&mut *store, &name)?);
        }
        Some(Freezing {
            frames: instance.get_memory(&mut *store, interface::FRAMES)?,
            sp: instance.get_global(&mut *store, interface::SP)?,
            frozen: instance.get_global(&mut *store, interface::FROZEN)?,
            memories,
            globals,
        })
    }
}

/// Makes a memory at least as large as these bytes and copies them to its front.
fn fill(store: &mut Store<Host>, memory: &Memory, bytes: &[u8]) -> Result<(), wasmtime::Error> {
    let missing = bytes.len().saturating_sub(memory.data_size(&*store));
    if missing > 0 {
        memory.grow(&mut *store, missing.div_ceil(PAGE_BYTES) as u64)?;
    }
    memory.data_mut(store)[..bytes.len()].copy_from_slice(bytes);
    Ok(())
}
