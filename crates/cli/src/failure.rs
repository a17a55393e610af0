//! What the command line says and returns when something goes wrong.

use daemon::client::ClientError;
use std::fmt;
use std::io;
use std::path::Path;

/// Exit codes; documented in `docs/cli.md` and in `limosa help`.
pub mod code {
    /// The operation failed.
    pub const FAILED: u8 = 1;
    /// The command line was wrong (clap's own errors have it too).
    pub const USAGE: u8 = 2;
    /// A process, node or file that was named is not there.
    pub const NOT_FOUND: u8 = 3;
    /// No daemon answers.
    pub const NO_DAEMON: u8 = 4;
    /// Limosa itself failed before the program ran; of `run` alone.
    pub const NOT_STARTED: u8 = 125;
    /// The program cannot be run.
    pub const NOT_RUNNABLE: u8 = 126;
    /// The program trapped (as a native one that aborts: 128 + SIGABRT).
    pub const TRAPPED: u8 = 134;
    /// The program wrote to a pipe that nobody reads any more (128 + SIGPIPE).
    pub const UNREAD: u8 = 141;
}

/// Ends the command: a message, if there is one to give, and an exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    message: Option<String>,
    code: u8,
}

impl Failure {
    /// The operation failed.
    pub fn new(message: impl fmt::Display) -> Failure {
        Failure::with_code(code::FAILED, message)
    }

    /// With an exit code of its own.
    pub fn with_code(code: u8, message: impl fmt::Display) -> Failure {
        Failure {
            message: Some(message.to_string()),
            code,
        }
    }

    /// With another exit code, if it has no better one than that the operation failed.
    pub fn or_code(self, code: u8) -> Failure {
        match self.code {
            code::FAILED => Failure { code, ..self },
            _ => self,
        }
    }

    /// Everything was said already.
    pub fn quiet(code: u8) -> Failure {
        Failure {
            message: None,
            code,
        }
    }

    /// A file could not be read or written.
    pub fn file(what: &str, path: &Path, error: &io::Error) -> Failure {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::NotFound => {
                let message = format!("cannot {what} `{path}`: it does not exist");
                Failure::with_code(code::NOT_FOUND, message)
            }
            io::ErrorKind::IsADirectory => {
                Failure::new(format!("cannot {what} `{path}`: it is a directory"))
            }
            _ => Failure::new(format!("cannot {what} `{path}`: {error}")),
        }
    }

    /// What there is to say.
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Prints the message and returns the exit code.
    pub fn report(&self) -> u8 {
        if let Some(message) = &self.message {
            crate::output::note(&format!("limosa: {message}"));
        }
        self.code
    }
}

impl From<io::Error> for Failure {
    /// Of writing to standard output: a reader that has gone ends the command quietly.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::quiet(0),
            _ => Failure::new(format!("cannot write to standard output: {error}")),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let code = match &error {
            ClientError::Unreachable { .. } => code::NO_DAEMON,
            ClientError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Failure::quiet(0);
            }
            _ => match error.code() {
                Some("unknown_process" | "unknown_node") => code::NOT_FOUND,
                Some("not_wasm" | "unsupported") => code::NOT_RUNNABLE,
                _ => code::FAILED,
            },
        };
        Failure::with_code(code, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::api::ApiError;

    fn api(code: &str) -> Failure {
        let error = ApiError {
            code: code.to_owned(),
            message: "no such thing; make one".to_owned(),
        };
        Failure::from(ClientError::Api { status: 404, error })
    }

    #[test]
    fn what_the_daemon_says_decides_the_exit_code() {
        let codes = [
            "unknown_process",
            "unknown_node",
            "not_wasm",
            "unsupported",
            "conflict",
        ];
        let codes = codes.map(|code| api(code).code);
        assert_eq!(codes, [3, 3, 126, 126, 1]);
        let message = api("conflict").message;
        assert_eq!(message.as_deref(), Some("no such thing; make one"));
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(gone()), Failure::quiet(0));
        assert_eq!(Failure::from(ClientError::Write(gone())), Failure::quiet(0));
        assert_eq!(Failure::from(io::Error::other("full")).code, 1);
    }

    #[test]
    fn a_file_that_is_not_there_has_its_own_code() {
        let error = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(Failure::file("read", Path::new("x"), &error).code, 3);
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Failure::file("read", Path::new("x"), &error).code, 1);
    }
}
