//! Runs the real binary; nodes end with the test that started them.
#![allow(dead_code)] // Each test file uses its part.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The binary, with no state but what is given.
pub fn limosa() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_limosa"));
    isolated(&mut command);
    command
}

/// With no state but what is given.
fn isolated(command: &mut Command) {
    command
        .env_remove("LIMOSA_STATE")
        .env_remove("LIMOSA_LOG")
        .env("XDG_STATE_HOME", "/nonexistent")
        .env(
            "XDG_CACHE_HOME",
            concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"),
        )
        .stdin(Stdio::null());
}

/// A guest of the project.
pub fn guest(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
    root.join(name).join(format!("{name}.wasm"))
}

/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again until there is an answer, for what no command waits for.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a command did.
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    /// Asserts the exit code, and that standard error says all of `words`.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "`{word}` is not in: {}", self.err);
        }
    }

    /// Asserts success and returns standard output without its last line feed.
    #[track_caller]
    pub fn succeeds(&self) -> &str {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out.trim_end()
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        use std::os::unix::process::ExitStatusExt;
        let signal = output.status.signal().map(|signal| 1000 + signal);
        Done {
            code: output.status.code().or(signal).unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the binary with arguments.
pub fn run<'a>(args: impl IntoIterator<Item = &'a str>) -> Done {
    limosa().args(args).output().unwrap().into()
}

/// Runs the binary with something on standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Done {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap().into()
}

/// A running node. It ends, and removes its state, when this is dropped.
pub struct Node {
    directory: TempDir,
    child: Child,
    pub ready: Value,
}

impl Node {
    /// Starts a node, and one that joins it if there is a ticket.
    pub fn start(name: &str, ticket: Option<&str>) -> Node {
        Node::start_with(name, ticket, &[])
    }

    /// The same, with more options.
    pub fn start_with(name: &str, ticket: Option<&str>, options: &[&str]) -> Node {
        Node::start_by(limosa(), name, ticket, options)
    }

    /// The same with another binary.
    pub fn start_by(
        mut command: Command,
        name: &str,
        ticket: Option<&str>,
        options: &[&str],
    ) -> Node {
        isolated(&mut command);
        let directory = tempfile::tempdir().unwrap();
        command.arg("--state").arg(directory.path().join("state"));
        match ticket {
            Some(ticket) => command.args(["join", ticket]),
            None => command.arg("up"),
        };
        command.args(["--json", "--ephemeral", "--name", name]);
        command.args(options);
        if ticket.is_none() {
            // Not the usual place, which other tests' nodes may want.
            command.args(["--listen-link", "127.0.0.1:0"]);
        }
        let (child, ready) = ready(&mut command);
        Node {
            directory,
            child,
            ready,
        }
    }

    /// Starts a node that was killed again, as `limosa up` does without any other word.
    pub fn again(&mut self) {
        let state = self.state();
        let mut command = limosa();
        command.arg("--state").arg(&state).args(["up", "--json"]);
        (self.child, self.ready) = ready(command.arg("--ephemeral"));
    }

    /// Ends the node as a power failure would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn ticket(&self) -> &str {
        self.ready["ticket"].as_str().unwrap()
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A command to this node.
    pub fn limosa(&self) -> Command {
        let mut command = limosa();
        command.arg("--state").arg(self.state());
        command
    }

    /// Runs a command to this node.
    pub fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Done {
        self.limosa().args(args).output().unwrap().into()
    }

    /// Runs a guest in the background and returns its id.
    pub fn start_guest(&self, name: &str, args: &[&str]) -> String {
        let path = guest(name);
        let mut command = self.limosa();
        command.args(["run", "-d"]).arg(path).args(args);
        let done = Done::from(command.output().unwrap());
        done.succeeds().to_owned()
    }
}

/// Starts a node and waits until it says that it is ready.
fn ready(command: &mut Command) -> (Child, Value) {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not ready: {line}"));
    (child, ready)
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
