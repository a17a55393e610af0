//! The source's side of one move.
//!
//! ```text
//!                  +--> Precopying --+
//!                  |      |  ^  |      v
//!   Offering -> Preparing |  +--+   Checking -> Freezing -> Sealed -> Proposing -> Granted -> Over
//!      |            |     |            |           |          |          |           |
//!      +------------+-----+------------+-----------+----------+   aborted first?     |  the target is
//!                            |                                           |           |  gone, silent
//!                            v                                           v           v  or says no
//!                    Over: runs on here  <-------------------------------+       TakingBack -> Thawing
//!                                                                              |            |
//!                                             Over: it runs at the target <----+            v
//!                                                                          Over: runs again here
//! ```
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Offering, Preparing, Precopying, Checking | the target waits with everything compiled, and most of the memory | the process has noticed nothing |
//! | Freezing, Sealed | the target holds the thawed process, standing by | the process runs on here under its old claim |
//! | Proposing | the directory has granted the process to the target | an abort won: the process runs on here; not known: it stays frozen and this side asks on |
//! | Granted | the process runs at the target; the sealed snapshot is dropped | TakingBack |
//! | TakingBack | the directory has given the process back under a later epoch | the target was faster: it runs there |
//! | Thawing | the process runs again here, from its sealed snapshot | the process is lost, and its record with it |

use crate::rounds::{Round, Rounds};
use crate::{Config, Plan, Question, Reply, states};
use std::collections::VecDeque;
use std::time::Duration;
use wire::control::{Offer, Step};
use wire::directory::{Answer, Claim, Operation, Record};
use wire::snapshot::Hints;
use wire::{Epoch, NodeId};

states! {
    /// Where the source stands.
    pub enum State {
        /// Waits for the target's yes or no.
        Offering = "offering",
        /// Waits for the target to have the artefact compiled.
        Preparing = "preparing",
        /// Its memory is being sent, round by round, while it runs.
        Precopying = "precopying",
        /// Waits for the directory to confirm that it can be reached and that the claim holds.
        Checking = "checking",
        /// Waits for the process to freeze.
        Freezing = "freezing",
        /// The snapshot is on its way; waits for the target to stand by.
        Sealed = "sealed",
        /// Has proposed the target as owner; waits for the directory's decision.
        Proposing = "proposing",
        /// The target is the owner; waits for it to report that the process runs.
        Granted = "granted",
        /// Has asked the directory for the process back.
        TakingBack = "taking back",
        /// It is given back; waits for the sealed snapshot to be thawed.
        Thawing = "thawing",
        /// The move has ended.
        Over = "over",
    }
}

/// What the source is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The target says.
    Step(Step),
    /// The link to the target is up (again).
    LinkUp,
    /// The link to the target broke.
    LinkDown,
    /// The target has died or lost its memory of the move; why.
    TargetGone(String),
    /// The answer to the question of this number.
    Answer(u32, Reply),
    /// A round of its memory was sent; or why what it writes cannot be known, so that it must stand
    /// still for all of it.
    Precopied(Result<Round, String>),
    /// All of memory and snapshot was sent: so many bytes since it was frozen.
    Sent(u64),
    /// The process is frozen and sealed (bytes to be sent, at most), or why not.
    Frozen(Result<u64, String>),
    /// Image or snapshot could not be sent whole.
    BulkFailed(String),
    /// The sealed snapshot runs again, or why not.
    TakenBack(Result<(), String>),
    /// The process has ended by itself.
    Ended,
    /// Somebody wants the process to stay, to end it here, or no longer wants it moved; why. Too
    /// late once the target was proposed.
    Cancel(String),
}

/// What the source wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A state was entered.
    Enter(State),
    /// Tell the target.
    Send(Step),
    /// Ask the directory.
    Ask(Question),
    /// Send the image.
    SendImage,
    /// Send its memory, or what was written of it since the last round; this is round so many.
    Precopy(u32),
    /// Freeze the process and seal its streams; leave out of its snapshot what the target has.
    Freeze(Hints),
    /// Send what is not at the target of its memory, and the sealed snapshot.
    SendSnapshot,
    /// Let the process run on under its old claim.
    Unfreeze,
    /// Drop the process and its snapshot: it belongs to the target.
    Drop(Epoch),
    /// Thaw the sealed snapshot and run it under this epoch.
    TakeBack(Epoch),
    /// Stop the process at once: the directory says it is not this node's.
    Fence,
    /// The move has ended.
    Finish(Outcome),
}

/// How a move ended for the source.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The process runs at the target.
    Moved {
        /// Under this epoch.
        epoch: Epoch,
        /// Bytes sent while it was frozen.
        bytes: u64,
        /// Rounds in which memory was sent before.
        rounds: Vec<Round>,
        /// If they did not come to what was wanted: why.
        complaint: Option<String>,
        /// From the request to freeze until the target's report.
        frozen: Duration,
        /// From the start of the move until that report.
        total: Duration,
    },
    /// The process runs on here, as if nothing had been.
    Kept {
        /// The claim as last seen.
        claim: Claim,
        /// Why.
        reason: Reason,
    },
    /// The process ended here before it was proposed.
    Ended {
        /// The claim as last seen.
        claim: Claim,
    },
    /// The process was taken back and runs here from its sealed snapshot.
    TakenBack {
        /// The new claim.
        claim: Claim,
        /// Why.
        reason: Reason,
    },
    /// The directory had already given the process to somebody else, or forgotten it.
    Fenced {
        /// What the directory knows.
        record: Option<Record>,
    },
    /// The process is gone.
    Lost {
        /// The claim, where it still is this node's and must be given up.
        claim: Option<Claim>,
        /// Why.
        reason: Reason,
    },
}

/// Why a move did not succeed. For people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The link to the target broke, or it died.
    #[error("the target does not answer: {0}")]
    TargetUnreachable(String),
    /// The target said no, or gave up.
    #[error("the target refused: {0}")]
    Refused(String),
    /// Something took too long.
    #[error("{what} took longer than {limit:?}")]
    TooSlow {
        /// What.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The directory did not answer before anything was frozen.
    #[error("the directory's node does not answer")]
    DirectoryUnreachable,
    /// The directory did not carry the proposal out.
    #[error("the directory refused: {0}")]
    DirectoryRefused(String),
    /// An abort was faster than the proposal.
    #[error("the move was aborted before the process was handed over")]
    Aborted,
    /// It was called off here.
    #[error("the move was cancelled: {0}")]
    Cancelled(String),
    /// Freezing, sending or thawing failed.
    #[error("{0}")]
    World(String),
    /// The target took the process over, and then it or the process ended.
    #[error("the target took the process over, and it ended there: {0}")]
    EndedAtTarget(String),
}

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Source {
    config: Config,
    offer: Offer,
    claim: Claim,
    to: NodeId,
    state: State,
    deadline: Option<Duration>,
    /// In `Granted`: when to commit again, and when to lose patience.
    patience_ends: Duration,
    started: Duration,
    freeze_asked: Duration,
    bytes: u64,
    /// What the target has of the process's files.
    kept: Hints,
    plan: Plan,
    rounds: Rounds,
    complaint: Option<String>,
    /// Why a grant should be taken back as soon as it is known.
    doubt: Option<Reason>,
    questions: u32,
    actions: VecDeque<Action>,
}

impl Source {
    /// Starts a move of a process that `me` runs under the offer's claim.
    pub fn new(
        now: Duration,
        config: Config,
        me: NodeId,
        to: NodeId,
        offer: Offer,
        plan: Plan,
    ) -> Self {
        let claim = Claim {
            owner: me,
            epoch: offer.epoch,
            attempt: offer.attempt,
        };
        let mut source = Self {
            config,
            claim,
            to,
            state: State::Offering,
            deadline: None,
            patience_ends: now,
            started: now,
            freeze_asked: now,
            bytes: 0,
            kept: Hints::default(),
            plan,
            rounds: Rounds::new(plan.downtime),
            complaint: None,
            doubt: None,
            questions: 0,
            actions: VecDeque::new(),
            offer,
        };
        let offer = Step::Offer(source.offer.clone());
        source.actions.push_back(Action::Send(offer));
        source.enter(State::Offering, Some(now + config.offer));
        source
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The target.
    pub fn target(&self) -> NodeId {
        self.to
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Source::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.deadline
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Step(step) => self.handle_step(now, step),
            Input::LinkUp => {
                if self.state == State::Granted {
                    self.commit(now);
                }
            }
            Input::LinkDown => {
                let reason = Reason::TargetUnreachable("the link to it broke".to_owned());
                self.give_up_before_proposal(reason);
            }
            Input::TargetGone(why) => self.doubt(Reason::TargetUnreachable(why)),
            Input::Answer(number, reply) => {
                if number == self.questions {
                    self.handle_answer(now, reply);
                }
            }
            Input::Precopied(result) => self.handle_precopied(now, result),
            Input::Sent(bytes) => self.bytes = bytes,
            Input::Frozen(result) => self.handle_frozen(now, result),
            Input::BulkFailed(why) => self.give_up_before_proposal(Reason::World(why)),
            Input::TakenBack(result) => self.handle_taken_back(result),
            Input::Ended => self.handle_ended(),
            Input::Cancel(why) => self.give_up_before_proposal(Reason::Cancelled(why)),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let too_slow = |what, limit| Reason::TooSlow { what, limit };
        let config = self.config;
        match self.state {
            State::Offering => self.give_up(too_slow("the target's answer", config.offer)),
            State::Preparing => {
                self.give_up(too_slow(
                    "preparing the image at the target",
                    config.prepare,
                ));
            }
            State::Precopying => {
                let limit = config.restore_of(self.left(), self.plan);
                self.give_up(too_slow("sending a round of its memory", limit));
            }
            State::Freezing => self.give_up(too_slow("freezing the process", config.freeze)),
            State::Sealed => {
                let limit = config.restore_of(self.bytes, self.plan);
                self.give_up(too_slow("restoring the process at the target", limit));
            }
            State::Granted if now < self.patience_ends => self.commit(now),
            State::Granted => {
                self.doubt(too_slow("the target's start", config.commit));
            }
            State::TakingBack => self.take_back(),
            State::Checking | State::Proposing | State::Thawing | State::Over => {
                self.deadline = None;
            }
        }
    }

    fn handle_step(&mut self, now: Duration, step: Step) {
        match (self.state, step) {
            (State::Offering, Step::Accept { need_image }) => {
                if need_image {
                    self.actions.push_back(Action::SendImage);
                }
                self.enter(State::Preparing, Some(now + self.config.prepare));
            }
            (State::Preparing, Step::Prepared { kept }) => {
                self.kept = kept;
                match self.plan.precopies(&self.config, self.offer.memory_bytes) {
                    true => self.precopy(now),
                    false => self.check(),
                }
            }
            (State::Sealed, Step::Ready) => {
                self.enter(State::Proposing, None);
                let operation = Operation::CompareAndSet {
                    process: self.offer.process,
                    expect: self.claim,
                    new: self.granted(),
                };
                self.ask(operation, None);
            }
            (State::Granted | State::TakingBack, Step::Running) => self.moved(now),
            (_, Step::Abort { reason }) => self.doubt(Reason::Refused(reason)),
            // Repeated, late or senseless: the deadlines deal with what does not come.
            _ => (),
        }
    }

    /// Begins the next round.
    fn precopy(&mut self, now: Duration) {
        let limit = self.config.restore_of(self.left(), self.plan);
        let round = self.rounds.made().len() as u32;
        self.enter(State::Precopying, Some(now + limit));
        self.actions.push_back(Action::Precopy(round));
    }

    /// Bytes of memory for the next round.
    fn left(&self) -> u64 {
        let last = self.rounds.made().last();
        last.map_or(self.offer.memory_bytes, |round| round.dirty)
    }

    fn handle_precopied(&mut self, now: Duration, result: Result<Round, String>) {
        if self.state != State::Precopying {
            return;
        }
        let ending = match result {
            Ok(round) => self.rounds.note(round),
            Err(why) => {
                self.complaint = Some(format!("{why}: it was frozen for all of its memory"));
                return self.check();
            }
        };
        match ending {
            None => self.precopy(now),
            Some(ending) => {
                self.complaint = ending.complaint().map(str::to_owned);
                self.check();
            }
        }
    }

    /// Makes sure of the directory before anything is frozen.
    fn check(&mut self) {
        self.enter(State::Checking, None);
        let process = self.offer.process;
        self.ask(Operation::Get(process), Some(self.config.check));
    }

    fn handle_frozen(&mut self, now: Duration, result: Result<u64, String>) {
        if self.state != State::Freezing {
            return;
        }
        match result {
            Ok(bytes) => {
                self.bytes = bytes;
                let deadline = now + self.config.restore_of(bytes, self.plan);
                self.enter(State::Sealed, Some(deadline));
                self.actions.push_back(Action::SendSnapshot);
            }
            Err(why) => self.give_up(Reason::World(why)),
        }
    }

    fn handle_answer(&mut self, now: Duration, reply: Reply) {
        match self.state {
            State::Checking => self.handle_checked(now, reply),
            State::Proposing => self.handle_decided(now, reply),
            State::TakingBack => self.handle_given_back(now, reply),
            _ => (),
        }
    }

    fn handle_checked(&mut self, now: Duration, reply: Reply) {
        let record = match reply {
            None => return self.give_up(Reason::DirectoryUnreachable),
            Some(Answer::Done(record)) => Some(record),
            Some(Answer::Failed(why)) => return self.give_up(Reason::DirectoryRefused(why)),
            Some(_) => None,
        };
        match record {
            Some(record) if record.claim.same_reign(self.claim) => {
                self.claim = record.claim;
                self.freeze_asked = now;
                self.enter(State::Freezing, Some(now + self.config.freeze));
                let kept = std::mem::take(&mut self.kept);
                self.actions.push_back(Action::Freeze(kept));
            }
            record => {
                self.abort_at_target("the process is not this node's any more");
                self.actions.push_back(Action::Fence);
                self.finish(Outcome::Fenced { record });
            }
        }
    }

    fn handle_decided(&mut self, now: Duration, reply: Reply) {
        let granted = self.granted();
        match reply {
            // Asked again, for the decision may have been made.
            None => (),
            Some(Answer::Done(record) | Answer::Conflict(record)) => {
                let claim = record.claim;
                if claim == granted {
                    self.enter(State::Granted, None);
                    self.patience_ends = now + self.config.commit;
                    match self.doubt.take() {
                        Some(reason) => self.doubt(reason),
                        None => self.commit(now),
                    }
                } else if claim.same_reign(self.claim) {
                    self.claim = claim;
                    let reason = self.doubt.take().unwrap_or(Reason::Aborted);
                    self.give_up(reason);
                } else {
                    // The target has learned of the grant before we did, and went on from there.
                    self.moved(now);
                }
            }
            Some(Answer::Failed(why)) => self.give_up(Reason::DirectoryRefused(why)),
            Some(_) => self.ended_at_target(),
        }
    }

    fn handle_given_back(&mut self, now: Duration, reply: Reply) {
        let given_back = self.given_back();
        match reply {
            None => (),
            Some(Answer::Done(record) | Answer::Conflict(record)) => {
                if record.claim == given_back {
                    self.claim = given_back;
                    self.abort_at_target("the source has taken the process back");
                    self.enter(State::Thawing, None);
                    self.actions.push_back(Action::TakeBack(given_back.epoch));
                } else if matches!(self.doubt, Some(Reason::TargetUnreachable(_))) {
                    self.ended_at_target();
                } else {
                    self.moved(now);
                }
            }
            Some(Answer::Failed(_)) => self.deadline = Some(now + self.config.retry),
            Some(_) => self.ended_at_target(),
        }
    }

    fn handle_taken_back(&mut self, result: Result<(), String>) {
        if self.state != State::Thawing {
            return;
        }
        let claim = self.claim;
        match result {
            Ok(()) => {
                let reason = self.doubt.take().unwrap_or(Reason::Aborted);
                self.finish(Outcome::TakenBack { claim, reason });
            }
            Err(why) => self.finish(Outcome::Lost {
                claim: Some(claim),
                reason: Reason::World(why),
            }),
        }
    }

    fn handle_ended(&mut self) {
        if self.before_proposal() {
            self.abort_at_target("the process has ended");
            let claim = self.claim;
            self.finish(Outcome::Ended { claim });
        }
    }

    /// The target is gone, silent, or says no. Before the proposal that ends the move; after the
    /// grant the process is taken back; in between the decision must be known first.
    fn doubt(&mut self, reason: Reason) {
        match self.state {
            State::Proposing => {
                self.doubt.get_or_insert(reason);
            }
            State::Granted => {
                self.doubt = Some(reason);
                self.take_back();
            }
            State::TakingBack | State::Thawing => {
                if matches!(reason, Reason::TargetUnreachable(_)) {
                    self.doubt = Some(reason);
                }
            }
            _ => self.give_up_before_proposal(reason),
        }
    }

    fn give_up_before_proposal(&mut self, reason: Reason) {
        if self.before_proposal() {
            self.give_up(reason);
        }
    }

    /// The process runs on here. Never called while a proposal may still be granted.
    fn give_up(&mut self, reason: Reason) {
        if matches!(
            self.state,
            State::Freezing | State::Sealed | State::Proposing
        ) {
            self.actions.push_back(Action::Unfreeze);
        }
        self.abort_at_target(&reason.to_string());
        let claim = self.claim;
        self.finish(Outcome::Kept { claim, reason });
    }

    fn commit(&mut self, now: Duration) {
        let epoch = self.granted().epoch;
        self.actions.push_back(Action::Send(Step::Commit { epoch }));
        self.deadline = Some(self.patience_ends.min(now + self.config.retry));
    }

    fn take_back(&mut self) {
        if self.state != State::TakingBack {
            self.enter(State::TakingBack, None);
        }
        self.deadline = None;
        let operation = Operation::CompareAndSet {
            process: self.offer.process,
            expect: self.granted(),
            new: self.given_back(),
        };
        self.ask(operation, None);
    }

    fn moved(&mut self, now: Duration) {
        let epoch = self.granted().epoch;
        self.actions.push_back(Action::Drop(epoch));
        let complaint = self.complaint.take();
        self.finish(Outcome::Moved {
            epoch,
            bytes: self.bytes,
            rounds: self.rounds.made().to_vec(),
            complaint,
            frozen: now.saturating_sub(self.freeze_asked),
            total: now.saturating_sub(self.started),
        });
    }

    fn ended_at_target(&mut self) {
        let why = match self.doubt.take() {
            Some(reason) => reason.to_string(),
            None => "its record was removed".to_owned(),
        };
        self.actions.push_back(Action::Drop(self.granted().epoch));
        self.finish(Outcome::Lost {
            claim: None,
            reason: Reason::EndedAtTarget(why),
        });
    }

    fn before_proposal(&self) -> bool {
        match self.state {
            State::Offering
            | State::Preparing
            | State::Precopying
            | State::Checking
            | State::Freezing
            | State::Sealed => true,
            State::Proposing
            | State::Granted
            | State::TakingBack
            | State::Thawing
            | State::Over => false,
        }
    }

    /// The claim proposed for the target.
    fn granted(&self) -> Claim {
        Claim {
            owner: self.to,
            epoch: self.offer.epoch.next(),
            attempt: 0,
        }
    }

    /// The claim with which the source takes a grant back.
    fn given_back(&self) -> Claim {
        Claim {
            owner: self.claim.owner,
            epoch: self.offer.epoch.next().next(),
            attempt: 1,
        }
    }

    fn ask(&mut self, operation: Operation, patience: Option<Duration>) {
        self.questions = self.questions.wrapping_add(1);
        self.actions.push_back(Action::Ask(Question {
            number: self.questions,
            operation,
            patience,
        }));
    }

    fn abort_at_target(&mut self, reason: &str) {
        let reason = reason.to_owned();
        self.actions.push_back(Action::Send(Step::Abort { reason }));
    }

    fn enter(&mut self, state: State, deadline: Option<Duration>) {
        self.state = state;
        self.deadline = deadline;
        self.actions.push_back(Action::Enter(state));
    }

    fn finish(&mut self, outcome: Outcome) {
        self.enter(State::Over, None);
        self.actions.push_back(Action::Finish(outcome));
    }
}
