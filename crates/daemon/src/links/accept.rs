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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wire::NodeId;
use wire::link::{Hello, MAX_HELLO};
use wire::name::printable;

/// Connections that have not said hello yet.
const MAX_PENDING: usize = 256;
/// Connections of one member at a time, of all kinds.
const MAX_PER_MEMBER: usize = 512;
/// Strangers that are joining at a time; of those that have not proved anything the oldest goes first.
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

/// Who has which places, the oldest first.
type Places = Arc<Mutex<HashMap<NodeId, VecDeque<(u64, CancellationToken)>>>>;

/// One of the places that a peer's connections may take.
#[derive(Debug)]
pub struct Place {
    peer: NodeId,
    number: u64,
    /// Somebody else needs it.
    wanted: CancellationToken,
    places: Places,
}

impl Place {
    /// One of at most `most`; none if all are taken.
    fn take(places: &Places, peer: NodeId, most: usize) -> Option<Place> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut all = places.lock().unwrap_or_else(PoisonError::into_inner);
        let held = all.entry(peer).or_default();
        if held.len() >= most {
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let wanted = CancellationToken::new();
        held.push_back((number, wanted.clone()));
        Some(Place {
            peer,
            number,
            wanted,
            places: places.clone(),
        })
    }

    /// One of at most `most`: if all are taken, the one that was taken first is, from now on.
    fn take_over(places: &Places, peer: NodeId, most: usize) -> Option<Place> {
        {
            let mut all = places.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(held) = all.get_mut(&peer)
                && held.len() >= most
                && let Some((_, wanted)) = held.pop_front()
            {
                wanted.cancel();
            }
        }
        Place::take(places, peer, most)
    }

    /// Waits until somebody else has it.
    pub async fn wanted(&self) {
        self.wanted.cancelled().await;
    }

    /// Gives it back before the connection ends.
    pub fn give_back(&self) {
        let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = all.get_mut(&self.peer) else {
            return;
        };
        held.retain(|(number, _)| *number != self.number);
        if held.is_empty() {
            all.remove(&self.peer);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
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
    let places = Places::default();
    let (refused, crowded, failed) = (Arc::new(Tally::new()), Tally::new(), Tally::new());
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                // Too many open files, most likely; some will be closed.
                if let Some(others) = failed.due(Instant::now()) {
                    tracing::warn!(%error, others, "cannot accept a link");
                }
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
    places: &Places,
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
    // Strangers can make keys at will: together they get as much as is set aside for joining, and
    // those that only take places lose them to whoever comes.
    let place = match member {
        true => Place::take(places, peer, MAX_PER_MEMBER),
        false => Place::take_over(places, NodeId::default(), MAX_JOINING),
    };
    let place = place.ok_or_else(|| match member {
        true => format!(
            "node {} has {MAX_PER_MEMBER} connections already",
            peer.short()
        ),
        false => format!("{MAX_JOINING} others are joining"),
    })?;
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
