//! What nodes say on the connections between them.
//!
//! A link is one connection, encrypted and authenticated by the world (each side knows the other's
//! node id). On it run frames, in each direction:
//!
//! ```text
//! offset  size
//!      0     4  length of the message, little-endian; at most the link's limit
//!      4     …  the message
//! ```
//!
//! The first message in each direction is a [`Hello`], whose layout every version keeps:
//!
//! ```text
//!      0     4  magic "LMSA"
//!      4     2  oldest version spoken, little-endian
//!      6     2  newest version spoken
//!      8     …  kind, node name, incarnation, in postcard's encoding; a later version adds behind
//! ```
//!
//! Both sides then speak the newest version that both know ([`Hello::agree`]). All further messages
//! are in postcard's encoding, and the kind of the link says of what type:
//!
//! ```text
//! Control   wire::control::Control, both ways, until the connection ends
//! Streams   wire::frame::StreamFrame, both ways, until the connection ends
//! Bulk      from the caller any number of parts, then the connection ends;
//!           a part is one BulkHeader, then that many raw bytes; memory comes as many parts of
//!           pages (wire::pages), before the snapshot. To a mark the other side answers with one byte,
//!           and to nothing else
//! Api       raw bytes: an HTTP request forwarded to this node, and its response
//! Join      one Join from the caller, one JoinReply back, then the connection ends
//! ```

use crate::api::{ListenerInfo, Terminals};
use crate::control::Member;
use crate::destination::Rule;
use crate::frame::MAX_DATA;
use crate::snapshot::LeftOut;
use crate::{MoveId, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The newest version of the link's messages, which this code speaks by choice.
pub const NEWEST_VERSION: u16 = 2;
/// The oldest version of the link's messages that this code speaks. Version 1, in which memory was
/// part of the snapshot, was never released.
pub const OLDEST_VERSION: u16 = 2;
/// The longest message on a control, bulk or join link, in bytes.
pub const MAX_CONTROL: usize = 1 << 20;
/// The longest message on a streams link, in bytes: a full `Data` and what is around it.
pub const MAX_STREAM: usize = MAX_DATA + 1024;
/// The longest `Hello`, in bytes.
pub const MAX_HELLO: usize = 1024;

const HELLO_MAGIC: [u8; 4] = *b"LMSA";
const LENGTH_BYTES: usize = 4;

/// Bytes on a link that break its rules, or versions that do not meet. The link is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A message is longer than this link allows.
    #[error("a message of {length} bytes on a link that allows {limit}; drop the link")]
    TooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// More bytes were pushed than were taken out as frames.
    #[error(
        "{buffered} bytes wait on a link that holds {capacity}; take frames out before pushing"
    )]
    Full {
        /// Bytes that would wait.
        buffered: usize,
        /// The capacity.
        capacity: usize,
    },
    /// A message cannot be decoded.
    #[error("a message on the link is malformed ({0}); drop the link")]
    Malformed(String),
    /// The other side is no Limosa node.
    #[error("the other side does not speak the protocol of Limosa nodes; check address and port")]
    NotANode,
    /// No version is spoken by both sides.
    #[error(
        "no common version: this node speaks {ours}, the other {theirs}; bring both to releases \
         that are next to each other"
    )]
    NoCommonVersion {
        /// What this node speaks.
        ours: Versions,
        /// What the other speaks.
        theirs: Versions,
    },
}

fn malformed(error: postcard::Error) -> LinkError {
    LinkError::Malformed(error.to_string())
}

/// The versions that a node speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// What this release speaks.
    pub const OURS: Versions = Versions {
        oldest: OLDEST_VERSION,
        newest: NEWEST_VERSION,
    };

    /// The newest version in both ranges.
    pub fn agree(self, theirs: Versions) -> Result<u16, LinkError> {
        let version = self.newest.min(theirs.newest);
        if version < self.oldest || version < theirs.oldest {
            return Err(LinkError::NoCommonVersion { ours: self, theirs });
        }
        Ok(version)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LinkKind {
    /// Heartbeats, members, directory, steps of moves.
    Control,
    /// Frames of client streams.
    Streams,
    /// The image and the snapshot of one move.
    Bulk,
    /// One forwarded API request.
    Api,
    /// A node that asks to become a member.
    Join,
}

/// The first message in each direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The versions that the sender speaks.
    pub versions: Versions,
    /// What the link is for; the callee repeats what the caller said. If it keeps the directory and
    /// the caller is no member, it says `Join` whatever the caller said, and closes.
    pub kind: LinkKind,
    /// The sender's name, for people.
    pub node_name: String,
    /// The sender's incarnation.
    pub incarnation: u64,
}

/// The part of a `Hello` behind the versions.
#[derive(Serialize, Deserialize)]
struct HelloBody {
    kind: LinkKind,
    node_name: String,
    incarnation: u64,
}

impl Hello {
    /// A hello of this release.
    pub fn new(kind: LinkKind, node_name: impl Into<String>, incarnation: u64) -> Hello {
        Hello {
            versions: Versions::OURS,
            kind,
            node_name: node_name.into(),
            incarnation,
        }
    }

    /// The version to speak with the sender of this hello.
    pub fn agree(&self) -> Result<u16, LinkError> {
        Versions::OURS.agree(self.versions)
    }

    /// Appends this hello as a frame to `out`.
    pub fn write_frame(&self, out: &mut Vec<u8>) -> Result<(), LinkError> {
        let body = HelloBody {
            kind: self.kind,
            node_name: self.node_name.clone(),
            incarnation: self.incarnation,
        };
        let mut message = HELLO_MAGIC.to_vec();
        message.extend(self.versions.oldest.to_le_bytes());
        message.extend(self.versions.newest.to_le_bytes());
        let message = postcard::to_extend(&body, message).map_err(malformed)?;
        frame(out, MAX_HELLO, |out| {
            out.extend_from_slice(&message);
            Ok(())
        })
    }

    /// Reads the content of a hello's frame.
    pub fn decode(message: &[u8]) -> Result<Hello, LinkError> {
        let rest = message
            .strip_prefix(&HELLO_MAGIC)
            .ok_or(LinkError::NotANode)?;
        let (range, rest) = rest.split_at_checked(4).ok_or(LinkError::NotANode)?;
        let versions = match *range {
            [a, b, c, d] => Versions {
                oldest: u16::from_le_bytes([a, b]),
                newest: u16::from_le_bytes([c, d]),
            },
            _ => return Err(LinkError::NotANode),
        };
        let (body, rest): (HelloBody, &[u8]) =
            postcard::take_from_bytes(rest).map_err(malformed)?;
        if !rest.is_empty() && versions.newest <= NEWEST_VERSION {
            let reason = format!("{} bytes follow the hello", rest.len());
            return Err(LinkError::Malformed(reason));
        }
        Ok(Hello {
            versions,
            kind: body.kind,
            node_name: body.node_name,
            incarnation: body.incarnation,
        })
    }
}

/// Appends a message as a frame to `out`. On failure `out` is as it was.
pub fn write_frame<T: Serialize>(
    message: &T,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), LinkError> {
    frame(out, limit, |out| {
        postcard::to_extend(message, Appender(out)).map_err(malformed)?;
        Ok(())
    })
}

/// Lets postcard append to a vector that it does not own.
struct Appender<'a>(&'a mut Vec<u8>);

impl Extend<u8> for Appender<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}

fn frame(
    out: &mut Vec<u8>,
    limit: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    let start = out.len();
    out.extend([0; LENGTH_BYTES]);
    let written = write(out).and_then(|()| {
        let length = out.len() - start - LENGTH_BYTES;
        let too_long = LinkError::TooLong { length, limit };
        if length > limit {
            return Err(too_long);
        }
        u32::try_from(length).map_err(|_| too_long)
    });
    match written {
        Ok(length) => {
            if let Some(field) = out.get_mut(start..start + LENGTH_BYTES) {
                field.copy_from_slice(&length.to_le_bytes());
            }
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Decodes the content of a frame. The message takes all of it.
pub fn decode<T: DeserializeOwned>(message: &[u8]) -> Result<T, LinkError> {
    let (value, rest) = postcard::take_from_bytes(message).map_err(malformed)?;
    if rest.is_empty() {
        return Ok(value);
    }
    let reason = format!("{} bytes follow it", rest.len());
    Err(LinkError::Malformed(reason))
}

/// Cuts the bytes of a link into frames.
///
/// Push what was read, then take frames out until there is none, then push again. Holds at most two
/// frames of the longest kind. After an error the link is to be dropped; the error stays.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were taken out.
    taken: usize,
    limit: usize,
    failed: Option<LinkError>,
}

impl FrameReader {
    /// For a link whose messages are at most `limit` bytes long.
    pub fn new(limit: usize) -> FrameReader {
        FrameReader {
            buffer: Vec::new(),
            taken: 0,
            limit,
            failed: None,
        }
    }

    /// Bytes that wait.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.taken
    }

    /// Adds bytes read from the link. A push of no more than the limit succeeds whenever all whole
    /// frames were taken out.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let capacity = 2 * (self.limit + LENGTH_BYTES);
        let buffered = self.buffered() + bytes.len();
        if buffered > capacity {
            return Err(self.fail(LinkError::Full { buffered, capacity }));
        }
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.taken = 0;
        } else if self.taken >= self.buffer.len() / 2 {
            // Moving less than was taken out costs less than what was saved.
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes out the content of the next whole frame.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, LinkError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > self.limit {
            let limit = self.limit;
            return Err(self.fail(LinkError::TooLong { length, limit }));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.taken + LENGTH_BYTES;
        self.taken = start + length;
        Ok(self.buffer.get(start..start + length))
    }

    /// Takes out and decodes the next whole frame.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LinkError> {
        let decoded = match self.next_message()? {
            Some(message) => decode(message),
            None => return Ok(None),
        };
        decoded.map(Some).map_err(|error| self.fail(error))
    }

    fn fail(&mut self, error: LinkError) -> LinkError {
        self.failed = Some(error.clone());
        self.buffer = Vec::new();
        self.taken = 0;
        error
    }
}

/// What a bulk link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BulkKind {
    /// The module as given.
    Image,
    /// A snapshot, encoded. Of a process whose memory came as pages, what is left of it.
    Snapshot,
    /// A [`Luggage`], encoded as a message is. Comes before the snapshot.
    Luggage,
    /// The end of what the process has written, as the API's log frames. Comes after the snapshot.
    Log,
    /// The end of its log file, plain. Comes last.
    LogText,
    /// Pages of its memory, as a part of [`crate::pages`]; any number of times before the snapshot.
    Pages,
    /// Nothing. The receiver answers with one byte, whichever, when what came before has landed.
    Mark,
}

/// What a node knows of a process that is no state of the process itself, and goes along when it
/// moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luggage {
    /// Where its clients connect.
    pub listeners: Vec<ListenerInfo>,
    /// Where it may connect to.
    pub allow_net: Vec<Rule>,
    /// When it was first started, in nanoseconds since 1970.
    pub born_ns: u64,
    /// Times it was moved, this one included.
    pub moves: u64,
    /// Its share of the cores, 1 to 10000.
    pub cpu_weight: u32,
    /// Bytes of log frames that it has written since it was born.
    pub log_end: u64,
    /// How long it had been frozen when this was sent, in nanoseconds.
    pub frozen_ns: u64,
    /// If somebody stays with it: how far they are.
    pub console: Option<ConsoleState>,
    /// Parts of its files that the snapshot lacks, because the target has them.
    pub left_out: Vec<LeftOut>,
}

/// What is between a process and the terminal that stays with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    /// Which of its standard streams are terminals.
    pub terminals: Terminals,
    /// Input that the process has not read yet.
    pub input: Vec<u8>,
    /// Bytes of input since it was born.
    pub received: u64,
    /// No more input comes.
    pub ended: bool,
    /// Bytes of log frames that have been fetched since it was born.
    pub fetched: u64,
}

/// Says what the next part on a bulk link is; `length` raw bytes follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkHeader {
    /// The move that it is for.
    pub id: MoveId,
    /// What follows.
    pub what: BulkKind,
    /// How many bytes of it. The receiver compares this with its limit before it allocates.
    pub length: u64,
}

/// The secret of a fleet's ticket. Never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

impl Secret {
    /// Proves to the node `host`, as the node `joiner`, that one knows the secret. Both ids are
    /// those that the link has authenticated, so the proof is of no use to anybody else.
    pub fn prove(&self, joiner: NodeId, host: NodeId) -> Proof {
        Proof(*self.mac(joiner, host).as_bytes())
    }

    /// Whether `proof` was made with this secret for these two nodes. Takes the same time whatever
    /// the proof is.
    pub fn verify(&self, proof: &Proof, joiner: NodeId, host: NodeId) -> bool {
        self.mac(joiner, host) == blake3::Hash::from_bytes(proof.0)
    }

    fn mac(&self, joiner: NodeId, host: NodeId) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"limosa join 1\0");
        hasher.update(&joiner.0);
        hasher.update(&host.0);
        hasher.finalize()
    }
}

/// Shows that a node knows the fleet's secret: BLAKE3 keyed with it over both node ids.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof(pub [u8; 32]);

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(not shown)")
    }
}

/// A node's request to become a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// That it knows the fleet's secret.
    pub proof: Proof,
    /// Itself; its `node` must be the one that the link has authenticated.
    pub member: Member,
}

/// The answer to [`Join`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    /// It is one now.
    Accepted {
        /// All members, the new one included.
        members: Vec<Member>,
        /// The member that keeps the directory.
        directory: NodeId,
    },
    /// It is not.
    Refused {
        /// Why, for people.
        reason: String,
    },
}
