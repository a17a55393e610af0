//! Frames of one stream, between the anchor's end and the process's end, or between the ends of two
//! processes.

use crate::{Epoch, NodeId, ProcessId, StreamId};
use serde::{Deserialize, Serialize};

/// A frame and whom it concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFrame {
    /// The process whose stream it is.
    pub process: ProcessId,
    /// The stream.
    pub stream: StreamId,
    /// Which of the stream's two ends this is for (two ends may be on one node).
    pub to: End,
    /// The epoch of that process's owner, as the sender knows it: the fence.
    pub epoch: Epoch,
    /// What it says.
    pub body: Body,
}

/// The two ends of a client's stream, or one of those of a stream between two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum End {
    /// The end that holds the client's connection.
    Anchor,
    /// The end inside the process.
    Process,
    /// The end inside the process, of a stream whose other end is inside another one. The two ends
    /// have ids that differ in the lowest bit, which is clear in the id of the end that opened it; a
    /// frame has the id of the end that it is for.
    Partner {
        /// The process that sends it.
        from: ProcessId,
        /// The epoch under which that process is owned by its sender.
        epoch: Epoch,
    },
}

/// What a frame says. Offsets count bytes since the stream was opened, per direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Anchor to process: a new connection on a listener.
    Open {
        /// Index of the listener in the process's specification.
        listener: u16,
        /// The client's address as text, for logs.
        peer: String,
        /// The receive window of the anchor's end, in bytes.
        window: u64,
    },
    /// Bytes, starting at `offset`.
    Data {
        /// Offset of the first byte.
        offset: u64,
        /// The bytes; at most [`MAX_DATA`]. None at all asks for an `Ack` at once.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// All bytes below `received` are in the sender's keepable state.
    Ack {
        /// The next offset expected. The end of a direction counts as one more: `offset + 1` of
        /// its `Fin` acknowledges that too (here and in the four frames below).
        received: u64,
        /// The highest offset that may be sent: received plus free room.
        limit: u64,
    },
    /// No byte follows `offset` in this direction.
    Fin {
        /// The length of this direction.
        offset: u64,
    },
    /// The stream is over in both directions.
    Reset(ResetReason),
    /// New owner to anchor, before it is one: know me, and tell me where you stand. Carries what
    /// the frozen process has received.
    Standby {
        /// The node that asks.
        node: NodeId,
        /// The next offset that the process expects.
        received: u64,
        /// The highest offset that may be sent.
        limit: u64,
    },
    /// The anchor's answer to `Standby`.
    StandbyAck {
        /// The next offset that the anchor expects.
        received: u64,
        /// The highest offset that may be sent.
        limit: u64,
    },
    /// Owner to anchor: from now on I am your peer, under this epoch; also sent, by either end, after
    /// a lost link.
    Resume {
        /// The sender's node: the owner, or the anchor.
        node: NodeId,
        /// The next offset that the sender expects.
        received: u64,
        /// The highest offset that may be sent.
        limit: u64,
    },
    /// The answer to `Resume`.
    Resumed {
        /// The next offset that the sender expects.
        received: u64,
        /// The highest offset that may be sent.
        limit: u64,
    },
    /// The process is not at this node; the epoch of the frame says as of when. (Of a partner, the
    /// epoch that is told of the sender.)
    NotHere,
    /// From a process to another one: a new connection on one of its listeners.
    Call {
        /// The listener's name; the first one, if it is empty.
        listener: String,
        /// Who calls, as text, for logs.
        peer: String,
        /// The receive window of the sender's end, in bytes.
        window: u64,
    },
    /// As `NotHere`, to a partner: and it went to that node.
    Moved {
        /// The node.
        to: NodeId,
    },
}

/// The longest name of a listener in a `Call`, in bytes.
pub const MAX_LISTENER: usize = 64;

/// The longest `Data` payload, in bytes.
pub const MAX_DATA: usize = 64 * 1024;

/// Why a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ResetReason {
    /// The process closed it with unread bytes, or exited.
    Closed,
    /// The client's connection broke.
    ClientGone,
    /// The process was restored from a state older than what its peer had seen.
    Rollback,
    /// The process is gone.
    ProcessGone,
    /// A rule of the protocol was broken.
    Protocol,
    /// The process takes no more connections; or the host that was to be connected to takes none.
    Refused,
    /// The host that was to be connected to cannot be reached.
    Unreachable,
    /// The host that was to be connected to does not answer.
    TimedOut,
    /// The process may not connect there.
    Denied,
    /// There is no such host or service.
    NotFound,
    /// The anchor's node holds as many connections as it can.
    TooMany,
}
