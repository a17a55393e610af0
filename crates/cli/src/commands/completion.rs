//! `limosa completion SHELL`.

use crate::cli::Cli;
use crate::failure::Failure;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::Write;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa completion bash > ~/.local/share/bash-completion/completions/limosa
  limosa completion zsh > \"${fpath[1]}/_limosa\"
  limosa completion fish > ~/.config/fish/completions/limosa.fish")]
pub struct Completion {
    /// The shell
    shell: Shell,
}

impl Completion {
    pub fn perform(self) -> Result<(), Failure> {
        // In memory first: a closed pipe must not be a panic inside the generator.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "limosa", &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(())
    }
}
