//! Real nodes in this OS process: own keys, own state directories, real sockets on loopback.
#![allow(dead_code, reason = "each test file uses its part")]

use daemon::client::{Client, ClientError};
use daemon::{NodeConfig, Ready, RunError};
use std::net::SocketAddr;
use std::path::PathBuf;
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

/// Asks again until the answer is the right one.
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

/// A running node. Each has a runtime of its own, so that it can be killed with everything it runs.
pub struct Node {
    pub ready: Ready,
    pub client: Client,
    pub state: TempDir,
    pub config: NodeConfig,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
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
        let state = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            state_dir: state.path().join("state"),
            name: name.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            join: ticket.map(|ticket| ticket.parse().unwrap()),
            ..NodeConfig::default()
        };
        Node::with(config, state).await
    }

    pub async fn with(config: NodeConfig, state: TempDir) -> Result<Node, RunError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let running = config.clone();
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
            stop: Some(stop),
            runtime: Some(runtime),
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
        self.runtime.take().unwrap().shutdown_background();
        let state = std::mem::replace(&mut self.state, tempfile::tempdir().unwrap());
        (self.config.clone(), state)
    }

    /// Ends it as a crash would: without a word. Its processes' threads stay, cut off.
    pub fn crash(mut self) -> (NodeConfig, TempDir) {
        self.runtime.take().unwrap().shutdown_background();
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
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
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
