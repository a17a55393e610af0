//! What a node is told once, at its start.

use std::time::Duration;
use wire::control::Member;
use wire::directory::Record;
use wire::{Epoch, NodeId};

/// Configuration of a node.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node, under the incarnation of this start.
    pub me: Member,
    /// The node that keeps the directory.
    pub directory: NodeId,
    /// At the directory's node: the records of the store.
    pub restored: Vec<Record>,
    /// There, too: the highest epoch of all records that the store has ever removed.
    pub floor: Epoch,
    /// The members known from an earlier life or from a ticket. One's own entry may be among them.
    pub members: Vec<Member>,
    /// Heartbeats and when to say what about health.
    pub membership: overlay::membership::Config,
    /// How long the steps of a move may take.
    pub moves: migrate::Config,
    /// How long a command waits for the directory.
    pub patience: Duration,
    /// Between two tries to ask the directory the same.
    pub retry: Duration,
    /// After a restart, a process that was granted to an earlier life and never run is left to its
    /// source for this long; then the record is removed.
    pub grant_grace: Duration,
    /// Bounds of what a node keeps.
    pub limits: Limits,
}

/// Bounds of what a node keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processes on this node.
    pub processes: usize,
    /// Moves in flight, in and out together.
    pub moves: usize,
    /// Questions to the directory in flight.
    pub questions: usize,
    /// Processes whose clients are anchored here.
    pub watched: usize,
    /// Records in the directory.
    pub records: usize,
    /// Operations that wait at the directory for a store of the same record. More are not heard;
    /// their askers ask again.
    pub queue: usize,
    /// Answers that the directory remembers per asker, for questions that are asked again.
    pub answers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            processes: 4096,
            moves: 64,
            questions: 4096,
            watched: 4096,
            records: 16384,
            queue: 4096,
            answers: 1024,
        }
    }
}

impl Config {
    /// The defaults, for this node in the fleet of that directory.
    pub fn new(me: Member, directory: NodeId) -> Self {
        Self {
            me,
            directory,
            restored: Vec::new(),
            floor: Epoch(0),
            members: Vec::new(),
            membership: overlay::membership::Config::default(),
            moves: migrate::Config::default(),
            patience: Duration::from_secs(5),
            retry: Duration::from_millis(500),
            grant_grace: Duration::from_secs(60),
            limits: Limits::default(),
        }
    }
}
