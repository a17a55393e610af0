//! The `limosa` command: reads the command line, does it, and ends with a code that means
//! something. All that it asks of a node goes through the public API.

mod cli;
mod commands;
mod failure;
mod input;
mod listen;
mod output;
mod progress;
mod signals;
mod tree;
mod values;

use clap::Parser;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match cli::Cli::try_parse() {
        Ok(cli) => commands::perform(cli),
        Err(answer) => say(&answer),
    };
    match done {
        Ok(code) => code,
        Err(failure) => failure.report().into(),
    }
}

/// Help, the version, or what is wrong with the command line.
fn say(answer: &clap::Error) -> Result<ExitCode, Failure> {
    answer.print()?;
    Ok(match answer.use_stderr() {
        true => failure::code::USAGE.into(),
        false => ExitCode::SUCCESS,
    })
}
