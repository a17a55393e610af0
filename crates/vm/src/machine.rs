//! One instance of a program: a store, its memories and globals, and the stack that is frozen in
//! it.
//!
//! A program is born in an instance of the run module. Once frozen it goes on in an instance of
//! the thaw module: a new one that a snapshot is read into, or one that takes over the very
//! memories of the instance it was frozen in.

use crate::account::Meter;
use crate::image::Image;
use crate::kernel::{Context, Kernel};
use crate::memory::{Budget, Flag, Slot, collect};
use crate::ports::Ports;
use freeze::interface as seam;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use wasmtime::{Extern, Func, Global, Instance, Memory, Ref, ResourceLimiter, Store, V128, Val};
use wire::snapshot::GlobalValue;

pub(crate) const WASM_PAGE_BYTES: u64 = 65536;
/// Entries that tables may grow to.
const MAX_TABLE_ENTRIES: usize = 10_000_000;

/// Which of an artefact's two modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Run,
    Thaw,
}

/// Bounds what tables may grow to; memories have their budget.
#[derive(Default)]
pub(crate) struct TableLimit;

impl ResourceLimiter for TableLimit {
    fn memory_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ENTRIES)
    }
}

/// An instance and the handles on its state.
pub(crate) struct Machine {
    pub store: Store<Context>,
    pub part: Part,
    instance: Instance,
    memories: Vec<Memory>,
    globals: Vec<Global>,
    frames: Memory,
    sp: Global,
    frozen: Global,
    pub flag: Flag,
    slots: Vec<Arc<Slot>>,
}

fn error(message: impl Into<String>) -> wasmtime::Error {
    wasmtime::Error::msg(message.into())
}

/// The globals as an instance of the run module is made with, which is what a birth has.
pub(crate) fn initial_globals(image: &Image) -> wasmtime::Result<Vec<GlobalValue>> {
    let budget = Arc::new(Budget::new(u64::MAX));
    let meter = Meter::new(0, 0, budget);
    let state = wire::snapshot::Kernel::default();
    let kernel = Kernel::load(state, Ports::nothing(), Arc::default(), meter)?;
    Machine::new(image, Part::Run, kernel, Vec::new())?.globals()
}

/// Runs a future that has nothing to wait for.
pub(crate) fn at_once<T>(future: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    let mut context = std::task::Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(error("something waits that must not")),
    }
}

impl Machine {
    /// A new instance. `slots` are those of an instance to take the memories over from; without
    /// them, memories are as the engine makes them, and frames empty.
    pub(crate) fn new(
        image: &Image,
        part: Part,
        kernel: Kernel,
        slots: Vec<Arc<Slot>>,
    ) -> wasmtime::Result<Machine> {
        let (side, module) = image
            .part(part)
            .map_err(|failed| error(failed.to_string()))?;
        let context = Context {
            kernel,
            memory: None,
            frozen: None,
            tables: TableLimit,
        };
        let mut store = Store::new(&side.engine, context);
        store.limiter(|context| &mut context.tables);
        let (flag, flag_import) = side.flags.make(&mut store)?;
        let mut imports: Vec<Extern> = Vec::new();
        for import in module.imports() {
            if (import.module(), import.name()) == (seam::MODULE, seam::FLAG_MEMORY) {
                imports.push(flag_import.clone());
                continue;
            }
            let function = side.linker.get_by_import(&mut store, &import);
            imports.push(function.ok_or_else(|| {
                error(format!(
                    "unknown import `{}`.`{}`",
                    import.module(),
                    import.name()
                ))
            })?);
        }
        let (instance, slots) = collect(slots, || {
            at_once(Instance::new_async(&mut store, module, &imports))
        });
        let instance = instance?;
        let mut machine = Machine {
            memories: Vec::new(),
            globals: Vec::new(),
            frames: memory(&instance, &mut store, seam::FRAMES)?,
            sp: global(&instance, &mut store, seam::SP)?,
            frozen: global(&instance, &mut store, seam::FROZEN)?,
            store,
            part,
            instance,
            flag,
            slots,
        };
        machine.find_state(image)?;
        Ok(machine)
    }

    /// Finds the memories and globals that are the program's state.
    fn find_state(&mut self, image: &Image) -> wasmtime::Result<()> {
        let interface = &image.artefact().interface;
        for index in 0..interface.memories.len() {
            let name = seam::memory_export(index as u32);
            self.memories
                .push(memory(&self.instance, &mut self.store, &name)?);
        }
        for state in &interface.globals {
            let name = seam::global_export(state.index);
            self.globals
                .push(global(&self.instance, &mut self.store, &name)?);
        }
        let guest = self.instance.get_memory(&mut self.store, "memory");
        let frozen = self.frozen;
        let context = self.store.data_mut();
        context.memory = guest;
        context.frozen = Some(frozen);
        let budget = Arc::clone(&context.kernel.meter.budget);
        for memory in &self.memories {
            let slot = self.slot_of(memory)?;
            if !slot.charge_to(&budget) {
                return Err(error("the program begins with more memory than its limit"));
            }
        }
        Ok(())
    }

    fn slot_of(&self, memory: &Memory) -> wasmtime::Result<&Arc<Slot>> {
        let base = memory.data_ptr(&self.store);
        let mut slots = self.slots.iter();
        let slot = slots.find(|slot| std::ptr::eq(slot.base(), base));
        slot.ok_or_else(|| error("a memory lies in no slot"))
    }

    /// Takes the instance apart: the kernel, and the memories for another instance.
    pub(crate) fn take_apart(self) -> (Kernel, Vec<Arc<Slot>>) {
        (self.store.into_data().kernel, self.slots)
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.store.data().kernel
    }

    pub(crate) fn kernel_mut(&mut self) -> &mut Kernel {
        &mut self.store.data_mut().kernel
    }

    // State.

    /// Puts the image's initial pages into the memories.
    pub(crate) fn map_image(&mut self, image: &Image) -> wasmtime::Result<()> {
        for (memory, pages) in self.memories.iter().zip(image.pages()) {
            self.slot_of(memory)?.map(pages)?;
        }
        Ok(())
    }

    /// Gives the memories a snapshot's size and content; the image's pages are there already.
    pub(crate) fn apply(
        &mut self,
        image: &Image,
        memories: &[wire::snapshot::Memory],
    ) -> wasmtime::Result<()> {
        let states = memories.iter().zip(image.pages());
        for (memory, (state, pages)) in self.memories.iter().zip(states) {
            let size = memory.size(&self.store);
            if state.wasm_pages > size {
                memory.grow(&mut self.store, state.wasm_pages - size)?;
            }
            pages.apply(state, memory.data_mut(&mut self.store));
        }
        Ok(())
    }

    pub(crate) fn memory_bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.memories.iter().map(|memory| memory.data(&self.store))
    }

    pub(crate) fn globals(&mut self) -> wasmtime::Result<Vec<GlobalValue>> {
        let store = &mut self.store;
        let values = self
            .globals
            .iter()
            .map(|global| value_of(&global.get(&mut *store)));
        values.collect()
    }

    pub(crate) fn set_globals(&mut self, values: &[GlobalValue]) -> wasmtime::Result<()> {
        for (global, value) in self.globals.iter().zip(values) {
            global.set(&mut self.store, val_of(*value))?;
        }
        Ok(())
    }

    /// The frames of the frozen stack, innermost first.
    pub(crate) fn frames(&mut self) -> wasmtime::Result<&[u8]> {
        let sp = self.sp()?;
        let frames = self.frames.data(&self.store).get(..sp);
        frames.ok_or_else(|| error("the frozen stack ends beyond its memory"))
    }

    fn sp(&mut self) -> wasmtime::Result<usize> {
        let sp = self.sp.get(&mut self.store).i32();
        let sp = sp.ok_or_else(|| error("the stack pointer is not an i32"))?;
        Ok(sp.cast_unsigned() as usize)
    }

    /// Puts a frozen stack in place.
    pub(crate) fn set_frames(&mut self, frames: &[u8]) -> wasmtime::Result<()> {
        let have = self.frames.data_size(&self.store);
        if frames.len() > have {
            let more = ((frames.len() - have) as u64).div_ceil(WASM_PAGE_BYTES);
            self.frames.grow(&mut self.store, more)?;
        }
        let memory = self.frames.data_mut(&mut self.store);
        memory[..frames.len()].copy_from_slice(frames);
        self.set_sp(frames.len())
    }

    /// Whether its stack is being frozen, or was the last time it ran.
    pub(crate) fn freezing(&mut self) -> bool {
        self.frozen.get(&mut self.store).i32() != Some(0)
    }

    /// Says how much of the frames memory is a frozen stack.
    pub(crate) fn set_sp(&mut self, sp: usize) -> wasmtime::Result<()> {
        let sp = u32::try_from(sp).map_err(|_| error("the frozen stack is too large"))?;
        self.sp.set(&mut self.store, Val::I32(sp.cast_signed()))
    }

    // Running.

    /// The exported function of that name.
    pub(crate) fn export(&mut self, name: &str) -> wasmtime::Result<Func> {
        let function = self.instance.get_func(&mut self.store, name);
        function.ok_or_else(|| error(format!("the module does not export `{name}`")))
    }

    /// The clone that rebuilds the outermost frame of the frozen stack.
    pub(crate) fn clone_of_outermost(&mut self) -> wasmtime::Result<Func> {
        let frames = self.frames()?;
        let trailer = frames.last_chunk::<8>();
        let &[a, b, c, d, ..] = trailer.ok_or_else(|| error("there is no frozen stack"))?;
        let function = u32::from_le_bytes([a, b, c, d]);
        let clones = self.instance.get_table(&mut self.store, seam::CLONES);
        let clones = clones.ok_or_else(|| error("the module has no clones"))?;
        match clones.get(&mut self.store, function.into()) {
            Some(Ref::Func(Some(clone))) => Ok(clone),
            _ => Err(error(format!("function {function} has no clone"))),
        }
    }

    /// Calls a function without parameters and results. `Ok(true)`: it froze.
    pub(crate) async fn call(&mut self, function: Func) -> wasmtime::Result<bool> {
        self.frozen.set(&mut self.store, Val::I32(0))?;
        let function = function.typed::<(), ()>(&self.store)?;
        function.call_async(&mut self.store, ()).await?;
        Ok(self.freezing())
    }
}

fn memory(instance: &Instance, store: &mut Store<Context>, name: &str) -> wasmtime::Result<Memory> {
    let memory = instance.get_memory(store, name);
    memory.ok_or_else(|| error(format!("the module does not export the memory `{name}`")))
}

fn global(instance: &Instance, store: &mut Store<Context>, name: &str) -> wasmtime::Result<Global> {
    let global = instance.get_global(store, name);
    global.ok_or_else(|| error(format!("the module does not export the global `{name}`")))
}

fn value_of(value: &Val) -> wasmtime::Result<GlobalValue> {
    Ok(match value {
        Val::I32(value) => GlobalValue::I32(value.cast_unsigned()),
        Val::I64(value) => GlobalValue::I64(value.cast_unsigned()),
        Val::F32(bits) => GlobalValue::F32(*bits),
        Val::F64(bits) => GlobalValue::F64(*bits),
        Val::V128(value) => GlobalValue::V128(value.as_u128().to_le_bytes()),
        _ => return Err(error("a global that is state is a reference")),
    })
}

fn val_of(value: GlobalValue) -> Val {
    match value {
        GlobalValue::I32(value) => Val::I32(value.cast_signed()),
        GlobalValue::I64(value) => Val::I64(value.cast_signed()),
        GlobalValue::F32(bits) => Val::F32(bits),
        GlobalValue::F64(bits) => Val::F64(bits),
        GlobalValue::V128(bytes) => Val::V128(V128::from(u128::from_le_bytes(bytes))),
    }
}
