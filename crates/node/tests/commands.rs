//! What commands get, in a fleet where every message arrives at once. (What happens when things
//! break is tried out in `sim`.)

use migrate::Plan;
use node::{Change, Config, Effect, Event, Failure, Limits, Named, Node, Reply, Token};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use wire::control::{Control, Member, Offer, Step};
use wire::directory::{Operation, Record};
use wire::snapshot::Hints;
use wire::{ArtefactId, Epoch, ImageId, MoveId, NodeId, ProcessId};

const P: ProcessId = ProcessId(1);
const SECOND: Duration = Duration::from_secs(1);

struct Fleet {
    now: Duration,
    nodes: Vec<Node>,
    linked: Vec<bool>,
    /// Effects that were not carried out by the fleet itself.
    seen: Vec<(usize, Effect)>,
    replies: BTreeMap<Token, Reply>,
    store: BTreeMap<ProcessId, Record>,
    next_token: Token,
    /// What the targets' worlds say to an offer.
    refusal: Option<&'static str>,
}

fn id(index: usize) -> NodeId {
    NodeId([index as u8 + 1; 32])
}

fn member(index: usize) -> Member {
    Member {
        node: id(index),
        name: format!("node{index}"),
        address: format!("host{index}:1"),
        incarnation: 1,
    }
}

fn gone(epoch: u64) -> Effect {
    Effect::Gone {
        process: P,
        epoch: Epoch(epoch),
    }
}

fn named(index: usize) -> Named {
    Named {
        node: id(index),
        name: Some(member(index).name),
    }
}

impl Fleet {
    /// Node 0 keeps the directory; all are linked.
    fn new(count: usize, limits: Limits) -> Fleet {
        let nodes = (0..count).map(|index| {
            let mut config = Config::new(member(index), id(0));
            config.members = (0..count).map(member).collect();
            config.limits = limits;
            Node::new(Duration::ZERO, config)
        });
        let mut fleet = Fleet {
            now: Duration::ZERO,
            nodes: nodes.collect(),
            linked: vec![true; count],
            seen: Vec::new(),
            replies: BTreeMap::new(),
            store: BTreeMap::new(),
            next_token: 1,
            refusal: None,
        };
        for index in 0..count {
            for peer in (0..count).filter(|peer| *peer != index) {
                fleet.nodes[index].handle(Duration::ZERO, Event::LinkUp(id(peer)));
            }
        }
        fleet.settle();
        fleet
    }

    fn tell(&mut self, index: usize, event: Event) {
        self.nodes[index].handle(self.now, event);
        self.settle();
    }

    fn command(&mut self, index: usize, event: impl FnOnce(Token) -> Event) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.tell(index, event(token));
        token
    }

    fn start(&mut self, index: usize, process: ProcessId, name: &str) -> Token {
        let name = name.to_owned();
        self.command(index, |token| Event::Start {
            token,
            process,
            name,
            image: ImageId::default(),
            again: false,
        })
    }

    fn migrate(&mut self, index: usize, process: ProcessId, to: NodeId) -> Token {
        self.command(index, |token| Event::Migrate {
            token,
            id: MoveId(token),
            process,
            to,
            artefact: ArtefactId::default(),
            memory_bytes: 4096,
            volumes: Vec::new(),
            plan: Plan::default(),
        })
    }

    /// Cuts a node off from everybody, or links it again.
    fn link(&mut self, index: usize, up: bool) {
        self.linked[index] = up;
        for peer in (0..self.nodes.len()).filter(|peer| *peer != index) {
            for (end, other) in [(index, peer), (peer, index)] {
                let event = match up {
                    true => Event::LinkUp(id(other)),
                    false => Event::LinkDown(id(other)),
                };
                self.nodes[end].handle(self.now, event);
            }
        }
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((due, index)) = (0..self.nodes.len())
            .filter_map(|index| Some((self.nodes[index].poll_timeout()?, index)))
            .min()
            .filter(|(due, _)| *due <= end)
        {
            self.now = self.now.max(due);
            self.nodes[index].handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// Carries out effects until there are none.
    fn settle(&mut self) {
        let mut queue = VecDeque::new();
        loop {
            for index in 0..self.nodes.len() {
                while let Some(effect) = self.nodes[index].poll_effect() {
                    queue.push_back((index, effect));
                }
            }
            let Some((index, effect)) = queue.pop_front() else {
                return;
            };
            self.carry_out(index, effect);
        }
    }

    fn carry_out(&mut self, index: usize, effect: Effect) {
        let event = match effect {
            Effect::Send { to, message } => {
                let mut frame = Vec::new();
                wire::link::write_frame(&message, wire::link::MAX_CONTROL, &mut frame).unwrap();
                let peer = usize::from(to.0[0]) - 1;
                if self.linked[index] && self.linked[peer] {
                    let from = id(index);
                    let event = Event::Control { from, message };
                    self.nodes[peer].handle(self.now, event);
                }
                return;
            }
            Effect::Store { ticket, change } => {
                match change {
                    Change::Put(record) => drop(self.store.insert(record.process, record)),
                    Change::Delete(process) => drop(self.store.remove(&process)),
                }
                Event::Stored {
                    ticket,
                    result: Ok(()),
                }
            }
            Effect::Reply { token, reply } => {
                let earlier = self.replies.insert(token, reply);
                assert_eq!(earlier, None, "two replies");
                return;
            }
            Effect::Consider { id, .. } => Event::Considered {
                id,
                result: self.refusal.map_or(Ok(true), |why| Err(why.to_owned())),
            },
            Effect::Prepare { id } => Event::Prepared {
                id,
                result: Ok(Hints::default()),
            },
            Effect::Freeze { id, .. } => Event::Frozen {
                id,
                result: Ok(4096),
            },
            Effect::SendSnapshot { id, to, .. } => {
                let target = usize::from(to.0[0]) - 1;
                let event = Event::Restored { id, result: Ok(()) };
                self.nodes[target].handle(self.now, event);
                return;
            }
            other => return self.seen.push((index, other)),
        };
        self.nodes[index].handle(self.now, event);
    }

    fn saw(&self, index: usize, effect: &Effect) -> bool {
        self.seen
            .iter()
            .any(|(at, seen)| *at == index && seen == effect)
    }

    fn failure(&self, token: Token) -> &Failure {
        match self.replies.get(&token) {
            Some(Reply::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_process_starts_moves_away_and_ends_with_its_record() {
    let mut fleet = Fleet::new(3, Limits::default());
    let token = fleet.start(1, P, "a");
    assert!(matches!(fleet.replies[&token], Reply::Started(claim) if claim.owner == id(1)));
    assert!(fleet.saw(
        1,
        &Effect::Run {
            process: P,
            epoch: Epoch(1)
        }
    ));

    let token = fleet.migrate(1, P, id(2));
    let Reply::Moved { epoch, bytes, .. } = fleet.replies[&token] else {
        panic!("{:?}", fleet.replies[&token]);
    };
    assert_eq!((epoch, bytes), (Epoch(2), 4096));
    let dropped = Effect::Drop {
        process: P,
        owner: id(2),
        epoch: Epoch(2),
    };
    assert!(fleet.saw(1, &dropped));
    assert_eq!(fleet.nodes[1].processes().count(), 0);
    assert_eq!(fleet.nodes[2].processes().count(), 1);

    fleet.tell(2, Event::Exited(P));
    assert!(fleet.store.is_empty());
    for index in 0..3 {
        assert!(fleet.saw(index, &gone(2)), "node {index}");
    }
    let token = fleet.command(0, |token| Event::Locate { token, process: P });
    assert_eq!(*fleet.failure(token), Failure::UnknownProcess(P));
}

#[test]
fn a_process_moves_there_and_back() {
    let mut fleet = Fleet::new(2, Limits::default());
    fleet.start(0, P, "a");
    for round in 0..10 {
        let token = fleet.migrate(round % 2, P, id((round + 1) % 2));
        assert!(
            matches!(fleet.replies[&token], Reply::Moved { .. }),
            "{round}"
        );
    }
    assert_eq!(fleet.store[&P].claim.epoch, Epoch(11));
}

#[test]
fn a_name_that_is_taken_is_refused_and_says_by_whom() {
    let mut fleet = Fleet::new(2, Limits::default());
    fleet.start(0, P, "a");
    let token = fleet.start(1, ProcessId(2), "a");
    let expected = Failure::NameTaken {
        name: "a".to_owned(),
        by: P,
    };
    assert_eq!(*fleet.failure(token), expected);
    assert_eq!(fleet.nodes[1].processes().count(), 0);
}

#[test]
fn a_move_that_makes_no_sense_is_refused_at_once() {
    let mut fleet = Fleet::new(3, Limits::default());
    fleet.start(1, P, "a");
    let unknown = fleet.migrate(1, ProcessId(9), id(2));
    assert_eq!(
        *fleet.failure(unknown),
        Failure::UnknownProcess(ProcessId(9))
    );
    let elsewhere = fleet.migrate(2, P, id(0));
    let owner = named(1);
    assert_eq!(
        *fleet.failure(elsewhere),
        Failure::NotOwner { process: P, owner }
    );
    let stranger = fleet.migrate(1, P, NodeId([77; 32]));
    assert_eq!(
        *fleet.failure(stranger),
        Failure::UnknownNode(Named {
            node: NodeId([77; 32]),
            name: None,
        })
    );
    let nowhere = fleet.migrate(1, P, id(1));
    assert!(matches!(fleet.failure(nowhere), Failure::MoveFailed(_)));
    fleet.link(2, false);
    let unlinked = fleet.migrate(1, P, id(2));
    assert_eq!(
        *fleet.failure(unlinked),
        Failure::TargetUnreachable(named(2))
    );
    assert!(fleet.failure(unlinked).to_string().contains("node2 (0303"));
}

#[test]
fn a_target_that_refuses_is_quoted_and_the_process_runs_on() {
    let mut fleet = Fleet::new(2, Limits::default());
    fleet.start(0, P, "a");
    fleet.refusal = Some("there is no room");
    let token = fleet.migrate(0, P, id(1));
    assert!(
        fleet
            .failure(token)
            .to_string()
            .contains("there is no room")
    );
    fleet.refusal = None;
    let token = fleet.migrate(0, P, id(1));
    assert!(matches!(fleet.replies[&token], Reply::Moved { .. }));
}

#[test]
fn what_a_target_gives_as_its_reason_is_shown_short_and_harmless() {
    let mut fleet = Fleet::new(2, Limits::default());
    fleet.start(0, P, "a");
    let long = format!("\x1b[2J{}", "x".repeat(4096));
    fleet.refusal = Some(long.leak());
    let token = fleet.migrate(0, P, id(1));
    let shown = fleet.failure(token).to_string();
    assert!(
        shown.contains("?[2Jxx") && shown.len() < 1000,
        "{}",
        shown.len()
    );
}

#[test]
fn without_the_directory_commands_fail_in_time_and_processes_run_on() {
    let mut fleet = Fleet::new(3, Limits::default());
    fleet.start(1, P, "a");
    fleet.link(0, false);
    let start = fleet.start(1, ProcessId(2), "b");
    let locate = fleet.command(1, |token| Event::Locate { token, process: P });
    let migrate = fleet.migrate(1, P, id(2));
    fleet.pass(10 * SECOND);
    for token in [start, locate, migrate] {
        assert_eq!(*fleet.failure(token), Failure::DirectoryUnreachable);
    }
    assert_eq!(fleet.nodes[1].processes().count(), 1);
    fleet.link(0, true);
    fleet.pass(SECOND);
    let names: Vec<&str> = fleet.store.values().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["a"], "the start that failed left a record");
    assert!(!fleet.saw(1, &Effect::Fence { process: P }));
}

#[test]
fn what_a_process_did_before_it_was_watched_is_made_up_for() {
    let mut fleet = Fleet::new(3, Limits::default());
    fleet.start(1, P, "a");
    fleet.migrate(1, P, id(2));
    fleet.seen.clear();
    // Node 0 was told where it was when somebody connected; it has moved since.
    let (process, epoch) = (P, Epoch(1));
    fleet.tell(0, Event::Watch { process, epoch });
    let moved = fleet.store[&P].clone();
    assert_eq!(moved.claim.owner, id(2));
    assert!(fleet.saw(0, &Effect::Whereabouts(moved)));

    fleet.tell(2, Event::Exited(P));
    fleet.seen.clear();
    fleet.tell(1, Event::Watch { process, epoch });
    let gone = |(index, effect): &(usize, Effect)| {
        *index == 1 && matches!(effect, Effect::Gone { process: P, .. })
    };
    assert!(fleet.seen.iter().any(gone));
}

#[test]
fn a_process_that_could_not_be_made_leaves_no_record_behind() {
    let mut fleet = Fleet::new(2, Limits::default());
    let token = fleet.start(1, P, "a");
    assert!(matches!(fleet.replies[&token], Reply::Started(_)));
    // What the world says where the process cannot be made is what it says of an end.
    fleet.tell(1, Event::Exited(P));
    assert!(fleet.store.is_empty());
    let again = fleet.start(1, ProcessId(2), "a");
    assert!(matches!(fleet.replies[&again], Reply::Started(_)));
}

#[test]
fn a_start_whose_answer_was_lost_leaves_no_record_behind() {
    let mut fleet = Fleet::new(2, Limits::default());
    // The question arrives, the answer does not.
    let record = |fleet: &Fleet| fleet.store.contains_key(&P);
    fleet.linked[0] = false;
    let token = fleet.start(1, P, "a");
    let ask = Control::Ask {
        request: (1 << 24) + 1,
        operation: Operation::Create(Record {
            process: P,
            name: "a".to_owned(),
            image: ImageId::default(),
            claim: wire::directory::Claim {
                owner: id(1),
                epoch: Epoch(1),
                attempt: 1,
            },
        }),
    };
    let from = id(1);
    fleet.tell(0, Event::Control { from, message: ask });
    assert!(record(&fleet));
    fleet.pass(10 * SECOND);
    assert_eq!(*fleet.failure(token), Failure::DirectoryUnreachable);
    fleet.link(0, true);
    fleet.pass(SECOND);
    assert!(!record(&fleet));
    assert!(!fleet.saw(
        1,
        &Effect::Run {
            process: P,
            epoch: Epoch(1)
        }
    ));
}

#[test]
fn a_restore_whose_answer_was_lost_leaves_no_record_behind() {
    let mut fleet = Fleet::new(2, Limits::default());
    // An earlier life: the record of the next one has a later epoch than is asked for.
    fleet.start(0, P, "a");
    fleet.migrate(0, P, id(1));
    fleet.tell(1, Event::Exited(P));
    assert!(fleet.store.is_empty());
    fleet.linked[0] = false;
    let token = 100;
    let start = Event::Start {
        token,
        process: P,
        name: "a".to_owned(),
        image: ImageId::default(),
        again: true,
    };
    fleet.nodes[1].handle(fleet.now, start);
    let mut asked = None;
    while let Some(effect) = fleet.nodes[1].poll_effect() {
        if let Effect::Send { message, .. } = effect {
            asked = Some(message);
        }
    }
    // The question arrives, the answer does not.
    let (from, message) = (id(1), asked.unwrap());
    assert!(matches!(message, Control::Ask { .. }), "{message:?}");
    fleet.tell(0, Event::Control { from, message });
    assert!(fleet.store[&P].claim.epoch > Epoch(1));
    fleet.pass(10 * SECOND);
    assert_eq!(*fleet.failure(token), Failure::DirectoryUnreachable);
    fleet.link(0, true);
    fleet.pass(SECOND);
    assert!(fleet.store.is_empty(), "{:?}", fleet.store);
}

#[test]
fn what_a_restarted_node_had_is_removed_and_everybody_told() {
    let mut fleet = Fleet::new(3, Limits::default());
    fleet.start(1, P, "a");
    fleet.link(1, false);
    let mut config = Config::new(member(1), id(0));
    config.me.incarnation = 2;
    config.members = (0..3).map(member).collect();
    fleet.nodes[1] = Node::new(fleet.now, config);
    let record = fleet.store[&P].clone();
    fleet.link(1, true);
    assert!(fleet.store.is_empty());
    assert!(fleet.saw(2, &gone(1)));
    assert!(fleet.saw(1, &Effect::Lost(record)), "it vanished silently");
    let lost = |(_, effect): &&(usize, Effect)| matches!(effect, Effect::Lost(_));
    assert_eq!(fleet.seen.iter().filter(lost).count(), 1);
}

#[test]
fn the_record_of_a_lost_process_stays_until_somebody_removes_it() {
    let mut fleet = Fleet::new(3, Limits::default());
    fleet.start(1, P, "a");
    let remove = |token| Event::Remove { token, process: P };
    let alive = fleet.command(2, remove);
    let owner = named(1);
    assert_eq!(
        *fleet.failure(alive),
        Failure::OwnerAlive { process: P, owner }
    );
    fleet.link(1, false);
    fleet.pass(5 * SECOND);
    assert!(fleet.store.contains_key(&P));
    let dead = fleet.command(2, remove);
    assert!(matches!(fleet.replies[&dead], Reply::Removed(_)));
    assert!(fleet.store.is_empty());
    // It was alive after all.
    fleet.link(1, true);
    assert!(fleet.saw(1, &Effect::Fence { process: P }));
}

#[test]
fn limits_refuse_with_the_reason() {
    let limits = Limits {
        processes: 1,
        moves: 0,
        ..Limits::default()
    };
    let mut fleet = Fleet::new(2, limits);
    fleet.start(0, P, "a");
    let start = fleet.start(0, ProcessId(2), "b");
    let what = "processes";
    assert_eq!(*fleet.failure(start), Failure::TooMany { what, count: 1 });
    let migrate = fleet.migrate(0, P, id(1));
    let what = "moves in flight";
    assert_eq!(*fleet.failure(migrate), Failure::TooMany { what, count: 0 });
}

#[test]
fn strangers_are_not_heard_and_unknown_moves_are_answered() {
    let mut fleet = Fleet::new(2, Limits::default());
    fleet.start(0, P, "a");
    let operation = Operation::Remove {
        process: P,
        expect: fleet.store[&P].claim,
    };
    let ask = Control::Ask {
        request: 1,
        operation,
    };
    let from = NodeId([77; 32]);
    fleet.tell(0, Event::Control { from, message: ask });
    assert!(fleet.store.contains_key(&P));

    let step = Step::Commit { epoch: Epoch(2) };
    let message = Control::Move {
        id: MoveId(5),
        step,
    };
    fleet.nodes[0].handle(
        SECOND,
        Event::Control {
            from: id(1),
            message,
        },
    );
    assert!(matches!(
        answered(&mut fleet),
        Some((MoveId(5), Step::Abort { .. }))
    ));
}

/// The step with which node 0 has answered.
fn answered(fleet: &mut Fleet) -> Option<(MoveId, Step)> {
    std::iter::from_fn(|| fleet.nodes[0].poll_effect()).find_map(|effect| match effect {
        Effect::Send {
            message: Control::Move { id, step },
            ..
        } => Some((id, step)),
        _ => None,
    })
}

#[test]
fn an_offer_of_a_process_whose_name_is_none_is_refused() {
    let longest = "x".repeat(1000);
    for name in ["", "a\0b", "a\x1b[2J", &longest] {
        let mut fleet = Fleet::new(2, Limits::default());
        let offer = Offer {
            process: P,
            name: name.to_owned(),
            image: ImageId::default(),
            artefact: ArtefactId::default(),
            epoch: Epoch(1),
            attempt: 1,
            memory_bytes: 0,
            volumes: Vec::new(),
        };
        let message = Control::Move {
            id: MoveId(5),
            step: Step::Offer(offer),
        };
        let from = id(1);
        fleet.nodes[0].handle(SECOND, Event::Control { from, message });
        let answer = answered(&mut fleet);
        assert!(
            matches!(answer, Some((MoveId(5), Step::Abort { .. }))),
            "{name:?}: {answer:?}"
        );
    }
}

#[test]
fn twenty_thousand_records_are_listed_and_surveyed() {
    const MANY: u64 = 20_000;
    let limits = Limits {
        records: MANY as usize,
        ..Limits::default()
    };
    let record = |process: u64| Record {
        process: ProcessId(process),
        name: format!("{process:0>63}"),
        image: ImageId([0xff; 32]),
        claim: wire::directory::Claim {
            // Every tenth is of an earlier life of node 1, the others of a node that is away.
            owner: id(if process.is_multiple_of(10) { 1 } else { 8 }),
            epoch: Epoch(1),
            attempt: 1,
        },
    };
    let mut fleet = Fleet::new(3, limits);
    let mut config = Config::new(member(0), id(0));
    config.limits = limits;
    config.members = (0..3).map(member).collect();
    config.restored = (0..MANY).map(record).collect();
    fleet.store = (0..MANY).map(|p| (ProcessId(p), record(p))).collect();
    fleet.link(0, false);
    fleet.nodes[0] = Node::new(fleet.now, config);
    let mut config = Config::new(member(1), id(0));
    config.me.incarnation = 2;
    config.members = (0..3).map(member).collect();
    config.limits = limits;
    fleet.nodes[1] = Node::new(fleet.now, config);
    fleet.link(0, true);
    fleet.pass(SECOND);
    assert_eq!(fleet.store.len() as u64, MANY - MANY / 10);
    let token = fleet.command(2, |token| Event::List { token });
    let Reply::Records(records) = &fleet.replies[&token] else {
        panic!("{:?}", fleet.replies[&token]);
    };
    assert!(records.iter().eq(fleet.store.values()));
}

#[test]
fn a_fleet_that_is_full_or_has_the_name_takes_nobody_and_says_why() {
    let mut fleet = Fleet::new(2, Limits::default());
    let mut twin = member(9);
    twin.name = member(1).name;
    let taken = fleet.command(0, |token| Event::Admit {
        token,
        member: twin,
    });
    let (by, dead) = (named(1), false);
    let expected = Failure::NodeNameTaken { by, dead };
    assert_eq!(*fleet.failure(taken), expected);
    assert!(expected.to_string().contains("--name"));

    let mut config = Config::new(member(0), id(0));
    config.membership.max_members = 1;
    config.members = vec![member(1)];
    fleet.nodes[0] = Node::new(fleet.now, config);
    let member = member(9);
    let full = fleet.command(0, |token| Event::Admit { token, member });
    assert_eq!(*fleet.failure(full), Failure::FleetFull(2));
    assert_eq!(fleet.nodes[0].members().len(), 2);
}

#[test]
fn a_process_that_comes_back_under_its_id_is_not_ended_by_what_is_said_of_its_earlier_life() {
    let mut fleet = Fleet::new(3, Limits::default());
    fleet.start(1, P, "a");
    fleet.migrate(1, P, id(2));
    let end = fleet.store[&P].claim;
    fleet.tell(2, Event::Exited(P));
    let token = fleet.command(1, |token| Event::Start {
        token,
        process: P,
        name: "a".to_owned(),
        image: ImageId::default(),
        again: true,
    });
    let Reply::Started(claim) = fleet.replies[&token] else {
        panic!("{:?}", fleet.replies[&token]);
    };
    assert!(claim.epoch > end.epoch, "{claim:?}");
    let (process, epoch) = (P, claim.epoch);
    assert!(fleet.saw(1, &Effect::Run { process, epoch }));
    fleet.tell(0, Event::Watch { process, epoch });
    fleet.seen.clear();
    // Late: that it has ended, and a removal that is asked for once more.
    let late = Control::Gone {
        process,
        epoch: end.epoch,
    };
    let remove = Control::Ask {
        request: 99,
        operation: Operation::Remove {
            process,
            expect: end,
        },
    };
    for message in [late, remove] {
        for index in [0, 1] {
            let (from, message) = (id(2), message.clone());
            fleet.tell(index, Event::Control { from, message });
        }
    }
    assert!(fleet.store.contains_key(&P));
    let late = |(_, effect): &(usize, Effect)| {
        matches!(effect, Effect::Gone { epoch, .. } if *epoch >= claim.epoch)
            || matches!(effect, Effect::Fence { .. })
    };
    assert!(!fleet.seen.iter().any(late), "{:?}", fleet.seen);
}

#[test]
fn a_node_is_forgotten_when_it_is_dead_and_owns_nothing() {
    let mut fleet = Fleet::new(3, Limits::default());
    fleet.start(2, P, "a");
    let forget = |fleet: &mut Fleet, node| {
        let token = fleet.command(0, |token| Event::ForgetNode { token, node });
        fleet.replies[&token].clone()
    };
    let refused = |failure| Reply::Failed(failure);
    let alive = Failure::NodeAlive(named(2));
    assert_eq!(forget(&mut fleet, id(2)), refused(alive));
    let needed = Failure::NodeNeeded(named(0));
    assert_eq!(forget(&mut fleet, id(0)), refused(needed));
    fleet.link(2, false);
    fleet.pass(5 * SECOND);
    let (node, count) = (named(2), 1);
    let owns = Failure::NodeOwns { node, count };
    assert_eq!(forget(&mut fleet, id(2)), refused(owns));
    fleet.command(1, |token| Event::Remove { token, process: P });
    // Who is away when it is forgotten hears of it later.
    fleet.link(1, false);
    assert_eq!(forget(&mut fleet, id(2)), Reply::Forgotten);
    assert!(fleet.saw(0, &Effect::Forgotten(id(2))));
    assert_eq!(fleet.nodes[1].members().len(), 3);
    fleet.link(1, true);
    assert!(fleet.saw(1, &Effect::Forgotten(id(2))));
    for index in [0, 1] {
        assert_eq!(fleet.nodes[index].members().len(), 2);
    }
    // It lives after all, and nobody listens.
    fleet.link(2, true);
    let token = fleet.start(2, ProcessId(2), "b");
    fleet.pass(10 * SECOND);
    assert_eq!(*fleet.failure(token), Failure::DirectoryUnreachable);
    assert!(fleet.store.is_empty());
}
