//! Refusals of the API: a status, a code for programs, a message for people.

use crate::fleet::NodeReferenceError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use node::Failure;
use wire::ProcessId;
use wire::api::ApiError;

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body.
    pub error: ApiError,
}

/// Said by a node that a request was forwarded to, about a process that is not there (any more);
/// never seen by clients.
pub const NOT_HERE: &str = "not_here";

/// Said by whoever makes a process, where its id is another's; a restore takes a fresh one then.
pub const ID_TAKEN: &str = "id_taken";

/// The code of a refusal after which it may help to try again.
pub const UNAVAILABLE: &str = "unavailable";

impl Refusal {
    fn new(status: StatusCode, code: &str, message: impl ToString) -> Refusal {
        Refusal {
            status,
            error: ApiError {
                code: code.to_owned(),
                message: message.to_string(),
            },
        }
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl ToString) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// No such process.
    pub fn unknown_process(reference: &str) -> Refusal {
        let reference: String = reference.chars().take(80).collect();
        let message = format!("no such process: `{reference}`; see `limosa ps`");
        Refusal::new(StatusCode::NOT_FOUND, "unknown_process", message)
    }

    /// No such node.
    pub fn unknown_node(message: impl ToString) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "unknown_node", message)
    }

    /// The file is not a WebAssembly module.
    pub fn not_wasm(message: impl ToString) -> Refusal {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not_wasm", message)
    }

    /// The module needs what is not there.
    pub fn unsupported(message: impl ToString) -> Refusal {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "unsupported", message)
    }

    /// It does not go together with what is.
    pub fn conflict(message: impl ToString) -> Refusal {
        Refusal::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// Somebody said no.
    pub fn refused(message: impl ToString) -> Refusal {
        Refusal::new(StatusCode::CONFLICT, "refused", message)
    }

    /// Somebody does not answer; it may help to try again.
    pub fn unavailable(message: impl ToString) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, message)
    }

    /// This node failed.
    pub fn internal(message: impl ToString) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// Between nodes: look elsewhere.
    pub fn not_here() -> Refusal {
        let message = "the process is not on this node";
        Refusal::new(StatusCode::MISDIRECTED_REQUEST, NOT_HERE, message)
    }
}

impl Refusal {
    /// The id of a process to be made is another's.
    pub fn id_taken(process: ProcessId) -> Refusal {
        let message = format!("there is a process of the id {process} already");
        Refusal::new(StatusCode::CONFLICT, ID_TAKEN, message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.error)).into_response()
    }
}

impl From<NodeReferenceError> for Refusal {
    fn from(error: NodeReferenceError) -> Refusal {
        match error {
            NodeReferenceError::Unknown(_) => Refusal::unknown_node(error),
            NodeReferenceError::Ambiguous { .. } | NodeReferenceError::SameName { .. } => {
                Refusal::bad_request(error)
            }
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        match &failure {
            Failure::UnknownProcess(process) => Refusal::unknown_process(&process.to_string()),
            Failure::UnknownNode(_) => Refusal::unknown_node(failure),
            Failure::NameTaken { .. }
            | Failure::NodeNameTaken { .. }
            | Failure::FleetFull(_)
            | Failure::NodeAlive(_)
            | Failure::NodeNeeded(_)
            | Failure::NodeOwns { .. }
            | Failure::NotOwner { .. }
            | Failure::Busy(_)
            | Failure::OwnerAlive { .. } => Refusal::conflict(failure),
            Failure::MoveFailed(_) => Refusal::refused(failure),
            Failure::DirectoryUnreachable
            | Failure::TargetUnreachable(_)
            | Failure::TooMany { .. } => Refusal::unavailable(failure),
            Failure::Store(_) => Refusal::internal(failure),
        }
    }
}
