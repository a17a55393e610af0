//! The flag memory: one page that compiled code polls and any thread may write.
//!
//! Native code polls a shared memory with atomic loads. Pulley has no atomics: there the flag is
//! an ordinary memory, in a slot that a handle keeps alive.

use super::{Slot, collect};
use freeze::interface::{FLAG_COUNTDOWN, FLAG_REQUEST};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use wasmtime::{Engine, Extern, Instance, MemoryType, Module, SharedMemory, Store};

/// `(module (memory (export "m") 1 1))`: only memories that a module defines come from slots.
const ONE_PAGE: &[u8] = b"\0asm\x01\0\0\0\x05\x04\x01\x01\x01\x01\x07\x05\x01\x01m\x02\0";

/// A new shared flag memory.
pub(crate) fn shared_flag(engine: &Engine) -> wasmtime::Result<SharedMemory> {
    SharedMemory::new(engine, MemoryType::shared(1, 1))
}

/// Makes flag memories that are not shared.
pub(crate) struct PlainFlags {
    page: Module,
}

impl PlainFlags {
    pub(crate) fn new(engine: &Engine) -> wasmtime::Result<PlainFlags> {
        let page = Module::new(engine, ONE_PAGE)?;
        Ok(PlainFlags { page })
    }

    /// A new flag memory for an instance in `store`, and what to import it as.
    pub(crate) fn make<T>(&self, store: &mut Store<T>) -> wasmtime::Result<(Flag, Extern)> {
        let (instance, slots) = collect(Vec::new(), || Instance::new(&mut *store, &self.page, &[]));
        let memory = instance?.get_memory(store, "m");
        match (memory, slots.into_iter().next()) {
            (Some(memory), Some(slot)) => Ok((Flag::Plain(slot), memory.into())),
            _ => Err(wasmtime::Error::msg("the flag memory has no slot")),
        }
    }
}

/// A handle on the flag memory of one instance; valid after the instance is gone, too.
#[derive(Clone)]
pub(crate) enum Flag {
    Shared {
        memory: SharedMemory,
        /// Dropped with the last handle.
        _keeper: Arc<dyn Any + Send + Sync>,
    },
    Plain(Arc<Slot>),
}

/// The word at an offset of a shared flag memory.
fn shared_word(memory: &SharedMemory, offset: u32) -> &AtomicU32 {
    let data = memory.data();
    word((data.as_ptr().cast_mut().cast(), data.len()), offset)
}

/// The word at an offset of a memory that lives as long as the reference is used.
fn word<'a>((base, size): (*mut u8, usize), offset: u32) -> &'a AtomicU32 {
    let offset = offset as usize;
    assert!(offset + 4 <= size, "the flag memory is a page");
    // SAFETY: within the memory, as just checked.
    let word = unsafe { base.add(offset) };
    // SAFETY: the word is aligned (its offset is a multiple of 4 in a page-aligned mapping)
    // and lives long enough, which the callers' types say. Guest code reads it by an atomic load,
    // or, in Pulley, by the interpreter's plain load of an aligned word, which the hardware does
    // not tear; that it may come late is part of what a request is.
    unsafe { AtomicU32::from_ptr(word.cast()) }
}

/// Makes a shared flag memory as good as new: no instance and no handle may use it any more.
pub(crate) fn wipe(memory: &SharedMemory) {
    for offset in [FLAG_REQUEST, FLAG_COUNTDOWN] {
        shared_word(memory, offset).store(0, Ordering::SeqCst);
    }
}

impl Flag {
    fn word(&self, offset: u32) -> &AtomicU32 {
        match self {
            Flag::Shared { memory, .. } => shared_word(memory, offset),
            Flag::Plain(slot) => word((slot.base(), slot.size()), offset),
        }
    }

    /// Asks the instance to freeze at its next poll.
    pub(crate) fn raise(&self) {
        self.word(FLAG_REQUEST).store(1, Ordering::SeqCst);
    }

    /// Takes the request back.
    pub(crate) fn lower(&self) {
        self.word(FLAG_REQUEST).store(0, Ordering::SeqCst);
    }

    /// Torture: freeze at the `polls`th poll from now; 0 is never.
    pub(crate) fn set_countdown(&self, polls: u32) {
        self.word(FLAG_COUNTDOWN).store(polls, Ordering::SeqCst);
    }

    /// Torture: what is left of the countdown.
    pub(crate) fn countdown(&self) -> u32 {
        self.word(FLAG_COUNTDOWN).load(Ordering::SeqCst)
    }
}
