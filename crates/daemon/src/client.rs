//! The API as typed calls, over the daemon's Unix socket.
//!
//! Each call opens its own connection: a local connect costs some 20 µs, and nothing has to be
//! pooled or kept alive.

use crate::api::LogsWanted;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use wire::api::{
    ApiError, InputTaken, MigrateRequest, MoveReport, NodeAccounts, NodeInfo, ProcessInfo, RunSpec,
    Ticket, Version,
};
use wire::destination::Rule;

/// The longest JSON answer that is read, in bytes.
const MAX_JSON: usize = 64 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error(
        "no limosa daemon answers at {}: {source}; start one with `limosa up`",
        path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The daemon said no; `error.code` says how.
    #[error("{}", error.message)]
    Api {
        /// The HTTP status.
        status: u16,
        /// What it said.
        error: ApiError,
    },
    /// The connection broke, or the answer makes no sense.
    #[error("the daemon's answer was cut off or makes no sense: {0}")]
    Protocol(String),
    /// What was received could not be written.
    #[error("cannot write what was received: {0}")]
    Write(io::Error),
}

impl ClientError {
    /// The API's error code, if the daemon answered with one.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Api { error, .. } => Some(&error.code),
            _ => None,
        }
    }
}

/// A list, as far as it is known.
#[derive(Clone, Debug)]
pub struct Listing<T> {
    /// What is known.
    pub items: Vec<T>,
    /// What is missing and why, for people; none if nothing is.
    pub incomplete: Option<String>,
}

/// Calls one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the daemon whose API is at this socket; see [`crate::socket_path`].
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client {
            socket: socket.into(),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/version`
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.json(Method::GET, "/v1/version", Bytes::new()).await
    }

    /// `GET /v1/nodes`
    pub async fn nodes(&self) -> Result<Vec<NodeInfo>, ClientError> {
        self.json(Method::GET, "/v1/nodes", Bytes::new()).await
    }

    /// As [`Client::nodes`], and what is missing.
    pub async fn list_nodes(&self) -> Result<Listing<NodeInfo>, ClientError> {
        self.list("/v1/nodes").await
    }

    /// `DELETE /v1/nodes/{ref}`: forgets a dead node; with `force` the processes that were lost with
    /// it, too. Returns what it was.
    pub async fn forget_node(&self, node: &str, force: bool) -> Result<NodeInfo, ClientError> {
        let path = format!("/v1/nodes/{}?force={}", percent(node), u8::from(force));
        self.json(Method::DELETE, &path, Bytes::new()).await
    }

    /// `GET /v1/processes` of the whole fleet, and what is missing.
    pub async fn list_processes(&self) -> Result<Listing<ProcessInfo>, ClientError> {
        self.list("/v1/processes").await
    }

    async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Listing<T>, ClientError> {
        let response = self.call(Method::GET, path, Bytes::new()).await?;
        let incomplete = response.headers().get(crate::api::INCOMPLETE);
        let incomplete = incomplete.and_then(|text| text.to_str().ok());
        let incomplete = incomplete.map(str::to_owned);
        let items = whole(response).await?;
        Ok(Listing { items, incomplete })
    }

    /// The OS process that answers; none where the system does not say.
    pub async fn daemon_pid(&self) -> Result<Option<i32>, ClientError> {
        let stream = self.connect().await?;
        Ok(stream
            .peer_cred()
            .ok()
            .and_then(|credentials| credentials.pid()))
    }

    /// `GET /v1/nodes/{node}/accounts`: what a node consumes and is doing.
    pub async fn node_accounts(&self, node: &str) -> Result<NodeAccounts, ClientError> {
        let path = format!("/v1/nodes/{}/accounts", percent(node));
        self.json(Method::GET, &path, Bytes::new()).await
    }

    /// `GET /v1/ticket`: what a new node needs to join.
    pub async fn ticket(&self) -> Result<String, ClientError> {
        let ticket: Ticket = self.json(Method::GET, "/v1/ticket", Bytes::new()).await?;
        Ok(ticket.ticket)
    }

    /// `GET /v1/processes`: of the whole fleet, or of the asked node alone.
    pub async fn processes(&self, local: bool) -> Result<Vec<ProcessInfo>, ClientError> {
        let path = if local {
            "/v1/processes?local=1"
        } else {
            "/v1/processes"
        };
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// `GET /v1/processes/{ref}`
    pub async fn inspect(&self, process: &str) -> Result<ProcessInfo, ClientError> {
        self.json(Method::GET, &of(process, ""), Bytes::new()).await
    }

    /// `POST /v1/processes`: starts a program. `files` are the contents of `spec.files`, in order.
    pub async fn run(
        &self,
        spec: &RunSpec,
        files: &[Vec<u8>],
        module: &[u8],
    ) -> Result<ProcessInfo, ClientError> {
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let body = wire::api::run_body::encode(spec, &files, module)
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        self.json(Method::POST, "/v1/processes", body.into()).await
    }

    /// `DELETE /v1/processes/{ref}`: forgets an ended process; with `force` kills it first.
    pub async fn remove(&self, process: &str, force: bool) -> Result<(), ClientError> {
        let path = of(process, if force { "?force=1" } else { "" });
        self.call(Method::DELETE, &path, Bytes::new()).await?;
        Ok(())
    }

    /// `POST …/stop`: closes its listeners, waits for its connections to end, then kills it.
    pub async fn stop(
        &self,
        process: &str,
        timeout_seconds: Option<u64>,
    ) -> Result<ProcessInfo, ClientError> {
        let query = timeout_seconds.map_or(String::new(), |seconds| format!("?timeout={seconds}"));
        let path = of(process, &format!("/stop{query}"));
        self.json(Method::POST, &path, Bytes::new()).await
    }

    /// `POST …/kill`
    pub async fn kill(&self, process: &str) -> Result<ProcessInfo, ClientError> {
        self.json(Method::POST, &of(process, "/kill"), Bytes::new())
            .await
    }

    /// `GET …/wait`: answers once the process has ended.
    pub async fn wait(&self, process: &str) -> Result<ProcessInfo, ClientError> {
        self.json(Method::GET, &of(process, "/wait"), Bytes::new())
            .await
    }

    /// `GET …/logs`: what it wrote; `tail` limits it to the last lines, `follow` goes on until the
    /// process ends.
    pub async fn logs(
        &self,
        process: &str,
        follow: bool,
        tail: Option<u64>,
    ) -> Result<Logs, ClientError> {
        self.log_of(
            process,
            LogsWanted {
                follow,
                tail,
                ..LogsWanted::default()
            },
        )
        .await
    }

    /// All that a process writes that was started with `attach`, until it ends: it waits for this
    /// reader, and is taken to be alone a while after the reader has gone.
    pub async fn attach(&self, process: &str) -> Result<Logs, ClientError> {
        let wanted = LogsWanted {
            follow: true,
            from: Some(0),
            attached: true,
            ..LogsWanted::default()
        };
        self.log_of(process, wanted).await
    }

    async fn log_of(&self, process: &str, wanted: LogsWanted) -> Result<Logs, ClientError> {
        let path = of(process, &wanted.path());
        let response = self.call(Method::GET, &path, Bytes::new()).await?;
        Ok(Logs {
            body: response.into_body(),
            buffer: BytesMut::new(),
        })
    }

    /// `PUT …/input`: gives a piece of standard input, which begins at position `at`, to a process
    /// that was started with `attach`; with `end` it is the last. Answers once the process wants
    /// more, with the position after what it has.
    pub async fn input(
        &self,
        process: &str,
        at: u64,
        bytes: Vec<u8>,
        end: bool,
    ) -> Result<u64, ClientError> {
        let path = of(process, &format!("/input?at={at}&end={}", u8::from(end)));
        let taken: InputTaken = self.json(Method::PUT, &path, bytes.into()).await?;
        Ok(taken.received)
    }

    /// `POST …/checkpoint`: writes the checkpoint file to `target`; the process runs on. Returns
    /// the file's length. On failure `target` may hold a part that no restore will accept.
    pub async fn checkpoint(
        &self,
        process: &str,
        target: &mut (impl AsyncWrite + Unpin),
    ) -> Result<u64, ClientError> {
        let path = of(process, "/checkpoint");
        let response = self.call(Method::POST, &path, Bytes::new()).await?;
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                length += data.len() as u64;
                target.write_all(&data).await.map_err(ClientError::Write)?;
            }
        }
        target.flush().await.map_err(ClientError::Write)?;
        Ok(length)
    }

    /// `POST /v1/restore`: a process from a checkpoint file. `listen` gives its listeners new
    /// addresses, in their order. It may connect to nowhere.
    pub async fn restore(
        &self,
        file: impl Into<Bytes>,
        name: Option<&str>,
        on: Option<&str>,
        listen: &[String],
    ) -> Result<ProcessInfo, ClientError> {
        self.restore_allowing(file, name, on, listen, &[]).await
    }

    /// The same, of one that may connect to where `allow_net` says.
    pub async fn restore_allowing(
        &self,
        file: impl Into<Bytes>,
        name: Option<&str>,
        on: Option<&str>,
        listen: &[String],
        allow_net: &[Rule],
    ) -> Result<ProcessInfo, ClientError> {
        let mut path = String::from("/v1/restore?");
        for (key, value) in [("name", name), ("on", on)] {
            if let Some(value) = value {
                path += &format!("{key}={}&", percent(value));
            }
        }
        for address in listen {
            path += &format!("listen={}&", percent(address));
        }
        for rule in allow_net {
            path += &format!("allow_net={}&", percent(&rule.to_string()));
        }
        self.json(Method::POST, path.trim_end_matches(['?', '&']), file.into())
            .await
    }

    /// `POST …/migrate`: moves it to another node, by name or id.
    pub async fn migrate(&self, process: &str, to: &str) -> Result<MoveReport, ClientError> {
        self.migrate_as(process, &MigrateRequest::new(to)).await
    }

    /// The same in a certain way. If the answer is not awaited, the move is called off.
    pub async fn migrate_as(
        &self,
        process: &str,
        request: &MigrateRequest,
    ) -> Result<MoveReport, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| broken(error.to_string()))?;
        self.json(Method::POST, &of(process, "/migrate"), body.into())
            .await
    }

    /// `POST /v1/shutdown`: ends the daemon and its processes.
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        self.call(Method::POST, "/v1/shutdown", Bytes::new())
            .await?;
        Ok(())
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        whole(self.call(method, path, body).await?).await
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        stream.map_err(|source| ClientError::Unreachable {
            path: self.socket.clone(),
            source,
        })
    }

    /// Sends a request; an answer that is not a success becomes an error.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Ends by itself when the answer's body is read or dropped.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "limosa")
            .body(Full::new(body))
            .map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_JSON);
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Err(refusal(status, &body))
    }
}

/// Reads a JSON answer.
async fn whole<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let body = Limited::new(response.into_body(), MAX_JSON);
    let body = body.collect().await.map_err(broken)?.to_bytes();
    serde_json::from_slice(&body).map_err(broken)
}

fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice(body) {
        Ok(error) => ClientError::Api {
            status: status.as_u16(),
            error,
        },
        Err(_) => broken(format!("status {status}")),
    }
}

fn broken(error: impl ToString) -> ClientError {
    ClientError::Protocol(error.to_string())
}

fn of(process: &str, rest: &str) -> String {
    format!("/v1/processes/{}{rest}", percent(process))
}

/// Escapes what a path segment or query value may not hold (RFC 3986: all but unreserved).
pub(crate) fn percent(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

/// A log as it comes in.
#[derive(Debug)]
pub struct Logs {
    body: Incoming,
    buffer: BytesMut,
}

impl Logs {
    /// The next piece: stream (1 output, 2 error) and bytes; none at the end.
    pub async fn next(&mut self) -> Result<Option<(u8, Bytes)>, ClientError> {
        loop {
            if let Some((stream, part, _)) = crate::processes::log::next_frame(&self.buffer) {
                let length = part.len();
                self.buffer.advance(crate::processes::log::HEADER);
                return Ok(Some((stream, self.buffer.split_to(length).freeze())));
            }
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(broken("the log ends inside a line")),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(broken)?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                    if self.buffer.len() > MAX_JSON {
                        return Err(broken("the log makes no sense"));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_special_characters_stay_one_path_segment() {
        assert_eq!(of("a/b c%", "/kill"), "/v1/processes/a%2Fb%20c%25/kill");
    }

    #[tokio::test]
    async fn a_missing_daemon_is_said_with_what_to_do() {
        let client = Client::new("/nonexistent/limosa.sock");
        let error = client.version().await.unwrap_err();
        assert!(error.to_string().contains("limosa up"), "{error}");
    }
}
