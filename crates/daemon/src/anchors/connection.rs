//! One connection: a TCP socket on one side, the anchor's end of a stream on the other. A client has
//! made it, or a process.
//!
//! Bytes go straight from the socket into the stream's buffer and back, under the end's lock, with
//! calls that do not wait. While the stream has no room the client is not read; while the client
//! does not read, the stream's window fills and the process waits. What to do when the process is
//! not where it was is decided by [`gateway::Connection`].

use super::owing::Owing;
use super::{Anchors, Where};
use crate::switch::{Port, Switch};
use node::event::{Failure, Reply};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use stream::{Config, End, Status};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot, watch};
use wire::frame::{Body, ResetReason, StreamFrame};
use wire::{Epoch, NodeId, ProcessId, StreamId};

/// Bytes read from a client at once.
const CHUNK: usize = 64 << 10;
/// Events that may wait for a connection's task.
const MAX_EVENTS: usize = 256;
/// How long a client may take to receive the last bytes of a process that is gone.
const LAST_BYTES: Duration = Duration::from_secs(30);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// The anchor's end of one stream, as the switch sees it.
pub struct AnchorEnd {
    this: Weak<AnchorEnd>,
    switch: Arc<Switch>,
    inner: Mutex<Inner>,
    /// Something arrived that the connection's task should look at.
    news: Notify,
    owing: Arc<Owing>,
}

struct Inner {
    end: End,
    /// Registered for the next flush.
    lazy: bool,
    /// What the connection's task has to tell its machine.
    events: VecDeque<gateway::Event>,
    /// The client is owed bytes, or their end; counted.
    owes: bool,
    /// The client was told that no more come.
    told_end: bool,
}

impl Inner {
    fn happened(&mut self, event: gateway::Event) {
        // A task that is so far behind has what matters already.
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }
}

impl AnchorEnd {
    /// Around an end that nobody else has.
    pub fn new(anchors: &Anchors, end: End) -> Arc<AnchorEnd> {
        Arc::new_cyclic(|this| AnchorEnd {
            this: this.clone(),
            switch: anchors.switch.clone(),
            inner: Mutex::new(Inner {
                end,
                lazy: false,
                events: VecDeque::new(),
                owes: false,
                told_end: false,
            }),
            news: Notify::new(),
            owing: anchors.owing.clone(),
        })
    }

    /// Breaks the stream.
    pub fn abort(&self, reason: ResetReason) {
        self.with(|end| end.abort(reason));
    }

    /// Waits until the other end has broken the stream. Not to be used once bytes flow.
    pub async fn broken(&self) {
        while !matches!(self.inner().end.status(), Status::Reset(_)) {
            self.news.notified().await;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pump(&self, inner: &mut Inner) {
        while let Some(transmit) = inner.end.poll_transmit() {
            self.switch.send(transmit);
        }
    }

    /// Counts what the client is owed; before the process can hear that it has arrived.
    fn account(&self, inner: &mut Inner) {
        let ended = inner.end.is_read_to_end() && !inner.told_end;
        let broken = matches!(inner.end.status(), Status::Reset(_));
        let owes = !broken && (ended || !inner.end.unread().is_empty());
        if owes != std::mem::replace(&mut inner.owes, owes) {
            self.owing.change(owes);
        }
    }

    /// Does something with the end and sends what follows from it.
    fn with<T>(&self, act: impl FnOnce(&mut End) -> T) -> T {
        let mut inner = self.inner();
        let result = act(&mut inner.end);
        self.pump(&mut inner);
        result
    }
}

impl Drop for AnchorEnd {
    fn drop(&mut self) {
        if self.inner().owes {
            self.owing.change(false);
        }
    }
}

impl Port for AnchorEnd {
    fn arrived(&self, from: NodeId, frame: StreamFrame) {
        let epoch = frame.epoch;
        let not_here = matches!(frame.body, Body::NotHere);
        let mut inner = self.inner();
        let change = inner.end.handle(from, frame);
        self.account(&mut inner);
        self.pump(&mut inner);
        if not_here {
            inner.happened(gateway::Event::NotHere { from, epoch });
        }
        if change.state {
            let (owner, epoch) = (inner.end.peer(), inner.end.epoch());
            match inner.end.status() {
                Status::Active | Status::Finished => {
                    inner.happened(gateway::Event::Active { owner, epoch });
                }
                Status::Reset(reason) => inner.happened(gateway::Event::StreamReset(reason)),
                _ => {}
            }
        }
        drop(inner);
        if change.readiness || change.state || not_here {
            self.news.notify_one();
        }
    }

    fn link_up(&self, node: NodeId) {
        let mut inner = self.inner();
        // An `Open` that had no link to go over goes now; what was open before is for the gateway
        // to decide.
        if inner.end.peer() == node && inner.end.status() == Status::Opening {
            inner.end.link_up();
            self.pump(&mut inner);
        }
        inner.happened(gateway::Event::LinkUp(node));
        self.news.notify_one();
    }

    fn link_down(&self, node: NodeId) {
        let mut inner = self.inner();
        if inner.end.peer() == node {
            inner.end.link_down();
        }
        inner.happened(gateway::Event::LinkDown(node));
        self.news.notify_one();
    }

    fn node_dead(&self, node: NodeId) {
        self.inner().happened(gateway::Event::NodeDead(node));
        self.news.notify_one();
    }

    fn node_gone(&self, _node: NodeId) {}

    fn flush(&self) {
        let mut inner = self.inner();
        inner.lazy = false;
        inner.end.flush();
        self.pump(&mut inner);
    }
}

/// What the client's side waits for.
#[derive(Clone, Copy, Debug, Default)]
struct Wants {
    read: bool,
    write: bool,
}

/// What a connection is given by its listener.
pub struct Arrived {
    /// The client.
    pub tcp: TcpStream,
    /// The process it is for.
    pub process: ProcessId,
    /// Which of its listeners.
    pub listener: u16,
    /// Where the process is.
    pub place: watch::Receiver<Where>,
}

/// One client's connection.
struct Connection {
    anchors: Arc<Anchors>,
    tcp: TcpStream,
    end: Arc<AnchorEnd>,
    decisions: gateway::Connection,
    process: ProcessId,
    place: watch::Receiver<Where>,
    /// The client is to be read.
    reading: bool,
    /// The client has ended its direction.
    client_ended: bool,
    /// The process has ended its direction.
    stream_ended: bool,
    /// The answer to a question to the directory.
    answer: Option<oneshot::Receiver<gateway::Event>>,
    /// How to close the client's connection, once it is to be closed.
    close: Option<gateway::Close>,
}

/// Serves a client until its connection is over.
pub async fn serve(anchors: Arc<Anchors>, arrived: Arrived) -> io::Result<()> {
    let Arrived {
        tcp,
        process,
        listener,
        mut place,
    } = arrived;
    tcp.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&tcp, true)?;
    let client = tcp.peer_addr()?.to_string();
    let Where::At(owner, epoch, _) = *place.borrow_and_update() else {
        return Ok(());
    };
    let stream = StreamId(getrandom::u64().map_err(io::Error::other)?);
    let switch = anchors.switch.clone();
    let (me, config) = (switch.me(), Config::default());
    let end = End::open(
        process, stream, me, owner, epoch, listener, &client, &config,
    );
    let end = AnchorEnd::new(&anchors, end);
    switch.add_anchor(stream, end.clone());
    let known = Some((owner, epoch));
    let decisions = gateway::Connection::new(anchors.now(), known, gateway::Config::default());
    let connection = Connection::new(anchors, tcp, end, decisions, process, place);
    let result = connection.run(owner).await;
    switch.remove_anchor(stream);
    result
}

/// Serves a connection that was made for a process, until it is over. The switch knows the end
/// already.
pub async fn serve_dialled(
    anchors: Arc<Anchors>,
    tcp: TcpStream,
    end: Arc<AnchorEnd>,
    process: ProcessId,
) -> io::Result<()> {
    // Where that fails, the connection is broken, and reading says so.
    let _ = tcp.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&tcp, true);
    let (owner, epoch) = end.with(|end| {
        end.connected(&Config::default());
        (end.peer(), end.epoch())
    });
    // What becomes of the process it learns from the stream alone.
    let (_silent, place) = watch::channel(Where::At(owner, epoch, Epoch::default()));
    let config = gateway::Config::default();
    let decisions = gateway::Connection::made(anchors.now(), owner, epoch, config);
    let connection = Connection::new(anchors, tcp, end, decisions, process, place);
    connection.run(owner).await
}

impl Connection {
    fn new(
        anchors: Arc<Anchors>,
        tcp: TcpStream,
        end: Arc<AnchorEnd>,
        decisions: gateway::Connection,
        process: ProcessId,
        place: watch::Receiver<Where>,
    ) -> Connection {
        Connection {
            anchors,
            tcp,
            end,
            decisions,
            process,
            place,
            reading: false,
            client_ended: false,
            stream_ended: false,
            answer: None,
            close: None,
        }
    }

    async fn run(mut self, owner: NodeId) -> io::Result<()> {
        self.mind_the_dead(owner);
        loop {
            self.decide();
            let wants = self.exchange();
            // What the exchange has brought about.
            self.decide();
            if let Some(close) = self.close {
                return self.close(close).await;
            }
            let deadline = self.decisions.poll_timeout().map(|at| self.anchors.at(at));
            tokio::select! {
                () = self.end.news.notified() => {}
                () = ready(&self.tcp, wants) => {}
                changed = self.place.changed() => {
                    let place = changed.map(|()| *self.place.borrow_and_update());
                    self.place_changed(place.unwrap_or(Where::Gone));
                }
                event = answered(&mut self.answer) => {
                    self.answer = None;
                    if let gateway::Event::Located { owner, epoch } = event {
                        self.anchors.learn(self.process, owner, epoch);
                    }
                    self.happened(event);
                    if let gateway::Event::Located { owner, .. } = event {
                        self.mind_the_dead(owner);
                    }
                }
                () = due(deadline) => self.happened(gateway::Event::Timeout),
            }
        }
    }

    fn happened(&mut self, event: gateway::Event) {
        let now = self.anchors.now();
        self.decisions.handle(now, event);
    }

    /// Who has died before this connection came does not die again.
    fn mind_the_dead(&mut self, owner: NodeId) {
        if self.end.switch.is_dead(owner) {
            self.happened(gateway::Event::NodeDead(owner));
        }
    }

    fn place_changed(&mut self, place: Where) {
        match place {
            Where::Gone => self.happened(gateway::Event::ProcessGone),
            Where::At(_, _, missed) => {
                let (from, followed) = {
                    let inner = self.end.inner();
                    (inner.end.peer(), inner.end.epoch())
                };
                if followed < missed {
                    let epoch = missed;
                    self.happened(gateway::Event::NotHere { from, epoch });
                }
            }
        }
    }

    /// Tells the machine what has come about, and does what it says.
    fn decide(&mut self) {
        loop {
            while let Some(effect) = self.decisions.poll_effect() {
                self.carry_out(effect);
            }
            let Some(event) = self.end.inner().events.pop_front() else {
                return;
            };
            if let gateway::Event::Active { owner, epoch } = event {
                self.anchors.learn(self.process, owner, epoch);
            }
            self.happened(event);
        }
    }

    fn carry_out(&mut self, effect: gateway::Effect) {
        match effect {
            gateway::Effect::Locate => self.locate(),
            gateway::Effect::Open { to, epoch } | gateway::Effect::Resync { to, epoch } => {
                self.end.with(|end| end.resync(to, epoch));
            }
            gateway::Effect::ReadClient(reading) => self.reading = reading,
            gateway::Effect::ResetStream(reason) => self.end.with(|end| end.abort(reason)),
            gateway::Effect::Refuse => self.close = Some(gateway::Close::Reset),
            gateway::Effect::CloseClient(close) => self.close = Some(close),
            gateway::Effect::Report(report) => {
                tracing::debug!(process = %self.process, ?report, "connection");
            }
        }
    }

    fn locate(&mut self) {
        let (sender, receiver) = oneshot::channel();
        self.answer = Some(receiver);
        let process = self.process;
        let Some(node) = self.anchors.node.clone() else {
            // There is no other node that it could be on.
            let event = match *self.place.borrow() {
                Where::At(owner, epoch, _) => gateway::Event::Located { owner, epoch },
                Where::Gone => gateway::Event::Unknown,
            };
            let _ = sender.send(event);
            return;
        };
        tokio::spawn(async move {
            let reply = node.command(move |token| node::Event::Locate { token, process });
            let event = match reply.await {
                Ok(Reply::Located(record)) => gateway::Event::Located {
                    owner: record.claim.owner,
                    epoch: record.claim.epoch,
                },
                Err(Failure::UnknownProcess(_)) => gateway::Event::Unknown,
                _ => gateway::Event::Unavailable,
            };
            let _ = sender.send(event);
        });
    }

    /// Moves bytes both ways, as many as can be moved without waiting.
    fn exchange(&mut self) -> Wants {
        let end = self.end.clone();
        let mut inner = end.inner();
        let mut wants = Wants::default();
        let written = self.write_client(&mut inner, &mut wants);
        let read = written.and_then(|()| self.read_client(&mut inner, &mut wants));
        if let Err(error) = read {
            tracing::debug!(process = %self.process, %error, "a client is gone");
            inner.happened(gateway::Event::ClientReset);
        } else if self.client_ended && inner.told_end && inner.end.is_over() {
            inner.happened(gateway::Event::Drained);
        }
        end.account(&mut inner);
        end.pump(&mut inner);
        wants
    }

    fn write_client(&mut self, inner: &mut Inner, wants: &mut Wants) -> io::Result<()> {
        let mut moved = false;
        while !inner.end.unread().is_empty() {
            match self.tcp.try_write(inner.end.unread()) {
                Ok(length) => {
                    inner.end.consume(length);
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wants.write = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if moved
            && !inner.lazy
            && let Some(end) = self.end.this.upgrade()
        {
            inner.lazy = true;
            self.end.switch.flush_soon(end);
        }
        let broken = matches!(inner.end.status(), Status::Reset(_));
        if !self.stream_ended && !broken && inner.end.readiness().hangup {
            // All that the process had to say is here, though the client may not have it yet.
            self.stream_ended = true;
            inner.happened(gateway::Event::StreamEnded);
        }
        if inner.end.is_read_to_end() && !inner.told_end {
            inner.told_end = true;
            // A client that has gone already does not mind.
            let _ = rustix::net::shutdown(&self.tcp, rustix::net::Shutdown::Write);
        }
        Ok(())
    }

    fn read_client(&mut self, inner: &mut Inner, wants: &mut Wants) -> io::Result<()> {
        if !self.reading {
            return Ok(());
        }
        let mut moved = false;
        let result = BUFFER.with_borrow_mut(|buffer| {
            while !self.client_ended {
                let room = usize::try_from(inner.end.readiness().writable).unwrap_or(usize::MAX);
                let most = room.min(buffer.len());
                let Some(space) = buffer.get_mut(..most).filter(|space| !space.is_empty()) else {
                    return Ok(());
                };
                match self.tcp.try_read(space) {
                    Ok(0) => {
                        self.client_ended = true;
                        inner.end.shutdown(false, true);
                        inner.happened(gateway::Event::ClientEnded);
                    }
                    Ok(length) => {
                        moved = true;
                        // There is room for all of it, as just asked.
                        inner.end.write(space.get(..length).unwrap_or_default());
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        wants.read = true;
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        if moved && inner.end.status() != Status::Active {
            let room = inner.end.readiness().writable;
            let waiting = (Config::default().send_bytes as u64).saturating_sub(room);
            inner.happened(gateway::Event::Waiting(waiting));
        }
        result
    }

    async fn close(self, close: gateway::Close) -> io::Result<()> {
        match close {
            gateway::Close::Fin => {
                let rest = async {
                    loop {
                        let wants = {
                            let mut inner = self.end.inner();
                            let unread = inner.end.unread();
                            if unread.is_empty() {
                                return Ok(());
                            }
                            match self.tcp.try_write(unread) {
                                Ok(length) => {
                                    inner.end.consume(length);
                                    continue;
                                }
                                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Wants {
                                    read: false,
                                    write: true,
                                },
                                Err(error) => return Err(error),
                            }
                        };
                        ready(&self.tcp, wants).await;
                    }
                };
                tokio::time::timeout(LAST_BYTES, rest).await??;
            }
            gateway::Close::Reset => break_off(&self.tcp),
        }
        Ok(())
    }
}

/// Waits until the client's connection can do what is wanted; the next try says whether it can.
async fn ready(tcp: &TcpStream, wants: Wants) {
    let interest = match (wants.read, wants.write) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (true, false) => Interest::READABLE,
        (false, true) => Interest::WRITABLE,
        (false, false) => return std::future::pending().await,
    };
    let _ = tcp.ready(interest).await;
}

async fn answered(answer: &mut Option<oneshot::Receiver<gateway::Event>>) -> gateway::Event {
    match answer {
        Some(receiver) => receiver.await.unwrap_or(gateway::Event::Unavailable),
        None => std::future::pending().await,
    }
}

async fn due(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Ends a connection so that the client sees that it broke.
fn break_off(tcp: &TcpStream) {
    let linger = rustix::net::sockopt::set_socket_linger(tcp, Some(Duration::ZERO));
    if let Err(error) = linger {
        tracing::debug!(%error, "a connection is closed instead of reset");
    }
}
