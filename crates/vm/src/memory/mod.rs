//! The memory of a process: the project's own mappings under the engine's linear memories.
//!
//! - [`pages`]: what a memory begins with, mapped copy-on-write, so that processes share it;
//! - [`slot`]: where a memory lies while an instance uses it;
//! - [`pool`]: slots that were used, put as they began, for the next process; by way of
//!   [`shelves`], what is kept for its next use, and [`pagemap`], which pages were written;
//! - [`creator`]: how the engine gets slots, and how an instance takes over those of another;
//! - [`window`]: a memory seen from outside, [`reader`], which reads what is to be sent of it, and
//!   [`landing`], where it arrives: for moves; [`tracker`]: what is written meanwhile;
//! - [`stacks`]: the native stacks that programs run on;
//! - [`flag`]: the word by which any thread asks compiled code to freeze;
//! - [`slab`]: many stacks, or many flags, in one mapping; [`exhausted`]: what to say when the system
//!   gives no more;
//! - [`budget`]: how much memory a process has and may have;
//! - [`space`]: address space, which all of these are made of.
//!
//! This module is the only one, beside the loading of compiled code, that may use `unsafe`.
#![allow(unsafe_code)]

mod budget;
mod creator;
mod exhausted;
mod flag;
mod landing;
mod pagemap;
mod pages;
mod pool;
mod reader;
mod shelves;
mod slab;
mod slot;
mod space;
mod stacks;
#[cfg(test)]
mod tests;
mod tracker;
mod window;

pub use budget::Budget;
pub(crate) use creator::{Creator, ENGINE_HEAP_BYTES, Source, collect};
pub(crate) use flag::{Flag, FlagMemory, Flags};
pub use landing::{Landing, LandingError};
pub(crate) use pages::Pages;
pub(crate) use pool::Pool;
pub use reader::PageReader;
pub(crate) use shelves::Shelves;
pub(crate) use slot::Slot;
pub(crate) use space::Room;
pub(crate) use stacks::Stacks;
pub use tracker::{Tracker, Untracked};
pub use window::Window;
