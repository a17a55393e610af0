//! Processes that wait are folded: what they hold is given back, and nothing is lost.

mod common;

use common::{engine, wat};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use vm::ports::{Clock, Io, Ports, Stdio};
use vm::{Backend, Control, Image, Outcome, Polls, Process, SnapshotError, Spec};
use wire::snapshot::{Binding, Pending, Snapshot, Target};

/// A world in which time and input come when they are told to.
#[derive(Default)]
struct World {
    now_ns: AtomicU64,
    alarm: Mutex<Option<(u64, Waker)>>,
    stdio: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes that it takes of what is written.
    room: usize,
    waker: Option<Waker>,
}

impl World {
    fn new() -> Arc<World> {
        let world = World::default();
        world.stdio.lock().unwrap().room = usize::MAX;
        Arc::new(world)
    }

    fn ports(self: &Arc<World>) -> Ports {
        Ports {
            clock: self.clone(),
            stdio: self.clone(),
            ..Ports::nothing()
        }
    }

    fn input(&self, bytes: &[u8]) {
        let mut stdio = self.stdio.lock().unwrap();
        stdio.input.extend_from_slice(bytes);
        if let Some(waker) = stdio.waker.take() {
            waker.wake();
        }
    }

    fn output(&self) -> Vec<u8> {
        std::mem::take(&mut self.stdio.lock().unwrap().output)
    }

    fn pass(&self, ns: u64) {
        let now = self.now_ns.fetch_add(ns, Ordering::SeqCst) + ns;
        let alarm = self.alarm.lock().unwrap().take_if(|alarm| alarm.0 <= now);
        if let Some((_, waker)) = alarm {
            waker.wake();
        }
    }
}

impl Clock for World {
    fn realtime_ns(&self) -> u64 {
        self.monotonic_ns()
    }
    fn monotonic_ns(&self) -> u64 {
        self.now_ns.load(Ordering::SeqCst)
    }
    fn wake_at(&self, deadline_ns: u64, waker: &Waker) {
        *self.alarm.lock().unwrap() = Some((deadline_ns, waker.clone()));
    }
}

impl Stdio for World {
    fn read(&self, buffer: &mut [u8]) -> Io {
        let mut stdio = self.stdio.lock().unwrap();
        if stdio.input.is_empty() {
            return Io::Blocked;
        }
        let count = buffer.len().min(stdio.input.len());
        buffer[..count].copy_from_slice(&stdio.input[..count]);
        stdio.input.drain(..count);
        Io::Done(count)
    }
    fn readable(&self) -> bool {
        !self.stdio.lock().unwrap().input.is_empty()
    }
    fn write(&self, _: u32, bytes: &[u8]) -> Io {
        let mut stdio = self.stdio.lock().unwrap();
        let count = bytes.len().min(stdio.room);
        if count == 0 {
            return Io::Blocked;
        }
        stdio.room -= count;
        stdio.output.extend_from_slice(&bytes[..count]);
        Io::Done(count)
    }
    fn register(&self, waker: &Waker) {
        self.stdio.lock().unwrap().waker = Some(waker.clone());
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

type Run = Pin<Box<dyn Future<Output = (Outcome, Process)>>>;

/// A process, and an executor that polls it only when it was woken.
struct Running {
    control: Control,
    meter: vm::Meter,
    woken: Arc<Woken>,
    run: Run,
}

impl Running {
    fn new(mut process: Process) -> Running {
        Running {
            control: process.control(),
            meter: process.meter(),
            woken: Arc::new(Woken(true.into())),
            run: Box::pin(async move { (process.run().await, process) }),
        }
    }

    fn start(image: &Arc<Image>, world: &Arc<World>) -> Running {
        let process = Process::start(image, &Spec::default(), world.ports());
        Running::new(process.unwrap())
    }

    /// Polls until nothing has woken it; nothing while it goes on.
    fn turn(&mut self) -> Option<(Outcome, Process)> {
        let waker = self.woken.clone().into();
        while self.woken.0.swap(false, Ordering::SeqCst) {
            let mut context = Context::from_waker(&waker);
            if let Poll::Ready(over) = self.run.as_mut().poll(&mut context) {
                return Some(over);
            }
        }
        None
    }

    fn fold(&mut self) {
        let folds = self.meter.read().folds;
        assert!(self.control.fold());
        assert!(self.turn().is_none());
        assert_eq!(self.meter.read().folds, folds + 1);
    }

    fn freeze(mut self) -> Process {
        self.control.freeze();
        let (outcome, process) = self.turn().unwrap();
        assert_eq!(outcome, Outcome::Frozen);
        process
    }
}

fn image(text: &str) -> Arc<Image> {
    let image = engine(Backend::Native, Polls::Request).load(&wat(text));
    let image = image.unwrap();
    image.prepare_thaw().unwrap();
    image
}

/// Reads up to four bytes at a time, writes them after the number of the read, in two functions deep.
const ECHO: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read"
        (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (data (i32.const 0) "\10\00\00\00\04\00\00\00")
    (data (i32.const 70000) "far")
    (global $count (mut i32) (i32.const 48))
    (func $one (param $depth i32) (result i32)
        (if (result i32) (local.get $depth)
            (then (call $one (i32.sub (local.get $depth) (i32.const 1))))
            (else
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 32)))
                (i32.load (i32.const 32)))))
    (func (export "_start") (local $n i32)
        (loop
            (local.set $n (call $one (i32.const 3)))
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.store (i32.const 90000) (i32.add (i32.load (i32.const 90000)) (i32.const 1)))
            (i32.store8 (i32.const 15) (global.get $count))
            (i32.store (i32.const 40) (i32.const 15))
            (i32.store (i32.const 44) (i32.add (local.get $n) (i32.const 1)))
            (drop (call $write (i32.const 1) (i32.const 40) (i32.const 1) (i32.const 48)))
            (br_if 0 (i32.ne (i32.load8_u (i32.const 16)) (i32.const 113))))))"#;

/// What a snapshot says beside how often and how long it ran.
fn state(mut process: Process) -> Snapshot {
    let mut snapshot = process.snapshot().unwrap();
    (snapshot.kernel.cpu_ns, snapshot.kernel.freezes) = (0, 0);
    snapshot
}

#[test]
fn a_folded_process_answers_when_called_and_folds_again() {
    let image = image(ECHO);
    let world = World::new();
    let mut running = Running::start(&image, &world);
    assert!(running.turn().is_none());
    let memory_bytes = running.meter.read().memory_bytes;
    for round in 1..9u8 {
        running.fold();
        assert_eq!(running.meter.read().memory_bytes, memory_bytes);
        world.input(&[b'a' + round]);
        assert!(running.turn().is_none());
        assert_eq!(world.output(), [b'0' + round, b'a' + round]);
    }
    running.fold();
    world.input(b"q");
    let (outcome, _) = running.turn().unwrap();
    assert_eq!(outcome, Outcome::Exited(0));
    assert_eq!(world.output(), b"9q");
}

#[test]
fn a_folded_process_is_frozen_at_once_and_its_snapshot_is_that_of_one_in_its_instance() {
    let image = image(ECHO);
    let [folded, other] = [true, false].map(|folds| {
        let world = World::new();
        let mut running = Running::start(&image, &world);
        assert!(running.turn().is_none());
        world.input(b"one");
        assert!(running.turn().is_none());
        if folds {
            running.fold();
        }
        (running.freeze(), world)
    });
    assert_eq!(folded.0.written_bytes(), Some(2 * 4096));
    let files = folded.0.files();
    assert!(files.is_some() && files == other.0.files());
    let snapshot = state(other.0);
    // Frozen folded, it goes on in place.
    let mut running = Running::new(folded.0);
    assert!(running.turn().is_none());
    folded.1.input(b"two");
    assert!(running.turn().is_none());
    assert_eq!(folded.1.output(), b"1one2two");
    running.fold();
    drop(running);

    let world = World::new();
    let mut running = Running::start(&image, &world);
    assert!(running.turn().is_none());
    world.input(b"one");
    assert!(running.turn().is_none());
    running.fold();
    let process = running.freeze();
    let of_folded = state(process);
    assert_eq!(of_folded, snapshot);
    // And it goes on elsewhere.
    let world = World::new();
    let process = Process::thaw(&image, of_folded, world.ports());
    let mut running = Running::new(process.unwrap());
    assert!(running.turn().is_none());
    world.input(b"two");
    assert!(running.turn().is_none());
    assert_eq!(world.output(), b"2two");
}

#[test]
fn a_folded_process_is_killed_at_once() {
    let image = image(ECHO);
    let world = World::new();
    let mut running = Running::start(&image, &world);
    assert!(running.turn().is_none());
    running.fold();
    running.control.kill();
    let (outcome, _) = running.turn().unwrap();
    assert_eq!(outcome, Outcome::Killed);
}

#[test]
fn what_comes_together_with_the_request_is_not_missed() {
    let image = image(ECHO);
    let world = World::new();
    let mut running = Running::start(&image, &world);
    assert!(running.turn().is_none());
    // Both before it is polled: it is not idle.
    assert!(running.control.fold());
    world.input(b"x");
    assert!(running.turn().is_none());
    assert_eq!(
        (world.output(), running.meter.read().folds),
        (b"1x".to_vec(), 0)
    );
    // The request was for a wait that is over: the next one does not fold.
    world.input(b"y");
    assert!(running.turn().is_none());
    assert_eq!(
        (world.output(), running.meter.read().folds),
        (b"2y".to_vec(), 0)
    );
}

#[test]
fn one_that_was_asked_to_freeze_as_well_is_frozen_in_its_instance() {
    let image = image(ECHO);
    let world = World::new();
    let mut running = Running::start(&image, &world);
    assert!(running.turn().is_none());
    assert!(running.control.fold());
    let meter = running.meter.clone();
    let process = running.freeze();
    assert_eq!(meter.read().folds, 0);
    // The request to fold went with it.
    let mut running = Running::new(process);
    assert!(running.turn().is_none());
    assert_eq!(meter.read().folds, 0);
    running.fold();
}

/// Sleeps for a second, then exits with 40 and what `poll_oneoff` gave, or with 1 if the clock says
/// that less has passed.
const SLEEPS: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff"
        (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get"
        (func $time (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 16) "\01")
    (func (export "_start") (local $from i64) (local $result i32)
        (drop (call $time (i32.const 1) (i64.const 1) (i32.const 256)))
        (local.set $from (i64.load (i32.const 256)))
        (i64.store (i32.const 24) (i64.const 1000000000))
        (local.set $result
            (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
        (drop (call $time (i32.const 1) (i64.const 1) (i32.const 256)))
        (if (i64.lt_u
                (i64.sub (i64.load (i32.const 256)) (local.get $from))
                (i64.const 1000000000))
            (then (call $exit (i32.const 1))))
        (call $exit (i32.add (i32.const 40) (local.get $result)))))"#;

#[test]
fn a_sleep_goes_on_while_folded_and_is_as_long_as_it_was_meant_to_be() {
    let image = image(SLEEPS);
    let world = World::new();
    world.pass(7);
    let mut running = Running::start(&image, &world);
    assert!(running.turn().is_none());
    world.pass(300_000_000);
    running.fold();
    world.pass(699_999_999);
    assert!(running.turn().is_none());
    world.pass(1);
    let (outcome, _) = running.turn().unwrap();
    assert_eq!(outcome, Outcome::Exited(40));
}

#[test]
fn a_snapshot_of_a_folded_sleeper_says_how_long_it_has_slept() {
    let image = image(SLEEPS);
    let world = World::new();
    let mut running = Running::start(&image, &world);
    assert!(running.turn().is_none());
    world.pass(300_000_000);
    running.fold();
    world.pass(200_000_000);
    let mut process = running.freeze();
    let snapshot = process.snapshot().unwrap();
    assert_eq!(snapshot.kernel.monotonic_ns, 500_000_000);
    let deadlines = vec![(0, 1_000_000_000)];
    assert_eq!(snapshot.kernel.pending, Some(Pending::Poll { deadlines }));
}

/// Writes ten bytes in one call.
const WRITES: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\0a\00\00\00")
    (data (i32.const 16) "0123456789")
    (func (export "_start")
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[test]
fn a_call_that_has_done_a_part_of_its_work_is_left_alone() {
    let image = image(WRITES);
    let world = World::new();
    world.stdio.lock().unwrap().room = 3;
    let mut running = Running::start(&image, &world);
    assert!(running.turn().is_none());
    assert!(running.control.fold());
    assert!(running.turn().is_none());
    assert_eq!(running.meter.read().folds, 0);
    world.stdio.lock().unwrap().room = usize::MAX;
    world.input(b"");
    let (outcome, _) = running.turn().unwrap();
    assert_eq!(outcome, Outcome::Exited(0));
    assert_eq!(world.output(), b"0123456789");
}

#[test]
fn a_process_with_much_memory_is_left_alone() {
    let large = ECHO.replace(
        "(memory (export \"memory\") 2)",
        "(memory (export \"memory\") 257)",
    );
    let image = image(&large);
    let world = World::new();
    let mut running = Running::start(&image, &world);
    assert!(running.turn().is_none());
    assert!(running.control.fold());
    assert!(running.turn().is_none());
    assert!(!running.control.is_folded());
    world.input(b"x");
    assert!(running.turn().is_none());
    assert_eq!(world.output(), b"1x");
}

/// Opens `a` in the first volume; then writes two bytes of it for each byte that it reads.
const READER: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read"
        (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\40\00\00\00\01\00\00\00\50\00\00\00\02\00\00\00a")
    (func (export "_start")
        (if (call $open (i32.const 4) (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 0)
                (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32))
            (then unreachable))
        (loop
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 36)))
            (drop (call $read (i32.load (i32.const 32)) (i32.const 8) (i32.const 1) (i32.const 36)))
            (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 36)))
            (br 0))))"#;

#[test]
fn what_a_folded_process_has_open_on_a_volume_stays_open_whatever_becomes_of_its_path() {
    let directory = std::env::temp_dir().join(format!("limosa-fold-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a"), "0123456789").unwrap();
    let volume = vm::Volume::open(wire::snapshot::Volume {
        source: directory.to_str().unwrap().to_owned(),
        destination: "/data".to_owned(),
        binding: Binding::Share,
    });
    let world = World::new();
    let ports = Ports {
        volumes: Arc::new([volume.unwrap()]),
        ..world.ports()
    };
    let spec = Spec {
        volumes: vec![b"/data".to_vec()],
        ..Spec::default()
    };
    let mut running = Running::new(Process::start(&image(READER), &spec, ports).unwrap());
    assert!(running.turn().is_none());
    running.fold();
    std::fs::rename(directory.join("a"), directory.join("b")).unwrap();
    world.input(b"x");
    assert!(running.turn().is_none());
    assert_eq!(world.output(), b"01");

    // A snapshot tells the path of now, folded or not.
    running.fold();
    std::fs::rename(directory.join("b"), directory.join("c")).unwrap();
    let mut process = running.freeze();
    let descriptors = process.snapshot().unwrap().kernel.descriptors;
    let tells = |wanted: &[u8]| {
        let mut targets = descriptors.values().map(|descriptor| &descriptor.target);
        targets.any(|target| matches!(target, Target::VolumeFile { path, .. } if path == wanted))
    };
    assert!(tells(b"c"), "{descriptors:?}");

    let mut running = Running::new(process);
    assert!(running.turn().is_none());
    running.fold();
    std::fs::remove_dir_all(&directory).unwrap();
    world.input(b"x");
    assert!(running.turn().is_none());
    assert_eq!(world.output(), b"23");
    running.fold();
    let removed = running.freeze().snapshot().unwrap_err();
    assert!(matches!(removed, SnapshotError::Removed(_)), "{removed}");
}
