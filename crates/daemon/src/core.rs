//! What all parts of a running node share.

use crate::anchors::Anchors;
use crate::anchors::reopen::Reopened;
use crate::fleet::{Fleet, FleetView};
use crate::links::{Dialler, keep};
use crate::loader::Loader;
use crate::memory::MemorySource;
use crate::moves::Arrivals;
use crate::moves::returning::Returning;
use crate::node_loop::{Input, LoopHandle, Opened};
use crate::processes::Processes;
use crate::processes::managed::Managed;
use crate::processes::volumes::Grants;
use crate::run::Progress;
use crate::state_dir::{self, StateDir};
use crate::switch::Switch;
use overlay::membership::Health;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wire::NodeId;
use wire::api::ProcessInfo;
use wire::link::{LinkKind, Secret};

/// How long a dead node may stay so before its clients are given up: as long as an anchor holds its
/// clients for a dead owner. After that there is nothing left to come back for.
pub fn giving_up() -> Duration {
    gateway::Config::default().dead_timeout
}

/// The parts of a running node.
pub struct Core {
    /// Opens links.
    pub dialler: Dialler,
    /// The fleet as seen now.
    pub fleet: Fleet,
    /// The directory on disk.
    pub state: StateDir,
    /// Loads programs.
    pub loader: Loader,
    /// Carries stream frames.
    pub switch: Arc<Switch>,
    /// What processes that have left had in their files.
    pub returning: Arc<Returning>,
    /// What runs here.
    pub processes: Arc<Processes>,
    /// What processes may be given of this machine.
    pub grants: Grants,
    /// Clients' connections.
    pub anchors: Arc<Anchors>,
    /// The loop that decides.
    pub node: LoopHandle,
    /// Moves towards this node, for what comes over bulk links.
    pub arrivals: Arrivals,
    /// What a ticket proves to know; at the directory's node.
    pub secret: Option<Secret>,
    /// Tells what memory there is.
    pub memory: MemorySource,
    /// Told of the steps of moves.
    pub progress: Option<Progress>,
    /// Asks for an end.
    pub stop: CancellationToken,
    /// Ends everything.
    pub shutdown: CancellationToken,
    /// The fleet changed and should be written down.
    pub fleet_changed: Notify,
    /// Listeners of processes that are here, opened again by nodes that were started again.
    pub reopened: Reopened,
    /// Held while the fleet is written down.
    pub writing: Mutex<()>,
}

impl Core {
    /// This node.
    pub fn me(&self) -> NodeId {
        self.dialler.identity.node()
    }

    /// The name of a node.
    pub fn node_name(&self, node: NodeId) -> String {
        self.fleet.borrow().name(node)
    }

    /// A process of this node, as listed.
    pub fn info(&self, managed: &Managed) -> ProcessInfo {
        let mut info = managed.info(self.me(), &self.node_name(self.me()));
        for listener in &mut info.listeners {
            listener.open = !managed.has_ended() && self.is_open(managed, listener);
        }
        for outgoing in &mut info.outgoing {
            outgoing.anchor_name = self.node_name(outgoing.anchor);
        }
        info
    }

    /// Keeps a control link to a member up; `up` says whether it is.
    pub fn keep_control(&self, peer: NodeId, up: watch::Receiver<bool>) {
        let (node, me) = (self.node.clone(), self.me());
        tokio::spawn(keep::keep(
            self.dialler.clone(),
            peer,
            LinkKind::Control,
            up,
            move |stream, hello| {
                node.tell(Input::Link(Box::new(Opened {
                    peer,
                    hello,
                    stream,
                    dialled_by: me,
                    place: None,
                })));
            },
        ));
    }

    /// A node is dead. If it still is after a while, the clients that it was the anchor of are
    /// given up; until then a broken network may have been all.
    pub fn give_up_later(&self, node: NodeId) {
        let (switch, mut fleet, stop) = (
            self.switch.clone(),
            self.fleet.clone(),
            self.shutdown.clone(),
        );
        let back = move |view: &FleetView| view.health(node) != Health::Dead;
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = fleet.wait_for(back) => {}
                () = tokio::time::sleep(giving_up()) => switch.node_gone(node),
            }
        });
    }

    /// The members have changed: keep them for the next start.
    pub fn keep_fleet(&self) {
        self.fleet_changed.notify_one();
    }

    /// Writes the fleet down whenever it has changed, one write at a time.
    pub async fn write_fleet(self: Arc<Core>) {
        loop {
            self.fleet_changed.notified().await;
            let core = self.clone();
            let written = tokio::task::spawn_blocking(move || core.write_fleet_now()).await;
            if let Ok(Err(error)) = written {
                tracing::error!(%error, "the list of members could not be kept");
            }
        }
    }

    /// Writes the fleet down.
    pub fn write_fleet_now(&self) -> Result<(), state_dir::StateError> {
        // What is written later is what was seen later.
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let fleet = {
            let view = self.fleet.borrow();
            state_dir::Fleet {
                directory: view.directory,
                members: view.members.values().cloned().collect(),
                ticket_secret: self.secret.map(|secret| hex(&secret.0)),
            }
        };
        self.state.keep_fleet(&fleet)
    }
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
