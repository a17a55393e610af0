//! One instance of a program: a store, its memories, and the stack that is frozen in it.
//!
//! A program is born in an instance of the run module. Once frozen it goes on in an instance of
//! the thaw module: a new one that a snapshot is read into, or one that takes over the very
//! memories of the instance it was frozen in.

use crate::account::Meter;
use crate::code::Exports;
use crate::image::Image;
use crate::kernel::{Context, Kernel, Killed};
use crate::memory::{Budget, Flag, Pages, Room, Slot, Source, Window};
use crate::ports::Ports;
use crate::state::{State, StateHandles};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use wasmtime::{
    Extern, Func, Global, Instance, Memory, ModuleExport, Ref, ResourceLimiter, Store,
    UpdateDeadline, Val,
};
use wire::snapshot::Reference;

pub(crate) const WASM_PAGE_BYTES: u64 = 65536;
/// Entries that tables may grow to: an operator on a whole table is one instruction, and cannot be
/// frozen within.
pub(crate) const MAX_TABLE_ENTRIES: usize = 1 << 20;

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
    state: StateHandles,
    frames: Memory,
    sp: Global,
    frozen: Global,
    pub flag: Flag,
    slots: Vec<Arc<Slot>>,
}

pub(crate) fn error(message: impl Into<String>) -> wasmtime::Error {
    wasmtime::Error::msg(message.into())
}

/// The state that an instance of the run module is made with, which is what a birth has.
/// And the room that the engine wants for each of the program's memories.
pub(crate) fn initial_state(image: &Image) -> wasmtime::Result<(State, Vec<Room>)> {
    let budget = Arc::new(Budget::new(u64::MAX));
    let meter = Meter::new(0, 0, budget);
    let state = wire::snapshot::Kernel::default();
    let kernel = Kernel::load(state, Ports::nothing(), Arc::default(), meter)?;
    let mut machine = Machine::new(image, Part::Run, kernel, Vec::new())?;
    let memories = machine.memories.iter();
    let rooms = memories.map(|memory| Ok(machine.slot_of(memory)?.room()));
    let rooms = rooms.collect::<wasmtime::Result<_>>()?;
    Ok((machine.save_state()?, rooms))
}

/// Whether a future has asked to be polled again.
#[derive(Default)]
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a future that has nothing to wait for; the engine's collector may let others go first.
pub(crate) fn at_once<T>(future: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    let again = Arc::new(Again::default());
    let waker = Waker::from(Arc::clone(&again));
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending if again.0.swap(false, Ordering::Relaxed) => {}
            Poll::Pending => return Err(error("something waits that must not")),
        }
    }
}

impl Machine {
    /// A new instance. `sources` are what its memories are: those of the program, then the frames.
    pub(crate) fn new(
        image: &Image,
        part: Part,
        kernel: Kernel,
        sources: Vec<Source>,
    ) -> wasmtime::Result<Machine> {
        let (side, code) = image
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
        if !image.is_mobile() {
            store.set_epoch_deadline(1);
            store.epoch_deadline_callback(|context| match context.data().kernel.control.killed() {
                true => Err(Killed.into()),
                false => Ok(UpdateDeadline::Continue(1)),
            });
        }
        let (instance, flag, slots) = code.instantiate(side, &mut store, sources)?;
        let exports = &code.exports;
        let mut find = Finder {
            instance: &instance,
            store: &mut store,
        };
        let memories = exports.memories.iter().map(|export| find.memory(export));
        let memories = memories.collect::<wasmtime::Result<_>>()?;
        let globals = exports.globals.iter().map(|export| find.global(export));
        let globals = globals.collect::<wasmtime::Result<_>>()?;
        let guest = exports.guest.as_ref().map(|export| find.memory(export));
        let guest = guest.transpose().unwrap_or_default();
        let frames = find.memory(&exports.frames)?;
        let sp = find.global(&exports.sp)?;
        let frozen = find.global(&exports.frozen)?;
        let state = StateHandles::find(image, globals, &instance, &mut store)?;
        let context = store.data_mut();
        context.memory = guest;
        context.frozen = Some(frozen);
        let machine = Machine {
            memories,
            state,
            frames,
            sp,
            frozen,
            store,
            part,
            instance,
            flag,
            slots,
        };
        let meter = &machine.kernel().meter;
        for memory in &machine.memories {
            let slot = machine.slot_of(memory)?;
            meter.attach(slot);
            if !slot.charge_to(&meter.budget) {
                return Err(error("the program begins with more memory than its limit"));
            }
        }
        Ok(machine)
    }

    fn slot_of(&self, memory: &Memory) -> wasmtime::Result<&Arc<Slot>> {
        let base = memory.data_ptr(&self.store);
        let mut slots = self.slots.iter();
        let slot = slots.find(|slot| std::ptr::eq(slot.base(), base));
        slot.ok_or_else(|| error("a memory lies in no slot"))
    }

    /// Where the program's memories lie, in order.
    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        let (memories, _) = self
            .slots
            .split_at(self.memories.len().min(self.slots.len()));
        memories
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

    /// The memories as a snapshot tells them.
    pub(crate) fn capture(&self, image: &Image) -> wasmtime::Result<Vec<wire::snapshot::Memory>> {
        let memories = self.memories.iter().zip(image.pages());
        let capture = |(memory, pages): (&Memory, &Arc<Pages>)| {
            Ok(pages.capture(self.slot_of(memory)?, memory.data(&self.store)))
        };
        memories.map(capture).collect()
    }

    /// The memories of a snapshot whose pages are told otherwise.
    pub(crate) fn memories_of_image(&self) -> Vec<wire::snapshot::Memory> {
        let sizes = self.memories.iter().map(|memory| memory.size(&self.store));
        sizes.map(wire::snapshot::Memory::of_image).collect()
    }

    /// The memories as seen from outside.
    pub(crate) fn windows(&self, image: &Image) -> wasmtime::Result<Vec<Window>> {
        let memories = self.memories.iter().zip(image.pages());
        let windows = memories.map(|(memory, pages)| Ok(Window::on(self.slot_of(memory)?, pages)));
        windows.collect()
    }

    /// Bytes in the pages of the program's memories that were written.
    pub(crate) fn written_bytes(&self) -> Option<u64> {
        let slots = self.memories.iter().map(|memory| self.slot_of(memory).ok());
        slots.map(|slot| slot?.written_bytes()).sum()
    }

    /// Globals, tables and references in frames.
    pub(crate) fn save_state(&mut self) -> wasmtime::Result<State> {
        self.state.save(&mut self.store)
    }

    /// The references in frames.
    pub(crate) fn frame_references(&mut self) -> wasmtime::Result<Vec<Reference>> {
        self.state.frame_references(&mut self.store)
    }

    pub(crate) fn load_state(&mut self, state: &State) -> wasmtime::Result<()> {
        self.state.load(state, &mut self.store)
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

    /// An exported function.
    pub(crate) fn function(&mut self, export: &ModuleExport) -> wasmtime::Result<Func> {
        let found = self.instance.get_module_export(&mut self.store, export);
        let function = found.and_then(Extern::into_func);
        function.ok_or_else(|| error("an export of the module is not a function"))
    }

    /// The clone that rebuilds the outermost frame of the frozen stack.
    pub(crate) fn clone_of_outermost(&mut self, exports: &Exports) -> wasmtime::Result<Func> {
        let frames = self.frames()?;
        let trailer = frames.last_chunk::<8>();
        let &[a, b, c, d, ..] = trailer.ok_or_else(|| error("there is no frozen stack"))?;
        let function = u32::from_le_bytes([a, b, c, d]);
        let clones = exports.clones.as_ref();
        let clones =
            clones.and_then(|export| self.instance.get_module_export(&mut self.store, export));
        let clones = clones.and_then(Extern::into_table);
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

/// Finds what an instance exports.
struct Finder<'a> {
    instance: &'a Instance,
    store: &'a mut Store<Context>,
}

impl Finder<'_> {
    fn find(&mut self, export: &ModuleExport) -> Option<Extern> {
        self.instance.get_module_export(&mut *self.store, export)
    }

    fn memory(&mut self, export: &ModuleExport) -> wasmtime::Result<Memory> {
        let memory = self.find(export).and_then(Extern::into_memory);
        memory.ok_or_else(|| error("an export of the module is not a memory"))
    }

    fn global(&mut self, export: &ModuleExport) -> wasmtime::Result<Global> {
        let global = self.find(export).and_then(Extern::into_global);
        global.ok_or_else(|| error("an export of the module is not a global"))
    }
}
