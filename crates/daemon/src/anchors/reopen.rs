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
use overlay::membership::Health;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use wire::api::{ListenSpec, ListenerInfo, ReopenRequest};
use wire::{NodeId, ProcessId};

/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

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
    pub fn is_open(&self, process: ProcessId, listener: &ListenerInfo) -> bool {
        if listener.anchor == self.me() {
            let this_life = listener.anchor_incarnation == self.dialler.incarnation;
            return this_life || self.anchors.serves(process);
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
        let mut all_open = true;
        let here = core.processes.all();
        let here: Vec<_> = here.into_iter().filter(|m| !m.has_ended()).collect();
        {
            let listed = |process| here.iter().any(|managed| managed.id == process);
            let mut known = core.reopened.known();
            known.retain(|(process, _), _| listed(*process));
        }
        for managed in &here {
            all_open &= reopen(&core, managed).await;
        }
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

/// Has the listeners of one process opened again, if they are not. All of them are at one node, the
/// one that was asked to start it. False if they are still closed and it is worth trying again.
async fn reopen(core: &Arc<Core>, managed: &Managed) -> bool {
    let closed = |listener: &&ListenerInfo| !core.is_open(managed.id, listener);
    let Some(anchor) = managed.listeners.iter().find(closed).map(|l| l.anchor) else {
        return true;
    };
    let current = {
        let fleet = core.fleet.borrow();
        // When it is heard of again, the fleet has changed.
        if fleet.health(anchor) != Health::Alive {
            return true;
        }
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
        false => reopen_at(core, anchor, managed.id, &request).await,
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
        if self.anchors.serves(process) {
            return Ok(());
        }
        let opened = self.anchors.open(process, &request.listeners).await;
        let (opened, _) = opened.map_err(|error| error.to_string())?;
        // If it is not so (any more), the directory says so to whoever watches.
        opened.assign(request.owner, request.epoch);
        Ok(())
    }
}
