//! The client: one thread, many connections, one request outstanding on each.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

const REQUEST: &[u8] = b"GET /count HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Longer is broken.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// Open connections, each with a request on its way.
pub(super) struct Load {
    connections: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Load {
    /// Connects, and asks once on each.
    pub fn connect(address: SocketAddr, connections: usize) -> io::Result<Load> {
        let connect = |_| {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.write_all(REQUEST)?;
            stream.set_nonblocking(true)?;
            Ok(Connection {
                stream,
                received: Vec::new(),
            })
        };
        let connections: io::Result<Vec<_>> = (0..connections).map(connect).collect();
        Ok(Load {
            connections: connections?,
        })
    }

    /// Asks on each connection as soon as its answer has come. Returns the answers and the seconds.
    pub fn run(&mut self, length: Duration) -> io::Result<(u64, f64)> {
        let start = Instant::now();
        let mut answers = 0;
        while start.elapsed() < length {
            let streams = self.connections.iter().map(|connection| &connection.stream);
            let mut waiting: Vec<PollFd<'_>> = streams
                .map(|stream| PollFd::new(stream, PollFlags::IN))
                .collect();
            if poll(&mut waiting, Some(&PATIENCE))? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let ready: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
            for (connection, _) in self
                .connections
                .iter_mut()
                .zip(ready)
                .filter(|(_, ready)| *ready)
            {
                answers += connection.advance()?;
            }
        }
        Ok((answers, start.elapsed().as_secs_f64()))
    }
}

impl Connection {
    /// Reads what is there; asks again if that completes an answer.
    fn advance(&mut self) -> io::Result<u64> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.received.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        }
        let cut = crate::demo::http::cut(&self.received).map_err(io::Error::other)?;
        let Some((answer, taken)) = cut else {
            return Ok(0);
        };
        if answer.status != 200 {
            return Err(io::Error::other(format!("status {}", answer.status)));
        }
        self.received.drain(..taken);
        // So few bytes go at once, with nothing else on their way.
        self.stream.write_all(REQUEST)?;
        Ok(1)
    }
}
