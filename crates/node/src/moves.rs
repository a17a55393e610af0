//! What is on its way, in or out: the machines of `migrate`, and what their ends mean here.
//!
//! A move is named by an id that its source chose. Steps are taken only from the move's peer.
//! Steps of moves that are not known (any more) are answered: a `Commit` of a move that ended
//! well by `Running`, everything else that a peer may wait on by `Abort`.

use crate::directory_client::Patience;
use crate::processes::Phase;
use crate::{Effect, Failure, Node, Purpose, Reply, Token};
use migrate::rounds::Round;
use migrate::source::{self, Source};
use migrate::target::{self, Target};
use migrate::{Plan, Question};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use wire::control::{Control, Offer, Step};
use wire::directory::{Answer, Claim, Record};
use wire::name::{check_name, printable};
use wire::snapshot::{Hints, Volume};
use wire::{ArtefactId, MoveId, NodeId, ProcessId};

/// Moves that ended well and are remembered, for sources that ask again.
const REMEMBERED: usize = 256;
/// Characters of a peer's reason that are shown.
pub(crate) const MAX_REASON: usize = 400;

#[derive(Debug)]
struct Out {
    machine: Source,
    process: ProcessId,
    token: Token,
}

#[derive(Debug)]
struct In {
    machine: Target,
    process: ProcessId,
}

/// The moves in flight.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    out: BTreeMap<MoveId, Out>,
    into: BTreeMap<MoveId, In>,
    arrived: VecDeque<MoveId>,
}

impl Moves {
    fn len(&self) -> usize {
        self.out.len() + self.into.len()
    }

    fn contains(&self, id: MoveId) -> bool {
        self.out.contains_key(&id) || self.into.contains_key(&id)
    }

    pub(crate) fn arriving(&self) -> usize {
        self.into.len()
    }

    pub(crate) fn is_arriving(&self, process: ProcessId) -> bool {
        self.into.values().any(|arrival| arrival.process == process)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let out = self.out.values().filter_map(|m| m.machine.poll_timeout());
        let into = self.into.values().filter_map(|m| m.machine.poll_timeout());
        out.chain(into).min()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (MoveId, ProcessId, MoveState)> {
        let out = self.out.iter();
        let out = out.map(|(id, m)| (*id, m.process, MoveState::Out(m.machine.state())));
        let into = self.into.iter();
        let into = into.map(|(id, m)| (*id, m.process, MoveState::In(m.machine.state())));
        out.chain(into)
    }

    fn ids(&self) -> Vec<MoveId> {
        self.out.keys().chain(self.into.keys()).copied().collect()
    }
}

impl Node {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn migrate(
        &mut self,
        now: Duration,
        token: Token,
        id: MoveId,
        process: ProcessId,
        to: NodeId,
        artefact: ArtefactId,
        memory_bytes: u64,
        volumes: Vec<Volume>,
        plan: Plan,
    ) {
        let Some(entry) = self.processes.get(process) else {
            let purpose = Purpose::MigrateElsewhere { token, process };
            let operation = wire::directory::Operation::Get(process);
            return self.ask_for(now, token, operation, purpose);
        };
        let count = self.config.limits.moves;
        let failure = match entry.phase {
            Phase::Creating(_) | Phase::Moving(_) => Some(Failure::Busy(process)),
            Phase::Removing => Some(Failure::UnknownProcess(process)),
            Phase::Running if !self.membership.is_member(to) => {
                Some(Failure::UnknownNode(self.named(to)))
            }
            Phase::Running if to == self.id() => {
                let why = "the process is on that node already".to_owned();
                Some(Failure::MoveFailed(why))
            }
            Phase::Running if !self.membership.is_linked(to) => {
                Some(Failure::TargetUnreachable(self.named(to)))
            }
            Phase::Running if self.moves.contains(id) => Some(Failure::Busy(process)),
            Phase::Running if self.moves.len() >= count => {
                let what = "moves in flight";
                Some(Failure::TooMany { what, count })
            }
            Phase::Running => None,
        };
        if let Some(failure) = failure {
            return self.reply(token, Reply::Failed(failure));
        }
        let Record {
            name, image, claim, ..
        } = entry.record.clone();
        let offer = Offer {
            process,
            name,
            image,
            artefact,
            epoch: claim.epoch,
            attempt: claim.attempt,
            memory_bytes,
            volumes,
        };
        let config = self.config.moves;
        let machine = Source::new(now, config, self.id(), to, offer, plan);
        if let Some(entry) = self.processes.get_mut(process) {
            entry.phase = Phase::Moving(id);
        }
        let out = Out {
            machine,
            process,
            token,
        };
        self.moves.out.insert(id, out);
        self.drive_out(now, id);
    }

    pub(crate) fn handle_step(&mut self, now: Duration, from: NodeId, id: MoveId, step: Step) {
        let step = match step {
            // It is shown to people.
            Step::Abort { reason } => Step::Abort {
                reason: printable(&reason, MAX_REASON),
            },
            step => step,
        };
        if let Some(out) = self.moves.out.get_mut(&id) {
            if out.machine.target() == from {
                out.machine.handle(now, source::Input::Step(step));
                self.drive_out(now, id);
            }
        } else if let Some(into) = self.moves.into.get_mut(&id) {
            if into.machine.source() == from {
                into.machine.handle(now, target::Input::Step(step));
                self.drive_in(now, id);
            }
        } else {
            match step {
                Step::Offer(offer) => self.consider(now, from, id, offer),
                Step::Commit { .. } if self.moves.arrived.contains(&id) => {
                    self.send_step(from, id, Step::Running);
                }
                Step::Commit { .. } | Step::Accept { .. } | Step::Prepared { .. } | Step::Ready => {
                    let reason = "this node does not know the move any more".to_owned();
                    self.send_step(from, id, Step::Abort { reason });
                }
                Step::Running | Step::Abort { .. } => (),
            }
        }
    }

    fn consider(&mut self, now: Duration, from: NodeId, id: MoveId, offer: Offer) {
        let limits = self.config.limits;
        let refusal = if let Err(error) = check_name(&offer.name) {
            Some(format!("the process cannot be called so: {error}"))
        } else if self.processes.get(offer.process).is_some() {
            Some("the process is known here already; try again".to_owned())
        } else if self.moves.is_arriving(offer.process) {
            Some("an earlier move of the process is still being cleared up here".to_owned())
        } else if self.moves.len() >= limits.moves {
            Some(format!("{} moves are in flight here already", limits.moves))
        } else if self.processes.len() + self.moves.arriving() >= limits.processes {
            Some(format!("{} processes are here already", limits.processes))
        } else {
            None
        };
        if let Some(reason) = refusal {
            return self.send_step(from, id, Step::Abort { reason });
        }
        let process = offer.process;
        let machine = Target::new(now, self.config.moves, self.id(), from, offer);
        self.moves.into.insert(id, In { machine, process });
        self.drive_in(now, id);
    }

    pub(crate) fn handle_move_timeouts(&mut self, now: Duration) {
        for id in self.moves.ids() {
            if let Some(out) = self.moves.out.get_mut(&id) {
                out.machine.handle_timeout(now);
                self.drive_out(now, id);
            } else if let Some(into) = self.moves.into.get_mut(&id) {
                into.machine.handle_timeout(now);
                self.drive_in(now, id);
            }
        }
    }

    pub(crate) fn handle_move_link_up(&mut self, now: Duration, peer: NodeId) {
        self.tell_moves_with(now, peer, || source::Input::LinkUp, || None);
    }

    pub(crate) fn handle_move_link_down(&mut self, now: Duration, peer: NodeId) {
        let into = || Some(target::Input::LinkDown);
        self.tell_moves_with(now, peer, || source::Input::LinkDown, into);
    }

    /// A peer is dead or has been restarted: it has lost its side of the moves.
    pub(crate) fn handle_peer_gone(&mut self, now: Duration, peer: NodeId, why: &str) {
        let out = || source::Input::TargetGone(why.to_owned());
        let into = || Some(target::Input::SourceGone(why.to_owned()));
        self.tell_moves_with(now, peer, out, into);
    }

    fn tell_moves_with(
        &mut self,
        now: Duration,
        peer: NodeId,
        to_source: impl Fn() -> source::Input,
        to_target: impl Fn() -> Option<target::Input>,
    ) {
        for id in self.moves.ids() {
            if let Some(out) = self.moves.out.get_mut(&id) {
                if out.machine.target() == peer {
                    out.machine.handle(now, to_source());
                    self.drive_out(now, id);
                }
            } else if let Some(into) = self.moves.into.get_mut(&id)
                && into.machine.source() == peer
                && let Some(input) = to_target()
            {
                into.machine.handle(now, input);
                self.drive_in(now, id);
            }
        }
    }

    pub(crate) fn handle_ended_in_move(&mut self, now: Duration, id: MoveId) {
        self.tell_source(now, id, source::Input::Ended);
    }

    pub(crate) fn handle_precopied(
        &mut self,
        now: Duration,
        id: MoveId,
        result: Result<Round, String>,
    ) {
        self.tell_source(now, id, source::Input::Precopied(result));
    }

    pub(crate) fn handle_sent(&mut self, now: Duration, id: MoveId, bytes: u64) {
        self.tell_source(now, id, source::Input::Sent(bytes));
    }

    pub(crate) fn handle_landing(&mut self, now: Duration, id: MoveId) {
        self.tell_target(now, id, target::Input::Landing);
    }

    pub(crate) fn handle_frozen(&mut self, now: Duration, id: MoveId, result: Result<u64, String>) {
        self.tell_source(now, id, source::Input::Frozen(result));
    }

    pub(crate) fn handle_considered(
        &mut self,
        now: Duration,
        id: MoveId,
        result: Result<bool, String>,
    ) {
        self.tell_target(now, id, target::Input::Considered(result));
    }

    pub(crate) fn handle_prepared(
        &mut self,
        now: Duration,
        id: MoveId,
        result: Result<Hints, String>,
    ) {
        self.tell_target(now, id, target::Input::Prepared(result));
    }

    pub(crate) fn handle_restored(
        &mut self,
        now: Duration,
        id: MoveId,
        result: Result<(), String>,
    ) {
        self.tell_target(now, id, target::Input::Restored(result));
    }

    pub(crate) fn handle_bulk_failed(&mut self, now: Duration, id: MoveId, reason: String) {
        if self.moves.out.contains_key(&id) {
            self.tell_source(now, id, source::Input::BulkFailed(reason));
        } else {
            self.tell_target(now, id, target::Input::BulkFailed(reason));
        }
    }

    pub(crate) fn handle_taken_back(
        &mut self,
        now: Duration,
        process: ProcessId,
        result: Result<(), String>,
    ) {
        if let Some(Phase::Moving(id)) = self.processes.get(process).map(|p| p.phase) {
            self.tell_source(now, id, source::Input::TakenBack(result));
        }
    }

    pub(crate) fn cancel(&mut self, now: Duration, process: ProcessId, reason: String) {
        if let Some(Phase::Moving(id)) = self.processes.get(process).map(|p| p.phase) {
            self.tell_source(now, id, source::Input::Cancel(reason));
        }
    }

    pub(crate) fn handle_move_answer(
        &mut self,
        now: Duration,
        id: MoveId,
        number: u32,
        answer: Option<Answer>,
    ) {
        if self.moves.out.contains_key(&id) {
            self.tell_source(now, id, source::Input::Answer(number, answer));
        } else {
            self.tell_target(now, id, target::Input::Answer(number, answer));
        }
    }

    fn tell_source(&mut self, now: Duration, id: MoveId, input: source::Input) {
        if let Some(out) = self.moves.out.get_mut(&id) {
            out.machine.handle(now, input);
            self.drive_out(now, id);
        }
    }

    fn tell_target(&mut self, now: Duration, id: MoveId, input: target::Input) {
        if let Some(into) = self.moves.into.get_mut(&id) {
            into.machine.handle(now, input);
            self.drive_in(now, id);
        }
    }

    /// Does what a source wants done.
    fn drive_out(&mut self, now: Duration, id: MoveId) {
        while let Some(out) = self.moves.out.get_mut(&id) {
            let (process, to, token) = (out.process, out.machine.target(), out.token);
            let image = self.processes.get(process).map(|p| p.record.image);
            let Some(action) = out.machine.poll_action() else {
                return;
            };
            let effect = match action {
                source::Action::Send(step) => {
                    self.send_step(to, id, step);
                    continue;
                }
                source::Action::Ask(question) => {
                    self.ask_for_move(now, id, question);
                    continue;
                }
                source::Action::Finish(outcome) => {
                    self.moves.out.remove(&id);
                    self.finish_out(now, process, to, token, outcome);
                    return;
                }
                source::Action::Enter(state) => Effect::Progress {
                    id,
                    process,
                    phase: state.name(),
                },
                source::Action::SendImage => Effect::SendImage {
                    id,
                    to,
                    image: image.unwrap_or_default(),
                },
                source::Action::Precopy(round) => Effect::Precopy {
                    id,
                    process,
                    to,
                    round,
                },
                source::Action::Freeze(kept) => Effect::Freeze { id, process, kept },
                source::Action::SendSnapshot => Effect::SendSnapshot { id, process, to },
                source::Action::Unfreeze => Effect::Unfreeze { process },
                source::Action::Drop(epoch) => Effect::Drop {
                    process,
                    owner: to,
                    epoch,
                },
                source::Action::TakeBack(epoch) => Effect::TakeBack { process, epoch },
                source::Action::Fence => Effect::Fence { process },
            };
            self.effects.push_back(effect);
        }
    }

    /// Does what a target wants done.
    fn drive_in(&mut self, now: Duration, id: MoveId) {
        while let Some(into) = self.moves.into.get_mut(&id) {
            let (process, from) = (into.process, into.machine.source());
            let Some(action) = into.machine.poll_action() else {
                return;
            };
            let effect = match action {
                target::Action::Send(step) => {
                    self.send_step(from, id, step);
                    continue;
                }
                target::Action::Ask(question) => {
                    self.ask_for_move(now, id, question);
                    continue;
                }
                target::Action::Finish(outcome) => {
                    let offer = into.machine.offer().clone();
                    self.moves.into.remove(&id);
                    if let target::Outcome::Arrived { claim } = outcome {
                        self.moves.arrived.push_back(id);
                        if self.moves.arrived.len() > REMEMBERED {
                            self.moves.arrived.pop_front();
                        }
                        let record = Record {
                            process,
                            name: offer.name,
                            image: offer.image,
                            claim,
                        };
                        self.processes.insert(record, Phase::Running);
                    }
                    return;
                }
                target::Action::Enter(state) => Effect::Progress {
                    id,
                    process,
                    phase: state.name(),
                },
                target::Action::Consider => Effect::Consider {
                    id,
                    from,
                    offer: into.machine.offer().clone(),
                },
                target::Action::Prepare => Effect::Prepare { id },
                target::Action::Activate(epoch) => Effect::Activate { id, process, epoch },
                target::Action::Discard => Effect::Discard { id },
            };
            self.effects.push_back(effect);
        }
    }

    /// What the end of a move means for the process that was moved, and for who asked for it.
    fn finish_out(
        &mut self,
        now: Duration,
        process: ProcessId,
        to: NodeId,
        token: Token,
        outcome: source::Outcome,
    ) {
        use source::Outcome;
        let reply = match outcome {
            Outcome::Moved {
                epoch,
                bytes,
                rounds,
                complaint,
                frozen,
                total,
            } => {
                self.processes.remove(process);
                Reply::Moved {
                    epoch,
                    bytes,
                    rounds,
                    complaint,
                    frozen,
                    total,
                }
            }
            Outcome::Kept { claim, reason } => {
                self.run_on_if_ours(now, process, claim);
                Reply::Failed(match reason {
                    source::Reason::TargetUnreachable(_) => {
                        Failure::TargetUnreachable(self.named(to))
                    }
                    source::Reason::DirectoryUnreachable => Failure::DirectoryUnreachable,
                    reason => Failure::MoveFailed(reason.to_string()),
                })
            }
            Outcome::TakenBack { claim, reason } => {
                self.run_on_if_ours(now, process, claim);
                let text = format!("{reason}; the process was taken back and runs here again");
                Reply::Failed(Failure::MoveFailed(text))
            }
            Outcome::Ended { claim } => {
                self.run_on(process, claim);
                self.remove_record(now, process);
                Reply::Failed(Failure::MoveFailed("the process has ended".to_owned()))
            }
            Outcome::Fenced { record } => {
                self.processes.remove(process);
                Reply::Failed(match record {
                    Some(record) => Failure::NotOwner {
                        process,
                        owner: self.named(record.claim.owner),
                    },
                    None => Failure::UnknownProcess(process),
                })
            }
            Outcome::Lost { claim, reason } => {
                match claim {
                    Some(claim) => {
                        self.run_on(process, claim);
                        self.remove_record(now, process);
                    }
                    None => self.processes.remove(process),
                }
                let text = format!("{reason}; the process is lost");
                Reply::Failed(Failure::MoveFailed(text))
            }
        };
        self.reply(token, reply);
    }

    fn run_on(&mut self, process: ProcessId, claim: Claim) {
        if let Some(entry) = self.processes.get_mut(process) {
            entry.record.claim = claim;
            entry.phase = Phase::Running;
        }
    }

    /// It runs on here. While it moved, nobody asked whether it still is this node's.
    fn run_on_if_ours(&mut self, now: Duration, process: ProcessId, claim: Claim) {
        self.run_on(process, claim);
        self.verify_one(now, process);
    }

    fn ask_for_move(&mut self, now: Duration, id: MoveId, question: Question) {
        let number = question.number;
        let patience = match question.patience {
            Some(limit) => Patience::For(limit),
            None => Patience::UntilAnswered,
        };
        let purpose = Purpose::Move { id, number };
        self.ask(now, question.operation, purpose, patience);
    }

    fn send_step(&mut self, to: NodeId, id: MoveId, step: Step) {
        self.send(to, Control::Move { id, step });
    }
}

/// Where a move in flight stands, and on which side of it this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MoveState {
    /// This node is the source.
    Out(source::State),
    /// This node is the target.
    In(target::State),
}
