//! Asks a process, from any thread, to freeze or to end.
//!
//! A request is a bit that host calls look at, the flag word that compiled code polls, and a wake
//! for a process that waits in a host call. A request made before the process runs counts too.

use crate::image::Image;
use crate::machine::Machine;
use crate::memory::{Flag, Slot, Window};
use futures_util::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;

const FREEZE: u32 = 1;
const KILL: u32 = 2;
/// Of a host call that waits; nothing else heeds it.
const FOLD: u32 = 4;

/// A handle on a process that may be used from any thread, and outlives it.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    /// Asks the process to freeze: its `run` ends with `Outcome::Frozen` soon, unless the program
    /// ends first. A request is used up by the next freeze. It has no effect on a process of an
    /// immobile image.
    pub fn freeze(&self) {
        if self.shared.interrupts.get().is_none() {
            self.shared.request(FREEZE);
        }
    }

    /// Asks the process to fold if it waits in a host call: its instance, stack and memory are given
    /// back, and what differs of them is kept. It goes on by itself when something comes that it
    /// waits for, and is frozen and killed as any other. A process that does not wait right now does
    /// not fold, nor does one in the middle of a long write, or with more than 16 MiB of memory and files.
    /// False if it is folded already, or its image cannot be thawed yet.
    pub fn fold(&self) -> bool {
        let image = self.shared.image.upgrade();
        let can = |image: &Image| image.is_mobile() && image.thaw_is_prepared();
        if self.is_folded() || !image.is_some_and(|image| can(&image)) {
            return false;
        }
        self.shared.requests.fetch_or(FOLD, Ordering::SeqCst);
        self.shared.waker.wake();
        true
    }

    /// Whether it is folded now.
    pub fn is_folded(&self) -> bool {
        self.shared.folded.load(Ordering::Acquire)
    }

    /// Its memories, in order, as seen from outside; none if it has no instance now.
    pub fn windows(&self) -> Vec<Window> {
        let Some(image) = self.shared.image.upgrade() else {
            return Vec::new();
        };
        let slots = self.shared.slots();
        let slots: Option<Vec<_>> = slots.iter().map(Weak::upgrade).collect();
        let slots = slots.unwrap_or_default();
        let pairs = slots.iter().zip(image.pages());
        pairs.map(|(slot, pages)| Window::on(slot, pages)).collect()
    }

    /// Ends the process: its `run` ends with `Outcome::Killed` soon, and so does every later one.
    pub fn kill(&self) {
        self.shared.request(KILL | FREEZE);
    }
}

/// What the process shares with its controls.
#[derive(Default)]
pub(crate) struct Shared {
    image: Weak<Image>,
    /// It has no instance now.
    folded: AtomicBool,
    requests: AtomicU32,
    /// The flag of the instance that runs now.
    flag: Mutex<Option<Flag>>,
    /// Where its memories lie.
    slots: Mutex<Vec<Weak<Slot>>>,
    waker: AtomicWaker,
    /// Of a process that cannot be frozen: the engine whose code is interrupted to end it.
    interrupts: OnceLock<wasmtime::Engine>,
    /// Torture: freeze at the host call that brings this to 0.
    host_calls: AtomicU64,
}

impl Shared {
    pub(crate) fn new(image: &Arc<Image>) -> Arc<Shared> {
        Arc::new(Shared {
            image: Arc::downgrade(image),
            ..Shared::default()
        })
    }

    pub(crate) fn control(self: &Arc<Self>) -> Control {
        Control {
            shared: Arc::clone(self),
        }
    }

    fn flag(&self) -> MutexGuard<'_, Option<Flag>> {
        self.flag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, bits: u32) {
        let flag = self.flag();
        self.requests.fetch_or(bits, Ordering::SeqCst);
        if let Some(flag) = flag.as_ref() {
            flag.raise();
        }
        drop(flag);
        if let Some(engine) = self.interrupts.get() {
            engine.increment_epoch();
        }
        self.waker.wake();
    }

    /// The process cannot be frozen, and is ended by interrupting the code of this engine.
    pub(crate) fn interrupt_instead(&self, engine: &wasmtime::Engine) {
        let _ = self.interrupts.set(engine.clone());
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Weak<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives flag and memories of a new instance; a request that is open reaches it.
    pub(crate) fn attach(&self, machine: &Machine) {
        let slots = machine.slots().iter().map(Arc::downgrade);
        *self.slots() = slots.collect();
        let flag = machine.flag.clone();
        let mut current = self.flag();
        if self.requests.load(Ordering::SeqCst) & FREEZE != 0 {
            flag.raise();
        }
        *current = Some(flag);
    }

    /// The process is gone: whoever still holds a control does not keep its flag.
    pub(crate) fn detach(&self) {
        let flag = self.flag().take();
        drop(flag);
        self.slots().clear();
    }

    /// The process is frozen: the request is used up. A kill stays.
    pub(crate) fn frozen(&self) {
        let flag = self.flag();
        if self.requests.load(Ordering::SeqCst) & KILL == 0 {
            self.requests.store(0, Ordering::SeqCst);
            if let Some(flag) = flag.as_ref() {
                flag.lower();
            }
        }
    }

    /// Whether a host call that waits should be given up for a while.
    pub(crate) fn wants_fold(&self) -> bool {
        self.requests.load(Ordering::Acquire) & FOLD != 0
    }

    /// Says whether it is folded from now on.
    pub(crate) fn set_folded(&self, folded: bool) {
        self.folded.store(folded, Ordering::Release);
    }

    /// It is folded; or it does something else than when that was asked for.
    pub(crate) fn forget_fold(&self) {
        if self.wants_fold() {
            self.requests.fetch_and(!FOLD, Ordering::SeqCst);
        }
    }

    /// Whether the next host call that may freeze should.
    pub(crate) fn wants_freeze(&self) -> bool {
        self.requests.load(Ordering::Acquire) & FREEZE != 0
    }

    pub(crate) fn killed(&self) -> bool {
        self.requests.load(Ordering::Acquire) & KILL != 0
    }

    /// Wakes `waker` at the next request.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Torture: freeze at the `calls`th host call from now that may; 0 is never.
    pub(crate) fn freeze_at_host_call(&self, calls: u64) {
        self.host_calls.store(calls, Ordering::Relaxed);
    }

    /// Torture: what is left of the countdown of host calls.
    pub(crate) fn host_calls_left(&self) -> u64 {
        self.host_calls.load(Ordering::Relaxed)
    }

    /// Counts a host call that may freeze.
    pub(crate) fn enter_host_call(&self) {
        let left = self.host_calls.load(Ordering::Relaxed);
        if left > 0 {
            self.host_calls.store(left - 1, Ordering::Relaxed);
            if left == 1 {
                self.request(FREEZE);
            }
        }
    }
}
