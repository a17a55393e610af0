//! A connection that breaks when something else happens, as when its peer is forgotten or taken for
//! dead: TCP notices neither by itself, or only after hours.

use super::accept::Place;
use super::transport::Secured;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module's documentation.
pub struct Tied {
    stream: Secured,
    until: Pin<Box<dyn Future<Output = ()> + Send>>,
    broken: bool,
    /// Where it counts for as long as it is used, if it was accepted.
    _place: Option<Place>,
}

impl std::fmt::Debug for Tied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tied")
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Tied {
    /// A connection that can be read and written until `until` is ready.
    pub fn new(
        stream: Secured,
        place: Option<Place>,
        until: impl Future<Output = ()> + Send + 'static,
    ) -> Tied {
        Tied {
            stream,
            until: Box::pin(until),
            broken: false,
            _place: place,
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        // A future that is ready must not be asked again.
        self.broken = self.broken || self.until.as_mut().poll(context).is_ready();
        match self.broken {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Tied {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tied {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
