//! Anchors: this node holds clients' connections for processes, wherever those are.
//!
//! A listener is opened when its process is started, before it is known where it will run; until
//! then clients wait in the kernel's queue. It closes when the process is stopped or gone.

pub mod connection;
pub mod reopen;

use crate::node_loop::LoopHandle;
use crate::switch::Switch;
use connection::Arrived;
use gateway::Admission;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use wire::api::{ListenSpec, ListenerInfo};
use wire::directory::{Claim, Record};
use wire::{Epoch, NodeId, ProcessId};

/// Client connections per listener, if nothing else is said.
pub const MAX_CONNECTIONS: usize = 8192;

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address makes no sense.
    #[error("`{0}` is not an address to listen on; give ADDR:PORT, as 127.0.0.1:8080")]
    Address(String),
    /// It cannot be listened on.
    #[error("cannot listen on {address}: {}", reason(source))]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        source: io::Error,
    },
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use; choose another, or 0 for any".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 are the system's".to_owned()
        }
        _ => error.to_string(),
    }
}

/// All anchors of this node.
pub struct Anchors {
    switch: Arc<Switch>,
    /// Who knows where processes are; none where there is one process, here.
    node: Option<LoopHandle>,
    most: usize,
    started: Instant,
    services: Mutex<HashMap<ProcessId, Service>>,
}

/// Where the process is, as far as this anchor knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// On this node, under this epoch. Owners up to the last epoch may have been missed: whoever
    /// still follows an earlier one looks for it.
    At(NodeId, Epoch, Epoch),
    /// It has ended or is lost.
    Gone,
}

/// What is anchored here for one process.
struct Service {
    /// The epoch of the process when its clients were let in.
    born: Epoch,
    place: watch::Sender<Where>,
    listeners: Vec<AbortHandle>,
}

/// Listeners that are open and whose clients wait. Dropped without [`Opened::assign`], they close.
pub struct Opened {
    anchors: Arc<Anchors>,
    process: ProcessId,
    listeners: Vec<TcpListener>,
}

impl Anchors {
    /// None yet; at most `most` connections per listener.
    pub fn new(switch: Arc<Switch>, node: Option<LoopHandle>, most: usize) -> Arc<Anchors> {
        Arc::new(Anchors {
            switch,
            node,
            most,
            started: Instant::now(),
            services: Mutex::default(),
        })
    }

    fn services(&self) -> MutexGuard<'_, HashMap<ProcessId, Service>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the listeners of a process that is about to start.
    pub async fn open(
        self: &Arc<Self>,
        process: ProcessId,
        specs: &[ListenSpec],
    ) -> Result<(Opened, Vec<ListenerInfo>), OpenError> {
        let mut opened = Opened {
            anchors: self.clone(),
            process,
            listeners: Vec::new(),
        };
        let (name, incarnation) = self.switch.introduction();
        let mut infos = Vec::new();
        for spec in specs {
            let wrong = || OpenError::Address(spec.address.chars().take(80).collect());
            let failed = |source| OpenError::Listen {
                address: spec.address.clone(),
                source,
            };
            let mut addresses = tokio::net::lookup_host(&*spec.address)
                .await
                .map_err(|_| wrong())?;
            let address: SocketAddr = addresses.next().ok_or_else(wrong)?;
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            infos.push(ListenerInfo {
                name: spec.name.clone(),
                anchor: self.switch.me(),
                anchor_name: name.to_owned(),
                anchor_incarnation: incarnation,
                open: true,
                address: listener.local_addr().map_err(failed)?.to_string(),
            });
            opened.listeners.push(listener);
        }
        Ok((opened, infos))
    }

    /// Whether clients of the process are let in here, or were until it was stopped.
    pub fn serves(&self, process: ProcessId) -> bool {
        self.services().contains_key(&process)
    }

    /// The process takes no more connections; those that are open go on.
    pub fn close_listeners(&self, process: ProcessId) {
        if let Some(service) = self.services().get_mut(&process) {
            service.listeners.drain(..).for_each(|task| task.abort());
        }
    }

    /// The process has ended or is lost: its listeners close, its connections end. What has come to
    /// be under its id after this epoch is not meant.
    pub fn gone(&self, process: ProcessId, epoch: Epoch) {
        let removed = {
            let mut services = self.services();
            let meant = |service: &Service| service.born <= epoch;
            services
                .get(&process)
                .is_some_and(meant)
                .then(|| services.remove(&process))
        };
        if let Some(service) = removed.flatten() {
            service.listeners.iter().for_each(AbortHandle::abort);
            service.place.send_replace(Where::Gone);
            if let Some(node) = &self.node {
                node.event(node::Event::Unwatch(process));
            }
        }
    }

    /// Since the anchors were made, for the machines that decide.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn at(&self, at: Duration) -> Instant {
        self.started + at
    }

    /// The process was seen at `owner`, under `epoch`; connections to come go there.
    fn learn(&self, process: ProcessId, owner: NodeId, epoch: Epoch) {
        if let Some(service) = self.services().get(&process) {
            service.place.send_if_modified(|place| {
                let Where::At(_, known, missed) = *place else {
                    return false;
                };
                if known < epoch {
                    *place = Where::At(owner, epoch, missed);
                }
                known < epoch
            });
        }
    }

    /// What the directory says of a process after it was out of reach.
    pub fn whereabouts(&self, record: &Record) {
        if let Some(service) = self.services().get(&record.process) {
            let Claim { owner, epoch, .. } = record.claim;
            service.place.send_if_modified(|place| {
                let behind = matches!(place, Where::At(_, known, _) if *known <= epoch);
                if behind {
                    *place = Where::At(owner, epoch, epoch);
                }
                behind
            });
        }
    }
}

impl Opened {
    /// The process runs at `owner`, under `epoch`: its clients are let in.
    pub fn assign(mut self, owner: NodeId, epoch: Epoch) {
        let anchors = self.anchors.clone();
        let (place, seen) = watch::channel(Where::At(owner, epoch, Epoch::default()));
        let tasks = std::mem::take(&mut self.listeners).into_iter().zip(0..);
        let listeners = tasks.map(|(listener, index)| {
            let accept = accept(anchors.clone(), self.process, index, listener, seen.clone());
            tokio::spawn(accept).abort_handle()
        });
        let service = Service {
            born: epoch,
            place,
            listeners: listeners.collect(),
        };
        if service.listeners.is_empty() {
            return;
        }
        anchors.services().insert(self.process, service);
        if let Some(node) = &anchors.node {
            // From now on its end is heard of here; if it has ended already, this says so.
            let process = self.process;
            node.event(node::Event::Watch { process, epoch });
        }
    }
}

async fn accept(
    anchors: Arc<Anchors>,
    process: ProcessId,
    listener: u16,
    tcp: TcpListener,
    place: watch::Receiver<Where>,
) {
    let turnstile = Arc::new(Mutex::new(gateway::Listener::new(anchors.most)));
    let turn = |turnstile: &Mutex<gateway::Listener>| {
        turnstile
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .arrived()
    };
    loop {
        let client = match tcp.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                // Too many open files, most likely; some will be closed.
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        match turn(&turnstile) {
            Admission::Accept => {}
            Admission::Refuse => {
                tracing::warn!(%process, "too many connections; one is refused");
                continue;
            }
            Admission::Shut => return,
        }
        let arrived = Arrived {
            tcp: client,
            process,
            listener,
            place: place.clone(),
        };
        let (anchors, turnstile) = (anchors.clone(), turnstile.clone());
        tokio::spawn(async move {
            if let Err(error) = connection::serve(anchors, arrived).await {
                tracing::debug!(%error, "a client's connection failed");
            }
            turnstile
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .left();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_closes_for_the_end_of_its_own_life_only() {
        let switch = Switch::new(crate::local::alone().unwrap());
        let anchors = Anchors::new(switch.clone(), None, 10);
        let process = ProcessId(1);
        let specs = [ListenSpec {
            address: "127.0.0.1:0".to_owned(),
            name: "main".to_owned(),
        }];
        let (opened, listeners) = anchors.open(process, &specs).await.unwrap();
        opened.assign(switch.me(), Epoch(5));
        let address = &listeners[0].address;
        // Late: of a process that had the id before.
        anchors.gone(process, Epoch(4));
        tokio::net::TcpStream::connect(address).await.unwrap();
        anchors.gone(process, Epoch(7));
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
