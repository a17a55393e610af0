//! Processes one after another in the same slots: none sees anything of those before.

mod common;

use common::{polling, wat};
use fastrand::Rng;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use vm::ports::{Io, Ports, Stdio};
use vm::{Control, Image, Outcome, Process, Spec, Template};
use wire::snapshot::{Limits, Snapshot};

/// What it does is the number of its arguments. First of all it looks at its memory, global, table
/// and what it may grow by, and ends with status 9 if anything is not as it must be at a start.
/// Then it spoils all of it, and
/// 1: exits; 2: traps; 3: overflows its stack; 4: says so, and runs for ever; 5: says so, and
/// waits in a deep recursion; 6: reads far out of bounds.
const SPOILS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read"
        (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 5 40)
    (data (i32.const 131072) "abc")
    (data (i32.const 204800) "here")
    (global $global (mut i64) (i64.const 5))
    (func $bad (call $exit (i32.const 9)))
    ;; What the memory must be at a start.
    (func $at_start (param $at i32) (result i32)
        (if (i32.eq (local.get $at) (i32.const 131072)) (then (return (i32.const 0x00636261))))
        (if (i32.eq (local.get $at) (i32.const 204800)) (then (return (i32.const 0x65726568))))
        (i32.const 0))
    (func $check (param $at i32)
        (local $end i32)
        (local.set $end (i32.mul (memory.size) (i32.const 65536)))
        (loop $more
            (if (i32.ne (i32.load (local.get $at)) (call $at_start (local.get $at)))
                (then (call $bad)))
            (local.set $at (i32.add (local.get $at) (i32.const 4)))
            (br_if $more (i32.lt_u (local.get $at) (local.get $end)))))
    (func $deep (param $left i32) (result i64)
        (if (i32.eqz (local.get $left))
            (then
                (drop (call $read (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 80)))
                (return (i64.const 0))))
        (i64.add
            (call $deep (i32.sub (local.get $left) (i32.const 1)))
            (i64.extend_i32_u (local.get $left))))
    (func $overflow (param i32) (result i32)
        (i32.add (i32.const 1) (call $overflow (i32.add (local.get 0) (i32.const 1)))))
    (func (export "_start")
        (local $mode i32)
        (if (i64.ne (global.get $global) (i64.const 5)) (then (call $bad)))
        (global.set $global (i64.const 6))
        (if (i32.ne (memory.size) (i32.const 5)) (then (call $bad)))
        (call $check (i32.const 0))
        (if (i32.ne (memory.grow (i32.const 7)) (i32.const 5)) (then (call $bad)))
        (call $check (i32.const 327680))
        (drop (call $args (i32.const 0) (i32.const 4)))
        (local.set $mode (i32.load (i32.const 0)))
        (memory.fill (i32.const 0) (i32.const 0xaa) (i32.mul (memory.size) (i32.const 65536)))
        (i32.store (i32.const 64) (i32.const 96))
        (i32.store (i32.const 68) (i32.const 1))
        (if (i32.eq (local.get $mode) (i32.const 1)) (then (call $exit (i32.const 0))))
        (if (i32.eq (local.get $mode) (i32.const 2)) (then unreachable))
        (if (i32.eq (local.get $mode) (i32.const 3))
            (then (drop (call $overflow (i32.const 0)))))
        (if (i32.eq (local.get $mode) (i32.const 6))
            (then (drop (i32.load (i32.const -5)))))
        (drop (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 80)))
        (if (i32.eq (local.get $mode) (i32.const 5))
            (then (drop (call $deep (i32.const 3000)))))
        (loop $ever (br $ever))))"#;

/// What to do with a process that has spoilt its memory.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Freeze,
    Kill,
}

struct Listens(Mutex<Option<(Control, Then)>>);

impl Stdio for Listens {
    fn read(&self, _: &mut [u8]) -> Io {
        Io::Blocked
    }
    fn readable(&self) -> bool {
        false
    }
    fn write(&self, _: u32, bytes: &[u8]) -> Io {
        match self.0.lock().unwrap().take() {
            Some((control, Then::Freeze)) => control.freeze(),
            Some((control, Then::Kill)) => control.kill(),
            None => {}
        }
        Io::Done(bytes.len())
    }
    fn register(&self, _: &Waker) {}
}

/// Polls once; what waits is left waiting.
fn once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn spec(mode: usize) -> Spec {
    Spec {
        args: vec![b"x".to_vec(); mode],
        ..Spec::default()
    }
}

/// One life, with a random end.
fn live(rng: &mut Rng, image: &Arc<Image>, frozen: &mut Vec<Snapshot>) {
    let world = Arc::new(Listens(Mutex::default()));
    let ports = Ports {
        stdio: world.clone(),
        ..Ports::nothing()
    };
    if rng.u8(..8) == 0 {
        // A start that fails after its memory was made.
        let limits = Limits {
            memory_bytes: 5 * 65536 - 1,
            ..Limits::default()
        };
        let spec = Spec { limits, ..spec(1) };
        assert!(Process::start(image, &spec, ports).is_err());
        return;
    }
    if rng.u8(..4) == 0 && !frozen.is_empty() {
        let snapshot = frozen.swap_remove(rng.usize(..frozen.len()));
        let mut process = Process::thaw(image, snapshot.clone(), ports).unwrap();
        assert!(process.snapshot().unwrap() == snapshot);
        if rng.bool() {
            process.control().kill();
            assert_eq!(once(process.run()), Some(Outcome::Killed));
        }
        return;
    }
    let mode = rng.usize(1..=6);
    let then = [Then::Freeze, Then::Kill][rng.usize(..2)];
    let mut process = Process::start(image, &spec(mode), ports).unwrap();
    *world.0.lock().unwrap() = Some((process.control(), then));
    if rng.u8(..8) == 0 {
        return;
    }
    let outcome = once(process.run());
    match (mode, then) {
        (1, _) => assert_eq!(outcome, Some(Outcome::Exited(0))),
        (2 | 3 | 6, _) => assert!(matches!(outcome, Some(Outcome::Trapped(_))), "{outcome:?}"),
        (_, Then::Kill) => assert_eq!(outcome, Some(Outcome::Killed)),
        (_, Then::Freeze) => {
            assert_eq!(outcome, Some(Outcome::Frozen));
            let snapshot = process.snapshot().unwrap();
            assert_eq!(snapshot.memories[0].wasm_pages, 12);
            frozen.push(snapshot);
            if mode == 5 && rng.bool() {
                // Thawed in place, it waits; its run is abandoned.
                assert_eq!(once(process.run()), None);
                assert_eq!(once(process.run()), Some(Outcome::Killed));
            }
        }
    }
}

#[test]
fn no_process_sees_what_another_left_behind() {
    let seed = std::env::var("LIMOSA_SEED").map_or(1, |seed| seed.parse().unwrap());
    let wasm = wat(SPOILS);
    for (name, engine, lives) in [("native", polling()[0], 300), ("Pulley", polling()[1], 20)] {
        println!("{name}, seed {seed}");
        let image = engine.load(&wasm).unwrap();
        let mut rng = Rng::with_seed(seed);
        let mut frozen = Vec::new();
        for _ in 0..lives {
            live(&mut rng, &image, &mut frozen);
            frozen.truncate(5);
        }
    }
}

#[test]
fn threads_that_share_slots_see_nothing_of_each_other() {
    let image = polling()[0].load(&wat(SPOILS)).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let image = &image;
            scope.spawn(move || {
                let mut rng = Rng::with_seed(seed);
                let mut frozen = Vec::new();
                for _ in 0..60 {
                    live(&mut rng, image, &mut frozen);
                    frozen.truncate(5);
                }
            });
        }
    });
}

#[test]
fn an_old_handle_does_not_freeze_the_next_process() {
    let image = polling()[0].load(&wat(SPOILS)).unwrap();
    let mut old = Vec::new();
    for _ in 0..20 {
        let process = Process::start(&image, &spec(1), Ports::nothing()).unwrap();
        old.push(process.control());
        drop(process);
        for control in &old {
            control.freeze();
            control.kill();
        }
        let mut process = Process::start(&image, &spec(1), Ports::nothing()).unwrap();
        for control in &old {
            control.freeze();
        }
        assert_eq!(once(process.run()), Some(Outcome::Exited(0)));
    }
}

#[test]
fn processes_of_one_template_begin_alike_and_go_on_apart() {
    let image = polling()[0].load(&wat(SPOILS)).unwrap();
    for mode in [4, 5] {
        let world = Arc::new(Listens(Mutex::default()));
        let ports = || Ports {
            stdio: world.clone(),
            ..Ports::nothing()
        };
        let freezes_at_write = |process: &mut Process| {
            *world.0.lock().unwrap() = Some((process.control(), Then::Freeze));
            assert_eq!(once(process.run()), Some(Outcome::Frozen));
        };
        let mut process = Process::start(&image, &spec(mode), ports()).unwrap();
        freezes_at_write(&mut process);
        let snapshot = process.snapshot().unwrap();
        let template = Template::new(&image, snapshot.clone()).unwrap();
        let mut others = Vec::new();
        for _ in 0..10 {
            let mut process = template.start(ports()).unwrap();
            assert!(process.snapshot().unwrap() == snapshot);
            if mode == 4 {
                // It loops; asked before it runs, it freezes at once, where it stood or nearby.
                process.control().freeze();
                assert_eq!(once(process.run()), Some(Outcome::Frozen));
                let again = process.snapshot().unwrap();
                assert!(again.memories == snapshot.memories);
                others.push(Process::thaw(&image, again, ports()).unwrap());
            } else {
                assert_eq!(once(process.run()), None);
            }
            // Free slots of the image and of the template are not mixed up.
            let mut fresh = Process::start(&image, &spec(1), ports()).unwrap();
            assert_eq!(once(fresh.run()), Some(Outcome::Exited(0)));
        }
    }
}
