//! The world of an idle server: a clock, and one client that asks when it is told to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;
use vm::ports::{Clock, Entropy, Io, Network, Ports, Readiness, Stdio};
use wire::snapshot::{Listener, Stream};
use wire::{NodeId, StreamId};

/// The listener's name.
pub(super) const LISTENER: &str = "http";
const CONNECTION: StreamId = StreamId(1);
const WINDOW_BYTES: u64 = 64 << 10;
const REQUEST: &[u8] = b"GET /count HTTP/1.1\r\nHost: here\r\n\r\n";

/// What all processes share: time, and streams that lead nowhere.
pub(super) struct Rest(Instant);

impl Rest {
    pub(super) fn new() -> Arc<Rest> {
        Arc::new(Rest(Instant::now()))
    }
}

impl Clock for Rest {
    fn realtime_ns(&self) -> u64 {
        1
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
    fn wake_at(&self, _: u64, _: &Waker) {}
}

impl Entropy for Rest {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

impl Stdio for Rest {
    fn read(&self, _: &mut [u8]) -> Io {
        Io::Done(0)
    }
    fn readable(&self) -> bool {
        true
    }
    fn write(&self, _: u32, bytes: &[u8]) -> Io {
        Io::Done(bytes.len())
    }
    fn register(&self, _: &Waker) {}
}

/// The client of one process, and its connection.
#[derive(Default)]
pub(super) struct Client(Mutex<Talk>);

#[derive(Default)]
struct Talk {
    waiting: bool,
    open: bool,
    /// Of the request, what the process has not read yet.
    unread: &'static [u8],
    answer: Vec<u8>,
}

impl Client {
    pub(super) fn ports(self: &Arc<Client>, rest: &Arc<Rest>) -> Ports {
        Ports {
            clock: rest.clone(),
            entropy: rest.clone(),
            stdio: rest.clone(),
            network: self.clone(),
            volumes: Arc::default(),
        }
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, over the connection if there is one.
    pub(super) fn ask(&self) {
        let mut talk = self.talk();
        talk.waiting = !talk.open;
        talk.unread = REQUEST;
    }

    /// Whether it was answered; the answer is dropped.
    pub(super) fn is_answered(&self) -> bool {
        let answer = std::mem::take(&mut self.talk().answer);
        answer.starts_with(b"HTTP/1.1 200 ")
    }
}

impl Network for Client {
    fn accept(&self, _: u16) -> Option<StreamId> {
        let mut talk = self.talk();
        if !std::mem::take(&mut talk.waiting) {
            return None;
        }
        talk.open = true;
        Some(CONNECTION)
    }

    fn read(&self, _: StreamId, buffer: &mut [u8], peek: bool) -> Io {
        let mut talk = self.talk();
        if talk.unread.is_empty() {
            return Io::Blocked;
        }
        let (now, later) = talk.unread.split_at(buffer.len().min(talk.unread.len()));
        buffer[..now.len()].copy_from_slice(now);
        if !peek {
            talk.unread = later;
        }
        Io::Done(now.len())
    }

    fn write(&self, _: StreamId, bytes: &[u8]) -> Io {
        self.talk().answer.extend_from_slice(bytes);
        Io::Done(bytes.len())
    }

    fn shutdown(&self, _: StreamId, _: bool, _: bool) {}

    fn close(&self, _: StreamId) {
        self.talk().open = false;
    }

    fn stream_readiness(&self, _: StreamId) -> Readiness {
        Readiness {
            readable: self.talk().unread.len() as u64,
            writable: WINDOW_BYTES,
            hangup: false,
        }
    }

    fn listener_readiness(&self, _: u16) -> Readiness {
        Readiness {
            readable: self.talk().waiting.into(),
            ..Readiness::default()
        }
    }

    fn register(&self, _: &Waker) {}

    fn seal(&self) -> (Vec<Listener>, Vec<Stream>) {
        let listener = Listener {
            name: LISTENER.into(),
            queue: Vec::new(),
        };
        let stream = self.talk().open.then(|| Stream {
            id: CONNECTION,
            anchor: NodeId::default(),
            peer: "client".into(),
            unacknowledged: Vec::new(),
            acknowledged: 0,
            send_limit: WINDOW_BYTES,
            send_closed: false,
            unread: Vec::new(),
            received: 0,
            end: None,
            receive_closed: false,
            reset: None,
            partner: None,
        });
        (vec![listener], stream.into_iter().collect())
    }

    fn unseal(&self) {}
}
