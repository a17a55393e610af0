//! Peers: small C programs, compiled here by the system's compiler, and run as OS processes that
//! end with their handle.

use super::{Error, Skipped};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What a peer is compiled with; the same optimisation as the guests.
const FLAGS: [&str; 4] = ["-O2", "-std=gnu11", "-pthread", "-w"];

/// The HTTP guest's sources, under the names that they include each other by.
pub(crate) const HTTPD: [(&str, &str); 7] = [
    ("httpd.c", include_str!("../../../../guests/httpd/httpd.c")),
    ("http.c", include_str!("../../../../guests/common/http.c")),
    ("http.h", include_str!("../../../../guests/common/http.h")),
    (
        "server.c",
        include_str!("../../../../guests/common/server.c"),
    ),
    (
        "server.h",
        include_str!("../../../../guests/common/server.h"),
    ),
    ("bytes.c", include_str!("../../../../guests/common/bytes.c")),
    ("bytes.h", include_str!("../../../../guests/common/bytes.h")),
];

/// A compiled program, in a folder of its own.
pub(crate) struct Native {
    program: PathBuf,
    _folder: tempfile::TempDir,
}

impl Native {
    /// Compiles these sources; says why not where there is no compiler.
    pub fn compile(
        name: &'static str,
        sources: &[(&str, &str)],
    ) -> Result<Result<Native, Skipped>, Error> {
        let failed = |error| Error::System {
            doing: "cannot write the sources of a peer",
            error,
        };
        let folder = tempfile::Builder::new().prefix("limosa-bench-").tempdir();
        let folder = folder.map_err(failed)?;
        let mut compiler = Command::new("cc");
        compiler
            .current_dir(folder.path())
            .args(FLAGS)
            .args(["-o", name]);
        for (file, text) in sources {
            std::fs::write(folder.path().join(file), text).map_err(failed)?;
            if file.ends_with(".c") {
                compiler.arg(file);
            }
        }
        let skipped = |reason| Ok(Err(Skipped { name, reason }));
        match compiler.output() {
            Ok(output) if output.status.success() => Ok(Ok(Native {
                program: folder.path().join(name),
                _folder: folder,
            })),
            Ok(output) => skipped(format!(
                "cc cannot compile it: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => skipped(format!("cc does not run ({error}); install a C compiler")),
        }
    }

    /// Runs it, with no input; what it prints is dropped.
    pub fn run(&self, arguments: &[&str]) -> Result<Running, Error> {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null());
        Running::start(command)
    }

    /// Runs it to its end and returns what it printed.
    pub fn output(&self, arguments: &[&str]) -> Result<String, Error> {
        let output = Command::new(&self.program).args(arguments).output();
        let output = output.map_err(cannot_run)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it as a server, with a listener as descriptor 3, as systemd would.
    pub fn serve(&self) -> Result<(Running, SocketAddr), Error> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(cannot_run)?;
        let address = listener.local_addr().map_err(cannot_run)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$0\" 3<&0 0</dev/null"])
            .arg(&self.program)
            .env("LISTEN_FDS", "1")
            .stdin(Stdio::from(OwnedFd::from(listener)));
        Ok((Running::start(command)?, address))
    }
}

fn cannot_run(error: std::io::Error) -> Error {
    Error::System {
        doing: "cannot run a peer",
        error,
    }
}

/// An OS process that ends with this.
pub(crate) struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Result<Running, Error> {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Running).map_err(cannot_run)
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU seconds of each thread of an OS process: (name, in user mode, in the kernel). Threads that
/// have ended are not among them.
pub(crate) fn thread_seconds(pid: u32) -> Vec<(String, f64, f64)> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let Ok(tasks) = std::fs::read_dir(tasks) else {
        return Vec::new();
    };
    let tick = rustix::param::clock_ticks_per_second() as f64;
    let thread = |entry: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name is in brackets and may hold anything.
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_whitespace().skip(11);
        let user: f64 = fields.next()?.parse().ok()?;
        let kernel: f64 = fields.next()?.parse().ok()?;
        Some((name.to_owned(), user / tick, kernel / tick))
    };
    tasks.flatten().filter_map(thread).collect()
}
