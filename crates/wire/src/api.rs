//! JSON types of the HTTP API (`/v1/…`), spoken by the command line and by programs.

pub mod run_body;

use crate::destination::Rule;
use crate::snapshot::Volume;
use crate::{Epoch, ImageId, NodeId, ProcessId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What to run. `POST /v1/processes` takes it in front of the module: see [`run_body`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSpec {
    /// Unique name; made up from the program's if absent.
    pub name: Option<String>,
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment, `K=V` each.
    pub env: Vec<String>,
    /// Listeners to open on the node that is asked.
    pub listen: Vec<ListenSpec>,
    /// Files and directories to place in the private file tree.
    pub files: Vec<FileSpec>,
    /// Directories of the node that it uses where they are.
    pub volumes: Vec<Volume>,
    /// Where it may connect to; nowhere outside if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_net: Vec<Rule>,
    /// The node to run on, by name or id; the one that is asked if absent.
    pub on: Option<String>,
    /// Its share of the cores while it computes, 1 to 10000; 100 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// What it may have at most.
    #[serde(skip_serializing_if = "LimitSpec::is_unsaid")]
    pub limits: LimitSpec,
    /// Somebody stays with it: output waits for its reader (`logs?attached=1`), input comes through
    /// `input`. If absent, standard input is at its end.
    pub attach: Option<Terminals>,
}

/// Which of the standard streams of somebody who stays with a process are terminals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terminals {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// What `PUT …/input` answers, once the process wants more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputTaken {
    /// Bytes of input that it was given since it was born: where the next piece begins.
    pub received: u64,
}

/// What a process may have at most. What is not said is what a node allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSpec {
    /// Linear memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Its files and their names, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// Open descriptors, the standard ones and listeners included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<u32>,
}

impl LimitSpec {
    /// Whether nothing is said.
    pub fn is_unsaid(&self) -> bool {
        *self == LimitSpec::default()
    }
}

/// A listener to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenSpec {
    /// `ADDR:PORT`; port 0 lets the system choose.
    pub address: String,
    /// Its name in `LISTEN_FDNAMES`.
    pub name: String,
}

/// One file of the initial tree; the content follows in the request's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Absolute path inside the process.
    pub path: String,
    /// A directory has no content.
    pub directory: bool,
    /// A symbolic link has no content either, but this target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Bytes of content.
    pub length: u64,
}

/// A process, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its id.
    pub id: ProcessId,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: ImageId,
    /// The node that owns it.
    pub node: NodeId,
    /// That node's name.
    pub node_name: String,
    /// The epoch of its owner.
    pub epoch: Epoch,
    /// What it is doing.
    pub state: ProcessState,
    /// The exit code, once exited.
    pub exit_code: Option<i32>,
    /// Why it ended, where there is more to say than the code.
    pub reason: Option<String>,
    /// Seconds since it was started.
    pub age_seconds: u64,
    /// Linear memory, in bytes.
    pub memory_bytes: u64,
    /// Times it was frozen.
    pub freezes: u64,
    /// Times it was moved.
    pub moves: u64,
    /// Where its clients connect.
    pub listeners: Vec<ListenerInfo>,
    /// Open client connections.
    pub connections: u64,
    /// It has waited for long and keeps no more than it needs to go on.
    #[serde(default)]
    pub folded: bool,
    /// While it is being moved: how far that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<MoveProgress>,
    /// Directories of its node that it uses.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Where it may connect to.
    #[serde(default)]
    pub allow_net: Vec<Rule>,
    /// Connections that it has opened; of more than a hundred, the first.
    #[serde(default)]
    pub outgoing: Vec<OutgoingInfo>,
    /// What it has consumed. Absent where its node is of an older release, or gone.
    #[serde(default)]
    pub accounts: ProcessAccounts,
}

/// What a process has consumed. CPU time counts since it was born, the rest since it came to its
/// node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessAccounts {
    /// CPU time of the program and of its kernel calls, in nanoseconds.
    pub cpu_user_ns: u64,
    /// CPU time that the operating system took for it, in nanoseconds.
    pub cpu_kernel_ns: u64,
    /// Its share of the cores while it computes; 100 is the normal one.
    pub cpu_weight: u32,
    /// Times it waited for something.
    pub voluntary_switches: u64,
    /// Times that the operating system took the processor away from it.
    pub involuntary_switches: u64,
    /// Page faults without reading from a disk.
    pub minor_faults: u64,
    /// Page faults with.
    pub major_faults: u64,
    /// Bytes of its memory that are in the machine's; only told of a process that was asked for by
    /// itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// Of these, bytes that it shares with no other; told likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_bytes: Option<u64>,
    /// Bytes that its private files and their names take.
    pub file_bytes: u64,
    /// Standard input, output and error.
    pub stdio: DeviceAccounts,
    /// Its files.
    pub files: DeviceAccounts,
    /// Its connections.
    pub sockets: DeviceAccounts,
    /// Times that it read a clock.
    pub clock_reads: u64,
}

/// What went through a device of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAccounts {
    /// Reads that gave something, or the end.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes that took something.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// `GET /v1/nodes/{node}/accounts`: what a node consumes, and what it is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeAccounts {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Cores that it may use.
    pub cores: u64,
    /// Processes it runs.
    pub processes: u64,
    /// Threads that run processes.
    pub threads: u64,
    /// Of these, those that poll whatever is ready.
    pub workers: u64,
    /// Of these, those that one process holds, which computes.
    pub detached: u64,
    /// Processes that run at this moment.
    pub running: u64,
    /// Processes that could run and wait for a thread.
    pub waiting: u64,
    /// Runnable processes, on average over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Thread-level parallelism: how many processes run at once while any does, over the last
    /// minute or so.
    pub parallelism: f64,
    /// The cores that this advises.
    pub advised_cores: u64,
    /// Times that a process was run since the node came up.
    pub polls: u64,
    /// Of these, times that it kept its thread for itself.
    pub handovers: u64,
    /// Of these, times that it was frozen in place so that others have a turn.
    pub preemptive_freezes: u64,
    /// CPU time of the whole node outside of the operating system's kernel, in nanoseconds.
    pub cpu_user_ns: u64,
    /// CPU time of the whole node within it, in nanoseconds.
    pub cpu_kernel_ns: u64,
    /// Memory that the whole node has in the machine's, in bytes.
    pub resident_bytes: u64,
}

/// A connection that a process has opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutgoingInfo {
    /// Where to: the path that it opened.
    pub to: String,
    /// The node that holds the other side.
    pub anchor: NodeId,
    /// That node's name.
    pub anchor_name: String,
    /// How it is.
    pub state: OutgoingState,
}

/// How a connection is that a process has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutgoingState {
    /// It is being made.
    Connecting,
    /// Bytes flow.
    Open,
    /// It could not be made, or broke, and the process has not closed it yet.
    Broken,
}

/// A listener of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerInfo {
    /// Its name.
    pub name: String,
    /// The node that accepts for it.
    pub anchor: NodeId,
    /// That node's name.
    pub anchor_name: String,
    /// The start of that node in which it was opened.
    pub anchor_incarnation: u64,
    /// `ADDR:PORT` there.
    pub address: String,
    /// Whether clients are let in now, as far as is known: not while its node is away, nor until that
    /// node has opened it again after a start.
    pub open: bool,
}

/// Between nodes, `PUT /v1/anchors/{process}`: open the listeners of a process again, which were open
/// at this node in an earlier life of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReopenRequest {
    /// The node that runs the process.
    pub owner: NodeId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// The listeners, in their order.
    pub listeners: Vec<ListenSpec>,
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// Its image is being prepared.
    Starting,
    /// It runs.
    Running,
    /// It is being moved.
    Moving,
    /// It has ended.
    Exited,
    /// The node that owned it is gone.
    Lost,
}

/// A node, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where its links listen.
    pub address: String,
    /// Whether it answers.
    pub state: NodeState,
    /// Whether it keeps the directory.
    pub directory: bool,
    /// Whether it is the node that was asked.
    pub this: bool,
    /// Processes it owns.
    pub processes: u64,
    /// The release it runs.
    pub version: String,
}

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It does.
    Alive,
    /// It has not for a while.
    Suspect,
    /// It is taken to be gone.
    Dead,
}

/// `POST /v1/processes/{id}/migrate`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateRequest {
    /// The target, by name or id.
    pub to: String,
    /// In which order memory goes.
    #[serde(default)]
    pub strategy: Strategy,
    /// For how long the process may stand still, as far as that depends on its memory, in
    /// milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// The most bytes per second that may be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
}

impl MigrateRequest {
    /// To this node, with nothing said of how.
    pub fn new(to: impl Into<String>) -> MigrateRequest {
        MigrateRequest {
            to: to.into(),
            strategy: Strategy::default(),
            downtime_ms: None,
            bandwidth: None,
        }
    }
}

/// How far a move is, seen from its source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveProgress {
    /// The step: `offering`, `preparing`, `precopying`, `checking`, `freezing`, `sealed`, `proposing`,
    /// `granted`.
    pub phase: String,
    /// Rounds of memory that were begun.
    pub rounds: u32,
    /// Bytes of memory that this round, or what is sent at last, began with.
    pub bytes: u64,
    /// How many of them are still to be looked at.
    pub bytes_left: u64,
}

/// In which order the memory of a process goes to another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// All while the process stands still.
    Stop,
    /// While the process runs, then what it wrote meanwhile, and so on; the rest while it stands
    /// still.
    Precopy,
    /// As `Precopy` if there is more memory than could be sent within the downtime.
    #[default]
    Auto,
}

/// A round in which memory was sent while the process ran.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Bytes sent.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// Bytes of the pages that the process wrote meanwhile.
    pub dirty_bytes: u64,
}

/// How a move went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveReport {
    /// The process.
    pub process: ProcessId,
    /// The node it left.
    pub from: NodeId,
    /// The node it is on.
    pub to: NodeId,
    /// The epoch there.
    pub epoch: Epoch,
    /// Bytes sent in all.
    pub bytes: u64,
    /// The part of them that was sent while it was frozen.
    #[serde(default)]
    pub frozen_bytes: u64,
    /// Rounds in which memory was sent while it ran; none if it was stopped for all of it.
    #[serde(default)]
    pub rounds: Vec<RoundReport>,
    /// If they did not come to what was wanted: why.
    #[serde(default)]
    pub complaint: Option<String>,
    /// From the freeze request to the report that it runs, in milliseconds.
    pub frozen_ms: f64,
    /// From the command to that report, in milliseconds.
    pub total_ms: f64,
}

/// `GET /v1/version`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The release.
    pub version: String,
    /// The node that answers.
    pub node: NodeId,
}

/// `GET /v1/ticket`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// What a new node needs to join; whoever has it can.
    pub ticket: String,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(not shown)")
    }
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// For programs: `unknown_process`, `unknown_node`, `bad_request`, `not_wasm`, `unsupported`,
    /// `conflict`, `id_taken`, `refused`, `unavailable`, `not_here` (between nodes), `internal`.
    pub code: String,
    /// What happened, where, and what to do.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_not_shown_by_debug() {
        let ticket = Ticket {
            ticket: "limosa-secret".to_owned(),
        };
        assert!(!format!("{ticket:?}").contains("secret"));
    }
}
