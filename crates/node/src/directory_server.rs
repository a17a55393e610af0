//! The directory's node: answers only what is durable, and every question once.
//!
//! An operation that changes a record is decided, stored, and only then committed and answered.
//! Meanwhile other changes of the same record or name wait their turn, in order; reads see what
//! is committed. A list also waits for the changes that its asker has in hand, so that a node that
//! was restarted sees all that its earlier life has done.
//!
//! Answers to changes are remembered for a while per asker: asking again under the same number
//! changes nothing and gives the same answer, unless that has been overtaken.

use overlay::directory::{Change, Directory};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use wire::directory::{Answer, Operation};
use wire::{Epoch, NodeId, ProcessId};

use crate::config::Limits;

#[derive(Debug)]
pub(crate) enum Output {
    /// Tell the asker.
    Answer {
        to: NodeId,
        request: u64,
        answer: Answer,
    },
    /// Make this durable, then call [`Server::handle_stored`].
    Store { ticket: u64, change: Change },
    /// A record is gone.
    Removed {
        process: ProcessId,
        /// Its last epoch.
        epoch: Epoch,
    },
}

#[derive(Debug)]
struct Waiting {
    from: NodeId,
    request: u64,
    operation: Operation,
}

#[derive(Debug)]
struct Storing {
    waiting: Waiting,
    change: Change,
    answer: Answer,
}

#[derive(Debug)]
pub(crate) struct Server {
    limits: Limits,
    directory: Directory,
    waiting: VecDeque<Waiting>,
    storing: BTreeMap<u64, Storing>,
    answered: BTreeMap<NodeId, VecDeque<(u64, Answer)>>,
    next_ticket: u64,
    outputs: VecDeque<Output>,
}

impl Server {
    pub(crate) fn new(directory: Directory, limits: Limits) -> Self {
        Self {
            limits,
            directory,
            waiting: VecDeque::new(),
            storing: BTreeMap::new(),
            answered: BTreeMap::new(),
            next_ticket: 0,
            outputs: VecDeque::new(),
        }
    }

    /// A question came; only members' questions are brought here.
    pub(crate) fn handle_ask(&mut self, from: NodeId, request: u64, operation: Operation) {
        if matches!(operation, Operation::Get(_) | Operation::Find(_)) {
            let (answer, _) = self.directory.decide(&operation);
            self.answer(from, request, answer);
            return;
        }
        let remembered = self.answered.get(&from).into_iter().flatten();
        if let Some((_, answer)) = remembered.into_iter().find(|(n, _)| *n == request) {
            let answer = self.as_of_now(&operation, answer.clone());
            self.answer(from, request, answer);
            return;
        }
        let storing = self.storing.values().map(|storing| &storing.waiting);
        let mut in_hand = self.waiting.iter().chain(storing);
        let is_known = in_hand.any(|w| w.from == from && w.request == request);
        if is_known || self.waiting.len() >= self.limits.queue {
            return;
        }
        self.waiting.push_back(Waiting {
            from,
            request,
            operation,
        });
        self.proceed();
    }

    /// A change is durable, or was not made.
    pub(crate) fn handle_stored(&mut self, ticket: u64, result: Result<(), String>) {
        let Some(storing) = self.storing.remove(&ticket) else {
            return;
        };
        let Storing {
            waiting,
            change,
            answer,
        } = storing;
        match result {
            Ok(()) => {
                let removed = match change {
                    Change::Delete(process) => self.directory.get(process),
                    Change::Put(_) => None,
                };
                let removed = removed.map(|record| Output::Removed {
                    process: record.process,
                    epoch: record.claim.epoch,
                });
                self.directory.commit(&change);
                self.remember_and_answer(waiting.from, waiting.request, answer);
                self.outputs.extend(removed);
            }
            Err(why) => {
                let answer = Answer::Failed(format!("its store failed: {why}"));
                self.remember_and_answer(waiting.from, waiting.request, answer);
            }
        }
        self.proceed();
    }

    /// Records whose claim names this owner.
    pub(crate) fn owned_by(&self, owner: NodeId) -> usize {
        let records = self.directory.records();
        records.filter(|r| r.claim.owner == owner).count()
    }

    /// A node asks no more.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.answered.remove(&node);
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Decides every waiting operation that no earlier one holds up.
    fn proceed(&mut self) {
        let mut held_processes = BTreeSet::new();
        let mut held_names = BTreeSet::new();
        for storing in self.storing.values() {
            if let Some((process, name)) = touches(&storing.waiting.operation) {
                held_processes.insert(process);
                held_names.extend(name.map(str::to_owned));
            }
        }
        let mut still_waiting = VecDeque::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let Some((process, name)) = touches(&waiting.operation) else {
                let mut earlier = still_waiting.iter().map(|w: &Waiting| w.from);
                let mut storing = self.storing.values().map(|s| s.waiting.from);
                if earlier.any(|from| from == waiting.from)
                    || storing.any(|from| from == waiting.from)
                {
                    still_waiting.push_back(waiting);
                } else {
                    let (answer, _) = self.directory.decide(&waiting.operation);
                    self.answer(waiting.from, waiting.request, answer);
                }
                continue;
            };
            let name = name.map(str::to_owned);
            let held = held_processes.contains(&process)
                || name.as_ref().is_some_and(|name| held_names.contains(name));
            if held {
                held_processes.insert(process);
                held_names.extend(name);
                still_waiting.push_back(waiting);
                continue;
            }
            match self.directory.decide(&waiting.operation) {
                (answer, None) => {
                    self.remember_and_answer(waiting.from, waiting.request, answer);
                }
                (answer, Some(change)) => {
                    held_processes.insert(process);
                    held_names.extend(name);
                    let ticket = self.next_ticket;
                    self.next_ticket += 1;
                    self.outputs.push_back(Output::Store {
                        ticket,
                        change: change.clone(),
                    });
                    let storing = Storing {
                        waiting,
                        change,
                        answer,
                    };
                    self.storing.insert(ticket, storing);
                }
            }
        }
        self.waiting = still_waiting;
    }

    /// A remembered answer, unless what it says was done has been overtaken since: nobody may act on
    /// a claim that is no more.
    fn as_of_now(&self, operation: &Operation, answer: Answer) -> Answer {
        match (operation, answer) {
            (Operation::CompareAndSet { process, new, .. }, Answer::Done(_)) => {
                match self.directory.get(*process) {
                    Some(record) if record.claim == *new => Answer::Done(record.clone()),
                    Some(record) => Answer::Conflict(record.clone()),
                    None => Answer::Unknown,
                }
            }
            (Operation::Create(_) | Operation::CreateAgain(_), Answer::Done(record))
                if self.directory.get(record.process) != Some(&record) =>
            {
                Answer::Failed("the record was created and has been removed since".to_owned())
            }
            (_, answer) => answer,
        }
    }

    fn remember_and_answer(&mut self, to: NodeId, request: u64, answer: Answer) {
        let answered = self.answered.entry(to).or_default();
        answered.push_back((request, answer.clone()));
        if answered.len() > self.limits.answers {
            answered.pop_front();
        }
        self.answer(to, request, answer);
    }

    fn answer(&mut self, to: NodeId, request: u64, answer: Answer) {
        self.outputs.push_back(Output::Answer {
            to,
            request,
            answer,
        });
    }
}

/// The process and the name that an operation may change the record of; `None` for reads.
fn touches(operation: &Operation) -> Option<(ProcessId, Option<&str>)> {
    match operation {
        Operation::Create(record) | Operation::CreateAgain(record) => {
            Some((record.process, Some(&record.name)))
        }
        Operation::CompareAndSet { process, .. } | Operation::Remove { process, .. } => {
            Some((*process, None))
        }
        Operation::Get(_) | Operation::Find(_) | Operation::List { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ImageId;
    use wire::directory::{Claim, Record};

    const ME: NodeId = NodeId([1; 32]);

    fn server() -> Server {
        Server::new(Directory::new([], Epoch(0), 10), Limits::default())
    }

    fn claim(attempt: u64) -> Claim {
        Claim {
            owner: ME,
            epoch: Epoch(1),
            attempt,
        }
    }

    fn create(process: u64, name: &str) -> Operation {
        Operation::Create(Record {
            process: ProcessId(process),
            name: name.to_owned(),
            image: ImageId::default(),
            claim: claim(1),
        })
    }

    fn raise(expect: u64) -> Operation {
        Operation::CompareAndSet {
            process: ProcessId(1),
            expect: claim(expect),
            new: claim(expect + 1),
        }
    }

    /// Answers as (request, answer) and tickets.
    fn outputs(server: &mut Server) -> (Vec<(u64, Answer)>, Vec<u64>) {
        let (mut answers, mut tickets) = (Vec::new(), Vec::new());
        while let Some(output) = server.poll_output() {
            match output {
                Output::Answer {
                    request, answer, ..
                } => answers.push((request, answer)),
                Output::Store { ticket, .. } => tickets.push(ticket),
                Output::Removed { .. } => (),
            }
        }
        (answers, tickets)
    }

    #[test]
    fn nothing_is_answered_or_read_before_it_is_durable() {
        let mut server = server();
        server.handle_ask(ME, 1, create(1, "a"));
        let (answers, tickets) = outputs(&mut server);
        assert_eq!((answers.len(), tickets.len()), (0, 1));
        server.handle_ask(ME, 2, Operation::Get(ProcessId(1)));
        assert_eq!(outputs(&mut server).0, [(2, Answer::Unknown)]);
        server.handle_stored(tickets[0], Ok(()));
        let (answers, _) = outputs(&mut server);
        assert!(matches!(answers[..], [(1, Answer::Done(_))]));
    }

    #[test]
    fn a_store_that_fails_changes_nothing_and_says_so() {
        let mut server = server();
        server.handle_ask(ME, 1, create(1, "a"));
        let (_, tickets) = outputs(&mut server);
        server.handle_stored(tickets[0], Err("disk full".to_owned()));
        let (answers, _) = outputs(&mut server);
        assert!(matches!(&answers[..], [(1, Answer::Failed(why))] if why.contains("disk full")));
        server.handle_ask(ME, 2, create(2, "a"));
        assert_eq!(outputs(&mut server).1.len(), 1, "the name is free");
    }

    #[test]
    fn changes_of_one_record_or_name_wait_their_turn_in_order() {
        let mut server = server();
        server.handle_ask(ME, 1, create(1, "a"));
        server.handle_ask(ME, 2, create(2, "a"));
        server.handle_ask(ME, 3, raise(1));
        server.handle_ask(ME, 4, raise(1));
        server.handle_ask(ME, 5, create(3, "b"));
        let (answers, tickets) = outputs(&mut server);
        assert!(answers.is_empty());
        assert_eq!(tickets.len(), 2, "the first, and the one apart from it");
        server.handle_stored(tickets[0], Ok(()));
        let (answers, tickets) = outputs(&mut server);
        assert!(matches!(
            answers[..],
            [(1, Answer::Done(_)), (2, Answer::Taken(_))]
        ));
        server.handle_stored(tickets[0], Ok(()));
        let (answers, _) = outputs(&mut server);
        assert!(matches!(
            answers[..],
            [(3, Answer::Done(_)), (4, Answer::Conflict(_))]
        ));
    }

    #[test]
    fn what_was_overtaken_is_not_answered_again_as_done() {
        let mut server = server();
        let mut do_it = |request, operation| {
            server.handle_ask(ME, request, operation);
            let (mut answers, tickets) = outputs(&mut server);
            for ticket in tickets {
                server.handle_stored(ticket, Ok(()));
                answers.extend(outputs(&mut server).0);
            }
            answers.pop().map(|(_, answer)| answer)
        };
        let remove = Operation::Remove {
            process: ProcessId(1),
            expect: claim(2),
        };
        assert!(matches!(do_it(1, create(1, "a")), Some(Answer::Done(_))));
        assert!(matches!(do_it(2, raise(1)), Some(Answer::Done(_))));
        assert!(matches!(do_it(2, raise(1)), Some(Answer::Done(_))));
        assert!(matches!(do_it(3, remove.clone()), Some(Answer::Done(_))));
        assert_eq!(do_it(2, raise(1)), Some(Answer::Unknown));
        assert!(matches!(do_it(1, create(1, "a")), Some(Answer::Failed(_))));
        assert!(matches!(do_it(3, remove), Some(Answer::Done(_))));
    }

    #[test]
    fn a_list_shows_all_that_its_asker_has_asked_for_before() {
        let mut server = server();
        server.handle_ask(ME, 1, create(1, "a"));
        server.handle_ask(ME, 2, Operation::List { after: None });
        server.handle_ask(NodeId([2; 32]), 3, Operation::List { after: None });
        let (answers, tickets) = outputs(&mut server);
        let none = Answer::Records {
            records: Vec::new(),
            more: false,
        };
        assert_eq!(answers, [(3, none)]);
        server.handle_stored(tickets[0], Ok(()));
        let (answers, _) = outputs(&mut server);
        assert!(
            matches!(&answers[..], [_, (2, Answer::Records { records, .. })] if records.len() == 1)
        );
    }

    #[test]
    fn asking_again_under_the_same_number_is_one_question() {
        let mut server = server();
        server.handle_ask(ME, 1, create(1, "a"));
        server.handle_ask(ME, 1, create(1, "a"));
        let (_, tickets) = outputs(&mut server);
        assert_eq!(tickets.len(), 1);
        server.handle_stored(tickets[0], Ok(()));
        let first = outputs(&mut server).0;
        server.handle_ask(ME, 1, create(1, "a"));
        assert_eq!(outputs(&mut server).0, first);
    }
}
