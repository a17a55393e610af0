//! The listener of a node's links.
//!
//! Whoever can reach the port may connect, so everything before the hello is bounded: the number
//! of connections that have not said it yet (when there are too many, the oldest is dropped, so
//! that idle ones cannot keep members out), their time, and their bytes. A stranger's connection
//! is good for joining only.

use super::tally::Tally;
use super::transport::{self, PATIENCE, Secured, read_frame};
use super::{Dialler, LinkKind};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use wire::NodeId;
use wire::link::{Hello, MAX_HELLO};

/// Connections that have not said hello yet.
const MAX_PENDING: usize = 256;
/// Connections of one member at a time, of all kinds.
const MAX_PER_MEMBER: usize = 512;
/// Strangers that are joining at a time.
const MAX_JOINING: usize = 16;

/// A connection whose other side is known, and has said what it is for.
#[derive(Debug)]
pub struct Accepted {
    /// The other side.
    pub peer: NodeId,
    /// What it said.
    pub hello: Hello,
    /// The connection; both sides have said hello.
    pub stream: Secured,
    /// Where it comes from.
    pub from: SocketAddr,
    /// Counts among the connections of its peer until dropped.
    pub place: Place,
}

/// One of the places that a peer's connections may take.
#[derive(Debug)]
pub struct Place {
    peer: NodeId,
    taken: Arc<Mutex<HashMap<NodeId, usize>>>,
}

impl Place {
    fn take(
        taken: &Arc<Mutex<HashMap<NodeId, usize>>>,
        peer: NodeId,
        most: usize,
    ) -> Option<Place> {
        let mut counts = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place {
            peer,
            taken: taken.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

/// A connection that counts for as long as it is used, and breaks when its peer is forgotten.
pub struct Placed {
    stream: Secured,
    forgotten: Pin<Box<dyn Future<Output = ()> + Send>>,
    broken: bool,
    _place: Place,
}

impl std::fmt::Debug for Placed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Placed({})", self._place.peer.short())
    }
}

impl Placed {
    /// Ties the three together.
    pub fn new(
        stream: Secured,
        place: Place,
        forgotten: impl Future<Output = ()> + Send + 'static,
    ) -> Placed {
        Placed {
            stream,
            forgotten: Box::pin(forgotten),
            broken: false,
            _place: place,
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        // A future that is ready must not be asked again.
        self.broken = self.broken || self.forgotten.as_mut().poll(context).is_ready();
        match self.broken {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Placed {
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

/// Accepts links for as long as it is polled, and hands those that said hello to `accepted`.
pub async fn serve(
    listener: TcpListener,
    dialler: Dialler,
    accepted: impl Fn(Accepted) + Clone + Send + 'static,
) {
    let mut pending: VecDeque<AbortHandle> = VecDeque::new();
    let mut tasks = tokio::task::JoinSet::new();
    let places = Arc::default();
    let (refused, crowded) = (Arc::new(Tally::new()), Tally::new());
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                // Too many open files, most likely; some will be closed.
                tracing::warn!(%error, "cannot accept a link");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        pending.retain(|task| !task.is_finished());
        if pending.len() >= MAX_PENDING
            && let Some(oldest) = pending.pop_front()
        {
            if let Some(others) = crowded.due(Instant::now()) {
                tracing::warn!(
                    others,
                    "too many connections that say nothing; the oldest is dropped"
                );
            }
            oldest.abort();
        }
        let (dialler, places, accepted) = (dialler.clone(), Arc::clone(&places), accepted.clone());
        let refused = refused.clone();
        pending.push_back(tasks.spawn(async move {
            match introduce(&dialler, &places, stream, from).await {
                Ok(link) => accepted(link),
                Err(reason) => match refused.due(Instant::now()) {
                    Some(others) => tracing::info!(%from, reason, others, "link refused"),
                    None => tracing::debug!(%from, reason, "link refused"),
                },
            }
        }));
    }
}

async fn introduce(
    dialler: &Dialler,
    places: &Arc<Mutex<HashMap<NodeId, usize>>>,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<Accepted, String> {
    let (mut stream, peer) = transport::accept(&dialler.identity, stream, from)
        .await
        .map_err(|error| error.to_string())?;
    let text = |error: io::Error| error.to_string();
    let message = timeout(PATIENCE, read_frame(&mut stream, MAX_HELLO))
        .await
        .map_err(|_| "it said nothing".to_owned())?
        .map_err(text)?
        .ok_or("it said nothing and closed")?;
    let hello = Hello::decode(&message).map_err(|error| error.to_string())?;
    hello.agree().map_err(|error| error.to_string())?;
    let member = dialler.is_member(peer);
    if !member && hello.kind != LinkKind::Join {
        let directory = dialler.fleet.borrow().directory;
        if directory == dialler.identity.node() {
            // This node knows all members, and who was one should know that it is none.
            let _ = timeout(PATIENCE, dialler.greet(&mut stream, LinkKind::Join)).await;
        }
        return Err(format!(
            "node {} ({}) is not a member of the fleet and asked for {:?}",
            peer.short(),
            printable(&hello.node_name, 64),
            hello.kind
        ));
    }
    // Strangers can make keys at will: together they get as much as is set aside for joining.
    let (holder, most) = match member {
        true => (peer, MAX_PER_MEMBER),
        false => (NodeId::default(), MAX_JOINING),
    };
    let place = Place::take(places, holder, most)
        .ok_or_else(|| format!("node {} has {most} connections already", peer.short()))?;
    timeout(PATIENCE, dialler.greet(&mut stream, hello.kind))
        .await
        .map_err(|_| "it does not read".to_owned())?
        .map_err(text)?;
    Ok(Accepted {
        peer,
        hello,
        stream,
        from,
        place,
    })
}

/// A peer's text, fit for a log line: so many characters of it.
pub fn printable(text: &str, most: usize) -> String {
    text.chars()
        .take(most)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
