//! The directory's record of a process and the operations on it.
//!
//! A record changes only by compare-and-set on its [`Claim`], so that of two nodes that decide at
//! once exactly one wins. See `overlay::directory` for the logic.

use crate::{Epoch, ImageId, NodeId, ProcessId};
use serde::{Deserialize, Serialize};

/// Who may run a process.
///
/// `attempt` counts decisions within an epoch. A new owner is *granted* (attempt 0) by the source's
/// proposal and *runs* only after its own compare-and-set to attempt 1; an abort by either side
/// also raises `attempt`. So a grant can be taken back exactly as long as nobody ran under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// The node that may run the process.
    pub owner: NodeId,
    /// The count of its owners.
    pub epoch: Epoch,
    /// The count of decisions within this epoch.
    pub attempt: u64,
}

impl Claim {
    /// The same owner in the same epoch; attempts may differ.
    pub fn same_reign(self, other: Claim) -> bool {
        self.owner == other.owner && self.epoch == other.epoch
    }
}

/// All that the directory knows of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The process.
    pub process: ProcessId,
    /// Its name, unique in the fleet.
    pub name: String,
    /// Its image.
    pub image: ImageId,
    /// Who may run it.
    pub claim: Claim,
}

/// A request to the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Adds a record. Refused where the id or the name is taken.
    Create(Record),
    /// The same for a process that there has been before, and whose record was removed: it comes
    /// back under an epoch above all that were ever removed, so that nothing of its earlier lives
    /// can be taken for it. The answer has that epoch.
    CreateAgain(Record),
    /// Reads one record.
    Get(ProcessId),
    /// Replaces the claim if it is still `expect`.
    CompareAndSet {
        /// The process.
        process: ProcessId,
        /// The claim as the asker last saw it.
        expect: Claim,
        /// The claim to set.
        new: Claim,
    },
    /// Removes the record if its claim still is `expect`.
    Remove {
        /// The process.
        process: ProcessId,
        /// The claim as the asker last saw it.
        expect: Claim,
    },
    /// Reads records in the order of their ids, one page of them: the first, or the one behind
    /// `after`.
    List {
        /// The last id of the page before.
        after: Option<ProcessId>,
    },
    /// Reads the record of the process of this name.
    Find(String),
}

/// The directory's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The operation was carried out; the record as it is now (or was, for `Remove`).
    Done(Record),
    /// The claim was another one; the record as it is now.
    Conflict(Record),
    /// The id or the name is taken by this record.
    Taken(Record),
    /// There is no such process.
    Unknown,
    /// A page of the records.
    Records {
        /// In the order of their ids.
        records: Vec<Record>,
        /// Whether there are more behind the last of them.
        more: bool,
    },
    /// It was not done and will not be: the store failed, or the operation is not allowed. For
    /// people.
    Failed(String),
}
