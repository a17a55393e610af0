//! Brings a node up, and down again.

use crate::anchors::reopen::keep_open;
use crate::anchors::{self, Anchors};
use crate::api::{self, Origin};
use crate::core::Core;
use crate::executor::{self, Executor};
use crate::fleet::FleetView;
use crate::links::accept::Accepted;
use crate::links::identity::Identity;
use crate::links::tied::Tied;
use crate::links::{Dialler, accept, join};
use crate::loader::Loader;
use crate::memory::{self, MemorySource};
use crate::moves::returning::{Returning, tend};
use crate::node_loop::{self, Input, LoopHandle, NodeLoop, Opened};
use crate::processes::Processes;
use crate::processes::idle::{FOLD_AFTER, fold_idle};
use crate::processes::managed::Status;
use crate::processes::volumes::Grants;
use crate::state_dir::{Fleet, StateDir, StateError};
use crate::store::directory::{DirectoryStore, StoreError};
use crate::store::images::Images;
use crate::store::kept::Kept;
use crate::switch::Switch;
use node::event::{Event, Reply};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use vm::{Backend, Engine, EngineError};
use wire::control::Member;
use wire::directory::Record;
use wire::link::{LinkKind, Secret};
use wire::name::{NameError, check_name};
use wire::ticket::Ticket;
use wire::{Epoch, NodeId, ProcessId};

/// Where a node's links listen if nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7420";
/// Processes on one node, if nothing else is said.
const DEFAULT_PROCESSES: usize = 1024;
/// Api links that wait to be served.
const API_LINKS: usize = 64;
/// How long processes may take to end when the node goes down.
const GOING_DOWN: Duration = Duration::from_secs(3);

/// The API's socket of the daemon with this state directory.
pub fn socket_path(state: &Path) -> PathBuf {
    state.join("limosa.sock")
}

/// How a node is to be.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where it keeps its state.
    pub state_dir: PathBuf,
    /// Its name, for people, unless it keeps the one that it had.
    pub name: String,
    /// It keeps the name of its last start, if there was one.
    pub keep_name: bool,
    /// Where its links listen, `ADDR:PORT`; port 0 takes any free one.
    pub listen: String,
    /// They listen where they did at its last start, if there was one.
    pub keep_listen: bool,
    /// The fleet to join; if absent, the one it was in, or a new one of its own.
    pub join: Option<Ticket>,
    /// What programs are compiled to.
    pub backend: Backend,
    /// Processes that may run on it.
    pub max_processes: usize,
    /// How long a process may wait before it is folded; for ever if absent.
    pub fold_after: Option<Duration>,
    /// Directories that processes may be given as volumes, with all that is beneath them.
    pub volumes: Vec<PathBuf>,
    /// Client connections that its listeners may hold; as the system's limits allow if absent.
    pub max_connections: Option<anchors::Most>,
    /// How it knows what memory there is.
    pub memory: MemorySource,
    /// Told of every step of every move, before the node goes on.
    pub progress: Option<Progress>,
}

/// Told of a step of a move: the process and the name of the state.
#[derive(Clone)]
pub struct Progress(pub Arc<dyn Fn(ProcessId, &'static str) + Send + Sync>);

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        NodeConfig {
            state_dir: PathBuf::from("limosa-state"),
            name: "node".to_owned(),
            keep_name: false,
            listen: DEFAULT_LISTEN.to_owned(),
            keep_listen: false,
            join: None,
            backend: Backend::default(),
            max_processes: DEFAULT_PROCESSES,
            fold_after: Some(FOLD_AFTER),
            volumes: Vec::new(),
            max_connections: None,
            memory: MemorySource::default(),
            progress: None,
        }
    }
}

/// A node that answers.
#[derive(Clone)]
pub struct Ready {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where its links listen.
    pub address: String,
    /// Where they did at its last start, if it wanted to listen there and somebody else does.
    pub taken_address: Option<String>,
    /// Lets others join the fleet. Empty if the directory's node does not give one now.
    pub ticket: String,
    /// Why not.
    pub no_ticket: Option<String>,
    /// The API's socket.
    pub socket: PathBuf,
}

impl std::fmt::Debug for Ready {
    /// Without the ticket: whoever has it can join.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready")
            .field("node", &self.node)
            .field("name", &self.name)
            .field("address", &self.address)
            .field("taken_address", &self.taken_address)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// Why a node could not be brought up, or went down.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The directory's store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address or path.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The fleet could not be joined.
    #[error("cannot join: {0}")]
    Join(#[from] join::JoinError),
    /// Another node of its fleet has its name.
    #[error(
        "the fleet has a node `{name}` already ({}); choose another --name, or forget that node \
         if it is gone for good: `limosa forget`",
        by.short()
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        by: NodeId,
    },
    /// Its name cannot be one.
    #[error("the node cannot be called `{name}`: {error}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        error: NameError,
    },
    /// It is in another fleet already.
    #[error(
        "this node is in a fleet already (its state is in {}); to join another, give it a new \
         state directory with --state",
        .0.display()
    )]
    OtherFleet(PathBuf),
    /// A fault of limosa itself.
    #[error("a fault in limosa itself ended the node; its log says where: please report it")]
    Fault,
    /// The system gives no threads.
    #[error("the system gives no threads to run processes: {0}; raise its limits")]
    Threads(io::Error),
    /// The system gives no randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The directory's store has failed for good.
    #[error("the directory's store failed; start the node again when its disk is well: {0}")]
    StoreFailed(String),
}

/// Who is in the fleet, as far as known at the start.
struct Known {
    directory: NodeId,
    members: Vec<Member>,
    secret: Option<Secret>,
}

/// Runs a node until `shutdown` is ready or the API asks for it. `ready` is called once it answers.
pub async fn run_node(
    config: NodeConfig,
    ready: impl FnOnce(Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    check_name(&config.name).map_err(|error| RunError::Name {
        name: config.name.chars().take(80).collect(),
        error,
    })?;
    raise_file_limit();
    let state = StateDir::open(&config.state_dir)?;
    let identity = state.identity()?;
    let incarnation = state.next_incarnation()?;
    let (listener, address, taken_address) = listen_again(&config, &state, identity.node()).await?;
    let me = Member {
        node: identity.node(),
        name: name(&config, &state, identity.node())?,
        address,
        incarnation,
    };
    let known = known(&config, &state, &identity, &me).await?;

    let (view, fleet) = watch::channel(FleetView {
        me: me.clone(),
        directory: known.directory,
        members: members_with(&known.members, &me),
        health: BTreeMap::new(),
    });
    let dialler = Dialler {
        identity,
        name: me.name.clone(),
        incarnation,
        fleet: fleet.clone(),
    };
    let (node, inputs) = node_loop::channel();
    let failed = CancellationToken::new();
    let (store, records, floor) = open_store(&state, &known, &me, &node, &failed)?;
    let engine = Engine::new(vm::Config {
        backend: config.backend,
        cache_dir: Some(state.path("cache")),
        ..vm::Config::default()
    })?;
    let executor = Executor::new(executor::Config::default()).map_err(RunError::Threads)?;
    let switch = Switch::new(dialler.clone());
    let core = Arc::new(Core {
        anchors: Anchors::new(
            switch.clone(),
            Some(node.clone()),
            config.max_connections.unwrap_or_default(),
        ),
        processes: Processes::new(
            executor,
            node.clone(),
            &switch,
            &state.path("logs"),
            config.max_processes,
        ),
        loader: Loader::new(engine, Images::new(&state.path("images"))),
        returning: Returning::new(Kept::new(&state.path("kept"))),
        grants: Grants::Within(config.volumes.clone()),
        switch,
        node,
        arrivals: Default::default(),
        secret: known.secret,
        memory: config.memory.clone(),
        progress: config.progress.clone(),
        dialler,
        fleet,
        stop: CancellationToken::new(),
        shutdown: CancellationToken::new(),
        fleet_changed: Default::default(),
        reopened: Default::default(),
        writing: Default::default(),
        state,
    });
    core.write_fleet_now()?;

    let decisions = NodeLoop::new(
        core.clone(),
        node::Config {
            restored: records,
            floor,
            members: known.members,
            ..node::Config::new(me.clone(), known.directory)
        },
        store,
        view,
    );
    let mut decisions = tokio::spawn(decisions.run(inputs));
    let fleet_writer = tokio::spawn(core.clone().write_fleet());
    let reopener = tokio::spawn(keep_open(core.clone()));
    let tender = tokio::spawn(tend(core.clone()));
    let folder = config.fold_after.map(|after| {
        let processes = Arc::downgrade(&core.processes);
        tokio::spawn(fold_idle(processes, after))
    });
    let guard = tokio::spawn(memory::guard(core.clone()));
    let (api_links, served) = mpsc::channel(API_LINKS);
    let links = tokio::spawn(accept::serve(listener, core.dialler.clone(), {
        let core = core.clone();
        move |link| take(&core, &api_links, link)
    }));
    let socket = socket_path(&config.state_dir);
    let local = serve_api(&core, &socket, served)?;

    tracing::info!(node = %me.node.short(), name = me.name, address = me.address, "up");
    let ticket = ticket(&core, &socket).await;
    ready(Ready {
        node: me.node,
        name: me.name.clone(),
        no_ticket: ticket.as_ref().err().cloned(),
        ticket: ticket.unwrap_or_default(),
        address: me.address.clone(),
        taken_address,
        socket: socket.clone(),
    });

    let result = tokio::select! {
        () = shutdown => Ok(()),
        () = core.stop.cancelled() => Ok(()),
        // It ends by itself only if it panics. A node that decides nothing is no use to anyone.
        _ = &mut decisions => return Err(RunError::Fault),
        () = failed.cancelled() => {
            Err(RunError::StoreFailed("see the log above".to_owned()))
        }
    };
    go_down(&core).await;
    core.shutdown.cancel();
    links.abort();
    fleet_writer.abort();
    reopener.abort();
    tender.abort();
    if let Some(folder) = folder {
        folder.abort();
    }
    guard.abort();
    for server in local {
        // They end by themselves once `shutdown` is cancelled, when what they serve is served.
        let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    }
    let _ = decisions.await;
    let _ = std::fs::remove_file(&socket);
    result
}

/// The node's own entry in the fleet of its last start.
fn last_life(state: &StateDir, me: NodeId) -> Result<Option<Member>, StateError> {
    let members = state.fleet()?.into_iter().flat_map(|fleet| fleet.members);
    Ok(members.into_iter().find(|member| member.node == me))
}

/// The node's name: the one that it was given, or the one that it has in its fleet.
fn name(config: &NodeConfig, state: &StateDir, me: NodeId) -> Result<String, RunError> {
    if !config.keep_name {
        let members = state.fleet()?.into_iter().flat_map(|fleet| fleet.members);
        let mut others = members.filter(|member| member.node != me);
        // The others refuse a name twice, too, but then this node would have another one there.
        return match others.find(|other| other.name == config.name) {
            Some(other) => Err(RunError::NameTaken {
                name: other.name,
                by: other.node,
            }),
            None => Ok(config.name.clone()),
        };
    }
    let last = last_life(state, me)?;
    Ok(last
        .map(|last| last.name)
        .filter(|name| check_name(name).is_ok())
        .unwrap_or_else(|| config.name.clone()))
}

/// Opens the listener of the links where it was at the last start, by which the others find this
/// node and its tickets lead to it; or beside it, if somebody else has that port, and says which it
/// was. Without a last start, or if it is not to matter, where the configuration says.
async fn listen_again(
    config: &NodeConfig,
    state: &StateDir,
    me: NodeId,
) -> Result<(TcpListener, String, Option<String>), RunError> {
    let last = match config.keep_listen {
        true => last_life(state, me)?.map(|last| last.address),
        false => None,
    };
    let said = last.as_ref().unwrap_or(&config.listen);
    let error = match listen(said).await {
        Ok(listener) => {
            let address = address_of(said, &listener)?;
            return Ok((listener, address, None));
        }
        Err(error) => error,
    };
    let in_use = matches!(
        &error,
        RunError::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse
    );
    let (Some(taken), true) = (last, in_use) else {
        return Err(error);
    };
    let Some((host, _)) = taken.rsplit_once(':') else {
        return Err(error);
    };
    let beside = format!("{host}:0");
    let listener = listen(&beside).await?;
    let address = address_of(&beside, &listener)?;
    tracing::warn!(
        taken,
        address,
        "the last address of its links is taken; they listen elsewhere"
    );
    Ok((listener, address, Some(taken)))
}

async fn listen(address: &str) -> Result<TcpListener, RunError> {
    crate::listener::bind(address)
        .await
        .map_err(|source| RunError::Listen {
            address: address.to_owned(),
            source,
        })
}

/// Where others reach the listener: as was said, with the port that it got.
fn address_of(said: &str, listener: &TcpListener) -> Result<String, RunError> {
    let failed = |source| RunError::Listen {
        address: said.to_owned(),
        source,
    };
    let bound = listener.local_addr().map_err(failed)?;
    match said.rsplit_once(':') {
        // A name means more to others than what it stands for here.
        Some((host, _)) if said.parse::<SocketAddr>().is_err() => {
            Ok(format!("{host}:{}", bound.port()))
        }
        _ if bound.ip().is_unspecified() => {
            let ip = outward(bound.is_ipv6()).map_err(failed)?;
            Ok(SocketAddr::new(ip, bound.port()).to_string())
        }
        _ => Ok(bound.to_string()),
    }
}

/// The address that this machine shows to others: that of the interface by which it would reach a
/// far one (an address set aside for documentation; nothing is sent).
fn outward(ipv6: bool) -> io::Result<IpAddr> {
    let (own, far) = match ipv6 {
        true => ("[::]:0", "[2001:db8::1]:9"),
        false => ("0.0.0.0:0", "192.0.2.1:9"),
    };
    let socket = std::net::UdpSocket::bind(own)?;
    socket.connect(far)?;
    Ok(socket.local_addr()?.ip())
}

/// Every client's connection and every link is an open file: as many as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

fn members_with(members: &[Member], me: &Member) -> BTreeMap<NodeId, Member> {
    let all = members.iter().chain([me]);
    all.map(|member| (member.node, member.clone())).collect()
}

/// Joins a fleet, goes back to the one of the last start, or makes a new one.
async fn known(
    config: &NodeConfig,
    state: &StateDir,
    identity: &Identity,
    me: &Member,
) -> Result<Known, RunError> {
    let last = state.fleet()?;
    if let Some(ticket) = &config.join {
        let other = |fleet: &Fleet| fleet.directory != ticket.node();
        if last.as_ref().is_some_and(other) {
            return Err(RunError::OtherFleet(config.state_dir.clone()));
        }
        // Joining dials addresses of the ticket only, so it needs no fleet.
        let (_, nobody) = watch::channel(FleetView {
            me: me.clone(),
            directory: ticket.node(),
            members: BTreeMap::new(),
            health: BTreeMap::new(),
        });
        let dialler = Dialler {
            identity: identity.clone(),
            name: me.name.clone(),
            incarnation: me.incarnation,
            fleet: nobody,
        };
        let (members, directory) = join::join(&dialler, ticket, me.clone()).await?;
        return Ok(Known {
            directory,
            members,
            secret: None,
        });
    }
    let (directory, members, secret) = match last {
        Some(fleet) => (fleet.directory, fleet.members, fleet.ticket_secret),
        None => (me.node, Vec::new(), None),
    };
    let secret = match secret.as_deref().and_then(unhex) {
        Some(secret) => Some(Secret(secret)),
        None if directory == me.node => {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).map_err(RunError::Random)?;
            Some(Secret(secret))
        }
        None => None,
    };
    Ok(Known {
        directory,
        members,
        secret,
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    // The same digits as an id's.
    text.parse::<NodeId>().ok().map(|id| id.0)
}

fn open_store(
    state: &StateDir,
    known: &Known,
    me: &Member,
    node: &LoopHandle,
    failed: &CancellationToken,
) -> Result<(Option<DirectoryStore>, Vec<Record>, Epoch), RunError> {
    if known.directory != me.node {
        return Ok((None, Vec::new(), Epoch(0)));
    }
    let (node, failed) = (node.clone(), failed.clone());
    let stored = move |ticket, result| node.event(Event::Stored { ticket, result });
    let (store, records, floor) = DirectoryStore::open(
        &state.path("directory.redb"),
        stored,
        // Nobody knows what was stored: this node must not go on answering.
        move |_| failed.cancel(),
    )?;
    Ok((Some(store), records, floor))
}

/// Gives an accepted link to whom it is for.
fn take(core: &Arc<Core>, api_links: &mpsc::Sender<Accepted>, link: Accepted) {
    if link.hello.kind != LinkKind::Join && !core.dialler.is_member(link.peer) {
        // Forgotten while it said hello.
        return;
    }
    match link.hello.kind {
        LinkKind::Control => core.node.tell(Input::Link(Box::new(Opened {
            peer: link.peer,
            hello: link.hello,
            stream: link.stream,
            dialled_by: link.peer,
            place: Some(link.place),
        }))),
        LinkKind::Streams => {
            let (peer, place) = (link.peer, Some(link.place));
            core.switch
                .take_link(peer, &link.hello, link.stream, peer, place);
        }
        LinkKind::Bulk => {
            let core = core.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = core.arrivals.serve(link.peer, link.stream) => {}
                    () = core.dialler.forgotten(link.peer) => {}
                }
                drop(link.place);
            });
        }
        LinkKind::Api => {
            if api_links.try_send(link).is_err() {
                tracing::warn!("too many forwarded requests; one is refused");
            }
        }
        LinkKind::Join => {
            let core = core.clone();
            tokio::spawn(async move {
                let directory = core.fleet.borrow().directory;
                let (secret, me, node) = (core.secret, core.me(), core.node.clone());
                let kept = core.clone();
                join::answer(link, secret, directory, me, |member| async move {
                    let admitted = node.command(|token| Event::Admit { token, member }).await;
                    let members = match admitted.map_err(|failure| failure.to_string())? {
                        Reply::Admitted(members) => members,
                        reply => return Err(format!("unexpected reply {reply:?}")),
                    };
                    // Whom this node has let in it must know after a crash, too.
                    let written = tokio::task::spawn_blocking(move || kept.write_fleet_now()).await;
                    match written {
                        Ok(Ok(())) => Ok(members),
                        Ok(Err(error)) => Err(error.to_string()),
                        Err(_) => Err("this node is shutting down".to_owned()),
                    }
                })
                .await;
            });
        }
    }
}

/// Serves the API on the local socket and on links.
fn serve_api(
    core: &Arc<Core>,
    socket: &Path,
    links: mpsc::Receiver<Accepted>,
) -> Result<[tokio::task::JoinHandle<()>; 2], RunError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| RunError::Listen {
        address: socket.display().to_string(),
        source,
    };
    // Of an earlier daemon; the lock says that it is gone.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(failed)?;
    // The directory is closed to others, so nobody was faster.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let stop = core.shutdown.clone();
    let local = api::router(core.clone(), Origin::Local);
    let local = axum::serve(listener, local).with_graceful_shutdown(stop.cancelled_owned());
    let stop = core.shutdown.clone();
    let remote = api::router(core.clone(), Origin::Node);
    let remote = axum::serve(ApiLinks(links, core.dialler.clone()), remote)
        .with_graceful_shutdown(stop.cancelled_owned());
    let (local, remote) = (local.into_future(), remote.into_future());
    Ok([
        tokio::spawn(async move {
            let _ = local.await;
        }),
        tokio::spawn(async move {
            let _ = remote.await;
        }),
    ])
}

/// Api links as connections of an HTTP server.
struct ApiLinks(mpsc::Receiver<Accepted>, Dialler);

impl axum::serve::Listener for ApiLinks {
    type Io = Tied;
    type Addr = NodeId;

    async fn accept(&mut self) -> (Tied, NodeId) {
        match self.0.recv().await {
            Some(link) => {
                let forgotten = self.1.forgotten(link.peer);
                (
                    Tied::new(link.stream, Some(link.place), forgotten),
                    link.peer,
                )
            }
            // No more links will come.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<NodeId> {
        Ok(NodeId::default())
    }
}

/// The fleet's ticket, for those who start nodes; the directory's node may not answer now.
async fn ticket(core: &Core, socket: &Path) -> Result<String, String> {
    let client = crate::client::Client::new(socket);
    client.ticket().await.map_err(|error| {
        let directory = core.node_name(core.fleet.borrow().directory);
        tracing::warn!(directory, %error, "no ticket");
        error.to_string()
    })
}

/// Ends all processes, so that the directory does not take them for lost.
async fn go_down(core: &Core) {
    core.processes.kill_all();
    let gone = async {
        for managed in core.processes.all() {
            let mut status = managed.status();
            let ended = |status: &Status| matches!(status, Status::Ended(_));
            let _ = status.wait_for(ended).await;
        }
        // Their anchors have what they wrote, and their records are gone.
        core.processes.reported().await;
        let (reply, empty) = oneshot::channel();
        core.node.tell(Input::WhenEmpty(reply));
        let _ = empty.await;
    };
    if tokio::time::timeout(GOING_DOWN, gone).await.is_err() {
        tracing::warn!("some processes did not end in time");
    }
    let delivered = core.anchors.delivered();
    if tokio::time::timeout(GOING_DOWN, delivered).await.is_err() {
        tracing::warn!("some clients did not take their last bytes in time");
    }
}
