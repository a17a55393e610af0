//! How long a server takes to answer while others compute.

use super::endless;
use crate::harness::{Error, HTTPD, Native, Node, Skipped};
use crate::progress::Progress;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const SERVER: &[u8] = include_bytes!("../../../../guests/httpd/httpd.wasm");
const SPIN: &str = "int main(void) { for (volatile unsigned long i = 0;; i++); }";
const REQUEST: &[u8] = b"GET /count HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Between two requests.
const PERIOD: Duration = Duration::from_millis(5);
/// Longer is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Loops for each core.
const LOOPS: usize = 2;
/// Requests before those that count.
const WARM_UP: usize = 20;

/// Milliseconds from when each request was due to its answer.
pub(crate) struct Answers {
    pub idle_ms: Vec<f64>,
    pub loaded_ms: Vec<f64>,
}

impl Answers {
    /// Of a process, beside processes.
    pub fn of_process(
        cores: usize,
        requests: usize,
        progress: &Progress,
    ) -> Result<Answers, Error> {
        let node = Node::start()?;
        let address = node.serve("httpd", SERVER)?;
        let idle_ms = ask(address, requests)?;
        progress.step();
        let endless = endless()?;
        for number in 0..LOOPS * cores {
            node.run(&format!("loop-{number}"), &endless, None)?;
        }
        let loaded_ms = ask(address, requests)?;
        progress.step();
        Ok(Answers { idle_ms, loaded_ms })
    }

    /// Of an OS process, beside OS processes.
    pub fn of_native(
        cores: usize,
        requests: usize,
        progress: &Progress,
    ) -> Result<Result<Answers, Skipped>, Error> {
        let server = match Native::compile("httpd", &HTTPD)? {
            Ok(server) => server,
            Err(skipped) => return Ok(Err(skipped)),
        };
        let spin = match Native::compile("spin", &[("spin.c", SPIN)])? {
            Ok(spin) => spin,
            Err(skipped) => return Ok(Err(skipped)),
        };
        let (_running, address) = server.serve()?;
        let idle_ms = ask(address, requests)?;
        progress.step();
        let loops: Result<Vec<_>, _> = (0..LOOPS * cores).map(|_| spin.run(&[])).collect();
        let loops = loops?;
        let loaded_ms = ask(address, requests)?;
        drop(loops);
        progress.step();
        Ok(Ok(Answers { idle_ms, loaded_ms }))
    }
}

/// Asks that often, at fixed instants, whether answers have come or not.
fn ask(address: SocketAddr, requests: usize) -> Result<Vec<f64>, Error> {
    let failed = |error| Error::System {
        doing: "the server does not answer",
        error,
    };
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut times = Vec::with_capacity(requests);
    let mut buffer = Vec::new();
    let start = Instant::now();
    for number in 0..WARM_UP + requests {
        let due = start + PERIOD * u32::try_from(number).unwrap_or(u32::MAX);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(REQUEST).map_err(failed)?;
        answer(&mut stream, &mut buffer).map_err(failed)?;
        if number >= WARM_UP {
            times.push(due.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(times)
}

/// Reads one answer whole.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    let mut chunk = [0; 4096];
    loop {
        let cut = crate::demo::http::cut(buffer).map_err(std::io::Error::other)?;
        if let Some((answer, taken)) = cut {
            buffer.drain(..taken);
            return match answer.status {
                200 => Ok(()),
                status => Err(std::io::Error::other(format!("status {status}"))),
            };
        }
        match stream.read(&mut chunk)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length => buffer.extend_from_slice(&chunk[..length]),
        }
    }
}
