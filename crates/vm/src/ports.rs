//! What a process needs from outside, as ports: clocks, entropy, standard streams, sockets, volumes.
//!
//! The machine never sleeps, reads a clock or opens a socket itself. A world gives it these; tests
//! and torture give it virtual ones. Every method returns at once: where there is nothing to do
//! yet, it says so, and wakes the registered waker when that changes.

use crate::volumes::Volume;
use std::sync::Arc;
use std::task::Waker;
use wire::StreamId;
use wire::snapshot::{Listener, Stream};

/// The result of an attempt that must not block.
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

/// What a thread has used of the processor since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The thread, as the system numbers it; 0 where nobody can ask for its time from outside.
    pub thread: i32,
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// The part of it that the system took, in nanoseconds.
    pub kernel_ns: u64,
    /// Times that the system took the processor away from it.
    pub involuntary_switches: u64,
    /// Page faults without reading from a disk.
    pub minor_faults: u64,
    /// Page faults with.
    pub major_faults: u64,
}

impl Usage {
    /// None yet.
    pub const NOTHING: Usage = Usage {
        thread: 0,
        cpu_ns: 0,
        kernel_ns: 0,
        involuntary_switches: 0,
        minor_faults: 0,
        major_faults: 0,
    };
}

/// Clocks.
pub trait Clock: Send + Sync {
    /// Nanoseconds since 1970-01-01 UTC.
    fn realtime_ns(&self) -> u64;
    /// Nanoseconds on a clock that never runs backwards; its origin is arbitrary.
    fn monotonic_ns(&self) -> u64;
    /// Wakes `waker` once the monotonic clock has reached `deadline_ns`. A later call replaces
    /// the earlier one.
    fn wake_at(&self, deadline_ns: u64, waker: &Waker);
    /// CPU time that the calling thread has used, in nanoseconds.
    fn thread_cpu_ns(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
    }
    /// What the calling thread had used when the poll of the process that begins now began. Whose
    /// threads do nothing else may tell what it had used at the end of the poll before.
    fn poll_begins(&self) -> Usage {
        Usage {
            cpu_ns: self.thread_cpu_ns(),
            ..Usage::NOTHING
        }
    }
    /// What the calling thread has used now that the poll ends. All but the CPU time may be told
    /// late, at a later poll on the same thread.
    fn poll_ends(&self) -> Usage {
        Usage {
            cpu_ns: self.thread_cpu_ns(),
            ..Usage::NOTHING
        }
    }
    /// Told after every host call that has completed. A virtual clock advances with it.
    fn host_call_completed(&self) {}
}

/// Entropy.
pub trait Entropy: Send + Sync {
    /// Fills `buffer` with bytes that no one can guess (or, in torture, that follow a seed).
    fn fill(&self, buffer: &mut [u8]);
}

/// Standard input, output and error.
pub trait Stdio: Send + Sync {
    /// Reads standard input.
    fn read(&self, buffer: &mut [u8]) -> Io;
    /// Whether a read would not block.
    fn readable(&self) -> bool;
    /// Writes standard output (1) or error (2).
    fn write(&self, descriptor: u32, bytes: &[u8]) -> Io;
    /// Whether the descriptor is a terminal.
    fn terminal(&self, descriptor: u32) -> bool {
        let _ = descriptor;
        false
    }
    /// Wakes `waker` when a blocked read or write may go on. A later call replaces the earlier.
    fn register(&self, waker: &Waker);
}

/// What can be done with a socket now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes (or waiting connections) that can be read at once.
    pub readable: u64,
    /// Bytes that can be written at once; not 0 where a write would fail at once.
    pub writable: u64,
    /// The other side sends no more, or the connection is broken: reads do not block.
    pub hangup: bool,
}

/// Where a process wants to be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A host outside, by TCP.
    Tcp {
        /// Its name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// Another process.
    Service {
        /// The name of the process.
        name: String,
        /// The name of its listener; the first one, if it is empty.
        listener: String,
    },
}

impl std::fmt::Display for Destination {
    /// As the path that opens it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Destination::Tcp { host, port } => write!(f, "/net/tcp/{host}/{port}"),
            Destination::Service { name, listener } => match listener.is_empty() {
                true => write!(f, "/svc/{name}"),
                false => write!(f, "/svc/{name}/{listener}"),
            },
        }
    }
}

/// How far a stream is that the process has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is not known yet what becomes of it.
    Connecting,
    /// Bytes flow.
    Connected,
    /// It has failed, or broke since.
    Failed(ConnectError),
}

/// Why a stream could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The process may not connect there.
    Denied,
    /// There is no such host or service.
    NotFound,
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// Nobody answers there.
    TimedOut,
    /// The process, or its node, has as many streams as it can.
    TooMany,
    /// It was made, and broke.
    Reset,
}

/// The sockets of one process: its listeners' queues and its ends of streams.
///
/// All their state can be taken out by [`Network::seal`] and is given back at thaw through the
/// world, which builds a `Network` from `Kernel::listeners` and `Kernel::streams`.
pub trait Network: Send + Sync {
    /// Takes the oldest waiting connection of a listener.
    fn accept(&self, listener: u16) -> Option<StreamId>;
    /// Begins to open a stream. [`Network::progress`] says what becomes of it.
    fn connect(&self, to: &Destination) -> Result<StreamId, ConnectError> {
        let _ = to;
        Err(ConnectError::Denied)
    }
    /// How far a stream is that was opened here or before a freeze.
    fn progress(&self, stream: StreamId) -> Progress {
        let _ = stream;
        Progress::Connected
    }
    /// Reads; with `peek` the bytes stay.
    fn read(&self, stream: StreamId, buffer: &mut [u8], peek: bool) -> Io;
    /// Writes as much as fits.
    fn write(&self, stream: StreamId, bytes: &[u8]) -> Io;
    /// Shuts down reading and/or writing (a half-close).
    fn shutdown(&self, stream: StreamId, read: bool, write: bool);
    /// Closes: what was written is still delivered; unread bytes reset the stream.
    fn close(&self, stream: StreamId);
    /// Readiness of a stream.
    fn stream_readiness(&self, stream: StreamId) -> Readiness;
    /// Readiness of a listener: `readable` counts waiting connections.
    fn listener_readiness(&self, listener: u16) -> Readiness;
    /// Wakes `waker` at any change of readiness. A later call replaces the earlier one.
    fn register(&self, waker: &Waker);
    /// Stops acknowledgements and sends of all streams and returns their state as of now.
    fn seal(&self) -> (Vec<Listener>, Vec<Stream>);
    /// Goes on after a seal whose snapshot was not (or not only) moved away.
    fn unseal(&self);
}

/// All ports of one process.
#[derive(Clone)]
pub struct Ports {
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Entropy.
    pub entropy: Arc<dyn Entropy>,
    /// Standard streams.
    pub stdio: Arc<dyn Stdio>,
    /// Sockets.
    pub network: Arc<dyn Network>,
    /// Directories of this machine that it may use, in the order of its snapshot.
    pub volumes: Arc<[Volume]>,
}

impl Ports {
    /// A world in which nothing ever happens: time stands still, every read is at its end. For
    /// instances that are never run.
    pub fn nothing() -> Ports {
        let nothing = Arc::new(Nothing);
        Ports {
            clock: nothing.clone(),
            entropy: nothing.clone(),
            stdio: nothing.clone(),
            network: nothing,
            volumes: Arc::default(),
        }
    }
}

struct Nothing;

impl Clock for Nothing {
    fn realtime_ns(&self) -> u64 {
        0
    }
    fn monotonic_ns(&self) -> u64 {
        0
    }
    fn wake_at(&self, _: u64, _: &Waker) {}
}

impl Entropy for Nothing {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl Stdio for Nothing {
    fn read(&self, _: &mut [u8]) -> Io {
        Io::Done(0)
    }
    fn readable(&self) -> bool {
        true
    }
    fn write(&self, _: u32, _: &[u8]) -> Io {
        Io::Closed
    }
    fn register(&self, _: &Waker) {}
}

impl Network for Nothing {
    fn accept(&self, _: u16) -> Option<StreamId> {
        None
    }
    fn read(&self, _: StreamId, _: &mut [u8], _: bool) -> Io {
        Io::Done(0)
    }
    fn write(&self, _: StreamId, _: &[u8]) -> Io {
        Io::Closed
    }
    fn shutdown(&self, _: StreamId, _: bool, _: bool) {}
    fn close(&self, _: StreamId) {}
    fn stream_readiness(&self, _: StreamId) -> Readiness {
        Readiness::default()
    }
    fn listener_readiness(&self, _: u16) -> Readiness {
        Readiness::default()
    }
    fn register(&self, _: &Waker) {}
    fn seal(&self) -> (Vec<Listener>, Vec<Stream>) {
        (Vec::new(), Vec::new())
    }
    fn unseal(&self) {}
}
