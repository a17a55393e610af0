//! The prober: one request a millisecond on one kept connection, answered or not.
//!
//! Two threads of its own, so that neither the clients' work nor a timer's granularity shifts the
//! instants at which probes are sent. An answer counts from the instant its probe was *due*.

use super::checker::{Checker, Tally};
use super::protocol::Protocol;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two probes.
pub const INTERVAL: Duration = Duration::from_millis(1);

/// The prober at work. Dropping it ends it.
pub struct Prober {
    stream: TcpStream,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    checker: Mutex<Checker>,
    /// Sending is over.
    stop: AtomicBool,
    /// The prober itself ends the connection.
    closing: AtomicBool,
}

impl Shared {
    fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn ended(&self, why: &str) {
        if !self.closing.load(Ordering::Acquire) {
            self.checker().ended(why);
        }
    }
}

impl Prober {
    /// Connects, and starts to probe at once. Times count from `origin`; `number` of `connections`
    /// tells its request ids from those of others.
    pub fn start(
        address: SocketAddr,
        protocol: Protocol,
        number: u32,
        origin: Instant,
    ) -> std::io::Result<Prober> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let checker = Checker::new(protocol, number.into(), u64::from(number) + 1);
        let shared = Arc::new(Shared {
            checker: Mutex::new(checker),
            stop: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let mut prober = Prober {
            stream,
            shared,
            threads: Vec::new(),
        };
        let (shared, stream) = (Arc::clone(&prober.shared), prober.stream.try_clone()?);
        let writer = std::thread::Builder::new().name("probe-send".into());
        prober
            .threads
            .push(writer.spawn(move || send(stream, &shared, origin))?);
        let (shared, stream) = (Arc::clone(&prober.shared), prober.stream.try_clone()?);
        let reader = std::thread::Builder::new().name("probe-hear".into());
        prober
            .threads
            .push(reader.spawn(move || hear(stream, &shared, origin))?);
        Ok(prober)
    }

    /// Sends no more probes, waits for the outstanding answers, at most for `patience`, and
    /// returns what became of all.
    pub fn finish(mut self, patience: Duration) -> Tally {
        self.shared.stop.store(true, Ordering::Release);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && !self.done() {
            std::thread::sleep(INTERVAL);
        }
        self.end();
        let empty = Checker::new(Protocol::Echo, 0, 1);
        std::mem::replace(&mut *self.shared.checker(), empty).finish()
    }

    /// Whether nothing more will be sent, and nothing is to be waited for.
    fn done(&self) -> bool {
        let sending = self.threads.first().is_some_and(|send| !send.is_finished());
        let checker = self.shared.checker();
        checker.broken() || (!sending && checker.waiting() == 0)
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.closing.store(true, Ordering::Release);
        let _ = self.stream.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.end();
    }
}

fn send(mut stream: TcpStream, shared: &Shared, origin: Instant) {
    let mut due = origin.elapsed() + INTERVAL;
    let mut out = Vec::new();
    while !shared.stopped() {
        if let Some(early) = due.checked_sub(origin.elapsed()) {
            std::thread::sleep(early);
        }
        out.clear();
        {
            let mut checker = shared.checker();
            if checker.broken() {
                return;
            }
            // All that is due: after a delay, several.
            while due <= origin.elapsed() {
                checker.probe(due, &mut out);
                due += INTERVAL;
            }
        }
        if let Err(error) = stream.write_all(&out) {
            shared.ended(&error.to_string());
            return;
        }
    }
}

fn hear(mut stream: TcpStream, shared: &Shared, origin: Instant) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer);
        let now = origin.elapsed();
        match read {
            Ok(0) => return shared.ended("end of file"),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                shared.checker().hear(now, bytes);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return shared.ended(&error.to_string()),
        }
    }
}
