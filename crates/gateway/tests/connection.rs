//! What the gateway decides: single stories, then a random model.

use gateway::{Close, Config, Connection, Effect, Ended, Event, Held, Report, State};
use std::collections::BTreeSet;
use std::time::Duration;
use wire::frame::ResetReason;
use wire::{Epoch, NodeId};

const NORTH: NodeId = NodeId([1; 32]);
const SOUTH: NodeId = NodeId([2; 32]);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn drain(connection: &mut Connection) -> Vec<Effect> {
    std::iter::from_fn(|| connection.poll_effect()).collect()
}

fn located(owner: NodeId, epoch: u64) -> Event {
    let epoch = Epoch(epoch);
    Event::Located { owner, epoch }
}

fn active(owner: NodeId, epoch: u64) -> Event {
    let epoch = Epoch(epoch);
    Event::Active { owner, epoch }
}

fn open(to: NodeId, epoch: u64) -> Effect {
    let epoch = Epoch(epoch);
    Effect::Open { to, epoch }
}

fn resync(to: NodeId, epoch: u64) -> Effect {
    let epoch = Epoch(epoch);
    Effect::Resync { to, epoch }
}

fn not_here(from: NodeId, epoch: u64) -> Event {
    let epoch = Epoch(epoch);
    Event::NotHere { from, epoch }
}

/// Waits for the time that the connection names.
fn wait(connection: &mut Connection, now: &mut Duration) -> Vec<Effect> {
    *now = connection.poll_timeout().expect("it waits for something");
    connection.handle(*now, Event::Timeout);
    drain(connection)
}

fn forwarding() -> Connection {
    let owner = Some((NORTH, Epoch(1)));
    let mut connection = Connection::new(ms(0), owner, Config::default());
    assert_eq!(drain(&mut connection), [open(NORTH, 1)]);
    connection.handle(ms(2), active(NORTH, 1));
    let opened = Effect::Report(Report::Opened { after: ms(2) });
    assert_eq!(drain(&mut connection), [opened, Effect::ReadClient(true)]);
    connection
}

#[test]
fn a_connection_is_located_opened_forwarded_drained_and_closed() {
    let mut connection = Connection::new(ms(0), None, Config::default());
    assert_eq!(drain(&mut connection), [Effect::Locate]);
    connection.handle(ms(1), located(NORTH, 3));
    assert_eq!(drain(&mut connection), [open(NORTH, 3)]);
    connection.handle(ms(2), active(NORTH, 3));
    assert_eq!(connection.forwarding_to(), Some((NORTH, Epoch(3))));
    drain(&mut connection);
    connection.handle(ms(3), Event::ClientEnded);
    connection.handle(ms(3), Event::Drained);
    assert_eq!(connection.state(), State::Forwarding);
    connection.handle(ms(4), Event::StreamEnded);
    assert_eq!(connection.state(), State::Draining);
    connection.handle(ms(5), Event::Drained);
    let closed = Effect::Report(Report::Closed(Ended::Done));
    assert_eq!(
        drain(&mut connection),
        [Effect::CloseClient(Close::Fin), closed]
    );
    assert_eq!(connection.poll_timeout(), None);
}

#[test]
fn an_unknown_process_refuses_the_client() {
    let mut connection = Connection::new(ms(0), None, Config::default());
    drain(&mut connection);
    connection.handle(ms(1), Event::Unknown);
    let closed = Effect::Report(Report::Closed(Ended::ProcessGone));
    assert_eq!(drain(&mut connection), [Effect::Refuse, closed]);
}

#[test]
fn a_refused_stream_refuses_the_client() {
    let owner = Some((NORTH, Epoch(1)));
    let mut connection = Connection::new(ms(0), owner, Config::default());
    drain(&mut connection);
    connection.handle(ms(1), Event::StreamReset(ResetReason::Refused));
    let why = Ended::StreamReset(ResetReason::Refused);
    let closed = Effect::Report(Report::Closed(why));
    assert_eq!(drain(&mut connection), [Effect::Refuse, closed]);
}

#[test]
fn a_stale_location_is_looked_up_again_with_growing_pauses_and_not_for_ever() {
    let owner = Some((NORTH, Epoch(1)));
    let mut connection = Connection::new(ms(0), owner, Config::default());
    assert_eq!(drain(&mut connection), [open(NORTH, 1)]);
    let mut now = ms(1);
    connection.handle(now, not_here(NORTH, 1));
    assert_eq!(drain(&mut connection), [Effect::Locate]);
    let mut pauses = Vec::new();
    let end = loop {
        // The directory does not know better.
        connection.handle(now, located(NORTH, 1));
        // Every other time it is believed all the same: the owner may have been about to be there.
        let believed = pauses.len() % 2 == 1;
        let expected = if believed {
            vec![open(NORTH, 1)]
        } else {
            vec![]
        };
        assert_eq!(drain(&mut connection), expected);
        if believed {
            connection.handle(now, not_here(NORTH, 1));
        }
        if connection.state() == State::Closed {
            break drain(&mut connection);
        }
        let before = now;
        assert_eq!(wait(&mut connection, &mut now), [Effect::Locate]);
        pauses.push((now - before).as_millis());
    };
    assert!(end.contains(&Effect::Refuse), "{end:?}");
    assert!(end.contains(&Effect::Report(Report::Closed(Ended::NotFound))));
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 500, 500, 500]);
}

#[test]
fn a_stale_location_is_followed_to_the_new_owner() {
    let owner = Some((NORTH, Epoch(1)));
    let mut connection = Connection::new(ms(0), owner, Config::default());
    connection.handle(ms(1), not_here(NORTH, 2));
    connection.handle(ms(2), located(SOUTH, 2));
    assert_eq!(
        drain(&mut connection),
        [open(NORTH, 1), Effect::Locate, open(SOUTH, 2)]
    );
    // What the former owner says late is nothing new.
    connection.handle(ms(3), not_here(NORTH, 2));
    connection.handle(ms(3), Event::LinkDown(NORTH));
    connection.handle(ms(3), active(NORTH, 1));
    assert_eq!(connection.state(), State::Opening);
}

#[test]
fn an_owner_that_does_not_answer_is_asked_again() {
    let owner = Some((NORTH, Epoch(1)));
    let mut connection = Connection::new(ms(0), owner, Config::default());
    drain(&mut connection);
    let mut now = ms(0);
    assert_eq!(wait(&mut connection, &mut now), []);
    assert_eq!(now, ms(2000));
    assert_eq!(wait(&mut connection, &mut now), [Effect::Locate]);
    connection.handle(now, located(NORTH, 1));
    assert_eq!(drain(&mut connection), [open(NORTH, 1)]);
}

#[test]
fn a_directory_that_is_away_is_asked_again() {
    let mut connection = Connection::new(ms(0), None, Config::default());
    drain(&mut connection);
    let mut now = ms(0);
    connection.handle(now, Event::Unavailable);
    assert_eq!(wait(&mut connection, &mut now), [Effect::Locate]);
    // It does not even say that it is away.
    assert_eq!(wait(&mut connection, &mut now), []);
    assert_eq!(wait(&mut connection, &mut now), [Effect::Locate]);
    connection.handle(now, located(NORTH, 1));
    assert_eq!(drain(&mut connection), [open(NORTH, 1)]);
}

#[test]
fn a_lost_link_holds_the_client_until_it_is_back() {
    let mut connection = forwarding();
    connection.handle(ms(10), Event::LinkDown(NORTH));
    let held = Effect::Report(Report::Holding(Held::LinkDown));
    assert_eq!(drain(&mut connection), [held]);
    assert_eq!(connection.forwarding_to(), None);
    connection.handle(ms(11), Event::Waiting(1000));
    assert_eq!(drain(&mut connection), []);
    connection.handle(ms(12), Event::Waiting(300_000));
    assert_eq!(drain(&mut connection), [Effect::ReadClient(false)]);
    connection.handle(ms(15), Event::LinkUp(NORTH));
    assert_eq!(drain(&mut connection), [resync(NORTH, 1)]);
    connection.handle(ms(16), active(NORTH, 1));
    let resumed = Effect::Report(Report::Resumed {
        owner: NORTH,
        epoch: Epoch(1),
        held: ms(6),
    });
    assert_eq!(drain(&mut connection), [resumed, Effect::ReadClient(true)]);
    assert_eq!(connection.state(), State::Forwarding);
}

#[test]
fn a_new_owner_is_followed_without_a_question() {
    let mut connection = forwarding();
    connection.handle(ms(10), active(SOUTH, 2));
    assert_eq!(connection.forwarding_to(), Some((SOUTH, Epoch(2))));
    assert_eq!(drain(&mut connection), []);
    connection.handle(ms(11), Event::LinkDown(NORTH));
    connection.handle(ms(11), not_here(NORTH, 2));
    assert_eq!(connection.forwarding_to(), Some((SOUTH, Epoch(2))));
}

#[test]
fn a_held_client_finds_the_process_at_its_new_owner() {
    let mut connection = forwarding();
    connection.handle(ms(10), not_here(NORTH, 2));
    let held = Effect::Report(Report::Holding(Held::NotHere));
    assert_eq!(drain(&mut connection), [held, Effect::Locate]);
    connection.handle(ms(11), located(SOUTH, 2));
    assert_eq!(drain(&mut connection), [resync(SOUTH, 2)]);
    connection.handle(ms(12), active(SOUTH, 2));
    assert_eq!(connection.forwarding_to(), Some((SOUTH, Epoch(2))));
}

#[test]
fn a_resync_without_an_answer_is_repeated_until_the_hold_ends() {
    let mut connection = forwarding();
    let mut now = ms(10);
    connection.handle(now, not_here(NORTH, 1));
    let mut resyncs = 0;
    while connection.state() != State::Closed {
        connection.handle(now, located(SOUTH, 2));
        let effects = drain(&mut connection);
        resyncs += usize::from(effects.contains(&resync(SOUTH, 2)));
        wait(&mut connection, &mut now);
    }
    assert_eq!(now, ms(10) + Config::default().hold_timeout);
    assert!(resyncs > 5, "{resyncs}");
}

#[test]
fn the_clients_of_a_dead_node_are_reset_sooner() {
    let mut connection = forwarding();
    connection.handle(ms(10), Event::LinkDown(NORTH));
    connection.handle(ms(20), Event::NodeDead(NORTH));
    drain(&mut connection);
    let mut now = ms(20);
    let mut effects = Vec::new();
    while connection.state() != State::Closed {
        effects.extend(wait(&mut connection, &mut now));
        connection.handle(now, Event::Unavailable);
    }
    assert_eq!(now, ms(20) + Config::default().dead_timeout);
    assert!(effects.contains(&Effect::CloseClient(Close::Reset)));
    assert!(effects.contains(&Effect::Report(Report::Closed(Ended::HoldTimeout))));
}

#[test]
fn a_new_client_of_a_dead_node_is_refused_as_soon_whatever_the_directory_does() {
    for answers in [true, false] {
        let owner = Some((NORTH, Epoch(1)));
        let mut connection = Connection::new(ms(0), owner, Config::default());
        connection.handle(ms(0), Event::NodeDead(NORTH));
        let mut now = ms(0);
        let mut effects = drain(&mut connection);
        while connection.state() != State::Closed {
            if answers {
                connection.handle(now, located(NORTH, 1));
                connection.handle(now, Event::NodeDead(NORTH));
            }
            effects.extend(drain(&mut connection));
            if connection.state() != State::Closed {
                effects.extend(wait(&mut connection, &mut now));
            }
        }
        assert!(effects.contains(&Effect::Refuse), "{effects:?}");
        assert!(now <= Config::default().dead_timeout, "{now:?}");
    }
    // It may have moved on before its node died: then it is found.
    let mut connection = Connection::new(ms(0), Some((NORTH, Epoch(1))), Config::default());
    connection.handle(ms(0), Event::NodeDead(NORTH));
    let mut now = ms(0);
    wait(&mut connection, &mut now);
    connection.handle(now, located(SOUTH, 2));
    connection.handle(now, active(SOUTH, 2));
    connection.handle(ms(60_000), Event::Timeout);
    assert_eq!(connection.state(), State::Forwarding);
}

#[test]
fn a_client_that_breaks_off_breaks_the_stream() {
    let mut connection = forwarding();
    connection.handle(ms(10), Event::ClientReset);
    let effects = drain(&mut connection);
    assert_eq!(effects[0], Effect::ResetStream(ResetReason::ClientGone));
    assert_eq!(effects[1], Effect::CloseClient(Close::Reset));
}

#[test]
fn a_process_that_is_gone_closes_in_order_what_it_had_ended() {
    for ended in [false, true] {
        let mut connection = forwarding();
        if ended {
            connection.handle(ms(9), Event::StreamEnded);
        }
        connection.handle(ms(10), Event::ProcessGone);
        let close = if ended { Close::Fin } else { Close::Reset };
        assert_eq!(drain(&mut connection)[0], Effect::CloseClient(close));
    }
}

/// A world that does anything at any time, and from some time on nothing more.
#[test]
fn whatever_happens_it_forwards_to_one_owner_and_comes_to_an_end() {
    let mut ends = BTreeSet::new();
    for seed in 0..20_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let config = Config {
            max_tries: random.u32(1..6),
            ..Config::default()
        };
        let mut now = ms(0);
        let known = random.bool().then_some((NORTH, Epoch(1)));
        let mut connection = Connection::new(now, known, config.clone());
        let (mut epoch, mut owner) = (1, NORTH);
        let (mut ever_active, mut reading) = (false, false);
        // Until when the answer to a question is waited for.
        let mut asked: Option<Duration> = None;
        let mut highest = Epoch(0);
        let mut closed_by = None;
        let quiet_after = random.usize(..60);
        let mut last_event = now;
        for step in 0.. {
            let before = connection.state();
            // Effects of the event before.
            let mut closes = 0;
            while let Some(effect) = connection.poll_effect() {
                assert!(closed_by.is_none(), "seed {seed}: {effect:?} after the end");
                match effect {
                    Effect::Locate => {
                        let waits = asked.is_some_and(|until| now < until);
                        assert!(!waits, "seed {seed}: two questions at once");
                        asked = Some(now + config.lookup_timeout);
                    }
                    Effect::Open { epoch, .. } => {
                        assert!(!ever_active, "seed {seed}: opened twice");
                        assert!(epoch >= highest, "seed {seed}: went back");
                        highest = epoch;
                    }
                    Effect::Resync { epoch, .. } => {
                        assert!(
                            ever_active,
                            "seed {seed}: resynchronised what was never open"
                        );
                        assert!(epoch >= highest, "seed {seed}: went back");
                        highest = epoch;
                    }
                    Effect::ReadClient(read) => {
                        assert_ne!(read, reading, "seed {seed}");
                        reading = read;
                    }
                    Effect::CloseClient(_) | Effect::Refuse => {
                        let refused = effect == Effect::Refuse;
                        assert!(
                            !(refused && ever_active),
                            "seed {seed}: refused what was open"
                        );
                        closes += 1;
                    }
                    Effect::ResetStream(_) => {}
                    Effect::Report(Report::Closed(why)) => {
                        ends.insert(format!("{why:?}"));
                        closed_by = Some(why);
                    }
                    Effect::Report(_) => {}
                }
            }
            assert_eq!(
                closes,
                usize::from(before == State::Closed && closed_by.is_some()).min(closes)
            );
            assert_eq!(before == State::Closed, closed_by.is_some(), "seed {seed}");
            if let Some((_, to)) = connection.forwarding_to() {
                assert!(to >= highest, "seed {seed}: forwards to a former owner");
                highest = to;
            }
            if step > quiet_after + 20 && before == State::Closed {
                break;
            }
            assert!(step < 2000, "seed {seed}: does not end: {connection:?}");
            if step > quiet_after {
                // Nothing more happens but what it waits for.
                match connection.poll_timeout() {
                    Some(at) => {
                        now = now.max(at);
                        connection.handle(now, Event::Timeout);
                    }
                    None if before == State::Closed => {}
                    // Bytes flow, for as long as client and process like; then the client goes.
                    None => connection.handle(now, Event::ClientReset),
                }
                continue;
            }
            now += ms(random.u64(..800));
            if random.u8(..6) == 0 {
                epoch += 1;
                owner = if owner == NORTH { SOUTH } else { NORTH };
            }
            let node = if random.bool() { NORTH } else { SOUTH };
            let old = random.u64(..=epoch).max(1);
            let event = match random.u8(..40) {
                0..8 if asked.is_some() => located(owner, epoch),
                8..9 if asked.is_some() => located(node, old),
                9 if asked.is_some() => Event::Unavailable,
                10 if asked.is_some() => Event::Unknown,
                11..17 => active(owner, epoch),
                // Late, from a former owner.
                17 => active(node, old),
                18..21 => not_here(node, old),
                21..24 => Event::LinkDown(node),
                24..27 => Event::LinkUp(node),
                27 => Event::NodeDead(node),
                28 => Event::ClientEnded,
                29 => Event::StreamEnded,
                30 => Event::Drained,
                31 => Event::Waiting(random.u64(..500_000)),
                32 if random.u8(..5) == 0 => Event::ClientReset,
                33 if random.u8(..5) == 0 => Event::StreamReset(ResetReason::Closed),
                34 if random.u8(..5) == 0 => Event::ProcessGone,
                _ => Event::Timeout,
            };
            if let Event::Located { .. } | Event::Unknown | Event::Unavailable = event {
                asked = None;
            }
            last_event = last_event.max(now);
            connection.handle(now, event);
            if connection.forwarding_to().is_some() {
                // An answer that is still out is not waited for any more.
                (ever_active, asked) = (true, None);
            }
            if let Some(at) = connection.poll_timeout()
                && event == Event::Timeout
            {
                assert!(at > now, "seed {seed}: waits for what is over");
            }
        }
        let bound = config.hold_timeout + config.drain_timeout;
        let bound = bound + (config.lookup_timeout + config.answer_timeout) * 20;
        assert!(now <= last_event + bound, "seed {seed}: took until {now:?}");
    }
    let all = [
        "ClientReset",
        "Done",
        "DrainTimeout",
        "HoldTimeout",
        "NotFound",
        "ProcessGone",
        "StreamReset(Closed)",
    ];
    assert!(ends.iter().map(String::as_str).eq(all), "{ends:?}");
}
