//! `GET /v1/processes/{ref}/logs`: what a process wrote, as frames (see [`crate::processes::log`]).
//!
//! Positions count the bytes of frames since the process was born, on whatever nodes. So whoever
//! follows counts what has passed, and goes on from there at the next owner when it moves. What is
//! asked for and not kept any more is marked, once, by the node that was asked ([`log::gap`]); the
//! marks do not count. Only whole frames are passed on, so a mark never comes to lie within one.
//!
//! For somebody who stays with a process ([`crate::processes::console`]), the node that was asked
//! tells the process's node what it has handed to them: the process waits for that.

use super::act::{Action, act};
use super::extract::{Named, Params};
use super::{Answer, Context, Refusal, header, is_set};
use crate::processes::console::UNREAD;
use crate::processes::log;
use crate::processes::managed::{Managed, Status};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http_body_util::BodyExt;
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::mpsc;
use wire::api::{ProcessInfo, ProcessState};

/// The media type of log frames.
const MEDIA_TYPE: &str = "application/vnd.limosa.logs";
/// Where the first byte of an answer lies.
const POSITION: &str = "limosa-log-position";
/// Bytes read from a log at once.
const CHUNK: usize = 64 << 10;
/// Bytes that are handed to somebody who stays with a process before its node is told.
const TOLD: u64 = UNREAD / 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    follow: Option<u8>,
    tail: Option<u64>,
    from: Option<u64>,
    attached: Option<u8>,
}

/// Which part of a log is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogsWanted {
    /// Until the process ends or moves.
    pub follow: bool,
    /// From this position on.
    pub from: Option<u64>,
    /// The last lines.
    pub tail: Option<u64>,
    /// The reader stays with the process, which waits for it.
    pub attached: bool,
}

impl LogsWanted {
    /// As the end of a request's path.
    pub fn path(&self) -> String {
        let flag = u8::from;
        let mut path = format!(
            "/logs?follow={}&attached={}",
            flag(self.follow),
            flag(self.attached)
        );
        for (name, value) in [("from", self.from), ("tail", self.tail)] {
            if let Some(value) = value {
                path += &format!("&{name}={value}");
            }
        }
        path
    }
}

/// A body that a task writes; the task ends when the reader goes.
fn body(mut chunks: mpsc::Receiver<Result<Bytes, std::io::Error>>) -> Body {
    let stream = futures_util::stream::poll_fn(move |context| chunks.poll_recv(context));
    Body::from_stream(stream)
}

fn response(position: u64, body: Body) -> Response {
    let position = position.to_string();
    let headers = [("content-type", MEDIA_TYPE), (POSITION, &position)];
    (headers, body).into_response()
}

/// Handles the request: at the node that was asked, this goes on where the process goes.
pub async fn logs(
    State(context): State<Context>,
    Named(process): Named,
    Params(query): Params<LogQuery>,
) -> Answer {
    let first = LogsWanted {
        follow: is_set(query.follow),
        from: query.from,
        tail: query.tail,
        attached: is_set(query.attached),
    };
    let answer = act(&context, &process, Action::Logs(first)).await?;
    if context.forwarded() {
        return Ok(answer);
    }
    let begin = position_of(&answer).ok_or_else(|| Refusal::internal("no position"))?;
    // Who wants the last lines misses nothing before them.
    let wanted = query.from.or(query.tail.is_none().then_some(0));
    let wanted = wanted.unwrap_or(begin);
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let passed = follow(&context, &process, answer, wanted, first, &sender).await;
        if let Err(refusal) = passed {
            let message = refusal.error.message;
            let _ = sender.send(Err(std::io::Error::other(message))).await;
        }
    });
    Ok(response(begin, body(receiver)))
}

fn position_of(answer: &Response) -> Option<u64> {
    header(answer.headers(), POSITION)?.parse().ok()
}

/// Passes on what comes from the position that was wanted; when it ends because the process has
/// moved, or because what comes next is not kept any more, asks again, unless it is not to follow.
async fn follow(
    context: &Context,
    process: &str,
    answer: Response,
    wanted: u64,
    first: LogsWanted,
    sender: &mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> Result<(), Refusal> {
    let (mut answer, mut position, mut last) = (answer, wanted, !first.follow);
    loop {
        if let Some(at) = position_of(&answer) {
            if at > position
                && sender
                    .send(Ok(log::gap(at - position).into()))
                    .await
                    .is_err()
            {
                return Ok(());
            }
            position = at;
        }
        let mut told = position;
        let mut body = answer.into_body();
        let mut rest = BytesMut::new();
        let broken = loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = sender.closed() => return Ok(()),
            };
            let data = match frame {
                Some(Ok(frame)) => frame.into_data(),
                Some(Err(error)) => break Some(error.to_string()),
                None => break (!rest.is_empty()).then(|| "it ends within a line".to_owned()),
            };
            let Ok(data) = data else { continue };
            rest.extend_from_slice(&data);
            let Some(whole) = log::whole_frames(&rest) else {
                return Err(Refusal::unavailable(
                    "the process's node sends what is no log",
                ));
            };
            position += whole as u64;
            if whole == 0 {
                continue;
            }
            let whole = rest.split_to(whole).freeze();
            if sender.send(Ok(whole)).await.is_err() {
                return Ok(());
            }
            if first.attached && position - told >= TOLD {
                let fetched = Action::Fetched { position };
                // Where it goes on after a move, it hears that again.
                if act(context, process, fetched).await.is_ok() {
                    told = position;
                }
            }
        };
        match broken {
            Some(reason) if last => {
                let message = format!("the connection to the process's node broke: {reason}");
                return Err(Refusal::unavailable(message));
            }
            None if last => return Ok(()),
            // Otherwise it is one more way for this part to end: the rest is asked for again.
            _ => {}
        }
        // It has moved, or ended, or both: then there may be more at its last node.
        last = has_ended(context, process).await?;
        let next = LogsWanted {
            follow: !last,
            from: Some(position),
            tail: None,
            attached: first.attached,
        };
        answer = match act(context, process, Action::Logs(next)).await {
            Ok(answer) => answer,
            // Removed meanwhile, with its log.
            Err(refusal) if last && refusal.error.code == "unknown_process" => return Ok(()),
            Err(refusal) => return Err(refusal),
        };
    }
}

async fn has_ended(context: &Context, process: &str) -> Result<bool, Refusal> {
    let answer = match act(context, process, Action::Inspect).await {
        Ok(answer) => answer,
        // Removed meanwhile.
        Err(refusal) if refusal.error.code == "unknown_process" => return Ok(true),
        Err(refusal) => return Err(refusal),
    };
    let json = answer.into_body().collect().await;
    let json = json.map_err(Refusal::internal)?.to_bytes();
    let info: ProcessInfo = serde_json::from_slice(&json).map_err(Refusal::internal)?;
    Ok(matches!(
        info.state,
        ProcessState::Exited | ProcessState::Lost
    ))
}

/// The log of a process that is here. With `follow` it goes on until the process ends or moves.
pub fn stream_of(managed: &Arc<Managed>, wanted: &LogsWanted) -> Response {
    let log = managed.log.clone();
    if !wanted.follow {
        // At one time, so that what is written meanwhile does not push out what was asked for.
        let (bytes, begin) = match (wanted.from, wanted.tail) {
            (Some(from), _) => log.read(from, usize::MAX),
            (None, Some(lines)) => log.read_tail(lines),
            (None, None) => log.read(0, usize::MAX),
        };
        return response(begin, Body::from(bytes));
    }
    let begin = match (wanted.from, wanted.tail) {
        (Some(from), _) => log.frame_at(from),
        (None, Some(lines)) => log.tail(lines),
        (None, None) => log.begin(),
    };
    let (sender, receiver) = mpsc::channel(4);
    let (mut end, mut status) = (log.follow(), managed.status());
    let reader = wanted.attached.then(|| {
        managed.console.fetched(begin);
        managed.console.reader()
    });
    tokio::spawn(async move {
        let mut position = begin;
        // Held as long as they are connected.
        let _reader = reader;
        loop {
            // Seen first, so that what was written before it is not missed.
            let over = matches!(
                *status.borrow_and_update(),
                Status::Ended(_) | Status::Moved(_)
            );
            end.borrow_and_update();
            loop {
                let (bytes, at) = log.read(position, CHUNK);
                if bytes.is_empty() {
                    break;
                }
                if at > position {
                    // It was written faster than it was read: whoever follows asks again.
                    return;
                }
                position = at + bytes.len() as u64;
                if sender.send(Ok(bytes.into())).await.is_err() {
                    return;
                }
            }
            if over {
                return;
            }
            tokio::select! {
                _ = end.changed() => {}
                _ = status.changed() => {}
                () = sender.closed() => return,
            }
        }
    });
    response(begin, body(receiver))
}
