//! The flag memory: the words that compiled code polls and any thread may write.
//!
//! The engine takes it for a memory of one page. Compiled code touches nothing of it but the words
//! at its start, each at an offset that is written in the code; so the memories of many instances
//! lie in one mapping, a few words apart.
//!
//! Native code polls a shared memory with atomic loads. Pulley has no atomics: there the flag is
//! an ordinary memory of the instance's store.

use super::creator::{Source, collect};
use super::slab::{Piece, Slabs};
use freeze::interface::{FLAG_COUNTDOWN, FLAG_REQUEST, FLAG_SCRATCH};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use wasmtime::{Engine, Extern, Instance, LinearMemory, Module, Store};

/// Bytes of what the engine takes for a flag memory: `(memory 1 1)`.
const MEMORY_BYTES: usize = 64 << 10;
/// What lies between two of them: a line of the caches, so that processes do not slow each other.
const STRIDE_BYTES: usize = 64;
/// Flag memories in a mapping.
const SLAB_FLAGS: usize = 4096;

const _: () = {
    assert!((FLAG_REQUEST as usize) + 4 <= STRIDE_BYTES && FLAG_REQUEST.is_multiple_of(4));
    assert!((FLAG_COUNTDOWN as usize) + 4 <= STRIDE_BYTES && FLAG_COUNTDOWN.is_multiple_of(4));
    assert!((FLAG_SCRATCH as usize) + 4 <= STRIDE_BYTES);
};

/// `(module (memory (export "m") 1 1 shared))`, and the same without `shared`.
const SHARED_PAGE: &[u8] = b"\0asm\x01\0\0\0\x05\x04\x01\x03\x01\x01\x07\x05\x01\x01m\x02\0";
const PLAIN_PAGE: &[u8] = b"\0asm\x01\0\0\0\x05\x04\x01\x01\x01\x01\x07\x05\x01\x01m\x02\0";

/// Makes the flag memories of an engine.
pub(crate) struct Flags {
    page: Module,
    shared: bool,
    words: Arc<Slabs>,
}

/// A flag memory: its words, and what an instance imports it as.
pub(crate) struct FlagMemory {
    /// Its words.
    pub flag: Flag,
    /// The import; of a memory that is shared, for any store of the engine.
    pub import: Extern,
}

impl Flags {
    /// `shared`: they belong to no store.
    pub(crate) fn new(engine: &Engine, shared: bool) -> wasmtime::Result<Flags> {
        let page = if shared { SHARED_PAGE } else { PLAIN_PAGE };
        Ok(Flags {
            page: Module::new(engine, page)?,
            shared,
            words: Slabs::open(STRIDE_BYTES, SLAB_FLAGS, MEMORY_BYTES),
        })
    }

    /// Whether they belong to no store.
    pub(crate) fn shared(&self) -> bool {
        self.shared
    }

    /// A new flag memory, in `store` unless it is shared.
    pub(crate) fn make<T: 'static>(&self, store: &mut Store<T>) -> wasmtime::Result<FlagMemory> {
        match self.shared {
            true => self.instantiate(&mut Store::new(self.page.engine(), ())),
            false => self.instantiate(store),
        }
    }

    fn instantiate<T>(&self, store: &mut Store<T>) -> wasmtime::Result<FlagMemory> {
        let words = self.words.take(|_, _| Ok(()))?;
        let flag = Flag {
            words: Arc::new(words),
            _keeper: None,
        };
        flag.wipe();
        let source = vec![Source::Flag(flag.clone())];
        let (instance, _) = collect(source, || Instance::new(&mut *store, &self.page, &[]));
        let import = instance?.get_export(&mut *store, "m");
        let import = import.ok_or_else(|| wasmtime::Error::msg("there is no flag memory"))?;
        Ok(FlagMemory { flag, import })
    }
}

/// A handle on the flag of one instance; valid after the instance is gone, too.
#[derive(Clone)]
pub(crate) struct Flag {
    words: Arc<Piece>,
    /// Dropped with the last handle.
    _keeper: Option<Arc<dyn Any + Send + Sync>>,
}

impl Flag {
    /// The same flag; `keeper` is dropped with the last of this handle's clones.
    pub(crate) fn kept_by(&self, keeper: Arc<dyn Any + Send + Sync>) -> Flag {
        Flag {
            words: Arc::clone(&self.words),
            _keeper: Some(keeper),
        }
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        let word = self.words.base().wrapping_add(offset as usize);
        // SAFETY: the word lies within the piece, which this handle keeps, and is aligned, as is
        // asserted above of all offsets that are used (pieces begin at multiples of their stride).
        // Guest code reads it by an atomic load, or, in Pulley, by the interpreter's plain load of
        // an aligned word, which the hardware does not tear; that it may come late is part of what
        // a request is.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    /// Makes it as good as new: no instance and no other handle may use it any more.
    pub(crate) fn wipe(&self) {
        for offset in [FLAG_REQUEST, FLAG_COUNTDOWN] {
            self.word(offset).store(0, Ordering::SeqCst);
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

// SAFETY: the memory begins with the words of its piece, and never moves; the bytes that it has
// behind them are mapped (the slab has that many behind its last piece), and open. There is no
// address space reserved behind it, and other flags lie within it; but its only users are this
// module, through `Flag`, and the code that the pass emits, which touches the words of its own flag
// alone, at constant offsets: no index of a program's own refers to it. The engine itself neither
// reads nor writes a memory without data segments.
unsafe impl LinearMemory for Flag {
    fn byte_size(&self) -> usize {
        MEMORY_BYTES
    }

    fn byte_capacity(&self) -> usize {
        MEMORY_BYTES
    }

    fn grow_to(&mut self, _: usize) -> wasmtime::Result<()> {
        Err(wasmtime::Error::msg("a flag memory does not grow"))
    }

    fn as_ptr(&self) -> *mut u8 {
        self.words.base()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Creator, Pool};
    use super::*;
    use wasmtime::Config;

    /// Reads and writes the word that a request is made in.
    const PEEK: &str = r#"(module
        (import "m" "m" (memory 1 1 shared))
        (func (export "peek") (result i32) (i32.atomic.load (i32.const 0)))
        (func (export "poke") (param i32) (i32.store offset=8 (i32.const 0) (local.get 0))))"#;

    fn engine() -> Engine {
        let mut config = Config::new();
        config.with_host_memory(Arc::new(Creator::new(Pool::new())));
        config.memory_init_cow(false);
        config.wasm_threads(true).shared_memory(true);
        Engine::new(&config).unwrap()
    }

    #[test]
    fn every_instance_sees_its_own_flag_and_no_other_s() {
        let engine = engine();
        let flags = Flags::new(&engine, true).unwrap();
        let peek = Module::new(&engine, wat::parse_str(PEEK).unwrap()).unwrap();
        let mut store = Store::new(&engine, ());
        let mut made = Vec::new();
        for _ in 0..20 {
            let memory = flags.make(&mut store).unwrap();
            let instance = Instance::new(&mut store, &peek, &[memory.import]).unwrap();
            let read = instance.get_typed_func::<(), i32>(&mut store, "peek");
            let write = instance.get_typed_func::<i32, ()>(&mut store, "poke");
            made.push((memory.flag, read.unwrap(), write.unwrap()));
        }
        for raised in 0..made.len() {
            made[raised].0.raise();
            for (index, (_, read, write)) in made.iter().enumerate() {
                write.call(&mut store, -1).unwrap();
                let seen = read.call(&mut store, ()).unwrap();
                assert_eq!(seen, i32::from(index == raised));
            }
            made[raised].0.lower();
        }
    }

    #[test]
    fn a_used_flag_is_as_good_as_new_once_nobody_has_it() {
        let engine = engine();
        let flags = Flags::new(&engine, true).unwrap();
        let mut store = Store::new(&engine, ());
        let first = flags.make(&mut store).unwrap();
        first.flag.raise();
        first.flag.set_countdown(7);
        let (handle, words) = (first.flag.clone(), first.flag.words.base());
        drop(first);
        // A handle is left: nobody else gets it.
        let second = flags.make(&mut store).unwrap();
        assert_ne!(second.flag.words.base(), words);
        drop((handle, second));
        let bases = [(); 2].map(|()| {
            let again = flags.make(&mut store).unwrap();
            assert_eq!(again.flag.word(FLAG_REQUEST).load(Ordering::SeqCst), 0);
            assert_eq!(again.flag.countdown(), 0);
            let base = again.flag.words.base();
            std::mem::forget(again);
            base
        });
        assert!(bases.contains(&words));
    }
}
