//! Real nodes in this OS process: own keys, own state directories, real sockets on loopback.
#![allow(dead_code, reason = "each test file uses its part")]

use daemon::client::{Client, ClientError};
use daemon::{NodeConfig, Progress, Ready, RunError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wire::api::{ListenSpec, NodeState, ProcessInfo, ProcessState, RunSpec};

/// Nothing here takes longer, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The module of one of the project's guests.
pub fn guest(name: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../guests");
    std::fs::read(root.join(name).join(format!("{name}.wasm"))).unwrap()
}

/// Waits for something, with a limit.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// Asks again until the answer is the right one: for what no request waits for, such as what one
/// node thinks of another. Where there is an event (the end of a process, a line of a log, a step of
/// a move), tests wait for that.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    within(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// The runtime of a node. Taken away, the node is gone, as if its machine had lost power.
#[derive(Clone, Default)]
pub struct Power(Arc<Mutex<Option<tokio::runtime::Runtime>>>);

impl Power {
    pub fn cut(&self) {
        if let Some(runtime) = self.0.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }

    /// Stops the node as a debugger or a system without memory would, until the result is dropped:
    /// its connections stay open and the system goes on acknowledging what comes, but nothing that
    /// it does goes on.
    pub fn suspend(&self) -> Suspended {
        let (entered, all_entered) = std::sync::mpsc::channel();
        let resume = (0..WORKERS)
            .map(|_| {
                let (resume, resumed) = std::sync::mpsc::channel::<()>();
                let entered = entered.clone();
                if let Some(runtime) = &*self.0.lock().unwrap() {
                    runtime.spawn(async move {
                        entered.send(()).unwrap();
                        // Fails when it is dropped, which says it.
                        let _ = resumed.recv();
                    });
                }
                resume
            })
            .collect();
        for _ in 0..WORKERS {
            let patience = PATIENCE;
            all_entered.recv_timeout(patience).expect("a worker stops");
        }
        Suspended(resume)
    }
}

/// A node is stopped for as long as this is there.
pub struct Suspended(Vec<std::sync::mpsc::Sender<()>>);

/// Threads of a node's runtime.
const WORKERS: usize = 2;

/// What a test does when a move of a node gets to a step.
#[derive(Clone, Default)]
pub struct Steps(Arc<Mutex<Option<Step>>>);

/// Which state, how often it is entered before, and what is done then.
type Step = (&'static str, usize, Box<dyn FnOnce() + Send>);

impl Steps {
    /// The next time a move of this node enters this state.
    pub fn at(&self, phase: &'static str, act: impl FnOnce() + Send + 'static) {
        self.at_nth(phase, 0, act);
    }

    /// The same when it enters it after it has entered it so many times.
    pub fn at_nth(&self, phase: &'static str, count: usize, act: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some((phase, count, Box::new(act)));
    }

    fn enter(&self, phase: &str) {
        let mut waiting = self.0.lock().unwrap();
        match &mut *waiting {
            Some((at, 0, _)) if *at == phase => {
                let (_, _, act) = waiting.take().unwrap();
                act();
            }
            Some((at, count, _)) if *at == phase => *count -= 1,
            _ => {}
        }
    }

    /// Whether it has come to that.
    pub fn done(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }
}

/// A running node. Each has a runtime of its own, so that it can be killed with everything it runs.
pub struct Node {
    pub ready: Ready,
    pub client: Client,
    pub state: TempDir,
    pub config: NodeConfig,
    /// What happens at the steps of its moves.
    pub steps: Steps,
    stop: Option<oneshot::Sender<()>>,
    runtime: Power,
    ran: Option<JoinHandle<Result<(), RunError>>>,
}

impl Node {
    /// The first node of a fleet.
    pub async fn first(name: &str) -> Node {
        Node::start(name, None).await.unwrap()
    }

    /// A node that joins by another.
    pub async fn joining(name: &str, by: &Node) -> Node {
        Node::start(name, Some(&by.ready.ticket)).await.unwrap()
    }

    pub async fn start(name: &str, ticket: Option<&str>) -> Result<Node, RunError> {
        let (config, state) = Node::config(name, ticket);
        Node::with(config, state).await
    }

    /// What a node is started with.
    pub fn config(name: &str, ticket: Option<&str>) -> (NodeConfig, TempDir) {
        let state = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            state_dir: state.path().join("state"),
            name: name.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            join: ticket.map(|ticket| ticket.parse().unwrap()),
            ..NodeConfig::default()
        };
        (config, state)
    }

    /// Starts a node again with what a crash has left. Its tasks let go of the lock one by one.
    pub async fn again((config, state): (NodeConfig, TempDir)) -> Node {
        let lock = state.path().join("state/lock");
        until("the lock is free", || async {
            let lock = std::fs::File::open(&lock).unwrap();
            let free =
                rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive);
            free.ok()
        })
        .await;
        Node::with(config, state).await.unwrap()
    }

    pub async fn with(config: NodeConfig, state: TempDir) -> Result<Node, RunError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let steps = Steps::default();
        let entering = steps.clone();
        let running = NodeConfig {
            progress: Some(Progress(Arc::new(move |_, phase| entering.enter(phase)))),
            ..config.clone()
        };
        let mut ran = runtime.spawn(async move {
            let ready = |up| drop(ready.send(up));
            let stopped = async {
                if stopped.await.is_err() {
                    std::future::pending().await
                }
            };
            daemon::run_node(running, ready, stopped).await
        });
        let up = within("a node comes up", async {
            tokio::select! {
                Ok(up) = is_ready => Ok(up),
                ended = &mut ran => Err(ended.unwrap().unwrap_err()),
            }
        });
        let up = match up.await {
            Ok(up) => up,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        Ok(Node {
            client: Client::new(&up.socket),
            ready: up,
            state,
            config,
            steps,
            stop: Some(stop),
            runtime: Power(Arc::new(Mutex::new(Some(runtime)))),
            ran: Some(ran),
        })
    }

    pub fn name(&self) -> &str {
        &self.ready.name
    }

    /// Ends it in order.
    pub async fn stop(mut self) -> (NodeConfig, TempDir) {
        let _ = self.stop.take().unwrap().send(());
        let ran = self.ran.take().unwrap();
        within("a node goes down", ran).await.unwrap().unwrap();
        self.power().cut();
        let state = std::mem::replace(&mut self.state, tempfile::tempdir().unwrap());
        (self.config.clone(), state)
    }

    /// What its life depends on.
    pub fn power(&self) -> Power {
        self.runtime.clone()
    }

    /// Ends it as a crash would: without a word. Its processes' threads stay, cut off. Returns what
    /// it takes to start it again at the same address.
    pub async fn crash(mut self) -> (NodeConfig, TempDir) {
        self.power().cut();
        let _ = within("a node falls", self.ran.take().unwrap()).await;
        self.config.listen = self.ready.address.clone();
        self.config.join = None;
        let state = std::mem::replace(&mut self.state, tempfile::tempdir().unwrap());
        (self.config.clone(), state)
    }

    /// Runs a guest with one listener; returns it and where it listens.
    pub async fn serve(
        &self,
        name: &str,
        program: &str,
        on: Option<&str>,
    ) -> (ProcessInfo, SocketAddr) {
        let info = self
            .try_serve(name, program, on, "127.0.0.1:0")
            .await
            .unwrap();
        let address = info.listeners[0].address.parse().unwrap();
        (info, address)
    }

    pub async fn try_serve(
        &self,
        name: &str,
        program: &str,
        on: Option<&str>,
        address: &str,
    ) -> Result<ProcessInfo, ClientError> {
        let spec = RunSpec {
            name: Some(name.to_owned()),
            args: vec![program.to_owned()],
            listen: vec![ListenSpec {
                address: address.to_owned(),
                name: "main".to_owned(),
            }],
            on: on.map(str::to_owned),
            ..RunSpec::default()
        };
        self.client.run(&spec, &[], &guest(program)).await
    }

    /// Waits until the process is seen in a state.
    pub async fn sees(&self, process: &str, state: ProcessState) -> ProcessInfo {
        let what = format!("{} sees {process} as {state:?}", self.name());
        until(&what, || async {
            let info = self.client.inspect(process).await.ok()?;
            (info.state == state).then_some(info)
        })
        .await
    }

    /// Waits until it sees that many nodes alive.
    pub async fn sees_alive(&self, count: usize) {
        let what = format!("{} sees {count} nodes alive", self.name());
        until(&what, || async {
            let nodes = self.client.nodes().await.ok()?;
            let alive = nodes.iter().filter(|node| node.state == NodeState::Alive);
            (alive.count() == count).then_some(())
        })
        .await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.runtime.cut();
    }
}

/// Three nodes that see each other.
pub async fn fleet() -> [Node; 3] {
    let a = Node::first("ant").await;
    let b = Node::joining("bee", &a).await;
    let c = Node::joining("cat", &a).await;
    for node in [&a, &b, &c] {
        node.sees_alive(3).await;
    }
    [a, b, c]
}

/// A client of the echo server.
pub struct Echo {
    pub tcp: TcpStream,
    sent: u64,
    received: u64,
}

/// The byte at a place of an endless pattern that repeats nowhere near.
fn pattern(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl Echo {
    pub async fn connect(address: SocketAddr) -> Echo {
        let tcp = within("connect", TcpStream::connect(address))
            .await
            .unwrap();
        Echo {
            tcp,
            sent: 0,
            received: 0,
        }
    }

    pub async fn send(&mut self, bytes: usize) {
        let end = self.sent + bytes as u64;
        let data: Vec<u8> = (self.sent..end).map(pattern).collect();
        within("send", self.tcp.write_all(&data)).await.unwrap();
        self.sent = end;
    }

    /// Everything sent comes back, in order, once.
    pub async fn receive_all(&mut self) {
        let mut data = vec![0; (self.sent - self.received) as usize];
        within("receive", self.tcp.read_exact(&mut data))
            .await
            .unwrap();
        for byte in data {
            assert_eq!(byte, pattern(self.received), "at {}", self.received);
            self.received += 1;
        }
    }

    pub async fn round_trip(&mut self, bytes: usize) {
        self.send(bytes).await;
        self.receive_all().await;
    }

    /// Ends its own direction; the other comes to its end, with nothing more in it.
    pub async fn finish(mut self) {
        self.tcp.shutdown().await.unwrap();
        self.receive_all().await;
        let rest = within("the end", self.tcp.read(&mut [0; 16]))
            .await
            .unwrap();
        assert_eq!(rest, 0);
    }
}

/// One request on a connection of its own; the body of the answer.
pub async fn get(address: SocketAddr, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", tcp.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.trim().to_owned()
}
