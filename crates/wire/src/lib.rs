//! Ids, epochs, frames, snapshot format and API types: the only place where bytes become meaning.

pub mod api;
pub mod checkpoint;
pub mod control;
pub mod destination;
pub mod directory;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod id;
pub mod link;
pub mod name;
pub mod pages;
pub mod snapshot;
pub mod ticket;

pub use id::{ArtefactId, Epoch, ImageId, MoveId, NodeId, ParseIdError, ProcessId, StreamId};
