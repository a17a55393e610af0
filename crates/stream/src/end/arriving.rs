//! Frames in: what each of them does to an end.

use super::receiving::Arrival;
use super::{Change, End, Phase, Role};
use wire::frame::{Body, End as To, MAX_DATA, ResetReason, StreamFrame};
use wire::{Epoch, NodeId};

impl End {
    /// Takes a frame that the node `from` has sent.
    pub fn handle(&mut self, from: NodeId, frame: StreamFrame) -> Change {
        let before = (self.status(), self.peer, self.epoch, self.open_ways());
        let mine = (frame.process, frame.stream) == (self.process, self.stream);
        match (frame.to, self.role) {
            (To::Anchor, Role::Anchor) | (To::Process, Role::Process) if mine => {
                self.handle_mine(from, frame.epoch, frame.body);
            }
            (To::Partner { .. }, Role::Partner) if mine => self.handle_from_partner(from, frame),
            _ => self.ignored.foreign += 1,
        }
        let open_ways = self.open_ways();
        Change {
            readiness: before.3 != open_ways,
            state: (before.0, before.1, before.2) != (self.status(), self.peer, self.epoch),
        }
    }

    /// What the application can do, as far as it would be woken for it.
    fn open_ways(&self) -> (bool, bool, bool) {
        let readiness = self.readiness();
        (
            readiness.readable > 0,
            readiness.writable > 0,
            readiness.hangup,
        )
    }

    fn handle_mine(&mut self, from: NodeId, epoch: Epoch, body: Body) {
        if epoch < self.epoch {
            self.ignored.older_epoch += 1;
            if matches!(body, Body::Open { .. } | Body::Resume { .. }) {
                // The anchor has not heard of this owner, or comes late: tell it again.
                self.remind();
            }
            return;
        }
        if self.role == Role::Anchor {
            if let Body::Standby { node, .. } = body {
                return self.handle_standby(from, epoch, node);
            }
            let leads = matches!(body, Body::Resume { .. } | Body::Reset(_));
            if epoch > self.epoch && leads {
                self.enter(epoch);
                self.peer = from;
            }
        }
        if matches!(body, Body::NotHere) && from == self.peer {
            // Of a later epoch, too: it is for the gateway to find out who has the process now.
            self.detach();
        } else {
            self.take(from, epoch, body);
        }
    }

    /// Takes what whoever the other end is follows says, if it says so under our epoch.
    pub(super) fn take(&mut self, from: NodeId, epoch: Epoch, body: Body) {
        if epoch > self.epoch {
            self.ignored.newer_epoch += 1;
        } else if from != self.peer {
            self.ignored.foreign += 1;
        } else if self.reset.is_some() {
            self.act_on_broken(&body);
        } else if let Err(reason) = self.act_on(from, body) {
            self.fail(reason);
        }
    }

    /// The stream is over: makes sure that the other end knows.
    fn act_on_broken(&mut self, body: &Body) {
        match body {
            Body::Open { .. } | Body::Call { .. } | Body::Resume { .. } => {
                // It did not hear it, or it would not begin anew; and it can be reached.
                self.followed = true;
                self.reset_due = true;
                self.reattach();
            }
            Body::Resumed { .. } => self.followed = true,
            Body::Reset(_) => self.reset_due = false,
            _ => {}
        }
    }

    /// A new owner, which is not one yet, asks: answer, and change nothing. Where it stands is not
    /// judged: it may be an earlier attempt that asks so late.
    fn handle_standby(&mut self, from: NodeId, epoch: Epoch, node: NodeId) {
        if from == node {
            self.answer_due = Some((node, epoch));
        } else {
            self.ignored.foreign += 1;
        }
    }

    fn act_on(&mut self, from: NodeId, body: Body) -> Result<(), ResetReason> {
        match body {
            Body::Open { window, .. } | Body::Call { window, .. } => {
                let for_us = match self.role {
                    Role::Anchor => false,
                    Role::Process => matches!(body, Body::Open { .. }),
                    Role::Partner => matches!(body, Body::Call { .. }) && self.was_called(),
                };
                if !for_us {
                    return Err(ResetReason::Protocol);
                }
                // A repetition: the anchor did not hear us, so it has taken nothing yet.
                self.reattach();
                self.learn(0, window)?;
                self.restart();
            }
            Body::Data { offset, bytes } => return self.handle_data(offset, bytes),
            Body::Fin { offset } => {
                if self.is_met() {
                    let arrival = self.receiving.fin(offset)?;
                    self.opened();
                    self.heal(arrival);
                }
            }
            Body::Ack { received, limit } => {
                if self.is_met() {
                    self.learn(received, limit)?;
                    self.opened();
                }
            }
            Body::Reset(reason) => self.handle_reset(reason),
            Body::Standby { .. } => self.ignored.foreign += 1,
            Body::StandbyAck { received, limit } => {
                if self.attaching && matches!(self.phase, Phase::Standby { .. }) {
                    self.learn(received, limit)?;
                    self.phase = Phase::Standby { attached: true };
                    self.standby_due = false;
                }
            }
            Body::Resume {
                node,
                received,
                limit,
            } => {
                if node != from {
                    self.ignored.foreign += 1;
                    return Ok(());
                }
                self.reattach();
                self.learn(received, limit)?;
                self.restart();
            }
            Body::Resumed { received, limit } => {
                self.learn(received, limit)?;
                self.healing = false;
                if self.phase == Phase::Resyncing && !self.resume_due {
                    self.phase = Phase::Active;
                }
                self.opened();
            }
            Body::NotHere | Body::Moved { .. } => self.detach(),
        }
        Ok(())
    }

    /// The other end begins anew, so there is a link to it again.
    fn reattach(&mut self) {
        if self.phase == Phase::Detached {
            self.phase = Phase::Active;
        }
    }

    /// The other end says where it stands.
    fn learn(&mut self, received: u64, limit: u64) -> Result<(), ResetReason> {
        // Whoever speaks in this epoch to an owner's end follows it.
        self.followed |= !matches!(self.phase, Phase::Standby { .. });
        let met = std::mem::replace(&mut self.met, true);
        let possible = if met || self.role == Role::Process {
            self.sending.acknowledge(received, limit)
        } else {
            self.sending.meet(received, limit)
        };
        match possible {
            true => Ok(()),
            false if met => Err(ResetReason::Protocol),
            // One of the two goes on from a state older than what the other has seen.
            false => Err(ResetReason::Rollback),
        }
    }

    /// The other end begins anew from where it stands: so do we, and say where that is.
    fn restart(&mut self) {
        self.sending.rewind();
        self.healing = false;
        match self.phase {
            // Not the owner's end yet: it will say where it stands when it is.
            Phase::Standby { .. } => {
                self.phase = Phase::Standby { attached: true };
                self.standby_due = false;
            }
            _ => {
                self.phase = Phase::Active;
                self.opening = None;
                self.open_due = None;
                self.resume_due = false;
                self.resumed_due = true;
            }
        }
    }

    /// The process has answered, whatever it said.
    fn opened(&mut self) {
        if self.phase == Phase::Opening {
            self.phase = Phase::Active;
            self.opening = None;
            self.open_due = None;
        }
    }

    /// Bytes count only once it is known where the two ends stand, and only for an owner's end.
    fn is_met(&mut self) -> bool {
        let met = self.met && !matches!(self.phase, Phase::Standby { .. });
        self.ignored.early += u64::from(!met);
        met
    }

    fn handle_data(&mut self, offset: u64, bytes: Vec<u8>) -> Result<(), ResetReason> {
        // Of two processes that have both let go, each goes on taking what the other still writes, and
        // drops it: neither would come to its end otherwise.
        if !self.is_met() || (self.reset_at_end && self.role != Role::Partner) {
            return Ok(());
        }
        if bytes.len() > MAX_DATA {
            return Err(ResetReason::Protocol);
        }
        let arrival = self.receiving.data(offset, bytes)?;
        if arrival == Arrival::Taken && self.closed {
            // Nobody will read it.
            match self.role {
                Role::Anchor => return Err(ResetReason::ClientGone),
                Role::Process | Role::Partner => self.reset_at_end = true,
            }
        }
        self.opened();
        self.heal(arrival);
        Ok(())
    }

    /// Something is missing although the link lives: asks for it once.
    fn heal(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Taken => self.healing = false,
            Arrival::Old => {}
            Arrival::Gap => {
                self.ignored.early += 1;
                if !self.healing {
                    self.healing = true;
                    self.resume_due = true;
                }
            }
        }
    }

    fn handle_reset(&mut self, reason: ResetReason) {
        let complete = self.sending.is_closed() && self.receiving.is_ended();
        let gone = matches!(
            reason,
            ResetReason::Closed | ResetReason::ClientGone | ResetReason::ProcessGone
        );
        if complete && gone {
            // Both directions have ended; the other end has forgotten the stream before its last
            // acknowledgement arrived.
            self.sending.abandon();
            self.receiving.settle();
            self.followed = true;
            self.reset_at_end = false;
        } else {
            self.over(reason);
        }
    }

    /// The stream breaks, and the other end must learn why.
    pub(super) fn fail(&mut self, reason: ResetReason) {
        self.over(reason);
        self.reset_due = !self.knows_nobody();
    }

    pub(super) fn over(&mut self, reason: ResetReason) {
        self.reset = Some(reason);
        self.reset_at_end = false;
        self.sending.abandon();
        self.open_due = None;
        self.standby_due = false;
        // A new owner's end is heard only once the anchor follows it.
        self.resume_due &= !self.followed;
        self.resumed_due = false;
    }
}
