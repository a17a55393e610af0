//! A simulated machine: its node, its clock, its disk, and the model processes on it.

use crate::traffic::Anchor;
use node::{Change, Node};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use stream::Side;
use wire::control::{Member, Offer};
use wire::directory::Record;
use wire::snapshot::{Listener, Stream};
use wire::{Epoch, MoveId, NodeId, ProcessId, StreamId};

/// A clock that starts with its node and runs a little fast or slow.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Duration,
    rate: f64,
}

impl Clock {
    /// A clock that shows zero now.
    pub fn new(started: Duration, rate: f64) -> Self {
        Self { started, rate }
    }

    /// What it shows.
    pub fn read(&self, now: Duration) -> Duration {
        now.saturating_sub(self.started).mul_f64(self.rate)
    }

    /// When it will show this, or a little later.
    pub fn when(&self, shown: Duration) -> Duration {
        self.started + shown.div_f64(self.rate) + Duration::from_micros(1)
    }
}

/// What a model process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It works.
    Running,
    /// It stands still; its streams are sealed.
    Sealed,
    /// Its sealed state is being thawed.
    Thawing,
}

/// Pages that are not zero, by their number: what is in each is one number.
pub type Pages = BTreeMap<usize, u64>;

/// What a model process has in its memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Steps that it has done.
    pub work: u64,
    /// Pages that it keeps writing, by their number; the others are zero.
    pub pages: Pages,
    /// Its connections.
    pub connections: BTreeMap<StreamId, Echo>,
}

/// A connection as the process sees it: it answers every byte by another one.
#[derive(Clone, Debug, Default)]
pub struct Echo {
    /// Bytes read.
    pub read: u64,
    /// Answers that are not written yet.
    pub unwritten: Vec<u8>,
    /// The client sends no more.
    pub ended: bool,
}

/// All that another machine needs to go on with a process.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its memory; of the pages those that the other machine has not got before.
    pub memory: Memory,
    /// Its sockets.
    pub listeners: Vec<Listener>,
    /// Its sockets.
    pub streams: Vec<Stream>,
}

/// A model process: a server whose state is small, and whose sockets are the real ones.
#[derive(Debug)]
pub struct Instance {
    /// Under which epoch it runs here.
    pub epoch: Epoch,
    /// What it is doing.
    pub activity: Activity,
    /// The freeze that was asked for and has not happened yet.
    pub freezing: Option<MoveId>,
    /// Its state, as the process knows it.
    pub memory: Memory,
    /// Its state, as the kernel knows it.
    pub side: Side,
    /// While its memory is being sent in a move: pages written since the last round began.
    pub dirty: Option<(MoveId, BTreeSet<usize>)>,
    /// While it is sealed: what is sent to the target.
    pub sealed: Option<Snapshot>,
}

/// A process that may become one of this host's.
#[derive(Debug)]
pub struct Arrival {
    /// The source.
    pub from: usize,
    /// What was offered.
    pub offer: Offer,
    /// Whether the image must come first.
    pub lacks_image: bool,
    /// The node has asked for it to be prepared.
    pub preparing: bool,
    /// Pages that have come.
    pub landed: Pages,
    /// The thawed state.
    pub thawed: Option<(Memory, Side)>,
    /// Every anchor has answered.
    pub attached: bool,
}

/// A change on its way to the disk.
#[derive(Clone, Debug)]
pub struct Write {
    /// The node's number for it.
    pub ticket: u64,
    /// What.
    pub change: Change,
}

/// A simulated machine.
#[derive(Debug)]
pub struct Host {
    /// Its node's id.
    pub id: NodeId,
    /// Raised at every start: the node's incarnation.
    pub life: u64,
    /// `None` while it is down.
    pub node: Option<Node>,
    /// Its clock in this life.
    pub clock: Clock,
    /// For when the next timer is set, by its clock.
    pub armed: Option<Duration>,
    /// On disk: the members.
    pub members: Vec<Member>,
    /// On disk, at the directory's host: the records.
    pub store: BTreeMap<ProcessId, Record>,
    /// Not yet on disk.
    pub writes: Vec<Write>,
    /// Processes that run here, or are sealed.
    pub instances: BTreeMap<ProcessId, Instance>,
    /// Processes on their way here.
    pub arrivals: BTreeMap<MoveId, Arrival>,
    /// Clients that are connected here.
    pub anchors: BTreeMap<StreamId, Anchor>,
    /// The latest epoch known of processes that went elsewhere.
    pub left: BTreeMap<ProcessId, Epoch>,
}

impl Host {
    /// A machine that has never been started.
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            life: 0,
            node: None,
            clock: Clock::new(Duration::ZERO, 1.0),
            armed: None,
            members: Vec::new(),
            store: BTreeMap::new(),
            writes: Vec::new(),
            instances: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            anchors: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.node.is_some()
    }

    /// Whether it runs the process at this instant.
    pub fn runs(&self, process: ProcessId) -> bool {
        let instance = self.instances.get(&process);
        instance.is_some_and(|i| i.activity == Activity::Running)
    }

    /// Whether it holds the process's state, running or not.
    pub fn holds(&self, process: ProcessId) -> bool {
        let thawed = |a: &Arrival| a.offer.process == process && a.thawed.is_some();
        self.instances.contains_key(&process) || self.arrivals.values().any(thawed)
    }

    /// Whether a member is known here.
    pub fn knows(&self, node: NodeId) -> bool {
        self.members.iter().any(|m| m.node == node)
    }
}

/// Makes a change on a disk.
pub fn write(store: &mut BTreeMap<ProcessId, Record>, change: &Change) {
    match change {
        Change::Put(record) => {
            store.insert(record.process, record.clone());
        }
        Change::Delete(process) => {
            store.remove(process);
        }
    }
}
