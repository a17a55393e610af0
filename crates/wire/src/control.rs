//! Messages of the control link between two nodes: heartbeats, members, directory, moves.

use crate::directory::{Answer, Operation};
use crate::snapshot::{Hints, Volume};
use crate::{ArtefactId, Epoch, ImageId, MoveId, NodeId, ProcessId};
use serde::{Deserialize, Serialize};

/// A node as the others know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its key.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where its links listen: `host:port`.
    pub address: String,
    /// Raised at every start of the node; processes of earlier incarnations are lost.
    pub incarnation: u64,
}

/// A message between two nodes of one fleet, in order on one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// I live.
    Heartbeat,
    /// From the directory's node all members there are: who is not among them is none any more. From
    /// others the sender's own entry.
    Members(Vec<Member>),
    /// A request to the node that keeps the directory.
    Ask {
        /// Chosen by the asker; asking again with the same number is one request.
        request: u64,
        /// What is asked.
        operation: Operation,
    },
    /// Its answer.
    Answer {
        /// The number of the request.
        request: u64,
        /// The answer.
        answer: Answer,
    },
    /// One step of a move.
    Move {
        /// Which move.
        id: MoveId,
        /// Which step.
        step: Step,
    },
    /// A process has ended; listeners for it close.
    Gone {
        /// The process.
        process: ProcessId,
        /// Its last epoch. A process that is restored under its id has a later one.
        epoch: Epoch,
    },
}

/// Steps of a move. S is the source, T the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// S to T: will you take this process?
    Offer(Offer),
    /// T to S: yes; send me the image first, if asked for.
    Accept {
        /// Whether T lacks the image.
        need_image: bool,
    },
    /// T to S: the artefact is compiled; freeze when you like.
    Prepared {
        /// What T has of the process's files.
        kept: Hints,
    },
    /// T to S: the snapshot is thawed and standby at every anchor; decide.
    Ready,
    /// S to T: the directory has granted you the process.
    Commit {
        /// The new epoch.
        epoch: Epoch,
    },
    /// T to S: it runs here; forget your snapshot.
    Running,
    /// Either: the move is off, for this reason.
    Abort {
        /// For people.
        reason: String,
    },
}

/// What the target must know to say yes or no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The process.
    pub process: ProcessId,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: ImageId,
    /// The artefact its snapshot will name.
    pub artefact: ArtefactId,
    /// The epoch under which the source runs it.
    pub epoch: Epoch,
    /// The attempt of the source's claim.
    pub attempt: u64,
    /// Its linear memory, in bytes.
    pub memory_bytes: u64,
    /// The directories of its node that it uses: what the target must have too.
    pub volumes: Vec<Volume>,
}
