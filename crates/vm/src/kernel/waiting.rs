//! How a host call blocks, freezes or ends.
//!
//! ```text
//!            attempt: done or error                     -> returns
//!  enters -> attempt: nothing to do yet -> waits -> woken, attempt again
//!     |                                      |
//!     +-- asked to freeze or to end ---------+-> progress made: returns it (a short count)
//!                                                none: sets `limosa:frozen`, returns dummies
//! ```
//! A freeze that is asked for before the call begins wins over the call: at a thaw that is only
//! tried out, no call takes effect. A *fold* is a freeze of a call that has nothing to do, on its
//! own behalf.

use super::Kernel;
use super::abi::{Call, Errno};
use super::guest::Guest;
use super::link::{Context, Killed};
use crate::fold::MOST_BYTES;
use std::pin::Pin;
use std::task::Poll;
use wasmtime::{Caller, Val};

/// What an attempt came to.
pub(super) enum Step {
    /// The call has taken effect.
    Done,
    /// Nothing can be done before one of these.
    Block(Wait),
}

/// What a blocked call waits for, beside a request to freeze or end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wait {
    /// Standard streams.
    pub stdio: bool,
    /// Sockets.
    pub network: bool,
    /// An instant of the port's monotonic clock.
    pub deadline_ns: Option<u64>,
    /// Nothing: run again at the next turn of the executor.
    pub turn: bool,
}

impl Wait {
    pub(super) const STDIO: Wait = Wait {
        stdio: true,
        ..Wait::NOTHING
    };
    pub(super) const NETWORK: Wait = Wait {
        network: true,
        ..Wait::NOTHING
    };
    pub(super) const TURN: Wait = Wait {
        turn: true,
        ..Wait::NOTHING
    };
    pub(super) const NOTHING: Wait = Wait {
        stdio: false,
        network: false,
        deadline_ns: None,
        turn: false,
    };
}

/// A host call that may block.
pub(super) trait Blocking: Send + Unpin {
    /// Tries; has an effect only if it says `Done`, or makes progress that it remembers.
    fn attempt(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Call<Step>;

    /// Returns what progress there is, or nothing if there is none. Called instead of a freeze.
    fn finish(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Option<Call> {
        let _ = (kernel, guest);
        None
    }

    /// Whether there is progress, so that the call cannot be issued again as it was.
    fn progressed(&self) -> bool {
        false
    }

    /// Writes down what is kept of a call that freezes.
    fn freeze(&mut self, kernel: &mut Kernel) {
        let _ = kernel;
    }
}

/// The future of a host call that may block.
pub(super) struct Waiting<'a, C> {
    caller: Caller<'a, Context>,
    call: C,
    entered: bool,
    /// It has waited.
    waited: bool,
}

impl<'a, C: Blocking> Waiting<'a, C> {
    pub(super) fn new(caller: Caller<'a, Context>, call: C) -> Box<Self> {
        Box::new(Waiting {
            caller,
            call,
            entered: false,
            waited: false,
        })
    }

    /// One look at requests and one attempt; nothing if the call must wait.
    fn turn(&mut self) -> Result<Result<u32, Wait>, wasmtime::Error> {
        let memory = self.caller.data().memory;
        let (bytes, context) = match memory {
            Some(memory) => memory.data_and_store_mut(&mut self.caller),
            None => (&mut [][..], self.caller.data_mut()),
        };
        let mut guest = Guest::new(bytes);
        let kernel = &mut context.kernel;
        if !self.entered {
            self.entered = true;
            kernel.control.enter_host_call();
        }
        if kernel.control.killed() {
            return Err(Killed.into());
        }
        let result = if kernel.control.wants_freeze() {
            match self.call.finish(kernel, &mut guest) {
                Some(result) => result,
                None => {
                    self.call.freeze(kernel);
                    return self.dummies();
                }
            }
        } else {
            match self.call.attempt(kernel, &mut guest) {
                Ok(Step::Block(wait)) => return Ok(Err(wait)),
                Ok(Step::Done) => Ok(()),
                Err(error) => Err(error),
            }
        };
        kernel.completed();
        Ok(Ok(code(result)))
    }

    fn dummies(&mut self) -> Result<Result<u32, Wait>, wasmtime::Error> {
        if let Some(frozen) = self.caller.data().frozen {
            frozen.set(&mut self.caller, Val::I32(1))?;
        }
        Ok(Ok(0))
    }

    /// Whether to fold now. It was asked of a process that waited then, and has waited since.
    fn folds(&mut self) -> bool {
        let kernel = &self.caller.data().kernel;
        if !std::mem::replace(&mut self.waited, true) {
            kernel.control.forget_fold();
            return false;
        }
        let bytes = || kernel.meter.budget.used() + kernel.tree.used();
        let small = || bytes() <= MOST_BYTES;
        kernel.control.wants_fold() && !self.call.progressed() && small()
    }

    /// Freezes, with nothing to do and the wakers registered.
    fn fold(&mut self) -> Result<u32, wasmtime::Error> {
        let kernel = &mut self.caller.data_mut().kernel;
        self.call.freeze(kernel);
        kernel.folds = true;
        self.dummies().map(|_| 0)
    }

    fn register(&mut self, wait: Wait, waker: &std::task::Waker) {
        let kernel = &self.caller.data().kernel;
        kernel.control.register(waker);
        if wait.stdio {
            kernel.ports.stdio.register(waker);
        }
        if wait.network {
            kernel.ports.network.register(waker);
        }
        if let Some(deadline_ns) = wait.deadline_ns {
            kernel.ports.clock.wake_at(deadline_ns, waker);
        }
        if wait.turn {
            waker.wake_by_ref();
        }
    }
}

/// The number a result is told with.
pub(super) fn code(result: Call) -> u32 {
    match result {
        Ok(()) => 0,
        Err(Errno(code)) => u32::from(code),
    }
}

impl<C: Blocking> Future for Waiting<'_, C> {
    type Output = Result<u32, wasmtime::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let wait = match self.turn() {
            Ok(Ok(code)) => return Poll::Ready(Ok(code)),
            Ok(Err(wait)) => wait,
            Err(error) => return Poll::Ready(Err(error)),
        };
        self.register(wait, cx.waker());
        // Look again: what it waits for may have come before the waker was registered.
        if wait.turn {
            return Poll::Pending;
        }
        match self.turn() {
            Ok(Ok(code)) => Poll::Ready(Ok(code)),
            // Whatever comes from here on wakes the process.
            Ok(Err(_)) if self.folds() => Poll::Ready(self.fold()),
            Ok(Err(_)) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}
