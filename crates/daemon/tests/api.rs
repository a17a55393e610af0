//! The API as bytes on its socket: what programs without our client get, and what nonsense gets.

mod common;

use common::{Node, within};
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use wire::api::ApiError;

/// Sends bytes, ends its direction if that is wanted, and returns status and body of the answer.
async fn send(node: &Node, request: &[u8], end: bool) -> (u16, String) {
    let mut socket = UnixStream::connect(node.client.socket()).await.unwrap();
    // It may be refused before all of it is read.
    let _ = socket.write_all(request).await;
    if end {
        let _ = socket.shutdown().await;
    }
    let mut answer = Vec::new();
    let _ = within("an answer", socket.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap_or("0").parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

async fn request(node: &Node, line: &str, body: &[u8]) -> (u16, String) {
    let head = format!(
        "{line} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    send(node, &[head.as_bytes(), body].concat(), false).await
}

/// Every refusal has a code that programs know and a message.
async fn refused(node: &Node, line: &str, body: &[u8], status: u16, code: &str) {
    let (got, text) = request(node, line, body).await;
    assert_eq!(got, status, "{line}: {text}");
    let error: ApiError = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{line}: {text}"));
    assert_eq!(error.code, code, "{line}: {text}");
    assert!(!error.message.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_its_owners_alone() {
    let node = Node::first("ant").await;
    let mode = std::fs::metadata(node.client.socket())
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let directory = std::fs::metadata(&node.config.state_dir).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_with_a_code() {
    let node = Node::first("ant").await;
    let bad =
        |line: &'static str, body: &'static [u8]| refused(&node, line, body, 400, "bad_request");
    bad("GET /", b"").await;
    bad("GET /v2/version", b"").await;
    bad("PUT /v1/version", b"").await;
    bad("GET /v1/processes?lcoal=1", b"").await;
    bad("POST /v1/processes", b"").await;
    bad("POST /v1/processes", b"\xff\xff\xff\xff").await;
    bad("POST /v1/processes", b"\x02\0\0\0{]").await;
    bad("POST /v1/processes", b"\x0b\0\0\0{\"nmae\":\"\"}").await;
    bad("POST /v1/restore", b"").await;
    bad("POST /v1/restore?nmae=x", b"").await;
    bad("POST /v1/restore?name=a%20b", b"").await;
    bad("POST /v1/processes/x/migrate", b"to: somewhere").await;
    bad("POST /v1/processes/x/stop?timeout=soon", b"").await;
    bad("GET /v1/processes/x/logs?tail=-1", b"").await;
    refused(&node, "GET /v1/processes/%ff%fe", b"", 400, "bad_request").await;
    refused(&node, "GET /v1/processes/x", b"", 404, "unknown_process").await;
    refused(&node, "DELETE /v1/processes/x", b"", 404, "unknown_process").await;
    let to = br#"{"to":"nowhere"}"#;
    refused(
        &node,
        "POST /v1/processes/x/migrate",
        to,
        404,
        "unknown_node",
    )
    .await;
    // And the node is well.
    assert_eq!(request(&node, "GET /v1/version", b"").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_socket_does_no_harm() {
    let node = Node::first("ant").await;
    for garbage in [
        &b"\0\0\0\0"[..],
        b"\x16\x03\x01",
        b"GET",
        b"\r\n\r\n\r\n",
        &[b'A'; 100_000],
    ] {
        send(&node, garbage, true).await;
    }
    assert_eq!(request(&node, "GET /v1/version", b"").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_longer_than_any_may_be_is_not_read() {
    let node = Node::first("ant").await;
    let long = vec![b' '; 1 << 20];
    let (status, _) = request(&node, "POST /v1/processes/x/migrate", &long).await;
    // Refused, or cut off in the middle.
    assert!([0, 400, 413].contains(&status), "{status}");
    assert_eq!(request(&node, "GET /v1/version", b"").await.0, 200);
}
