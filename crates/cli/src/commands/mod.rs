//! The commands, one file per group.

pub mod attach;
pub mod background;
pub mod bench;
pub mod completion;
pub mod demo;
pub mod forget;
pub mod node;
pub mod process;
pub mod run;
pub mod state;
pub mod top;

use crate::cli::{Cli, Command};
use crate::failure::{Failure, code};
use daemon::client::Client;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

/// The longest path of a Unix socket, in bytes: `sun_path` less the zero at its end.
const LONGEST_SOCKET_PATH: usize = 107;

/// What all commands share.
pub struct Context {
    state: Option<PathBuf>,
    /// Whether to print JSON.
    pub json: bool,
}

impl Context {
    /// The state directory of this machine's node.
    pub fn state(&self) -> Result<PathBuf, Failure> {
        let state = self.choose_state()?;
        // The system's limit for sockets, which nobody would guess from what it says.
        let socket = daemon::socket_path(&state);
        let length = socket.as_os_str().len();
        if length > LONGEST_SOCKET_PATH {
            return Err(Failure::with_code(
                code::USAGE,
                format!(
                    "the path of the node's socket, `{}`, has {length} bytes, and the system allows \
                     {LONGEST_SOCKET_PATH}; choose a shorter directory with --state DIR",
                    socket.display()
                ),
            ));
        }
        Ok(state)
    }

    /// How a command is typed that is for the same node as this one.
    pub fn spell(&self, command: &str) -> String {
        match &self.state {
            Some(state) => format!("limosa --state {} {command}", state.display()),
            None => format!("limosa {command}"),
        }
    }

    fn choose_state(&self) -> Result<PathBuf, Failure> {
        let set = || std::env::var_os("LIMOSA_STATE").filter(|value| !value.is_empty());
        if let Some(state) = self.state.clone().or_else(|| set().map(PathBuf::from)) {
            return Ok(state);
        }
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("XDG_STATE_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".local/state")))
            .map(|path| path.join("limosa"))
            .ok_or_else(|| {
                let message = "there is no home directory to keep state in; name a directory with \
                               --state or LIMOSA_STATE";
                Failure::with_code(code::USAGE, message)
            })
    }

    /// Calls this machine's node.
    pub fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(daemon::socket_path(&self.state()?)))
    }
}

/// Does what the command line says.
pub fn perform(cli: Cli) -> Result<ExitCode, Failure> {
    let context = Context {
        state: cli.state,
        json: cli.json,
    };
    match cli.command {
        Command::Run(command) => command.perform(&context),
        Command::Ps(command) => finish(command.perform(&context)),
        Command::Inspect(command) => finish(command.perform(&context)),
        Command::Logs(command) => finish(command.perform(&context)),
        Command::Wait(command) => finish(command.perform(&context)),
        Command::Stop(command) => finish(command.perform(&context)),
        Command::Kill(command) => finish(command.perform(&context)),
        Command::Rm(command) => finish(command.perform(&context)),
        Command::Migrate(command) => finish(command.perform(&context)),
        Command::Checkpoint(command) => finish(command.perform(&context)),
        Command::Restore(command) => finish(command.perform(&context)),
        Command::Up(command) => command.perform(&context),
        Command::Join(command) => command.perform(&context),
        Command::Down(command) => finish(command.perform(&context)),
        Command::Nodes(command) => finish(command.perform(&context)),
        Command::Forget(command) => finish(command.perform(&context)),
        Command::Ticket(command) => finish(command.perform(&context)),
        Command::Top(command) => finish(command.perform(&context)),
        Command::Demo(command) => command.perform(&context),
        Command::Bench(command) => Ok(command.perform(&context)),
        Command::Completion(command) => command.perform().map(|()| ExitCode::SUCCESS),
    }
}

/// Runs a command that only asks: one thread is enough.
fn finish(work: impl Future<Output = Result<(), Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    runtime.block_on(work)?;
    Ok(ExitCode::SUCCESS)
}

/// A runtime for what carries load.
fn workers() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::with_code(code::NOT_STARTED, format!("cannot start: {error}")))
}
