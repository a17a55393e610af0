//! Streams between two processes: there is no anchor, and both ends may move, also at once.
//!
//! Each end knows under which epoch the other process is owned, and where, as far as it has heard.
//! Every frame tells both epochs: the sender's own, and the receiver's as the sender knows it. An end
//! that has moved says `Resume` from its new place, under its new epoch; whoever hears it follows it
//! there, and refuses what comes from the old one. If the other end has moved meanwhile too, each
//! `Resume` goes where the other was: there a node answers that it is not here, and where it went if
//! it knows. Then, or where no link leads there, the end is *lost*, and the world is to look the process
//! up ([`End::found`]). One of the two finds the other.
//!
//! A move waits for nobody here: no end stands by at the other, as it does at an anchor, since the
//! other may be frozen for a move of its own that waits for this one. What was said to the former owner
//! and not acknowledged is sent again, as between process and anchor; and the epochs of both are those
//! of a process's one history, so what one end knows of the other is never more than that one has
//! itself. If it is (an older state was restored), the stream is reset.

use super::{End, Opening, Phase, Role};
use wire::frame::{self, Body, StreamFrame};
use wire::snapshot;
use wire::{Epoch, NodeId, ProcessId, StreamId};

/// The other process of a stream between two.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Partner {
    /// Which, once it is known.
    pub process: Option<ProcessId>,
    /// Its owner's epoch, as last heard.
    pub epoch: Epoch,
    /// Where it is is not known, or no link leads there.
    pub lost: bool,
}

impl Partner {
    pub fn of((process, epoch): (ProcessId, Epoch)) -> Partner {
        Partner {
            process: Some(process),
            epoch,
            lost: false,
        }
    }
}

/// The id of the other end of a stream between two processes.
pub(crate) fn other(stream: StreamId) -> StreamId {
    StreamId(stream.0 ^ 1)
}

/// Whom a stream between two processes waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sought {
    /// The process that offers a service.
    Service(snapshot::Service),
    /// A process.
    Process(ProcessId),
}

impl End {
    pub(super) fn restore_partner(&mut self, partner: snapshot::Partner) {
        self.partner = Partner {
            process: partner.process,
            epoch: partner.epoch,
            lost: partner.process.is_none(),
        };
        self.opening = partner.calling.map(Opening::Call);
        // Nobody is waited for.
        self.phase = Phase::Standby { attached: true };
    }

    pub(super) fn export_partner(&self) -> Option<snapshot::Partner> {
        let calling = match &self.opening {
            Some(Opening::Call(service)) => Some(service.clone()),
            _ => None,
        };
        (self.role == Role::Partner).then_some(snapshot::Partner {
            process: self.partner.process,
            epoch: self.partner.epoch,
            calling,
        })
    }

    /// Whether the other process opened the stream.
    pub(super) fn was_called(&self) -> bool {
        self.role == Role::Partner && self.stream.0 & 1 == 1
    }

    /// Whether there is nobody yet who could be told anything.
    pub(super) fn knows_nobody(&self) -> bool {
        self.role == Role::Partner && self.partner.process.is_none()
    }

    /// Whether the other end is inside another process.
    pub(crate) fn is_partner(&self) -> bool {
        self.role == Role::Partner
    }

    /// Whom it waits for, if it does: the other end has not answered; and whether that is known to be
    /// in vain where it was last.
    pub fn sought(&self) -> Option<(Sought, bool)> {
        let waits = match self.phase {
            Phase::Opening | Phase::Detached | Phase::Resyncing => true,
            Phase::Active | Phase::Standby { .. } => false,
        };
        let over = self.is_over() || self.role != Role::Partner;
        let sought = match (self.partner.process, &self.opening) {
            (Some(process), _) => Sought::Process(process),
            (None, Some(Opening::Call(service))) => Sought::Service(service.clone()),
            (None, _) => return None,
        };
        (waits && !over).then_some((sought, self.partner.lost))
    }

    /// The other process is at `owner`, under `epoch`: calls, or goes on, there. Nothing new where a
    /// later epoch is known.
    pub(crate) fn found(&mut self, process: ProcessId, owner: NodeId, epoch: Epoch) {
        let known = *self.partner.process.get_or_insert(process);
        if self.role != Role::Partner || known != process || epoch < self.partner.epoch {
            return;
        }
        let settled = self.phase == Phase::Active && epoch == self.partner.epoch;
        if !settled {
            self.meet_anew(epoch);
            self.peer = owner;
            self.link_up();
        }
    }

    /// It has opened the stream, and was not answered before it was written down.
    pub(super) fn call_again(&mut self) {
        self.phase = Phase::Opening;
        self.open_due = match self.partner.process {
            Some(_) => self.opening.clone(),
            None => None,
        };
    }

    /// The other process is owned under this epoch, as is heard now.
    fn meet_anew(&mut self, epoch: Epoch) {
        if epoch > self.partner.epoch {
            self.partner.epoch = epoch;
            self.met = self.phase == Phase::Opening;
            self.detach();
        }
    }

    /// Takes a frame for this stream, if it comes from the other process.
    pub(super) fn handle_from_partner(&mut self, from: NodeId, frame: StreamFrame) {
        let frame::End::Partner {
            from: process,
            epoch,
        } = frame.to
        else {
            self.ignored.foreign += 1;
            return;
        };
        if self.partner.process != Some(process) {
            self.ignored.foreign += 1;
            return;
        }
        if epoch < self.partner.epoch {
            self.ignored.older_epoch += 1;
            return;
        }
        let body = frame.body;
        match body {
            Body::NotHere if from == self.peer => return self.lose(),
            Body::Moved { to } if from == self.peer => {
                // It cannot have gone without a later epoch.
                return match epoch > self.partner.epoch {
                    true => self.found(process, to, epoch),
                    false => self.lose(),
                };
            }
            Body::NotHere | Body::Moved { .. } => {
                self.ignored.foreign += 1;
                return;
            }
            _ => {}
        }
        let leads = matches!(
            body,
            Body::Call { .. } | Body::Resume { .. } | Body::Reset(_)
        );
        if epoch > self.partner.epoch {
            if !leads {
                self.ignored.newer_epoch += 1;
                return;
            }
            self.meet_anew(epoch);
            self.peer = from;
        }
        if frame.epoch < self.epoch {
            self.ignored.older_epoch += 1;
            if leads && self.reset.is_none() {
                // It has not heard where we are.
                self.peer = from;
                self.remind();
            }
            return;
        }
        self.take(from, frame.epoch, body);
    }

    fn lose(&mut self) {
        self.detach();
        self.partner.lost = true;
    }
}
