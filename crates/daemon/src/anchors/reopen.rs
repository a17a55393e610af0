//! Listeners whose node was started again.
//!
//! A node keeps no list of the listeners that it holds for others: the node that runs a process has
//! it, and carries it along. When it sees that a listener's node is in another life than the one in
//! which the listener was opened, it asks that node to open it again, as often as it takes: the
//! node may still be away, the port may be taken meanwhile. Until then the listener is shown as
//! closed.

use crate::api::reopen_at;
use crate::core::Core;
use crate::processes::managed::Managed;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use overlay::membership::Health;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use wire::api::{ListenSpec, ListenerInfo, ReopenRequest};
use wire::{NodeId, ProcessId};

/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);
/// How long one node may take with all of its listeners before what is open at others is looked at
/// again.
const ROUND: Duration = Duration::from_secs(5);
/// Processes whose listeners one node is asked for at once.
const AT_ONCE: usize = 8;

/// Which listeners are open again.
#[derive(Debug, Default)]
pub struct Reopened {
    /// Per process and node, the start of the node in which they were opened again.
    known: Mutex<HashMap<(ProcessId, NodeId), u64>>,
    look: Notify,
}

impl Reopened {
    fn known(&self) -> MutexGuard<'_, HashMap<(ProcessId, NodeId), u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process has come here whose listeners may have been closed on its way.
    pub fn look(&self) {
        self.look.notify_one();
    }
}

impl Core {
    /// Whether a listener of a process that runs here lets clients in, as far as is known.
    pub fn is_open(&self, managed: &Managed, listener: &ListenerInfo) -> bool {
        let process = managed.id;
        if listener.anchor == self.me() {
            let this_life = listener.anchor_incarnation == self.dialler.incarnation;
            return this_life || self.anchors.serves(process, managed.epoch());
        }
        let current = {
            let fleet = self.fleet.borrow();
            let member = fleet.members.get(&listener.anchor);
            let alive = fleet.health(listener.anchor) != Health::Dead;
            member.filter(|_| alive).map(|member| member.incarnation)
        };
        let known = self.reopened.known();
        let reopened = known.get(&(process, listener.anchor)).copied();
        current.is_some_and(|current| {
            current == listener.anchor_incarnation || reopened == Some(current)
        })
    }
}

/// Has listeners opened again for as long as it is polled.
pub async fn keep_open(core: Arc<Core>) {
    let mut fleet = core.fleet.clone();
    loop {
        let here = core.processes.all();
        let here: Vec<_> = here.into_iter().filter(|m| !m.has_ended()).collect();
        {
            let listed = |process| here.iter().any(|managed| managed.id == process);
            let mut known = core.reopened.known();
            known.retain(|(process, _), _| listed(*process));
        }
        let mut closed: BTreeMap<NodeId, Vec<Arc<Managed>>> = BTreeMap::new();
        for managed in here {
            if let Some(anchor) = closed_at(&core, &managed) {
                closed.entry(anchor).or_default().push(managed);
            }
        }
        // A node that does not answer holds up nobody else's.
        let rounds = closed.into_iter();
        let rounds = rounds.map(|(anchor, all)| reopen_all(core.clone(), anchor, all));
        let all_open = join_all(rounds).await.into_iter().all(|open| open);
        let again = async {
            match all_open {
                true => std::future::pending().await,
                false => tokio::time::sleep(AGAIN).await,
            }
        };
        tokio::select! {
            changed = fleet.changed() => if changed.is_err() { return },
            () = core.reopened.look.notified() => {}
            () = again => {}
        }
    }
}

/// The node at which listeners of a process are closed and may be opened again. All of them are at
/// one node, the one that was asked to start it.
fn closed_at(core: &Core, managed: &Managed) -> Option<NodeId> {
    let closed = |listener: &&ListenerInfo| !core.is_open(managed, listener);
    let anchor = managed.listeners.iter().find(closed)?.anchor;
    // When another is heard of again, the fleet has changed.
    let alive = core.fleet.borrow().health(anchor) == Health::Alive;
    alive.then_some(anchor)
}

/// Has the listeners of these processes, all at one node, opened again. False if some are still
/// closed and it is worth trying again.
async fn reopen_all(core: Arc<Core>, anchor: NodeId, closed: Vec<Arc<Managed>>) -> bool {
    let each = closed.into_iter();
    let each = each.map(|managed| reopen(core.clone(), anchor, managed));
    let mut each = stream::iter(each).buffer_unordered(AT_ONCE);
    let all = async {
        let mut all_open = true;
        while let Some(open) = each.next().await {
            all_open &= open;
        }
        all_open
    };
    timeout(ROUND, all).await.unwrap_or(false)
}

/// Has the listeners of one process opened again. False if they are still closed.
async fn reopen(core: Arc<Core>, anchor: NodeId, managed: Arc<Managed>) -> bool {
    let current = {
        let fleet = core.fleet.borrow();
        fleet.members.get(&anchor).map(|member| member.incarnation)
    };
    let spec = |listener: &ListenerInfo| ListenSpec {
        address: listener.address.clone(),
        name: listener.name.clone(),
    };
    let request = ReopenRequest {
        owner: core.me(),
        epoch: managed.epoch(),
        listeners: managed.listeners.iter().map(spec).collect(),
    };
    let opened = match anchor == core.me() {
        true => core.reopen_here(managed.id, request).await,
        false => reopen_at(&core, anchor, managed.id, &request).await,
    };
    match (opened, current) {
        (Ok(()), Some(current)) => {
            tracing::info!(process = %managed.id, "its listeners are open again");
            let mut known = core.reopened.known();
            known.insert((managed.id, anchor), current);
            true
        }
        (Ok(()), None) => true,
        (Err(reason), _) => {
            tracing::debug!(process = %managed.id, reason, "its listeners stay closed");
            false
        }
    }
}

impl Core {
    /// Opens the listeners of a process here that were open in an earlier life of this node.
    pub async fn reopen_here(
        &self,
        process: ProcessId,
        request: ReopenRequest,
    ) -> Result<(), String> {
        if self.anchors.renew(process, &request)? {
            return Ok(());
        }
        let opened = self.anchors.open(process, &request.listeners).await;
        let (opened, _) = opened.map_err(|error| error.to_string())?;
        // If it is not so (any more), the directory says so to whoever watches.
        opened.assign(request.owner, request.epoch);
        Ok(())
    }
}
