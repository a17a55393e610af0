//! Requests to other nodes, over `Api` links. A node that is taken for dead while it is asked, or while
//! its answer comes, breaks off: nobody waits for it longer.

use super::Refusal;
use crate::core::Core;
use crate::links::tied::Tied;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::timeout;
use wire::NodeId;
use wire::api::ApiError;
use wire::link::LinkKind;

/// The longest JSON answer that is read from another node, in bytes.
const MAX_JSON: usize = 64 << 20;

/// Sends a request to another node and returns the answer as it comes.
pub async fn send(
    core: &Core,
    node: NodeId,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Incoming>, Refusal> {
    let name = core.node_name(node);
    let unreachable =
        |error: &dyn std::fmt::Display| Refusal::unavailable(format!("node {name}: {error}"));
    let (stream, _) = core
        .dialler
        .open(node, LinkKind::Api)
        .await
        .map_err(|error| unreachable(&error))?;
    let stream = Tied::new(stream, None, core.dialler.dead(node));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    // Ends with the answer's body.
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "limosa")
        .body(body)
        .map_err(Refusal::internal)?;
    request.headers_mut().extend(headers);
    sender.send_request(request).await.map_err(|error| {
        Refusal::unavailable(format!(
            "node {name} was asked and broke off before it answered ({error}): whether it did what \
             it was asked is not known; see `limosa ps`"
        ))
    })
}

/// Asks another node for JSON.
pub async fn get<T: DeserializeOwned>(
    core: &Core,
    node: NodeId,
    path: &str,
    patience: Duration,
) -> Result<T, Refusal> {
    let exchange = async {
        let none = HeaderMap::new();
        let response = send(core, node, Method::GET, path, none, Body::empty()).await?;
        read(response).await
    };
    timeout(patience, exchange).await.unwrap_or_else(|_| {
        let name = core.node_name(node);
        Err(Refusal::unavailable(format!("node {name} does not answer")))
    })
}

/// Reads a JSON answer, or the refusal that came in its place.
pub async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, Refusal> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_JSON);
    let body = body
        .collect()
        .await
        .map_err(|error| Refusal::unavailable(format!("the answer was cut off: {error}")))?
        .to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(Refusal::internal);
    }
    let error: ApiError = serde_json::from_slice(&body).map_err(Refusal::internal)?;
    Err(Refusal { status, error })
}

/// Hands an answer on as it comes, unless it is a refusal.
pub async fn relay(response: Response<Incoming>) -> Result<axum::response::Response, Refusal> {
    if !response.status().is_success() {
        return Err(match read::<serde_json::Value>(response).await {
            Err(refusal) => refusal,
            Ok(_) => Refusal::internal("a refusal that is a success"),
        });
    }
    let (parts, body) = response.into_parts();
    Ok(axum::response::Response::from_parts(parts, Body::new(body)))
}
