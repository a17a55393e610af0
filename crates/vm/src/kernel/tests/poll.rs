//! `poll_oneoff`.

use super::super::abi::{Errno, rights};
use super::super::poll::PollOneoff;
use super::super::waiting::{Blocking, Wait};
use super::{Bench, LISTENER, OUT, bench_with};
use crate::ports::Io;
use crate::torture::{Script, ScriptStep};
use wire::snapshot::{Limits, Pending};

const SUBSCRIPTIONS: u32 = 0x6000;
const EVENTS: u32 = 0x7000;

/// (userdata, error, type, bytes, flags)
type Event = (u64, u16, u8, u64, u16);

fn clock(userdata: u64, clock: u32, timeout: u64, absolute: bool) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..8].copy_from_slice(&userdata.to_le_bytes());
    bytes[16..20].copy_from_slice(&clock.to_le_bytes());
    bytes[24..32].copy_from_slice(&timeout.to_le_bytes());
    bytes[40] = absolute.into();
    bytes
}

fn descriptor(userdata: u64, tag: u8, descriptor: u32) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..8].copy_from_slice(&userdata.to_le_bytes());
    bytes[8] = tag;
    bytes[16..20].copy_from_slice(&descriptor.to_le_bytes());
    bytes
}

fn poll_of(bench: &mut Bench, subscriptions: &[[u8; 48]]) -> PollOneoff {
    bench.put(SUBSCRIPTIONS, &subscriptions.concat());
    PollOneoff {
        subscriptions: SUBSCRIPTIONS,
        events: EVENTS,
        count: subscriptions.len() as u32,
        out: OUT,
        deadlines: None,
    }
}

fn events(bench: &mut Bench, poll: &mut PollOneoff) -> Result<Result<Vec<Event>, Wait>, Errno> {
    let count = match bench.attempt(poll)? {
        Ok(count) => count,
        Err(wait) => return Ok(Err(wait)),
    };
    let event = |index: u32| {
        let at = EVENTS + index * 32;
        let error = bench.u32(at + 8) as u16;
        let kind = bench.memory[at as usize + 10];
        let flags = bench.u32(at + 24) as u16;
        (bench.u64(at), error, kind, bench.u64(at + 16), flags)
    };
    Ok(Ok((0..count).map(event).collect()))
}

fn now(bench: &Bench, now_ns: u64) {
    *bench.clock.now_ns.lock().unwrap() = now_ns;
}

fn waits_until(deadline_ns: u64) -> Wait {
    Wait {
        deadline_ns: Some(deadline_ns),
        ..Wait::NOTHING
    }
}

fn bench() -> Bench {
    bench_with(Script::default(), Limits::default())
}

#[test]
fn nothing_to_wait_for_is_an_error() {
    let mut bench = bench();
    let mut none = poll_of(&mut bench, &[]);
    assert_eq!(events(&mut bench, &mut none), Err(Errno::INVAL));
    let mut many = poll_of(&mut bench, &[clock(1, 1, 5, false)]);
    many.count = u32::MAX;
    assert_eq!(events(&mut bench, &mut many), Err(Errno::INVAL));
    many.count = 2;
    many.events = 0xffe0;
    assert_eq!(events(&mut bench, &mut many), Err(Errno::FAULT));
}

#[test]
fn timeouts_are_relative_or_absolute_on_either_clock() {
    let mut bench = bench();
    now(&bench, 100);
    let realtime = 1_000_000_000_000;
    let monotonic = 1_000_000_000;
    for (subscription, deadline) in [
        (clock(1, 1, 50, false), 150),
        (clock(1, 0, 50, false), 150),
        (clock(1, 1, monotonic + 170, true), 170),
        (clock(1, 0, realtime + 180, true), 180),
    ] {
        now(&bench, 100);
        let mut poll = poll_of(&mut bench, &[subscription]);
        assert_eq!(
            events(&mut bench, &mut poll),
            Ok(Err(waits_until(deadline)))
        );
        now(&bench, deadline - 1);
        assert_eq!(
            events(&mut bench, &mut poll),
            Ok(Err(waits_until(deadline)))
        );
        now(&bench, deadline);
        assert_eq!(events(&mut bench, &mut poll), Ok(Ok(vec![(1, 0, 0, 0, 0)])));
    }
    for (subscription, error) in [
        (clock(2, 2, 1, false), Errno::NOTSUP),
        (clock(2, 9, 1, false), Errno::INVAL),
    ] {
        let mut poll = poll_of(&mut bench, &[subscription]);
        assert_eq!(
            events(&mut bench, &mut poll),
            Ok(Ok(vec![(2, error.0, 0, 0, 0)]))
        );
    }
    let mut forever = poll_of(&mut bench, &[clock(1, 1, u64::MAX, false)]);
    assert!(events(&mut bench, &mut forever).unwrap().is_err());
}

#[test]
fn a_timeout_runs_on_through_a_freeze() {
    let mut bench = bench();
    now(&bench, 100);
    let subscriptions = [
        clock(1, 1, 50, false),
        clock(2, 1, 70, false),
        clock(3, 1, 1_000_000_160, true),
    ];
    let mut poll = poll_of(&mut bench, &subscriptions);
    assert_eq!(events(&mut bench, &mut poll), Ok(Err(waits_until(150))));
    now(&bench, 120);
    bench.call(|kernel, _| poll.freeze(kernel));
    let expected = Some(Pending::Poll {
        deadlines: vec![(0, 150), (1, 170)],
    });
    assert_eq!(bench.kernel.pending, expected);
    // Issued again, and frozen before it could look: nothing is lost.
    let mut again = poll_of(&mut bench, &subscriptions);
    bench.call(|kernel, _| again.freeze(kernel));
    assert_eq!(bench.kernel.pending, expected);
    let mut again = poll_of(&mut bench, &subscriptions);
    assert_eq!(events(&mut bench, &mut again), Ok(Err(waits_until(150))));
    now(&bench, 165);
    let due = vec![(1, 0, 0, 0, 0), (3, 0, 0, 0, 0)];
    assert_eq!(events(&mut bench, &mut again), Ok(Ok(due)));
    bench.kernel.completed();
    assert_eq!(bench.kernel.pending, None);
}

#[test]
fn all_that_is_ready_is_told_at_once() {
    let steps = vec![
        ScriptStep::Connect {
            client: 1,
            listener: 0,
        },
        ScriptStep::Connect {
            client: 2,
            listener: 0,
        },
        ScriptStep::Send {
            client: 1,
            bytes: b"abc".to_vec(),
        },
    ];
    let mut bench = bench_with(
        Script {
            steps,
            window: 10,
            ..Script::default()
        },
        Limits::default(),
    );
    let subscriptions = [
        descriptor(1, 1, LISTENER),
        descriptor(2, 1, 0),
        clock(3, 1, 1000, false),
    ];
    let mut poll = poll_of(&mut bench, &subscriptions);
    let wait = events(&mut bench, &mut poll).unwrap().unwrap_err();
    assert!(wait.stdio && wait.network && wait.deadline_ns == Some(1000));
    while bench.network.advance() {}
    bench.stdio.answers.lock().unwrap().push_back(Io::Done(1));
    let ready = vec![(1, 0, 1, 2, 0), (2, 0, 1, 1, 0)];
    assert_eq!(events(&mut bench, &mut poll), Ok(Ok(ready)));
    let mut accept = super::super::sockets::Accept {
        descriptor: LISTENER,
        flags: 0,
        out: OUT,
    };
    assert_eq!(bench.attempt(&mut accept), Ok(Ok(5)));
    let subscriptions = [
        descriptor(1, 1, 5),
        descriptor(2, 2, 5),
        descriptor(3, 2, 1),
        descriptor(4, 1, 99),
        descriptor(5, 7, 5),
    ];
    let mut poll = poll_of(&mut bench, &subscriptions);
    let ready = vec![
        (1, 0, 1, 3, 0),
        (2, 0, 2, 10, 0),
        (3, 0, 2, 1, 0),
        (4, Errno::BADF.0, 1, 0, 0),
        (5, Errno::INVAL.0, 7, 0, 0),
    ];
    assert_eq!(events(&mut bench, &mut poll), Ok(Ok(ready)));
}

#[test]
fn a_half_closed_connection_hangs_up_when_all_is_read() {
    let steps = vec![
        ScriptStep::Connect {
            client: 1,
            listener: 0,
        },
        ScriptStep::Send {
            client: 1,
            bytes: b"ab".to_vec(),
        },
        ScriptStep::Finish { client: 1 },
    ];
    let mut bench = bench_with(
        Script {
            steps,
            window: 10,
            ..Script::default()
        },
        Limits::default(),
    );
    while bench.network.advance() {}
    let mut accept = super::super::sockets::Accept {
        descriptor: LISTENER,
        flags: 0,
        out: OUT,
    };
    bench.attempt(&mut accept).unwrap().unwrap();
    let subscriptions = [descriptor(1, 1, 5), descriptor(2, 2, 5)];
    let mut poll = poll_of(&mut bench, &subscriptions);
    let open = vec![(1, 0, 1, 2, 0), (2, 0, 2, 10, 0)];
    assert_eq!(events(&mut bench, &mut poll), Ok(Ok(open)));
    bench.read(5, 10).unwrap();
    let hung_up = vec![(1, 0, 1, 0, 1), (2, 0, 2, 10, 0)];
    let mut poll = poll_of(&mut bench, &subscriptions);
    assert_eq!(events(&mut bench, &mut poll), Ok(Ok(hung_up)));
    // A full window: the writer waits although the reader would not.
    bench.write(5, &[1; 10]).unwrap();
    let mut poll = poll_of(&mut bench, &[descriptor(2, 2, 5)]);
    assert_eq!(events(&mut bench, &mut poll), Ok(Err(Wait::NETWORK)));
}

#[test]
fn a_file_is_always_ready_and_tells_what_is_left() {
    let mut bench = bench();
    let file = bench.open_with(b"f", 1, rights::ALL, true, 0).unwrap();
    bench.write(file, b"hello").unwrap();
    bench
        .call(|kernel, guest| kernel.fd_seek(guest, file, 2, 0, OUT))
        .unwrap();
    let mut poll = poll_of(
        &mut bench,
        &[descriptor(1, 1, file), descriptor(2, 2, file)],
    );
    let ready = vec![(1, 0, 1, 3, 0), (2, 0, 2, 1, 0)];
    assert_eq!(events(&mut bench, &mut poll), Ok(Ok(ready)));
}
