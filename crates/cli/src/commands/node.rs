//! Nodes: `up join down nodes ticket`.

use super::{Context, background, workers};
use crate::failure::{Failure, code};
use crate::output;
use crate::progress::during;
use crate::signals::asked_to_end;
use crate::values;
use clap::{Args, ValueEnum};
use daemon::torture::Backend;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use wire::NodeId;
use wire::api::{NodeInfo, NodeState};
use wire::ticket::Ticket;

/// What a node that was told to end may take for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Start a node on this machine
///
/// The first node of a fleet prints a ticket with which others join.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa up                                  in the foreground, until Ctrl-C
  limosa up -d                               in the background, until `limosa down`
  limosa up --listen-link 192.0.2.7:7420     for other machines to join

A node that has been in a fleet before comes back to it, and listens where it did.")]
pub struct Up {
    #[command(flatten)]
    node: NodeArgs,
}

/// Start a node on this machine that joins the fleet of another
#[derive(Args)]
#[command(after_help = "\
Examples:
  limosa join limosa-mfrgg... -d --listen-link 192.0.2.8:7420
  limosa --state /tmp/two join limosa-mfrgg... --name two
                                             a second node on one machine

Whoever has the ticket can join: treat it as a password. `limosa ticket` prints it again.")]
pub struct Join {
    /// What `limosa up` or `limosa ticket` printed on a machine of the fleet, or - to read it from
    /// standard input, where nobody else sees it
    ticket: String,
    #[command(flatten)]
    node: NodeArgs,
}

impl fmt::Debug for Join {
    /// Without the ticket: whoever has it can join.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// In the background; the log goes to limosa.log in the state directory
    #[arg(short = 'd', long)]
    detach: bool,
    /// A name for people [default: the one it had, or the machine's name]
    #[arg(long, value_parser = values::name)]
    name: Option<String>,
    /// Where other nodes reach this one; port 0 takes any free one [default: where they last did;
    /// at its first start 127.0.0.1:7420, or any free port if it joins or that is taken]
    #[arg(long, value_name = "ADDR:PORT", value_parser = values::link_address)]
    listen_link: Option<String>,
    /// Fold processes that have waited so long: they keep only what they need to go on, and answer
    /// when called; 0 is never
    #[arg(long, value_name = "SECONDS", default_value_t = daemon::FOLD_AFTER.as_secs())]
    fold_after: u64,
    /// Let processes be given this directory, and those beneath it, as volumes; may be given several
    /// times [default: none]
    #[arg(long, value_name = "DIR")]
    volumes: Vec<PathBuf>,
    /// What programs run as: this processor's code, or in the portable interpreter Pulley, which is
    /// slower
    #[arg(long, value_enum, default_value = "native")]
    backend: Runs,
    /// This process is the one in the background.
    #[arg(long, hide = true)]
    background: bool,
    /// End and remove the state directory when standard input ends.
    #[arg(long, hide = true)]
    ephemeral: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Runs {
    Native,
    Pulley,
}

/// What a node tells once it answers; one line with --json. Holds the ticket, so it has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ready {
    /// Its id.
    node: NodeId,
    /// Its name.
    name: String,
    /// Where its links listen.
    address: String,
    /// Where they did at its last start, if somebody else listens there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    taken_address: Option<String>,
    /// Lets others join.
    ticket: String,
    /// Why there is no ticket now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    no_ticket: Option<String>,
    /// Where its API listens.
    socket: PathBuf,
}

impl Up {
    pub fn perform(self, context: &Context) -> Result<ExitCode, Failure> {
        self.node.perform(context, None)
    }
}

impl Join {
    pub fn perform(self, context: &Context) -> Result<ExitCode, Failure> {
        if self.ticket != "-" {
            return self.node.perform(context, Some(&self.ticket));
        }
        let mut ticket = String::new();
        std::io::stdin()
            .read_line(&mut ticket)
            .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
        self.node.perform(context, Some(ticket.trim()))
    }
}

impl NodeArgs {
    fn perform(&self, context: &Context, ticket: Option<&str>) -> Result<ExitCode, Failure> {
        let state = context.state()?;
        // A wrong ticket is said here, not in the log of a node in the background.
        let join: Option<Ticket> = ticket
            .map(|text| text.trim().parse())
            .transpose()
            .map_err(|error| Failure::with_code(code::USAGE, error))?;
        let volumes = self.volumes()?;
        if self.detach {
            let ready = background::start(&state, &self.again(ticket.is_some()), ticket)?;
            return match context.json {
                true => output::json(&ready),
                false => output::line(&self.introduce(context, &ready, &state)),
            }
            .map(|()| ExitCode::SUCCESS);
        }
        if self.background {
            // The terminal's end is not the node's.
            let _ = rustix::process::setsid();
        }
        log_of(self.background.then_some(state.as_path()));
        let config = daemon::NodeConfig {
            state_dir: state.clone(),
            name: self.name.clone().unwrap_or_else(machine_name),
            keep_name: self.name.is_none(),
            listen: match &self.listen_link {
                Some(address) => address.clone(),
                // The usual place is the first node's, which may be away now.
                None if join.is_some() => FREE_LISTEN.to_owned(),
                None => default_listen(),
            },
            keep_listen: self.listen_link.is_none(),
            join,
            fold_after: (self.fold_after > 0).then(|| Duration::from_secs(self.fold_after)),
            volumes,
            backend: match self.backend {
                Runs::Native => Backend::Native,
                Runs::Pulley => Backend::Pulley,
            },
            ..daemon::NodeConfig::default()
        };
        let stdin_ends = self.ephemeral;
        let runtime = workers()?;
        let ran = runtime.block_on(daemon::run_node(
            config,
            |ready| self.announce(context, &state, ready),
            ended(stdin_ends),
        ));
        // What still runs in threads must not hold up the end.
        runtime.shutdown_timeout(Duration::from_millis(500));
        if self.ephemeral {
            let _ = std::fs::remove_dir_all(&state);
        }
        let failed = |error| match error {
            daemon::RunError::Listen { .. } => {
                Failure::new(format!("{error}; choose another place with --listen-link"))
            }
            error => Failure::new(error),
        };
        ran.map_err(failed).inspect_err(|failure| {
            if self.background {
                background::tell(failure);
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }

    /// The arguments with which the node in the background is started.
    fn again(&self, joins: bool) -> Vec<String> {
        let mut args = match joins {
            true => vec!["join".to_owned(), "-".to_owned()],
            false => vec!["up".to_owned()],
        };
        if let Some(name) = &self.name {
            args.extend(["--name".to_owned(), name.clone()]);
        }
        if let Some(address) = &self.listen_link {
            args.extend(["--listen-link".to_owned(), address.clone()]);
        }
        args.extend(["--fold-after".to_owned(), self.fold_after.to_string()]);
        if self.backend == Runs::Pulley {
            args.push("--backend=pulley".to_owned());
        }
        for directory in &self.volumes {
            // It begins elsewhere.
            let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
            args.push(format!("--volumes={}", directory.display()));
        }
        args
    }

    /// The directories that processes may be given, by their absolute paths.
    fn volumes(&self) -> Result<Vec<PathBuf>, Failure> {
        let absolute = |directory: &PathBuf| {
            let failed = |error| Failure::file("open", directory, &error);
            std::fs::read_dir(directory).map_err(failed)?;
            std::path::absolute(directory).map_err(failed)
        };
        self.volumes.iter().map(absolute).collect()
    }

    fn announce(&self, context: &Context, state: &Path, ready: daemon::Ready) {
        let ready = Ready {
            node: ready.node,
            name: ready.name,
            address: ready.address,
            taken_address: ready.taken_address,
            ticket: ready.ticket,
            no_ticket: ready.no_ticket,
            socket: ready.socket,
        };
        let printed = if context.json {
            output::json(&ready)
        } else {
            output::line(&self.introduce(context, &ready, state))
        };
        if let Err(failure) = printed {
            // The node is of use although no one reads this.
            failure.report();
        }
    }

    /// What a person wants to know once a node is up.
    fn introduce(&self, context: &Context, ready: &Ready, state: &Path) -> String {
        let down = context.spell("down");
        let Ready {
            node,
            name,
            address,
            taken_address,
            ticket,
            no_ticket,
            ..
        } = ready;
        let short = node.short();
        let end = if self.detach {
            let log = background::log_path(state);
            format!("Its log is {}. Stop it with `{down}`.", log.display())
        } else {
            format!("Stop it with Ctrl-C or `{down}`.")
        };
        let join = if ticket.is_empty() {
            let reason = no_ticket.as_deref();
            let reason = reason.unwrap_or("the node that keeps the directory does not answer");
            format!(
                "There is no ticket for others now: {reason}.\n`limosa ticket` prints it when there is."
            )
        } else {
            let only = match address.parse::<SocketAddr>() {
                Ok(address) if address.ip().is_loopback() => {
                    " of this machine (for others, listen where they can reach it: --listen-link)"
                }
                _ => "",
            };
            format!("Another node{only} joins with:\n\n  limosa join {ticket}")
        };
        let moved = match taken_address {
            Some(taken) => format!(
                "\nTheir last address, {taken}, is taken: tickets that lead there are of no use, and \
                 nodes that are down now will not find this one there."
            ),
            None => String::new(),
        };
        format!(
            "node {name} ({short}) is up; its links listen on {address}{moved}\n\n{join}\n\n{end}"
        )
    }
}

/// Waits for what ends a node in the foreground.
async fn ended(stdin_ends: bool) {
    tokio::select! {
        _ = asked_to_end() => {}
        () = end_of_stdin(), if stdin_ends => {}
    }
}

/// Standard input ends when the process that holds its other end does, however it ends.
async fn end_of_stdin() {
    let (ended, wait) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(ended);
    });
    let _ = wait.await;
}

/// Any free port.
const FREE_LISTEN: &str = "127.0.0.1:0";

/// The usual place, or a free one beside it: several nodes on one machine need no flags.
fn default_listen() -> String {
    match TcpListener::bind(daemon::DEFAULT_LISTEN) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => FREE_LISTEN.to_owned(),
        _ => daemon::DEFAULT_LISTEN.to_owned(),
    }
}

/// The machine's name up to the first dot.
fn machine_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let name = name.split('.').next().unwrap_or_default();
    wire::name::name_from(name, wire::name::MAX_NAME, "node")
}

/// Diagnostics go to standard error, or to the log in the state directory that is given; LIMOSA_LOG
/// chooses them, as in `LIMOSA_LOG=daemon=debug`.
fn log_of(state: Option<&Path>) {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("LIMOSA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour);
    // Without a file standard error has to do: it is the same one, though it grows.
    let file = state.and_then(|state| background::NodeLog::open(state).ok());
    // Fails only if it was done before.
    let _ = match file {
        Some(file) => log.with_writer(Mutex::new(file)).try_init(),
        None => log.with_writer(std::io::stderr).try_init(),
    };
}

/// Stop the node on this machine, with its processes
#[derive(Debug, Args)]
pub struct Down {}

impl Down {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let node = client.daemon_pid().await?;
        // Opened while it lives: no other process can have its number.
        let node = node.and_then(Pid::from_raw);
        let node = node.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        client.shutdown().await?;
        let state = context.state()?;
        let gone = async {
            let deadline = Instant::now() + PATIENCE;
            let runs = || match &node {
                Some(process) => lives(process),
                None => daemon::state_dir::is_in_use(&state),
            };
            while runs() {
                if Instant::now() > deadline {
                    return Err(Failure::new(format!(
                        "the node was told to stop, but still runs after {} s; see its log",
                        PATIENCE.as_secs()
                    )));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        during("waiting for the node to end", gone).await
    }
}

/// Whether a process has not ended.
fn lives(process: &OwnedFd) -> bool {
    // It can be read from when the process has ended, collected or not.
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let at_once = Timespec::default();
    matches!(poll(&mut fds, Some(&at_once)), Ok(0))
}

/// List the nodes of the fleet
///
/// As this machine's node sees them.
#[derive(Debug, Args)]
pub struct Nodes {}

impl Nodes {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let listing = context.client()?.list_nodes().await?;
        output::incomplete(&listing.incomplete);
        let nodes = listing.items;
        if context.json {
            return output::json(&nodes);
        }
        let row = |node: &NodeInfo| {
            let state = match node.state {
                NodeState::Alive => "alive",
                NodeState::Suspect => "suspect",
                NodeState::Dead => "dead",
            };
            let notes = [(node.this, "this node"), (node.directory, "directory")];
            let notes = notes
                .iter()
                .filter(|(holds, _)| *holds)
                .map(|(_, note)| *note);
            vec![
                node.name.clone(),
                node.id.short(),
                node.address.clone(),
                state.to_owned(),
                node.processes.to_string(),
                node.version.clone(),
                notes.collect::<Vec<_>>().join(", "),
            ]
        };
        output::table(
            &[
                "NAME",
                "ID",
                "ADDRESS",
                "STATE",
                "PROCESSES",
                "VERSION",
                "NOTES",
            ],
            nodes.iter().map(row),
        )
    }
}

/// Print the ticket with which another machine joins this fleet
///
/// Whoever has it can join: treat it as a password.
#[derive(Debug, Args)]
pub struct PrintTicket {}

#[derive(Serialize)]
struct TicketOutput {
    ticket: String,
}

impl PrintTicket {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let ticket = context.client()?.ticket().await?;
        match context.json {
            true => output::json(&TicketOutput { ticket }),
            false => output::line(&ticket),
        }
    }
}
