//! `limosa demo`.

use super::{Context, workers};
use crate::failure::{Failure, code};
use crate::{input, output};
use bench::demo::{DemoError, Guest, Options, Screen};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Watch a server move between three nodes while clients check its every answer
///
/// Starts three nodes on this machine, runs a small bank on one of them, and moves it from node to
/// node while clients transfer money over connections that they never reopen. Every answer is
/// checked, and all answers are held against each other at the end. Nothing is left behind.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa demo
  limosa demo --quick --json
  limosa demo --guest server.wasm     any server: it gets a listener as descriptor 3

Downtime of a move is the longest unanswered probe of a client that sends one request a millisecond
on one kept connection, whether or not the earlier ones were answered. The load is less than half of
what the server can answer.

The exit code is 1 if one answer was lost or wrong, a connection broke, or a move failed.")]
pub struct Demo {
    /// Fewer moves and shorter waits
    #[arg(long)]
    quick: bool,
    /// How often to move [default: 24, or 6 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    moves: Option<u32>,
    /// Clients, each with one connection that it keeps
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=500))]
    clients: u32,
    /// Move this server program instead: one that speaks HTTP, or echoes what it gets
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    /// Where to write the plot of response times; `none` for nowhere
    #[arg(long, value_name = "FILE", default_value = "limosa-demo.svg")]
    svg: PathBuf,
}

impl Demo {
    pub fn perform(self, context: &Context) -> Result<ExitCode, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(format!("cannot find this program's file: {error}")))?;
        let guest = self.guest.as_deref().map(|path| {
            Ok::<_, Failure>(Guest {
                path: path.to_owned(),
                module: input::module(path)?,
            })
        });
        let options = Options {
            program,
            quick: self.quick,
            moves: self.moves,
            clients: self.clients,
            guest: guest.transpose()?,
            svg: Some(self.svg).filter(|path| path.as_os_str() != "none"),
        };
        // The runtime is dropped, and with it all that a failed run may have left, before the end.
        let runtime = workers()?;
        let outcome = runtime.block_on(bench::demo::run(&options));
        drop(runtime);
        let outcome = outcome.map_err(|error| Failure::with_code(exit_code(&error), &error))?;
        let passed = outcome.report.passed();
        if context.json {
            output::json(&outcome.report)?;
        } else {
            let screen = Screen {
                width: output::width(),
                colour: output::colour(),
            };
            outcome.print(screen, &mut std::io::stdout().lock())?;
        }
        if passed {
            return Ok(ExitCode::SUCCESS);
        }
        Err(Failure::new(
            "the clients noticed something, or a move failed; see the report",
        ))
    }
}

fn exit_code(error: &DemoError) -> u8 {
    match error {
        DemoError::Interrupted { signal } => 128 + signal,
        DemoError::Node { source, .. } => match source.code() {
            Some("not_wasm" | "unsupported") => code::NOT_RUNNABLE,
            _ => code::FAILED,
        },
        _ => code::FAILED,
    }
}
