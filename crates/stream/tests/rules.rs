//! Single rules of streams, each by itself.

use stream::{Config, End, Io, RestoreError, Side, Status, Transmit};
use wire::frame::{self, Body, MAX_DATA, ResetReason, StreamFrame};
use wire::snapshot::{Listener, Stream};
use wire::{Epoch, NodeId, ProcessId, StreamId};

const PROCESS: ProcessId = ProcessId(1);
const STREAM: StreamId = StreamId(7);
const ANCHOR: NodeId = NodeId([0xa; 32]);
const SOURCE: NodeId = NodeId([1; 32]);
const TARGET: NodeId = NodeId([2; 32]);

fn small() -> Config {
    Config {
        send_bytes: 100,
        receive_bytes: 100,
        ..Config::default()
    }
}

fn side(config: Config) -> Side {
    Side::new(PROCESS, SOURCE, Epoch(1), ["http".to_owned()], config)
}

fn open(id: StreamId, config: &Config) -> End {
    End::open(
        PROCESS,
        id,
        ANCHOR,
        SOURCE,
        Epoch(1),
        0,
        "192.0.2.7:1",
        config,
    )
}

/// Carries all frames between an anchor's end and the sides of nodes until there are none.
fn exchange(end: &mut End, sides: &mut [(NodeId, &mut Side)]) -> Vec<Transmit> {
    let mut all = Vec::new();
    loop {
        let mut quiet = true;
        while let Some(transmit) = end.poll_transmit() {
            quiet = false;
            all.push(transmit.clone());
            for (node, side) in sides.iter_mut() {
                if *node == transmit.to {
                    side.handle(ANCHOR, transmit.frame.clone());
                }
            }
        }
        for (node, side) in sides.iter_mut() {
            while let Some(transmit) = side.poll_transmit() {
                quiet = false;
                all.push(transmit.clone());
                if transmit.frame.stream == end.id() {
                    end.handle(*node, transmit.frame);
                }
            }
        }
        if quiet {
            return all;
        }
    }
}

fn to_anchor(epoch: u64, body: Body) -> StreamFrame {
    StreamFrame {
        process: PROCESS,
        stream: STREAM,
        to: frame::End::Anchor,
        epoch: Epoch(epoch),
        body,
    }
}

fn to_process(epoch: u64, body: Body) -> StreamFrame {
    StreamFrame {
        to: frame::End::Process,
        ..to_anchor(epoch, body)
    }
}

/// An accepted connection.
fn connected(config: &Config) -> (End, Side) {
    let mut side = side(config.clone());
    let mut end = open(STREAM, config);
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    assert_eq!(side.accept(0), Some(STREAM));
    assert_eq!(end.status(), Status::Active);
    (end, side)
}

fn read_all(side: &mut Side) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let mut all = Vec::new();
    while let Io::Done(length @ 1..) = side.read(STREAM, &mut buffer, false) {
        all.extend(&buffer[..length]);
    }
    all
}

#[test]
fn a_conversation_with_half_closes_leaves_nothing_behind() {
    let (mut end, mut side) = connected(&Config::default());
    assert_eq!(end.write(b"question"), Io::Done(8));
    end.shutdown(false, true);
    assert_eq!(end.write(b"more"), Io::Closed);
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    let mut buffer = [0; 100];
    assert_eq!(side.read(STREAM, &mut buffer, true), Io::Done(8));
    assert_eq!(read_all(&mut side), b"question");
    assert_eq!(side.read(STREAM, &mut buffer, false), Io::Done(0));
    assert!(side.stream_readiness(STREAM).hangup);
    assert_eq!(side.write(STREAM, b"answer"), Io::Done(6));
    side.close(STREAM);
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    assert_eq!(end.unread(), b"answer");
    end.consume(6);
    assert!(end.is_read_to_end());
    assert_eq!(end.status(), Status::Finished);
    assert!(end.is_over());
    assert_eq!(side.streams(), 0);
}

#[test]
fn acknowledgements_are_few() {
    let (mut end, mut side) = connected(&Config::default());
    let mut acknowledgements = 0;
    for _ in 0..1000 {
        assert_eq!(end.write(&[1; 1024]), Io::Done(1024));
        let frames = exchange(&mut end, &mut [(SOURCE, &mut side)]);
        let is_ack = |transmit: &&Transmit| matches!(transmit.frame.body, Body::Ack { .. });
        acknowledgements += frames.iter().filter(is_ack).count();
        read_all(&mut side);
    }
    // 1,000 KiB through a window of 256 KiB, told by quarters.
    assert!(
        acknowledgements <= 17,
        "{acknowledgements} acknowledgements"
    );
}

#[test]
fn an_idle_flush_acknowledges_what_is_left_and_then_nothing() {
    let (mut end, mut side) = connected(&Config::default());
    end.write(b"hello");
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    side.flush();
    let ack = side.poll_transmit().unwrap();
    assert!(matches!(ack.frame.body, Body::Ack { received: 5, .. }));
    side.flush();
    assert_eq!(side.poll_transmit(), None);
}

#[test]
fn a_full_buffer_asks_for_an_acknowledgement() {
    let (mut end, mut side) = connected(&Config {
        send_bytes: 10,
        ..Config::default()
    });
    assert_eq!(end.write(&[1; 20]), Io::Done(10));
    assert_eq!(end.write(&[1]), Io::Blocked);
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    assert_eq!(end.write(&[1; 20]), Io::Done(10));
}

#[test]
fn nothing_is_sent_beyond_the_window() {
    let (mut end, mut side) = connected(&Config {
        receive_bytes: 100,
        ..Config::default()
    });
    end.write(&[1; 5000]);
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    assert_eq!(side.stream_readiness(STREAM).readable, 100);
    assert_eq!(read_all(&mut side).len(), 100);
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    assert_eq!(side.stream_readiness(STREAM).readable, 100);
}

#[test]
fn data_beyond_the_window_or_the_end_breaks_the_protocol() {
    let data = |offset, length| Body::Data {
        offset,
        bytes: vec![0; length],
    };
    for body in [
        data(0, 101),
        data(u64::MAX, 1),
        Body::Ack {
            received: 1,
            limit: 10,
        },
        Body::Data {
            offset: 0,
            bytes: vec![0; MAX_DATA + 1],
        },
    ] {
        let (mut end, mut side) = connected(&small());
        side.handle(ANCHOR, to_process(1, body));
        exchange(&mut end, &mut [(SOURCE, &mut side)]);
        assert_eq!(end.status(), Status::Reset(ResetReason::Protocol));
        assert_eq!(side.read(STREAM, &mut [0], false), Io::Reset);
        assert_eq!(side.write(STREAM, &[0]), Io::Reset);
    }
    let (mut end, mut side) = connected(&small());
    side.handle(ANCHOR, to_process(1, data(0, 5)));
    side.handle(ANCHOR, to_process(1, Body::Fin { offset: 5 }));
    side.handle(ANCHOR, to_process(1, data(5, 1)));
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    assert_eq!(end.status(), Status::Reset(ResetReason::Protocol));
}

#[test]
fn overlapping_data_is_trimmed() {
    let (_, mut side) = connected(&small());
    let data = |offset, bytes: &[u8]| {
        let bytes = bytes.to_vec();
        to_process(1, Body::Data { offset, bytes })
    };
    side.handle(ANCHOR, data(0, b"abc"));
    side.handle(ANCHOR, data(0, b"abc"));
    side.handle(ANCHOR, data(1, b"bcde"));
    side.handle(ANCHOR, data(4, b"e"));
    assert_eq!(read_all(&mut side), b"abcde");
}

#[test]
fn a_gap_is_healed() {
    let (mut end, mut side) = connected(&small());
    end.write(b"lost");
    while end.poll_transmit().is_some() {}
    end.write(b"found");
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    assert_eq!(read_all(&mut side), b"lostfound");
}

#[test]
fn frames_of_another_epoch_are_refused_and_counted() {
    let (mut end, mut side) = connected(&small());
    let data = |bytes: &[u8]| Body::Data {
        offset: 0,
        bytes: bytes.to_vec(),
    };
    end.handle(SOURCE, to_anchor(0, data(b"old")));
    end.handle(SOURCE, to_anchor(2, data(b"new")));
    end.handle(TARGET, to_anchor(1, data(b"foreign")));
    assert_eq!(end.unread(), b"");
    let ignored = end.ignored();
    assert_eq!(
        (ignored.older_epoch, ignored.newer_epoch, ignored.foreign),
        (1, 1, 1)
    );
    side.handle(ANCHOR, to_process(0, data(b"old")));
    side.handle(ANCHOR, to_process(2, data(b"new")));
    side.handle(TARGET, to_process(1, data(b"foreign")));
    assert_eq!(side.stream_readiness(STREAM).readable, 0);
    let ignored = side.ignored();
    assert_eq!(
        (ignored.older_epoch, ignored.newer_epoch, ignored.foreign),
        (1, 1, 1)
    );
}

#[test]
fn a_sealed_side_is_silent_and_what_arrives_is_not_in_its_snapshot() {
    let (mut end, mut side) = connected(&small());
    end.write(b"before");
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    let (_, streams) = side.seal();
    end.write(b"after");
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    side.flush();
    assert_eq!(side.poll_transmit(), None);
    assert_eq!(side.read(STREAM, &mut [0; 9], false), Io::Blocked);
    assert_eq!(side.write(STREAM, &[0]), Io::Blocked);
    assert_eq!(streams[0].unread, b"before");
    assert_eq!(streams[0].received, 6);
    side.unseal();
    assert_eq!(read_all(&mut side), b"beforeafter");
}

/// The target of a move, built from what `side` has sealed.
fn target(sealed: (Vec<Listener>, Vec<Stream>), epoch: u64) -> Side {
    let (listeners, streams) = sealed;
    Side::restore(PROCESS, TARGET, Epoch(epoch), listeners, streams, small()).unwrap()
}

#[test]
fn a_move_carries_both_directions_along() {
    let (mut end, mut side) = connected(&small());
    end.write(b"question");
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    side.write(STREAM, b"ans");
    let mut moved = target(side.seal(), 2);
    end.write(b" two");
    moved.attach();
    assert!(!moved.all_attached());
    exchange(&mut end, &mut [(SOURCE, &mut side), (TARGET, &mut moved)]);
    assert!(moved.all_attached());
    assert_eq!(end.peer(), SOURCE);
    assert_eq!(moved.read(STREAM, &mut [0], false), Io::Blocked);
    moved.resume();
    exchange(&mut end, &mut [(SOURCE, &mut side), (TARGET, &mut moved)]);
    assert_eq!((end.peer(), end.epoch()), (TARGET, Epoch(2)));
    assert_eq!(read_all(&mut moved), b"question two");
    moved.write(STREAM, b"wer");
    exchange(&mut end, &mut [(TARGET, &mut moved)]);
    let mut answer = [0; 10];
    assert_eq!(end.read(&mut answer, false), Io::Done(6));
    assert_eq!(&answer[..6], b"answer");
}

#[test]
fn bytes_follow_a_resume_at_once_when_the_anchor_has_answered() {
    let (mut end, mut side) = connected(&small());
    side.write(STREAM, b"answer");
    let mut moved = target(side.seal(), 2);
    moved.attach();
    exchange(&mut end, &mut [(TARGET, &mut moved)]);
    moved.resume();
    let bodies: Vec<Body> = std::iter::from_fn(|| moved.poll_transmit())
        .map(|transmit| transmit.frame.body)
        .collect();
    assert!(matches!(bodies[0], Body::Resume { .. }));
    assert!(matches!(bodies[1], Body::Data { offset: 0, .. }));
}

#[test]
fn a_stream_whose_client_left_during_the_move_is_reset_at_the_target() {
    let (mut end, mut side) = connected(&small());
    let mut moved = target(side.seal(), 2);
    end.abort(ResetReason::ClientGone);
    moved.attach();
    exchange(&mut end, &mut [(SOURCE, &mut side), (TARGET, &mut moved)]);
    assert!(moved.all_attached());
    moved.resume();
    assert_eq!(moved.read(STREAM, &mut [0], false), Io::Reset);
    side.unseal();
    assert_eq!(side.read(STREAM, &mut [0], false), Io::Reset);
}

#[test]
fn a_restored_older_state_resets_the_streams_that_went_past_it_and_no_others() {
    // What the process did after the checkpoint, or the client: both make it older.
    for progress in ["none", "written", "read"] {
        let (mut end, mut side) = connected(&small());
        let checkpoint = side.seal();
        side.unseal();
        match progress {
            "written" => {
                side.write(STREAM, b"seen by the client");
            }
            "read" => {
                end.write(b"acknowledged");
                exchange(&mut end, &mut [(SOURCE, &mut side)]);
                read_all(&mut side);
                side.flush();
            }
            _ => {}
        }
        exchange(&mut end, &mut [(SOURCE, &mut side)]);
        // The node is gone; the checkpoint goes on elsewhere.
        let mut restored = target(checkpoint, 2);
        restored.resume();
        exchange(&mut end, &mut [(TARGET, &mut restored)]);
        if progress == "none" {
            assert_eq!(end.status(), Status::Active);
            end.write(b"on");
            exchange(&mut end, &mut [(TARGET, &mut restored)]);
            assert_eq!(read_all(&mut restored), b"on");
        } else {
            assert_eq!(
                end.status(),
                Status::Reset(ResetReason::Rollback),
                "{progress}"
            );
            assert_eq!(restored.read(STREAM, &mut [0], false), Io::Reset);
        }
    }
}

#[test]
fn a_rollback_is_noticed_at_standby_and_changes_nothing_before_the_resume() {
    let (mut end, mut side) = connected(&small());
    let checkpoint = side.seal();
    side.unseal();
    side.write(STREAM, b"seen by the client");
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    let mut restored = target(checkpoint, 2);
    restored.attach();
    exchange(&mut end, &mut [(TARGET, &mut restored)]);
    assert!(restored.all_attached());
    assert_eq!(end.status(), Status::Active);
    restored.resume();
    exchange(&mut end, &mut [(TARGET, &mut restored)]);
    assert_eq!(end.status(), Status::Reset(ResetReason::Rollback));
    assert_eq!(end.unread(), b"seen by the client");
    assert_eq!(restored.read(STREAM, &mut [0], false), Io::Reset);
}

#[test]
fn a_late_answer_to_an_earlier_attempt_to_move_does_no_harm() {
    let (mut end, mut side) = connected(&small());
    let mut first = target(side.seal(), 2);
    first.attach();
    let standby = first.poll_transmit().unwrap().frame;
    end.handle(TARGET, standby);
    let late = end.poll_transmit().unwrap().frame;
    // That attempt is off; the process goes on, is acknowledged more, and moves there after all.
    side.unseal();
    side.write(STREAM, b"answer");
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    end.flush();
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    let mut second = target(side.seal(), 2);
    second.attach();
    second.handle(ANCHOR, late);
    second.resume();
    exchange(&mut end, &mut [(TARGET, &mut second)]);
    second.write(STREAM, b" goes on");
    exchange(&mut end, &mut [(TARGET, &mut second)]);
    let mut buffer = [0; 20];
    assert_eq!(end.read(&mut buffer, false), Io::Done(14));
    assert_eq!(&buffer[..14], b"answer goes on");
}

#[test]
fn closing_with_unread_bytes_delivers_what_was_written_and_then_resets() {
    let (mut end, mut side) = connected(&small());
    end.write(b"never read");
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    side.write(STREAM, b"sorry");
    side.close(STREAM);
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    let mut buffer = [0; 10];
    assert_eq!(end.read(&mut buffer, false), Io::Done(5));
    assert_eq!(end.read(&mut buffer, false), Io::Reset);
    assert_eq!(side.streams(), 0);
}

#[test]
fn a_reset_that_is_owed_travels() {
    let (mut end, mut side) = connected(&small());
    end.write(b"never read");
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    side.write(STREAM, b"sorry");
    side.close(STREAM);
    let mut moved = target(side.seal(), 2);
    moved.attach();
    exchange(&mut end, &mut [(TARGET, &mut moved)]);
    moved.resume();
    exchange(&mut end, &mut [(TARGET, &mut moved)]);
    assert_eq!(end.unread(), b"sorry");
    assert_eq!(end.status(), Status::Reset(ResetReason::Closed));
    assert_eq!(moved.streams(), 0);
}

#[test]
fn a_lost_last_acknowledgement_does_not_reset_a_stream_that_has_ended() {
    let (mut end, mut side) = connected(&small());
    end.write(b"bye");
    end.shutdown(false, true);
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    read_all(&mut side);
    side.close(STREAM);
    while let Some(transmit) = side.poll_transmit() {
        end.handle(SOURCE, transmit.frame);
    }
    // The anchor has everything; what it says to that is lost with the link, and the process's end
    // hears of it from the anchor's node, which has forgotten the stream.
    while end.poll_transmit().is_some() {}
    side.link_down(ANCHOR);
    side.link_up(ANCHOR);
    let resume = side.poll_transmit().unwrap().frame;
    let answer = stream::answer_for_missing_anchor(&resume).unwrap();
    assert_eq!(answer.body, Body::Reset(ResetReason::ClientGone));
    side.handle(ANCHOR, answer);
    assert_eq!(side.streams(), 0);
}

#[test]
fn connections_beyond_the_limits_are_refused() {
    let config = Config {
        max_streams: 3,
        max_queue: 2,
        ..Config::default()
    };
    let mut side = side(config.clone());
    let connect = |number, side: &mut Side| {
        let mut end = open(StreamId(number), &config);
        exchange(&mut end, &mut [(SOURCE, side)]);
        end.status()
    };
    let refused = Status::Reset(ResetReason::Refused);
    assert_eq!(connect(1, &mut side), Status::Active);
    assert_eq!(connect(2, &mut side), Status::Active);
    assert_eq!(side.listener_readiness(0).readable, 2);
    assert_eq!(connect(3, &mut side), refused, "the queue is full");
    assert_eq!(side.accept(0), Some(StreamId(1)));
    assert_eq!(connect(4, &mut side), Status::Active);
    assert_eq!(side.accept(0), Some(StreamId(2)));
    assert_eq!(connect(5, &mut side), refused, "there are too many streams");
    assert_eq!(side.accept(1), None, "there is no such listener");
}

#[test]
fn a_client_that_leaves_before_it_is_accepted_leaves_the_queue() {
    let mut side = side(small());
    let mut end = open(STREAM, &small());
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    end.abort(ResetReason::ClientGone);
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    assert_eq!(side.listener_readiness(0).readable, 0);
    assert_eq!(side.streams(), 0);
}

#[test]
fn a_connection_that_arrives_during_a_move_waits_or_is_sent_on() {
    for abort in [true, false] {
        let mut side = side(small());
        let sealed = side.seal();
        let mut end = open(STREAM, &small());
        exchange(&mut end, &mut [(SOURCE, &mut side)]);
        assert_eq!(end.status(), Status::Opening);
        assert_eq!(side.listener_readiness(0).readable, 0);
        if abort {
            side.unseal();
            exchange(&mut end, &mut [(SOURCE, &mut side)]);
            assert_eq!(side.accept(0), Some(STREAM));
        } else {
            let mut moved = target(sealed, 2);
            moved.attach();
            assert!(moved.all_attached());
            moved.resume();
            side.leave(Epoch(2));
            let answer = side.poll_transmit().unwrap();
            assert_eq!((answer.to, answer.frame.body), (ANCHOR, Body::NotHere));
            assert!(end.resync(TARGET, Epoch(2)));
            exchange(&mut end, &mut [(TARGET, &mut moved)]);
            assert_eq!(moved.accept(0), Some(STREAM));
        }
        assert_eq!(end.status(), Status::Active);
    }
}

#[test]
fn an_anchor_that_comes_back_under_an_old_epoch_is_told_of_the_new_one() {
    let (end, mut side) = connected(&small());
    let mut moved = target(side.seal(), 2);
    moved.resume();
    while moved.poll_transmit().is_some() {}
    let mut late = end.clone();
    late.link_down();
    late.link_up();
    let resume = late.poll_transmit().unwrap().frame;
    moved.handle(ANCHOR, resume);
    let answer = moved.poll_transmit().unwrap().frame;
    assert_eq!(answer.epoch, Epoch(2));
    assert!(matches!(answer.body, Body::Resume { .. }), "{answer:?}");
    // One that was not there when the process moved shall look again.
    let mut other = open(StreamId(8), &small());
    moved.handle(ANCHOR, other.poll_transmit().unwrap().frame);
    let answer = moved.poll_transmit().unwrap().frame;
    assert_eq!((answer.epoch, answer.body), (Epoch(2), Body::NotHere));
    assert_eq!(moved.listener_readiness(0).readable, 0);
}

#[test]
fn a_process_that_ends_delivers_what_it_wrote() {
    let (mut end, mut side) = connected(&small());
    let mut waiting = open(StreamId(8), &small());
    exchange(&mut waiting, &mut [(SOURCE, &mut side)]);
    side.write(STREAM, b"last words");
    side.end();
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    assert_eq!(end.unread(), b"last words");
    end.consume(10);
    assert!(end.is_read_to_end());
    assert!(side.is_idle());

    let (mut end, mut side) = connected(&small());
    side.kill();
    exchange(&mut end, &mut [(SOURCE, &mut side)]);
    assert_eq!(end.status(), Status::Reset(ResetReason::ProcessGone));
    assert!(side.is_idle());
}

#[test]
fn the_clients_of_a_dead_anchor_are_gone() {
    let (_, mut side) = connected(&small());
    side.anchor_gone(ANCHOR);
    assert_eq!(side.read(STREAM, &mut [0], false), Io::Reset);
    side.close(STREAM);
    assert!(side.is_idle());
}

#[test]
fn only_a_process_that_runs_waits_for_a_dead_anchor() {
    let (mut end, mut side) = connected(&small());
    let sealed = side.seal();
    side.unseal();
    // One that stands by is not held.
    let mut moved = target(sealed, 2);
    moved.attach();
    moved.anchor_dead(SOURCE);
    assert!(!moved.all_attached(), "another node's death is no matter");
    moved.anchor_dead(ANCHOR);
    assert!(moved.all_attached());
    moved.resume();
    assert_eq!(moved.read(STREAM, &mut [0], false), Io::Reset);
    // The anchor may live after all: it is told once it follows.
    moved.close(STREAM);
    assert!(!moved.is_idle());
    moved.link_up(ANCHOR);
    exchange(&mut end, &mut [(TARGET, &mut moved)]);
    assert_eq!(end.status(), Status::Reset(ResetReason::ClientGone));
    assert!(moved.is_idle());
    // One that runs waits for the anchor to come back.
    side.link_down(ANCHOR);
    side.anchor_dead(ANCHOR);
    assert_eq!(side.read(STREAM, &mut [0], false), Io::Blocked);
    // One that has ended does not.
    side.write(STREAM, b"last words");
    side.end();
    assert!(!side.is_delivered());
    side.anchor_dead(ANCHOR);
    assert!(side.is_delivered() && side.is_idle());
}

#[test]
fn nobody_waits_for_the_words_of_a_killed_process() {
    let (_, mut side) = connected(&small());
    side.link_down(ANCHOR);
    side.write(STREAM, b"last words");
    side.end();
    assert!(!side.is_delivered());
    side.kill();
    assert!(side.is_delivered());
    // Yet an anchor that comes back is told.
    side.link_up(ANCHOR);
    let told = side.poll_transmit().unwrap().frame;
    assert_eq!(told.body, Body::Reset(ResetReason::ProcessGone));
    assert!(side.is_idle());
}

#[test]
fn streams_take_turns() {
    let config = Config {
        data_bytes: 10,
        ..Config::default()
    };
    let mut side = side(config.clone());
    for number in 1..=3 {
        let mut end = open(StreamId(number), &config);
        exchange(&mut end, &mut [(SOURCE, &mut side)]);
        side.accept(0).unwrap();
    }
    for number in 1..=3 {
        side.write(StreamId(number), &[0; 30]);
    }
    let order: Vec<u64> = std::iter::from_fn(|| side.poll_transmit())
        .map(|transmit| transmit.frame.stream.0)
        .collect();
    assert_eq!(order, [1, 2, 3, 1, 2, 3, 1, 2, 3]);
}

#[test]
fn impossible_streams_of_a_snapshot_are_refused() {
    let (_, mut side) = connected(&small());
    let (listeners, streams) = side.seal();
    let restore = |listeners: &[Listener], streams: &[Stream]| {
        let (listeners, streams) = (listeners.to_vec(), streams.to_vec());
        Side::restore(PROCESS, TARGET, Epoch(2), listeners, streams, small()).err()
    };
    assert_eq!(restore(&listeners, &streams), None);
    let twice = [streams[0].clone(), streams[0].clone()];
    assert_eq!(
        restore(&listeners, &twice),
        Some(RestoreError::Duplicate(STREAM))
    );
    let with = |change: fn(&mut Stream)| {
        let mut stream = streams[0].clone();
        change(&mut stream);
        restore(&listeners, &[stream])
    };
    let offsets = Some(RestoreError::Offsets(STREAM));
    assert_eq!(with(|stream| stream.received = u64::MAX), offsets);
    assert_eq!(with(|stream| stream.acknowledged = u64::MAX), offsets);
    assert_eq!(with(|stream| stream.unread = vec![0]), offsets);
    assert_eq!(
        with(|stream| {
            stream.received = 5;
            stream.end = Some(4);
        }),
        offsets
    );
    let mut queued = listeners.clone();
    queued[0].queue = vec![STREAM, STREAM];
    assert_eq!(
        restore(&queued, &streams),
        Some(RestoreError::Queue(STREAM))
    );
    queued[0].queue = vec![StreamId(99)];
    assert_eq!(
        restore(&queued, &streams),
        Some(RestoreError::Queue(StreamId(99)))
    );
    let many = vec![streams[0].clone(); 16_385];
    assert!(matches!(
        restore(&listeners, &many),
        Some(RestoreError::TooMany { .. })
    ));
}

#[test]
fn any_frames_whatever_do_no_harm() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut end, mut side) = connected(&small());
        let mut standby = target(side.seal(), 2);
        side.unseal();
        for _ in 0..200 {
            let mut number = || {
                let near = random.u64(..120);
                if random.u8(..10) == 0 {
                    u64::MAX - near
                } else {
                    near
                }
            };
            let (received, limit) = (number(), number());
            let offset = received;
            let bytes = vec![0; random.usize(..50)];
            let node = [ANCHOR, SOURCE, TARGET][random.usize(..3)];
            let body = match random.u8(..12) {
                0 => Body::Open {
                    listener: 0,
                    peer: "x".repeat(5000),
                    window: limit,
                },
                1..4 => Body::Data { offset, bytes },
                4 => Body::Ack { received, limit },
                5 => Body::Fin { offset },
                6 => Body::Reset(ResetReason::Closed),
                7 => Body::Standby {
                    node,
                    received,
                    limit,
                },
                8 => Body::StandbyAck { received, limit },
                9 => Body::Resume {
                    node,
                    received,
                    limit,
                },
                10 => Body::Resumed { received, limit },
                _ => Body::NotHere,
            };
            let mut frame = to_process(random.u64(..4), body);
            frame.stream = StreamId(random.u64(6..9));
            side.handle(ANCHOR, frame.clone());
            standby.handle(ANCHOR, frame.clone());
            frame.to = frame::End::Anchor;
            end.handle([SOURCE, TARGET][random.usize(..2)], frame);
            end.poll_transmit();
            side.poll_transmit();
            standby.poll_transmit();
            end.read(&mut [0; 10], false);
            side.read(STREAM, &mut [0; 10], false);
            if random.u8(..100) == 0 {
                standby.resume();
                end.link_up();
                side.link_down(ANCHOR);
            }
        }
    }
}
