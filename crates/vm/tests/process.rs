//! A process in real time: asked to freeze and to end from other threads, waiting, resuming in
//! place, refusing what cannot be loaded.

mod common;

use common::{engine, polling, same_under_torture, spec, wat};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use vm::ports::{Clock, Io, Ports, Stdio};
use vm::torture::{End, World};
use vm::{Backend, Control, Image, LoadError, Outcome, Polls, Process, Spec, ThawError};
use wire::snapshot::{GlobalValue, Limits, Pending, Phase, Snapshot};

/// A world that tells what happens in it and answers as it is told.
struct Told {
    events: Mutex<Sender<Event>>,
    answers: Mutex<VecDeque<Io>>,
    now_ns: Mutex<u64>,
}

#[derive(Debug, PartialEq)]
enum Event {
    Wrote(Vec<u8>),
    /// Something waits for standard streams.
    Waits(Waiting),
    WakeAt(u64),
}

#[derive(Debug)]
struct Waiting(Waker);

impl PartialEq for Waiting {
    fn eq(&self, _: &Waiting) -> bool {
        true
    }
}

impl Told {
    fn tell(&self, event: Event) {
        let _ = self.events.lock().unwrap().send(event);
    }
}

impl Stdio for Told {
    fn read(&self, buffer: &mut [u8]) -> Io {
        let answer = self.answers.lock().unwrap().pop_front();
        if let Some(Io::Done(count)) = answer {
            buffer[..count].fill(b'r');
        }
        answer.unwrap_or(Io::Blocked)
    }
    fn readable(&self) -> bool {
        !self.answers.lock().unwrap().is_empty()
    }
    fn write(&self, _: u32, bytes: &[u8]) -> Io {
        let answer = self.answers.lock().unwrap().pop_front();
        let answer = answer.unwrap_or(Io::Done(bytes.len()));
        if let Io::Done(count) = answer {
            self.tell(Event::Wrote(bytes[..count].to_vec()));
        }
        answer
    }
    fn register(&self, waker: &Waker) {
        self.tell(Event::Waits(Waiting(waker.clone())));
    }
}

impl Clock for Told {
    fn realtime_ns(&self) -> u64 {
        *self.now_ns.lock().unwrap()
    }
    fn monotonic_ns(&self) -> u64 {
        *self.now_ns.lock().unwrap()
    }
    fn wake_at(&self, deadline_ns: u64, _: &Waker) {
        self.tell(Event::WakeAt(deadline_ns));
    }
}

fn told() -> (Arc<Told>, Ports, std::sync::mpsc::Receiver<Event>) {
    let (sender, receiver) = channel();
    let world = Arc::new(Told {
        events: Mutex::new(sender),
        answers: Mutex::default(),
        now_ns: Mutex::new(0),
    });
    let ports = Ports {
        clock: world.clone(),
        stdio: world.clone(),
        ..Ports::nothing()
    };
    (world, ports, receiver)
}

/// Ends a process whose test has failed on another thread, so that no one waits for ever.
struct EndsIfFailed(Control);

impl Drop for EndsIfFailed {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.kill();
        }
    }
}

struct Unpark {
    thread: thread::Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Polls again only when woken: a thread may be unparked by what went before on it.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let unpark = Arc::new(Unpark {
        thread: thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = unpark.clone().into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        while !unpark.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

/// Counts for ever in a global and in memory; writes a byte at every thousandth.
const COUNTS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (data (i32.const 0) "\10\00\00\00\01\00\00\00")
    (data (i32.const 16) "x")
    (data (i32.const 70000) "far")
    (global $count (mut i64) (i64.const 7))
    (func (export "_start")
        (loop
            (if (i64.eqz (i64.rem_u (global.get $count) (i64.const 1000)))
                (then (drop
                    (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
            (global.set $count (i64.add (global.get $count) (i64.const 1)))
            (i64.store (i32.const 65536) (global.get $count))
            (br 0))))"#;

fn count_of(snapshot: &Snapshot) -> u64 {
    match snapshot.globals[..] {
        [GlobalValue::I64(count)] => count,
        _ => panic!("{:?}", snapshot.globals),
    }
}

fn load(index: usize, text: &str) -> Arc<Image> {
    polling()[index].load(&wat(text)).unwrap()
}

#[test]
fn an_endless_loop_freezes_on_request_goes_on_in_place_and_dies_when_killed() {
    for engine in 0..2 {
        let image = load(engine, COUNTS);
        let (_world, ports, mut events) = told();
        let mut process = Process::start(&image, &Spec::default(), ports).unwrap();
        let mut last = 7;
        for round in 1..=4 {
            while events.try_recv().is_ok() {}
            let control = process.control();
            let asks = thread::spawn(move || {
                let _guard = EndsIfFailed(control.clone());
                assert_eq!(events.recv(), Ok(Event::Wrote(b"x".to_vec())));
                match round {
                    4 => control.kill(),
                    _ => control.freeze(),
                }
                events
            });
            let outcome = block_on(process.run());
            events = asks.join().unwrap();
            if round == 4 {
                assert_eq!(outcome, Outcome::Killed);
                break;
            }
            assert_eq!(outcome, Outcome::Frozen);
            let snapshot = process.snapshot().unwrap();
            assert_eq!(snapshot, process.snapshot().unwrap());
            assert!(count_of(&snapshot) > last, "round {round}");
            last = count_of(&snapshot);
            assert_eq!(process.accounts().freezes, round);
        }
        assert_eq!(block_on(process.run()), Outcome::Killed);
        assert!(process.snapshot().is_err());
        assert_eq!(process.memory_bytes(), 2 * 65536);
        assert!(process.accounts().cpu_ns > 0);
    }
}

#[test]
fn a_request_made_before_the_run_counts() {
    let image = load(0, COUNTS);
    let (_world, ports, _events) = told();
    let mut process = Process::start(&image, &Spec::default(), ports.clone()).unwrap();
    process.control().freeze();
    assert_eq!(block_on(process.run()), Outcome::Frozen);
    process.control().kill();
    assert_eq!(block_on(process.run()), Outcome::Killed);
    let mut process = Process::start(&image, &Spec::default(), ports).unwrap();
    process.control().kill();
    assert_eq!(block_on(process.run()), Outcome::Killed);
}

#[test]
fn a_birth_snapshot_can_be_thawed_any_number_of_times() {
    let image = load(0, COUNTS);
    let (_world, ports, _events) = told();
    let mut born = Process::start(&image, &Spec::default(), ports.clone()).unwrap();
    let birth = born.snapshot().unwrap();
    assert_eq!(birth.phase, Phase::Born);
    assert_eq!(birth, image.birth(&Spec::default()));
    assert_eq!(birth.memories[0].given, b"");
    for _ in 0..2 {
        let mut process = Process::thaw(&image, birth.clone(), ports.clone()).unwrap();
        process.control().freeze();
        assert_eq!(block_on(process.run()), Outcome::Frozen);
        // It has not even written: a request that is there already wins over the call.
        assert_eq!(count_of(&process.snapshot().unwrap()), 7);
    }
}

/// Reads a byte of standard input, writes it to standard output, and so on to its end.
const COPIES: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read"
        (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\04\00\00\00")
    (data (i32.const 64) "\10\00\00\00")
    (func (export "_start")
        (loop
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (i32.store (i32.const 68) (i32.load (i32.const 8)))
            (drop (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 12)))
            (br_if 0 (i32.load (i32.const 8))))))"#;

#[test]
fn a_process_that_waits_freezes_at_once_and_waits_on_after_a_thaw() {
    let image = load(0, COPIES);
    let (_, ports, events) = told();
    let mut process = Process::start(&image, &Spec::default(), ports).unwrap();
    let control = process.control();
    let asks = thread::spawn(move || {
        let _guard = EndsIfFailed(control.clone());
        assert!(matches!(events.recv(), Ok(Event::Waits(_))));
        control.freeze();
    });
    assert_eq!(block_on(process.run()), Outcome::Frozen);
    asks.join().unwrap();
    let snapshot = process.snapshot().unwrap();
    assert_eq!(snapshot.kernel.pending, None);
    drop(process);

    // Elsewhere, on the other kind of engine.
    let image = load(1, COPIES);
    let (world, ports, events) = told();
    let mut process = Process::thaw(&image, snapshot, ports).unwrap();
    assert!(events.try_recv().is_err(), "a thaw has no effects");
    let control = process.control();
    let answers = thread::spawn(move || {
        let _guard = EndsIfFailed(control.clone());
        let Ok(Event::Waits(Waiting(waker))) = events.recv() else {
            panic!("it did not wait");
        };
        world
            .answers
            .lock()
            .unwrap()
            .extend([Io::Done(2), Io::Done(2)]);
        waker.wake();
        assert_eq!(events.recv(), Ok(Event::Wrote(b"rr".to_vec())));
        assert!(matches!(events.recv(), Ok(Event::Waits(_))));
        control.kill();
    });
    assert_eq!(block_on(process.run()), Outcome::Killed);
    answers.join().unwrap();
}

/// Writes ten bytes, keeps how many were taken, and counts the calls it needed.
const WRITES: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 16) "0123456789")
    (global $calls (mut i64) (i64.const 0))
    (func (export "_start") (local $at i32)
        (loop
            (i32.store (i32.const 0) (i32.add (i32.const 16) (local.get $at)))
            (i32.store (i32.const 4) (i32.sub (i32.const 10) (local.get $at)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (global.set $calls (i64.add (global.get $calls) (i64.const 1)))
            (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
            (br_if 0 (i32.lt_u (local.get $at) (i32.const 10))))))"#;

#[test]
fn a_write_under_way_gives_its_progress_when_it_is_frozen() {
    let image = load(0, WRITES);
    let (world, ports, events) = told();
    world
        .answers
        .lock()
        .unwrap()
        .extend([Io::Done(3), Io::Blocked, Io::Blocked, Io::Blocked]);
    let mut process = Process::start(&image, &Spec::default(), ports).unwrap();
    let control = process.control();
    let asks = thread::spawn(move || {
        let _guard = EndsIfFailed(control.clone());
        assert_eq!(events.recv(), Ok(Event::Wrote(b"012".to_vec())));
        assert!(matches!(events.recv(), Ok(Event::Waits(_))));
        control.freeze();
        events
    });
    assert_eq!(block_on(process.run()), Outcome::Frozen);
    let events = asks.join().unwrap();
    let snapshot = process.snapshot().unwrap();
    assert_eq!(count_of(&snapshot), 1, "the call returned, short");
    world.answers.lock().unwrap().clear();
    assert_eq!(block_on(process.run()), Outcome::Exited(0));
    assert_eq!(events.recv(), Ok(Event::Wrote(b"3456789".to_vec())));
}

/// Sleeps for a second, then exits with what `poll_oneoff` gave.
const SLEEPS: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff"
        (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 16) "\01")
    (func (export "_start")
        (i64.store (i32.const 24) (i64.const 1000000000))
        (call $exit (i32.add (i32.const 40)
            (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))))"#;

#[test]
fn a_sleep_is_as_long_as_it_was_meant_to_be_however_often_it_moves() {
    let images = [load(0, SLEEPS), load(1, SLEEPS)];
    let (world, ports, events) = told();
    let set = |world: &Told, now_ns| *world.now_ns.lock().unwrap() = now_ns;
    set(&world, 5_000_000_000);
    let process = Process::start(&images[0], &Spec::default(), ports).unwrap();
    let mut next = Some((world, process, events));
    // Each machine has a monotonic clock of its own, which begins where it likes.
    let mut begins = 5_000_000_000u64;
    let mut slept = 0;
    for hop in 1..4 {
        let (world, mut process, events) = next.take().unwrap();
        let control = process.control();
        let expected = begins + 1_000_000_000 - slept;
        let asks = thread::spawn(move || {
            let _guard = EndsIfFailed(control.clone());
            assert_eq!(events.recv(), Ok(Event::WakeAt(expected)));
            set(&world, begins + 250_000_000);
            control.freeze();
        });
        assert_eq!(block_on(process.run()), Outcome::Frozen);
        asks.join().unwrap();
        slept += 250_000_000;
        let snapshot = process.snapshot().unwrap();
        assert_eq!(snapshot.kernel.monotonic_ns, slept);
        let deadlines = vec![(0, 1_000_000_000)];
        assert_eq!(snapshot.kernel.pending, Some(Pending::Poll { deadlines }));
        let (world, ports, events) = told();
        begins = hop * 100;
        set(&world, begins);
        let process = Process::thaw(&images[hop as usize % 2], snapshot, ports).unwrap();
        next = Some((world, process, events));
    }
    let (world, mut process, _events) = next.unwrap();
    set(&world, begins + 250_000_000);
    assert_eq!(block_on(process.run()), Outcome::Exited(40));
}

#[test]
fn the_start_function_runs_once_whenever_it_is_frozen() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
        (memory (export "memory") 1)
        (global $starts (mut i32) (i32.const 0))
        (global $rounds (mut i32) (i32.const 0))
        (func $begin
            (global.set $starts (i32.add (global.get $starts) (i32.const 1)))
            (loop
                (drop (call $yield))
                (global.set $rounds (i32.add (global.get $rounds) (i32.const 1)))
                (br_if 0 (i32.lt_u (global.get $rounds) (i32.const 50)))))
        (start $begin)
        (func (export "_start")
            (loop
                (drop (call $yield))
                (global.set $rounds (i32.add (global.get $rounds) (i32.const 1)))
                (br_if 0 (i32.lt_u (global.get $rounds) (i32.const 99))))
            (call $exit (i32.add (i32.mul (global.get $starts) (i32.const 100))
                (global.get $rounds)))))"#;
    let report = same_under_torture(&wat(text), &spec(&["p"]), &World::default(), 0..20, 10);
    assert_eq!(report.end, End::Outcome(Outcome::Exited(199)));
}

#[test]
fn a_run_that_is_abandoned_ends_the_process() {
    let image = load(0, COPIES);
    let (_world, ports, _events) = told();
    let mut process = Process::start(&image, &Spec::default(), ports).unwrap();
    {
        let mut run = pin!(process.run());
        let mut context = Context::from_waker(Waker::noop());
        assert!(run.as_mut().poll(&mut context).is_pending());
    }
    assert!(process.snapshot().is_err());
    assert_eq!(block_on(process.run()), Outcome::Killed);
}

#[test]
fn memory_ends_at_the_limit_and_the_host_s_own_does_not_count() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 2)
        (func (export "_start") (local $grown i32)
            (loop
                (br_if 0 (i32.ne (i32.const -1) (memory.grow (i32.const 1)))))
            (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 1))
            (call $exit (memory.size))))"#;
    let limits = |pages: u64| Limits {
        memory_bytes: pages * 65536,
        ..Limits::default()
    };
    for engine in 0..2 {
        let image = load(engine, text);
        let mut spec = Spec {
            limits: limits(5),
            ..Spec::default()
        };
        let mut process = Process::start(&image, &spec, Ports::nothing()).unwrap();
        assert_eq!(block_on(process.run()), Outcome::Exited(5));
        spec.limits = limits(1);
        let refused = Process::start(&image, &spec, Ports::nothing());
        assert!(matches!(refused, Err(ThawError::MemoryLimit { .. })));
    }
}

fn refused(text: &str) -> String {
    polling()[0].load(&wat(text)).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_loaded_is_refused_with_the_reason() {
    let engine = polling()[0];
    let error = engine.load(b"#!/bin/sh\n").unwrap_err();
    assert!(
        matches!(error, LoadError::Pass(freeze::Error::NotWasm)),
        "{error}"
    );
    let error = engine.load(b"\0asm\x0d\0\x01\0").unwrap_err();
    assert!(
        matches!(error, LoadError::Pass(freeze::Error::Component)),
        "{error}"
    );
    let error = refused(r#"(module (import "env" "magic" (func)) (func (export "_start")))"#);
    assert!(error.contains("`magic` from `env`"), "{error}");
    let error = refused(
        r#"(module (import "wasi_snapshot_preview1" "fd_rewind" (func)) (func (export "_start")))"#,
    );
    assert!(
        error.contains("`fd_rewind` from `wasi_snapshot_preview1`"),
        "{error}"
    );
    let error = refused(
        r#"(module (import "wasi_snapshot_preview1" "fd_close" (func (param i64)))
            (func (export "_start")))"#,
    );
    assert!(
        error.contains("as (i64) -> (), but it is (i32) -> (i32)"),
        "{error}"
    );
    let error = refused("(module)");
    assert!(
        error.contains("neither `_start` nor `_initialize`"),
        "{error}"
    );
    let error = refused(r#"(module (func (export "_start") (param i32)))"#);
    assert!(error.contains("`_start`"), "{error}");
}

#[test]
fn a_program_without_a_memory_gets_faults_not_crashes() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (func (export "_start")
            (call $exit (i32.add (call $random (i32.const 0) (i32.const 1))
                (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))))"#;
    let image = load(0, text);
    let mut process = Process::start(&image, &Spec::default(), Ports::nothing()).unwrap();
    assert_eq!(block_on(process.run()), Outcome::Exited(42));
}

#[test]
fn a_stack_as_deep_as_it_may_be_is_frozen_and_thawed() {
    // At the bottom of the recursion it waits; the result shows that every frame came back.
    let text = |depth: u32| {
        format!(
            r#"(module
        (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func $down (param $n i32) (param $x f64) (result f64)
            (if (i32.eqz (local.get $n)) (then (drop (call $yield)) (return (local.get $x))))
            (f64.add (f64.convert_i32_u (local.get $n))
                (call $down (i32.sub (local.get $n) (i32.const 1)) (local.get $x))))
        (func (export "_start")
            (call $exit (i32.trunc_sat_f64_u (f64.div
                (call $down (i32.const {depth}) (f64.const 0)) (f64.const {depth}))))))"#
        )
    };
    let deepest = |engine: usize| {
        let overflows = |depth| {
            let image = load(engine, &text(depth));
            let mut process = Process::start(&image, &Spec::default(), Ports::nothing()).unwrap();
            matches!(block_on(process.run()), Outcome::Trapped(_))
        };
        let (mut fits, mut over) = (1000, 1_000_000);
        assert!(!overflows(fits) && overflows(over));
        while over - fits > 500 {
            let middle = (fits + over) / 2;
            match overflows(middle) {
                true => over = middle,
                false => fits = middle,
            }
        }
        fits
    };
    for engine in 0..2 {
        let depth = deepest(engine);
        println!("engine {engine}: {depth} calls deep");
        assert!(depth > 20_000, "{depth}");
        for target in 0..2 {
            let image = load(engine, &text(depth));
            let mut process = Process::start(&image, &Spec::default(), Ports::nothing()).unwrap();
            process.control().freeze();
            // The first poll is at the top; the last one at the bottom is the host call.
            while process.snapshot().unwrap().frames.len() < depth as usize * 8 {
                let control = process.control();
                let mut run = pin!(process.run());
                let mut context = Context::from_waker(Waker::noop());
                match run.as_mut().poll(&mut context) {
                    Poll::Ready(outcome) => assert_eq!(outcome, Outcome::Frozen),
                    Poll::Pending => {
                        control.freeze();
                        assert_eq!(block_on(run), Outcome::Frozen);
                    }
                }
            }
            let snapshot = process.snapshot().unwrap();
            let target = load(target, &text(depth));
            let mut thawed = Process::thaw(&target, snapshot, Ports::nothing()).unwrap();
            let expected = Outcome::Exited((depth as i32 + 1) / 2);
            assert_eq!(block_on(thawed.run()), expected);
        }
    }
}

#[test]
fn engines_of_all_kinds_make_the_same_artefact() {
    let ids: Vec<_> = [Backend::Native, Backend::Pulley]
        .into_iter()
        .flat_map(|backend| [Polls::Request, Polls::Countdown].map(|polls| engine(backend, polls)))
        .map(|engine| engine.load(&wat(COUNTS)).unwrap().artefact_id())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[test]
fn a_run_can_be_sent_between_threads() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let image = load(0, WRITES);
    let (_world, ports, _events) = told();
    let mut process = Process::start(&image, &Spec::default(), ports).unwrap();
    let run = sendable(process.run());
    assert_eq!(block_on(run), Outcome::Exited(0));
}
