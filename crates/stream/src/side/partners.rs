//! Streams to other processes: calling them, and finding them when they have moved.

use super::{Mode, Queue, Side};
use crate::end::other;
use crate::{End, Sought};
use wire::frame::ResetReason;
use wire::snapshot::Service;
use wire::{Epoch, NodeId, ProcessId, StreamId};

impl Side {
    /// Opens a stream to a service of another process, which is to be looked up ([`Side::seeking`]);
    /// `to` says what is opened, as text, and `stream` is any number. Gives the stream's id; nothing, if
    /// there are too many streams or the process does not run.
    pub fn call(&mut self, stream: u64, service: Service, to: &str) -> Option<StreamId> {
        let stream = StreamId(stream & !1);
        let full = self.ended || self.entries.len() >= self.config.max_streams;
        let taken = |id| self.entries.contains_key(&id);
        if full || self.mode != Mode::Running || taken(stream) || taken(other(stream)) {
            return None;
        }
        let (process, me, epoch) = (self.process, self.me, self.epoch);
        let end = End::call(process, stream, me, epoch, service, to, &self.config);
        self.insert(stream, end, None);
        Some(stream)
    }

    /// How many of its streams wait for other processes, while it runs here.
    pub fn seekers(&self) -> usize {
        match self.mode {
            Mode::Running => self.seeking,
            _ => 0,
        }
    }

    /// Whom its streams wait for, each once, and whether it is known that they do so in vain where
    /// those were last. The world is to look them up, and to say [`Side::found`] or [`Side::gone`].
    pub fn seeking(&self) -> Vec<(Sought, bool)> {
        let mut all: Vec<(Sought, bool)> = Vec::new();
        for entry in self.entries.values().filter(|entry| entry.seeking) {
            let Some((sought, lost)) = entry.end.sought() else {
                continue;
            };
            match all.iter_mut().find(|(known, _)| *known == sought) {
                Some((_, known)) => *known |= lost,
                None => all.push((sought, lost)),
            }
        }
        all
    }

    /// Who was sought is this process, at `owner`, under `epoch`.
    pub fn found(&mut self, sought: &Sought, process: ProcessId, owner: NodeId, epoch: Epoch) {
        self.with_sought(sought, |end| end.found(process, owner, epoch));
    }

    /// Who was sought is not there any more, or never was: what is being opened fails for `reason`.
    pub fn gone(&mut self, sought: &Sought, reason: ResetReason) {
        self.with_sought(sought, |end| match end.is_connecting() {
            true => end.peer_gone(reason),
            false => end.peer_gone(ResetReason::ProcessGone),
        });
    }

    fn with_sought(&mut self, sought: &Sought, mut act: impl FnMut(&mut End)) {
        if self.mode == Mode::Running {
            self.with_all(|end| {
                if end
                    .sought()
                    .is_some_and(|(waits_for, _)| waits_for == *sought)
                {
                    act(end);
                }
            });
        }
    }

    /// Processes that were there may be elsewhere by now.
    pub(super) fn partner_away(&mut self, node: NodeId) {
        self.with_all(|end| {
            if end.peer() == node && end.is_partner() {
                end.link_down();
            }
        });
    }

    /// The listener that another process names.
    pub(super) fn listener_called(&self, name: &str) -> Option<u16> {
        let meant = |queue: &Queue| name.is_empty() || queue.name == name;
        let index = self.listeners.iter().position(meant)?;
        u16::try_from(index).ok()
    }
}
