//! The world of a measured process: nothing in it ever takes long, and no call ever waits.

use crate::harness::{Traffic, Work};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Instant, SystemTime};
use vm::ports::{Clock, Entropy, Io, Network, Ports, Readiness, Stdio};
use wire::snapshot::{Listener, Stream};
use wire::{NodeId, StreamId};

/// The listener's name in snapshots.
pub(super) const LISTENER_NAME: &str = "bank";
/// What a client takes at once.
const WINDOW_BYTES: u64 = 64 << 10;

/// The ports of a process that does this work. They outlive a thaw.
pub(super) fn ports(work: &Work) -> Ports {
    let traffic = work.host().traffic;
    Ports {
        clock: Arc::new(RealClock(Instant::now())),
        entropy: Arc::new(Seeded(Mutex::new(fastrand::Rng::with_seed(5)))),
        stdio: Arc::new(Sink),
        network: Arc::new(Clients(Mutex::new(traffic))),
        volumes: Arc::default(),
    }
}

struct RealClock(Instant);

impl Clock for RealClock {
    fn realtime_ns(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |time| time.as_nanos() as u64)
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
    /// No measured program sleeps; if one did, it would look at the clock again and again.
    fn wake_at(&self, _: u64, waker: &Waker) {
        waker.wake_by_ref();
    }
}

struct Seeded(Mutex<fastrand::Rng>);

impl Entropy for Seeded {
    fn fill(&self, buffer: &mut [u8]) {
        lock(&self.0).fill(buffer);
    }
}

/// Standard streams: input is at its end, output is dropped.
struct Sink;

impl Stdio for Sink {
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

/// The scripted clients, if the process is a server. Their connections do not move with it: they
/// are at the same ports before a thaw and after.
struct Clients(Mutex<Option<Traffic>>);

impl Clients {
    fn with<T>(&self, absent: T, body: impl FnOnce(&mut Traffic) -> T) -> T {
        match lock(&self.0).as_mut() {
            Some(traffic) => body(traffic),
            None => absent,
        }
    }
}

/// The descriptor that the scripted clients know a stream by.
fn descriptor(stream: StreamId) -> u32 {
    u32::try_from(stream.0).unwrap_or(u32::MAX)
}

impl Network for Clients {
    fn accept(&self, _: u16) -> Option<StreamId> {
        self.with(None, |traffic| traffic.accept())
            .map(|descriptor| StreamId(descriptor.into()))
    }

    fn read(&self, stream: StreamId, buffer: &mut [u8], _: bool) -> Io {
        self.with(Io::Closed, |traffic| {
            let read = traffic.read(descriptor(stream), buffer);
            read.map_or(Io::Blocked, Io::Done)
        })
    }

    fn write(&self, stream: StreamId, bytes: &[u8]) -> Io {
        self.with(Io::Closed, |traffic| {
            Io::Done(traffic.write(descriptor(stream), bytes))
        })
    }

    fn shutdown(&self, _: StreamId, _: bool, _: bool) {}
    fn close(&self, _: StreamId) {}

    fn stream_readiness(&self, stream: StreamId) -> Readiness {
        self.with(Readiness::default(), |traffic| Readiness {
            readable: traffic.readable(descriptor(stream)) as u64,
            writable: WINDOW_BYTES,
            hangup: false,
        })
    }

    fn listener_readiness(&self, _: u16) -> Readiness {
        self.with(Readiness::default(), |traffic| Readiness {
            readable: traffic.waiting() as u64,
            ..Readiness::default()
        })
    }

    fn register(&self, _: &Waker) {}

    fn seal(&self) -> (Vec<Listener>, Vec<Stream>) {
        self.with((Vec::new(), Vec::new()), |traffic| {
            let listener = Listener {
                name: LISTENER_NAME.into(),
                queue: Vec::new(),
            };
            let streams = traffic.connections().map(|descriptor| Stream {
                id: StreamId(descriptor.into()),
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
            (vec![listener], streams.collect())
        })
    }

    fn unseal(&self) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
