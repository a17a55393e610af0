//! The world of a started process: it notes the first host call, and nothing in it ever comes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Instant;
use vm::Control;
use vm::ports::{Clock, Entropy, Io, Network, Ports, Readiness, Stdio};
use wire::StreamId;
use wire::snapshot::{Listener, Stream};

/// The listener's name.
pub(super) const LISTENER: &str = "http";

/// Notes when the guest calls for the first time after [`World::expect`].
pub(super) struct World {
    start: Instant,
    /// Nanoseconds after `start`, or one of the two below.
    first: AtomicU64,
    kill: Mutex<Option<Control>>,
    listener: bool,
}

const IGNORED: u64 = u64::MAX;
const EXPECTED: u64 = u64::MAX - 1;

impl World {
    pub(super) fn new(listener: bool) -> Arc<World> {
        Arc::new(World {
            start: Instant::now(),
            first: IGNORED.into(),
            kill: Mutex::default(),
            listener,
        })
    }

    pub(super) fn ports(self: &Arc<World>) -> Ports {
        Ports {
            clock: self.clone(),
            entropy: self.clone(),
            stdio: self.clone(),
            network: self.clone(),
            volumes: Arc::default(),
        }
    }

    /// The next host call is the first one; if a control is given, it kills the process.
    pub(super) fn expect(&self, kill: Option<Control>) {
        *self.kill.lock().unwrap_or_else(PoisonError::into_inner) = kill;
        self.first.store(EXPECTED, Ordering::Relaxed);
    }

    /// When that call came, in microseconds after `since`.
    pub(super) fn first_us(&self, since: Instant) -> Option<f64> {
        match self.first.load(Ordering::Relaxed) {
            IGNORED | EXPECTED => None,
            first => {
                let since = since.duration_since(self.start).as_nanos() as f64;
                Some((first as f64 - since) / 1e3)
            }
        }
    }

    fn called(&self) {
        if self.first.load(Ordering::Relaxed) != EXPECTED {
            return;
        }
        let now = self.start.elapsed().as_nanos() as u64;
        self.first.store(now, Ordering::Relaxed);
        let kill = self
            .kill
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(control) = kill {
            control.kill();
        }
    }
}

impl Clock for World {
    fn realtime_ns(&self) -> u64 {
        1
    }
    fn monotonic_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
    fn wake_at(&self, _: u64, _: &Waker) {}
    fn host_call_completed(&self) {
        self.called();
    }
}

impl Entropy for World {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

impl Stdio for World {
    fn read(&self, _: &mut [u8]) -> Io {
        self.called();
        Io::Blocked
    }
    fn readable(&self) -> bool {
        self.called();
        false
    }
    fn write(&self, _: u32, _: &[u8]) -> Io {
        self.called();
        Io::Blocked
    }
    fn register(&self, _: &Waker) {}
}

impl Network for World {
    fn accept(&self, _: u16) -> Option<StreamId> {
        self.called();
        None
    }
    fn read(&self, _: StreamId, _: &mut [u8], _: bool) -> Io {
        Io::Closed
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
        self.called();
        Readiness::default()
    }
    fn register(&self, _: &Waker) {}
    fn seal(&self) -> (Vec<Listener>, Vec<Stream>) {
        let listener = Listener {
            name: LISTENER.into(),
            queue: Vec::new(),
        };
        let listeners = self.listener.then_some(listener);
        (listeners.into_iter().collect(), Vec::new())
    }
    fn unseal(&self) {}
}
