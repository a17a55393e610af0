//! The directory: one record per process, changed only by compare-and-set.
//!
//! Like a land register: whoever wants to change an entry says which entry he has seen, and the
//! clerk refuses if it reads differently by now. Of two who decide at once exactly one wins.
//!
//! [`Directory::decide`] answers an operation without changing anything, and says which
//! [`Change`] carrying it out would make; [`Directory::commit`] makes it. Whoever keeps the
//! directory makes the change durable between the two, so nobody ever reads what a crash could
//! take back, and a store that fails leaves nothing to undo.
//!
//! Claims only ever grow (by epoch, then attempt), so no claim comes back: an operation that is
//! repeated by mistake finds its claim gone and changes nothing. A process that is restored under
//! the id of one that was removed goes on above the *floor*, the highest epoch ever removed.

use std::collections::BTreeMap;
use std::ops::Bound;
use wire::directory::{Answer, Claim, Operation, Record};
use wire::name::check_name;
use wire::{Epoch, ProcessId};

/// Records in one page of a list. With the longest names, that is less than a quarter of what a
/// message between nodes may hold.
pub const PAGE: usize = 1024;

/// A durable change of the directory.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Insert or replace.
    Put(Record),
    /// Remove.
    Delete(ProcessId),
}

/// All records. See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    records: BTreeMap<ProcessId, Record>,
    names: BTreeMap<String, ProcessId>,
    /// The highest epoch of all records that were removed.
    floor: Epoch,
    capacity: usize,
}

impl Directory {
    /// A directory with the records and the floor of a store, that takes no more than `capacity`
    /// records.
    pub fn new(restored: impl IntoIterator<Item = Record>, floor: Epoch, capacity: usize) -> Self {
        let mut directory = Self {
            floor,
            capacity,
            ..Self::default()
        };
        for record in restored {
            directory.commit(&Change::Put(record));
        }
        directory
    }

    /// The record of a process.
    pub fn get(&self, process: ProcessId) -> Option<&Record> {
        self.records.get(&process)
    }

    /// All records, by process id.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The answer to an operation, true once the change (if any) is durable and committed.
    pub fn decide(&self, operation: &Operation) -> (Answer, Option<Change>) {
        match operation {
            Operation::Create(record) => self.create(record),
            Operation::CreateAgain(record) => {
                let mut record = record.clone();
                record.claim.epoch = record.claim.epoch.max(self.floor.next());
                self.create(&record)
            }
            Operation::Get(process) => match self.get(*process) {
                Some(record) => (Answer::Done(record.clone()), None),
                None => (Answer::Unknown, None),
            },
            Operation::Find(name) => {
                let found = self.names.get(name).and_then(|id| self.get(*id));
                let answer = found.map_or(Answer::Unknown, |record| Answer::Done(record.clone()));
                (answer, None)
            }
            Operation::CompareAndSet {
                process,
                expect,
                new,
            } => self.with_claim(*process, *expect, |record| {
                if !follows(*expect, *new) {
                    return (Answer::Conflict(record.clone()), None);
                }
                let record = Record {
                    claim: *new,
                    ..record.clone()
                };
                (Answer::Done(record.clone()), Some(Change::Put(record)))
            }),
            Operation::Remove { process, expect } => self.with_claim(*process, *expect, |record| {
                let change = Change::Delete(*process);
                (Answer::Done(record.clone()), Some(change))
            }),
            Operation::List { after } => (self.page(*after), None),
        }
    }

    /// Makes a change that [`Directory::decide`] named, or that comes from a store.
    pub fn commit(&mut self, change: &Change) {
        match change {
            Change::Put(record) => {
                if let Some(old) = self.records.insert(record.process, record.clone()) {
                    self.names.remove(&old.name);
                }
                self.names.insert(record.name.clone(), record.process);
            }
            Change::Delete(process) => {
                if let Some(old) = self.records.remove(process) {
                    self.names.remove(&old.name);
                    self.floor = self.floor.max(old.claim.epoch);
                }
            }
        }
    }

    /// [`Directory::decide`] and [`Directory::commit`] in one, for stores that cannot fail.
    pub fn apply(&mut self, operation: &Operation) -> (Answer, Option<Change>) {
        let (answer, change) = self.decide(operation);
        if let Some(change) = &change {
            self.commit(change);
        }
        (answer, change)
    }

    fn page(&self, after: Option<ProcessId>) -> Answer {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.records.range((from, Bound::Unbounded));
        let page = rest.by_ref().take(PAGE);
        Answer::Records {
            records: page.map(|(_, record)| record.clone()).collect(),
            more: rest.next().is_some(),
        }
    }

    fn create(&self, record: &Record) -> (Answer, Option<Change>) {
        let name = record.name.as_str();
        if let Err(error) = check_name(name) {
            return (Answer::Failed(error.to_string()), None);
        }
        let by_name = self.names.get(name).and_then(|id| self.get(*id));
        if let Some(other) = self.get(record.process).or(by_name) {
            return (Answer::Taken(other.clone()), None);
        }
        if self.records.len() >= self.capacity {
            let text = format!(
                "the directory is full ({} processes); remove some",
                self.capacity
            );
            return (Answer::Failed(text), None);
        }
        let change = Change::Put(record.clone());
        (Answer::Done(record.clone()), Some(change))
    }

    fn with_claim(
        &self,
        process: ProcessId,
        expect: Claim,
        then: impl FnOnce(&Record) -> (Answer, Option<Change>),
    ) -> (Answer, Option<Change>) {
        match self.get(process) {
            None => (Answer::Unknown, None),
            Some(record) if record.claim != expect => (Answer::Conflict(record.clone()), None),
            Some(record) => then(record),
        }
    }
}

/// Whether a claim may replace another: a later epoch, or the same owner's later attempt.
fn follows(old: Claim, new: Claim) -> bool {
    new.epoch > old.epoch
        || (new.epoch == old.epoch && new.owner == old.owner && new.attempt > old.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::name::MAX_NAME;
    use wire::{ImageId, NodeId};

    fn claim(owner: u8, epoch: u64, attempt: u64) -> Claim {
        Claim {
            owner: NodeId([owner; 32]),
            epoch: Epoch(epoch),
            attempt,
        }
    }

    fn record(process: u64, name: &str, claim: Claim) -> Record {
        Record {
            process: ProcessId(process),
            name: name.to_owned(),
            image: ImageId::default(),
            claim,
        }
    }

    fn set(expect: Claim, new: Claim) -> Operation {
        Operation::CompareAndSet {
            process: ProcessId(1),
            expect,
            new,
        }
    }

    #[test]
    fn of_a_proposal_and_an_abort_exactly_one_wins() {
        for proposal_first in [true, false] {
            let mut directory = Directory::new([record(1, "a", claim(1, 1, 1))], Epoch(0), 10);
            let mut both = [
                set(claim(1, 1, 1), claim(2, 2, 0)),
                set(claim(1, 1, 1), claim(1, 1, 2)),
            ];
            if !proposal_first {
                both.reverse();
            }
            assert!(matches!(directory.apply(&both[0]).0, Answer::Done(_)));
            assert!(matches!(directory.apply(&both[1]).0, Answer::Conflict(_)));
        }
    }

    #[test]
    fn a_grant_can_be_taken_back_until_it_is_activated() {
        let granted = record(1, "a", claim(2, 2, 0));
        let activate = set(claim(2, 2, 0), claim(2, 2, 1));
        let take_back = set(claim(2, 2, 0), claim(1, 3, 1));
        let mut directory = Directory::new([granted.clone()], Epoch(0), 10);
        assert!(matches!(directory.apply(&take_back).0, Answer::Done(_)));
        assert!(matches!(directory.apply(&activate).0, Answer::Conflict(_)));
        let mut directory = Directory::new([granted], Epoch(0), 10);
        assert!(matches!(directory.apply(&activate).0, Answer::Done(_)));
        assert!(matches!(directory.apply(&take_back).0, Answer::Conflict(_)));
    }

    #[test]
    fn a_claim_never_goes_back() {
        let now = claim(2, 2, 1);
        for back in [
            claim(2, 2, 1),
            claim(2, 2, 0),
            claim(1, 1, 9),
            claim(1, 2, 2),
        ] {
            let mut directory = Directory::new([record(1, "a", now)], Epoch(0), 10);
            let (answer, change) = directory.apply(&set(now, back));
            assert!(matches!(answer, Answer::Conflict(_)), "{back:?}");
            assert_eq!(change, None);
        }
    }

    #[test]
    fn a_process_that_comes_back_goes_on_above_its_earlier_lives() {
        let last = claim(2, 7, 1);
        let mut directory = Directory::new([record(1, "a", last)], Epoch(3), 10);
        let remove = Operation::Remove {
            process: ProcessId(1),
            expect: last,
        };
        directory.apply(&remove);
        let again = Operation::CreateAgain(record(1, "a", claim(1, 1, 1)));
        let (answer, _) = directory.apply(&again);
        assert_eq!(answer, Answer::Done(record(1, "a", claim(1, 8, 1))));
        // What was said of its earlier life finds nothing of that.
        assert!(matches!(directory.apply(&remove).0, Answer::Conflict(_)));
        // A new process begins at the beginning.
        let new = Operation::Create(record(2, "b", claim(1, 1, 1)));
        assert!(matches!(directory.apply(&new).0, Answer::Done(r) if r.claim.epoch == Epoch(1)));
    }

    #[test]
    fn a_bad_name_and_a_full_directory_are_refused_with_the_reason() {
        let mut directory = Directory::new([], Epoch(0), 1);
        for name in ["", "a\nb", "a b", &"n".repeat(MAX_NAME + 1)] {
            let answer = directory.apply(&Operation::Create(record(1, name, claim(1, 1, 1))));
            assert!(matches!(answer, (Answer::Failed(_), None)));
        }
        directory.apply(&Operation::Create(record(1, "a", claim(1, 1, 1))));
        let (answer, _) = directory.apply(&Operation::Create(record(2, "b", claim(1, 1, 1))));
        assert!(matches!(answer, Answer::Failed(text) if text.contains("full")));
    }

    #[test]
    fn a_long_list_comes_in_pages_that_fit_into_a_message() {
        let name = |process: u64| format!("{process:0>MAX_NAME$}");
        let all: Vec<Record> = (0..3 * PAGE as u64)
            .map(|process| record(process << 50, &name(process), claim(1, u64::MAX, u64::MAX)))
            .collect();
        let directory = Directory::new(all.clone(), Epoch(0), all.len());
        let mut listed: Vec<Record> = Vec::new();
        loop {
            let after = listed.last().map(|record| record.process);
            let (answer, _) = directory.decide(&Operation::List { after });
            let mut bytes = Vec::new();
            wire::link::write_frame(&answer, wire::link::MAX_CONTROL / 2, &mut bytes).unwrap();
            let Answer::Records { records, more } = answer else {
                panic!("{answer:?}");
            };
            listed.extend(records);
            if !more {
                break;
            }
        }
        assert_eq!(listed, all);
    }

    #[test]
    fn deciding_changes_nothing() {
        let directory = Directory::new([record(1, "a", claim(1, 1, 1))], Epoch(0), 10);
        let remove = Operation::Remove {
            process: ProcessId(1),
            expect: claim(1, 1, 1),
        };
        assert!(directory.decide(&remove).1.is_some());
        assert!(directory.get(ProcessId(1)).is_some());
    }
}
