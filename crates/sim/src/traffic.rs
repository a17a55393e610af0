//! Clients and what they talk to: real connections, real streams, and bytes that can be checked.
//!
//! A client sends bytes that follow from its stream's id, and knows the answer to each. The process
//! knows them too. So whoever sees a byte that was lost, repeated or moved says so at once. A
//! connection may break only where the world knows why: the process ended or died, the client
//! broke it, or its anchor died.

use crate::network::Channel;
use crate::world::{Local, Parcel, World, stream_config};
use gateway::{Connection, Effect, Event, State};
use node::{Failure, Reply};
use overlay::membership::Health;
use std::time::Duration;
use stream::{
    End, Io, Side, Status, Transmit, answer_for_missing_anchor, answer_for_missing_process,
};
use wire::frame::{Body, End as To, StreamFrame};
use wire::{Epoch, NodeId, ProcessId, StreamId};

/// The byte that a client sends at this offset.
fn question(stream: StreamId, offset: u64) -> u8 {
    let mixed = (stream.0 ^ offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// The byte that the process answers to it.
fn answer(question: u8, offset: u64) -> u8 {
    question ^ (offset as u8).wrapping_mul(31) ^ 0x5a
}

/// A client's connection at its anchor.
#[derive(Debug)]
pub struct Anchor {
    process: ProcessId,
    connection: Connection,
    /// Until the connection says where to open it there is no stream.
    end: Option<End>,
    /// What the connection has last been told of the stream.
    told: Option<(Status, NodeId, Epoch)>,
    reading: bool,
    sent: u64,
    total: u64,
    received: u64,
    ended: bool,
    stream_ended: bool,
}

impl Anchor {
    /// The process that the client talks to.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// How far it has come, for messages.
    pub fn describe(&self) -> String {
        format!(
            "{:?}, stream {:?}, {} of {} bytes sent, {} answered",
            self.connection.state(),
            self.end.as_ref().map(End::status),
            self.sent,
            self.total,
            self.received
        )
    }
}

/// Patient: whether a connection is held for too long is not what is tested here.
fn gateway_config() -> gateway::Config {
    let patient = Duration::from_secs(3600);
    gateway::Config {
        max_tries: u32::MAX,
        hold_timeout: patient,
        dead_timeout: patient,
        drain_timeout: patient,
        hold_bytes: 300,
        ..gateway::Config::default()
    }
}

impl World {
    /// A client connects at a host to a process, wherever it is, and will send `total` bytes.
    pub fn connect(&mut self, index: usize, process: ProcessId, total: u64) {
        if !self.hosts[index].is_up() {
            return;
        }
        let stream = StreamId(self.random.u64(..));
        self.trace(index, || {
            format!("has a client {stream} for {process}, {total} bytes")
        });
        let now = self.hosts[index].clock.read(self.now);
        let anchor = Anchor {
            process,
            connection: Connection::new(now, None, gateway_config()),
            end: None,
            told: None,
            reading: false,
            sent: 0,
            total,
            received: 0,
            ended: false,
            stream_ended: false,
        };
        self.hosts[index].anchors.insert(stream, anchor);
        let epoch = Epoch::default();
        self.tell(index, node::Event::Watch { process, epoch });
        self.attend_anchor(index, stream);
        self.client(index, stream);
    }

    /// A client breaks its connection.
    pub fn hang_up(&mut self, index: usize, stream: StreamId) {
        if self.hosts[index].anchors.contains_key(&stream) {
            self.trace(index, || format!("client {stream} hangs up"));
            self.cut.insert(stream);
            self.anchor_hears(index, stream, Event::ClientReset);
        }
    }

    // ----- the anchor -----

    /// The client and the connection do what they can and must now.
    pub(crate) fn client(&mut self, index: usize, stream: StreamId) {
        let now = self.hosts[index].clock.read(self.now);
        let most = self.random.usize(1..400);
        let Some(anchor) = self.hosts[index].anchors.get_mut(&stream) else {
            return;
        };
        if anchor.connection.poll_timeout().is_some_and(|at| at <= now) {
            anchor.connection.handle(now, Event::Timeout);
        }
        let mut events = Vec::new();
        let mut wrong = None;
        if let Some(end) = &mut anchor.end {
            if anchor.reading && anchor.sent < anchor.total {
                let until = anchor.total.min(anchor.sent + most as u64);
                let bytes: Vec<u8> = (anchor.sent..until)
                    .map(|at| question(stream, at))
                    .collect();
                if let Io::Done(written) = end.write(&bytes) {
                    anchor.sent += written as u64;
                    events.push(Event::Waiting(anchor.sent - anchor.received));
                }
            }
            if anchor.sent == anchor.total && !anchor.ended {
                anchor.ended = true;
                end.shutdown(false, true);
                events.push(Event::ClientEnded);
            }
            let mut buffer = [0; 400];
            if let Io::Done(read) = end.read(&mut buffer[..most], false) {
                for byte in &buffer[..read] {
                    let at = anchor.received;
                    if at >= anchor.sent || *byte != answer(question(stream, at), at) {
                        wrong.get_or_insert(at);
                    }
                    anchor.received += 1;
                }
                self.report.bytes += read as u64;
            }
            if end.is_read_to_end() && !anchor.stream_ended {
                anchor.stream_ended = true;
                events.push(Event::StreamEnded);
            }
            if anchor.ended && anchor.stream_ended && end.status() == Status::Finished {
                events.push(Event::Drained);
            }
            end.flush();
        }
        if let Some(at) = wrong {
            self.broken(format!(
                "client {stream} at host {index} got a wrong answer at offset {at}"
            ));
        }
        for event in events {
            if let Some(anchor) = self.hosts[index].anchors.get_mut(&stream) {
                anchor.connection.handle(now, event);
            }
        }
        self.attend_anchor(index, stream);
        self.carry(index);
        let after = Duration::from_micros(self.random.u64(1_000..30_000));
        self.schedule_at(index, after, Local::Client(stream));
    }

    /// Tells the connection what became of its stream, and does what it wants.
    fn attend_anchor(&mut self, index: usize, stream: StreamId) {
        let now = self.hosts[index].clock.read(self.now);
        let me = self.hosts[index].id;
        loop {
            let Some(anchor) = self.hosts[index].anchors.get_mut(&stream) else {
                return;
            };
            if let Some(end) = &anchor.end {
                let seen = (end.status(), end.peer(), end.epoch());
                if anchor.told != Some(seen) {
                    anchor.told = Some(seen);
                    let (status, owner, epoch) = seen;
                    let event = match status {
                        Status::Active | Status::Finished => Some(Event::Active { owner, epoch }),
                        Status::Reset(reason) => Some(Event::StreamReset(reason)),
                        _ => None,
                    };
                    if let Some(event) = event {
                        anchor.connection.handle(now, event);
                    }
                }
            }
            let process = anchor.process;
            let Some(effect) = anchor.connection.poll_effect() else {
                if anchor.connection.state() == State::Closed {
                    self.forget_client(index, stream);
                }
                return;
            };
            match effect {
                Effect::Locate => {
                    let token = self.command(index, "locate for a client", |token| {
                        node::Event::Locate { token, process }
                    });
                    self.searches.insert(token, stream);
                    // The reply may have come at once.
                    if let Some(reply) = self.replies.get(&token).cloned() {
                        self.searches.remove(&token);
                        self.found(index, stream, &reply);
                    }
                }
                Effect::Open { to, epoch } => match &mut anchor.end {
                    Some(end) => drop(end.resync(to, epoch)),
                    none => {
                        let config = stream_config();
                        let client = "client:1";
                        *none = Some(End::open(
                            process, stream, me, to, epoch, 0, client, &config,
                        ));
                    }
                },
                Effect::Resync { to, epoch } => {
                    if let Some(end) = &mut anchor.end {
                        end.resync(to, epoch);
                    }
                }
                Effect::ReadClient(reading) => anchor.reading = reading,
                Effect::ResetStream(reason) => {
                    if let Some(end) = &mut anchor.end {
                        end.abort(reason);
                    }
                    self.carry(index);
                }
                Effect::Refuse | Effect::CloseClient(_) | Effect::Report(_) => {}
            }
        }
    }

    /// The connection is closed: was that right?
    fn forget_client(&mut self, index: usize, stream: StreamId) {
        let Some(anchor) = self.hosts[index].anchors.remove(&stream) else {
            return;
        };
        let mut others = self.hosts[index].anchors.values();
        if !others.any(|other| other.process == anchor.process) {
            self.tell(index, node::Event::Unwatch(anchor.process));
        }
        let complete = anchor.received == anchor.total && anchor.stream_ended;
        let life = self.ledger.lives.get(&anchor.process);
        let excused = life.is_none_or(|life| life.ended || life.excuse.is_some());
        self.trace(index, || {
            format!("client {stream} is closed: {}", anchor.describe())
        });
        if complete {
            self.report.served += 1;
        } else {
            self.report.cut += 1;
            if !excused && !self.cut.contains(&stream) {
                self.broken(format!(
                    "client {stream} at host {index} lost its connection to {} for no reason: {}",
                    anchor.process,
                    anchor.describe()
                ));
            }
        }
        self.cut.insert(stream);
    }

    fn anchor_hears(&mut self, index: usize, stream: StreamId, event: Event) {
        let now = self.hosts[index].clock.read(self.now);
        if let Some(anchor) = self.hosts[index].anchors.get_mut(&stream) {
            anchor.connection.handle(now, event);
            self.attend_anchor(index, stream);
            self.carry(index);
        }
    }

    pub(crate) fn anchors_hear(
        &mut self,
        index: usize,
        event: impl Fn(&mut Anchor) -> Option<Event>,
    ) {
        let streams: Vec<StreamId> = self.hosts[index].anchors.keys().copied().collect();
        for stream in streams {
            let anchor = self.hosts[index].anchors.get_mut(&stream);
            if let Some(event) = anchor.and_then(&event) {
                self.anchor_hears(index, stream, event);
            }
        }
    }

    /// A process turns out to be owned by this node, under this epoch: whoever follows an earlier
    /// owner looks again.
    pub(crate) fn anchors_catch_up(&mut self, index: usize, record: &wire::directory::Record) {
        let epoch = record.claim.epoch;
        self.anchors_hear(index, |anchor| {
            let end = anchor.end.as_ref()?;
            let behind = anchor.process == record.process && end.epoch() < epoch;
            let from = end.peer();
            behind.then_some(Event::NotHere { from, epoch })
        });
    }

    /// The directory has answered an anchor's question.
    pub(crate) fn found(&mut self, index: usize, stream: StreamId, reply: &Reply) {
        let event = match reply {
            Reply::Located(record) => Event::Located {
                owner: record.claim.owner,
                epoch: record.claim.epoch,
            },
            Reply::Failed(Failure::UnknownProcess(_)) => Event::Unknown,
            _ => Event::Unavailable,
        };
        self.anchor_hears(index, stream, event);
    }

    // ----- the process -----

    /// The process serves its clients: reads, answers, writes, and closes what has ended.
    pub(crate) fn serve(&mut self, index: usize, process: ProcessId) {
        self.scribble(index, process);
        let most = self.random.usize(1..400);
        let Some(instance) = self.hosts[index].instances.get_mut(&process) else {
            return;
        };
        let (memory, side) = (&mut instance.memory, &mut instance.side);
        let mut violation = None;
        while let Some(stream) = side.accept(0) {
            if memory
                .connections
                .insert(stream, Default::default())
                .is_some()
            {
                violation.get_or_insert(format!("{process} accepts stream {stream} twice"));
            }
        }
        let cut = &self.cut;
        memory.connections.retain(|stream, echo| {
            let mut buffer = [0; 400];
            let mut over = false;
            if echo.unwritten.is_empty() && !echo.ended {
                match side.read(*stream, &mut buffer[..most], false) {
                    Io::Done(0) => echo.ended = true,
                    Io::Done(read) => {
                        for byte in &buffer[..read] {
                            if *byte != question(*stream, echo.read) {
                                let at = echo.read;
                                violation.get_or_insert(format!(
                                    "{process} gets a wrong byte at offset {at} of {stream}"
                                ));
                            }
                            echo.unwritten.push(answer(*byte, echo.read));
                            echo.read += 1;
                        }
                    }
                    Io::Blocked => {}
                    Io::Reset | Io::Closed => over = true,
                }
            }
            match side.write(*stream, &echo.unwritten) {
                Io::Done(written) => drop(echo.unwritten.drain(..written)),
                Io::Blocked => {}
                Io::Reset | Io::Closed => over = true,
            }
            if over && !cut.contains(stream) {
                violation.get_or_insert(format!("{process} sees {stream} reset for no reason"));
            }
            over |= echo.ended && echo.unwritten.is_empty();
            if over {
                side.close(*stream);
            }
            !over
        });
        side.flush();
        if let Some(what) = violation {
            self.broken(format!("at host {index} {what}"));
        }
        self.carry(index);
    }

    // ----- between them -----

    pub(crate) fn receive_frame(&mut self, index: usize, from: NodeId, frame: StreamFrame) {
        let stream = frame.stream;
        match frame.to {
            To::Anchor => match self.hosts[index].anchors.get_mut(&stream) {
                Some(anchor) if anchor.end.is_some() => {
                    let epoch = frame.epoch;
                    let not_here = matches!(frame.body, Body::NotHere);
                    if let Some(end) = &mut anchor.end {
                        end.handle(from, frame);
                    }
                    if not_here {
                        self.anchor_hears(index, stream, Event::NotHere { from, epoch });
                    }
                    self.attend_anchor(index, stream);
                }
                _ => {
                    if let Some(frame) = answer_for_missing_anchor(&frame) {
                        self.carry_one(index, Transmit { to: from, frame });
                    }
                }
            },
            To::Process | To::Partner { .. } => {
                let process = frame.process;
                let host = &mut self.hosts[index];
                let mut arrivals = host.arrivals.values_mut();
                let arriving = arrivals.find_map(|arrival| {
                    let thawed = arrival.thawed.as_mut();
                    thawed.filter(|_| arrival.offer.process == process)
                });
                if let Some(instance) = host.instances.get_mut(&process) {
                    instance.side.handle(from, frame);
                } else if let Some((_, side)) = arriving {
                    side.handle(from, frame);
                } else {
                    let known = host.left.get(&process).copied().unwrap_or_default();
                    if let Some(frame) = answer_for_missing_process(&frame, known, None) {
                        self.carry_one(index, Transmit { to: from, frame });
                    }
                }
            }
        }
        self.carry(index);
    }

    pub(crate) fn stream_link_up(&mut self, index: usize, peer: NodeId) {
        self.for_all_sides(index, |side| {
            side.link_up(peer);
            side.attach();
        });
        self.anchors_hear(index, |_| Some(Event::LinkUp(peer)));
        self.carry(index);
    }

    pub(crate) fn stream_link_down(&mut self, index: usize, peer: NodeId) {
        self.for_all_sides(index, |side| side.link_down(peer));
        self.anchors_hear(index, |anchor| {
            if let Some(end) = anchor.end.as_mut().filter(|end| end.peer() == peer) {
                end.link_down();
            }
            Some(Event::LinkDown(peer))
        });
    }

    /// A host takes another one for dead. It may be wrong about that, so clients whose streams are
    /// given up for it may be cut without a fault.
    pub(crate) fn anchor_dead(&mut self, index: usize, peer: NodeId) {
        for arrival in self.hosts[index].arrivals.values() {
            if let Some((_, side)) = &arrival.thawed {
                let of_peer = side.statuses().filter(|(_, anchor, _)| *anchor == peer);
                self.cut.extend(of_peer.map(|(stream, ..)| stream));
            }
        }
        self.for_all_sides(index, |side| side.anchor_dead(peer));
        self.carry(index);
    }

    /// Who has died before a process came to stand by here does not die again.
    pub(crate) fn mind_the_dead(&mut self, index: usize) {
        let Some(node) = &self.hosts[index].node else {
            return;
        };
        let ids = self.hosts.iter().map(|host| host.id);
        let dead: Vec<NodeId> = ids
            .filter(|id| node.health(*id) == Some(Health::Dead))
            .collect();
        for peer in dead {
            self.anchor_dead(index, peer);
        }
    }

    fn for_all_sides(&mut self, index: usize, mut act: impl FnMut(&mut Side)) {
        let host = &mut self.hosts[index];
        for instance in host.instances.values_mut() {
            act(&mut instance.side);
        }
        for arrival in host.arrivals.values_mut() {
            if let Some((_, side)) = &mut arrival.thawed {
                act(side);
            }
        }
    }

    /// Carries all frames that a host has to send, and notices what has attached.
    pub(crate) fn carry(&mut self, index: usize) {
        let mut transmits = Vec::new();
        self.for_all_sides(index, |side| {
            transmits.extend(std::iter::from_fn(|| side.poll_transmit()));
        });
        let host = &mut self.hosts[index];
        for anchor in host.anchors.values_mut() {
            if let Some(end) = &mut anchor.end {
                transmits.extend(std::iter::from_fn(|| end.poll_transmit()));
            }
        }
        let mut attached = Vec::new();
        for (id, arrival) in &mut host.arrivals {
            let thawed = arrival.thawed.as_ref();
            if !arrival.attached && thawed.is_some_and(|(_, side)| side.all_attached()) {
                arrival.attached = true;
                attached.push(*id);
            }
        }
        for transmit in transmits {
            self.carry_one(index, transmit);
        }
        for id in attached {
            let after = self.work_time();
            self.schedule_at(index, after, Local::Restored(id));
        }
    }

    /// Sends what is left to say for a process that is no longer here.
    pub(crate) fn send_last_frames(&mut self, index: usize, mut side: Side) {
        while let Some(transmit) = side.poll_transmit() {
            self.carry_one(index, transmit);
        }
    }

    fn carry_one(&mut self, index: usize, Transmit { to, frame }: Transmit) {
        self.trace(index, || format!("sends to {}: {frame:?}", to.short()));
        if to == self.hosts[index].id {
            self.schedule_at(index, Duration::from_micros(20), Local::Frame(frame));
            return;
        }
        let to = self.index_of(to);
        if self.network.is_up(index, to, Channel::Streams) {
            self.send_parcel(index, to, Parcel::Frame(frame));
        }
    }

    /// Whether every client is gone and every process knows it.
    pub(crate) fn traffic_at_rest(&self) -> Result<(), String> {
        for (index, host) in self.hosts.iter().enumerate() {
            if let Some((stream, anchor)) = host.anchors.first_key_value() {
                let how = anchor.describe();
                return Err(format!(
                    "client {stream} at host {index} for {} never ends: {how}",
                    anchor.process
                ));
            }
            for (process, instance) in &host.instances {
                if instance.side.streams() > 0 {
                    let statuses: Vec<_> = instance.side.statuses().collect();
                    return Err(format!(
                        "{process} at host {index} keeps streams: {statuses:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}
