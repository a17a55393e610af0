//! The sockets of one process: [`stream::Side`] behind a lock, between the process's task and
//! the switch.

use super::seeking;
use crate::anchors::Anchors;
use crate::anchors::dial::{Dial, Host};
use crate::switch::{Port, Switch};
use gateway::Policy;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;
use stream::{Config, Side, Sought};
use tokio::sync::Notify;
use tokio::time::timeout;
use vm::ports::{ConnectError, Destination, Io, Network, Progress, Readiness};
use wire::api::{OutgoingInfo, OutgoingState};
use wire::destination::Rule;
use wire::frame::{Body, ResetReason, StreamFrame};
use wire::snapshot::{Kernel, Listener, Service, Stream};
use wire::{Epoch, NodeId, ProcessId, StreamId};

/// How long anchors may take to answer a process that stands by. The node's own limit for the whole
/// restore comes later, so that this one says what was slow.
const ATTACHING: Duration = Duration::from_secs(8);
/// How long what an ended process wrote may take to reach its clients.
pub const DRAINING: Duration = Duration::from_secs(30);
/// Connections that a process has opened that are told of.
const MAX_TOLD: usize = 100;

/// A process, its owner and its epoch.
pub type Claimed = (ProcessId, NodeId, Epoch);

/// Where a process may connect to, and by whom. Granted by the node that it is on; a process that
/// was granted nothing connects nowhere.
pub struct Reach {
    /// Who makes its connections.
    pub anchors: Arc<Anchors>,
    /// Where to.
    pub policy: Arc<Policy>,
}

/// Why a process gets no sockets.
#[derive(Debug, thiserror::Error)]
pub enum NoSockets {
    /// A process of this id has some here, or what it wrote is still on its way.
    #[error("a process of this id is on this node already")]
    Taken,
    /// The state that was written down makes no sense.
    #[error("{0}")]
    State(String),
}

/// See the module's documentation.
pub struct Sockets {
    this: Weak<Sockets>,
    process: ProcessId,
    switch: Arc<Switch>,
    reach: OnceLock<Reach>,
    /// More of its streams wait for other processes than before.
    sought: Notify,
    inner: Mutex<Inner>,
    /// Something has happened: it may be attached to its anchors now, or idle, or all delivered.
    happened: Notify,
}

struct Inner {
    side: Side,
    waker: Option<Waker>,
    /// Registered for the next flush.
    lazy: bool,
    /// Streams that waited for other processes when it was last looked.
    seekers: usize,
    /// A task looks for those processes.
    sought_by_task: bool,
    /// The switch does not know it any more.
    gone: bool,
}

impl Sockets {
    /// The sockets of a new process, with listeners of these names, registered with the switch.
    pub fn new(
        switch: &Arc<Switch>,
        process: ProcessId,
        epoch: Epoch,
        listeners: impl IntoIterator<Item = String>,
    ) -> Result<Arc<Sockets>, NoSockets> {
        let side = Side::new(process, switch.me(), epoch, listeners, Config::default());
        Sockets::register(switch, process, side)
    }

    /// The sockets of a process that arrives, registered, and standing by at all its anchors.
    pub fn standing_by(
        switch: &Arc<Switch>,
        process: ProcessId,
        epoch: Epoch,
        kernel: &Kernel,
    ) -> Result<Arc<Sockets>, NoSockets> {
        let sockets = Sockets::restored(switch, process, epoch, kernel)?;
        sockets.with(|inner| inner.side.attach());
        Ok(sockets)
    }

    /// The sockets of a process from a state written down; it runs after [`Sockets::resume`].
    pub fn restored(
        switch: &Arc<Switch>,
        process: ProcessId,
        epoch: Epoch,
        kernel: &Kernel,
    ) -> Result<Arc<Sockets>, NoSockets> {
        let side = Side::restore(
            process,
            switch.me(),
            epoch,
            kernel.listeners.clone(),
            kernel.streams.clone(),
            Config::default(),
        );
        let side = side.map_err(|error| NoSockets::State(error.to_string()))?;
        Sockets::register(switch, process, side)
    }

    /// Those of a process that has ended long ago: none, and nobody hears of them.
    pub fn none(switch: &Arc<Switch>, process: ProcessId, epoch: Epoch) -> Arc<Sockets> {
        let side = Side::new(process, switch.me(), epoch, [], Config::default());
        Sockets::around(switch, process, side)
    }

    fn register(
        switch: &Arc<Switch>,
        process: ProcessId,
        side: Side,
    ) -> Result<Arc<Sockets>, NoSockets> {
        let sockets = Sockets::around(switch, process, side);
        match switch.add_process(process, sockets.clone()) {
            true => Ok(sockets),
            false => Err(NoSockets::Taken),
        }
    }

    fn around(switch: &Arc<Switch>, process: ProcessId, side: Side) -> Arc<Sockets> {
        Arc::new_cyclic(|this| Sockets {
            this: this.clone(),
            process,
            switch: switch.clone(),
            reach: OnceLock::new(),
            sought: Notify::new(),
            inner: Mutex::new(Inner {
                side,
                waker: None,
                lazy: false,
                seekers: 0,
                sought_by_task: false,
                gone: false,
            }),
            happened: Notify::new(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the side and sends what follows from it.
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner();
        let result = act(&mut inner);
        self.pump(&mut inner);
        result
    }

    /// After whatever was done with the side: sends what follows, and has those who wait look again.
    /// They wait for more than an end can say of itself: the last acknowledgement of a stream that is
    /// closed changes no end, it takes one away.
    fn pump(&self, inner: &mut Inner) {
        while let Some(transmit) = inner.side.poll_transmit() {
            self.switch.send(transmit);
        }
        let seekers = inner.side.seekers();
        if seekers > inner.seekers && !inner.gone {
            self.seek(inner);
        }
        inner.seekers = seekers;
        self.happened.notify_waiters();
    }

    /// Has the processes looked for that streams wait for.
    fn seek(&self, inner: &mut Inner) {
        let Some(reach) = self.reach.get() else {
            return;
        };
        self.sought.notify_one();
        if !std::mem::replace(&mut inner.sought_by_task, true) {
            let seeking = seeking::seek(self.this.clone(), reach.anchors.clone());
            reach.anchors.spawn(seeking);
        }
    }

    /// Whom its streams wait for. If nobody, whoever looks for them is to end.
    pub fn seeking(&self) -> Vec<(Sought, bool)> {
        let mut inner = self.inner();
        let sought = match inner.side.seekers() {
            1.. if !inner.gone => inner.side.seeking(),
            _ => Vec::new(),
        };
        inner.sought_by_task = !sought.is_empty();
        sought
    }

    /// Waits until more of its streams wait for other processes than before.
    pub async fn more_sought(&self) {
        self.sought.notified().await;
    }

    /// What the directory says of somebody whom its streams wait for.
    pub fn learn(&self, sought: &Sought, found: Result<Claimed, ResetReason>) {
        self.with(|inner| match found {
            Ok((process, owner, epoch)) => inner.side.found(sought, process, owner, epoch),
            Err(reason) => inner.side.gone(sought, reason),
        });
        self.wake();
    }

    /// Waits until every anchor has answered; `name` names those that have not.
    pub async fn attached(&self, name: impl Fn(NodeId) -> String) -> Result<(), String> {
        let all = self.until(|side| side.all_attached());
        timeout(ATTACHING, all).await.map_err(|_| {
            let missing: BTreeSet<NodeId> = self
                .inner()
                .side
                .statuses()
                .filter(|(_, _, status)| *status == stream::Status::Standby)
                .map(|(_, anchor, _)| anchor)
                .collect();
            let missing: Vec<String> = missing.into_iter().take(3).map(name).collect();
            format!(
                "the nodes that hold the clients' connections did not answer within {} s: {}",
                ATTACHING.as_secs(),
                missing.join(", ")
            )
        })
    }

    /// Tells the side which of its anchors are taken to be dead already: those do not die again.
    pub fn mind_the_dead(&self) {
        let dead = self.dead_anchors();
        self.with(|inner| {
            for anchor in dead {
                inner.side.anchor_dead(anchor);
            }
        });
        self.wake();
    }

    /// The anchors of its clients that are taken to be dead.
    pub fn dead_anchors(&self) -> BTreeSet<NodeId> {
        let inner = self.inner();
        let anchors = inner.side.statuses().map(|(_, anchor, _)| anchor);
        anchors
            .filter(|anchor| self.switch.is_dead(*anchor))
            .collect()
    }

    async fn until(&self, settled: impl Fn(&Side) -> bool) {
        loop {
            let mut notified = std::pin::pin!(self.happened.notified());
            notified.as_mut().enable();
            if settled(&self.inner().side) {
                return;
            }
            notified.await;
        }
    }

    /// The process is this node's, under `epoch`: goes on, and tells every anchor.
    pub fn resume(&self, epoch: Epoch) {
        self.with(|inner| {
            inner.side.set_epoch(epoch);
            inner.side.resume();
        });
        self.wake();
    }

    /// The move is off after the process was granted elsewhere and taken back: acts under `epoch`.
    pub fn take_back(&self, epoch: Epoch) {
        self.with(|inner| {
            inner.side.set_epoch(epoch);
            inner.side.unseal();
            inner.side.resume();
        });
        self.wake();
    }

    /// The process is another node's, under `epoch`, at `owner` if that is known: answers so from now
    /// on.
    pub fn leave(&self, epoch: Epoch, owner: Option<NodeId>) {
        self.with(|inner| inner.side.leave(epoch));
        let (switch, process) = (&self.switch, self.process);
        self.go(|port| switch.remove_process(process, port, epoch, owner));
    }

    /// The process that stood by will not run here.
    pub fn withdraw(&self) {
        self.go(|port| self.switch.withdraw_process(self.process, port));
    }

    fn go(&self, leave: impl FnOnce(&Arc<dyn Port>)) {
        // Nobody is looked for any more.
        self.inner().gone = true;
        self.sought.notify_one();
        if let Some(this) = self.this.upgrade() {
            let port: Arc<dyn Port> = this;
            leave(&port);
        }
    }

    /// The process has ended, in order or not: what it wrote is still delivered, or nothing is.
    pub fn end(&self, orderly: bool) {
        self.with(|inner| {
            if orderly {
                inner.side.end();
            } else {
                inner.side.kill();
            }
        });
        self.mind_the_dead();
    }

    /// Of a process that has ended: breaks the connections that still wait for what it wrote.
    pub fn cut(&self) {
        self.with(|inner| inner.side.kill());
    }

    /// Waits until what an ended process wrote has arrived, though not for ever, nor for anchors that
    /// are dead, nor if it was killed; and goes.
    pub async fn drained(&self) {
        let _ = timeout(DRAINING, self.until(Side::is_delivered)).await;
        let epoch = self.inner().side.epoch();
        let (switch, process) = (&self.switch, self.process);
        self.go(|port| switch.remove_process(process, port, epoch, None));
    }

    /// Grants the process what it may reach here; once.
    pub fn grant(&self, anchors: &Arc<Anchors>, rules: Vec<Rule>) {
        let reach = Reach {
            anchors: anchors.clone(),
            policy: Arc::new(Policy::new(rules)),
        };
        let granted = self.reach.set(reach);
        debug_assert!(granted.is_ok(), "granted twice");
    }

    /// Where it may connect to.
    pub fn allowed(&self) -> &[Rule] {
        self.reach.get().map_or(&[], |reach| reach.policy.rules())
    }

    /// Connections that it has opened, the first hundred; the names of nodes are to be filled in.
    pub fn outgoing(&self) -> Vec<OutgoingInfo> {
        let inner = self.inner();
        let outgoing = inner.side.outgoing().take(MAX_TOLD);
        let told = outgoing.map(|(to, anchor, progress)| OutgoingInfo {
            to: to.to_owned(),
            anchor,
            anchor_name: String::new(),
            state: match progress {
                stream::Progress::Connecting => OutgoingState::Connecting,
                stream::Progress::Connected => OutgoingState::Open,
                stream::Progress::Failed(_) => OutgoingState::Broken,
            },
        });
        told.collect()
    }

    fn dial(
        &self,
        reach: &Reach,
        to: &Destination,
        host: &str,
        port: u16,
    ) -> Result<StreamId, ConnectError> {
        let host = Host::read(host).ok_or(ConnectError::NotFound)?;
        if !host.may_be_tried(&reach.policy, port) {
            return Err(ConnectError::Denied);
        }
        let stream = StreamId(getrandom::u64().map_err(|_| ConnectError::TooMany)?);
        let end = self.with(|inner| inner.side.dial(stream, &to.to_string()));
        reach.anchors.dial(Dial {
            process: self.process,
            end: end.ok_or(ConnectError::TooMany)?,
            host,
            port,
            policy: reach.policy.clone(),
        });
        Ok(stream)
    }

    /// Open connections, those that it has opened included.
    pub fn connections(&self) -> u64 {
        self.inner().side.streams() as u64
    }

    /// Waits until there is no open connection.
    pub async fn idle(&self) {
        self.until(|side| side.streams() == 0).await;
    }

    fn wake(&self) {
        if let Some(waker) = &self.inner().waker {
            waker.wake_by_ref();
        }
    }

    /// Something was received or read that is to be acknowledged when there is time.
    fn be_lazy(&self, inner: &mut Inner) {
        if !inner.lazy
            && let Some(this) = self.this.upgrade()
        {
            inner.lazy = true;
            self.switch.flush_soon(this);
        }
    }
}

impl Port for Sockets {
    fn arrived(&self, from: NodeId, frame: StreamFrame) {
        let data = matches!(frame.body, Body::Data { .. });
        let mut inner = self.inner();
        let change = inner.side.handle(from, frame);
        self.pump(&mut inner);
        if data {
            self.be_lazy(&mut inner);
        }
        if change.readiness
            && let Some(waker) = &inner.waker
        {
            waker.wake_by_ref();
        }
    }

    fn link_up(&self, node: NodeId) {
        self.with(|inner| {
            inner.side.link_up(node);
            // If it stands by: who has not answered may not have heard.
            inner.side.attach();
        });
    }

    fn link_down(&self, node: NodeId) {
        self.with(|inner| inner.side.link_down(node));
    }

    fn node_dead(&self, node: NodeId) {
        self.with(|inner| inner.side.anchor_dead(node));
        self.wake();
    }

    fn node_gone(&self, node: NodeId) {
        self.with(|inner| inner.side.anchor_gone(node));
        self.wake();
    }

    fn flush(&self) {
        self.with(|inner| {
            inner.lazy = false;
            inner.side.flush();
        });
    }
}

/// The process's verbs.
impl Network for Sockets {
    fn accept(&self, listener: u16) -> Option<StreamId> {
        self.with(|inner| inner.side.accept(listener))
    }

    fn connect(&self, to: &Destination) -> Result<StreamId, ConnectError> {
        let reach = self.reach.get().ok_or(ConnectError::Denied)?;
        match to {
            Destination::Tcp { host, port } => self.dial(reach, to, host, *port),
            Destination::Service { name, listener } => {
                let number = getrandom::u64().map_err(|_| ConnectError::TooMany)?;
                let service = Service {
                    name: name.clone(),
                    listener: listener.clone(),
                };
                let stream = self.with(|inner| inner.side.call(number, service, &to.to_string()));
                stream.ok_or(ConnectError::TooMany)
            }
        }
    }

    fn progress(&self, stream: StreamId) -> Progress {
        match self.inner().side.progress(stream) {
            stream::Progress::Connecting => Progress::Connecting,
            stream::Progress::Connected => Progress::Connected,
            stream::Progress::Failed(reason) => Progress::Failed(failure(reason)),
        }
    }

    fn read(&self, stream: StreamId, buffer: &mut [u8], peek: bool) -> Io {
        self.with(|inner| {
            let read = inner.side.read(stream, buffer, peek);
            if matches!(read, stream::Io::Done(1..)) {
                self.be_lazy(inner);
            }
            io(read)
        })
    }

    fn write(&self, stream: StreamId, bytes: &[u8]) -> Io {
        self.with(|inner| io(inner.side.write(stream, bytes)))
    }

    fn shutdown(&self, stream: StreamId, read: bool, write: bool) {
        self.with(|inner| inner.side.shutdown(stream, read, write));
    }

    fn close(&self, stream: StreamId) {
        self.with(|inner| inner.side.close(stream));
    }

    fn stream_readiness(&self, stream: StreamId) -> Readiness {
        let mut inner = self.inner();
        let readiness = inner.side.stream_readiness(stream);
        let mut writable = readiness.writable;
        if writable == 0 {
            // A write that fails does not block either.
            let tried = inner.side.write(stream, &[]);
            writable = u64::from(matches!(tried, stream::Io::Reset | stream::Io::Closed));
        }
        Readiness {
            readable: readiness.readable,
            writable,
            hangup: readiness.hangup,
        }
    }

    fn listener_readiness(&self, listener: u16) -> Readiness {
        let readiness = self.inner().side.listener_readiness(listener);
        Readiness {
            readable: readiness.readable,
            writable: readiness.writable,
            hangup: readiness.hangup,
        }
    }

    fn register(&self, waker: &Waker) {
        let mut inner = self.inner();
        match &mut inner.waker {
            Some(known) => known.clone_from(waker),
            None => inner.waker = Some(waker.clone()),
        }
    }

    fn seal(&self) -> (Vec<Listener>, Vec<Stream>) {
        self.inner().side.seal()
    }

    fn unseal(&self) {
        self.with(|inner| inner.side.unseal());
    }
}

fn failure(reason: ResetReason) -> ConnectError {
    match reason {
        ResetReason::Refused => ConnectError::Refused,
        ResetReason::Unreachable => ConnectError::Unreachable,
        ResetReason::TimedOut => ConnectError::TimedOut,
        ResetReason::Denied => ConnectError::Denied,
        ResetReason::NotFound => ConnectError::NotFound,
        ResetReason::TooMany => ConnectError::TooMany,
        ResetReason::Closed
        | ResetReason::ClientGone
        | ResetReason::Rollback
        | ResetReason::ProcessGone
        | ResetReason::Protocol => ConnectError::Reset,
    }
}

fn io(io: stream::Io) -> Io {
    match io {
        stream::Io::Done(length) => Io::Done(length),
        stream::Io::Blocked => Io::Blocked,
        stream::Io::Reset => Io::Reset,
        stream::Io::Closed => Io::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::Context;
    use tokio::sync::watch;
    use wire::control::Member;
    use wire::frame::End;

    const PROCESS: ProcessId = ProcessId(1);
    const STREAM: StreamId = StreamId(7);
    const ANSWER: &[u8] = b"HTTP/1.0 200 OK\r\n\r\n";

    /// A process that has answered its only client and exited long after its last read, so that
    /// nothing is left to be done later; the anchor is another node.
    fn answered() -> (Arc<Sockets>, NodeId) {
        let anchor = NodeId([9; 32]);
        let mut dialler = crate::local::alone().unwrap();
        let mut view = dialler.fleet.borrow().clone();
        let member = Member {
            node: anchor,
            ..view.me.clone()
        };
        view.members.insert(anchor, member);
        dialler.fleet = watch::channel(view).1;
        let switch = Switch::new(dialler);
        let listeners = ["main".to_owned()];
        let sockets = Sockets::new(&switch, PROCESS, Epoch(1), listeners).unwrap();
        sockets.resume(Epoch(1));
        let peer = "127.0.0.1:1".to_owned();
        let open = Body::Open {
            listener: 0,
            peer,
            window: 1 << 20,
        };
        sockets.arrived(anchor, frame(open));
        assert_eq!(sockets.accept(0), Some(STREAM));
        assert_eq!(sockets.write(STREAM, ANSWER), Io::Done(ANSWER.len()));
        (sockets, anchor)
    }

    fn frame(body: Body) -> StreamFrame {
        StreamFrame {
            process: PROCESS,
            stream: STREAM,
            epoch: Epoch(1),
            to: End::Process,
            body,
        }
    }

    fn is_ready(future: Pin<&mut impl Future>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        future.poll(&mut context).is_ready()
    }

    #[tokio::test]
    async fn the_last_acknowledgement_ends_the_wait_though_the_client_never_ends_its_direction() {
        let (sockets, anchor) = answered();
        sockets.end(true);
        let mut delivered = std::pin::pin!(sockets.until(Side::is_delivered));
        assert!(!is_ready(delivered.as_mut()), "nothing was acknowledged");
        // One more for the end of the direction.
        let last = Body::Ack {
            received: ANSWER.len() as u64 + 1,
            limit: 1 << 20,
        };
        sockets.arrived(anchor, frame(last));
        assert!(sockets.inner().side.is_delivered());
        assert!(is_ready(delivered.as_mut()), "who waits was not told");
    }
}
