//! `PUT /v1/processes/{ref}/input`: standard input of a process that somebody stays with.
//!
//! Each piece says at which position it begins, so it can be sent again when nobody knows whether
//! it was taken. The answer comes when the process wants more than it has: who reads a terminal
//! for it reads no more than it asks for. The first request therefore has no bytes.

use super::act::{Action, Done, Obstacle, act, ended};
use super::extract::{Named, Params};
use super::{Answer, Context, Refusal, is_set, json};
use crate::processes::console::{MAX_INPUT, NotTaken};
use crate::processes::managed::Managed;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use wire::api::InputTaken;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputQuery {
    /// The position at which the body begins.
    at: u64,
    /// None follows.
    end: Option<u8>,
}

/// Handles the request.
pub async fn input(
    State(context): State<Context>,
    Named(process): Named,
    Params(query): Params<InputQuery>,
    bytes: Bytes,
) -> Answer {
    if bytes.len() > MAX_INPUT {
        let message = format!("a piece of input may have {MAX_INPUT} bytes");
        return Err(Refusal::bad_request(message));
    }
    let action = Action::Input {
        at: query.at,
        bytes,
        end: is_set(query.end),
    };
    act(&context, &process, action).await
}

/// Gives a piece to a process that is here, and waits until it wants more.
pub async fn take(managed: &Managed, at: u64, bytes: &Bytes, end: bool) -> Done {
    let console = &managed.console;
    let taken = async {
        let received = loop {
            match console.take_input(at, bytes, end) {
                Ok(received) => break received,
                Err(NotTaken::Sealed) => console.unsealed().await,
                Err(NotTaken::Detached) => {
                    let message = format!("nobody stays with process {}", managed.name);
                    return Err(Refusal::conflict(message));
                }
                Err(NotTaken::Gap(received)) => {
                    let message = format!("the input before {at} is missing from {received} on");
                    return Err(Refusal::conflict(message));
                }
            }
        };
        if !end {
            console.wants_input().await;
        }
        Ok(received)
    };
    tokio::select! {
        over = ended(managed) => match over {
            Ok(()) => Err(Refusal::conflict(format!("process {} has ended", managed.name)).into()),
            Err(Obstacle::Moved) => Err(Obstacle::Moved),
            Err(refused) => Err(refused),
        },
        taken = taken => Ok(json(StatusCode::OK, &InputTaken { received: taken? })?),
    }
}
