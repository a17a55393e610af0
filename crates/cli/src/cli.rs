//! The command line: what can be said, and the help that goes with it.

use crate::commands::{bench, completion, demo, node, process, run, state};
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  limosa demo                                   see a server move under load
  limosa run hello.wasm -- --name world         run a program here; needs no daemon
  limosa up -d                                  start a node on this machine
  limosa join limosa-... -d                     on another machine: join it
  limosa run -d --name bank --listen 8080 bank.wasm
  limosa migrate bank --to NODE                 its clients notice nothing

Exit codes:
  0    success; a program run in the foreground gives its own code instead
  1    the operation failed
  2    the command line was wrong
  3    a process, node or file that was named is not there
  4    no daemon answers
  125  limosa itself failed before the program ran
  126  the program cannot be run: not WebAssembly, or in need of what limosa does not have
  134  the program trapped

A process is named by its name, its id, or the first digits of its id; a node likewise.";

/// Run WebAssembly programs as mobile processes: freeze them, write them down, move them between
/// machines while their clients keep talking to them.
#[derive(Debug, Parser)]
#[command(name = "limosa", version, styles = STYLES, after_help = EXAMPLES, max_term_width = 100)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    propagate_version = false
)]
pub struct Cli {
    /// Where the node keeps its state [default: $XDG_STATE_HOME/limosa or ~/.local/state/limosa]
    #[arg(
        long,
        global = true,
        env = "LIMOSA_STATE",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub state: Option<PathBuf>,

    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order of the help.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program: here in the foreground, or with -d as a process of a node
    Run(run::Run),
    /// List processes
    Ps(process::Ps),
    /// Tell everything about a process
    Inspect(process::Inspect),
    /// Print what a process wrote
    Logs(process::Logs),
    /// Wait until processes have ended, and print their exit codes
    Wait(process::Wait),
    /// End processes: no new clients, then wait for those there are, then kill
    Stop(process::Stop),
    /// End processes at once
    Kill(process::Kill),
    /// Forget ended processes
    Rm(process::Rm),
    /// Move a process to another node; its connections stay open
    Migrate(state::Migrate),
    /// Write a running process to a file
    Checkpoint(state::Checkpoint),
    /// Continue a process from a checkpoint file
    Restore(state::Restore),
    /// Start a node on this machine
    Up(node::Up),
    /// Start a node on this machine that joins the fleet of another
    Join(node::Join),
    /// Stop the node on this machine, with its processes
    Down(node::Down),
    /// List the nodes of the fleet
    Nodes(node::Nodes),
    /// Print the ticket with which another machine joins this fleet
    Ticket(node::PrintTicket),
    /// Watch a server move between three nodes while clients check its every answer
    Demo(demo::Demo),
    /// Measure a promise of the specification
    Bench(bench::Bench),
    /// Print a completion script for a shell
    Completion(completion::Completion),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_has_help() {
        let root = Cli::command();
        for command in root.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let name = argument.get_id();
                assert!(
                    argument.get_help().is_some(),
                    "{}: {name}",
                    command.get_name()
                );
            }
        }
    }
}
