//! Files: a private tree that travels with the process.
//!
//! - [`tree`]: inodes, their bytes and names, and what they may cost;
//! - [`path`]: from a path to an inode, never above the directory it starts from;
//! - [`names`]: making, removing and renaming;
//! - [`calls`]: the host calls over them, and [`long`]: those that may take long.

mod calls;
mod long;
mod names;
mod path;
mod tree;

pub(super) use calls::{How, Open};
pub(super) use long::{Allocate, ReadDirectory};
pub use tree::TreeError;
pub(crate) use tree::{MAX_FILE_BYTES, ROOT, Tree};
