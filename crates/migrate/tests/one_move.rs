//! One move between two machines, a directory of one record, and nothing else.

use migrate::rounds::Round;
use migrate::source::{self, Source};
use migrate::target::{self, Target};
use migrate::{Config, Plan, Question};
use std::collections::VecDeque;
use std::time::Duration;
use wire::api::Strategy;
use wire::control::{Offer, Step};
use wire::directory::{Answer, Claim, Operation, Record};
use wire::snapshot::Hints;
use wire::{ArtefactId, Epoch, ImageId, NodeId, ProcessId};

const S: NodeId = NodeId([1; 32]);
const T: NodeId = NodeId([2; 32]);

/// What a world does for the machines, each in its own time.
#[derive(Clone, Debug)]
enum Work {
    Precopy,
    Freeze,
    TakeBack,
    Consider,
    Prepare,
    Restore,
    Ask(NodeId, Question),
    Answer(NodeId, u32, Answer),
}

struct World {
    now: Duration,
    random: fastrand::Rng,
    source: Source,
    target: Option<Target>,
    record: Record,
    to_source: VecDeque<Step>,
    to_target: VecDeque<Step>,
    linked: bool,
    work: Vec<Work>,
    snapshot_sent: bool,
    thawed: bool,
    source_runs: bool,
    target_runs: bool,
    source_end: Option<source::Outcome>,
    target_end: Option<target::Outcome>,
    source_states: Vec<source::State>,
}

fn offer() -> Offer {
    Offer {
        process: ProcessId(1),
        name: "name".to_owned(),
        image: ImageId::default(),
        artefact: ArtefactId::default(),
        epoch: Epoch(4),
        attempt: 2,
        memory_bytes: 1 << 20,
        volumes: Vec::new(),
    }
}

impl World {
    fn new(seed: u64) -> World {
        let strategy = match seed % 2 {
            0 => Strategy::Precopy,
            _ => Strategy::Stop,
        };
        World::with(seed, strategy)
    }

    fn with(seed: u64, strategy: Strategy) -> World {
        let offer = offer();
        let claim = Claim {
            owner: S,
            epoch: offer.epoch,
            attempt: offer.attempt,
        };
        let record = Record {
            process: ProcessId(1),
            name: "name".to_owned(),
            image: ImageId::default(),
            claim,
        };
        let config = Config::default();
        let now = Duration::ZERO;
        let plan = Plan {
            strategy,
            ..Plan::default()
        };
        let mut world = World {
            now,
            random: fastrand::Rng::with_seed(seed),
            source: Source::new(now, config, S, T, offer, plan),
            target: None,
            record,
            to_source: VecDeque::new(),
            to_target: VecDeque::new(),
            linked: true,
            work: Vec::new(),
            snapshot_sent: false,
            thawed: false,
            source_runs: true,
            target_runs: false,
            source_end: None,
            target_end: None,
            source_states: Vec::new(),
        };
        world.drive();
        world
    }

    /// Does what the machines want done.
    fn drive(&mut self) {
        while let Some(action) = self.source.poll_action() {
            match action {
                source::Action::Enter(state) => self.source_states.push(state),
                source::Action::Send(step) if self.linked => self.to_target.push_back(step),
                source::Action::Send(_) | source::Action::SendImage => (),
                source::Action::Ask(question) => self.work.push(Work::Ask(S, question)),
                source::Action::Precopy(round) => {
                    assert!(self.source_runs, "it is frozen already");
                    let made = self.source_states.iter();
                    let made = made.filter(|state| **state == source::State::Precopying);
                    assert_eq!(round as usize + 1, made.count());
                    self.work.push(Work::Precopy);
                }
                source::Action::Freeze(_) => self.work.push(Work::Freeze),
                source::Action::SendSnapshot => {
                    self.snapshot_sent = true;
                    self.work.push(Work::Restore);
                }
                source::Action::Unfreeze => self.source_runs = true,
                source::Action::Drop(_) => assert!(!self.source_runs, "drops what runs"),
                source::Action::TakeBack(epoch) => {
                    assert_eq!(
                        (self.record.claim.owner, self.record.claim.epoch),
                        (S, epoch)
                    );
                    self.work.push(Work::TakeBack);
                }
                source::Action::Fence => panic!("nobody else owns it"),
                source::Action::Finish(outcome) => self.source_end = Some(outcome),
            }
        }
        let Some(target) = &mut self.target else {
            return;
        };
        while let Some(action) = target.poll_action() {
            match action {
                target::Action::Enter(_) => (),
                target::Action::Send(step) if self.linked => self.to_source.push_back(step),
                target::Action::Send(_) => (),
                target::Action::Ask(question) => self.work.push(Work::Ask(T, question)),
                target::Action::Consider => self.work.push(Work::Consider),
                target::Action::Prepare => self.work.push(Work::Prepare),
                target::Action::Activate(epoch) => {
                    assert!(self.thawed, "activates what is not there");
                    assert_eq!(
                        (self.record.claim.owner, self.record.claim.epoch),
                        (T, epoch)
                    );
                    self.target_runs = true;
                }
                target::Action::Discard => self.thawed = false,
                target::Action::Finish(outcome) => self.target_end = Some(outcome),
            }
        }
        assert!(!(self.source_runs && self.target_runs), "both run it");
    }

    fn tell_source(&mut self, input: source::Input) {
        self.source.handle(self.now, input);
        self.drive();
    }

    fn tell_target(&mut self, input: target::Input) {
        if let Some(target) = &mut self.target {
            target.handle(self.now, input);
            self.drive();
        }
    }

    fn decide(&mut self, operation: &Operation) -> Answer {
        match operation {
            Operation::Get(_) => Answer::Done(self.record.clone()),
            Operation::CompareAndSet { expect, new, .. } if *expect == self.record.claim => {
                self.record.claim = *new;
                Answer::Done(self.record.clone())
            }
            Operation::CompareAndSet { .. } => Answer::Conflict(self.record.clone()),
            other => panic!("a move never asks {other:?}"),
        }
    }

    fn fails(&mut self, one_in: usize) -> Result<(), String> {
        match one_in > 0 && self.random.usize(0..one_in) == 0 {
            true => Err("it failed".to_owned()),
            false => Ok(()),
        }
    }

    /// Does one piece of work; with `one_in`, one in so many fails.
    fn do_work(&mut self, work: Work, one_in: usize) {
        let result = self.fails(one_in);
        match work {
            Work::Freeze => {
                if self.source.state() == source::State::Freezing {
                    self.source_runs &= result.is_err();
                    self.tell_source(source::Input::Frozen(result.map(|()| 1 << 20)));
                }
            }
            Work::Precopy => {
                // Each round leaves a fourth of what it has sent.
                let bytes = (64 << 20) >> (2 * self.source_states.len());
                let took = Duration::from_secs_f64(bytes as f64 / (1 << 20) as f64);
                let dirty = bytes / 4;
                let round = Round { bytes, took, dirty };
                self.tell_target(target::Input::Landing);
                self.tell_source(source::Input::Precopied(result.map(|()| round)));
            }
            Work::TakeBack => {
                self.source_runs = true;
                self.tell_source(source::Input::TakenBack(Ok(())));
            }
            Work::Consider => self.tell_target(target::Input::Considered(result.map(|()| true))),
            Work::Prepare => {
                self.tell_target(target::Input::Prepared(result.map(|()| Hints::default())))
            }
            Work::Restore => {
                self.thawed = result.is_ok();
                self.tell_target(target::Input::Restored(result));
            }
            Work::Ask(asker, question) => {
                let answer = match result {
                    Ok(()) => self.decide(&question.operation),
                    Err(why) => Answer::Failed(why),
                };
                self.work.push(Work::Answer(asker, question.number, answer));
            }
            Work::Answer(S, number, answer) => {
                self.tell_source(source::Input::Answer(number, Some(answer)));
            }
            Work::Answer(_, number, answer) => {
                self.tell_target(target::Input::Answer(number, Some(answer)));
            }
        }
    }

    fn receive(&mut self, at_source: bool) {
        if at_source {
            if let Some(step) = self.to_source.pop_front() {
                self.tell_source(source::Input::Step(step));
            }
        } else if let Some(step) = self.to_target.pop_front() {
            match (step, &self.target) {
                (Step::Offer(offer), None) => {
                    let config = Config::default();
                    self.target = Some(Target::new(self.now, config, T, S, offer));
                    self.drive();
                }
                // What a node says that has forgotten the move.
                (Step::Commit { .. }, _) if self.target_end.is_some() => {
                    let step = match self.target_end {
                        Some(target::Outcome::Arrived { .. }) => Step::Running,
                        _ => Step::Abort {
                            reason: "unknown move".to_owned(),
                        },
                    };
                    self.to_source.push_back(step);
                }
                (step, _) => self.tell_target(target::Input::Step(step)),
            }
        }
    }

    fn time_passes(&mut self) {
        let target = self.target.as_ref().and_then(Target::poll_timeout);
        let due = self.source.poll_timeout().into_iter().chain(target).min();
        if let Some(due) = due {
            self.now = self.now.max(due);
            self.source.handle_timeout(self.now);
            if let Some(target) = &mut self.target {
                target.handle_timeout(self.now);
            }
            self.drive();
        }
    }

    fn relink(&mut self, up: bool) {
        self.linked = up;
        if up {
            self.tell_source(source::Input::LinkUp);
        } else {
            self.to_source.clear();
            self.to_target.clear();
            self.tell_source(source::Input::LinkDown);
            self.tell_target(target::Input::LinkDown);
        }
    }

    /// One thing after the other until nothing is left to do.
    fn run_to_the_end(&mut self, mut before_each: impl FnMut(&mut World)) {
        for _ in 0..10_000 {
            before_each(self);
            let target_over = self.target.is_none() || self.target_end.is_some();
            if self.source_end.is_some() && target_over && self.to_target.is_empty() {
                return;
            }
            if !self.work.is_empty() && self.random.bool() {
                let index = self.random.usize(0..self.work.len());
                let work = self.work.remove(index);
                self.do_work(work, 0);
            } else if !self.to_source.is_empty() && self.random.bool() {
                self.receive(true);
            } else if !self.to_target.is_empty() {
                self.receive(false);
            } else if self.work.is_empty() && self.to_source.is_empty() {
                self.time_passes();
            }
        }
        let (source, target) = (self.source.state(), self.target.as_ref().map(Target::state));
        panic!("it never ends: {source:?}, {target:?}");
    }
}

#[test]
fn a_move_in_which_nothing_fails_goes_through_every_state_once() {
    use source::State::*;
    let path = [
        Offering, Preparing, Precopying, Checking, Freezing, Sealed, Proposing, Granted, Over,
    ];
    for strategy in [Strategy::Stop, Strategy::Precopy] {
        let mut world = World::with(0, strategy);
        world.run_to_the_end(|_| ());
        let mut states = world.source_states.clone();
        states.dedup();
        let precopies = strategy == Strategy::Precopy;
        let expected = path
            .iter()
            .filter(|state| precopies || **state != Precopying);
        assert!(states.iter().eq(expected), "{states:?}");
        let Some(source::Outcome::Moved {
            epoch: Epoch(5),
            bytes,
            rounds,
            complaint: None,
            ..
        }) = &world.source_end
        else {
            panic!("{:?}", world.source_end);
        };
        assert_eq!(*bytes, 1 << 20);
        // The first takes 1 s; after the fourth less than 10 ms are left.
        assert_eq!(rounds.len(), if precopies { 4 } else { 0 });
        assert!(world.target_runs && !world.source_runs);
        assert_eq!(world.record.claim.attempt, 1);
    }
}

#[test]
fn a_process_whose_writes_cannot_be_known_is_stopped_for_all_of_its_memory() {
    let mut world = World::with(0, Strategy::Precopy);
    world.run_to_the_end(|world| {
        if world.source.state() == source::State::Precopying {
            let why = "the system does not tell".to_owned();
            world.tell_source(source::Input::Precopied(Err(why)));
        }
    });
    let Some(source::Outcome::Moved {
        rounds, complaint, ..
    }) = &world.source_end
    else {
        panic!("{:?}", world.source_end);
    };
    assert!(rounds.is_empty());
    let complaint = complaint.as_ref().unwrap();
    assert!(
        complaint.starts_with("the system does not tell"),
        "{complaint}"
    );
}

#[test]
fn left_to_itself_it_precopies_what_could_not_be_sent_within_the_downtime() {
    let precopies = |memory_bytes: u64, downtime: u64, bandwidth| {
        let mut offer = offer();
        offer.memory_bytes = memory_bytes;
        let plan = Plan {
            downtime: Duration::from_millis(downtime),
            bandwidth,
            ..Plan::default()
        };
        let mut source = Source::new(Duration::ZERO, Config::default(), S, T, offer, plan);
        let kept = Hints::default();
        for step in [Step::Accept { need_image: false }, Step::Prepared { kept }] {
            source.handle(Duration::ZERO, source::Input::Step(step));
        }
        source.state() == source::State::Precopying
    };
    assert!(!precopies(8 << 20, 20, None));
    assert!(precopies(16 << 20, 20, None));
    assert!(!precopies(16 << 20, 50, None));
    assert!(precopies(1 << 20, 20, Some(10 << 20)));
}

#[test]
fn whatever_fails_one_of_the_two_runs_it_in_the_end_as_the_record_says() {
    let rounds = std::env::var("LIMOSA_ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(2_000);
    for seed in 0..rounds {
        let mut world = World::new(seed);
        let mut faults = world.random.usize(0..6);
        world.run_to_the_end(|world| {
            if faults == 0 {
                if !world.linked {
                    world.relink(true);
                }
                return;
            }
            if world.random.usize(0..8) > 0 {
                return;
            }
            faults -= 1;
            match world.random.u8(0..7) {
                6 => world.tell_source(source::Input::Cancel("it is to stay".to_owned())),
                0 | 1 => {
                    let up = !world.linked;
                    world.relink(up);
                }
                2 => world.tell_source(source::Input::TargetGone("a rumour".to_owned())),
                3 => world.tell_target(target::Input::SourceGone("a rumour".to_owned())),
                4 => world.time_passes(),
                _ => {
                    if let Some(work) = world.work.pop() {
                        world.do_work(work, 2);
                    }
                }
            }
        });
        assert!(
            world.source_runs != world.target_runs,
            "seed {seed}: {:?}, {:?}",
            world.source_end,
            world.target_end
        );
        let owner = if world.source_runs { S } else { T };
        assert_eq!(world.record.claim.owner, owner, "seed {seed}");
        assert!(
            world.record.claim.attempt > 0,
            "seed {seed}: a grant is left over"
        );
        let moved = matches!(world.source_end, Some(source::Outcome::Moved { .. }));
        let lost = matches!(world.source_end, Some(source::Outcome::Lost { .. }));
        assert_eq!(moved || lost, world.target_runs, "seed {seed}");
        if let Some(
            source::Outcome::Kept { claim, .. } | source::Outcome::TakenBack { claim, .. },
        ) = world.source_end
        {
            let seen = (claim.owner, claim.epoch);
            assert_eq!(seen, (S, world.record.claim.epoch), "seed {seed}");
        }
    }
}

#[test]
fn in_every_state_before_the_proposal_waiting_ends_and_the_process_runs_on() {
    use source::State::*;
    for state in [Offering, Preparing, Precopying, Freezing, Sealed] {
        let mut world = World::new(0);
        while world.source.state() != state {
            match (world.to_source.is_empty(), world.to_target.is_empty()) {
                (false, _) => world.receive(true),
                (_, false) => world.receive(false),
                _ => {
                    let work = world.work.remove(0);
                    world.do_work(work, 0);
                }
            }
        }
        world.linked = false;
        while world.source_end.is_none() {
            world.time_passes();
        }
        let end = world.source_end.clone();
        let Some(source::Outcome::Kept { reason, .. }) = end else {
            panic!("{state:?}: {end:?}");
        };
        assert!(reason.to_string().contains("took longer"), "{reason}");
        assert!(world.source_runs, "{state:?}");
    }
}

#[test]
fn a_directory_that_does_not_answer_before_the_freeze_ends_the_move() {
    let mut world = World::new(1);
    while world.source.state() != source::State::Checking {
        match (world.to_source.is_empty(), world.to_target.is_empty()) {
            (false, _) => world.receive(true),
            (_, false) => world.receive(false),
            _ => {
                let work = world.work.remove(0);
                world.do_work(work, 0);
            }
        }
    }
    let Some(Work::Ask(_, question)) = world.work.pop() else {
        panic!("nothing is asked");
    };
    assert_eq!(question.patience, Some(Config::default().check));
    world.tell_source(source::Input::Answer(question.number, None));
    assert!(matches!(
        world.source_end,
        Some(source::Outcome::Kept {
            reason: source::Reason::DirectoryUnreachable,
            ..
        })
    ));
    assert!(world.source_runs && !world.snapshot_sent);
}
