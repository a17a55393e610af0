//! A small deterministic host, and the comparison of a plain run with frozen and thawed ones.
//!
//! Imported functions answer with numbers that follow from the calls made so far; every call is
//! part of what is compared. A frozen instance is turned into a [`Snapshot`], and that into a new
//! instance of the thaw module, on any of the engines.

#![allow(dead_code)]

pub mod generate;
pub mod ticks;

use freeze::interface::{self, ExportKind};
use freeze::{Artefact, Options, Poll, Slot};
use std::sync::{Arc, OnceLock};
use wasmtime::{
    Caller, Config, Engine, Extern, ExternType, Func, Instance, Linker, Memory, MemoryType, Module,
    Ref, Store, Table, Trap, Val,
};

/// Tells the seed when a test fails.
pub struct Seed(pub u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.0);
        }
    }
}

/// The engines that everything must run on alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Native,
    Pulley,
}

pub fn engine(backend: Backend) -> &'static Engine {
    static NATIVE: OnceLock<Engine> = OnceLock::new();
    static PULLEY: OnceLock<Engine> = OnceLock::new();
    let (cell, target) = match backend {
        Backend::Native => (&NATIVE, None),
        Backend::Pulley => (&PULLEY, Some("pulley64")),
    };
    cell.get_or_init(|| {
        let mut config = Config::new();
        config.wasm_branch_hinting(true);
        config.cranelift_nan_canonicalization(true);
        config.max_wasm_stack(1 << 20);
        config.relaxed_simd_deterministic(true);
        config.cranelift_opt_level(wasmtime::OptLevel::None);
        if let Some(target) = target {
            config.target(target).unwrap();
        }
        Engine::new(&config).unwrap()
    })
}

/// One call into a module, by export.
#[derive(Clone, Debug)]
pub struct Step {
    pub export: String,
    pub args: Vec<Bits>,
}

/// A value, compared by its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(pub Slot, pub u128);

impl Bits {
    fn of(value: &Val) -> Option<Bits> {
        Some(match value {
            Val::I32(v) => Bits(Slot::I32, *v as u32 as u128),
            Val::I64(v) => Bits(Slot::I64, *v as u64 as u128),
            Val::F32(v) => Bits(Slot::F32, *v as u128),
            Val::F64(v) => Bits(Slot::F64, *v as u128),
            Val::V128(v) => Bits(Slot::V128, v.as_u128()),
            // Only whether it is null: of which instance it is, is nobody's business.
            Val::FuncRef(function) => Bits(Slot::Function, function.is_some().into()),
            Val::ExternRef(None) => Bits(Slot::External, 0),
            _ => return None,
        })
    }

    fn value(self) -> Val {
        match self.0 {
            Slot::I32 => Val::I32(self.1 as u32 as i32),
            Slot::I64 => Val::I64(self.1 as u64 as i64),
            Slot::F32 => Val::F32(self.1 as u32),
            Slot::F64 => Val::F64(self.1 as u64),
            Slot::V128 => Val::V128(self.1.into()),
            Slot::External => Val::ExternRef(None),
            _ => Val::FuncRef(None),
        }
    }
}

/// Everything that a guest does that can be seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Per step: results, or why it trapped or what it threw.
    pub steps: Vec<Result<Vec<Option<Bits>>, String>>,
    /// Exported memories, by name.
    pub memories: Vec<(String, Vec<u8>)>,
    /// Exported globals, by name.
    pub globals: Vec<(String, Option<Bits>)>,
    /// Every host call: its import and arguments.
    pub calls: Vec<(u32, Vec<Option<Bits>>)>,
}

/// The host's own state: it travels with the guest.
#[derive(Clone, Default)]
pub struct Host {
    calls: Vec<(u32, Vec<Option<Bits>>)>,
    /// Calls made before the step in hand.
    calls_before: usize,
    /// Freeze when so many calls have been made.
    freeze_at_call: Option<usize>,
    /// Ask for a freeze, in this memory, when so many calls have been made.
    ask_at_call: Option<(usize, Memory)>,
}

/// Most host calls in a step.
const MOST_CALLS: usize = 20_000;

/// What the host answers to a call.
pub fn answer(import: u32, args: &[Option<Bits>], calls: usize, slot: Slot) -> Bits {
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(import) ^ (calls as u64) << 32;
    for arg in args {
        let bits = arg.map_or(0, |b| b.1);
        hash = (hash ^ bits as u64 ^ (bits >> 64) as u64).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 29;
    }
    let bits = match slot {
        Slot::I32 => u128::from(hash % 97),
        Slot::I64 => hash.into(),
        Slot::F32 => ((hash % 1000) as f32).to_bits().into(),
        Slot::F64 => ((hash % 1000) as f64).to_bits().into(),
        Slot::V128 => u128::from(hash) * 3,
        _ => 0,
    };
    Bits(slot, bits)
}

fn slot_of(kind: &wasmtime::ValType) -> Slot {
    match kind {
        wasmtime::ValType::I32 => Slot::I32,
        wasmtime::ValType::I64 => Slot::I64,
        wasmtime::ValType::F32 => Slot::F32,
        wasmtime::ValType::F64 => Slot::F64,
        wasmtime::ValType::V128 => Slot::V128,
        wasmtime::ValType::Ref(_) => Slot::Function,
    }
}

/// Defines every imported function of a module.
fn linker(module: &Module) -> Linker<Host> {
    let mut linker = Linker::new(module.engine());
    linker.allow_shadowing(true);
    let functions = module.imports().filter_map(|import| match import.ty() {
        ExternType::Func(kind) => Some((import, kind)),
        _ => None,
    });
    for (index, (import, kind)) in (0..).zip(functions) {
        let results: Vec<_> = kind.results().collect();
        let body = move |mut caller: Caller<'_, Host>, args: &[Val], out: &mut [Val]| {
            let made = caller.data().calls.len();
            if caller.data().freeze_at_call == Some(made)
                && let Some(Extern::Global(frozen)) = caller.get_export(interface::FROZEN)
            {
                frozen.set(&mut caller, Val::I32(1)).unwrap();
                for (value, kind) in out.iter_mut().zip(&results) {
                    *value = Val::default_for_ty(kind).unwrap();
                }
                return Ok(());
            }
            if let Some((call, flags)) = caller.data().ask_at_call
                && call == made
            {
                let at = interface::FLAG_REQUEST as usize;
                flags.data_mut(&mut caller)[at] = 1;
            }
            if made - caller.data().calls_before > MOST_CALLS {
                return Err(wasmtime::Error::msg("too many host calls"));
            }
            let args: Vec<_> = args.iter().map(Bits::of).collect();
            for (value, kind) in out.iter_mut().zip(&results) {
                *value = answer(index, &args, made, slot_of(kind)).value();
            }
            caller.data_mut().calls.push((index, args));
            Ok(())
        };
        linker
            .func_new(import.module(), import.name(), kind, body)
            .unwrap();
    }
    linker
}

fn describe(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<Trap>() {
        Some(trap) => format!("{trap:?}"),
        // A thrown exception; where it was thrown tells one module from the other.
        None => error.root_cause().to_string(),
    }
}

/// Whether a run is useless for comparing: how deep a stack may be is not what is under test.
pub fn overflowed(seen: &Seen) -> bool {
    let overflow = format!("{:?}", Trap::StackOverflow);
    seen.steps
        .iter()
        .any(|step| step.as_ref().err() == Some(&overflow))
}

fn call(store: &mut Store<Host>, function: Func, args: &[Bits]) -> Result<Vec<Val>, String> {
    let args: Vec<Val> = args.iter().map(|bits| bits.value()).collect();
    let kind = function.ty(&*store);
    let mut results: Vec<Val> = kind
        .results()
        .map(|kind| Val::default_for_ty(&kind).unwrap())
        .collect();
    match function.call(&mut *store, &args, &mut results) {
        Ok(()) => Ok(results),
        Err(error) => Err(describe(&error)),
    }
}

/// Runs the module as given. Errors are those of instantiation.
pub fn plain(wasm: &[u8], steps: &[Step], backend: Backend) -> Result<Seen, String> {
    let module = Module::new(engine(backend), wasm).map_err(|e| format!("{e:?}"))?;
    let mut store = Store::new(engine(backend), Host::default());
    let instance = linker(&module)
        .instantiate(&mut store, &module)
        .map_err(|e| describe(&e))?;
    let mut done = Vec::new();
    for step in steps {
        let function = instance.get_func(&mut store, &step.export).unwrap();
        store.data_mut().calls_before = store.data().calls.len();
        let result = call(&mut store, function, &step.args);
        done.push(result.map(|values| values.iter().map(Bits::of).collect()));
    }
    Ok(seen(&mut store, &instance, done))
}

fn seen(
    store: &mut Store<Host>,
    instance: &Instance,
    steps: Vec<Result<Vec<Option<Bits>>, String>>,
) -> Seen {
    let mut exports: Vec<(String, Extern)> = instance
        .exports(&mut *store)
        .map(|export| (export.name().to_owned(), export.into_extern()))
        .filter(|(name, _)| !name.starts_with(interface::PREFIX))
        .collect();
    exports.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut memories, mut globals) = (Vec::new(), Vec::new());
    for (name, export) in exports {
        match export {
            Extern::Memory(memory) => memories.push((name, memory.data(&*store).to_vec())),
            Extern::Global(global) => globals.push((name, Bits::of(&global.get(&mut *store)))),
            _ => {}
        }
    }
    Seen {
        steps,
        memories,
        globals,
        calls: store.data().calls.clone(),
    }
}

/// A module with its two compiled modules on both engines.
pub struct Freezable {
    pub artefact: Artefact,
    modules: [(Module, Module); 2],
}

impl Freezable {
    /// Transforms and compiles, with countdown polls.
    pub fn new(wasm: &[u8]) -> Result<Arc<Freezable>, freeze::Error> {
        Freezable::with(
            wasm,
            &Options {
                poll: Poll::Countdown,
                stack_bytes: 1 << 20,
                ..Options::default()
            },
        )
    }

    pub fn with(wasm: &[u8], options: &Options) -> Result<Arc<Freezable>, freeze::Error> {
        let artefact = freeze::transform(wasm, options)?;
        let compile = |backend| {
            let run = Module::new(engine(backend), &artefact.run).expect("the run module");
            let thaw = Module::new(engine(backend), &artefact.thaw).expect("the thaw module");
            (run, thaw)
        };
        let modules = [compile(Backend::Native), compile(Backend::Pulley)];
        Ok(Arc::new(Freezable { artefact, modules }))
    }

    fn modules(&self, backend: Backend) -> &(Module, Module) {
        &self.modules[backend as usize]
    }
}

/// A frozen process.
#[derive(Clone)]
pub struct Snapshot {
    pub memories: Vec<Vec<u8>>,
    /// References as positions in the list of functions, `None` if null.
    pub globals: Vec<Result<Bits, Option<usize>>>,
    pub tables: Vec<Vec<Option<usize>>>,
    pub references: Vec<Option<usize>>,
    pub frames: Vec<u8>,
    host: Host,
    next_step: usize,
    done: Vec<Result<Vec<Option<Bits>>, String>>,
}

/// An instance at work.
pub struct Process {
    freezable: Arc<Freezable>,
    store: Store<Host>,
    instance: Instance,
    flags: Memory,
    next_step: usize,
    done: Vec<Result<Vec<Option<Bits>>, String>>,
    /// Frames that wait to be thawed.
    frozen: bool,
}

/// How far a process has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    Frozen,
    Finished,
}

impl Process {
    fn instantiate(
        freezable: &Arc<Freezable>,
        backend: Backend,
        thaw: bool,
        host: Host,
    ) -> Process {
        let (run, thaw_module) = freezable.modules(backend);
        let module = if thaw { thaw_module } else { run };
        let mut store = Store::new(engine(backend), host);
        let mut linker = linker(module);
        let flags = Memory::new(&mut store, MemoryType::new(1, Some(1))).unwrap();
        linker
            .define(&store, interface::MODULE, interface::FLAG_MEMORY, flags)
            .unwrap();
        let instance = linker
            .instantiate(&mut store, module)
            .expect("instantiation");
        Process {
            freezable: freezable.clone(),
            store,
            instance,
            flags,
            next_step: 0,
            done: Vec::new(),
            frozen: false,
        }
    }

    /// A process at birth. The start function, if there is one, becomes its first step.
    pub fn start(freezable: &Arc<Freezable>, backend: Backend) -> Process {
        let mut process = Process::instantiate(freezable, backend, false, Host::default());
        for (index, image) in (0..).zip(&freezable.artefact.image) {
            let memory = process.memory(&interface::memory_export(index));
            for chunk in &image.chunks {
                let at = usize::try_from(chunk.offset).unwrap();
                let data = &mut memory.data_mut(&mut process.store)[at..];
                data[..chunk.bytes.len()].copy_from_slice(&chunk.bytes);
            }
        }
        process
    }

    fn memory(&mut self, name: &str) -> Memory {
        self.instance.get_memory(&mut self.store, name).expect(name)
    }

    fn global(&mut self, name: &str) -> wasmtime::Global {
        self.instance.get_global(&mut self.store, name).expect(name)
    }

    fn table(&mut self, name: &str) -> Table {
        self.instance.get_table(&mut self.store, name).expect(name)
    }

    /// The functions that references can lead to.
    fn functions(&mut self) -> Vec<Func> {
        if !self.freezable.artefact.interface.references {
            return Vec::new();
        }
        let count = self.freezable.artefact.interface.functions.len() as u64;
        let table = self.table(interface::FUNCTIONS);
        let functions = (0..count).map(|at| table.get(&mut self.store, at).unwrap());
        let functions = functions.map(|entry| *entry.unwrap_func().unwrap());
        functions.collect()
    }

    fn position(&mut self, functions: &[Func], function: Option<Func>) -> Option<usize> {
        let function = function?.to_raw(&mut self.store);
        let mut all = functions.iter();
        let position = all.position(|other| other.to_raw(&mut self.store) == function);
        Some(position.expect("a reference leads to one of the functions"))
    }

    fn entries(&mut self, functions: &[Func], table: Table, size: u64) -> Vec<Option<usize>> {
        let entries = (0..size).map(|at| match table.get(&mut self.store, at).unwrap() {
            Ref::Func(function) => self.position(functions, function),
            other => {
                assert!(other.is_null());
                None
            }
        });
        entries.collect()
    }

    fn word(&mut self, offset: u32) -> i32 {
        let at = offset as usize;
        let bytes = &self.flags.data(&self.store)[at..at + 4];
        i32::from_le_bytes(bytes.try_into().unwrap())
    }

    /// Freezes at the `polls`th poll from here; 0 is never.
    pub fn freeze_at_poll(&mut self, polls: i32) {
        let at = interface::FLAG_COUNTDOWN as usize;
        self.flags.data_mut(&mut self.store)[at..at + 4].copy_from_slice(&polls.to_le_bytes());
    }

    pub fn polls_left(&mut self) -> i32 {
        self.word(interface::FLAG_COUNTDOWN)
    }

    /// Freezes instead of making the host call after `calls` of them.
    pub fn freeze_at_call(&mut self, calls: Option<usize>) {
        self.store.data_mut().freeze_at_call = calls;
    }

    /// Asks for a freeze in the host call after `calls` of them.
    pub fn ask_at_call(&mut self, calls: usize) {
        self.store.data_mut().ask_at_call = Some((calls, self.flags));
    }

    pub fn calls(&self) -> usize {
        self.store.data().calls.len()
    }

    fn begin_step(&mut self) {
        let host = self.store.data_mut();
        host.calls_before = host.calls.len();
    }

    /// Runs until it has finished or freezes. With a start function, that is step 0.
    pub fn run(&mut self, steps: &[Step]) -> Progress {
        let start = usize::from(self.freezable.artefact.interface.start);
        loop {
            let (function, args) = if self.frozen {
                let sp = self.global(interface::SP).get(&mut self.store).unwrap_i32() as usize;
                let frames = self.memory(interface::FRAMES);
                let id = &frames.data(&self.store)[sp - 8..sp - 4];
                let id = u32::from_le_bytes(id.try_into().unwrap());
                let clones = self
                    .instance
                    .get_table(&mut self.store, interface::CLONES)
                    .unwrap();
                let clone = clones.get(&mut self.store, id.into()).unwrap();
                (*clone.unwrap_func().unwrap(), &[][..])
            } else if self.next_step < start {
                self.begin_step();
                let function = self.instance.get_func(&mut self.store, interface::START);
                (function.unwrap(), &[][..])
            } else if let Some(step) = steps.get(self.next_step - start) {
                self.begin_step();
                let function = self.instance.get_func(&mut self.store, &step.export);
                (function.unwrap(), &step.args[..])
            } else {
                return Progress::Finished;
            };
            self.frozen = false;
            let result = call(&mut self.store, function, args);
            let frozen = self.global(interface::FROZEN);
            if frozen.get(&mut self.store).unwrap_i32() != 0 {
                frozen.set(&mut self.store, Val::I32(0)).unwrap();
                assert!(result.is_ok(), "trapped while it froze: {result:?}");
                return Progress::Frozen;
            }
            self.done
                .push(result.map(|values| values.iter().map(Bits::of).collect()));
            self.next_step += 1;
        }
    }

    /// Takes a frozen process apart.
    pub fn snapshot(&mut self) -> Snapshot {
        let sp = self.global(interface::SP).get(&mut self.store).unwrap_i32() as usize;
        let frames = self.memory(interface::FRAMES).data(&self.store)[..sp].to_vec();
        let artefact = self.freezable.clone();
        let count = artefact.artefact.image.len() as u32;
        let memories = (0..count)
            .map(|index| {
                let memory = self.memory(&interface::memory_export(index));
                memory.data(&self.store).to_vec()
            })
            .collect();
        let seam = &artefact.artefact.interface;
        let functions = self.functions();
        let globals = seam
            .globals
            .iter()
            .map(|global| {
                let value = self.global(&interface::global_export(global.index));
                match value.get(&mut self.store) {
                    Val::FuncRef(function) => Err(self.position(&functions, function)),
                    other => Ok(Bits::of(&other).unwrap()),
                }
            })
            .collect();
        let tables = seam
            .tables
            .iter()
            .map(|table| {
                let table = self.table(&interface::table_export(table.index));
                let size = table.size(&self.store);
                self.entries(&functions, table, size)
            })
            .collect();
        let checked = artefact.artefact.sites.frames(&frames);
        let checked = checked.expect("its own frames");
        assert!(!checked.is_empty());
        let references = match seam.references {
            true => {
                let rp = self.global(interface::RP).get(&mut self.store).unwrap_i32();
                let table = self.table(interface::REFERENCES);
                self.entries(&functions, table, rp as u64)
            }
            false => Vec::new(),
        };
        let count = artefact.artefact.sites.references(&checked);
        assert_eq!(references.len() as u64, count, "references of the frames");
        Snapshot {
            memories,
            globals,
            tables,
            references,
            frames,
            host: self.store.data().clone(),
            next_step: self.next_step,
            done: self.done.clone(),
        }
    }

    /// Puts a frozen process together again.
    pub fn thaw(freezable: &Arc<Freezable>, backend: Backend, snapshot: &Snapshot) -> Process {
        let mut host = snapshot.host.clone();
        host.freeze_at_call = None;
        host.ask_at_call = None;
        let mut process = Process::instantiate(freezable, backend, true, host);
        for (index, bytes) in (0..).zip(&snapshot.memories) {
            let memory = process.memory(&interface::memory_export(index));
            let more = bytes.len() - memory.data_size(&process.store);
            memory
                .grow(&mut process.store, (more / 65536) as u64)
                .unwrap();
            memory.data_mut(&mut process.store).copy_from_slice(bytes);
        }
        let seam = &freezable.artefact.interface;
        let functions = process.functions();
        let reference = |position: &Option<usize>| position.map(|position| functions[position]);
        for (global, value) in seam.globals.iter().zip(&snapshot.globals) {
            let global = process.global(&interface::global_export(global.index));
            let value = match value {
                Ok(bits) => bits.value(),
                Err(position) => Val::FuncRef(reference(position)),
            };
            global.set(&mut process.store, value).unwrap();
        }
        let mut fill = |name: &str, entries: &[Option<usize>], functions: bool| {
            let table = process.table(name);
            let value = |position| match functions {
                true => Ref::Func(reference(position)),
                false => Ref::Extern(None),
            };
            let more = entries.len() as u64 - table.size(&process.store).min(entries.len() as u64);
            table.grow(&mut process.store, more, value(&None)).unwrap();
            for (at, position) in (0..).zip(entries) {
                table.set(&mut process.store, at, value(position)).unwrap();
            }
        };
        for (table, entries) in seam.tables.iter().zip(&snapshot.tables) {
            let name = interface::table_export(table.index);
            fill(&name, entries, table.functions);
        }
        if seam.references {
            fill(interface::REFERENCES, &snapshot.references, true);
            let rp = Val::I32(snapshot.references.len() as i32);
            process
                .global(interface::RP)
                .set(&mut process.store, rp)
                .unwrap();
        }
        if seam.settle {
            let settle = process
                .instance
                .get_func(&mut process.store, interface::SETTLE);
            settle
                .unwrap()
                .call(&mut process.store, &[], &mut [])
                .unwrap();
        }
        let frames = process.memory(interface::FRAMES);
        frames.data_mut(&mut process.store)[..snapshot.frames.len()]
            .copy_from_slice(&snapshot.frames);
        let sp = Val::I32(snapshot.frames.len() as i32);
        process
            .global(interface::SP)
            .set(&mut process.store, sp)
            .unwrap();
        process.next_step = snapshot.next_step;
        process.done = snapshot.done.clone();
        process.frozen = true;
        process
    }

    /// What can be seen of it once it has finished.
    pub fn seen(&mut self) -> Seen {
        let sp = self.global(interface::SP).get(&mut self.store);
        if self.done.last().is_none_or(Result::is_ok) {
            assert_eq!(sp.unwrap_i32(), 0, "frames are left over");
        }
        let start = usize::from(self.freezable.artefact.interface.start);
        let done = self.done.iter().skip(start).cloned().collect();
        seen(&mut self.store, &self.instance, done)
    }
}

/// Exported functions without reference parameters, called with small arguments.
pub fn steps_of(artefact: &Artefact) -> Vec<Step> {
    let exports = artefact.interface.exports.iter();
    exports
        .filter_map(|export| {
            let ExportKind::Function { params, .. } = &export.kind else {
                return None;
            };
            let args = params.iter().enumerate().map(|(n, slot)| {
                let n = n as u128 + 3;
                slot.map(|slot| match slot {
                    Slot::F32 => Bits(slot, (n as f32).to_bits().into()),
                    Slot::F64 => Bits(slot, (n as f64).to_bits().into()),
                    _ => Bits(slot, n),
                })
            });
            Some(Step {
                export: export.name.clone(),
                args: args.collect::<Option<_>>()?,
            })
        })
        .collect()
}

/// What [`check`] did.
#[derive(Debug, Default)]
pub struct Tally {
    pub polls: i32,
    pub calls: usize,
    pub freezes: usize,
}

const BACKENDS: [Backend; 2] = [Backend::Native, Backend::Pulley];

/// Compares plain, instrumented and frozen runs of a module; `most` bounds the number of places
/// that are tried one by one, spread evenly.
pub fn check(wasm: &[u8], steps: &[Step], most: usize, seed: u64) -> Tally {
    let freezable = Freezable::new(wasm).expect("it can be transformed");
    let expected = plain(wasm, steps, Backend::Native).expect("it can be instantiated");
    let mut tally = Tally::default();
    if overflowed(&expected) {
        return tally;
    }

    for backend in BACKENDS {
        let mut process = Process::start(&freezable, backend);
        process.freeze_at_poll(i32::MAX);
        assert_eq!(process.run(steps), Progress::Finished);
        tally.polls = i32::MAX - process.polls_left();
        tally.calls = process.calls();
        assert_same(
            &process.seen(),
            &expected,
            &format!("unfrozen on {backend:?}"),
        );
    }

    // One freeze, at every poll, and at every host call.
    let stride = (tally.polls as usize).div_ceil(most).max(1);
    for poll in (1..=tally.polls).step_by(stride) {
        let (from, to) = (BACKENDS[poll as usize % 2], BACKENDS[poll as usize / 2 % 2]);
        let mut process = Process::start(&freezable, from);
        process.freeze_at_poll(poll);
        assert_eq!(process.run(steps), Progress::Frozen, "at poll {poll}");
        let snapshot = process.snapshot();
        let mut process = Process::thaw(&freezable, to, &snapshot);
        assert_eq!(process.run(steps), Progress::Finished);
        let what = format!("frozen at poll {poll}, {from:?} to {to:?}");
        assert_same(&process.seen(), &expected, &what);
        tally.freezes += 1;
    }
    let stride = tally.calls.div_ceil(most).max(1);
    for call in (0..tally.calls).step_by(stride) {
        let (from, to) = (BACKENDS[call % 2], BACKENDS[call / 2 % 2]);
        let mut process = Process::start(&freezable, from);
        process.freeze_at_call(Some(call));
        if process.run(steps) == Progress::Finished {
            continue; // A call by the host itself, of an import that the guest exports.
        }
        let snapshot = process.snapshot();
        let mut process = Process::thaw(&freezable, to, &snapshot);
        assert_eq!(process.run(steps), Progress::Finished);
        let what = format!("frozen at call {call}, {from:?} to {to:?}");
        assert_same(&process.seen(), &expected, &what);
        tally.freezes += 1;
    }

    // Many freezes in one run, hopping between the engines.
    for round in 0..3 {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(3) + round);
        let longest = (tally.polls / 4).clamp(2, 1 << 20);
        let mut process = Process::start(&freezable, BACKENDS[random.usize(0..2)]);
        let mut hops = 0;
        loop {
            process.freeze_at_poll(random.i32(2..=longest));
            if random.bool() {
                process.freeze_at_call(Some(process.calls() + random.usize(1..4)));
            }
            if process.run(steps) == Progress::Finished || hops > 200 {
                break;
            }
            let snapshot = process.snapshot();
            let to = BACKENDS[random.usize(0..2)];
            process = Process::thaw(&freezable, to, &snapshot);
            if random.u32(0..8) == 0 {
                // Frozen before it has done anything: the same bytes.
                process.freeze_at_call(Some(process.calls()));
                process.freeze_at_poll(1);
                let progress = process.run(steps);
                if progress == Progress::Finished {
                    break;
                }
                let again = process.snapshot();
                assert_eq!(again.frames, snapshot.frames, "frozen where it was");
                let to = BACKENDS[random.usize(0..2)];
                process = Process::thaw(&freezable, to, &again);
            }
            hops += 1;
            tally.freezes += 1;
        }
        process.freeze_at_poll(0);
        process.freeze_at_call(None);
        while process.run(steps) == Progress::Frozen {
            let snapshot = process.snapshot();
            process = Process::thaw(&freezable, BACKENDS[0], &snapshot);
        }
        assert_same(
            &process.seen(),
            &expected,
            &format!("hopping, round {round}"),
        );
    }
    tally
}

#[track_caller]
pub fn assert_same(found: &Seen, expected: &Seen, what: &str) {
    assert_eq!(found.steps, expected.steps, "results {what}");
    assert_eq!(found.calls, expected.calls, "host calls {what}");
    assert_eq!(found.globals, expected.globals, "globals {what}");
    for ((name, found), (_, expected)) in found.memories.iter().zip(&expected.memories) {
        assert_eq!(found.len(), expected.len(), "size of memory {name} {what}");
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "memory {name} {what}");
    }
}
