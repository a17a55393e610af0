//! Connections that processes open to hosts outside: the mirror of those that clients make.
//!
//! ```text
//!  process ── stream ──▶ anchor: looks the name up ─▶ is it allowed? ─▶ connects ─▶ bytes flow
//!                                     └──────────────────┴────────────────┴─▶ the stream is reset
//! ```
//!
//! The node on which the process is when it opens a connection becomes its anchor, and stays it
//! wherever the process goes; it makes the connection even if the process moves meanwhile, and what
//! became of it is kept for a while for a process that was frozen when it was told. When the anchor's
//! node ends, the connection breaks.

use super::Anchors;
use super::connection::{self, AnchorEnd};
use gateway::Policy;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use stream::End;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wire::destination::host_name;
use wire::frame::ResetReason;
use wire::{ProcessId, StreamId};

/// Connections to hosts outside that a node holds, for all processes together.
const MAX_DIALLED: usize = 8192;
/// Names that are looked up at a time, each on a thread.
const LOOKUPS: usize = 16;
/// How long one look-up may take, and may wait for its turn.
const LOOKING_UP: Duration = Duration::from_secs(5);
/// How long one address may take to answer.
const ONE_ADDRESS: Duration = Duration::from_secs(10);
/// How long all of a name's addresses may take together.
const ALL_ADDRESSES: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// How long it is remembered why a connection could not be made: for longer than a process is frozen.
const FAILED: Duration = Duration::from_secs(10);

/// What a node allows itself for the connections of its processes to hosts outside.
pub struct Dialler {
    connections: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
}

impl Default for Dialler {
    fn default() -> Self {
        Dialler {
            connections: Arc::new(Semaphore::new(MAX_DIALLED)),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }
}

/// A host as a process names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By its address.
    Address(IpAddr),
    /// By its name, in lower case.
    Name(String),
}

impl Host {
    /// Reads a host; none if it can be neither name nor address.
    pub fn read(text: &str) -> Option<Host> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let address: Result<IpAddr, _> = bare.unwrap_or(text).parse();
        match address {
            Ok(address) => Some(Host::Address(address.to_canonical())),
            Err(_) => host_name(text).map(Host::Name),
        }
    }

    /// Whether a connection there may be tried: whether any address that it may turn out to have is
    /// allowed. `port` 0 is any.
    pub fn may_be_tried(&self, policy: &Policy, port: u16) -> bool {
        match self {
            Host::Address(address) => policy.allows(None, *address, port),
            Host::Name(name) => policy.may_look_up(name, port),
        }
    }
}

/// A connection that a process opens.
pub struct Dial {
    /// The process.
    pub process: ProcessId,
    /// The anchor's end of its stream.
    pub end: End,
    /// Where to.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// What the process may reach.
    pub policy: Arc<Policy>,
}

impl Anchors {
    /// Makes a connection for a process that is here now.
    pub fn dial(self: &Arc<Self>, dial: Dial) {
        let stream = dial.end.id();
        let end = AnchorEnd::new(self, dial.end);
        self.switch.add_anchor(stream, end.clone());
        let (anchors, process) = (self.clone(), dial.process);
        let (host, port, policy) = (dial.host, dial.port, dial.policy);
        self.runtime.spawn(async move {
            let Ok(place) = anchors.dialler.connections.clone().try_acquire_owned() else {
                return anchors.failed(stream, &end, ResetReason::TooMany).await;
            };
            let connecting = anchors.reach(&host, port, &policy);
            let made = tokio::select! {
                made = connecting => made,
                // Nobody waits for it any more.
                () = end.broken() => Err(ResetReason::ClientGone),
            };
            match made {
                Ok(tcp) => {
                    let served = connection::serve_dialled(anchors.clone(), tcp, end, process);
                    if let Err(error) = served.await {
                        tracing::debug!(%process, %error, "a connection to outside failed");
                    }
                    anchors.switch.remove_anchor(stream);
                }
                Err(reason) => {
                    drop(place);
                    anchors.failed(stream, &end, reason).await;
                }
            }
        });
    }

    /// The connection cannot be made. Who was told so while it was sealed asks again.
    async fn failed(&self, stream: StreamId, end: &AnchorEnd, reason: ResetReason) {
        end.abort(reason);
        tokio::time::sleep(FAILED).await;
        self.switch.remove_anchor(stream);
    }

    /// Connects to the host, if the process may.
    async fn reach(
        &self,
        host: &Host,
        port: u16,
        policy: &Policy,
    ) -> Result<TcpStream, ResetReason> {
        let addresses = self.allowed(host, port, policy).await?;
        let all = async {
            let mut failed = ResetReason::Unreachable;
            for address in addresses {
                let connected = TcpStream::connect(SocketAddr::new(address, port));
                match timeout(ONE_ADDRESS, connected).await {
                    Ok(Ok(tcp)) => return Ok(tcp),
                    Ok(Err(error)) => failed = why(&error),
                    Err(_) => failed = ResetReason::TimedOut,
                }
            }
            Err(failed)
        };
        let all = timeout(ALL_ADDRESSES, all).await;
        all.unwrap_or(Err(ResetReason::TimedOut))
    }

    /// The addresses of a host that a process may connect to; there is one at least.
    pub async fn allowed(
        &self,
        host: &Host,
        port: u16,
        policy: &Policy,
    ) -> Result<Vec<IpAddr>, ResetReason> {
        if !host.may_be_tried(policy, port) {
            return Err(ResetReason::Denied);
        }
        let (name, mut addresses) = match host {
            Host::Address(address) => (None, vec![*address]),
            Host::Name(name) => (Some(name.as_str()), self.look_up(name).await?),
        };
        addresses.retain(|address| policy.allows(name, *address, port));
        addresses.truncate(MAX_ADDRESSES);
        match addresses.is_empty() {
            true => Err(ResetReason::Denied),
            false => Ok(addresses),
        }
    }

    /// Looks a name up, as this machine does.
    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, ResetReason> {
        // By the standard, it is nobody else's business.
        if name == "localhost" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let (name, turn) = (name.to_owned(), self.dialler.lookups.clone());
        let lookup = async move {
            let Ok(turn) = turn.acquire_owned().await else {
                return Err(ResetReason::TimedOut);
            };
            // The system's look-up takes a thread for as long as it takes, whoever still waits.
            let looked_up = tokio::spawn(async move {
                let found = tokio::net::lookup_host((name.as_str(), 0)).await;
                drop(turn);
                found.map(|found| found.map(|address| address.ip().to_canonical()).collect())
            });
            let found: Vec<IpAddr> = match looked_up.await {
                Ok(Ok(found)) => found,
                Ok(Err(_)) | Err(_) => return Err(ResetReason::NotFound),
            };
            Ok(found)
        };
        let found = timeout(LOOKING_UP, lookup).await;
        found.unwrap_or(Err(ResetReason::TimedOut))
    }
}

/// Why no connection could be made.
fn why(error: &io::Error) -> ResetReason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => ResetReason::Refused,
        io::ErrorKind::TimedOut => ResetReason::TimedOut,
        io::ErrorKind::PermissionDenied => ResetReason::Denied,
        _ => ResetReason::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address() {
        let address = |text: &str| Some(Host::Address(text.parse().unwrap()));
        assert_eq!(Host::read("10.0.0.1"), address("10.0.0.1"));
        assert_eq!(Host::read("::1"), address("::1"));
        assert_eq!(Host::read("[::1]"), address("::1"));
        assert_eq!(Host::read("::ffff:10.0.0.1"), address("10.0.0.1"));
        let name = Some(Host::Name("a.org".to_owned()));
        assert_eq!(Host::read("A.org."), name);
        for text in ["", ".", "a..b", "a:b", "[a]"] {
            assert_eq!(Host::read(text), None, "{text}");
        }
    }
}
