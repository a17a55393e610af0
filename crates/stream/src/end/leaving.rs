//! Frames out: which is due next, most urgent first.

use super::partner::other;
use super::sending::Next;
use super::{End, Opening, Phase, Role};
use crate::Transmit;
use wire::frame::{Body, End as To, ResetReason, StreamFrame};

/// What is to be sent next.
enum Due {
    Answer,
    Reset,
    Standby,
    Open,
    Resume,
    Resumed,
    Ack,
    Bytes(Next),
    LastReset,
}

impl End {
    /// Whether [`End::poll_transmit`] would give a frame.
    pub fn wants_transmit(&self) -> bool {
        self.due().is_some()
    }

    /// The next frame to carry.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let due = self.due()?;
        let (mut to, mut epoch) = (self.peer, self.epoch);
        let node = self.me;
        let body = match due {
            Due::Answer => {
                (to, epoch) = self.answer_due.take()?;
                match self.reset {
                    Some(_) => Body::Reset(ResetReason::ClientGone),
                    None => {
                        let (received, limit) = self.receiving.promise();
                        Body::StandbyAck { received, limit }
                    }
                }
            }
            Due::Reset => {
                self.reset_due = false;
                Body::Reset(self.reset?)
            }
            Due::Standby => {
                self.standby_due = false;
                let (received, limit) = self.receiving.tell();
                Body::Standby {
                    node,
                    received,
                    limit,
                }
            }
            Due::Open => {
                let opening = self.open_due.take()?;
                let (_, window) = self.receiving.tell();
                match opening {
                    Opening::Client { listener, client } => Body::Open {
                        listener,
                        peer: client,
                        window,
                    },
                    Opening::Call(service) => Body::Call {
                        listener: service.listener,
                        peer: format!("process {}", self.process),
                        window,
                    },
                }
            }
            Due::Resume => {
                self.resume_due = false;
                self.sending.rewind();
                let (received, limit) = self.receiving.tell();
                Body::Resume {
                    node,
                    received,
                    limit,
                }
            }
            Due::Resumed => {
                self.resumed_due = false;
                let (received, limit) = self.receiving.tell();
                Body::Resumed { received, limit }
            }
            Due::Ack => self.receiving.acknowledgement(),
            Due::Bytes(next) => self.sending.take(next, self.data_bytes),
            Due::LastReset => {
                self.over(ResetReason::Closed);
                Body::Reset(ResetReason::Closed)
            }
        };
        let mut frame = StreamFrame {
            process: self.process,
            stream: self.stream,
            to: match self.role {
                Role::Anchor => To::Process,
                Role::Process | Role::Partner => To::Anchor,
            },
            epoch,
            body,
        };
        if self.role == Role::Partner {
            frame.process = self.partner.process?;
            frame.stream = other(self.stream);
            frame.epoch = self.partner.epoch;
            frame.to = To::Partner {
                from: self.process,
                epoch,
            };
        }
        Some(Transmit { to, frame })
    }

    fn due(&self) -> Option<Due> {
        if self.sealed || self.knows_nobody() {
            return None;
        }
        if self.answer_due.is_some() {
            return Some(Due::Answer);
        }
        match self.phase {
            // Not the owner's end yet, so it can tell nobody that the stream is over.
            Phase::Standby { .. } => {
                let due = self.standby_due && self.reset.is_none();
                due.then_some(Due::Standby)
            }
            Phase::Detached => None,
            _ if self.reset.is_some() && self.followed => self.reset_due.then_some(Due::Reset),
            Phase::Opening => self.open_due.is_some().then_some(Due::Open),
            Phase::Resyncing | Phase::Active if self.resume_due => Some(Due::Resume),
            Phase::Resyncing => None,
            Phase::Active if self.reset.is_some() => None,
            Phase::Active if self.resumed_due => Some(Due::Resumed),
            Phase::Active if self.receiving.is_due() => Some(Due::Ack),
            Phase::Active if self.reset_at_end && self.sending.is_all_sent() => {
                self.followed.then_some(Due::LastReset)
            }
            Phase::Active => self.sending.next().map(Due::Bytes),
        }
    }
}
