//! The process VM: start, run, freeze and thaw one process.
//!
//! ```text
//!   wasm --Engine::load--> Image --birth(Spec)--> Snapshot --Process::thaw--> Process
//!                                                    ^                          | run
//!                                                    +------- snapshot ------ Frozen
//! ```
//! Everything is a thaw: a program is started by thawing its birth snapshot, the state before its
//! first instruction; a checkpoint is restored, and a process that moved goes on, the same way.
//!
//! - [`Engine`] makes native code or Pulley bytecode of what the pass (`freeze`) emits, and keeps
//!   it in a cache; [`Image`] is a loaded program;
//! - [`Template`] is a snapshot from which many processes are started, as fast as from an image;
//! - [`Process`] is one process: its instance (`machine`), its memory (`memory`), its kernel
//!   (`kernel`: WASI preview 1); [`Control`] asks it to freeze or to end, from any thread;
//! - one that waits long can do without an instance: it is *folded* (`fold`), to what its memory
//!   differs in from the image (`delta`), and unfolds when it is called;
//! - [`ports`] is what it needs from outside: clocks, entropy, standard streams, sockets, and each
//!   [`Volume`] that it may use;
//! - [`torture`] freezes a program at random places and compares it with a plain run.
//!
//! The machine is executor-neutral: [`Process::run`] is a future that any executor can poll, and
//! what a process waits for wakes it through `std::task`.

pub mod ports;
pub mod torture;

mod account;
mod cache;
mod code;
mod control;
mod delta;
mod engine;
mod files;
mod fold;
mod image;
mod kernel;
mod machine;
mod memory;
mod process;
mod snapshot;
mod spec;
mod state;
mod template;
mod volumes;

pub use account::{Accounts, Meter, Running, Traffic};
pub use control::Control;
pub use engine::{Backend, Config, Engine, EngineError, Polls, code_settings};
pub use files::{FilesError, TreeBuilder, read_file};
pub use image::{Image, LoadError, pass_options};
pub use kernel::{KernelError, TreeError};
pub use memory::{Landing, LandingError, PageReader, Tracker, Untracked, Window};
pub use process::{Outcome, Process, SnapshotError, Trap};
pub use snapshot::ThawError;
pub use spec::Spec;
pub use template::Template;
pub use volumes::{MAX_VOLUMES, Volume, VolumeError};
