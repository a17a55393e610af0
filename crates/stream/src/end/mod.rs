//! One end of a stream.
//!
//! ```text
//! anchor's end                                process's end
//!
//!   open()                                      accepting an Open        restore() from a snapshot
//!     │                                              │                            │
//!     ▼        the process's                         │                            ▼ attach(): Standby
//!  Opening ──────────────────┐                       │                         Standby
//!     Open    first frame    │                       │                            │ StandbyAck
//!                            ▼                       ▼                            ▼
//!            ┌─────────── Active ◀────────────────────────────────────────── Attached
//!            │              ▲  ▲                          resume(): Resume
//!  link_down │      Resumed │  │ the other end's Resume (answered by Resumed)
//!    NotHere ▼      or Data │  │
//!         Detached ───▶ Resyncing
//!           link_up(), resync(), resume(): Resume
//! ```
//!
//! A stream between two processes has no anchor: each of its ends is a process's, and either may move;
//! `partner` says how they keep to each other.
//!
//! From every state a stream may be `Reset`, by either end; it is `Finished` once both directions
//! have ended and everything is acknowledged. Beside its state the process's end can be *sealed*:
//! then it sends nothing at all and its application does nothing, but what arrives is kept, so that
//! unsealing goes on as if nothing had been. What arrives after the seal is not in the snapshot and,
//! since no acknowledgement leaves, will be sent again to whoever goes on from the snapshot.
//!
//! **The fence.** Every frame carries the epoch of the process's owner as its sender knows it. An end
//! acts only on frames of its own epoch. Two exceptions, both at the anchor: `Standby` of a new epoch
//! is answered and changes nothing, `Resume` (and `Reset`) of a new epoch is followed, and from then
//! on the old one is refused.
//!
//! **The offsets.** An end forgets what it has sent when the other end *tells* where it stands. In an
//! epoch in which the two have met, what is told can only be news or late. At the first meeting in a
//! new epoch the process goes on from a snapshot; if that is older than what its anchor has seen, or
//! than what its anchor still keeps, the stream is reset: a rollback is never hidden. The anchor never
//! goes back, so what it tells to have received less than we know of is always late.
//!
//! **The link.** It keeps order while it lives. Sending a `Resume`, and receiving one, rewinds: all
//! that is not acknowledged is sent again, behind it, on the same link. So whatever became of earlier
//! links, after an exchange of `Resume` and `Resumed` on a living one nothing is missing; duplicates
//! are trimmed by offset.
//!
//! **Letting go.** An end is dropped when it is over ([`End::is_over`]). What the other end may still
//! wait for then, it gets from the node that looks for the end and finds none: a reset, which an end
//! that has ended both directions takes for what it is, a lost last acknowledgement. That works only
//! if the other end speaks to the right node; so an end of a new owner is not dropped, nor says that
//! the stream is reset, before the anchor follows that owner.

mod arriving;
mod leaving;
mod opening;
mod partner;
mod receiving;
mod sending;

use crate::{Config, Io, Readiness};
pub use partner::Sought;
pub(crate) use partner::other;

use partner::Partner;
use receiving::Receiving;
use sending::Sending;
use wire::frame::{MAX_DATA, ResetReason};
use wire::snapshot::{Service, Stream};
use wire::{Epoch, NodeId, ProcessId, StreamId};

/// Where an end stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The anchor's: the process has not answered yet.
    Opening,
    /// The process's: built from a snapshot; the anchor has not answered yet.
    Standby,
    /// The process's: built from a snapshot; the anchor has answered.
    Attached,
    /// Bytes flow.
    Active,
    /// There is no link to the other end.
    Detached,
    /// The other end was told where we stand and has not answered yet.
    Resyncing,
    /// Both directions have ended and everything is acknowledged.
    Finished,
    /// The stream is over.
    Reset(ResetReason),
}

/// What a frame has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The application can do something that it could not do before.
    pub readiness: bool,
    /// Status, peer or epoch are others than before.
    pub state: bool,
}

/// Frames that were refused, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// Of an epoch before ours: from a former owner, or late.
    pub older_epoch: u64,
    /// Of an epoch after ours, and not an owner's `Resume`.
    pub newer_epoch: u64,
    /// From a node that is not the other end's, or not for us.
    pub foreign: u64,
    /// Data behind a gap, or before the two ends have met.
    pub early: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Standby { attached: bool },
    Active,
    Detached,
    Resyncing,
}

/// What an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Anchor,
    /// A process's, whose other end is an anchor's.
    Process,
    /// A process's, whose other end is another process's.
    Partner,
}

/// What is said to open the stream, kept to say it again.
#[derive(Clone, Debug)]
enum Opening {
    /// By an anchor, for a client.
    Client { listener: u16, client: String },
    /// By a process.
    Call(Service),
}

/// One end of a stream.
#[derive(Clone, Debug)]
pub struct End {
    process: ProcessId,
    stream: StreamId,
    role: Role,
    /// Of an end whose other end is another process's.
    partner: Partner,
    me: NodeId,
    peer: NodeId,
    epoch: Epoch,
    /// The client's address as text.
    client: String,
    data_bytes: usize,
    phase: Phase,
    sealed: bool,
    /// Where the other end stands in this epoch is known.
    met: bool,
    /// The other end has answered as one that follows this owner; not so after a mere `StandbyAck`.
    followed: bool,
    sending: Sending,
    receiving: Receiving,
    reset: Option<ResetReason>,
    /// The application has let go of it.
    closed: bool,
    /// The application let go with bytes unread: the stream is reset once what it wrote is sent.
    reset_at_end: bool,
    /// To be sent, each once.
    reset_due: bool,
    open_due: Option<Opening>,
    opening: Option<Opening>,
    standby_due: bool,
    /// It stands by for a move, so that the anchor's answer to `Standby` is for it.
    attaching: bool,
    resume_due: bool,
    resumed_due: bool,
    /// The answer to a `Standby`: to whom, and under which epoch.
    answer_due: Option<(NodeId, Epoch)>,
    /// A gap was seen and is being healed.
    healing: bool,
    ignored: Ignored,
}

impl End {
    /// The anchor's end of a new stream, from a client at `client` to the process's listener
    /// `listener`, by way of `owner`, which owns the process under `epoch`.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is one field of what is opened"
    )]
    pub fn open(
        process: ProcessId,
        stream: StreamId,
        me: NodeId,
        owner: NodeId,
        epoch: Epoch,
        listener: u16,
        client: &str,
        config: &Config,
    ) -> End {
        let client = shortened(client);
        let opening = Opening::Client {
            listener,
            client: client.clone(),
        };
        let sending = Sending::new(config.send_bytes, 0);
        let receiving = Receiving::new(config.receive_bytes);
        let mut end = End::new(process, stream, Role::Anchor, sending, receiving, config);
        end.me = me;
        end.peer = owner;
        end.epoch = epoch;
        end.client = client;
        end.phase = Phase::Opening;
        end.open_due = Some(opening.clone());
        end.opening = Some(opening);
        end
    }

    /// The process's end of a stream that the anchor `anchor` opens with the receive window
    /// `window`.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is one field of what is opened"
    )]
    pub(crate) fn accept(
        process: ProcessId,
        stream: StreamId,
        me: NodeId,
        anchor: NodeId,
        epoch: Epoch,
        client: &str,
        window: u64,
        config: &Config,
    ) -> End {
        let sending = Sending::new(config.send_bytes, window);
        let receiving = Receiving::new(config.receive_bytes);
        let mut end = End::new(process, stream, Role::Process, sending, receiving, config);
        end.me = me;
        end.peer = anchor;
        end.epoch = epoch;
        end.client = shortened(client);
        // The answer to Open: how much may be sent.
        end.receiving.demand();
        end
    }

    /// The process's end of a stream that was written down. It stands by under `epoch` until it is
    /// resumed. The offsets of `stream` must be sound (see [`crate::RestoreError`]).
    pub(crate) fn restore(
        process: ProcessId,
        me: NodeId,
        epoch: Epoch,
        stream: Stream,
        config: &Config,
    ) -> End {
        // A process that let go of a stream has closed both directions; it may still owe a reset.
        let closed = stream.send_closed && stream.receive_closed;
        let reset_at_end = closed && stream.reset == Some(ResetReason::Closed);
        let sending = Sending::restore(
            config.send_bytes,
            stream.unacknowledged,
            stream.acknowledged,
            stream.send_limit,
            stream.send_closed,
        );
        let receiving = Receiving::restore(
            config.receive_bytes,
            stream.unread,
            stream.received,
            stream.end == Some(stream.received),
            stream.receive_closed,
        );
        let role = match stream.partner {
            Some(_) => Role::Partner,
            None => Role::Process,
        };
        let mut end = End::new(process, stream.id, role, sending, receiving, config);
        end.me = me;
        end.peer = stream.anchor;
        end.epoch = epoch;
        end.client = stream.peer;
        end.phase = Phase::Standby { attached: false };
        end.met = false;
        end.followed = false;
        end.closed = closed;
        end.reset_at_end = reset_at_end;
        end.reset = stream.reset.filter(|_| !reset_at_end);
        if let Some(partner) = stream.partner {
            end.restore_partner(partner);
        }
        end
    }

    fn new(
        process: ProcessId,
        stream: StreamId,
        role: Role,
        sending: Sending,
        receiving: Receiving,
        config: &Config,
    ) -> End {
        End {
            process,
            stream,
            role,
            partner: Partner::default(),
            me: NodeId::default(),
            peer: NodeId::default(),
            epoch: Epoch::default(),
            client: String::new(),
            data_bytes: config.data_bytes.clamp(1, MAX_DATA),
            phase: Phase::Active,
            sealed: false,
            met: true,
            followed: true,
            sending,
            receiving,
            reset: None,
            closed: false,
            reset_at_end: false,
            reset_due: false,
            open_due: None,
            opening: None,
            standby_due: false,
            attaching: false,
            resume_due: false,
            resumed_due: false,
            answer_due: None,
            healing: false,
            ignored: Ignored::default(),
        }
    }

    /// The end as state that can be written down.
    pub(crate) fn export(&self) -> Stream {
        let (unacknowledged, acknowledged, send_limit) = self.sending.export();
        let (unread, received, end) = self.receiving.export();
        let owed = self.reset_at_end.then_some(ResetReason::Closed);
        Stream {
            id: self.stream,
            anchor: self.peer,
            peer: self.client.clone(),
            unacknowledged,
            acknowledged,
            send_limit,
            send_closed: self.sending.is_closed() || self.closed,
            unread,
            received,
            end,
            receive_closed: self.receiving.is_closed() || self.closed,
            reset: self.reset.or(owed),
            partner: self.export_partner(),
        }
    }
}

/// What can be asked.
impl End {
    /// The stream.
    pub fn id(&self) -> StreamId {
        self.stream
    }

    /// The process.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// The node of the other end: for an anchor the owner that it follows.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// The epoch that this end acts under.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The client's address as text.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        if let Some(reason) = self.reset {
            return Status::Reset(reason);
        }
        if self.sending.is_done() && self.receiving.is_ended() {
            return Status::Finished;
        }
        match self.phase {
            Phase::Opening => Status::Opening,
            Phase::Standby { attached: false } => Status::Standby,
            Phase::Standby { attached: true } => Status::Attached,
            Phase::Active => Status::Active,
            Phase::Detached => Status::Detached,
            Phase::Resyncing => Status::Resyncing,
        }
    }

    /// Whether the protocol is done with it: there is nothing left to be sent or waited for, and it
    /// can be dropped once the application has read what is left.
    pub fn is_over(&self) -> bool {
        if self.reset.is_some() {
            return !self.reset_due && self.answer_due.is_none();
        }
        // Whoever has asked waits for an answer.
        if self.answer_due.is_some() || self.resume_due || self.resumed_due {
            return false;
        }
        // Where the application reads no more, the other end learns so when it sends more. What it
        // sends, and what it waits for, goes by the owner that it follows.
        let received = self.receiving.is_ended() || self.closed;
        let done = self.sending.is_done() && received && !self.receiving.is_due();
        done && self.followed && !self.reset_at_end
    }

    /// Whether the application has let go of it.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the process has opened it, and waits to hear that it is connected: it has never been
    /// allowed to send a byte, and nothing has come.
    pub fn is_connecting(&self) -> bool {
        self.role != Role::Anchor
            && self.reset.is_none()
            && self.sending.is_untold()
            && self.receiving.is_untouched()
    }

    /// Frames that were refused.
    pub fn ignored(&self) -> Ignored {
        self.ignored
    }

    /// What the application can do now.
    pub fn readiness(&self) -> Readiness {
        if self.sealed || matches!(self.phase, Phase::Standby { .. }) {
            return Readiness::default();
        }
        let broken = self.reset.is_some();
        Readiness {
            readable: self.receiving.unread().len() as u64,
            writable: if broken || self.is_connecting() {
                0
            } else {
                self.sending.room() as u64
            },
            hangup: broken || self.receiving.is_ended() || self.receiving.is_closed(),
        }
    }
}

/// The application's side.
impl End {
    /// Reads into `buffer`; with `peek` the bytes stay.
    pub fn read(&mut self, buffer: &mut [u8], peek: bool) -> Io {
        if self.is_fenced() {
            return Io::Blocked;
        }
        let length = self.receiving.unread().peek(buffer);
        if length == 0 && !buffer.is_empty() {
            return self.nothing_to_read();
        }
        if !peek {
            self.receiving.consume(length);
        }
        Io::Done(length)
    }

    /// The bytes that can be read, as many as lie together: for reading without copying. Follow up
    /// with [`End::consume`].
    pub fn unread(&self) -> &[u8] {
        if self.is_fenced() {
            return &[];
        }
        self.receiving.unread().front()
    }

    /// Takes `length` of the bytes that [`End::unread`] gave as read.
    pub fn consume(&mut self, length: usize) {
        if !self.is_fenced() {
            self.receiving.consume(length);
        }
    }

    /// Whether all bytes were read and no more will come; the client's connection can be told so.
    pub fn is_read_to_end(&self) -> bool {
        self.receiving.is_ended() && self.receiving.unread().is_empty()
    }

    /// Writes as much of `bytes` as there is room for.
    pub fn write(&mut self, bytes: &[u8]) -> Io {
        if self.reset.is_some() {
            return Io::Reset;
        }
        if self.sending.is_closed() || self.closed {
            return Io::Closed;
        }
        if self.is_fenced() || self.is_connecting() {
            return Io::Blocked;
        }
        match self.sending.write(bytes) {
            0 if !bytes.is_empty() => Io::Blocked,
            length => Io::Done(length),
        }
    }

    /// Shuts down reading and/or writing. What was written is still delivered.
    pub fn shutdown(&mut self, read: bool, write: bool) {
        if read {
            self.receiving.close();
        }
        if write && !self.reset_at_end {
            self.sending.close();
        }
    }

    /// Lets go. What was written is still delivered; bytes that arrived, or arrive, and were not
    /// read reset the stream.
    pub fn close(&mut self) {
        if self.closed {
            return;
        }
        // Once both directions have ended there is nothing left to be reset.
        let unread = !self.receiving.unread().is_empty() && self.status() != Status::Finished;
        self.closed = true;
        self.receiving.close();
        match self.role {
            _ if self.reset.is_some() => {}
            Role::Process | Role::Partner if unread => self.reset_at_end = true,
            Role::Anchor if unread => self.fail(ResetReason::ClientGone),
            _ => self.sending.close(),
        }
    }

    /// Breaks the stream, for `reason`, in both directions.
    pub fn abort(&mut self, reason: ResetReason) {
        let finished = self.status() == Status::Finished;
        self.closed = true;
        self.receiving.close();
        if self.reset.is_none() && !finished {
            self.fail(reason);
        }
    }

    /// The application must do nothing: its state is written down, or not yet its own.
    fn is_fenced(&self) -> bool {
        self.sealed || matches!(self.phase, Phase::Standby { .. })
    }

    fn nothing_to_read(&self) -> Io {
        if self.receiving.is_ended() || self.receiving.is_closed() {
            Io::Done(0)
        } else if self.reset.is_some() {
            Io::Reset
        } else {
            Io::Blocked
        }
    }
}

/// The world's side: links, moves.
impl End {
    /// The anchor's, of a stream that the process has opened: what it leads to can take bytes, as many
    /// as `config` says.
    pub fn connected(&mut self, config: &Config) {
        self.receiving.widen(config.receive_bytes);
    }

    /// The link to the other end's node is gone; what was on its way may be lost.
    pub fn link_down(&mut self) {
        self.detach();
        self.partner.lost = true;
    }

    /// There is a new link to the other end's node.
    pub fn link_up(&mut self) {
        self.healing = false;
        self.partner.lost = false;
        // The other end may not have heard of it.
        self.reset_due = self.reset.is_some();
        match self.phase {
            Phase::Opening => self.open_due.clone_from(&self.opening),
            Phase::Standby { attached } => self.standby_due = self.attaching && !attached,
            Phase::Active | Phase::Detached | Phase::Resyncing => {
                self.phase = Phase::Resyncing;
                self.resume_due = true;
                self.resumed_due = false;
            }
        }
    }

    /// The anchor's: the process is at `owner`, under `epoch`: opens or resynchronises there. Refused
    /// (false) where a later owner is known.
    pub fn resync(&mut self, owner: NodeId, epoch: Epoch) -> bool {
        if self.role != Role::Anchor || epoch < self.epoch {
            return false;
        }
        self.enter(epoch);
        self.peer = owner;
        self.link_up();
        true
    }

    /// The process's: acts under `epoch` from now on, if that is later than before.
    pub(crate) fn set_epoch(&mut self, epoch: Epoch) {
        if epoch > self.epoch {
            self.enter(epoch);
        }
    }

    /// The process's, standing by: makes itself known to the anchor.
    pub(crate) fn attach(&mut self) {
        if let Phase::Standby { attached } = self.phase {
            self.attaching = true;
            self.standby_due = !attached;
        }
    }

    /// The process's: is the owner's end from now on.
    pub(crate) fn resume(&mut self) {
        if self.role == Role::Partner && self.opening.is_some() {
            return self.call_again();
        }
        self.standby_due = false;
        self.resume_due = true;
        self.resumed_due = false;
        self.followed = false;
        let known = self.phase == Phase::Standby { attached: true } && self.role == Role::Process;
        // Once the anchor has said where it stands, bytes may follow the Resume at once.
        self.phase = if known {
            Phase::Active
        } else {
            Phase::Resyncing
        };
    }

    pub(crate) fn seal(&mut self) {
        self.sealed = true;
    }

    pub(crate) fn unseal(&mut self) {
        self.sealed = false;
    }

    /// The other end is not waited for. It learns so when it can be told.
    pub(crate) fn give_up(&mut self, reason: ResetReason) {
        if self.reset.is_none() {
            self.fail(reason);
        }
    }

    /// The other end's node is gone for good.
    pub(crate) fn peer_gone(&mut self, reason: ResetReason) {
        if self.reset.is_none() {
            self.over(reason);
        }
        self.reset_due = false;
    }

    /// Nothing else is to be done: what the other end does not know yet may be told now.
    pub fn flush(&mut self) {
        self.receiving.flush();
    }

    /// The process's: tells the anchor again whose end this is.
    fn remind(&mut self) {
        match self.phase {
            _ if self.role == Role::Anchor => {}
            Phase::Opening | Phase::Standby { .. } => {}
            Phase::Active => self.resume_due = self.reset.is_none(),
            Phase::Detached | Phase::Resyncing => self.link_up(),
        }
    }

    fn detach(&mut self) {
        match self.phase {
            Phase::Active | Phase::Resyncing => self.phase = Phase::Detached,
            Phase::Opening => self.open_due = None,
            Phase::Standby { .. } | Phase::Detached => {}
        }
        self.resume_due = false;
        self.resumed_due = false;
    }

    fn enter(&mut self, epoch: Epoch) {
        if epoch != self.epoch {
            self.epoch = epoch;
            // An end that is opening has nothing to go back on; any other must meet its peer first.
            self.met = self.phase == Phase::Opening;
            self.detach();
        }
    }
}

/// Text from outside, cut to what a frame has room for.
fn shortened(client: &str) -> String {
    client.chars().take(100).collect()
}
