//! Looking at processes and ending them: `ps inspect logs wait stop kill rm`.

use super::Context;
use super::attach::lost;
use crate::failure::Failure;
use crate::output;
use crate::progress::during;
use crate::values;
use clap::Args;
use daemon::client::ClientError;
use serde::Serialize;
use std::fmt::Write as _;
use std::future::Future;
use std::io::Write;
use wire::api::{
    ListenerInfo, OutgoingInfo, OutgoingState, ProcessAccounts, ProcessInfo, ProcessState,
};
use wire::snapshot::Binding;

/// List processes
///
/// Of the whole fleet. Those that have ended stay listed at their last node until they are removed;
/// those that were lost with their node too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa ps
  limosa ps -a --json
  limosa rm -f $(limosa ps -aq)      end and forget all of them")]
pub struct Ps {
    /// Also those that have ended
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
}

impl Ps {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let listing = context.client()?.list_processes().await?;
        output::incomplete(&listing.incomplete);
        let mut processes = listing.items;
        // What was lost with its node is shown: somebody must know.
        processes.retain(|process| self.all || process.state != ProcessState::Exited);
        processes.sort_by_key(|process| (process.age_seconds, process.id));
        if self.quiet {
            let ids: Vec<String> = processes
                .iter()
                .map(|process| process.id.to_string())
                .collect();
            return match (context.json, ids.is_empty()) {
                (true, _) => output::json(&ids),
                (false, true) => Ok(()),
                (false, false) => output::line(&ids.join("\n")),
            };
        }
        if context.json {
            return output::json(&processes);
        }
        let row = |process: &ProcessInfo| {
            // Of a process that is lost with its node, nobody knows.
            let away = process.state == ProcessState::Lost;
            let lost =
                away || (process.state == ProcessState::Exited && process.exit_code.is_none());
            let known = |text: String| if lost { "-".to_owned() } else { text };
            vec![
                process.id.to_string(),
                process.name.clone(),
                process.node_name.clone(),
                state(process),
                known(output::age(process.age_seconds)),
                known(output::bytes(process.memory_bytes)),
                known(process.moves.to_string()),
                known(process.connections.to_string()),
                listeners(&process.listeners).join(", "),
            ]
        };
        output::table(
            &[
                "ID", "NAME", "NODE", "STATE", "AGE", "MEMORY", "MOVES", "CONNS", "LISTENS",
            ],
            processes.iter().map(row),
        )
    }
}

/// A state in words.
fn state(process: &ProcessInfo) -> String {
    match (process.state, process.exit_code) {
        (ProcessState::Starting, _) => "starting".to_owned(),
        (ProcessState::Running, _) => "running".to_owned(),
        (ProcessState::Moving, _) => "moving".to_owned(),
        (ProcessState::Exited, Some(code)) => format!("exited ({code})"),
        (ProcessState::Exited, None) => "exited (lost)".to_owned(),
        (ProcessState::Lost, _) => "lost".to_owned(),
    }
}

/// `ADDR:PORT`, with the names where there are several.
fn listeners(listeners: &[ListenerInfo]) -> Vec<String> {
    let several = listeners.len() > 1;
    let text = |listener: &ListenerInfo| {
        let closed = if listener.open { "" } else { " (closed)" };
        match several {
            true => format!("{}={}{closed}", listener.name, listener.address),
            false => format!("{}{closed}", listener.address),
        }
    };
    listeners.iter().map(text).collect()
}

/// Tell everything about a process
#[derive(Debug, Args)]
pub struct Inspect {
    /// Name, id, or the first digits of the id
    #[arg(value_parser = values::reference)]
    process: String,
}

impl Inspect {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let process = context.client()?.inspect(&self.process).await?;
        if context.json {
            return output::json(&process);
        }
        output::line(describe(&process).trim_end())
    }
}

fn describe(process: &ProcessInfo) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| {
        let _ = writeln!(text, "{:<12} {value}", format!("{name}:"));
    };
    field("id", process.id.to_string());
    field("name", process.name.clone());
    let folded = if process.folded { ", folded" } else { "" };
    field("state", format!("{}{folded}", state(process)));
    if let Some(reason) = &process.reason {
        field("reason", reason.clone());
    }
    field(
        "node",
        format!("{} ({})", process.node_name, process.node.short()),
    );
    field("epoch", process.epoch.to_string());
    field("image", process.image.to_string());
    field("age", output::age(process.age_seconds));
    field("memory", output::bytes(process.memory_bytes));
    field("freezes", process.freezes.to_string());
    field("moves", process.moves.to_string());
    field("connections", process.connections.to_string());
    describe_accounts(&process.accounts, &mut field);
    for listener in &process.listeners {
        let ListenerInfo {
            name,
            anchor_name,
            address,
            ..
        } = listener;
        let closed = if listener.open { "" } else { ", closed" };
        field(
            "listener",
            format!("{name} at {address} on node {anchor_name}{closed}"),
        );
    }
    for volume in &process.volumes {
        let binding = match volume.binding {
            Binding::Share => "shared",
            Binding::Pin => "pinned",
        };
        field("volume", format!("{volume}, {binding}"));
    }
    for rule in &process.allow_net {
        field("may reach", rule.to_string());
    }
    for OutgoingInfo {
        to,
        anchor_name,
        state,
        ..
    } in &process.outgoing
    {
        let how = match state {
            OutgoingState::Connecting => ", connecting",
            OutgoingState::Open => "",
            OutgoingState::Broken => ", broken",
        };
        field("opened", format!("{to} by node {anchor_name}{how}"));
    }
    text
}

/// What it has consumed, field by field.
fn describe_accounts(accounts: &ProcessAccounts, field: &mut impl FnMut(&str, String)) {
    let seconds = |nanoseconds: u64| format!("{:.2}s", nanoseconds as f64 / 1e9);
    let (user, kernel) = (accounts.cpu_user_ns, accounts.cpu_kernel_ns);
    field(
        "cpu",
        format!(
            "{} and {} in the system's kernel",
            seconds(user),
            seconds(kernel)
        ),
    );
    field("cpu weight", accounts.cpu_weight.to_string());
    field(
        "switches",
        format!(
            "waited {} times, interrupted {} times",
            accounts.voluntary_switches, accounts.involuntary_switches
        ),
    );
    field(
        "page faults",
        format!(
            "{}, {} from disk",
            accounts.minor_faults, accounts.major_faults
        ),
    );
    if let (Some(resident), Some(private)) = (accounts.resident_bytes, accounts.private_bytes) {
        let (resident, private) = (output::bytes(resident), output::bytes(private));
        field("resident", format!("{resident}, {private} of it private"));
    }
    field("tree", output::bytes(accounts.file_bytes));
    for (name, device) in [
        ("stdio", &accounts.stdio),
        ("files", &accounts.files),
        ("sockets", &accounts.sockets),
    ] {
        let (read, written) = (
            output::bytes(device.read_bytes),
            output::bytes(device.written_bytes),
        );
        field(
            name,
            format!(
                "{read} in {} reads, {written} in {} writes",
                device.reads, device.writes
            ),
        );
    }
    field("clock", format!("{} readings", accounts.clock_reads));
}

/// Print what a process wrote
///
/// Standard output and standard error, each to its own.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa logs bank --tail 20
  limosa logs -f bank            goes on, through moves, until the process ends")]
pub struct Logs {
    /// Name, id, or the first digits of the id
    #[arg(value_parser = values::reference)]
    process: String,
    /// Go on with what it writes from now on, until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<u64>,
}

/// One piece of a log in JSON; one object per line.
#[derive(Serialize)]
struct Piece<'a> {
    stream: &'static str,
    text: std::borrow::Cow<'a, str>,
}

impl Logs {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let mut logs = client.logs(&self.process, self.follow, self.tail).await?;
        let breaks_off = |error| match error {
            ClientError::Protocol(reason) => Failure::new(format!(
                "the log breaks off here, its node went away ({reason}); see `limosa inspect {}`",
                self.process
            )),
            error => error.into(),
        };
        while let Some((stream, bytes)) = logs.next().await.map_err(breaks_off)? {
            let to_error = stream == 2;
            if context.json {
                let piece = Piece {
                    stream: if to_error { "stderr" } else { "stdout" },
                    text: String::from_utf8_lossy(&bytes),
                };
                // Never indented: a reader takes it line by line.
                let text = serde_json::to_string(&piece).map_err(Failure::new)?;
                output::line(&text)?;
            } else if to_error {
                std::io::stderr().write_all(&bytes)?;
            } else {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&bytes)?;
                stdout.flush()?;
            }
        }
        Ok(())
    }
}

/// Several processes at once: all are tried, what fails is said, the first failure's code counts.
/// `show` may find that what came of one is a failure.
async fn each<'a, F>(
    context: &Context,
    processes: &'a [String],
    act: impl Fn(&'a str) -> F,
    show: impl Fn(&str, &ProcessInfo) -> Result<String, Failure>,
) -> Result<(), Failure>
where
    F: Future<Output = Result<ProcessInfo, ClientError>>,
{
    let mut results = Vec::new();
    let mut first = None;
    for process in processes {
        let info = act(process).await.map_err(Failure::from);
        let shown = match &info {
            Ok(info) => show(process, info),
            Err(_) => Ok(String::new()),
        };
        let failed = match (info, shown) {
            (Err(failure), _) => Some(failure),
            (Ok(info), shown) if context.json => {
                results.push(info);
                shown.err()
            }
            (Ok(_), Ok(line)) => {
                output::line(&line)?;
                None
            }
            (Ok(_), Err(failure)) => Some(failure),
        };
        if let Some(failure) = failed {
            let code = failure.report();
            first.get_or_insert(code);
        }
    }
    if context.json {
        output::json(&results)?;
    }
    first.map_or(Ok(()), |code| Err(Failure::quiet(code)))
}

/// Wait until processes have ended, and print their exit codes
#[derive(Debug, Args)]
pub struct Wait {
    /// Names, ids, or the first digits of ids
    #[arg(required = true, value_parser = values::reference)]
    processes: Vec<String>,
}

impl Wait {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let wait = async |process: &str| client.wait(process).await;
        each(context, &self.processes, wait, |_, info| {
            match (info.state, info.exit_code) {
                (ProcessState::Lost, _) => Err(Failure::new(lost(info))),
                (_, Some(code)) => Ok(code.to_string()),
                (_, None) => {
                    let reason = info.reason.as_deref().unwrap_or("nobody knows how");
                    let name = &info.name;
                    Err(Failure::new(format!("process {name} has ended: {reason}")))
                }
            }
        })
        .await
    }
}

/// End processes: no new clients, then wait for those there are, then kill
#[derive(Debug, Args)]
pub struct Stop {
    /// Names, ids, or the first digits of ids
    #[arg(required = true, value_parser = values::reference)]
    processes: Vec<String>,
    /// How long to wait for open connections
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

impl Stop {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let stop = async |process: &str| {
            let stopped = client.stop(process, Some(self.timeout));
            during(&format!("stopping {process}"), stopped).await
        };
        each(context, &self.processes, stop, |process, _| {
            Ok(process.to_owned())
        })
        .await
    }
}

/// End processes at once
#[derive(Debug, Args)]
pub struct Kill {
    /// Names, ids, or the first digits of ids
    #[arg(required = true, value_parser = values::reference)]
    processes: Vec<String>,
}

impl Kill {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let kill = async |process: &str| client.kill(process).await;
        each(context, &self.processes, kill, |process, _| {
            Ok(process.to_owned())
        })
        .await
    }
}

/// Forget ended processes
///
/// With their logs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa stop bank && limosa rm bank
  limosa rm -f $(limosa ps -aq)      all of them, if there are any")]
pub struct Rm {
    /// Names, ids, or the first digits of ids; with -f there may be none
    #[arg(required_unless_present = "force", value_parser = values::reference)]
    processes: Vec<String>,
    /// Kill those that still run
    #[arg(short, long)]
    force: bool,
}

impl Rm {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        // What was removed is described as it was before.
        let remove = async |process: &str| {
            let info = client.inspect(process).await?;
            client.remove(process, self.force).await?;
            Ok(info)
        };
        each(context, &self.processes, remove, |process, _| {
            Ok(process.to_owned())
        })
        .await
    }
}
