//! The `limosa` command: reads the command line, does it, and ends with a code that means
//! something. All that it asks of a node goes through the public API.

mod cli;
mod commands;
mod failure;
mod listen;
mod output;
mod progress;
mod signals;
mod tree;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::perform(cli) {
        Ok(code) => code,
        Err(failure) => failure.report().into(),
    }
}
