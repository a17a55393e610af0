//! The sockets of one process: its ends of streams, and the queues of its listeners.
//!
//! ```text
//!   new() ──▶ running ──seal()──▶ sealed ──leave()──▶ left: answers NotHere
//!               ▲  ▲                │
//!               │  └────unseal()────┘
//!               │
//!   restore() ─▶ standing by ──▶ all_attached()
//!                  attach()          │
//!               ▲                    │
//!               └──────resume()──────┘
//! ```
//!
//! While it is sealed or standing by, the process does nothing with its sockets (reads and writes
//! block, nothing is accepted) and no frame leaves but those that attach; connections that arrive
//! wait outside the queues, so that what was written down stays the whole truth.
//!
//! The verbs are those of a process's network port, so that a world needs only a lock around this.

mod partners;

use crate::missing::{answer, deserves_answer};
use crate::{Change, Config, End, Ignored, Io, Readiness, Status, Transmit};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use wire::frame::{Body, End as To, ResetReason, StreamFrame};
use wire::snapshot::{Listener, Stream};
use wire::{Epoch, NodeId, ProcessId, StreamId};

/// Answers on behalf of streams that are not here, which wait to be sent.
const MAX_ANSWERS: usize = 1024;
/// No stream gets so far: there is room behind it for every sum of offsets and lengths.
const MAX_OFFSET: u64 = 1 << 62;

/// Streams of a snapshot that cannot have been written by a process's side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// More streams than a process may have.
    #[error("the snapshot has {streams} streams where {max} are allowed")]
    TooMany {
        /// How many.
        streams: usize,
        /// How many are allowed.
        max: usize,
    },
    /// A stream is there twice.
    #[error("the snapshot has stream {0} twice; whatever wrote it is faulty")]
    Duplicate(StreamId),
    /// A stream's offsets contradict each other.
    #[error(
        "the offsets of stream {0} in the snapshot are impossible; whatever wrote it is faulty"
    )]
    Offsets(StreamId),
    /// A listener's queue names a stream that is not there, or one that is in a queue already.
    #[error(
        "a listener's queue in the snapshot names stream {0}, which does not wait; whatever wrote it is faulty"
    )]
    Queue(StreamId),
}

/// How far a stream is that the process has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is not known yet what becomes of it.
    Connecting,
    /// Bytes flow.
    Connected,
    /// It has failed, or broke since.
    Failed(ResetReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    StandingBy,
    Running,
    Sealed,
    /// Went elsewhere.
    Left,
}

#[derive(Debug)]
struct Entry {
    end: End,
    /// It is in the ready queue.
    ready: bool,
    /// The listener in whose queue it waits.
    waiting: Option<u16>,
    /// It stands by and its anchor has not answered.
    unattached: bool,
    /// It waits for another process.
    seeking: bool,
}

/// An answer on behalf of a stream that is not here.
#[derive(Debug)]
struct Answer {
    /// What it answers.
    frame: StreamFrame,
    body: Body,
}

#[derive(Debug)]
struct Queue {
    name: String,
    waiting: VecDeque<StreamId>,
}

/// The sockets of one process.
#[derive(Debug)]
pub struct Side {
    process: ProcessId,
    me: NodeId,
    epoch: Epoch,
    config: Config,
    mode: Mode,
    /// The process has ended: it takes no more connections.
    ended: bool,
    /// Its streams were broken: nobody is to have anything of it any more.
    killed: bool,
    entries: BTreeMap<StreamId, Entry>,
    listeners: Vec<Queue>,
    /// Streams that have something to send, each once.
    ready: VecDeque<StreamId>,
    /// Streams that may have something to acknowledge when there is nothing else to do.
    lazy: BTreeSet<StreamId>,
    /// How many entries are unattached.
    unattached: usize,
    /// Answers on behalf of streams that are not here.
    answers: BTreeMap<StreamId, (NodeId, Answer)>,
    /// How many entries wait for another process.
    seeking: usize,
    /// Connections that arrived while nothing could be accepted.
    held_back: BTreeMap<StreamId, (NodeId, StreamFrame)>,
    ignored: Ignored,
}

impl Side {
    /// The sockets of a process that starts on the node `me` under `epoch`, with listeners of these
    /// names.
    pub fn new(
        process: ProcessId,
        me: NodeId,
        epoch: Epoch,
        listeners: impl IntoIterator<Item = String>,
        config: Config,
    ) -> Side {
        let listeners = listeners.into_iter().map(|name| Queue {
            name,
            waiting: VecDeque::new(),
        });
        Side {
            process,
            me,
            epoch,
            config,
            mode: Mode::Running,
            ended: false,
            killed: false,
            entries: BTreeMap::new(),
            listeners: listeners.collect(),
            ready: VecDeque::new(),
            lazy: BTreeSet::new(),
            unattached: 0,
            answers: BTreeMap::new(),
            seeking: 0,
            held_back: BTreeMap::new(),
            ignored: Ignored::default(),
        }
    }

    /// The sockets of a process that was written down and shall go on, on the node `me` under
    /// `epoch`. It stands by until [`Side::resume`].
    pub fn restore(
        process: ProcessId,
        me: NodeId,
        epoch: Epoch,
        listeners: Vec<Listener>,
        streams: Vec<Stream>,
        config: Config,
    ) -> Result<Side, RestoreError> {
        if streams.len() > config.max_streams {
            return Err(RestoreError::TooMany {
                streams: streams.len(),
                max: config.max_streams,
            });
        }
        let mut side = Side::new(process, me, epoch, [], config);
        side.mode = Mode::StandingBy;
        for stream in streams {
            let id = stream.id;
            if !is_sound(&stream) {
                return Err(RestoreError::Offsets(id));
            }
            let end = End::restore(process, me, epoch, stream, &side.config);
            if side.entries.contains_key(&id) {
                return Err(RestoreError::Duplicate(id));
            }
            side.insert(id, end, None);
        }
        for (index, listener) in listeners.into_iter().enumerate() {
            // There are no more listeners than a process can name.
            let index = u16::try_from(index).ok();
            for id in &listener.queue {
                match side.entries.get_mut(id) {
                    Some(entry) if entry.waiting.is_none() && index.is_some() => {
                        entry.waiting = index;
                    }
                    _ => return Err(RestoreError::Queue(*id)),
                }
            }
            side.listeners.push(Queue {
                name: listener.name,
                waiting: listener.queue.into(),
            });
        }
        Ok(side)
    }

    /// The epoch that it acts under.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The number of streams.
    pub fn streams(&self) -> usize {
        self.entries.len()
    }

    /// Every stream and where it stands, in order of ids.
    pub fn statuses(&self) -> impl Iterator<Item = (StreamId, NodeId, Status)> {
        let each = |(id, entry): (&StreamId, &Entry)| (*id, entry.end.peer(), entry.end.status());
        self.entries.iter().map(each)
    }

    /// Streams that the process has opened: where to as text, by way of which node, how far.
    pub fn outgoing(&self) -> impl Iterator<Item = (&str, NodeId, Progress)> {
        // A client is an address; what a process opens is a path.
        let opened = |entry: &&Entry| entry.end.client().starts_with('/');
        let opened = self.entries.values().filter(opened);
        opened.map(|entry| (entry.end.client(), entry.end.peer(), progress(&entry.end)))
    }

    /// Frames that were refused, in all.
    pub fn ignored(&self) -> Ignored {
        let mut sum = self.ignored;
        for entry in self.entries.values() {
            add(&mut sum, entry.end.ignored());
        }
        sum
    }

    fn insert(&mut self, id: StreamId, end: End, waiting: Option<u16>) {
        let entry = Entry {
            end,
            ready: false,
            waiting,
            unattached: false,
            seeking: false,
        };
        self.entries.insert(id, entry);
        self.refresh(id);
    }

    /// Does one thing with an end, and all that follows from it.
    fn with<T>(&mut self, id: StreamId, act: impl FnOnce(&mut End) -> T) -> Option<T> {
        let result = act(&mut self.entries.get_mut(&id)?.end);
        self.refresh(id);
        Some(result)
    }

    /// Does one thing with every end.
    fn with_all(&mut self, mut act: impl FnMut(&mut End)) {
        let ids: Vec<StreamId> = self.entries.keys().copied().collect();
        for id in ids {
            self.with(id, &mut act);
        }
    }

    /// Restores what must hold after an end has changed.
    fn refresh(&mut self, id: StreamId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let unattached = entry.end.status() == Status::Standby;
        if unattached != entry.unattached {
            entry.unattached = unattached;
            self.unattached = if unattached {
                self.unattached + 1
            } else {
                self.unattached - 1
            };
        }
        let seeking = entry.end.sought().is_some();
        if seeking != entry.seeking {
            entry.seeking = seeking;
            self.seeking = if seeking {
                self.seeking + 1
            } else {
                self.seeking - 1
            };
        }
        if entry.end.wants_transmit() && !entry.ready {
            entry.ready = true;
            self.ready.push_back(id);
        }
        // What is sealed or stands by stays as it was written down.
        if self.mode != Mode::Running || !entry.end.is_over() {
            return;
        }
        let broken = matches!(entry.end.status(), Status::Reset(_));
        if let Some(listener) = entry.waiting.filter(|_| broken) {
            // Nobody has seen it yet, and nobody needs to.
            if let Some(queue) = self.listeners.get_mut(usize::from(listener)) {
                queue.waiting.retain(|waiting| *waiting != id);
            }
            self.remove(id);
        } else if entry.end.is_closed() {
            self.remove(id);
        }
    }
}

impl Side {
    /// Forgets a stream, which does not stand by any more.
    fn remove(&mut self, id: StreamId) {
        let removed = self.entries.remove(&id);
        self.seeking -= usize::from(removed.is_some_and(|entry| entry.seeking));
    }
}

/// The process's verbs.
impl Side {
    /// Takes the oldest waiting connection of a listener.
    pub fn accept(&mut self, listener: u16) -> Option<StreamId> {
        if self.mode != Mode::Running {
            return None;
        }
        let queue = self.listeners.get_mut(usize::from(listener))?;
        let id = queue.waiting.pop_front()?;
        self.entries.get_mut(&id)?.waiting = None;
        Some(id)
    }

    /// Opens a stream to somewhere outside, by way of this node; `to` says where, as text. Gives the
    /// anchor's end; nothing, if there are too many streams or the process does not run.
    pub fn dial(&mut self, stream: StreamId, to: &str) -> Option<End> {
        let full = self.ended || self.entries.len() >= self.config.max_streams;
        if full || self.mode != Mode::Running || self.entries.contains_key(&stream) {
            return None;
        }
        let (process, me, epoch) = (self.process, self.me, self.epoch);
        let (mine, anchor) = End::dial(process, stream, me, epoch, to, &self.config);
        self.insert(stream, mine, None);
        Some(anchor)
    }

    /// How far a stream is that the process has opened.
    pub fn progress(&self, stream: StreamId) -> Progress {
        let gone = Progress::Failed(ResetReason::Closed);
        let entry = self.entries.get(&stream);
        entry.map_or(gone, |entry| progress(&entry.end))
    }

    /// Reads; with `peek` the bytes stay.
    pub fn read(&mut self, stream: StreamId, buffer: &mut [u8], peek: bool) -> Io {
        let read = self.with(stream, |end| end.read(buffer, peek));
        if let Some(Io::Done(1..)) = read {
            self.lazy.insert(stream);
        }
        // A stream that is over and closed in both directions may be gone already.
        read.unwrap_or(Io::Done(0))
    }

    /// Writes as much as fits.
    pub fn write(&mut self, stream: StreamId, bytes: &[u8]) -> Io {
        self.with(stream, |end| end.write(bytes))
            .unwrap_or(Io::Closed)
    }

    /// Shuts down reading and/or writing (a half-close).
    pub fn shutdown(&mut self, stream: StreamId, read: bool, write: bool) {
        self.with(stream, |end| end.shutdown(read, write));
    }

    /// Closes: what was written is still delivered; unread bytes reset the stream.
    pub fn close(&mut self, stream: StreamId) {
        self.with(stream, End::close);
    }

    /// Readiness of a stream.
    pub fn stream_readiness(&self, stream: StreamId) -> Readiness {
        let gone = Readiness {
            hangup: true,
            ..Readiness::default()
        };
        let entry = self.entries.get(&stream);
        entry.map_or(gone, |entry| entry.end.readiness())
    }

    /// Readiness of a listener: `readable` counts waiting connections.
    pub fn listener_readiness(&self, listener: u16) -> Readiness {
        let queue = self.listeners.get(usize::from(listener));
        let waiting = queue.map_or(0, |queue| queue.waiting.len() as u64);
        Readiness {
            readable: if self.mode == Mode::Running {
                waiting
            } else {
                0
            },
            ..Readiness::default()
        }
    }

    /// The process has ended: closes everything and takes nothing more. What it wrote is still
    /// delivered; see [`Side::is_idle`].
    pub fn end(&mut self) {
        self.ended = true;
        for listener in &mut self.listeners {
            listener.waiting.clear();
        }
        let ids: Vec<StreamId> = self.entries.keys().copied().collect();
        for id in ids {
            let waiting = self
                .entries
                .get_mut(&id)
                .and_then(|entry| entry.waiting.take());
            self.with(id, |end| match waiting {
                Some(_) => end.abort(ResetReason::Refused),
                None => end.close(),
            });
        }
    }

    /// The process was killed or lost, or nobody shall wait any longer for what it wrote: breaks
    /// every stream.
    pub fn kill(&mut self) {
        self.killed = true;
        self.end();
        self.with_all(|end| end.abort(ResetReason::ProcessGone));
    }

    /// Whether there is no stream left, and nothing to send.
    pub fn is_idle(&self) -> bool {
        self.entries.is_empty() && self.answers.is_empty()
    }

    /// Of a process that has ended: whether nothing that it wrote is to be waited for. It is delivered,
    /// or the streams were broken; an anchor that has not heard so finds no process any more.
    pub fn is_delivered(&self) -> bool {
        self.killed || self.is_idle()
    }
}

/// The world's verbs.
impl Side {
    /// Stops acknowledgements and sends of all streams, and everything that the process could do,
    /// and returns the state as of now.
    pub fn seal(&mut self) -> (Vec<Listener>, Vec<Stream>) {
        if self.mode == Mode::Running {
            self.mode = Mode::Sealed;
            for entry in self.entries.values_mut() {
                entry.end.seal();
            }
        }
        let listeners = self.listeners.iter().map(|listener| Listener {
            name: listener.name.clone(),
            queue: listener.waiting.iter().copied().collect(),
        });
        let streams = self.entries.values().map(|entry| entry.end.export());
        (listeners.collect(), streams.collect())
    }

    /// Goes on after a seal whose snapshot was not moved away.
    pub fn unseal(&mut self) {
        if self.mode != Mode::Sealed {
            return;
        }
        self.mode = Mode::Running;
        self.with_all(End::unseal);
        self.let_in();
    }

    /// Acts under `epoch` from now on, if that is later than before: a move was taken back. Follow up
    /// with [`Side::unseal`] and [`Side::resume`].
    pub fn set_epoch(&mut self, epoch: Epoch) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.with_all(|end| end.set_epoch(epoch));
        }
    }

    /// Makes a process that is being moved here known to the anchors of its streams. May be repeated.
    /// Not for one that is restored from an older state: that one claims the process and resumes, and
    /// nothing flows before it and the anchor have compared where they stand.
    pub fn attach(&mut self) {
        self.with_all(End::attach);
    }

    /// Whether every stream's anchor has answered, or the stream is over.
    pub fn all_attached(&self) -> bool {
        self.unattached == 0
    }

    /// The process is this node's: goes on, and tells every anchor.
    pub fn resume(&mut self) {
        if matches!(self.mode, Mode::StandingBy | Mode::Running) {
            self.mode = Mode::Running;
            self.with_all(End::resume);
            self.let_in();
        }
    }

    /// The process is another node's, under `epoch`: forgets everything. Connections that were held
    /// back are sent on to look for it.
    pub fn leave(&mut self, epoch: Epoch) {
        self.mode = Mode::Left;
        self.epoch = self.epoch.max(epoch);
        self.entries.clear();
        self.ready.clear();
        self.lazy.clear();
        self.unattached = 0;
        self.seeking = 0;
        for (_, answer) in self.answers.values_mut() {
            answer.body = Body::NotHere;
        }
        for (from, frame) in std::mem::take(&mut self.held_back).into_values() {
            self.answer(from, frame, Body::NotHere);
        }
    }

    /// The link to a node is gone.
    pub fn link_down(&mut self, node: NodeId) {
        self.with_all(|end| {
            if end.peer() == node {
                end.link_down();
            }
        });
    }

    /// There is a new link to a node.
    pub fn link_up(&mut self, node: NodeId) {
        self.with_all(|end| {
            if end.peer() == node {
                end.link_up();
            }
        });
    }

    /// A node is taken to be dead; it may come back. A process that runs keeps its streams for that.
    /// One that stands by must not be frozen any longer for clients that are gone in all likelihood:
    /// their streams are reset, and the anchor is told so should it live after all. One that has
    /// ended has no other business than what its clients still wait for.
    pub fn anchor_dead(&mut self, node: NodeId) {
        if self.ended {
            self.anchor_gone(node);
        } else if self.mode == Mode::StandingBy {
            self.with_all(|end| {
                if end.peer() == node && !end.is_partner() {
                    end.give_up(ResetReason::ClientGone);
                }
            });
        }
        self.partner_away(node);
    }

    /// A node is gone for good, and with it the clients whose anchor it was.
    pub fn anchor_gone(&mut self, node: NodeId) {
        self.with_all(|end| {
            if end.peer() == node && !end.is_partner() {
                end.peer_gone(ResetReason::ClientGone);
            }
        });
        self.partner_away(node);
    }

    /// There is nothing else to do: acknowledges what has not been. Costs nothing where nothing was
    /// received or read since the last time.
    pub fn flush(&mut self) {
        for id in std::mem::take(&mut self.lazy) {
            self.with(id, End::flush);
        }
    }

    /// Takes a frame that the node `from` has sent to this process. The change tells whether the
    /// process is to be woken.
    pub fn handle(&mut self, from: NodeId, frame: StreamFrame) -> Change {
        if frame.process != self.process || frame.to == To::Anchor {
            self.ignored.foreign += 1;
            return Change::default();
        }
        let id = frame.stream;
        if self.entries.contains_key(&id) {
            let data = matches!(frame.body, Body::Data { .. });
            let change = self.with(id, |end| end.handle(from, frame));
            if data {
                self.lazy.insert(id);
            }
            return change.unwrap_or_default();
        }
        if self.mode != Mode::Left {
            if frame.epoch > self.epoch {
                self.ignored.newer_epoch += 1;
                return Change::default();
            }
            if frame.epoch < self.epoch {
                self.ignored.older_epoch += 1;
                if self.mode != Mode::StandingBy {
                    self.answer_former(from, frame);
                }
                return Change::default();
            }
        }
        match (self.mode, &frame.body) {
            (Mode::Left, _) => self.answer(from, frame, Body::NotHere),
            (Mode::Running, Body::Open { .. } | Body::Call { .. }) => {
                return self.open(from, frame);
            }
            (Mode::StandingBy | Mode::Sealed, Body::Open { .. } | Body::Call { .. }) => {
                self.hold_back(from, frame);
            }
            (_, Body::Reset(_)) => {
                self.held_back.remove(&id);
            }
            _ => self.answer(from, frame, Body::Reset(ResetReason::Closed)),
        }
        Change::default()
    }

    /// Answers whoever has not heard of this owner, about a stream that is not here.
    fn answer_former(&mut self, from: NodeId, frame: StreamFrame) {
        let body = match frame.body {
            // It shall look again, and come under our epoch. (What comes late must not open anything.)
            Body::Open { .. } | Body::Call { .. } => Body::NotHere,
            _ => Body::Reset(ResetReason::Closed),
        };
        self.answer(from, frame, body);
    }

    fn open(&mut self, from: NodeId, frame: StreamFrame) -> Change {
        let (index, peer, window) = match (&frame.body, frame.to) {
            (
                Body::Open {
                    listener,
                    peer,
                    window,
                },
                To::Process,
            ) => (Some(*listener), peer, *window),
            (
                Body::Call {
                    listener,
                    peer,
                    window,
                },
                To::Partner { .. },
            ) if frame.stream.0 & 1 == 1 => (self.listener_called(listener), peer, *window),
            _ => {
                self.ignored.foreign += 1;
                return Change::default();
            }
        };
        let id = frame.stream;
        let full = self.ended || self.entries.len() >= self.config.max_streams;
        let queue = index.and_then(|index| self.listeners.get_mut(usize::from(index)));
        let max_queue = self.config.max_queue;
        let (Some(queue), Some(index)) = (
            queue.filter(|queue| !full && queue.waiting.len() < max_queue),
            index,
        ) else {
            let none = index.is_none() && !self.ended;
            let reason = match none {
                true => ResetReason::NotFound,
                false => ResetReason::Refused,
            };
            self.answer(from, frame, Body::Reset(reason));
            return Change::default();
        };
        queue.waiting.push_back(id);
        let first = queue.waiting.len() == 1;
        let (process, me, epoch, config) = (self.process, self.me, self.epoch, &self.config);
        let end = match frame.to {
            To::Partner {
                from: partner,
                epoch: its,
            } => {
                let partner = (partner, its);
                End::called(process, id, me, epoch, from, partner, peer, window, config)
            }
            _ => End::accept(process, id, me, from, epoch, peer, window, config),
        };
        self.insert(id, end, Some(index));
        Change {
            readiness: first,
            state: true,
        }
    }

    /// Keeps a connection for later; where there are too many, its anchor will try again.
    fn hold_back(&mut self, from: NodeId, frame: StreamFrame) {
        if self.held_back.len() < self.config.max_queue {
            self.held_back.insert(frame.stream, (from, frame));
        }
    }

    /// Opens the connections that were held back.
    fn let_in(&mut self) {
        for (from, frame) in std::mem::take(&mut self.held_back).into_values() {
            self.handle(from, frame);
        }
    }

    /// Answers a frame, if its sender waits for something.
    fn answer(&mut self, to: NodeId, frame: StreamFrame, body: Body) {
        if deserves_answer(&frame.body) && self.answers.len() < MAX_ANSWERS {
            self.answers
                .insert(frame.stream, (to, Answer { frame, body }));
        }
    }

    /// The next frame to carry. Streams take turns, one frame each.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.mode == Mode::Sealed {
            return None;
        }
        if self.mode != Mode::StandingBy
            && let Some((_, (to, answered))) = self.answers.pop_first()
        {
            let frame = answer(&answered.frame, self.epoch, answered.body);
            return Some(Transmit { to, frame });
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            entry.ready = false;
            // Puts it at the back of the queue if there is more, and drops it if that was all.
            if let Some(Some(transmit)) = self.with(id, End::poll_transmit) {
                return Some(transmit);
            }
        }
        None
    }
}

fn progress(end: &End) -> Progress {
    match end.status() {
        Status::Reset(reason) => Progress::Failed(reason),
        _ if end.is_connecting() => Progress::Connecting,
        _ => Progress::Connected,
    }
}

/// Whether the offsets of a stream can be.
fn is_sound(stream: &Stream) -> bool {
    let unread = stream.unread.len() as u64;
    let end = stream.end.unwrap_or(stream.received);
    stream.acknowledged <= MAX_OFFSET
        && stream.received <= MAX_OFFSET
        && stream.received >= unread
        && end >= stream.received
}

fn add(sum: &mut Ignored, more: Ignored) {
    sum.older_epoch += more.older_epoch;
    sum.newer_epoch += more.newer_epoch;
    sum.foreign += more.foreign;
    sum.early += more.early;
}
