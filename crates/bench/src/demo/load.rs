//! The clients: each has one connection, kept for the whole run, and checks every answer.
//!
//! ```text
//!   Resting -> Closed: a new request as soon as the last is answered (measures the capacity)
//!           -> Paced:  a request whenever one is due, answered or not (the load of the run)
//!           -> Ending: no new ones; done when all are answered, or patience is over
//! ```

use super::checker::{Checker, Tally};
use super::protocol::Protocol;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A client with that many unanswered requests sends no more until some are answered; so a server
/// that is gone for seconds does not fill the client's memory.
const MOST_WAITING: usize = 1024;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    /// Nothing.
    Resting,
    /// One request after the other.
    Closed,
    /// A request every `interval` on each connection.
    Paced {
        /// Of one client.
        interval: Duration,
    },
    /// Finishing what was begun.
    Ending,
}

/// The clients at work.
pub struct Load {
    phase: watch::Sender<Phase>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Connects `clients` clients. Times count from `origin`.
    pub async fn connect(
        address: SocketAddr,
        protocol: Protocol,
        clients: u32,
        origin: Instant,
    ) -> std::io::Result<Load> {
        let (phase, _) = watch::channel(Phase::Resting);
        let answered = Arc::new(AtomicU64::new(0));
        let mut load = Load {
            phase,
            answered,
            clients: Vec::new(),
        };
        for number in 0..clients {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let client = Client {
                stream,
                // One more for the prober, which shares the numbering.
                checker: Checker::new(protocol, number.into(), u64::from(clients) + 1),
                out: Vec::new(),
                written: 0,
                origin,
                offset: f64::from(number) / f64::from(clients),
                answered: Arc::clone(&load.answered),
            };
            let phase = load.phase.subscribe();
            load.clients.push(tokio::spawn(client.run(phase)));
        }
        Ok(load)
    }

    /// Lets the clients do something else.
    pub fn set(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Requests answered so far, by all clients.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits for the outstanding answers, at most for `patience`, and returns what became of all.
    pub async fn finish(self, patience: Duration) -> Tally {
        self.set(Phase::Ending);
        let mut total = Tally::default();
        let deadline = tokio::time::Instant::now() + patience;
        // Dropping the sender tells the clients that patience is over.
        let phase = self.phase;
        let mut phase = Some(phase);
        for mut client in self.clients {
            let tally = tokio::select! {
                tally = &mut client => tally,
                () = tokio::time::sleep_until(deadline) => {
                    phase.take();
                    client.await
                }
            };
            match tally {
                Ok(tally) => total.add(tally),
                Err(error) => {
                    total.lost += 1;
                    total.keep(format!("a client failed: {error}"));
                }
            }
        }
        total
    }
}

struct Client {
    stream: TcpStream,
    checker: Checker,
    out: Vec<u8>,
    written: usize,
    origin: Instant,
    /// Which part of the interval this client is shifted by, so that not all send at once.
    offset: f64,
    answered: Arc<AtomicU64>,
}

impl Client {
    async fn run(mut self, mut phase: watch::Receiver<Phase>) -> Tally {
        let mut due = None;
        let mut scratch = vec![0; 16 * 1024];
        loop {
            let doing = *phase.borrow_and_update();
            if self.checker.broken() || (doing == Phase::Ending && self.checker.waiting() == 0) {
                return self.checker.finish();
            }
            self.issue(doing, &mut due);
            let interest = if self.written < self.out.len() {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            tokio::select! {
                changed = phase.changed() => {
                    if changed.is_err() {
                        return self.checker.finish();
                    }
                    due = None;
                }
                () = sleep_until(due) => {}
                ready = self.stream.ready(interest) => {
                    if let Err(error) = ready {
                        self.checker.ended(&error.to_string());
                        continue;
                    }
                    self.write();
                    self.read(&mut scratch);
                }
            }
        }
    }

    /// Sends what is to be sent now; `due` is the instant of the next request of a paced client.
    fn issue(&mut self, doing: Phase, due: &mut Option<Instant>) {
        match doing {
            Phase::Resting | Phase::Ending => *due = None,
            Phase::Closed => {
                *due = None;
                if self.checker.waiting() == 0 {
                    self.checker.ask(self.origin.elapsed(), &mut self.out);
                    self.write();
                }
            }
            Phase::Paced { interval } => {
                let now = Instant::now();
                let next = due.get_or_insert(now + interval.mul_f64(self.offset));
                let mut asked = false;
                while *next <= now && self.checker.waiting() < MOST_WAITING {
                    self.checker.ask(self.origin.elapsed(), &mut self.out);
                    *next += interval;
                    asked = true;
                }
                if asked {
                    self.write();
                } else if *next <= now {
                    // Full: look again when an answer has come, or a little later.
                    *next = now + interval;
                }
            }
        }
    }

    fn write(&mut self) {
        while let Some(rest) = self.out.get(self.written..)
            && !rest.is_empty()
        {
            match self.stream.try_write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => return self.checker.ended(&error.to_string()),
            }
        }
        self.out.clear();
        self.written = 0;
    }

    fn read(&mut self, scratch: &mut [u8]) {
        match self.stream.try_read(scratch) {
            Ok(0) => self.checker.ended("end of file"),
            Ok(count) => {
                let before = self.checker.answered();
                let bytes = scratch.get(..count).unwrap_or_default();
                self.checker.hear(self.origin.elapsed(), bytes);
                let answers = self.checker.answered() - before;
                self.answered.fetch_add(answers, Ordering::Relaxed);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => self.checker.ended(&error.to_string()),
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
