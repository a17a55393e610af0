//! What runs here, from the creation of its record to its removal.
//!
//! ```text
//!              the record is durable                Migrate
//!   Creating -----------------------> Running <-----------------> Moving --> (elsewhere)
//!      |                                 |        given up, taken    |
//!      | no answer in time               | it ended                | it ended
//!      v                                 v                         |
//!   Removing <---------------------------+-------------------------+
//!      |
//!      v  the directory has confirmed it
//!   (gone)
//! ```
//!
//! When a node starts, the directory may still hold records that an earlier life of it has left
//! behind: their processes are lost. It tells its world, and then removes them. It looks again whenever another node was
//! restarted. A grant that it never ran is its source's to take back, and is removed only when
//! that has not happened for long.
//!
//! Whenever the directory's node is linked again, a node asks whether what it runs still is its
//! own; a process whose record was removed or given away meanwhile is fenced. In the same way it
//! asks after the processes whose clients are anchored here: it may have missed their end.

use crate::directory_client::Patience;
use crate::{Effect, Failure, Node, Purpose, Reply, Token};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use wire::control::Control;
use wire::directory::{Answer, Claim, Operation, Record};
use wire::{Epoch, ImageId, MoveId, ProcessId};

/// Questions of one kind in flight at once, where there may be one per process.
const WINDOW: usize = 32;

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) record: Record,
    pub(crate) phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its record has been asked for; whoever wants it waits for a reply.
    Creating(Token),
    /// It runs.
    Running,
    /// A move of it is under way.
    Moving(MoveId),
    /// It has ended; its record is being removed.
    Removing,
}

#[derive(Debug, Default)]
pub(crate) struct Processes {
    table: BTreeMap<ProcessId, Process>,
    /// Processes, here or not, whose clients are anchored here, and the epoch since which they are.
    watched: BTreeMap<ProcessId, Epoch>,
    to_verify: BTreeSet<ProcessId>,
    verifying: usize,
    /// Records of an earlier life, and from when on each is to be removed.
    leftovers: VecDeque<(Duration, Record)>,
    removing_leftovers: usize,
}

impl Processes {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn get(&self, process: ProcessId) -> Option<&Process> {
        self.table.get(&process)
    }

    pub(crate) fn get_mut(&mut self, process: ProcessId) -> Option<&mut Process> {
        self.table.get_mut(&process)
    }

    pub(crate) fn insert(&mut self, record: Record, phase: Phase) {
        let process = record.process;
        self.table.insert(process, Process { record, phase });
    }

    pub(crate) fn remove(&mut self, process: ProcessId) {
        self.table.remove(&process);
    }

    /// Of those that run, in motion or not.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        let here = |p: &&Process| matches!(p.phase, Phase::Running | Phase::Moving(_));
        self.table.values().filter(here).map(|p| &p.record)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        if self.removing_leftovers >= WINDOW {
            return None;
        }
        self.leftovers.iter().map(|(due, _)| *due).min()
    }

    pub(crate) fn unwatch(&mut self, process: ProcessId) {
        self.watched.remove(&process);
    }

    fn is_running(&self, process: ProcessId) -> bool {
        let process = self.get(process);
        process.is_some_and(|p| p.phase == Phase::Running)
    }
}

impl Node {
    /// Whether this node has anything to do with a process that it may own.
    pub(crate) fn is_here(&self, process: ProcessId) -> bool {
        self.processes.get(process).is_some() || self.moves.is_arriving(process)
    }

    pub(crate) fn start(
        &mut self,
        now: Duration,
        token: Token,
        process: ProcessId,
        name: String,
        image: ImageId,
        again: bool,
    ) {
        let count = self.config.limits.processes;
        if self.processes.len() + self.moves.arriving() >= count {
            let what = "processes";
            let failure = Failure::TooMany { what, count };
            return self.reply(token, Reply::Failed(failure));
        }
        if self.is_here(process) {
            let here = self.processes.get(process).map(|p| p.record.name.clone());
            let failure = Failure::NameTaken {
                name: here.unwrap_or(name),
                by: process,
            };
            return self.reply(token, Reply::Failed(failure));
        }
        let claim = Claim {
            owner: self.id(),
            epoch: Epoch(1),
            attempt: 1,
        };
        let record = Record {
            process,
            name,
            image,
            claim,
        };
        self.processes
            .insert(record.clone(), Phase::Creating(token));
        let patience = Patience::For(self.config.patience);
        let operation = match again {
            true => Operation::CreateAgain(record),
            false => Operation::Create(record),
        };
        self.ask(now, operation, Purpose::Create(process), patience);
    }

    /// On success the process is run; on failure there is none. Where that is not known, the
    /// command fails and the record is removed, should it turn out to exist.
    pub(crate) fn handle_created(
        &mut self,
        now: Duration,
        process: ProcessId,
        answer: Option<Answer>,
    ) {
        let Some(entry) = self.processes.get_mut(process) else {
            return;
        };
        let Phase::Creating(token) = entry.phase else {
            return;
        };
        let failure = match answer {
            // Taken by the same record: created before the directory's node was restarted.
            Some(Answer::Done(record) | Answer::Taken(record))
                if is_made(&record, &entry.record) =>
            {
                entry.phase = Phase::Running;
                let claim = record.claim;
                entry.record = record;
                let epoch = claim.epoch;
                self.effects.push_back(Effect::Run { process, epoch });
                return self.reply(token, Reply::Started(claim));
            }
            Some(Answer::Taken(record)) => Failure::NameTaken {
                name: record.name,
                by: record.process,
            },
            Some(Answer::Failed(why)) => Failure::Store(why),
            Some(_) => Failure::Store("it gave an answer that makes no sense".to_owned()),
            None => {
                entry.phase = Phase::Removing;
                let expect = entry.record.claim;
                self.reply(token, Reply::Failed(Failure::DirectoryUnreachable));
                return self.ask_removal(now, process, expect);
            }
        };
        self.processes.remove(process);
        self.reply(token, Reply::Failed(failure));
    }

    pub(crate) fn handle_exited(&mut self, now: Duration, process: ProcessId) {
        let Some(entry) = self.processes.get(process) else {
            return;
        };
        match entry.phase {
            Phase::Running => self.remove_record(now, process),
            Phase::Moving(id) => self.handle_ended_in_move(now, id),
            Phase::Creating(_) | Phase::Removing => (),
        }
    }

    /// The process has ended here: everybody is told, and its record removed.
    pub(crate) fn remove_record(&mut self, now: Duration, process: ProcessId) {
        let Some(entry) = self.processes.get_mut(process) else {
            return;
        };
        entry.phase = Phase::Removing;
        let expect = entry.record.claim;
        let epoch = expect.epoch;
        self.effects.push_back(Effect::Gone { process, epoch });
        self.broadcast(&Control::Gone { process, epoch });
        self.ask_removal(now, process, expect);
    }

    fn ask_removal(&mut self, now: Duration, process: ProcessId, expect: Claim) {
        let operation = Operation::Remove { process, expect };
        let purpose = Purpose::Remove(process);
        self.ask(now, operation, purpose, Patience::UntilDone);
    }

    pub(crate) fn handle_removed(
        &mut self,
        now: Duration,
        process: ProcessId,
        answer: Option<Answer>,
    ) {
        let Some(entry) = self.processes.get_mut(process) else {
            return;
        };
        match answer {
            // A target's abort has raised the attempt without this node's knowing; or the answer was
            // lost that said with which epoch the record was made.
            Some(Answer::Conflict(record))
                if record.claim.same_reign(entry.record.claim)
                    || is_made(&record, &entry.record) =>
            {
                entry.record.claim = record.claim;
                self.ask_removal(now, process, record.claim);
            }
            _ => self.processes.remove(process),
        }
    }

    /// Somebody says that a process has ended, which had this epoch.
    pub(crate) fn handle_gone(&mut self, now: Duration, process: ProcessId, epoch: Epoch) {
        if self.processes.is_running(process) {
            self.verify_one(now, process);
        } else {
            self.effects.push_back(Effect::Gone { process, epoch });
        }
    }

    /// What the process did before it was watched is made up for by asking the directory.
    pub(crate) fn watch(&mut self, now: Duration, process: ProcessId, epoch: Epoch) {
        let watched = &mut self.processes.watched;
        if watched.len() < self.config.limits.watched || watched.contains_key(&process) {
            let since = watched.entry(process).or_default();
            *since = epoch.max(*since);
            self.verify_one(now, process);
        }
    }

    pub(crate) fn verify_all(&mut self, now: Duration) {
        let table = self.processes.table.iter();
        let running = table.filter(|(_, p)| p.phase == Phase::Running);
        let watched = self.processes.watched.keys().copied();
        self.processes.to_verify = running.map(|(id, _)| *id).chain(watched).collect();
        self.verify(now);
    }

    pub(crate) fn verify_one(&mut self, now: Duration, process: ProcessId) {
        self.processes.to_verify.insert(process);
        self.verify(now);
    }

    fn verify(&mut self, now: Duration) {
        while self.processes.verifying < WINDOW {
            let Some(process) = self.processes.to_verify.pop_first() else {
                return;
            };
            self.processes.verifying += 1;
            let watched = self.processes.watched.get(&process).copied();
            let purpose = Purpose::Verify { process, watched };
            let operation = Operation::Get(process);
            self.ask(now, operation, purpose, Patience::UntilAnswered);
        }
    }

    pub(crate) fn handle_verified(
        &mut self,
        now: Duration,
        process: ProcessId,
        watched: Option<Epoch>,
        answer: Option<Answer>,
    ) {
        self.processes.verifying = self.processes.verifying.saturating_sub(1);
        self.verify(now);
        // Whoever began to watch since then has asked for himself.
        if let Some(epoch) = watched.filter(|_| self.processes.watched.contains_key(&process)) {
            match &answer {
                Some(Answer::Done(record)) => {
                    let effect = Effect::Whereabouts(record.clone());
                    self.effects.push_back(effect);
                }
                Some(Answer::Unknown) => self.effects.push_back(Effect::Gone { process, epoch }),
                _ => (),
            }
        }
        let Some(entry) = self.processes.get_mut(process) else {
            return;
        };
        if entry.phase != Phase::Running {
            return;
        }
        let gone = match answer {
            Some(Answer::Done(record)) if record.claim.same_reign(entry.record.claim) => {
                entry.record.claim = record.claim;
                return;
            }
            Some(Answer::Done(record)) if precedes(record.claim, entry.record.claim) => return,
            Some(Answer::Done(_)) => false,
            Some(Answer::Unknown) => true,
            _ => return,
        };
        let epoch = entry.record.claim.epoch;
        self.processes.remove(process);
        self.effects.push_back(Effect::Fence { process });
        if gone {
            self.effects.push_back(Effect::Gone { process, epoch });
        }
    }

    /// Looks for records that say that this node runs what it does not know.
    pub(crate) fn survey(&mut self, now: Duration) {
        self.survey_behind(now, None);
    }

    fn survey_behind(&mut self, now: Duration, after: Option<ProcessId>) {
        let (operation, purpose) = (Operation::List { after }, Purpose::Survey);
        self.ask(now, operation, purpose, Patience::UntilAnswered);
    }

    pub(crate) fn handle_survey(&mut self, now: Duration, records: Vec<Record>, more: bool) {
        for record in &records {
            self.note_leftover(now, record);
        }
        if let Some(last) = records.last().filter(|_| more) {
            self.survey_behind(now, Some(last.process));
        }
        self.remove_leftovers(now);
    }

    fn note_leftover(&mut self, now: Duration, record: &Record) {
        let (process, claim) = (record.process, record.claim);
        if claim.owner != self.id() || self.is_here(process) {
            return;
        }
        let was_run = claim.attempt > 0;
        let due = match was_run {
            true => now,
            false => now + self.config.grant_grace,
        };
        let leftovers = &mut self.processes.leftovers;
        let same = |other: &Record| (other.process, other.claim) == (process, claim);
        if leftovers.iter().any(|(_, other)| same(other)) {
            return;
        }
        leftovers.push_back((due, record.clone()));
        if was_run {
            self.effects.push_back(Effect::Lost(record.clone()));
        }
    }

    pub(crate) fn remove_leftovers(&mut self, now: Duration) {
        for _ in 0..self.processes.leftovers.len() {
            let Some(leftover) = self.processes.leftovers.pop_front() else {
                return;
            };
            if leftover.0 > now || self.processes.removing_leftovers >= WINDOW {
                self.processes.leftovers.push_back(leftover);
                continue;
            }
            self.processes.removing_leftovers += 1;
            let (process, expect) = (leftover.1.process, leftover.1.claim);
            if expect.attempt == 0 {
                // Nobody has taken it back: only now it is given up.
                self.effects.push_back(Effect::Lost(leftover.1));
            }
            let operation = Operation::Remove { process, expect };
            let purpose = Purpose::Leftover(expect);
            self.ask(now, operation, purpose, Patience::UntilDone);
        }
    }

    pub(crate) fn handle_leftover(&mut self, now: Duration, claim: Claim, answer: Option<Answer>) {
        let removing = &mut self.processes.removing_leftovers;
        *removing = removing.saturating_sub(1);
        match answer {
            // A target that stood by for the earlier life has raised the attempt.
            Some(Answer::Conflict(record)) if record.claim.same_reign(claim) => {
                self.note_leftover(now, &record);
            }
            _ => (),
        }
        self.remove_leftovers(now);
    }
}

/// Whether a record is what was asked for; its epoch may have been raised.
fn is_made(record: &Record, asked: &Record) -> bool {
    let mut raised = asked.clone();
    raised.claim.epoch = raised.claim.epoch.max(record.claim.epoch);
    *record == raised
}

/// Whether a claim is from before another: an answer that was overtaken.
fn precedes(a: Claim, b: Claim) -> bool {
    a.epoch < b.epoch
}
