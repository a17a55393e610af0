//! The command line: what can be said, and the help that goes with it.

use crate::commands::{bench, completion, demo, forget, node, process, run, state, top};
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
  125  limosa itself failed before the program ran; of run alone
  126  the program cannot be run: not WebAssembly, or in need of what limosa does not have
  130  interrupted
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
    /// Where the node keeps its state [default: $LIMOSA_STATE, $XDG_STATE_HOME/limosa or
    /// ~/.local/state/limosa]
    #[arg(long, global = true, value_name = "DIR")]
    #[arg(help_heading = "Options of every command")]
    pub state: Option<PathBuf>,

    /// Print JSON, for programs
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub json: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order of the help. Their help stands at their arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::Run),
    Ps(process::Ps),
    Inspect(process::Inspect),
    Logs(process::Logs),
    Top(top::Top),
    Wait(process::Wait),
    Stop(process::Stop),
    Kill(process::Kill),
    Rm(process::Rm),
    Migrate(state::Migrate),
    Checkpoint(state::Checkpoint),
    Restore(state::Restore),
    Up(node::Up),
    Join(node::Join),
    Down(node::Down),
    Nodes(node::Nodes),
    Forget(forget::Forget),
    Ticket(node::PrintTicket),
    Demo(demo::Demo),
    Bench(bench::Bench),
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
