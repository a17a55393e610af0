//! The direction away from this end: what was written and the other end does not have for good.
//!
//! ```text
//!        acknowledged          sent            written        limit
//! ───────────┼──────────────────┼─────────────────┼─────────────┼───▶ offset
//!  gone      │ kept, on its way │ kept, to be sent│ may follow  │
//! ```

use crate::buffer::Buffer;
use wire::frame::Body;

/// The sending direction.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    /// The bytes from `acknowledged` on.
    buffer: Buffer,
    /// The other end has everything below this for good.
    acknowledged: u64,
    /// The next offset to send.
    sent: u64,
    /// The highest offset that may be sent.
    limit: u64,
    /// Bytes that may be kept.
    capacity: usize,
    /// Nothing more will be written.
    closed: bool,
    /// The end was sent since the last rewind.
    end_sent: bool,
    /// The other end has the end for good.
    end_acknowledged: bool,
    /// An acknowledgement was asked for and has not come.
    asked: bool,
}

/// What there is to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Data,
    /// An empty `Data`, which asks for an acknowledgement: we can keep no more.
    Ask,
    Fin,
}

impl Sending {
    pub fn new(capacity: usize, limit: u64) -> Sending {
        Sending::restore(capacity, Vec::new(), 0, limit, false)
    }

    pub fn restore(
        capacity: usize,
        unacknowledged: Vec<u8>,
        acknowledged: u64,
        limit: u64,
        closed: bool,
    ) -> Sending {
        Sending {
            buffer: Buffer::from_vec(unacknowledged),
            acknowledged,
            sent: acknowledged,
            limit,
            capacity,
            closed,
            end_sent: false,
            end_acknowledged: false,
            asked: false,
        }
    }

    /// The bytes kept, the offset of the first of them, and the limit.
    pub fn export(&self) -> (Vec<u8>, u64, u64) {
        let bytes = self.buffer.copy(0, self.buffer.len());
        (bytes, self.acknowledged, self.limit)
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Everything was sent, and its end, and the other end has it all.
    pub fn is_done(&self) -> bool {
        self.end_acknowledged
    }

    pub fn room(&self) -> usize {
        if self.closed {
            return 0;
        }
        self.capacity.saturating_sub(self.buffer.len())
    }

    /// Appends as much as there is room for.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let length = bytes.len().min(self.room());
        self.buffer.push(&bytes[..length]);
        length
    }

    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Nobody will take any of it: forgets it, as if it had arrived.
    pub fn abandon(&mut self) {
        self.buffer.clear();
        self.closed = true;
        self.sent = self.acknowledged;
        self.end_acknowledged = true;
    }

    /// The other end has never allowed a byte.
    pub fn is_untold(&self) -> bool {
        self.limit == 0
    }

    /// The length of what was written.
    fn written(&self) -> u64 {
        self.acknowledged + self.buffer.len() as u64
    }

    /// What was written has been sent.
    pub fn is_all_sent(&self) -> bool {
        self.sent == self.written()
    }

    /// Everything that is not acknowledged is to be sent again.
    pub fn rewind(&mut self) {
        self.sent = self.acknowledged;
        self.end_sent = false;
        self.asked = false;
    }

    /// The process's end says where it stands, for the first time in its epoch: it may be on another
    /// node, with a state written down earlier. Its word replaces what we knew. False if we cannot go
    /// on with it: it expects what we no longer keep, or has what we never sent.
    #[must_use]
    pub fn meet(&mut self, received: u64, limit: u64) -> bool {
        if received < self.acknowledged || received > self.highest() {
            return false;
        }
        self.end_acknowledged = false;
        self.advance(received);
        self.limit = limit;
        true
    }

    /// The other end says where it stands. What is older than what we know is late, not news. False
    /// if it has what we never sent.
    #[must_use]
    pub fn acknowledge(&mut self, received: u64, limit: u64) -> bool {
        if received > self.highest() {
            return false;
        }
        self.advance(received.max(self.acknowledged));
        self.limit = self.limit.max(limit);
        true
    }

    /// The highest offset that the other end can expect; the end counts as one.
    fn highest(&self) -> u64 {
        self.written() + u64::from(self.closed)
    }

    /// `received` lies between `acknowledged` and `highest()`.
    fn advance(&mut self, received: u64) {
        let written = self.written();
        if received > written {
            self.end_acknowledged = true;
        }
        let received = received.min(written);
        if received > self.acknowledged {
            self.asked = false;
        }
        self.buffer.discard((received - self.acknowledged) as usize);
        self.acknowledged = received;
        self.sent = self.sent.max(received);
    }

    pub fn next(&self) -> Option<Next> {
        if !self.is_all_sent() {
            return (self.sent < self.limit).then_some(Next::Data);
        }
        if self.closed {
            let due = !self.end_sent && !self.end_acknowledged;
            return due.then_some(Next::Fin);
        }
        (self.room() == 0 && !self.asked).then_some(Next::Ask)
    }

    /// The frame for `next`.
    pub fn take(&mut self, next: Next, max_bytes: usize) -> Body {
        let offset = self.sent;
        match next {
            Next::Data => {
                let allowed = self.limit.saturating_sub(self.sent).min(max_bytes as u64);
                let start = (self.sent - self.acknowledged) as usize;
                let bytes = self.buffer.copy(start, allowed as usize);
                self.sent += bytes.len() as u64;
                Body::Data { offset, bytes }
            }
            Next::Ask => {
                self.asked = true;
                let bytes = Vec::new();
                Body::Data { offset, bytes }
            }
            Next::Fin => {
                self.end_sent = true;
                Body::Fin { offset }
            }
        }
    }
}
