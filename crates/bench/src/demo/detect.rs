//! Finds out how a server is spoken to: HTTP if it answers HTTP, else an echo of lines.

use super::http::{self, Malformed};
use super::protocol::Protocol;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A server that has not answered by then does not speak the protocol that was tried.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a server cannot be driven.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Neither protocol.
    #[error(
        "the program speaks neither HTTP (it did not answer `GET /` as HTTP) nor does it echo lines \
         ({0}); the demo can move any program, but only drive these"
    )]
    Neither(String),
    /// HTTP, but not on kept connections.
    #[error("the program answers HTTP, but its connections cannot be kept: {0}")]
    Closes(String),
}

/// Asks on connections of their own.
pub async fn detect(address: SocketAddr) -> Result<Protocol, Unknown> {
    let request = b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n";
    let heard = exchange(address, request, |heard| {
        // As soon as it is no HTTP, or a whole answer.
        !matches!(http::cut(heard), Ok(None))
    })
    .await
    .unwrap_or_default();
    match http::cut(&heard) {
        Ok(Some((answer, _))) if answer.keeps => {
            return Ok(Protocol::Http {
                status: answer.status,
            });
        }
        Ok(Some(_)) => {
            let why = "it closes them after an answer".to_owned();
            return Err(Unknown::Closes(why));
        }
        Err(Malformed::Head(_)) | Ok(None) => {}
        Err(error) => return Err(Unknown::Closes(error.to_string())),
    }
    let mut line = Vec::new();
    Protocol::Echo.probe(1, &mut line);
    match exchange(address, &line, |heard| heard.len() >= line.len()).await {
        Ok(heard) if heard == line => Ok(Protocol::Echo),
        Ok(heard) => Err(Unknown::Neither(format!(
            "to a line of {} bytes it answered {} other bytes",
            line.len(),
            heard.len()
        ))),
        Err(error) => Err(Unknown::Neither(error)),
    }
}

/// Sends, then reads until `enough`, the end, or the end of patience.
async fn exchange(
    address: SocketAddr,
    request: &[u8],
    enough: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, String> {
    let mut heard = Vec::new();
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        while !enough(&heard) && stream.read_buf(&mut heard).await? > 0 {}
        std::io::Result::Ok(())
    };
    match timeout(PATIENCE, talk).await {
        Ok(Ok(())) => Ok(heard),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) if heard.is_empty() => Err(format!("no answer in {} s", PATIENCE.as_secs())),
        Err(_) => Ok(heard),
    }
}

/// One whole HTTP answer to a request, on a connection of its own.
pub async fn fetch(address: SocketAddr, target: &str) -> Result<String, String> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: demo\r\n\r\n");
    let whole = |heard: &[u8]| !matches!(http::cut(heard), Ok(None));
    let heard = exchange(address, request.as_bytes(), whole).await?;
    match http::cut(&heard) {
        Ok(Some((answer, _))) if answer.status == 200 => {
            Ok(String::from_utf8_lossy(&answer.body).into_owned())
        }
        Ok(Some((answer, _))) => Err(format!("`GET {target}` got status {}", answer.status)),
        Ok(None) => Err(format!("`GET {target}` got no whole answer")),
        Err(error) => Err(error.to_string()),
    }
}
