//! Anchors: this node holds clients' connections for processes, wherever those are.
//!
//! A listener is opened when its process is started, before it is known where it will run; until
//! then clients wait in the kernel's queue. It closes when the process is stopped or gone.
//! Connections that processes open are anchored where they are opened ([`dial`]).

pub mod connection;
pub mod dial;
mod owing;
pub mod reopen;

use crate::links::tally::Tally;
use crate::node_loop::LoopHandle;
use crate::switch::Switch;
use connection::Arrived;
use gateway::Admission;
use node::event::{Failure, Reply};
use owing::Owing;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stream::Sought;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use wire::api::{ListenSpec, ListenerInfo, ReopenRequest};
use wire::directory::{Claim, Record};
use wire::{Epoch, NodeId, ProcessId};

/// Client connections that are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// By each listener.
    pub per_listener: usize,
    /// By all together. No listener gets more of it than it leaves.
    pub in_all: usize,
}

impl Default for Most {
    /// Each is an open file: half of those that the system allows.
    fn default() -> Most {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let files = files.current.map_or(usize::MAX, |files| {
            usize::try_from(files).unwrap_or(usize::MAX)
        });
        Most {
            per_listener: 8192,
            in_all: files / 2,
        }
    }
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address makes no sense.
    #[error("`{0}` is not an address to listen on; give ADDR:PORT, as 127.0.0.1:8080")]
    Address(String),
    /// Too many have listeners here.
    #[error("this node accepts clients for {0} processes already, its limit; ask another node")]
    TooMany(usize),
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
    most: Most,
    /// Connections of all listeners.
    connections: AtomicUsize,
    /// Processes that are served here at most: of more the node would not hear when they end.
    most_services: usize,
    started: Instant,
    services: Mutex<HashMap<ProcessId, Service>>,
    owing: Arc<Owing>,
    dialler: dial::Dialler,
    runtime: Handle,
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
    /// Where the listeners are, or were.
    addresses: Vec<String>,
}

impl Service {
    /// Connections to come go to `owner`, if that is news.
    fn follow(&self, owner: NodeId, epoch: Epoch) {
        self.place.send_if_modified(|place| {
            let Where::At(_, known, missed) = *place else {
                return false;
            };
            if known < epoch {
                *place = Where::At(owner, epoch, missed);
            }
            known < epoch
        });
    }

    /// The listeners close, the connections end.
    fn close(&self) {
        self.listeners.iter().for_each(AbortHandle::abort);
        self.place.send_replace(Where::Gone);
    }
}

/// Listeners that are open and whose clients wait. Dropped without [`Opened::assign`], they close.
pub struct Opened {
    anchors: Arc<Anchors>,
    process: ProcessId,
    listeners: Vec<TcpListener>,
}

impl Anchors {
    /// None yet. Must be called within a tokio runtime.
    pub fn new(switch: Arc<Switch>, node: Option<LoopHandle>, most: Most) -> Arc<Anchors> {
        Arc::new(Anchors {
            switch,
            node,
            most,
            connections: AtomicUsize::new(0),
            most_services: node::Limits::default().watched,
            started: Instant::now(),
            services: Mutex::default(),
            owing: Arc::default(),
            dialler: dial::Dialler::default(),
            runtime: Handle::current(),
        })
    }

    /// Waits until no client is owed anything that has arrived here.
    pub async fn delivered(&self) {
        self.owing.none().await;
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
        let most = self.most_services;
        if !specs.is_empty() && self.services().len() >= most {
            return Err(OpenError::TooMany(most));
        }
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
            let listener = crate::listener::bind(address).await.map_err(failed)?;
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

    /// Whether clients of the process, which has come to this epoch, are let in here, or were until
    /// it was stopped.
    pub fn serves(&self, process: ProcessId, epoch: Epoch) -> bool {
        let services = self.services();
        let service = services.get(&process);
        service.is_some_and(|service| service.born <= epoch)
    }

    /// Its owner says that the process is to be served at these addresses. True if it is; whatever
    /// is said later of an epoch before this one is not meant.
    pub fn renew(&self, process: ProcessId, request: &ReopenRequest) -> Result<bool, String> {
        let (owner, epoch) = (request.owner, request.epoch);
        let mut services = self.services();
        let Some(service) = services.get_mut(&process) else {
            return Ok(false);
        };
        if service.born > epoch {
            return Err("a later life of the process is served here".to_owned());
        }
        let wanted = request.listeners.iter().map(|spec| &spec.address);
        if !service.addresses.iter().eq(wanted) {
            // Of an earlier life whose end was not heard of.
            if let Some(service) = services.remove(&process) {
                service.close();
            }
            return Ok(false);
        }
        service.born = epoch;
        service.follow(owner, epoch);
        self.watch(process, epoch);
        Ok(true)
    }

    /// From now on the end of a process is heard of here; if it has ended already, the node says so.
    /// To be called with the services locked, as whatever ends it.
    fn watch(&self, process: ProcessId, epoch: Epoch) {
        if let Some(node) = &self.node {
            node.event(node::Event::Watch { process, epoch });
        }
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
        let mut services = self.services();
        let meant = |service: &Service| service.born <= epoch;
        if services.get(&process).is_some_and(meant)
            && let Some(service) = services.remove(&process)
        {
            service.close();
            // Before anybody serves a later life of it and watches that.
            if let Some(node) = &self.node {
                node.event(node::Event::Unwatch(process));
            }
        }
    }

    /// Runs a task of a process's sockets, from a thread that may not be the runtime's.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Asks the directory who somebody is, or where; nothing if there is no such process.
    pub async fn look_for(&self, sought: &Sought) -> Result<Option<Record>, Failure> {
        let Some(node) = &self.node else {
            // There is no other process.
            return Ok(None);
        };
        let sought = sought.clone();
        let reply = node.command(move |token| match sought {
            Sought::Service(service) => {
                let name = service.name;
                node::Event::Find { token, name }
            }
            Sought::Process(process) => node::Event::Locate { token, process },
        });
        match reply.await {
            Ok(Reply::Found(record)) => Ok(record),
            Ok(Reply::Located(record)) => Ok(Some(record)),
            Err(Failure::UnknownProcess(_)) => Ok(None),
            Ok(reply) => Err(Failure::Store(format!("unexpected reply {reply:?}"))),
            Err(failure) => Err(failure),
        }
    }

    /// Whether a node is taken to be dead.
    pub fn is_dead(&self, node: NodeId) -> bool {
        self.switch.is_dead(node)
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
            service.follow(owner, epoch);
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
    /// The process is started under another id.
    pub fn rename(&mut self, process: ProcessId) {
        self.process = process;
    }

    /// The process runs at `owner`, under `epoch`: its clients are let in.
    pub fn assign(mut self, owner: NodeId, epoch: Epoch) {
        let anchors = self.anchors.clone();
        let (place, seen) = watch::channel(Where::At(owner, epoch, Epoch::default()));
        let addresses = self.listeners.iter().map(TcpListener::local_addr);
        let addresses = addresses.flatten().map(|a| a.to_string()).collect();
        let tasks = std::mem::take(&mut self.listeners).into_iter().zip(0..);
        let listeners = tasks.map(|(listener, index)| {
            let accept = accept(anchors.clone(), self.process, index, listener, seen.clone());
            tokio::spawn(accept).abort_handle()
        });
        let service = Service {
            born: epoch,
            place,
            listeners: listeners.collect(),
            addresses,
        };
        if service.listeners.is_empty() {
            return;
        }
        let mut services = anchors.services();
        let served = services.get(&self.process);
        if served.is_some_and(|served| served.born > epoch) {
            // It has ended, and come back, and is served already.
            return service.close();
        }
        if let Some(earlier) = services.insert(self.process, service) {
            earlier.close();
        }
        anchors.watch(self.process, epoch);
    }
}

async fn accept(
    anchors: Arc<Anchors>,
    process: ProcessId,
    listener: u16,
    tcp: TcpListener,
    place: watch::Receiver<Where>,
) {
    let turnstile = Arc::new(Turnstile {
        listener: Mutex::new(gateway::Listener::new(anchors.most.per_listener)),
        anchors: anchors.clone(),
    });
    let (failed, refused) = (Tally::new(), Tally::new());
    loop {
        let client = match tcp.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                // Too many open files, most likely; some will be closed.
                if let Some(others) = failed.due(Instant::now()) {
                    tracing::warn!(%process, %error, others, "cannot accept a client");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let admitted = match turnstile.arrived() {
            Admission::Accept => Admitted(turnstile.clone()),
            Admission::Refuse => {
                if let Some(others) = refused.due(Instant::now()) {
                    tracing::warn!(%process, others, "too many connections; one is refused");
                }
                continue;
            }
        };
        let arrived = Arrived {
            tcp: client,
            process,
            listener,
            place: place.clone(),
        };
        let anchors = anchors.clone();
        tokio::spawn(async move {
            if let Err(error) = connection::serve(anchors, arrived).await {
                tracing::debug!(%error, "a client's connection failed");
            }
            drop(admitted);
        });
    }
}

/// Counts the connections of a listener, and with them those of all.
struct Turnstile {
    listener: Mutex<gateway::Listener>,
    anchors: Arc<Anchors>,
}

impl Turnstile {
    fn listener(&self) -> MutexGuard<'_, gateway::Listener> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self) -> Admission {
        // Where two come at the same instant one too many may be let in, and that is all.
        let taken = self.anchors.connections.load(Ordering::Relaxed);
        let room = self.anchors.most.in_all.saturating_sub(taken);
        let admission = self.listener().arrived(room);
        if admission == Admission::Accept {
            self.anchors.connections.fetch_add(1, Ordering::Relaxed);
        }
        admission
    }
}

/// A connection that was let in. Dropped, it has left.
struct Admitted(Arc<Turnstile>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.listener().left();
        let connections = &self.0.anchors.connections;
        connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    const PROCESS: ProcessId = ProcessId(1);

    fn anchors() -> Arc<Anchors> {
        Anchors::new(
            Switch::new(crate::local::alone().unwrap()),
            None,
            Most::default(),
        )
    }

    fn specs(address: &str) -> Vec<ListenSpec> {
        vec![ListenSpec {
            address: address.to_owned(),
            name: "main".to_owned(),
        }]
    }

    /// Lets clients in; returns where.
    async fn assigned(anchors: &Arc<Anchors>, epoch: u64) -> String {
        let specs = specs("127.0.0.1:0");
        let (opened, listeners) = anchors.open(PROCESS, &specs).await.unwrap();
        opened.assign(anchors.switch.me(), Epoch(epoch));
        listeners[0].address.clone()
    }

    async fn closes(address: &str) {
        let closed = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        let closed = tokio::time::timeout(Duration::from_secs(30), closed).await;
        assert!(closed.is_ok(), "{address} stays open");
    }

    fn request(anchors: &Anchors, address: &str, epoch: u64) -> ReopenRequest {
        ReopenRequest {
            owner: anchors.switch.me(),
            epoch: Epoch(epoch),
            listeners: specs(address),
        }
    }

    #[tokio::test]
    async fn no_more_are_served_than_the_node_can_watch() {
        let mut anchors = Arc::into_inner(anchors()).unwrap();
        anchors.most_services = 1;
        let anchors = Arc::new(anchors);
        assigned(&anchors, 5).await;
        let refused = anchors.open(ProcessId(2), &specs("127.0.0.1:0")).await;
        assert!(matches!(refused, Err(OpenError::TooMany(1))));
        assert!(anchors.open(ProcessId(2), &[]).await.is_ok());
        anchors.gone(PROCESS, Epoch(5));
        let opened = anchors.open(ProcessId(2), &specs("127.0.0.1:0")).await;
        assert!(opened.is_ok());
    }

    #[tokio::test]
    async fn a_listener_closes_for_the_end_of_its_own_life_only() {
        let anchors = anchors();
        let address = assigned(&anchors, 5).await;
        // Late: of a process that had the id before.
        anchors.gone(PROCESS, Epoch(4));
        TcpStream::connect(&address).await.unwrap();
        anchors.gone(PROCESS, Epoch(7));
        closes(&address).await;
    }

    #[tokio::test]
    async fn of_two_lives_of_a_process_the_later_one_is_served() {
        let anchors = anchors();
        let first = assigned(&anchors, 5).await;
        // The end of the first was not heard of.
        let second = assigned(&anchors, 8).await;
        closes(&first).await;
        anchors.gone(PROCESS, Epoch(5));
        TcpStream::connect(&second).await.unwrap();
        assert!(anchors.serves(PROCESS, Epoch(9)) && !anchors.serves(PROCESS, Epoch(7)));
        // Late, the other way round.
        let late = assigned(&anchors, 6).await;
        closes(&late).await;
        TcpStream::connect(&second).await.unwrap();
    }

    #[tokio::test]
    async fn an_owner_that_asks_again_renews_what_is_open_and_closes_what_is_not_its_own() {
        let anchors = anchors();
        let address = assigned(&anchors, 5).await;
        let renew = |address: &str, epoch| {
            let request = request(&anchors, address, epoch);
            anchors.renew(PROCESS, &request)
        };
        assert!(renew(&address, 4).is_err());
        assert_eq!(renew(&address, 8), Ok(true));
        anchors.gone(PROCESS, Epoch(7));
        TcpStream::connect(&address).await.unwrap();
        assert_eq!(renew("127.0.0.1:1", 9), Ok(false));
        closes(&address).await;
        assert!(!anchors.serves(PROCESS, Epoch(9)));
    }
}
