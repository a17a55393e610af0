//! Listening sockets, of links and of programs.

use std::io;
use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host};

/// Connections that may wait to be accepted, so that none of a burst has to knock again a second
/// later. The system has a limit of its own (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Opens a listener at the first address that can be had.
pub async fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failed = None;
    for address in lookup_host(address).await? {
        let opened = || {
            let socket = match address.is_ipv4() {
                true => TcpSocket::new_v4(),
                false => TcpSocket::new_v6(),
            }?;
            // A port whose last connections are not forgotten yet can be had again.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        match opened() {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = Some(error),
        }
    }
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "it names no address");
    Err(failed.unwrap_or_else(none))
}
