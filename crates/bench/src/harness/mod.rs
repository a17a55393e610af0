//! What the benches of the machine share: guests run by a host that is as small as can be, the
//! same for a module in plain Wasmtime and for its freezable form.
//!
//! ```text
//!   Program (bytes, entry) --layout--> bytes --compile--> plain | run | thaw modules
//!   Instance::birth(plain or run) --call--> Done
//!                                    \----> Frozen --Stack--> Instance::thaw --call--> Done | Frozen
//! ```
//! The process VM is left out on purpose: what is compared is code against code.

mod clock;
mod compiled;
mod host;
mod instance;
mod layout;
mod machine;
mod native;
mod node;
mod programs;
mod request;
mod traffic;

pub(crate) use clock::CpuTime;
pub(crate) use compiled::{Compiled, Freezable, epoch_engine, freezable_engine, plain_engine};
pub(crate) use host::Observer;
pub(crate) use instance::{End, Instance, Outcome};
pub(crate) use layout::layout;
pub(crate) use machine::Machine;
pub(crate) use native::{HTTPD, Native, thread_seconds};
pub(crate) use node::Node;
pub(crate) use programs::{
    Program, Skipped, Work, only, programs, third_party_folder, third_party_module,
};
pub(crate) use request::Requester;
pub(crate) use traffic::Traffic;

use std::thread;

/// Why a bench cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A module cannot be rewritten for another code layout.
    #[error("{program}: cannot lay out its code anew: {reason}")]
    Layout {
        /// The program.
        program: String,
        /// Why.
        reason: String,
    },
    /// The pass refuses a module.
    #[error("{program}: the pass refuses it: {error}")]
    Pass {
        /// The program.
        program: String,
        /// Why.
        error: freeze::Error,
    },
    /// A module cannot be made into the form of a peer.
    #[error("{program}: {reason}")]
    Peer {
        /// The program.
        program: String,
        /// Why.
        reason: String,
    },
    /// Wasmtime refuses something, or the guest trapped.
    #[error("{doing}: {error:?}")]
    Engine {
        /// What was being done.
        doing: String,
        /// Why it failed.
        error: wasmtime::Error,
    },
    /// Frozen and plain runs differ: no figure of such a program means anything.
    #[error("{program}: {what} differs from the plain run: expected {expected}, got {got}")]
    Differs {
        /// The program.
        program: String,
        /// Which run.
        what: &'static str,
        /// What the plain run gave.
        expected: String,
        /// What this one gave.
        got: String,
    },
    /// It ended before it could be frozen, again and again.
    #[error(
        "{program}: it could not be frozen in time in {attempts} attempts; is the machine idle?"
    )]
    NeverFrozen {
        /// The program.
        program: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The operating system refuses something.
    #[error("{doing}: {error}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        error: std::io::Error,
    },
    /// The process VM refuses something.
    #[error("{program}: {doing}: {reason}")]
    Process {
        /// The program.
        program: &'static str,
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// A program was asked for that is not there.
    #[error("there is no program {name:?} to measure{why}; there are: {there}")]
    NoProgram {
        /// Its name.
        name: String,
        /// Why, if that is known.
        why: String,
        /// The names of those that can be measured.
        there: String,
    },
    /// A snapshot cannot be read back.
    #[error("the snapshot cannot be read back: {0}")]
    Snapshot(String),
}

/// For `map_err`: adds what was being done to an error of the engine.
pub(crate) fn engine_error(doing: impl Into<String>) -> impl FnOnce(wasmtime::Error) -> Error {
    let doing = doing.into();
    move |error| Error::Engine { doing, error }
}

/// Native stack that guest code may use.
pub(crate) const GUEST_STACK_BYTES: usize = 48 << 20;

/// Runs `body` on a thread with stack enough for [`GUEST_STACK_BYTES`] and the host's own needs.
pub(crate) fn with_stack<T: Send>(
    body: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("bench guest".into())
            .stack_size(GUEST_STACK_BYTES + (8 << 20))
            .spawn_scoped(scope, body)
            .map_err(|error| Error::System {
                doing: "cannot start a thread",
                error,
            })?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
