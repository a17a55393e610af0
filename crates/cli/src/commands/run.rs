//! `limosa run`: a program in the foreground, without any daemon, or as a process of a node.

use super::{Context, attach, workers};
use crate::failure::{Failure, code};
use crate::listen::Listen;
use crate::progress::{Waiting, during, while_waiting};
use crate::signals::asked_to_end;
use crate::tree::{Mount, Tree, VolumeArg};
use crate::{input, output, values};
use clap::{Args, ValueEnum};
use daemon::client::{Client, ClientError};
use daemon::local::{self, LocalError};
use daemon::torture::{self, Backend, Subject, Tortured};
use serde::Serialize;
use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use wire::api::{LimitSpec, ListenerInfo, ProcessInfo, RunSpec, Terminals};
use wire::destination::Rule;
use wire::snapshot::Volume;

/// Run a program: here in the foreground, or as a process of a node
///
/// Without more it runs here, without any daemon, with the terminal's standard streams, and limosa
/// ends with its exit code. With -d it becomes a process of this machine's node, or of the one named
/// by --on, and its id is printed. With --on or --name and without -d it is such a process too, and
/// the terminal stays with it, wherever it moves: it reads and writes here, Ctrl-C kills it, and
/// limosa ends with its exit code. The program is a WebAssembly module for WASI preview 1.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa run hello.wasm -- --name world
  limosa run -e LANG=C --dir ./data:/data tool.wasm -- /data/input
  limosa run --volume ./photos:/photos:share tool.wasm
  limosa run server.wasm --listen 8080
  limosa run tool.wasm --allow-net example.org:443
  limosa run --on two --rm hello.wasm        on another node, with its output here
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
    #[arg(long, value_parser = values::name)]
    name: Option<String>,

    /// Set a variable of its environment; without =V it is taken from here
    #[arg(short, long, value_name = "K[=V]", value_parser = values::variable)]
    env: Vec<String>,

    /// Copy a directory (or file) into the process's own file tree
    ///
    /// SRC must exist. The process works on its copy, which travels with it: changes never come
    /// back to SRC. Symbolic links stay links; devices, sockets and pipes are refused.
    #[arg(long, value_name = "SRC:DST")]
    dir: Vec<Mount>,

    /// Give it a directory as a volume: a copy of its own, or the directory itself
    ///
    /// `copy` is what --dir does: the copy goes along when the process moves. With `share` the
    /// process works in SRC itself, which must be a directory of the same path on every node it
    /// moves to; a move to one that lacks it is refused. With `pin` it works in SRC, and stays on
    /// its node: a move is refused. On a node, SRC must be in a directory that the node was started
    /// with: --volumes.
    #[arg(long, value_name = "SRC:DST[:copy|share|pin]")]
    volume: Vec<VolumeArg>,

    /// Open a listener for it; may be given several times
    ///
    /// A port alone means 127.0.0.1, so that nothing is open to the network by mistake; say
    /// 0.0.0.0:PORT for every interface. Port 0 takes any free one, which is said. The listener of a
    /// process of a node is on the node that is asked, and stays there when the process moves.
    #[arg(long, value_name = "[NAME=][ADDR:]PORT")]
    listen: Vec<Listen>,

    /// Let it connect there; may be given several times
    ///
    /// HOST is a name, *.NAME for all below it, an address, a network as 10.0.0.0/8 or [fd00::/8],
    /// or * for any; PORT may be *. Without this a program connects to nothing outside. It does so by
    /// opening /net/tcp/HOST/PORT, as it opens a file. A name does not let it reach this machine
    /// itself; say localhost:PORT or 127.0.0.1:PORT for that.
    #[arg(long, value_name = "HOST:PORT")]
    allow_net: Vec<Rule>,

    /// The node to run on: name, id, or the first digits of the id
    #[arg(long, value_name = "NODE", value_parser = values::reference)]
    on: Option<String>,

    /// Forget the process when it has ended; a program that runs here leaves nothing anyway
    #[arg(long, conflicts_with = "detach")]
    rm: bool,

    /// Its share of the cores while it computes, 1 to 10000, as in cgroups; 100 is the normal one
    ///
    /// Of two processes that could both use a whole core, one with twice the weight gets twice the
    /// time. Weights above 100 need the right to raise priorities
    /// (CAP_SYS_NICE).
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cpu_weight: Option<u32>,

    /// Memory that it may have at most, as in 64M; 4G if not said
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    memory: Option<u64>,

    /// What its files and their names may take at most, as in 10M; 1G if not said
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    files: Option<u64>,

    /// Descriptors that it may have open at most; 1024 if not said
    #[arg(long, value_name = "N")]
    descriptors: Option<u32>,

    /// Freeze it at random points that follow from SEED, write it down, and go on from there
    ///
    /// Each time in a fresh instance, with a virtual clock and seeded randomness. The output is that
    /// of a plain run: this shows that the program can be moved at any time. What was done is said
    /// on standard error, with --json as an object.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["detach", "allow_net", "listen", "name", "on", "rm"])]
    torture: Option<u64>,

    /// What goes on after each freeze under --torture: this processor's code, the portable
    /// interpreter Pulley, or now one and now the other
    #[arg(long, value_enum, requires = "torture", default_value = "both")]
    backend: Backends,

    /// Run it as it is, also if it uses what cannot be frozen
    ///
    /// For programs that are refused: with garbage-collected types or typed function references.
    /// Such a process can be neither moved nor written down, so it runs in the foreground only.
    #[arg(long, conflicts_with_all = ["detach", "torture", "name", "on", "rm"])]
    immobile: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backends {
    Native,
    Pulley,
    Both,
}

impl Backends {
    fn list(self) -> Vec<Backend> {
        match self {
            Backends::Native => vec![Backend::Native],
            Backends::Pulley => vec![Backend::Pulley],
            Backends::Both => vec![Backend::Native, Backend::Pulley],
        }
    }
}

/// A process of a node that is to be started.
pub struct Started<'a> {
    program: &'a Path,
    spec: &'a RunSpec,
    contents: &'a [Vec<u8>],
    module: &'a [u8],
}

impl Started<'_> {
    /// Says what is being done.
    pub fn message(&self) -> String {
        format!("compiling {}", self.program.display())
    }

    /// Starts it.
    pub async fn perform(&self, client: &Client) -> Result<ProcessInfo, ClientError> {
        client.run(self.spec, self.contents, self.module).await
    }
}

impl Run {
    /// Whether it becomes a process of a node with which the terminal stays.
    fn attached(&self) -> bool {
        !self.detach && (self.on.is_some() || self.name.is_some())
    }

    pub fn perform(self, context: &Context) -> Result<ExitCode, Failure> {
        // Whatever fails from here on does so before the program runs.
        let early = |failure: Failure| failure.or_code(code::NOT_STARTED);
        let module = input::module(&self.program)?;
        let copies = self.volume.iter().filter(|volume| volume.binding.is_none());
        let copies = copies.map(|volume| volume.mount.clone());
        let mounts: Vec<Mount> = self.dir.iter().cloned().chain(copies).collect();
        let volumes = self.volumes()?;
        let tree = Tree::read(&mounts).map_err(early)?;
        let mut args = vec![self.program.display().to_string()];
        args.extend(self.args.iter().cloned());
        let spec = RunSpec {
            name: self.name.clone(),
            args,
            env: self.env.clone(),
            listen: self.listen.iter().map(Listen::spec).collect(),
            files: tree.files,
            volumes,
            allow_net: self.allow_net.clone(),
            on: self.on.clone(),
            attach: self.attached().then(terminals),
            cpu_weight: self.cpu_weight,
            limits: LimitSpec {
                memory_bytes: self.memory,
                file_bytes: self.files,
                descriptors: self.descriptors,
            },
        };
        if let Some(seed) = self.torture {
            let backends = self.backend.list();
            return tortured(context, &spec, &tree.contents, &module, seed, backends);
        }
        let start = Started {
            program: &self.program,
            spec: &spec,
            contents: &tree.contents,
            module: &module,
        };
        if self.detach {
            return super::finish(detached(context, start));
        }
        if self.attached() {
            return attach::run(context, start, self.rm);
        }
        let message = start.message();
        foreground(&message, &spec, &tree.contents, module, self.immobile)
    }

    /// The volumes that are directories of a node, by their absolute paths.
    fn volumes(&self) -> Result<Vec<Volume>, Failure> {
        let wrong = |message: String| Err(Failure::with_code(code::USAGE, message));
        let mut volumes = Vec::new();
        for VolumeArg { mount, binding } in &self.volume {
            let Some(binding) = *binding else { continue };
            let shown = mount.source.display();
            if self.torture.is_some() {
                return wrong(format!(
                    "--torture runs the program twice, and the second run would find in `{shown}` \
                     what the first has left; give it a copy: {shown}:{}:copy",
                    mount.target
                ));
            }
            if self.on.is_some() && !mount.source.is_absolute() {
                return wrong(format!(
                    "`{shown}` is a path on the node that --on names; give it from the root on"
                ));
            }
            // `..` means something else behind a link; on another node nobody here knows.
            let upwards = mount
                .source
                .components()
                .any(|part| part == Component::ParentDir);
            let source = match upwards && self.on.is_none() {
                true => fs::canonicalize(&mount.source),
                false => std::path::absolute(&mount.source),
            };
            let source = source.map_err(|error| Failure::file("find", &mount.source, &error))?;
            let Some(source) = source.to_str() else {
                return wrong(format!("the path `{shown}` is not UTF-8; rename it"));
            };
            volumes.push(Volume {
                source: source.to_owned(),
                destination: mount.target.clone(),
                binding,
            });
        }
        Ok(volumes)
    }
}

/// What the standard streams are here.
fn terminals() -> Terminals {
    Terminals {
        stdin: std::io::stdin().is_terminal(),
        stdout: std::io::stdout().is_terminal(),
        stderr: std::io::stderr().is_terminal(),
    }
}

/// Starts it, and leaves it to its node.
async fn detached(context: &Context, start: Started<'_>) -> Result<(), Failure> {
    let client = context.client()?;
    let process = during(&start.message(), start.perform(&client)).await;
    let process = process.map_err(|error| Failure::from(error).or_code(code::NOT_STARTED))?;
    match context.json {
        true => output::json(&process),
        false => output::line(&process.id.to_string()),
    }
}

/// Runs the program here, until it ends or is interrupted.
fn foreground(
    message: &str,
    spec: &RunSpec,
    contents: &[Vec<u8>],
    module: Vec<u8>,
    immobile: bool,
) -> Result<ExitCode, Failure> {
    let options = local::Options {
        cache_dir: cache(),
        immobile,
        ..local::Options::default()
    };
    let runtime = workers()?;
    let mut signal = 0;
    let waiting = Waiting::new(message);
    let start = move |listeners: &[ListenerInfo]| {
        drop(waiting);
        say_where(listeners);
    };
    let ended = runtime.block_on(async {
        let interrupt = async { signal = asked_to_end().await };
        local::run(spec, contents, module, options, start, interrupt).await
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
    context: &Context,
    spec: &RunSpec,
    contents: &[Vec<u8>],
    module: &[u8],
    seed: u64,
    backends: Vec<Backend>,
) -> Result<ExitCode, Failure> {
    let mut input = Vec::new();
    let mut stdin = std::io::stdin();
    if !stdin.is_terminal() {
        stdin.read_to_end(&mut input).map_err(|error| {
            let message = format!("cannot read standard input: {error}");
            Failure::with_code(code::NOT_STARTED, message)
        })?;
    }
    let options = torture::Options {
        seed,
        backends,
        input,
        cache_dir: cache(),
    };
    let load = || Subject::load(spec, contents, module, options);
    let subject = while_waiting("compiling it", load).map_err(not_run)?;
    let plain = while_waiting("running it without a freeze first", || subject.plain());
    let plain = plain.map_err(not_run)?;
    let show = Arc::new(|descriptor: u32, bytes: &[u8]| {
        // What cannot be written is still compared.
        let _ = match descriptor {
            1 => std::io::stdout().write_all(bytes),
            _ => std::io::stderr().write_all(bytes),
        };
    });
    let done = subject.torture(&plain, show).map_err(Failure::new)?;
    std::io::stdout().flush()?;
    let summary = Summary::of(seed, &done);
    match context.json {
        true => output::note(&serde_json::to_string(&summary).map_err(Failure::new)?),
        false => output::note(&format!("limosa: {}", summary.text())),
    }
    if let Some(difference) = done.difference {
        return Err(Failure::new(format!(
            "the program behaves differently than without a freeze: {difference}; please report \
             this with the program and the seed"
        )));
    }
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

/// What was done to a tortured program; with --json as it is.
#[derive(Serialize)]
struct Summary {
    seed: u64,
    freezes: u64,
    freezes_in_calls: u64,
    thaws_native: u64,
    thaws_pulley: u64,
    largest_snapshot_bytes: u64,
    same: bool,
    depth_differs: bool,
}

impl Summary {
    fn of(seed: u64, done: &Tortured) -> Summary {
        let thaws = |wanted: Backend| {
            let counts = done.thaws.iter().filter(|(backend, _)| *backend == wanted);
            counts.map(|(_, count)| count).sum()
        };
        Summary {
            seed,
            freezes: done.freezes,
            freezes_in_calls: done.freezes_in_calls,
            thaws_native: thaws(Backend::Native),
            thaws_pulley: thaws(Backend::Pulley),
            largest_snapshot_bytes: done.largest_snapshot,
            same: done.difference.is_none(),
            depth_differs: done.depth_differs,
        }
    }

    fn text(&self) -> String {
        let times = |count: u64| match count {
            1 => "once".to_owned(),
            count => format!("{count} times"),
        };
        if self.freezes == 0 {
            return "never frozen: the program has no place where it could be".to_owned();
        }
        let mut text = format!(
            "frozen {} with seed {}, {} of them inside calls; thawed {} natively and {} on Pulley; \
             the largest snapshot had {}",
            times(self.freezes),
            self.seed,
            self.freezes_in_calls,
            times(self.thaws_native),
            times(self.thaws_pulley),
            output::bytes(self.largest_snapshot_bytes)
        );
        if self.depth_differs {
            text += "\nlimosa: the program overflows its stack. How deep it gets before that differs \
                     from a plain run, since a thawed program has more room; nothing else does";
        }
        text
    }
}

/// The low byte of the program's exit code, as the operating system would keep.
pub fn guest_code(code: i32) -> ExitCode {
    ExitCode::from(code.to_le_bytes()[0])
}

/// What kept a program from running.
fn not_run(error: LocalError) -> Failure {
    let code = match &error {
        // There is no room for its memory.
        LocalError::Module(local::LoadError::Memory(_)) => code::NOT_STARTED,
        LocalError::Module(_) => code::NOT_RUNNABLE,
        _ => code::NOT_STARTED,
    };
    Failure::with_code(code, error)
}

/// Says where the program listens where the system has chosen the port.
pub fn say_where(listeners: &[ListenerInfo]) {
    for ListenerInfo { name, address, .. } in listeners {
        output::note(&format!("limosa: listening on {address} ({name})"));
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
