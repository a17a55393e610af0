//! Random operations against models that are too simple to be wrong.

use overlay::directory::{Change, Directory};
use overlay::membership::{Config, Effect, Event, Health, Membership};
use std::collections::BTreeMap;
use std::time::Duration;
use wire::control::Member;
use wire::directory::{Answer, Claim, Operation, Record};
use wire::{Epoch, ImageId, NodeId, ProcessId};

/// The seeds of a test: `LIMOSA_SEED` is the first, `LIMOSA_ROUNDS` how many times more there are.
fn seeds(usual: u64) -> impl Iterator<Item = u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("LIMOSA_SEED").unwrap_or(0);
    let count = usual.saturating_mul(number("LIMOSA_ROUNDS").unwrap_or(1));
    (0..count).map(move |round| first.wrapping_add(round))
}

fn random_claim(random: &mut fastrand::Rng) -> Claim {
    Claim {
        owner: NodeId([random.u8(1..=3); 32]),
        epoch: Epoch(random.u64(1..=3)),
        attempt: random.u64(0..=2),
    }
}

#[test]
fn the_directory_agrees_with_a_list_of_records() {
    for seed in seeds(300) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut directory = Directory::new([], Epoch(0), 4);
        let mut store = BTreeMap::new();
        let mut model: Vec<Record> = Vec::new();
        for _ in 0..300 {
            let process = ProcessId(random.u64(0..6));
            let held = model.iter().find(|r| r.process == process).cloned();
            let expect = match &held {
                Some(record) if random.u8(0..4) > 0 => record.claim,
                _ => random_claim(&mut random),
            };
            let operation = match random.u8(0..8) {
                0..=2 => Operation::Create(Record {
                    process,
                    name: format!("name{}", random.u8(0..6)),
                    image: ImageId::default(),
                    claim: random_claim(&mut random),
                }),
                3 => Operation::Get(process),
                4..=5 => Operation::CompareAndSet {
                    process,
                    expect,
                    new: random_claim(&mut random),
                },
                6 => Operation::Remove { process, expect },
                _ => Operation::List { after: None },
            };
            let before = model.clone();
            let (answer, change) = directory.apply(&operation);
            match &change {
                Some(Change::Put(record)) => drop(store.insert(record.process, record.clone())),
                Some(Change::Delete(process)) => drop(store.remove(process)),
                None => (),
            }
            let matches_claim = held.as_ref().is_some_and(|r| r.claim == expect);
            match (&operation, &answer) {
                (Operation::Create(record), Answer::Done(done)) => {
                    assert_eq!(record, done, "seed {seed}");
                    let clash = |r: &Record| r.process == record.process || r.name == record.name;
                    assert!(!model.iter().any(clash), "seed {seed}");
                    model.push(record.clone());
                }
                (Operation::Create(record), Answer::Taken(by)) => {
                    assert!(model.contains(by), "seed {seed}");
                    assert!(by.process == record.process || by.name == record.name);
                }
                (Operation::Create(_), Answer::Failed(_)) => assert_eq!(model.len(), 4),
                (Operation::Get(_), Answer::Done(record)) => {
                    assert_eq!(held.as_ref(), Some(record))
                }
                (Operation::CompareAndSet { new, .. }, Answer::Done(record)) => {
                    assert!(matches_claim, "seed {seed}");
                    let old = (expect.epoch, expect.attempt);
                    assert!((new.epoch, new.attempt) > old, "seed {seed}");
                    assert_eq!(record.claim, *new, "seed {seed}");
                    model.retain(|r| r.process != process);
                    model.push(record.clone());
                }
                (Operation::CompareAndSet { .. }, Answer::Conflict(record)) => {
                    assert_eq!(held.as_ref(), Some(record), "seed {seed}");
                }
                (Operation::Remove { .. }, Answer::Done(record)) => {
                    assert!(matches_claim, "seed {seed}");
                    assert_eq!(held.as_ref(), Some(record), "seed {seed}");
                    model.retain(|r| r.process != process);
                }
                (Operation::Remove { .. }, Answer::Conflict(record)) => {
                    assert!(!matches_claim, "seed {seed}");
                    assert_eq!(held.as_ref(), Some(record), "seed {seed}");
                }
                (
                    Operation::List { .. },
                    Answer::Records {
                        records,
                        more: false,
                    },
                ) => {
                    assert_eq!(records.len(), model.len(), "seed {seed}");
                }
                (_, Answer::Unknown) => assert_eq!(held, None, "seed {seed}"),
                (operation, answer) => panic!("seed {seed}: {operation:?} gave {answer:?}"),
            }
            assert_eq!(change.is_some(), model != before, "seed {seed}");
            model.sort_by_key(|r| r.process);
            let all: Vec<Record> = directory.records().cloned().collect();
            assert_eq!(all, model, "seed {seed}");
        }
        let restored = Directory::new(store.into_values(), Epoch(0), 4);
        let all: Vec<Record> = restored.records().cloned().collect();
        assert_eq!(all, model, "seed {seed}: the store lost something");
    }
}

/// The model: what the documentation of `Health` promises, worked out anew at every instant.
#[derive(Clone)]
struct Seen {
    linked: bool,
    broke: Duration,
    heard: Duration,
}

impl Seen {
    fn health(&self, now: Duration, config: &Config) -> Health {
        if !self.linked {
            return match now >= self.broke + config.relink_within {
                true => Health::Dead,
                false => Health::Suspect,
            };
        }
        if now >= self.heard + config.dead_after {
            Health::Dead
        } else if now >= self.heard + config.suspect_after {
            Health::Suspect
        } else {
            Health::Alive
        }
    }
}

#[test]
fn health_is_what_links_and_silence_say_at_every_instant() {
    let config = Config::default();
    for seed in seeds(300) {
        let mut random = fastrand::Rng::with_seed(seed);
        let members = (1..=4u8).map(|n| Member {
            node: NodeId([n; 32]),
            name: n.to_string(),
            address: String::new(),
            incarnation: 1,
        });
        let members: Vec<Member> = members.collect();
        let mut now = Duration::ZERO;
        let mut membership = Membership::new(now, config, members[0].clone(), members.clone());
        let unseen = Seen {
            linked: false,
            broke: now,
            heard: now,
        };
        let mut seen: BTreeMap<NodeId, Seen> = members[1..]
            .iter()
            .map(|m| (m.node, unseen.clone()))
            .collect();
        let mut said: BTreeMap<NodeId, Health> =
            seen.keys().map(|node| (*node, Health::Suspect)).collect();
        for _ in 0..300 {
            let next = now + Duration::from_millis(random.u64(0..900));
            while let Some(due) = membership.poll_timeout().filter(|due| *due <= next) {
                now = due.max(now);
                membership.handle_timeout(now);
            }
            now = next;
            let node = NodeId([random.u8(2..=4); 32]);
            let entry = seen.get_mut(&node).unwrap();
            match random.u8(0..6) {
                0 => {
                    *entry = Seen {
                        linked: true,
                        heard: now,
                        ..*entry
                    };
                    membership.handle(now, Event::LinkUp(node));
                }
                1 => {
                    if entry.linked {
                        entry.broke = now;
                    }
                    entry.linked = false;
                    membership.handle(now, Event::LinkDown(node));
                }
                _ => {
                    entry.heard = now;
                    membership.handle(now, Event::Heard(node));
                }
            }
            while let Some(effect) = membership.poll_effect() {
                match effect {
                    Effect::Health { node, health } => {
                        let before = said.insert(node, health);
                        assert_ne!(before, Some(health), "seed {seed}: said twice");
                    }
                    Effect::Heartbeat(_) => (),
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            for (node, seen) in &seen {
                let expected = seen.health(now, &config);
                assert_eq!(membership.health(*node), Some(expected), "seed {seed}");
                assert_eq!(said[node], expected, "seed {seed}");
            }
        }
    }
}
