//! Everything that a node is told and everything that it asks of its world.
//!
//! What the world owes the node:
//!
//! - Links are authenticated, in order, and remade by themselves. Of one peer `LinkDown` is
//!   reported before the next `LinkUp`, and no message of an old link after it.
//! - [`Event::Stored`] with an error means that the change was not made and never will be; a
//!   world that cannot know ends its node instead.
//! - Between [`Event::Frozen`] and the effect that ends the freeze (`Unfreeze`, `Drop`,
//!   `TakeBack`, `Fence`) a process does not end: commands to stop or kill it wait.
//! - [`Effect::Gone`] may be said twice.

use migrate::Plan;
use migrate::rounds::Round;
use overlay::membership::Health;
use std::fmt;
use std::time::Duration;
use wire::control::{Control, Member, Offer};
use wire::directory::{Claim, Record};
use wire::snapshot::{Hints, Volume};
use wire::{ArtefactId, Epoch, ImageId, MoveId, NodeId, ProcessId};

pub use overlay::directory::Change;

/// Chosen by the world to tell replies apart.
pub type Token = u64;

/// What a node is told. `handle(now, event)` never blocks and never fails.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The control link to a member is up. The world makes and remakes links by itself.
    LinkUp(NodeId),
    /// It broke; messages in flight are lost.
    LinkDown(NodeId),
    /// A message came over the control link.
    Control {
        /// The authenticated sender.
        from: NodeId,
        /// What it says.
        message: Control,
    },
    /// Command, at the directory's node: forget a member that is dead and owns nothing.
    ForgetNode {
        /// For the reply.
        token: Token,
        /// Which.
        node: NodeId,
    },
    /// Command, at the directory's node: take in a stranger who showed a valid ticket (or a member
    /// with a new address or incarnation).
    Admit {
        /// For the reply.
        token: Token,
        /// Who.
        member: Member,
    },
    /// An [`Effect::Store`] is durable, or cannot be made so.
    Stored {
        /// Its number.
        ticket: u64,
        /// Why not.
        result: Result<(), String>,
    },

    /// Command: make a record for a new process that this node owns, then start it.
    Start {
        /// For the reply.
        token: Token,
        /// Its id, random.
        process: ProcessId,
        /// Its name, unique in the fleet.
        name: String,
        /// Its image.
        image: ImageId,
        /// There has been a process of this id before: its record is made above the epochs of that.
        again: bool,
    },
    /// Command: move a process that this node owns.
    Migrate {
        /// For the reply.
        token: Token,
        /// For the messages; random.
        id: MoveId,
        /// The process.
        process: ProcessId,
        /// The target.
        to: NodeId,
        /// The artefact that its snapshot will name.
        artefact: ArtefactId,
        /// Its linear memory, in bytes.
        memory_bytes: u64,
        /// The directories of this node that it uses.
        volumes: Vec<Volume>,
        /// How it is to be moved.
        plan: Plan,
    },
    /// Command: call off the move of a process that this node is the source of, if its target was
    /// not proposed yet. Without a reply: who asked for the move gets one.
    Cancel {
        /// The process.
        process: ProcessId,
        /// Why, for who asked for the move.
        reason: String,
    },
    /// Command: remove the record of a process that is lost: its node is dead, or runs without
    /// knowing it. (A process that is there is ended first, and reported with `Exited`.)
    Remove {
        /// For the reply.
        token: Token,
        /// The process.
        process: ProcessId,
    },
    /// Question: who owns a process? Asks the directory.
    Locate {
        /// For the reply.
        token: Token,
        /// The process.
        process: ProcessId,
    },
    /// Question: which process has this name, and who owns it? Asks the directory.
    Find {
        /// For the reply.
        token: Token,
        /// The name.
        name: String,
    },
    /// Question: all records. Asks the directory.
    List {
        /// For the reply.
        token: Token,
    },
    /// Clients of this process are anchored here (or a listener is). Whenever the directory's node
    /// has been out of reach, what may have been missed is made up for by [`Effect::Gone`] or
    /// [`Effect::Whereabouts`]. Until [`Event::Unwatch`].
    Watch {
        /// The process.
        process: ProcessId,
        /// The epoch under which it was seen last.
        epoch: Epoch,
    },
    /// No client of it is anchored here any more.
    Unwatch(ProcessId),
    /// A running process ended here, by itself or by command. Its record is removed.
    Exited(ProcessId),

    /// Source: a round of a process's memory was sent (answer to [`Effect::Precopy`]); or why what it
    /// writes meanwhile cannot be known.
    Precopied {
        /// The move.
        id: MoveId,
        /// How it went.
        result: Result<Round, String>,
    },
    /// Source: the process is frozen and its streams are sealed; or it could not be (it ended).
    Frozen {
        /// The move.
        id: MoveId,
        /// Bytes to be sent, at most; or why there are none.
        result: Result<u64, String>,
    },
    /// Source: all was sent (answer to [`Effect::SendSnapshot`]).
    Sent {
        /// The move.
        id: MoveId,
        /// Bytes.
        bytes: u64,
    },
    /// Target: memory of the process is coming. Said now and then.
    Landing {
        /// The move.
        id: MoveId,
    },
    /// Target: the answer to [`Effect::Consider`].
    Considered {
        /// The move.
        id: MoveId,
        /// Whether the image must be sent first, or why the process is not taken.
        result: Result<bool, String>,
    },
    /// Target: the artefact is compiled, run and thaw module both; or it cannot be.
    Prepared {
        /// The move.
        id: MoveId,
        /// What is here of the process's files, or why it cannot be.
        result: Result<Hints, String>,
    },
    /// Target: the snapshot arrived, is thawed, and every anchor has answered its standby; or not.
    Restored {
        /// The move.
        id: MoveId,
        /// Why not.
        result: Result<(), String>,
    },
    /// Either: image or snapshot could not be sent or received whole.
    BulkFailed {
        /// The move.
        id: MoveId,
        /// Why.
        reason: String,
    },
    /// Source: a process taken back runs again (answer to [`Effect::TakeBack`]), or could not.
    TakenBack {
        /// The process.
        process: ProcessId,
        /// Why not.
        result: Result<(), String>,
    },
}

/// What a node asks of its world, in order. Taken with `poll_effect()`.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send over the control link, if it is up; else lose it.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Control,
    },
    /// The list of members changed: keep it, open links to all of them.
    Members(Vec<Member>),
    /// A member was forgotten: it is a stranger. Drop its links and give its clients up.
    Forgotten(NodeId),
    /// A member is seen differently: tell people, logs and gateways.
    Health {
        /// Which.
        node: NodeId,
        /// How it is.
        health: Health,
    },
    /// Directory's node: make this durable, then answer [`Event::Stored`]. Changes of one record
    /// must stay in order.
    Store {
        /// Its number.
        ticket: u64,
        /// What.
        change: Change,
    },
    /// The answer to a command or question.
    Reply {
        /// Whose.
        token: Token,
        /// What.
        reply: Reply,
    },

    /// Start a new process from its birth snapshot, under this epoch.
    Run {
        /// The process.
        process: ProcessId,
        /// The epoch of its record.
        epoch: Epoch,
    },
    /// Target: would you take this process? Answer [`Event::Considered`].
    Consider {
        /// The move.
        id: MoveId,
        /// The source.
        from: NodeId,
        /// What is offered.
        offer: Offer,
    },
    /// Target: load and compile the image (waiting for its bytes, if it was asked for) and answer
    /// [`Event::Prepared`].
    Prepare {
        /// The move.
        id: MoveId,
    },
    /// Source: send the image over a bulk connection.
    SendImage {
        /// The move.
        id: MoveId,
        /// The target.
        to: NodeId,
        /// The image.
        image: ImageId,
    },
    /// Source: send the process's memory while it runs; from the second round on only what was written
    /// since the last one began. Answer [`Event::Precopied`].
    Precopy {
        /// The move.
        id: MoveId,
        /// The process.
        process: ProcessId,
        /// The target.
        to: NodeId,
        /// Which round: 0 is the first.
        round: u32,
    },
    /// Source: freeze the process, seal its streams, answer [`Event::Frozen`].
    Freeze {
        /// The move.
        id: MoveId,
        /// The process.
        process: ProcessId,
        /// What the target has of its files, which the snapshot can do without.
        kept: Hints,
    },
    /// Source: send the sealed snapshot, after what the target has not of its memory. The target thaws what arrives, attaches standby and
    /// answers [`Event::Restored`].
    SendSnapshot {
        /// The move.
        id: MoveId,
        /// The process.
        process: ProcessId,
        /// The target.
        to: NodeId,
    },
    /// Source: the move is off; unseal and let the process run on under its old epoch. A freeze
    /// that was asked for and has not happened yet is taken back too.
    Unfreeze {
        /// The process.
        process: ProcessId,
    },
    /// Target: run the thawed process under this epoch; its streams resume.
    Activate {
        /// The move.
        id: MoveId,
        /// The process.
        process: ProcessId,
        /// The new epoch.
        epoch: Epoch,
    },
    /// Target: forget what was prepared for this move.
    Discard {
        /// The move.
        id: MoveId,
    },
    /// Source: the process runs elsewhere; drop it and its sealed snapshot, and answer frames for
    /// it with `NotHere`.
    Drop {
        /// The process.
        process: ProcessId,
        /// Its new owner.
        owner: NodeId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Source: the target died before it ran the process: thaw the sealed snapshot here and run it
    /// under this epoch, resetting every stream whose anchor has gone past it. Answer
    /// [`Event::TakenBack`].
    TakeBack {
        /// The process.
        process: ProcessId,
        /// The new epoch.
        epoch: Epoch,
    },
    /// The record says that this node no longer owns the process (or that it never was); stop it
    /// at once and drop it.
    Fence {
        /// The process.
        process: ProcessId,
    },
    /// An earlier life of this node had this process, which went with it. Keep in mind that it did:
    /// its record is removed next. Said twice where the record was changed in between.
    Lost(Record),
    /// Whoever anchors listeners of this process here: it has ended, or its node and it are lost.
    /// One that has come to be under the same id since is not meant.
    Gone {
        /// The process.
        process: ProcessId,
        /// The life that has ended was seen under this epoch; none that begins later is meant.
        epoch: Epoch,
    },
    /// The record of a watched process, after the directory's node was out of reach. Whoever follows
    /// an owner of an earlier epoch has missed the next one, and looks for it.
    Whereabouts(Record),
    /// A step of a move, for progress displays and logs.
    Progress {
        /// The move.
        id: MoveId,
        /// The process.
        process: ProcessId,
        /// The state's name (`preparing`, `frozen`, …).
        phase: &'static str,
    },
}

/// Answers to commands and questions.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Start: the record exists and `Effect::Run` has been given.
    Started(Claim),
    /// Admit: all members, the new one included.
    Admitted(Vec<Member>),
    /// ForgetNode.
    Forgotten,
    /// Locate.
    Located(Record),
    /// Find: nothing, if no process has the name.
    Found(Option<Record>),
    /// List.
    Records(Vec<Record>),
    /// Remove: the record as it was.
    Removed(Record),
    /// Migrate: it runs at the target.
    Moved {
        /// Under this epoch.
        epoch: Epoch,
        /// Bytes sent while it was frozen.
        bytes: u64,
        /// Rounds in which memory was sent before.
        rounds: Vec<Round>,
        /// If they did not come to what was wanted: why.
        complaint: Option<String>,
        /// From the freeze request to the target's report.
        frozen: Duration,
        /// From the command to that report.
        total: Duration,
    },
    /// It was not done; the process is as it was (for a move: it runs on at the source, unless
    /// the reason says otherwise).
    Failed(Failure),
}

/// A node, as people know it: `two (4f2ac81b90d3)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its id.
    pub node: NodeId,
    /// Its name; none of one that is no member.
    pub name: Option<String>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.node.short();
        match &self.name {
            Some(name) => write!(f, "{name} ({id})"),
            None => f.write_str(&id),
        }
    }
}

/// Why a command failed, for people; every message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No record.
    #[error("no such process: {0}; see `limosa ps`")]
    UnknownProcess(ProcessId),
    /// Not a member.
    #[error("no such node: {0}; see `limosa nodes`")]
    UnknownNode(Named),
    /// The name is taken.
    #[error("the name `{name}` is taken by process {by}; choose another, or remove that one")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        by: ProcessId,
    },
    /// The name is that of another node.
    #[error(
        "the fleet has node {by} already{}; choose another name with --name",
        if *dead { ", which does not answer: `limosa forget` sets its name free" } else { "" }
    )]
    NodeNameTaken {
        /// Who has it.
        by: Named,
        /// That one is dead.
        dead: bool,
    },
    /// The fleet takes no more nodes.
    #[error(
        "the fleet has {0} nodes already, its limit; `limosa forget` one that is gone for good"
    )]
    FleetFull(usize),
    /// A node that lives is not forgotten.
    #[error(
        "node {0} is not dead; stop it with `limosa down` there, and wait until `limosa nodes` \
         shows it as dead"
    )]
    NodeAlive(Named),
    /// Nor is the one that keeps the directory.
    #[error("node {0} keeps the directory; the fleet cannot do without it")]
    NodeNeeded(Named),
    /// The directory has records of it.
    #[error(
        "node {node} had {count} processes when it went; remove them first with `limosa rm`, or \
         with the node by --force"
    )]
    NodeOwns {
        /// The node.
        node: Named,
        /// How many.
        count: usize,
    },
    /// The process is owned by another node.
    #[error("process {process} is not on this node but on {owner}")]
    NotOwner {
        /// The process.
        process: ProcessId,
        /// Its owner.
        owner: Named,
    },
    /// It is already being moved.
    #[error("process {0} is being moved already; wait for that move to end")]
    Busy(ProcessId),
    /// The directory does not answer.
    #[error("the directory's node does not answer; is it up? see `limosa nodes`")]
    DirectoryUnreachable,
    /// The target is not reachable.
    #[error("node {0} does not answer; the process runs on where it was")]
    TargetUnreachable(Named),
    /// The move came to nothing.
    #[error("the move was given up: {0}")]
    MoveFailed(String),
    /// Its record cannot be removed, since its node lives.
    #[error("process {process} is on node {owner}, which is alive; stop it there first")]
    OwnerAlive {
        /// The process.
        process: ProcessId,
        /// Its owner.
        owner: Named,
    },
    /// One of the node's limits is reached.
    #[error("this node has {count} {what} already, its limit; wait until some have ended")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        count: usize,
    },
    /// The directory's store failed, or it refused.
    #[error("the directory refused: {0}")]
    Store(String),
}
