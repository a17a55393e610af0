//! Volumes: directories of a node that a process uses where they are.
//!
//! A snapshot names them, with what the process calls them; it gives no right to any. The node that
//! thaws it grants them anew, or refuses.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A directory outside the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its absolute path on the node.
    pub source: String,
    /// Its absolute path in the process.
    pub destination: String,
    /// What becomes of it when the process moves.
    pub binding: Binding,
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.destination, self.source)
    }
}

/// What becomes of a volume when its process moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// It is to be had under the same path at the target, or the process cannot go there.
    Share,
    /// It is this node's alone: the process cannot move.
    Pin,
}
