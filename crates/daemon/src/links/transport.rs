//! One authenticated connection: TCP, TLS, and who is on the other side.

use super::identity::{self, Identity};
use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use wire::NodeId;

/// How long the other side may take for TCP, then for TLS, then for its first frame.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// A peer that acknowledges nothing for so long is taken to be gone (`TCP_USER_TIMEOUT`).
const USER_TIMEOUT_MS: u32 = 3000;
/// An idle connection is probed after this time, and then as often, until the peer is taken to be gone:
/// one whose machine has vanished says nothing, and nobody writes to it.
const PROBE_AFTER: Duration = Duration::from_secs(2);
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Bytes read from a connection at once. TLS itself reads 4 KiB at a time, which would cost a
/// system call each.
const READ_AHEAD: usize = 128 << 10;

/// A connection whose other side has proved its key.
pub type Secured = TlsStream<BufReader<TcpStream>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// TCP could not connect.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// TLS did not come about.
    #[error("no secure connection with {address}: {source}")]
    Handshake {
        /// With whom.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Another node answered.
    #[error("{address} is not node {} but {}", expected.short(), found.short())]
    WrongNode {
        /// Where.
        address: String,
        /// Who should be there.
        expected: NodeId,
        /// Who is.
        found: NodeId,
    },
    /// It took too long.
    #[error("{address} did not answer within {} s", PATIENCE.as_secs())]
    Timeout {
        /// Who.
        address: String,
    },
}

/// Connects to the node `expected` and makes sure that it is the one that answers.
pub async fn dial(
    identity: &Identity,
    address: &str,
    expected: NodeId,
) -> Result<Secured, TransportError> {
    let late = || TransportError::Timeout {
        address: address.to_owned(),
    };
    let stream = timeout(PATIENCE, TcpStream::connect(address))
        .await
        .map_err(|_| late())?
        .map_err(|source| TransportError::Connect {
            address: address.to_owned(),
            source,
        })?;
    let failed = |source| TransportError::Handshake {
        address: address.to_owned(),
        source,
    };
    tune(&stream).map_err(failed)?;
    // The key names the node; the name that TLS wants says nothing and is not sent.
    let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let connector = TlsConnector::from(identity.client.clone());
    let stream = BufReader::with_capacity(READ_AHEAD, stream);
    let stream = timeout(PATIENCE, connector.connect(name, stream))
        .await
        .map_err(|_| late())?
        .map_err(failed)?;
    match identity::peer(stream.get_ref().1.peer_certificates()) {
        Some(found) if found == expected => Ok(stream.into()),
        Some(found) => Err(TransportError::WrongNode {
            address: address.to_owned(),
            expected,
            found,
        }),
        None => Err(failed(io::Error::other("it showed no key"))),
    }
}

/// Makes an accepted connection secure and says whose it is.
pub async fn accept(
    identity: &Identity,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<(Secured, NodeId), TransportError> {
    let failed = |source| TransportError::Handshake {
        address: from.to_string(),
        source,
    };
    tune(&stream).map_err(failed)?;
    let stream = BufReader::with_capacity(READ_AHEAD, stream);
    let stream = timeout(
        PATIENCE,
        TlsAcceptor::from(identity.server.clone()).accept(stream),
    )
    .await
    .map_err(|_| TransportError::Timeout {
        address: from.to_string(),
    })?
    .map_err(failed)?;
    match identity::peer(stream.get_ref().1.peer_certificates()) {
        Some(node) => Ok((stream.into(), node)),
        None => Err(failed(io::Error::other("it showed no key"))),
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    Ok(())
}

/// Why a link has ended, for logs.
pub fn reason(result: io::Result<()>) -> String {
    match result {
        Ok(()) => "closed by the other side".to_owned(),
        // Without TLS's goodbye: the other side's process has ended.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "closed by the other side, which has ended".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// Reads one frame: its length as u32 little-endian, then so many bytes. None at a clean end. A
/// longer one than `limit` is an error, and nothing is allocated for it.
pub async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 4];
    let first = stream.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    if let Some(rest) = header.get_mut(first..) {
        stream.read_exact(rest).await?;
    }
    let length = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes where at most {limit} are allowed"),
        ));
    }
    // Grows as bytes come, so that a claimed length costs nothing.
    let mut frame = Vec::with_capacity(length.min(64 << 10));
    let read = stream.take(length as u64).read_to_end(&mut frame).await?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    fn framed(content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap();
        [&length.to_le_bytes(), content].concat()
    }

    #[tokio::test]
    async fn an_idle_connection_is_probed_by_both_sides() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (near, (far, _)) = (near.unwrap(), listener.accept().await.unwrap());
        for side in [near, far] {
            tune(&side).unwrap();
            assert!(sockopt::socket_keepalive(&side).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&side).unwrap(), PROBE_AFTER);
            assert_eq!(sockopt::tcp_keepintvl(&side).unwrap(), PROBE_EVERY);
        }
    }

    #[tokio::test]
    async fn frames_arrive_as_they_were_sent() {
        let (mut near, mut far) = tokio::io::duplex(7);
        let write = async {
            near.write_all(&framed(b"")).await.unwrap();
            near.write_all(&framed(&[5; 1000])).await.unwrap();
            drop(near);
        };
        let read = async {
            assert_eq!(read_frame(&mut far, 1000).await.unwrap().unwrap(), b"");
            assert_eq!(
                read_frame(&mut far, 1000).await.unwrap().unwrap(),
                [5; 1000]
            );
            assert_eq!(read_frame(&mut far, 1000).await.unwrap(), None);
        };
        tokio::join!(write, read);
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let (mut near, mut far) = tokio::io::duplex(64);
        near.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        let error = read_frame(&mut far, 4096).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_frame_that_is_cut_off_is_an_error() {
        let (mut near, mut far) = tokio::io::duplex(64);
        near.write_all(&[9, 0, 0, 0, 1, 2]).await.unwrap();
        drop(near);
        let error = read_frame(&mut far, 4096).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
