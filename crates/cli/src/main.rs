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
    if !answer.use_stderr() {
        answer.print()?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = answer.render().to_string();
    let text = text.trim_end();
    // As all other errors begin.
    output::note(&match text.strip_prefix("error: ") {
        Some(rest) => format!("limosa: {rest}"),
        None => text.to_owned(),
    });
    Ok(failure::code::USAGE.into())
}
