//! Starts a node that outlives the command: this program again, apart from the
//! terminal.
//!
//! The node says that it is ready as any does with `--json`: one line on standard output. So the
//! command ends as soon as the node answers, or as soon as it is known that it never will. Why it
//! never will the node says there, too: where the disk is full, its log is empty.

use super::node::Ready;
use crate::failure::{Failure, code};
use crate::output;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How much of the log is looked at for the reason of a failure.
const TAIL_BYTES: u64 = 4096;

/// Before the reason for which a node ends, on its standard output.
const REASON: &str = "limosa: ";

/// The length of a node's log, in bytes, after which it is moved aside; one older file is kept.
const MAX_LOG_BYTES: u64 = 16 << 20;

/// The log of a node in the background.
pub fn log_path(state: &Path) -> PathBuf {
    state.join("limosa.log")
}

/// The log of a node in the background, as that node writes it.
pub struct NodeLog {
    path: PathBuf,
    file: File,
    length: u64,
    most: u64,
    /// What else goes there: standard error.
    moved: fn(&File) -> std::io::Result<()>,
}

impl NodeLog {
    /// Goes on where the command that started this node has begun.
    pub fn open(state: &Path) -> std::io::Result<NodeLog> {
        fn moved(file: &File) -> std::io::Result<()> {
            Ok(rustix::stdio::dup2_stderr(file)?)
        }
        NodeLog::with(log_path(state), MAX_LOG_BYTES, moved)
    }

    fn with(
        path: PathBuf,
        most: u64,
        moved: fn(&File) -> std::io::Result<()>,
    ) -> std::io::Result<NodeLog> {
        let file = append_to(&path)?;
        Ok(NodeLog {
            length: file.metadata()?.len(),
            path,
            file,
            most,
            moved,
        })
    }

    fn move_aside(&mut self) -> std::io::Result<()> {
        fs::rename(&self.path, self.path.with_extension("log.1"))?;
        self.file = append_to(&self.path)?;
        (self.moved)(&self.file)
    }
}

impl Write for NodeLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.length > self.most {
            // If it cannot be, it grows on, and is tried again when it is as long once more.
            self.length = 0;
            let _ = self.move_aside();
        }
        let written = self.file.write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Starts `limosa ARGS` in the background and waits until it is ready. The ticket goes through a
/// pipe: the arguments of a process are there for everyone to see.
pub fn start(state: &Path, args: &[String], ticket: Option<&str>) -> Result<Ready, Failure> {
    let path = log_path(state);
    let log = open_log(state, &path).map_err(|error| Failure::file("write", &path, &error))?;
    let begin = log.metadata().map_or(0, |metadata| metadata.len());
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this program's file: {error}")))?;
    let mut child = Command::new(program)
        .arg("--state")
        .arg(state)
        .arg("--json")
        .args(args)
        .arg("--background")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| Failure::new(format!("cannot start a node in the background: {error}")))?;
    if let (Some(mut stdin), Some(ticket)) = (child.stdin.take(), ticket) {
        // A node that has ended at once says why below.
        let _ = writeln!(stdin, "{ticket}");
    }
    let mut line = String::new();
    let mut told = None;
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        // The end of the output without a line is a failure too, looked at below.
        let _ = stdout.read_line(&mut line);
        if let Ok(ready) = serde_json::from_str(&line) {
            return Ok(ready);
        }
        if let Some(reason) = line.strip_prefix(REASON) {
            let mut reason = reason.to_owned();
            let _ = stdout.read_to_string(&mut reason);
            told = Some(reason.trim_end().to_owned());
        }
    }
    let status = child.wait();
    let code = status.ok().and_then(|status| status.code());
    let code = code.and_then(|code| u8::try_from(code).ok());
    let code = code.filter(|code| *code != 0).unwrap_or(code::FAILED);
    let said = told.or_else(|| said_last(&path, begin));
    Err(Failure::with_code(
        code,
        said.unwrap_or_else(|| format!("the node ended at once; see {}", path.display())),
    ))
}

/// Tells the command that started this node in the background why it ends.
pub fn tell(failure: &Failure) {
    if let Some(message) = failure.message() {
        // Long after the start nobody listens any more.
        let _ = output::line(&format!("{REASON}{message}"));
    }
}

fn open_log(state: &Path, path: &Path) -> std::io::Result<File> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)?;
    append_to(path)
}

fn append_to(path: &Path) -> std::io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// The last error message that was written to the log after `begin`.
fn said_last(path: &Path, begin: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let end = file.metadata().ok()?.len();
    let from = begin.max(end.saturating_sub(TAIL_BYTES));
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut messages = text
        .lines()
        .filter_map(|line| line.strip_prefix("limosa: "));
    messages.next_back().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_moved_aside_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limosa.log");
        fs::write(&path, "before\n").unwrap();
        let mut log = NodeLog::with(path.clone(), 20, |_| Ok(())).unwrap();
        for number in 0..10 {
            let line = format!("line {number}\n");
            log.write_all(line.as_bytes()).unwrap();
        }
        let older = fs::read_to_string(path.with_extension("log.1")).unwrap();
        let log = fs::read_to_string(&path).unwrap();
        assert_eq!(older, "line 5\nline 6\nline 7\n");
        assert_eq!(log, "line 8\nline 9\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_reason_of_a_failure_is_the_last_message_of_this_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "limosa: an old failure\n").unwrap();
        let begin = fs::metadata(&path).unwrap().len();
        assert_eq!(said_last(&path, begin), None);
        let more =
            "limosa: an old failure\n2026 INFO starting\nlimosa: port in use; choose another\n";
        fs::write(&path, more).unwrap();
        let said = said_last(&path, begin);
        assert_eq!(said.as_deref(), Some("port in use; choose another"));
    }
}
