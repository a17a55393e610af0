//! Links between nodes: one TLS listener per node, and connections of a few kinds
//! ([`wire::link`] says what runs on them).
//!
//! ```text
//! Control   one per pair, kept up by both sides; small messages in order      (control.rs)
//! Streams   one per pair, kept up by both sides; frames of all client streams (streams.rs)
//! Bulk      one per move, dialled before anything is frozen                   (bulk.rs)
//! Api       one per forwarded request                                         (crate::api)
//! Join      the only kind a stranger may open                                 (join.rs)
//! ```

pub mod accept;
pub mod bulk;
pub mod control;
pub mod identity;
pub mod join;
pub mod keep;
pub mod raw;
pub mod streams;
pub mod tally;
pub mod tied;
pub mod transport;

use crate::fleet::Fleet;
use identity::Identity;
use overlay::membership::Health;
use std::io;
use tokio::time::timeout;
use transport::{PATIENCE, Secured, TransportError, read_frame};
use wire::NodeId;
use wire::link::{Hello, LinkError, LinkKind, MAX_HELLO};

/// Opens links.
#[derive(Clone, Debug)]
pub struct Dialler {
    /// This node's key.
    pub identity: Identity,
    /// This node's name, for the other side's logs.
    pub name: String,
    /// This start of the node.
    pub incarnation: u64,
    /// Whose addresses are known.
    pub fleet: Fleet,
}

/// Why a link could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a member.
    #[error("node {} is not a member of the fleet", .0.short())]
    Stranger(NodeId),
    /// No connection.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The other side does not speak as it should.
    #[error("{address}: {source}")]
    Link {
        /// Who.
        address: String,
        /// What is wrong.
        source: LinkError,
    },
    /// The directory's node says that this node is no member.
    #[error(
        "{address} keeps the directory and does not know this node as a member: it was forgotten; \
         stop it with `limosa down`, and join the fleet anew with a ticket, `limosa join`"
    )]
    Forgotten {
        /// Who.
        address: String,
    },
    /// The other side closed the connection without an answer.
    #[error(
        "{address} closed the link without an answer; it may not know this node as a member, or have no room"
    )]
    Refused {
        /// Who.
        address: String,
    },
}

impl Dialler {
    /// Whether a node is a member now.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.fleet.borrow().members.contains_key(&node)
    }

    /// Waits until a node is no member; what it may do ends then. For ever, if this node ends first.
    pub fn forgotten(&self, node: NodeId) -> impl Future<Output = ()> + Send + use<> {
        let mut fleet = self.fleet.clone();
        async move {
            let gone = fleet.wait_for(|view| !view.members.contains_key(&node));
            if gone.await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Waits until a node is taken for dead, or is no member; what it was asked for will not come then.
    /// For ever, if this node ends first.
    pub fn dead(&self, node: NodeId) -> impl Future<Output = ()> + Send + use<> {
        let mut fleet = self.fleet.clone();
        async move {
            let dead = fleet.wait_for(|view| view.health(node) == Health::Dead);
            if dead.await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Opens a link to a member; both sides have said hello when it returns.
    pub async fn open(&self, to: NodeId, kind: LinkKind) -> Result<(Secured, Hello), OpenError> {
        let address = {
            let fleet = self.fleet.borrow();
            let member = fleet.members.get(&to).ok_or(OpenError::Stranger(to))?;
            member.address.clone()
        };
        self.open_at(&address, to, kind).await
    }

    /// Opens a link to a node at an address.
    pub async fn open_at(
        &self,
        address: &str,
        to: NodeId,
        kind: LinkKind,
    ) -> Result<(Secured, Hello), OpenError> {
        let mut stream = transport::dial(&self.identity, address, to).await?;
        let refused = || OpenError::Refused {
            address: address.to_owned(),
        };
        let link = |source| OpenError::Link {
            address: address.to_owned(),
            source,
        };
        self.greet(&mut stream, kind).await.map_err(|_| refused())?;
        let message = timeout(PATIENCE, read_frame(&mut stream, MAX_HELLO))
            .await
            .map_err(|_| TransportError::Timeout {
                address: address.to_owned(),
            })?
            .map_err(|_| refused())?
            .ok_or_else(refused)?;
        let hello = Hello::decode(&message).map_err(link)?;
        hello.agree().map_err(link)?;
        if hello.kind != kind {
            let address = address.to_owned();
            return Err(OpenError::Forgotten { address });
        }
        Ok((stream, hello))
    }

    /// Says hello.
    async fn greet(&self, stream: &mut Secured, kind: LinkKind) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        let mut frame = Vec::new();
        Hello::new(kind, self.name.clone(), self.incarnation)
            .write_frame(&mut frame)
            .map_err(io::Error::other)?;
        stream.write_all(&frame).await?;
        stream.flush().await
    }
}
