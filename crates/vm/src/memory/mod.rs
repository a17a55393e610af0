//! The memory of a process: the project's own mappings under the engine's linear memories.
//!
//! - [`slot`]: one mapping, address space with a size that grows;
//! - [`pages`]: the image's initial pages, mapped copy-on-write, so that processes share them;
//! - [`creator`]: how the engine gets slots, and how an instance takes over those of another;
//! - [`flag`]: the word by which any thread asks compiled code to freeze;
//! - [`budget`]: how much memory a process has and may have.
//!
//! This module is the only one, beside the loading of compiled code, that may use `unsafe`.
#![allow(unsafe_code)]

mod budget;
mod creator;
mod flag;
mod pages;
mod slot;

pub use budget::Budget;
pub(crate) use creator::{Creator, collect};
pub(crate) use flag::{Flag, FlagMaker};
pub(crate) use pages::Pages;
pub(crate) use slot::Slot;
