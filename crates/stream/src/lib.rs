//! One resumable byte stream: offsets, acknowledgement, epoch fence, half-close, reset.
//!
//! A client's connection ends at its *anchor*; the program that serves it is a process that moves.
//! Between the two runs a stream. It has two [`End`]s, one at the anchor and one inside the process,
//! and they exchange `wire::frame` frames over links that break and between nodes that change. Each
//! end keeps what it has sent until the other end has it in a state that lasts (for the process's
//! end: in what a snapshot would hold), and sends it again to whoever goes on from that state. So
//! nothing is lost, repeated or reordered, however often the process moves or a link is remade; and
//! where that cannot be kept, because an older state was restored, the stream is reset.
//!
//! A stream can also lie between two processes, both of which move; see [`Sought`].
//!
//! - [`End`]: one end. Its states are drawn in its module.
//! - [`Side`]: all ends of one process and its listeners' queues: what a process's sockets are.
//! - [`answer_for_missing_anchor`], [`answer_for_missing_process`]: what a node says on behalf of
//!   an end that it does not have.
//!
//! Everything here is pure: frames and the application's bytes go in, frames and bytes come out. No
//! clock is needed: acknowledgements are sent when a quarter of the window was used, when the other
//! end asks, and when the world says that it has nothing better to do (`flush`).

mod buffer;
mod end;
mod missing;
mod side;

pub use end::{Change, End, Ignored, Sought, Status};
pub use missing::{answer_for_missing_anchor, answer_for_missing_process};
pub use side::{Progress, RestoreError, Side};

use wire::NodeId;
use wire::frame::{MAX_DATA, StreamFrame};

/// Sizes and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes that the application may write ahead of the other end's acknowledgement.
    pub send_bytes: usize,
    /// Bytes that the other end may send ahead of the application's reads.
    pub receive_bytes: usize,
    /// The longest `Data` payload to send; at most [`MAX_DATA`].
    pub data_bytes: usize,
    /// Streams of one process, waiting ones included.
    pub max_streams: usize,
    /// Connections that wait in one listener's queue.
    pub max_queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            send_bytes: 256 * 1024,
            receive_bytes: 256 * 1024,
            data_bytes: MAX_DATA,
            max_streams: 16_384,
            max_queue: 1024,
        }
    }
}

/// A frame to carry, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The node to carry it to; may be this one.
    pub to: NodeId,
    /// The frame.
    pub frame: StreamFrame,
}

/// The result of a read or write, which never blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// That many bytes were moved; 0 of a read is the end.
    Done(usize),
    /// Nothing can be done yet.
    Blocked,
    /// The other side broke the connection.
    Reset,
    /// Writing after the reader has gone, or after shutdown.
    Closed,
}

/// What can be done with a stream or listener now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes (or waiting connections) that can be read at once.
    pub readable: u64,
    /// Bytes that can be written at once.
    pub writable: u64,
    /// The other side sends no more, or the connection is broken: reads do not block.
    pub hangup: bool,
}
