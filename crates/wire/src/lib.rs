//! Ids, epochs, frames, snapshot format and API types: the only place where bytes become meaning.

pub mod api;
pub mod control;
pub mod directory;
pub mod frame;
mod id;
pub mod snapshot;

pub use id::{ArtefactId, Epoch, ImageId, MoveId, NodeId, ParseIdError, ProcessId, StreamId};
