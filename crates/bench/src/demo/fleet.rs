//! Nodes on this machine, each an operating-system process of its own, for as long as needed.
//!
//! Nothing stays behind, however the parent ends. A node is started with `--ephemeral`: it ends
//! and removes its state directory once its standard input closes, which the kernel sees to even
//! if the parent is killed. Otherwise [`Fleet::drop`] closes it, waits, and kills by process id
//! what does not end. The nodes are in a process group of their own, so that Ctrl-C in a terminal
//! reaches the parent alone, which then ends them in order.

use serde::Deserialize;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A node ends by itself within this time, or is killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines of its log that are kept for error messages.
const LOG_LINES: usize = 20;

/// What a node prints, as one line of JSON, once it answers (`limosa up --json`).
#[derive(Clone, Deserialize)]
pub struct Ready {
    /// Its id.
    pub node: wire::NodeId,
    /// Its name.
    pub name: String,
    /// Lets others join.
    pub ticket: String,
    /// Where its API listens.
    pub socket: PathBuf,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No temporary directory.
    #[error("cannot make a temporary directory for node `{name}`: {source}")]
    Directory {
        /// The node.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The program could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It ended before it was ready, or said something else.
    #[error("node `{name}` did not start; it said: {log}")]
    NotReady {
        /// The node.
        name: String,
        /// The end of its log.
        log: String,
    },
}

/// Running nodes.
pub struct Fleet {
    nodes: Vec<Node>,
}

struct Node {
    ready: Ready,
    child: Child,
    /// Closing it ends the node.
    lifeline: Option<ChildStdin>,
    log: Log,
    // The node removes it; what a node that was killed leaves is removed here, last.
    _directory: tempfile::TempDir,
}

impl Fleet {
    /// Starts a node per name; the others join the first. `program` is a `limosa` binary. Blocks
    /// until all are ready.
    pub fn start(program: &Path, names: &[&str]) -> Result<Fleet, FleetError> {
        let mut fleet = Fleet { nodes: Vec::new() };
        for name in names {
            let ticket = fleet.nodes.first().map(|first| first.ready.ticket.clone());
            fleet.nodes.push(Node::start(program, name, ticket)?);
        }
        Ok(fleet)
    }

    /// The nodes, in the order of their names as given.
    pub fn nodes(&self) -> impl Iterator<Item = &Ready> {
        self.nodes.iter().map(|node| &node.ready)
    }

    /// The first of them.
    pub fn first(&self) -> Option<&Ready> {
        self.nodes().next()
    }

    /// The process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// The ends of the nodes' logs, for error messages.
    pub fn logs(&self) -> String {
        let log = |node: &Node| format!("{}: {}", node.ready.name, node.log.text());
        self.nodes.iter().map(log).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // The first keeps the directory, without which the others wait in vain for the last word
        // on their processes. They are all told first, then waited for.
        let (directory, others) = match self.nodes.split_first_mut() {
            Some((directory, others)) => (Some(directory), others),
            None => return,
        };
        for node in &mut *others {
            node.lifeline.take();
        }
        for node in others {
            end(&mut node.child);
        }
        if let Some(node) = directory {
            node.lifeline.take();
            end(&mut node.child);
        }
    }
}

/// Waits for a child whose lifeline is closed, and kills it after [`PATIENCE`].
fn end(child: &mut Child) {
    let deadline = Instant::now() + PATIENCE;
    while let Ok(None) = child.try_wait() {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Node {
    fn start(program: &Path, name: &str, ticket: Option<String>) -> Result<Node, FleetError> {
        let directory = tempfile::Builder::new()
            .prefix("limosa-")
            .tempdir()
            .map_err(|source| FleetError::Directory {
                name: name.to_owned(),
                source,
            })?;
        let mut command = Command::new(program);
        command.arg("--state").arg(directory.path());
        match ticket {
            Some(_) => command.args(["join", "-"]),
            None => command.arg("up"),
        };
        command
            .args(["--json", "--ephemeral", "--listen-link", "127.0.0.1:0"])
            .args(["--name", name])
            .env_remove("LIMOSA_STATE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().map_err(|source| FleetError::Start {
            program: program.to_owned(),
            source,
        })?;
        let mut lifeline = child.stdin.take();
        if let (Some(ticket), Some(stdin)) = (ticket, &mut lifeline) {
            // A node that has ended at once says why below.
            let _ = writeln!(stdin, "{ticket}");
        }
        let log = Log::default();
        let follower = child.stderr.take().map(|stderr| log.follow(stderr));
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        match serde_json::from_str(&line) {
            Ok(ready) => Ok(Node {
                ready,
                child,
                lifeline,
                log,
                _directory: directory,
            }),
            Err(_) => {
                drop(lifeline);
                end(&mut child);
                if let Some(follower) = follower {
                    let _ = follower.join();
                }
                Err(FleetError::NotReady {
                    name: name.to_owned(),
                    log: log.text(),
                })
            }
        }
    }
}

/// The last lines that a node wrote to standard error.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    fn follow(&self, from: impl std::io::Read + Send + 'static) -> JoinHandle<()> {
        let lines = Arc::clone(&self.0);
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == LOG_LINES {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        })
    }

    fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() {
            return "(nothing)".to_owned();
        }
        lines.iter().cloned().collect::<Vec<_>>().join("; ")
    }
}
