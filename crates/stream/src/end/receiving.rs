//! The direction towards this end: what has arrived and the application has not read.
//!
//! ```text
//!          consumed          received               limit = consumed + capacity
//! ───────────┼──────────────────┼───────────────────────────┼───▶ offset
//!  read      │ kept, to be read │ may arrive                │ breaks the protocol
//! ```
//!
//! What was last told to the other end is remembered: it may send up to the limit told, and it keeps
//! what lies behind the offset told.

use crate::buffer::Buffer;
use wire::frame::{Body, ResetReason};

/// The receiving direction.
#[derive(Clone, Debug)]
pub(super) struct Receiving {
    /// The bytes from `received - buffer.len()` to `received`.
    buffer: Buffer,
    received: u64,
    /// The other end's end has arrived, and everything before it.
    ended: bool,
    /// The application reads no more; what arrives is counted and dropped.
    closed: bool,
    capacity: usize,
    told_received: u64,
    told_limit: u64,
    /// The highest limit that was promised to anyone in this epoch.
    allowed: u64,
    /// An acknowledgement is due at once.
    due: bool,
}

/// What became of bytes that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// They, or some of them, were taken.
    Taken,
    /// We have them.
    Old,
    /// Something before them has not arrived.
    Gap,
}

impl Receiving {
    pub fn new(capacity: usize) -> Receiving {
        Receiving::restore(capacity, Vec::new(), 0, false, false)
    }

    pub fn restore(
        capacity: usize,
        unread: Vec<u8>,
        received: u64,
        ended: bool,
        closed: bool,
    ) -> Receiving {
        let mut receiving = Receiving {
            buffer: Buffer::from_vec(unread),
            received,
            ended,
            closed,
            capacity,
            told_received: 0,
            told_limit: 0,
            allowed: 0,
            due: false,
        };
        receiving.tell();
        receiving
    }

    /// The bytes not read, the next offset expected, and the length of the direction if known.
    pub fn export(&self) -> (Vec<u8>, u64, Option<u64>) {
        let bytes = self.buffer.copy(0, self.buffer.len());
        (bytes, self.received, self.ended.then_some(self.received))
    }

    pub fn unread(&self) -> &Buffer {
        &self.buffer
    }

    pub fn is_ended(&self) -> bool {
        self.ended
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The application reads no more.
    pub fn close(&mut self) {
        self.closed = true;
        self.buffer.clear();
    }

    /// The application has read `length` bytes.
    pub fn consume(&mut self, length: usize) {
        self.buffer.discard(length);
    }

    /// The next offset expected; the end counts as one.
    pub fn position(&self) -> u64 {
        self.received + u64::from(self.ended)
    }

    /// The highest offset that may be sent to us.
    fn limit(&self) -> u64 {
        let consumed = self.received - self.buffer.len() as u64;
        let limit = consumed.saturating_add(self.capacity as u64);
        limit.max(self.received).max(self.allowed)
    }

    pub fn data(&mut self, offset: u64, mut bytes: Vec<u8>) -> Result<Arrival, ResetReason> {
        let length = bytes.len() as u64;
        let end = offset.checked_add(length).ok_or(ResetReason::Protocol)?;
        if end > self.allowed.max(self.received) || (self.ended && end > self.received) {
            return Err(ResetReason::Protocol);
        }
        if offset > self.received {
            return Ok(Arrival::Gap);
        }
        if length == 0 {
            self.due = true;
        }
        if end <= self.received {
            return Ok(Arrival::Old);
        }
        let known = (self.received - offset) as usize;
        self.received = end;
        if !self.closed {
            bytes.drain(..known);
            self.buffer.push_vec(bytes);
        }
        Ok(Arrival::Taken)
    }

    pub fn fin(&mut self, offset: u64) -> Result<Arrival, ResetReason> {
        if offset < self.received || (self.ended && offset > self.received) {
            return Err(ResetReason::Protocol);
        }
        if offset > self.received {
            return Ok(Arrival::Gap);
        }
        // Told again even where it is known: the other end would not ask if it knew.
        self.due = true;
        let known = std::mem::replace(&mut self.ended, true);
        Ok(if known { Arrival::Old } else { Arrival::Taken })
    }

    /// Whether an acknowledgement should go out now. It must before this end may be forgotten: the other
    /// end may wait for it.
    pub fn is_due(&self) -> bool {
        let quarter = (self.capacity as u64 / 4).max(1);
        self.due
            || self.received - self.told_received >= quarter
            || (!self.ended && self.limit() - self.told_limit >= quarter)
    }

    /// The other end gets to know where we stand as soon as something can be sent.
    pub fn demand(&mut self) {
        self.due = true;
    }

    /// That many bytes may be kept from now on; the other end gets to know at once.
    pub fn widen(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.due = true;
    }

    /// Nothing has ever arrived.
    pub fn is_untouched(&self) -> bool {
        self.position() == 0
    }

    /// What the other end does not know yet becomes due.
    pub fn flush(&mut self) {
        let room = !self.ended && self.limit() > self.told_limit;
        self.due |= room || self.received > self.told_received;
    }

    /// The other end has gone: there is nobody to acknowledge to.
    pub fn settle(&mut self) {
        self.tell();
    }

    /// Where we stand, to be told to a node that is not the other end yet: it may act on it later.
    pub fn promise(&mut self) -> (u64, u64) {
        self.allowed = self.limit();
        (self.position(), self.allowed)
    }

    /// Where we stand, to be told to the other end in the frame that is being made.
    pub fn tell(&mut self) -> (u64, u64) {
        self.told_received = self.received;
        self.told_limit = self.limit();
        self.due = false;
        self.promise()
    }

    pub fn acknowledgement(&mut self) -> Body {
        let (received, limit) = self.tell();
        Body::Ack { received, limit }
    }
}
