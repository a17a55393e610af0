//! `limosa run`: a program in the foreground, without any daemon, or as a process of a node.

use super::{Context, workers};
use crate::failure::{Failure, code};
use crate::listen::Listen;
use crate::output;
use crate::progress::during;
use crate::signals::asked_to_end;
use crate::tree::{Mount, Tree};
use clap::Args;
use daemon::local::{self, LocalError};
use daemon::torture;
use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use wire::api::{ListenerInfo, RunSpec};

/// Run a program: here in the foreground, or with -d as a process of a node
///
/// In the foreground it runs here, without any daemon, with the terminal's standard streams, and
/// limosa ends with its exit code. With -d it becomes a process of this machine's node, or of the
/// one named by --on, and its id is printed. The program is a WebAssembly module for WASI preview 1.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa run hello.wasm -- --name world
  limosa run -e LANG=C --dir ./data:/data tool.wasm -- /data/input
  limosa run server.wasm --listen 8080
  limosa run -d --name bank --listen web=0.0.0.0:8080 --on two bank.wasm
  limosa run --torture 7 hello.wasm          freeze and thaw it at random, same output

A server finds its listeners as systemd services do: from descriptor 3 on, with LISTEN_FDS and
LISTEN_FDNAMES in its environment.")]
pub struct Run {
    /// The program
    #[arg(value_name = "PROG.wasm")]
    program: PathBuf,

    /// Its arguments
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,

    /// As a process of a node, in the background
    #[arg(short, long)]
    detach: bool,

    /// A name for the process [default: made from the program's]
    #[arg(long, requires = "detach")]
    name: Option<String>,

    /// Set a variable of its environment; without =V it is taken from here
    #[arg(short, long, value_name = "K[=V]")]
    env: Vec<String>,

    /// Copy a directory (or file) into the process's own file tree
    ///
    /// SRC must exist. The process works on its copy, which travels with it: changes never come
    /// back to SRC. Symbolic links stay links; devices, sockets and pipes are refused.
    #[arg(long, value_name = "SRC:DST")]
    dir: Vec<Mount>,

    /// Open a listener for it; may be given several times
    ///
    /// A port alone means 127.0.0.1, so that nothing is open to the network by mistake; say
    /// 0.0.0.0:PORT for every interface. Port 0 takes any free one, which is said. With -d the listener is on the
    /// node that is asked, and stays there when the process moves.
    #[arg(long, value_name = "[NAME=][ADDR:]PORT")]
    listen: Vec<Listen>,

    /// The node to run on: name, id, or the first digits of the id
    #[arg(long, value_name = "NODE", requires = "detach")]
    on: Option<String>,

    /// Freeze it at random points that follow from SEED, write it down, and go on from there
    ///
    /// Each time in a fresh instance, with a virtual clock and seeded randomness. The output is that
    /// of a plain run: this shows that the program can be moved at any time.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["detach", "listen"])]
    torture: Option<u64>,
}

impl Run {
    pub fn perform(self, context: &Context) -> Result<ExitCode, Failure> {
        let module = fs::read(&self.program)
            .map_err(|error| Failure::file("read", &self.program, &error))?;
        let tree = Tree::read(&self.dir)?;
        let mut args = vec![self.program.display().to_string()];
        args.extend(self.args.iter().cloned());
        let spec = RunSpec {
            name: self.name.clone(),
            args,
            env: self.env.iter().filter_map(|text| variable(text)).collect(),
            listen: self.listen.iter().map(Listen::spec).collect(),
            files: tree.files,
            on: self.on.clone(),
        };
        if self.detach {
            return super::finish(self.detached(context, &spec, &tree.contents, &module));
        }
        match self.torture {
            Some(seed) => tortured(&spec, &tree.contents, &module, seed),
            None => foreground(&spec, &tree.contents, module),
        }
    }

    async fn detached(
        &self,
        context: &Context,
        spec: &RunSpec,
        contents: &[Vec<u8>],
        module: &[u8],
    ) -> Result<(), Failure> {
        let client = context.client()?;
        let message = format!("compiling {}", self.program.display());
        let process = during(&message, client.run(spec, contents, module)).await?;
        match context.json {
            true => output::json(&process),
            false => output::line(&process.id.to_string()),
        }
    }
}

/// `K=V` as it is, `K` with the value it has here; none if it has none.
fn variable(text: &str) -> Option<String> {
    if text.contains('=') {
        return Some(text.to_owned());
    }
    let value = std::env::var(text).ok()?;
    Some(format!("{text}={value}"))
}

/// Runs the program here, until it ends or is interrupted.
fn foreground(spec: &RunSpec, contents: &[Vec<u8>], module: Vec<u8>) -> Result<ExitCode, Failure> {
    let options = local::Options {
        cache_dir: cache(),
        ..local::Options::default()
    };
    let runtime = workers()?;
    let mut signal = 0;
    let ended = runtime.block_on(async {
        let interrupt = async { signal = asked_to_end().await };
        local::run(spec, contents, module, options, say_where, interrupt).await
    });
    // A thread may be reading the terminal; it must not hold up the end.
    runtime.shutdown_background();
    match ended.map_err(not_run)? {
        local::Ended::Exited(code) => Ok(guest_code(code)),
        local::Ended::Trapped { reason, backtrace } => {
            let message = format!("the program trapped: {reason}\n{backtrace}");
            Err(Failure::with_code(code::TRAPPED, message.trim_end()))
        }
        local::Ended::Interrupted => Err(Failure::quiet(signal)),
        local::Ended::Unread => Err(Failure::quiet(code::UNREAD)),
    }
}

/// Runs the program here, freezing and thawing it.
fn tortured(
    spec: &RunSpec,
    contents: &[Vec<u8>],
    module: &[u8],
    seed: u64,
) -> Result<ExitCode, Failure> {
    let mut input = Vec::new();
    let mut stdin = std::io::stdin();
    if !stdin.is_terminal() {
        stdin
            .read_to_end(&mut input)
            .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
    }
    let show = Arc::new(|descriptor: u32, bytes: &[u8]| {
        // What cannot be written is still compared.
        let _ = match descriptor {
            1 => std::io::stdout().write_all(bytes),
            _ => std::io::stderr().write_all(bytes),
        };
    });
    let done = torture::run(spec, contents, module, input, seed, show).map_err(not_run)?;
    std::io::stdout().flush()?;
    if let Some(difference) = done.difference {
        return Err(Failure::new(format!(
            "frozen {} times with seed {seed}, the program behaves differently than without: \
             {difference}; please report this with the program",
            done.freezes
        )));
    }
    eprintln!(
        "limosa: frozen {} times, {} of them inside calls; the largest snapshot had {}",
        done.freezes,
        done.freezes_in_calls,
        output::bytes(done.largest_snapshot)
    );
    match done.ended {
        torture::Ended::Exited(code) => Ok(guest_code(code)),
        torture::Ended::Trapped(reason) => {
            let message = format!("the program trapped: {reason}");
            Err(Failure::with_code(code::TRAPPED, message))
        }
        torture::Ended::Stalled => Err(Failure::new(
            "the program waits for what will never happen; under torture it has no clients, and \
             standard input is read to its end before it starts",
        )),
    }
}

/// The low byte of the program's exit code, as the operating system would keep.
fn guest_code(code: i32) -> ExitCode {
    ExitCode::from(code.to_le_bytes()[0])
}

/// What kept a program from running.
fn not_run(error: LocalError) -> Failure {
    let code = match &error {
        LocalError::Module(_) => code::NOT_RUNNABLE,
        _ => code::NOT_STARTED,
    };
    Failure::with_code(code, error)
}

/// Says where the program listens where the system has chosen the port.
fn say_where(listeners: &[ListenerInfo]) {
    for ListenerInfo { name, address, .. } in listeners {
        eprintln!("limosa: listening on {address} ({name})");
    }
}

/// Where compiled code is kept between runs; nowhere if that cannot be.
fn cache() -> Option<PathBuf> {
    let absolute = |name| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    let cache = cache.join("limosa");
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&cache);
    made.is_ok().then_some(cache)
}
