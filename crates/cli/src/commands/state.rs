//! A process as something that can be carried: `migrate checkpoint restore`.

use super::Context;
use crate::failure::{Failure, code};
use crate::listen::Listen;
use crate::output;
use crate::progress::{during, during_move};
use crate::signals::asked_to_end;
use crate::{input, values};
use clap::{Args, ValueEnum};
use daemon::client::ClientError;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;
use wire::api::MigrateRequest;
use wire::destination::Rule;

/// Move a process to another node; its connections stay open
///
/// Its memory, files, timers and open connections come along. Clients stay connected to the node
/// where they connected, and notice nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa migrate bank --to two
  limosa migrate bank --to two --json
  limosa migrate bank --to two --strategy precopy --downtime-ms 10 --bandwidth 50M

Strategies:
  stop     the process stands still while all of its memory is sent
  precopy  its memory is sent while it runs, then what it wrote meanwhile, and so on, until the rest
           can be sent within the downtime that is wanted; if it writes as fast as the link carries,
           it stands still for what is left, and that is said
  auto     precopy, if there is more memory than can be sent within that downtime

Ctrl-C calls the move off, as long as the process is not handed over. If the target refuses, dies or vanishes before the process is handed over, the process goes on
where it is, and the reason is said.")]
pub struct Migrate {
    /// Name, id, or the first digits of the id
    #[arg(value_parser = values::reference)]
    process: String,
    /// The node to move to: name, id, or the first digits of the id
    #[arg(long, value_name = "NODE", value_parser = values::reference)]
    to: String,
    /// In which order its memory goes
    #[arg(long, value_enum, default_value_t)]
    strategy: Strategy,
    /// For how long it may stand still, as far as that depends on its memory [default: 20]
    #[arg(long, value_name = "N")]
    downtime_ms: Option<u64>,
    /// The most that may be sent per second, as in 50M or 400Mbit
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    bandwidth: Option<u64>,
}

/// As [`wire::api::Strategy`].
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Strategy {
    Stop,
    Precopy,
    #[default]
    Auto,
}

impl Migrate {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let Migrate { process, to, .. } = &self;
        let request = MigrateRequest {
            to: to.clone(),
            strategy: match self.strategy {
                Strategy::Stop => wire::api::Strategy::Stop,
                Strategy::Precopy => wire::api::Strategy::Precopy,
                Strategy::Auto => wire::api::Strategy::Auto,
            },
            downtime_ms: self.downtime_ms,
            bandwidth: self.bandwidth,
        };
        let message = format!("moving {process} to {to}");
        let moving = client.migrate_as(process, &request);
        let report = tokio::select! {
            report = during_move(&client, process, &message, moving) => report,
            signal = asked_to_end() => {
                return Err(Failure::with_code(signal, format!(
                    "the move is called off; {process} goes on where it is, unless it was handed \
                     over already: see `limosa inspect {process}`"
                )));
            }
        };
        let report = report.map_err(|error| match error {
            ClientError::Protocol(reason) => Failure::new(format!(
                "the node went away while it moved {process} ({reason}): what became of {process} \
                 is not known; see `limosa inspect {process}` at another node"
            )),
            error => error.into(),
        })?;
        if context.json {
            return output::json(&report);
        }
        let frozen = output::milliseconds(report.frozen_ms);
        let total = output::milliseconds(report.total_ms);
        let bytes = output::bytes(report.bytes);
        let rounds = match report.rounds.len() {
            0 => String::new(),
            1 => format!(
                ", all but {} while it ran",
                output::bytes(report.frozen_bytes)
            ),
            count => format!(
                ", all but {} in {count} rounds while it ran",
                output::bytes(report.frozen_bytes)
            ),
        };
        output::line(&format!(
            "{process} runs on {to}: {bytes} moved{rounds}, frozen for {frozen}, {total} in all"
        ))?;
        if let Some(complaint) = &report.complaint {
            output::note(&format!("limosa: {complaint}"));
        }
        Ok(())
    }
}

/// Write a running process to a file
///
/// It runs on; from the file it can be continued anywhere.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa checkpoint bank -o bank.snap
  limosa checkpoint bank -o - | ssh elsewhere limosa restore -

The file holds the program and all of the process's memory and files: treat it as secret as these.
Connections that are open now are reset when an older state is restored.")]
pub struct Checkpoint {
    /// Name, id, or the first digits of the id
    #[arg(value_parser = values::reference)]
    process: String,
    /// The file to write, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Written<'a> {
    process: &'a str,
    file: &'a Path,
    bytes: u64,
}

impl Checkpoint {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let Checkpoint { process, output } = &self;
        let message = format!("writing {process} to {}", output.display());
        if output == Path::new("-") {
            if std::io::stdout().is_terminal() {
                let message = "standard output is a terminal; name a file with -o, or pipe it on";
                return Err(Failure::with_code(code::USAGE, message));
            }
            let mut stdout = tokio::io::stdout();
            during(&message, client.checkpoint(process, &mut stdout)).await?;
            return Ok(());
        }
        let target = Output::at(output)?;
        let mut file = tokio::fs::File::from_std(target.open()?);
        let failed = |error| Failure::file("write", output, &error);
        let written = tokio::select! {
            written = during(&message, client.checkpoint(process, &mut file)) => written,
            // What is there of the file is removed.
            signal = asked_to_end() => return Err(Failure::quiet(signal)),
        };
        let bytes = written.map_err(|error| match error {
            ClientError::Write(error) => failed(error),
            error => error.into(),
        })?;
        file.flush().await.map_err(failed)?;
        target.keep(&file).await?;
        if context.json {
            let file = output;
            return output::json(&Written {
                process,
                file,
                bytes,
            });
        }
        let (size, path) = (output::bytes(bytes), output.display());
        output::line(&format!("{process} written to {path} ({size}); it runs on"))
    }
}

/// What is written. A regular file takes its name only once it is whole, with symbolic links
/// followed; a device or pipe is written as it is.
enum Output {
    Beside {
        target: PathBuf,
        path: PathBuf,
        kept: bool,
    },
    InPlace(PathBuf),
}

impl Output {
    fn at(output: &Path) -> Result<Output, Failure> {
        let target = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
        match fs::metadata(&target) {
            Ok(found) if found.is_dir() => {
                let target = output.display();
                Err(Failure::new(format!(
                    "`{target}` is a directory; name a file in it"
                )))
            }
            Ok(found) if !found.is_file() => Ok(Output::InPlace(target)),
            _ => {
                let mut path = target.as_os_str().to_owned();
                path.push(format!(".part-{}", std::process::id()));
                Ok(Output::Beside {
                    path: path.into(),
                    target,
                    kept: false,
                })
            }
        }
    }

    /// Readable by its owner alone: it holds the process's memory.
    fn open(&self) -> Result<File, Failure> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = File::options();
        options.write(true);
        let (opened, target) = match self {
            Output::Beside { target, path, .. } => {
                (options.create_new(true).mode(0o600).open(path), target)
            }
            Output::InPlace(target) => (options.open(target), target),
        };
        opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                let message = format!(
                    "cannot write `{}`: the directory it is to be in does not exist",
                    target.display()
                );
                Failure::with_code(code::NOT_FOUND, message)
            }
            _ => Failure::file("write", target, &error),
        })
    }

    /// All is written.
    async fn keep(mut self, file: &tokio::fs::File) -> Result<(), Failure> {
        if let Output::Beside { target, path, kept } = &mut self {
            let failed = |error| Failure::file("write", target, &error);
            file.sync_all().await.map_err(failed)?;
            fs::rename(path, &target).map_err(|error| Failure::file("write", target, &error))?;
            *kept = true;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Output::Beside {
            path, kept: false, ..
        } = self
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Continue a process from a checkpoint file
///
/// The first to do so takes the old identity if it is free; further ones become processes of their
/// own.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa restore bank.snap
  limosa restore bank.snap --name bank-2 --listen 8081 --on two")]
pub struct Restore {
    /// The checkpoint file, or - for standard input
    file: PathBuf,
    /// A name for the process [default: its old one]
    #[arg(long, value_parser = values::name)]
    name: Option<String>,
    /// The node to run it on: name, id, or the first digits of the id [default: this one]
    #[arg(long, value_name = "NODE", value_parser = values::reference)]
    on: Option<String>,
    /// Other places for its listeners than they were at, in their order; may be given several times
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = place)]
    listen: Vec<Listen>,
    /// Let it connect there, as `run --allow-net`: the file gives it no right to anything
    #[arg(long, value_name = "HOST:PORT")]
    allow_net: Vec<Rule>,
}

/// Listeners keep their names.
fn place(text: &str) -> Result<Listen, String> {
    match text.contains('=') {
        true => Err("its listeners keep their names; give only [ADDR:]PORT, as in 8081".to_owned()),
        false => text.parse(),
    }
}

impl Restore {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let file = input::checkpoint(&self.file)?;
        let listen: Vec<String> = self
            .listen
            .iter()
            .map(|listen| listen.spec().address)
            .collect();
        let (name, on) = (self.name.as_deref(), self.on.as_deref());
        let message = format!("restoring {}", self.file.display());
        let process = during(
            &message,
            client.restore_allowing(file, name, on, &listen, &self.allow_net),
        )
        .await?;
        if context.json {
            return output::json(&process);
        }
        output::line(&process.id.to_string())
    }
}
