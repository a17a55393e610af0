//! Every state of a move times every fault: what is promised, and that it holds.
//!
//! The promises are one exhaustive `match` per side: a state that is added to the protocol does not
//! compile here until somebody has said what happens when something breaks in it.

use migrate::{source, target};
use node::{Event, MoveState, Reply, Token};
use sim::conditions::Conditions;
use sim::network::Channel;
use sim::{World, calm};
use std::time::Duration;
use wire::api::Strategy;
use wire::control::{Control, Step};
use wire::{Epoch, MoveId, ProcessId};

const SOURCE: usize = 0;
const TARGET: usize = 1;
const DIRECTORY: usize = 2;
const ANCHOR: usize = 3;
const PROCESS: ProcessId = ProcessId(7);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    TargetDies,
    SourceDies,
    DirectoryDiesAndReturns,
    AnchorDies,
    LinkLost,
    TargetRefuses,
    Cancelled,
}

const FAULTS: [Fault; 7] = [
    Fault::TargetDies,
    Fault::SourceDies,
    Fault::DirectoryDiesAndReturns,
    Fault::AnchorDies,
    Fault::LinkLost,
    Fault::TargetRefuses,
    Fault::Cancelled,
];

/// What becomes of the process.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Promise {
    /// It runs on at the source at once under its old epoch, and the source says why.
    RunsOn,
    /// It runs at the target, under the next epoch.
    Moved,
    /// It is taken back and runs at the source, under the epoch after the grant.
    TakenBack,
    /// It is lost with its host, and so is its record.
    Lost,
    /// The directory decides: moved, or taken back, or run on.
    Decided,
    /// Its source is dead: it runs at the target if that was granted in time, else it is lost.
    MovedOrLost,
}

fn promise_in_source_state(state: source::State, fault: Fault) -> Promise {
    use Fault::*;
    use source::State::*;
    match state {
        Offering | Preparing | Precopying | Checking | Freezing | Sealed => match fault {
            TargetDies | LinkLost | TargetRefuses | Cancelled => Promise::RunsOn,
            SourceDies => Promise::Lost,
            DirectoryDiesAndReturns | AnchorDies => Promise::Moved,
        },
        Proposing => match fault {
            TargetDies | TargetRefuses => Promise::TakenBack,
            SourceDies => Promise::MovedOrLost,
            DirectoryDiesAndReturns | AnchorDies | Cancelled => Promise::Moved,
            LinkLost => Promise::Decided,
        },
        Granted => match fault {
            TargetDies => Promise::TakenBack,
            SourceDies | DirectoryDiesAndReturns | AnchorDies | LinkLost | Cancelled => {
                Promise::Moved
            }
            TargetRefuses => Promise::Decided,
        },
        // The target is dead already.
        TakingBack | Thawing => match fault {
            TargetDies
            | DirectoryDiesAndReturns
            | AnchorDies
            | LinkLost
            | TargetRefuses
            | Cancelled => Promise::TakenBack,
            SourceDies => Promise::Lost,
        },
        Over => over(fault),
    }
}

fn promise_in_target_state(state: target::State, fault: Fault) -> Promise {
    use Fault::*;
    use target::State::*;
    match state {
        Considering | Preparing | Receiving | Ready => match fault {
            TargetDies | LinkLost | TargetRefuses | Cancelled => Promise::RunsOn,
            SourceDies => Promise::Lost,
            DirectoryDiesAndReturns | AnchorDies => Promise::Moved,
        },
        // The link broke before the source could propose.
        Inquiring | Aborting => match fault {
            TargetDies
            | LinkLost
            | TargetRefuses
            | DirectoryDiesAndReturns
            | AnchorDies
            | Cancelled => Promise::RunsOn,
            SourceDies => Promise::Lost,
        },
        Activating => match fault {
            TargetDies => Promise::TakenBack,
            SourceDies | DirectoryDiesAndReturns | AnchorDies | LinkLost | Cancelled => {
                Promise::Moved
            }
            TargetRefuses => Promise::Decided,
        },
        Over => over(fault),
    }
}

/// The process runs at the target.
fn over(fault: Fault) -> Promise {
    match fault {
        Fault::TargetDies => Promise::Lost,
        Fault::SourceDies
        | Fault::DirectoryDiesAndReturns
        | Fault::AnchorDies
        | Fault::LinkLost
        | Fault::TargetRefuses
        | Fault::Cancelled => Promise::Moved,
    }
}

/// What must happen first for a state to be entered at all.
fn prelude_of(state: MoveState) -> Option<(MoveState, Fault)> {
    match state {
        MoveState::Out(state) => match state {
            source::State::TakingBack | source::State::Thawing => {
                let granted = MoveState::Out(source::State::Granted);
                Some((granted, Fault::TargetDies))
            }
            source::State::Offering
            | source::State::Preparing
            | source::State::Precopying
            | source::State::Checking
            | source::State::Freezing
            | source::State::Sealed
            | source::State::Proposing
            | source::State::Granted
            | source::State::Over => None,
        },
        MoveState::In(state) => match state {
            target::State::Inquiring | target::State::Aborting => {
                let ready = MoveState::In(target::State::Ready);
                Some((ready, Fault::LinkLost))
            }
            target::State::Considering
            | target::State::Preparing
            | target::State::Receiving
            | target::State::Ready
            | target::State::Activating
            | target::State::Over => None,
        },
    }
}

/// A move that was just commanded, with a client in the middle of its bytes.
fn world(seed: u64) -> (World, Token, MoveId) {
    let mut world = World::new(seed, 4, DIRECTORY, Conditions::calm());
    for host in 0..4 {
        world.boot(host);
    }
    run_for(&mut world, Duration::from_secs(1));
    world.start(SOURCE, PROCESS, "process");
    run_for(&mut world, Duration::from_millis(100));
    assert!(world.hosts[SOURCE].runs(PROCESS));
    world.connect(ANCHOR, PROCESS, 20_000);
    run_for(&mut world, Duration::from_millis(200));
    let token = world.migrate_by(SOURCE, PROCESS, TARGET, Strategy::Precopy);
    let node = world.hosts[SOURCE].node.as_ref().unwrap();
    let (id, ..) = node.moves().next().expect("the move has begun");
    (world, token, id)
}

fn run_for(world: &mut World, time: Duration) {
    let end = world.now + time;
    while world.now < end && world.step() {
        world.check().unwrap();
    }
}

fn reach(world: &mut World, token: Token, wanted: MoveState) {
    let is_over = matches!(
        wanted,
        MoveState::Out(source::State::Over) | MoveState::In(target::State::Over)
    );
    for _ in 0..100_000 {
        let reached = match wanted {
            MoveState::Out(source::State::Over) => world.replies.contains_key(&token),
            MoveState::In(target::State::Over) => world.hosts[TARGET].runs(PROCESS),
            state => {
                let host = match state {
                    MoveState::Out(_) => SOURCE,
                    MoveState::In(_) => TARGET,
                };
                world.move_states(PROCESS).contains(&(host, state))
            }
        };
        if reached {
            return;
        }
        let given_up = !is_over && world.move_states(PROCESS).is_empty();
        assert!(!given_up, "{wanted:?} was never entered");
        world.step();
        world.check().unwrap();
    }
    panic!("{wanted:?} was never entered");
}

fn inject(world: &mut World, id: MoveId, fault: Fault) {
    match fault {
        Fault::TargetDies => {
            world.crash(TARGET);
            world.boot_later(TARGET, Duration::from_secs(5));
        }
        Fault::SourceDies => {
            world.crash(SOURCE);
            world.boot_later(SOURCE, Duration::from_secs(5));
        }
        Fault::DirectoryDiesAndReturns => {
            world.crash(DIRECTORY);
            world.boot_later(DIRECTORY, Duration::from_secs(1));
        }
        // It comes back when all is over, without its clients.
        Fault::AnchorDies => world.crash(ANCHOR),
        Fault::LinkLost => world.break_link(SOURCE, TARGET, Channel::Control),
        Fault::TargetRefuses => {
            let from = world.hosts[TARGET].id;
            let reason = "it has changed its mind".to_owned();
            let step = Step::Abort { reason };
            let message = Control::Move { id, step };
            world.tell(SOURCE, Event::Control { from, message });
        }
        Fault::Cancelled => {
            let (process, reason) = (PROCESS, "somebody wants it to stay".to_owned());
            world.tell(SOURCE, Event::Cancel { process, reason });
        }
    }
}

/// Where it runs, and under which epoch.
fn whereabouts(world: &World) -> Option<(usize, Epoch)> {
    let mut at = world.hosts.iter().enumerate().filter_map(|(index, host)| {
        let instance = host.instances.get(&PROCESS)?;
        host.runs(PROCESS).then_some((index, instance.epoch))
    });
    at.next()
}

fn check(seed: u64, state: MoveState, fault: Fault, promise: Promise) {
    let case = format!("seed {seed}: {fault:?} in {state:?} promises {promise:?}");
    let (mut world, token, id) = world(seed);
    if let Some((earlier, fault)) = prelude_of(state) {
        reach(&mut world, token, earlier);
        inject(&mut world, id, fault);
    }
    reach(&mut world, token, state);
    inject(&mut world, id, fault);
    if promise == Promise::RunsOn {
        run_for(&mut world, Duration::from_millis(5));
        let here = whereabouts(&world);
        assert_eq!(here, Some((SOURCE, Epoch(1))), "{case}: not at once");
        let reply = world.replies.get(&token);
        let Some(Reply::Failed(failure)) = reply else {
            panic!("{case}, but the reply is {reply:?}");
        };
        assert!(!failure.to_string().is_empty());
    }
    run_for(&mut world, Duration::from_secs(20));
    calm(&mut world).unwrap_or_else(|violation| panic!("{case}, but {violation}"));
    let end = whereabouts(&world);
    let moved = Some((TARGET, Epoch(2)));
    let taken_back = Some((SOURCE, Epoch(3)));
    let ran_on = Some((SOURCE, Epoch(1)));
    let kept = match promise {
        Promise::RunsOn => end == ran_on,
        Promise::Moved => end == moved,
        Promise::TakenBack => end == taken_back,
        Promise::Lost => end.is_none(),
        Promise::Decided => [moved, taken_back, ran_on].contains(&end),
        Promise::MovedOrLost => end.is_none() || end == moved,
    };
    assert!(kept, "{case}, but at the end it is at {end:?}");
    let in_time = match world.replies.get(&token) {
        Some(Reply::Moved { .. }) => end == moved || promise == Promise::Lost,
        Some(Reply::Failed(_)) => end != moved,
        // The source has died with the command.
        _ => fault == Fault::SourceDies,
    };
    assert!(in_time, "{case}: {:?}, {end:?}", world.replies.get(&token));
}

#[test]
fn every_fault_in_every_state_of_the_source_ends_as_promised() {
    for seed in 0..rounds() {
        for state in source::State::ALL {
            for fault in FAULTS {
                let promise = promise_in_source_state(*state, fault);
                check(seed, MoveState::Out(*state), fault, promise);
            }
        }
    }
}

#[test]
fn every_fault_in_every_state_of_the_target_ends_as_promised() {
    for seed in 0..rounds() {
        for state in target::State::ALL {
            for fault in FAULTS {
                let promise = promise_in_target_state(*state, fault);
                check(seed, MoveState::In(*state), fault, promise);
            }
        }
    }
}

/// Each round draws other delays.
fn rounds() -> u64 {
    let rounds = std::env::var("LIMOSA_ROUNDS").ok();
    let rounds: Option<u64> = rounds.and_then(|text| text.parse().ok());
    rounds.map_or(5, |rounds| rounds.div_ceil(50))
}
