//! `limosa bench NAME`.

use super::Context;
use clap::Args;
use std::process::ExitCode;

/// Measure a promise of the specification
///
/// Without a name, tells which there are.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa bench
  limosa bench overhead --json

Measure on a machine that does nothing else.")]
pub struct Bench {
    /// What to measure
    name: Option<String>,
    /// Shorter, and less exact
    #[arg(long)]
    quick: bool,
}

impl Bench {
    pub fn perform(self, context: &Context) -> ExitCode {
        let options = bench::Options {
            json: context.json,
            quick: self.quick,
        };
        bench::run(self.name.as_deref(), options).into()
    }
}
