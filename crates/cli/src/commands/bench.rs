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
  limosa bench overhead --only sqlite,lua

Measure on a machine that does nothing else.")]
pub struct Bench {
    /// What to measure
    name: Option<String>,
    /// Shorter, and less exact
    #[arg(long)]
    quick: bool,
    /// Measure these programs only (overhead, freeze), of those that a whole run lists
    #[arg(long, value_name = "PROGRAM", value_delimiter = ',')]
    only: Vec<String>,
}

impl Bench {
    pub fn perform(self, context: &Context) -> ExitCode {
        let options = bench::Options {
            json: context.json,
            quick: self.quick,
            only: self.only,
        };
        bench::run(self.name.as_deref(), &options).into()
    }
}
