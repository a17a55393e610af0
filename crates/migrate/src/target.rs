//! The target's side of one move.
//!
//! ```text
//!   Considering -> Preparing -> Receiving -> Ready ------------> Activating -> Over: it runs here
//!        |             |            |          |   Commit          ^     |
//!        +-------------+------------+          |                   |     |  taken back
//!                      |           the source is gone or silent    |     v
//!                      v                       v        granted    |   Over: discarded
//!               Over: discarded            Inquiring --------------+
//!                      ^                       |                   |
//!                      |                       |  not yet          |  the proposal was faster
//!                      +-----------------------+-> Aborting -------+
//! ```
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Considering, Preparing, Receiving | the thawed process stands by at every anchor | what was prepared is discarded, and the source told why |
//! | Ready | the source has committed | Inquiring: the source is gone or silent, so the directory is asked |
//! | Inquiring | the directory had granted the process: Activating | not granted yet: Aborting; somebody else's: discarded |
//! | Aborting | no proposal can be granted any more; discarded | the proposal was faster: Activating |
//! | Activating | the process runs here under the new epoch | the source has taken it back; discarded |
//!
//! While the directory does not answer, the process stays thawed and frozen, and this side asks on.

use crate::{Config, Plan, Question, Reply, states};
use std::collections::VecDeque;
use std::time::Duration;
use wire::control::{Offer, Step};
use wire::directory::{Answer, Claim, Operation};
use wire::snapshot::Hints;
use wire::{Epoch, NodeId};

states! {
    /// Where the target stands.
    pub enum State {
        /// Waits for its world to say whether the process can be taken.
        Considering = "considering",
        /// Waits for the artefact to be compiled.
        Preparing = "preparing",
        /// Waits for the snapshot to arrive, be thawed and stand by at every anchor.
        Receiving = "receiving",
        /// Stands by; waits for the source's decision.
        Ready = "ready",
        /// Has asked the directory whether it was granted the process.
        Inquiring = "inquiring",
        /// Has asked the directory to rule a late proposal out.
        Aborting = "aborting",
        /// Granted; has asked the directory to confirm that it still is.
        Activating = "activating",
        /// The move has ended.
        Over = "over",
    }
}

/// What the target is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The source says.
    Step(Step),
    /// The link to the source broke.
    LinkDown,
    /// The source has died or lost its memory of the move; why.
    SourceGone(String),
    /// The answer to the question of this number.
    Answer(u32, Reply),
    /// Whether the image is needed, or why the process is not taken.
    Considered(Result<bool, String>),
    /// The artefact is compiled, and what is here of the process's files; or why not.
    Prepared(Result<Hints, String>),
    /// Some of its memory has come, and all is well.
    Landing,
    /// The process is thawed and stands by, or why not.
    Restored(Result<(), String>),
    /// Image or snapshot could not be received whole.
    BulkFailed(String),
}

/// What the target wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A state was entered.
    Enter(State),
    /// Tell the source.
    Send(Step),
    /// Ask the directory.
    Ask(Question),
    /// Find out whether the process can be taken.
    Consider,
    /// Compile the artefact, waiting for the image if it was asked for.
    Prepare,
    /// Run the thawed process under this epoch.
    Activate(Epoch),
    /// Forget what was prepared.
    Discard,
    /// The move has ended.
    Finish(Outcome),
}

/// How a move ended for the target.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The process runs here.
    Arrived {
        /// Under this claim.
        claim: Claim,
    },
    /// It does not.
    GivenUp {
        /// Why.
        reason: String,
    },
}

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Target {
    config: Config,
    me: NodeId,
    from: NodeId,
    offer: Offer,
    state: State,
    deadline: Option<Duration>,
    /// Why the source is not waited for.
    why: String,
    questions: u32,
    actions: VecDeque<Action>,
}

impl Target {
    /// Starts with the source's offer.
    pub fn new(now: Duration, config: Config, me: NodeId, from: NodeId, offer: Offer) -> Self {
        let mut target = Self {
            config,
            me,
            from,
            offer,
            state: State::Considering,
            deadline: None,
            why: String::new(),
            questions: 0,
            actions: VecDeque::new(),
        };
        target.enter(State::Considering, Some(now + config.offer));
        target.actions.push_back(Action::Consider);
        target
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The source.
    pub fn source(&self) -> NodeId {
        self.from
    }

    /// What was offered.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Target::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.deadline
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Step(step) => self.handle_step(step),
            Input::LinkDown => self.source_lost("the link to the source broke"),
            Input::SourceGone(why) => self.source_lost(&why),
            Input::Answer(number, reply) => {
                if number == self.questions {
                    self.handle_answer(now, reply);
                }
            }
            Input::Considered(result) => match (self.state, result) {
                (State::Considering, Ok(need_image)) => {
                    self.send(Step::Accept { need_image });
                    self.enter(State::Preparing, Some(now + self.config.prepare));
                    self.actions.push_back(Action::Prepare);
                }
                (State::Considering, Err(why)) => self.give_up(why),
                _ => (),
            },
            Input::Prepared(result) => match (self.state, result) {
                (State::Preparing, Ok(kept)) => {
                    self.send(Step::Prepared { kept });
                    let deadline = now + self.longest_receive();
                    self.enter(State::Receiving, Some(deadline));
                }
                (State::Preparing, Err(why)) => self.give_up(why),
                _ => (),
            },
            Input::Landing => {
                if self.state == State::Receiving {
                    self.deadline = Some(now + self.longest_receive());
                }
            }
            Input::Restored(result) => match (self.state, result) {
                (State::Receiving, Ok(())) => {
                    self.send(Step::Ready);
                    self.enter(State::Ready, Some(now + self.config.commit));
                }
                (State::Receiving, Err(why)) => self.give_up(why),
                _ => (),
            },
            Input::BulkFailed(why) => {
                if matches!(self.state, State::Preparing | State::Receiving) {
                    self.give_up(why);
                }
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        match self.state {
            State::Considering => self.give_up("the node was too busy to decide".to_owned()),
            State::Preparing => {
                let limit = self.config.prepare;
                self.give_up(format!("preparing the image took longer than {limit:?}"));
            }
            State::Receiving => self.give_up("the snapshot did not come".to_owned()),
            State::Ready => self.source_lost("the source did not decide"),
            State::Inquiring | State::Aborting => self.inquire(),
            State::Activating => self.activate(),
            State::Over => (),
        }
    }

    fn handle_step(&mut self, step: Step) {
        match (self.state, step) {
            (State::Ready | State::Inquiring | State::Aborting, Step::Commit { epoch })
                if epoch == self.granted().epoch =>
            {
                self.activate();
            }
            // The source promises never to propose, or has taken the process back.
            (
                State::Considering
                | State::Preparing
                | State::Receiving
                | State::Ready
                | State::Inquiring,
                Step::Abort { reason },
            ) => self.discard(reason),
            // Repeated, late or senseless. In `Aborting` and `Activating` the directory's answer
            // is awaited, whatever the source says.
            _ => (),
        }
    }

    /// The source is not to be counted on: before `Ready` that ends the move, in `Ready` the
    /// directory is asked, later it is being asked already.
    fn source_lost(&mut self, why: &str) {
        match self.state {
            State::Considering | State::Preparing | State::Receiving => {
                self.give_up(why.to_owned());
            }
            State::Ready => {
                self.why = why.to_owned();
                self.inquire();
            }
            State::Inquiring | State::Aborting | State::Activating | State::Over => (),
        }
    }

    fn handle_answer(&mut self, now: Duration, reply: Reply) {
        let record = match reply {
            None | Some(Answer::Failed(_)) => {
                self.deadline = Some(now + self.config.retry);
                return;
            }
            Some(Answer::Done(record) | Answer::Conflict(record)) => record,
            Some(_) => return self.discard("the directory does not know the process".to_owned()),
        };
        let claim = record.claim;
        let granted = self.granted();
        let still_the_source = claim.owner == self.from && claim.epoch == self.offer.epoch;
        match self.state {
            State::Activating if claim == self.activated() => {
                self.actions.push_back(Action::Activate(claim.epoch));
                self.send(Step::Running);
                self.enter(State::Over, None);
                self.actions
                    .push_back(Action::Finish(Outcome::Arrived { claim }));
            }
            State::Activating => {
                self.discard("the source has taken the process back".to_owned());
            }
            State::Inquiring | State::Aborting if claim == granted => self.activate(),
            State::Inquiring if still_the_source => {
                self.enter(State::Aborting, None);
                let new = Claim {
                    attempt: claim.attempt.saturating_add(1),
                    ..claim
                };
                self.compare_and_set(claim, new);
            }
            // Done, or another abort was faster: either way no proposal can be granted any more.
            State::Aborting if still_the_source => {
                let why = self.why.clone();
                self.give_up(why);
            }
            State::Inquiring | State::Aborting => {
                self.discard("the process belongs to another node".to_owned());
            }
            _ => (),
        }
    }

    fn inquire(&mut self) {
        self.enter(State::Inquiring, None);
        self.ask(Operation::Get(self.offer.process));
    }

    fn activate(&mut self) {
        if self.state != State::Activating {
            self.enter(State::Activating, None);
        }
        self.compare_and_set(self.granted(), self.activated());
    }

    fn compare_and_set(&mut self, expect: Claim, new: Claim) {
        self.ask(Operation::CompareAndSet {
            process: self.offer.process,
            expect,
            new,
        });
    }

    fn ask(&mut self, operation: Operation) {
        self.questions = self.questions.wrapping_add(1);
        self.actions.push_back(Action::Ask(Question {
            number: self.questions,
            operation,
            patience: None,
        }));
    }

    /// Discards and tells the source. Only where no grant can exist or be made any more, or before
    /// this side has said that it is ready.
    fn give_up(&mut self, reason: String) {
        self.send(Step::Abort {
            reason: reason.clone(),
        });
        self.discard(reason);
    }

    fn discard(&mut self, reason: String) {
        self.actions.push_back(Action::Discard);
        self.enter(State::Over, None);
        self.actions
            .push_back(Action::Finish(Outcome::GivenUp { reason }));
    }

    /// The claim under which it was granted but not yet run.
    fn granted(&self) -> Claim {
        Claim {
            owner: self.me,
            epoch: self.offer.epoch.next(),
            attempt: 0,
        }
    }

    /// The claim under which it runs.
    fn activated(&self) -> Claim {
        Claim {
            attempt: 1,
            ..self.granted()
        }
    }

    /// From `Prepared`, or the last pages that came, to all of the rest: the source checks the
    /// directory, freezes, sends.
    fn longest_receive(&self) -> Duration {
        let config = &self.config;
        2 * (config.check
            + config.freeze
            + config.restore_of(self.offer.memory_bytes, Plan::default()))
    }

    fn send(&mut self, step: Step) {
        self.actions.push_back(Action::Send(step));
    }

    fn enter(&mut self, state: State, deadline: Option<Duration>) {
        self.state = state;
        self.deadline = deadline;
        self.actions.push_back(Action::Enter(state));
    }
}
