//! What a connection between nodes carries when nothing runs on it but bytes: the measure for what
//! runs on it.

use super::identity::{self, Identity};
use super::transport;
use std::io;
use std::net::TcpListener as StdListener;
use std::thread;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// Bytes given to and asked of the connection at once.
const STEP: usize = 256 << 10;

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn new_identity() -> io::Result<Identity> {
    let key = identity::generate().map_err(io::Error::other)?;
    Identity::new(&key).map_err(io::Error::other)
}

/// Sends so many bytes from one thread to another, over TLS as links use it; gives bytes per second.
pub fn measure(bytes: u64) -> io::Result<f64> {
    let listener = StdListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?.to_string();
    let (near, far) = (new_identity()?, new_identity()?);
    let expected = far.node();
    let receiver = thread::spawn(move || {
        runtime()?.block_on(async {
            let (stream, from) = TcpListener::from_std(listener)?.accept().await?;
            let accepted = transport::accept(&far, stream, from).await;
            let (mut stream, _) = accepted.map_err(io::Error::other)?;
            let mut buffer = vec![0; STEP];
            let mut left = bytes;
            while left > 0 {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left = left.saturating_sub(read as u64);
            }
            stream.write_all(&[0]).await?;
            stream.flush().await
        })
    });
    let took = runtime()?.block_on(async {
        let dialled = transport::dial(&near, &address, expected).await;
        let mut stream = dialled.map_err(io::Error::other)?;
        let buffer = vec![1; STEP];
        let start = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let step = usize::try_from(left).map_or(STEP, |left| left.min(STEP));
            stream
                .write_all(buffer.get(..step).unwrap_or_default())
                .await?;
            left -= step as u64;
        }
        stream.flush().await?;
        stream.read_exact(&mut [0]).await?;
        io::Result::Ok(start.elapsed())
    })?;
    let received: io::Result<()> = receiver
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the receiving thread failed")));
    received?;
    Ok(bytes as f64 / took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_go_from_one_thread_to_another() {
        assert!(super::measure(1 << 20).unwrap() > 0.0);
    }
}
