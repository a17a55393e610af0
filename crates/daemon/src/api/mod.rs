//! The HTTP API, on the local socket and, for other nodes, on `Api` links.
//!
//! One router serves both. A request about a process that is elsewhere is forwarded to its owner;
//! a forwarded request is never forwarded again, so that two nodes that disagree cannot send it
//! back and forth: the second says `not_here`, and the first looks again.

mod act;
mod error;
mod extract;
mod fleet;
mod forward;
mod input;
mod logs;
mod resolve;
mod start;

pub use error::Refusal;
pub use fleet::INCOMPLETE;
pub use logs::LogsWanted;
pub use start::{MAX_CHECKPOINT_BYTES, MAX_FILES_BYTES};

use crate::core::Core;
use act::{Action, act};
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use extract::{Named, Params};
use migrate::Plan;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use wire::api::{MigrateRequest, ReopenRequest, Version};
use wire::{NodeId, ProcessId};

/// The longest body of a request that is not a module or a checkpoint, in bytes.
const MAX_SMALL_BODY: usize = 64 << 10;
/// How long `stop` waits for connections if not told otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes per second that a move may be held to: with less it would not end.
const LEAST_BANDWIDTH: u64 = 64 << 10;

/// How long another node may take to open listeners again.
const REOPENING: Duration = Duration::from_secs(5);

/// Where requests come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The local socket: the owner of the node.
    Local,
    /// Another node, on behalf of its clients.
    Node,
}

/// What every handler is given.
#[derive(Clone)]
pub struct Context {
    core: Arc<Core>,
    origin: Origin,
}

impl Context {
    /// Whether another node has forwarded the request here.
    fn forwarded(&self) -> bool {
        self.origin == Origin::Node
    }
}

type Answer = Result<Response, Refusal>;

/// The API of a node.
pub fn router(core: Arc<Core>, origin: Origin) -> Router {
    let small = Router::new()
        .route("/v1/version", get(version))
        .route("/v1/nodes", get(fleet::nodes))
        .route("/v1/nodes/{node}", delete(fleet::forget))
        .route("/v1/nodes/{node}/accounts", get(fleet::accounts))
        .route("/v1/ticket", get(fleet::ticket))
        .route("/v1/processes", get(fleet::processes))
        .route("/v1/processes/{process}", get(inspect).delete(remove))
        .route("/v1/processes/{process}/stop", post(stop))
        .route("/v1/processes/{process}/kill", post(kill))
        .route("/v1/processes/{process}/wait", get(wait))
        .route("/v1/processes/{process}/logs", get(logs::logs))
        .route("/v1/processes/{process}/input", put(input::input))
        .route("/v1/processes/{process}/fetched", put(fetched))
        .route("/v1/processes/{process}/checkpoint", post(checkpoint))
        .route("/v1/processes/{process}/migrate", post(migrate))
        .route(
            "/v1/anchors/{process}",
            delete(close_anchors).put(open_anchors),
        )
        .route("/v1/shutdown", post(shutdown))
        .layer(DefaultBodyLimit::max(MAX_SMALL_BODY));
    // Their handlers read the body themselves, to limits of their own.
    let large = Router::new()
        .route("/v1/processes", post(start::run))
        .route("/v1/restore", post(start::restore))
        .layer(DefaultBodyLimit::disable());
    small
        .merge(large)
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_path)
        .with_state(Context { core, origin })
}

async fn unknown_path(request: Request) -> Refusal {
    let (method, path) = (request.method(), request.uri().path());
    Refusal::bad_request(format!("the API has no {method} {path}"))
}

async fn version(State(context): State<Context>) -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: context.core.me(),
    })
}

async fn shutdown(State(context): State<Context>) -> Answer {
    if context.origin != Origin::Local {
        return Err(Refusal::refused("a node is shut down at its own socket"));
    }
    tracing::info!("shutting down, as asked");
    context.core.stop.cancel();
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn inspect(State(context): State<Context>, Named(process): Named) -> Answer {
    act(&context, &process, Action::Inspect).await
}

/// Flags are `1` or `0`; absent is `0`.
fn is_set(flag: Option<u8>) -> bool {
    flag.unwrap_or_default() != 0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    force: Option<u8>,
}

async fn remove(
    State(context): State<Context>,
    Named(process): Named,
    Params(query): Params<RemoveQuery>,
) -> Answer {
    let force = is_set(query.force);
    act(&context, &process, Action::Remove { force }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StopQuery {
    timeout: Option<u64>,
}

async fn stop(
    State(context): State<Context>,
    Named(process): Named,
    Params(query): Params<StopQuery>,
) -> Answer {
    let timeout = query.timeout.map_or(STOP_TIMEOUT, Duration::from_secs);
    act(&context, &process, Action::Stop { timeout }).await
}

async fn kill(State(context): State<Context>, Named(process): Named) -> Answer {
    act(&context, &process, Action::Kill).await
}

async fn wait(State(context): State<Context>, Named(process): Named) -> Answer {
    act(&context, &process, Action::Wait).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FetchedQuery {
    position: u64,
}

/// Between nodes: whoever stays with a process has what it wrote.
async fn fetched(
    State(context): State<Context>,
    Named(process): Named,
    Params(query): Params<FetchedQuery>,
) -> Answer {
    if !context.forwarded() {
        return Err(Refusal::refused("only nodes tell how far a reader is"));
    }
    let position = query.position;
    act(&context, &process, Action::Fetched { position }).await
}

async fn checkpoint(State(context): State<Context>, Named(process): Named) -> Answer {
    act(&context, &process, Action::Checkpoint).await
}

async fn migrate(
    State(context): State<Context>,
    Named(process): Named,
    extract::Json(request): extract::Json<MigrateRequest>,
) -> Answer {
    // Names are resolved here, by the view of the node that was asked.
    let to = context.core.fleet.borrow().find(&request.to)?;
    let usual = Plan::default();
    let plan = Plan {
        strategy: request.strategy,
        downtime: request
            .downtime_ms
            .map_or(usual.downtime, Duration::from_millis),
        bandwidth: request.bandwidth,
    };
    if plan.bandwidth.is_some_and(|limit| limit < LEAST_BANDWIDTH) {
        let least = LEAST_BANDWIDTH >> 10;
        let message = format!("a move needs a bandwidth of at least {least} KiB per second");
        return Err(Refusal::bad_request(message));
    }
    act(&context, &process, Action::Migrate { to, plan }).await
}

/// Between nodes: a process that is being stopped takes no more connections.
async fn close_anchors(
    State(context): State<Context>,
    Named(process): Named,
) -> Result<StatusCode, Refusal> {
    let process = process.parse().map_err(Refusal::bad_request)?;
    context.core.anchors.close_listeners(process);
    Ok(StatusCode::NO_CONTENT)
}

/// Between nodes: the listeners that were open here are to be opened again.
async fn open_anchors(
    State(context): State<Context>,
    Named(process): Named,
    extract::Json(request): extract::Json<ReopenRequest>,
) -> Result<StatusCode, Refusal> {
    if !context.forwarded() {
        return Err(Refusal::refused("only nodes open listeners again"));
    }
    let process = process.parse().map_err(Refusal::bad_request)?;
    let opened = context.core.reopen_here(process, request).await;
    opened.map_err(Refusal::conflict)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Asks another node to do so.
pub async fn reopen_at(
    core: &Core,
    anchor: NodeId,
    process: ProcessId,
    request: &ReopenRequest,
) -> Result<(), String> {
    let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    let path = format!("/v1/anchors/{process}");
    let none = HeaderMap::new();
    let asked = async {
        let answer =
            forward::send(core, anchor, Method::PUT, &path, none, Body::from(body)).await?;
        forward::relay(answer).await
    };
    let answered = tokio::time::timeout(REOPENING, asked).await;
    let answered = answered.map_err(|_| "its node does not answer".to_owned())?;
    answered.map(drop).map_err(|refusal| refusal.error.message)
}

/// A JSON answer.
fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    let body = serde_json::to_vec(value).map_err(Refusal::internal)?;
    let headers = [("content-type", "application/json")];
    Ok((status, headers, Body::from(body)).into_response())
}

/// A header's value, if it is there and is text.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
