//! A module of a program, compiled and linked: what its instances have in common is looked up once.
//!
//! An instance needs a flag memory of its own, which any thread may write. Shared memories belong to
//! no store; so a module can be linked with one ahead of time. Such a *seat* is used by one instance
//! after another. (Pulley polls an ordinary memory, which belongs to a store: there each instance
//! is linked anew.)

use crate::engine::Side;
use crate::kernel::Context;
use crate::machine::at_once;
use crate::memory::{Flag, FlagMemory, Shelves, Slot, Source, collect};
use freeze::interface::{self as seam, Interface};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use wasmtime::{Extern, Instance, InstancePre, Linker, Module, ModuleExport, Store};

/// Seats that wait for their next instance, of all modules together.
const FREE_SEATS: usize = 1024;

/// A module linked with a flag memory.
struct Seat {
    module: InstancePre<Context>,
    flag: Flag,
}

/// The free seats of an engine, by module.
pub(crate) struct Seats(Mutex<Shelves<u64, Seat>>);

impl Seats {
    pub(crate) fn new() -> Arc<Seats> {
        Arc::new(Seats(Mutex::new(Shelves::new(FREE_SEATS))))
    }

    fn lock(&self) -> MutexGuard<'_, Shelves<u64, Seat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seat in use. It goes home when the last handle on its flag is dropped: no one can ask the next
/// instance to freeze by an old handle.
struct Lent {
    seat: Option<Seat>,
    /// The module's number; nothing once the module is gone.
    code: Weak<u64>,
    home: Arc<Seats>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(seat), Some(code)) = (self.seat.take(), self.code.upgrade()) {
            seat.flag.wipe();
            let gone = self.home.lock().put(*code, seat);
            drop(gone);
        }
    }
}

/// What every instance of a module exports.
pub(crate) struct Exports {
    /// The memories of the program.
    pub memories: Vec<ModuleExport>,
    /// Its mutable globals.
    pub globals: Vec<ModuleExport>,
    pub frames: ModuleExport,
    pub sp: ModuleExport,
    pub frozen: ModuleExport,
    /// The memory that host calls refer to.
    pub guest: Option<ModuleExport>,
    /// The program's entry function.
    pub entry: ModuleExport,
    /// What was the start function.
    pub start: Option<ModuleExport>,
    /// The table of clones, where there is one.
    pub clones: Option<ModuleExport>,
}

impl Exports {
    fn of(module: &Module, interface: &Interface, entry: &str) -> wasmtime::Result<Exports> {
        let find = |name: &str| module.get_export_index(name);
        let need = |name: &str| {
            let missing = || format!("the module does not export `{name}`");
            find(name).ok_or_else(|| wasmtime::Error::msg(missing()))
        };
        let memories = 0..interface.memories.len() as u32;
        let globals = interface.globals.iter();
        Ok(Exports {
            memories: memories
                .map(|index| need(&seam::memory_export(index)))
                .collect::<wasmtime::Result<_>>()?,
            globals: globals
                .map(|global| need(&seam::global_export(global.index)))
                .collect::<wasmtime::Result<_>>()?,
            frames: need(seam::FRAMES)?,
            sp: need(seam::SP)?,
            frozen: need(seam::FROZEN)?,
            guest: find("memory"),
            entry: need(entry)?,
            start: find(seam::START),
            clones: find(seam::CLONES),
        })
    }
}

/// A compiled module.
pub(crate) struct Code {
    module: Module,
    id: Arc<u64>,
    seats: Arc<Seats>,
    /// To make seats with: the flag is defined anew for each.
    linker: Mutex<Linker<Context>>,
    pub exports: Exports,
}

impl Code {
    pub(crate) fn new(
        side: &Side,
        module: Module,
        interface: &Interface,
        entry: &str,
    ) -> wasmtime::Result<Code> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut linker = side.linker.clone();
        linker.allow_shadowing(true);
        Ok(Code {
            exports: Exports::of(&module, interface, entry)?,
            module,
            id: Arc::new(NEXT.fetch_add(1, Ordering::Relaxed)),
            seats: Arc::clone(&side.seats),
            linker: Mutex::new(linker),
        })
    }

    /// A new instance in `store`. `sources` are what its memories are, in order: the program's
    /// (without one it is all zero), then the frames.
    pub(crate) fn instantiate(
        &self,
        side: &Side,
        store: &mut Store<Context>,
        sources: Vec<Source>,
    ) -> wasmtime::Result<(Instance, Flag, Vec<Arc<Slot>>)> {
        if side.flags.shared() {
            return self.instantiate_in_seat(side, store, sources);
        }
        let FlagMemory { flag, import } = side.flags.make(store)?;
        let imports = self.imports(side, store, &import)?;
        let instantiate = Instance::new_async(&mut *store, &self.module, &imports);
        let (instance, slots) = collect(sources, || at_once(instantiate));
        Ok((instance?, flag, slots))
    }

    fn instantiate_in_seat(
        &self,
        side: &Side,
        store: &mut Store<Context>,
        sources: Vec<Source>,
    ) -> wasmtime::Result<(Instance, Flag, Vec<Arc<Slot>>)> {
        let free = self.seats.lock().take(*self.id);
        let seat = match free {
            Some(seat) => seat,
            None => self.new_seat(side, store)?,
        };
        let instantiate = || at_once(seat.module.instantiate_async(&mut *store));
        let (instance, slots) = collect(sources, instantiate);
        let flag = seat.flag.clone();
        let lent = Lent {
            seat: Some(seat),
            code: Arc::downgrade(&self.id),
            home: Arc::clone(&self.seats),
        };
        let flag = flag.kept_by(Arc::new(lent));
        Ok((instance?, flag, slots))
    }

    fn new_seat(&self, side: &Side, store: &mut Store<Context>) -> wasmtime::Result<Seat> {
        let FlagMemory { flag, import } = side.flags.make(store)?;
        let mut linker = self.linker.lock().unwrap_or_else(PoisonError::into_inner);
        linker.define(store, seam::MODULE, seam::FLAG_MEMORY, import)?;
        let module = linker.instantiate_pre(&self.module)?;
        Ok(Seat { module, flag })
    }

    /// All that the module imports, in order.
    fn imports(
        &self,
        side: &Side,
        store: &mut Store<Context>,
        flag: &Extern,
    ) -> wasmtime::Result<Vec<Extern>> {
        let mut imports = Vec::new();
        for import in self.module.imports() {
            if (import.module(), import.name()) == (seam::MODULE, seam::FLAG_MEMORY) {
                imports.push(flag.clone());
                continue;
            }
            let function = side.linker.get_by_import(&mut *store, &import);
            imports.push(function.ok_or_else(|| {
                let (module, name) = (import.module(), import.name());
                wasmtime::Error::msg(format!("unknown import `{module}`.`{name}`"))
            })?);
        }
        Ok(imports)
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        let gone: Vec<_> = self.seats.lock().clear(*self.id).collect();
        drop(gone);
    }
}
