//! What toolchains emit beyond plain code: exceptions, references, written tables, dropped segments,
//! calls in place of returns, 64-bit memories, relaxed vectors and long ranges of memory, each in a
//! process that is frozen at random and moved between engines; and lies about them.

mod common;

use common::{polling, same_under_torture, spec, wat};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use vm::ports::Ports;
use vm::torture::{End, World};
use vm::{Image, Outcome, Process, Spec, ThawError};
use wire::snapshot::{GlobalValue, Snapshot};

/// Everything at once. What it says at the end follows from all of it.
const FEATURES: &str = r#"(module
    (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (type $op (func (param i32) (result i32)))
    (tag $number (param i32))
    (tag $pair (param i64 funcref))
    (memory (export "memory") 20)
    (memory $wide i64 1)
    (table $t 2 100 funcref)
    (elem $later func $double $spin)
    (elem $gone func $spin)
    (data $lost "lost")
    (global $kept (mut funcref) (ref.null func))
    (global $sum (mut i32) (i32.const 0))

    (func $add (param i32)
        (global.set $sum (i32.add (i32.mul (global.get $sum) (i32.const 7)) (local.get 0))))
    (func $double (type $op)
        (drop (call $yield)) (i32.mul (local.get 0) (i32.const 2)))
    (func $spin (type $op)
        (loop $l (br_if $l (i32.gt_s (local.tee 0 (i32.sub (local.get 0) (i32.const 1))) (i32.const 0))))
        (return_call $double (i32.sub (local.get 0) (i32.const 5))))
    (func $indirect (param i32 i32) (result i32)
        (return_call_indirect $t (type $op) (local.get 1) (local.get 0)))

    (func $throws (param i32)
        (drop (call $yield))
        (if (local.get 0) (then (throw $pair (i64.const 77) (ref.func $double))))
        (throw $number (i32.const 33)))

    (func $exceptions (local $e exnref) (local $n i32) (local $f funcref)
        (local.set $n (i32.const 2))
        (loop $again
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (block $caught (result exnref)
                (try_table (catch_all_ref $caught) (call $throws (local.get $n)))
                (unreachable))
            (local.set $e)
            (call $add (call $spin (i32.const 4)))
            (block $done
                (block $pair (result i64 funcref)
                    (call $add (block $number (result i32)
                        (try_table (catch $number $number) (catch $pair $pair)
                            (drop (call $yield))
                            (throw_ref (local.get $e)))
                        (unreachable)))
                    (br $done))
                (local.set $f)
                (call $add (i32.wrap_i64))
                (drop (call $yield))
                (table.set $t (i32.const 0) (local.get $f))
                (call $add (call $indirect (i32.const 0) (i32.const 21))))
            (br_if $again (local.get $n))))

    (func $tables
        (drop (table.grow $t (ref.func $spin) (i32.const 3)))
        (table.init $t $later (i32.const 1) (i32.const 0) (i32.const 2))
        (elem.drop $gone)
        (data.drop $lost)
        (global.set $kept (table.get $t (i32.const 2)))
        (drop (call $yield))
        (table.set $t (i32.const 0) (global.get $kept))
        (call $add (call $indirect (i32.const 0) (i32.const 6)))
        (call $add (call $indirect (i32.const 1) (i32.const 8)))
        (call $add (call $indirect (i32.const 4) (i32.const 9)))
        (call $add (table.size $t)))

    (func $memories (param $length i32)
        (memory.fill (i32.const 0) (i32.const 3) (local.get $length))
        (memory.fill (i32.const 500000) (i32.const 5) (local.get $length))
        (memory.copy (i32.const 300000) (i32.const 200000) (local.get $length))
        (memory.copy $wide 0 (i64.const 100) (i32.const 799990) (i32.const 50))
        (call $add (i32.load offset=1 (i32.const 599998)))
        (call $add (i32.wrap_i64 (i64.load $wide (i64.const 106)))))

    (func $vectors (local $v v128)
        (local.set $v (i32x4.relaxed_trunc_f32x4_s (v128.const f32x4 nan 1 -4e9 4e9)))
        (drop (call $yield))
        (call $add (i32x4.extract_lane 0 (local.get $v)))
        (call $add (i32x4.extract_lane 3 (local.get $v))))

    (func (export "_start")
        (call $exceptions)
        (call $tables)
        (call $memories (i32.const 700000))
        (call $vectors)
        (call $exit (i32.and (global.get $sum) (i32.const 0x7fffffff)))))"#;

fn poll_once(process: &mut Process) -> Option<Outcome> {
    let mut run = pin!(process.run());
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(outcome) = run.as_mut().poll(&mut context) {
            return Some(outcome);
        }
    }
    None
}

#[test]
fn all_that_toolchains_emit_is_the_same_frozen_anywhere_and_moved_between_engines() {
    let wasm = wat(FEATURES);
    let report = same_under_torture(&wasm, &spec(&["p"]), &World::default(), 0..60, 12);
    assert!(
        matches!(report.end, End::Outcome(Outcome::Exited(_))),
        "{:?}",
        report.end
    );
    assert!(report.host_calls >= 12 && report.polls > 8, "{report:?}");
}

/// A process that is frozen when its run has been polled so many times, unless it has ended.
fn frozen_after(image: &Arc<Image>, polls: u32) -> Option<Process> {
    let mut process = Process::start(image, &Spec::default(), Ports::nothing()).unwrap();
    let control = process.control();
    {
        let mut run = pin!(process.run());
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..polls {
            if run.as_mut().poll(&mut context).is_ready() {
                return None;
            }
        }
        control.freeze();
        // The collector may let others go first.
        while run.as_mut().poll(&mut context).is_pending() {}
    }
    Some(process)
}

/// A snapshot of the program that is as it is asked for.
fn frozen(image: &Arc<Image>, asked_for: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let frozen = (1..1000).map_while(|polls| frozen_after(image, polls));
    let mut snapshots = frozen.filter_map(|mut process| process.snapshot().ok());
    snapshots.find(asked_for).expect("it comes to such a state")
}

#[test]
fn an_exception_that_nothing_catches_ends_the_process_and_says_so() {
    let text = r#"(module (tag $t (param i32))
        (func (export "_start") (throw $t (i32.const 1))))"#;
    for engine in polling() {
        let image = engine.load(&wat(text)).unwrap();
        let mut process = Process::start(&image, &Spec::default(), Ports::nothing()).unwrap();
        let Some(Outcome::Trapped(trap)) = poll_once(&mut process) else {
            panic!("it should be trapped");
        };
        assert!(trap.reason.contains("exception"), "{trap}");
    }
}

#[test]
fn a_program_that_throws_for_ever_does_not_run_out_of_memory() {
    let text = r#"(module (tag $t (param i64 i64 i64 i64))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (func (export "_start") (local $n i32) (local $e exnref)
            (loop $l
                (block $h (result i64 i64 i64 i64 exnref)
                    (try_table (catch_ref $t $h)
                        (throw $t (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))
                    (unreachable))
                (local.set $e) (drop) (drop) (drop) (drop)
                (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1)))
                    (i32.const 300000))))
            (call $exit (i32.const 3))))"#;
    let image = polling()[0].load(&wat(text)).unwrap();
    let mut process = Process::start(&image, &Spec::default(), Ports::nothing()).unwrap();
    assert_eq!(poll_once(&mut process), Some(Outcome::Exited(3)));
}

#[test]
fn each_lie_about_references_is_named() {
    let image = polling()[0].load(&wat(FEATURES)).unwrap();
    let functions = |value: &GlobalValue| matches!(value, GlobalValue::Function(Some(_)));
    let good = frozen(&image, |snapshot| snapshot.globals.iter().any(functions));
    Process::thaw(&image, good.clone(), Ports::nothing()).unwrap();
    type Lie = (&'static str, fn(&mut Snapshot));
    let lies: &[Lie] = &[
        ("globals", |s| s.globals[0] = GlobalValue::I32(0)),
        ("no function 99", |s| {
            s.globals[0] = GlobalValue::Function(Some(99))
        }),
        ("no function 2 ", |s| s.references.tables[0][1] = Some(2)),
        ("0 tables instead of 1", |s| s.references.tables.clear()),
        ("entries", |s| s.references.tables[0].clear()),
        ("entries", |s| s.references.tables[0].resize(101, None)),
        ("references instead of", |s| s.references.frames.push(None)),
    ];
    for (word, lie) in lies {
        let mut snapshot = good.clone();
        lie(&mut snapshot);
        let error = match Process::thaw(&image, snapshot, Ports::nothing()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{word}: it was thawed"),
        };
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_frozen_exception_of_no_tag_is_refused_and_not_thrown() {
    let text = r#"(module (tag $t (param i32))
        (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
        (func (export "_start") (local $e exnref)
            (block $h (result exnref)
                (try_table (catch_all_ref $h) (throw $t (i32.const 1)))
                (unreachable))
            (local.set $e)
            (drop (call $yield))
            (throw_ref (local.get $e))))"#;
    let image = polling()[0].load(&wat(text)).unwrap();
    let mut process = Process::start(&image, &Spec::default(), Ports::nothing()).unwrap();
    process.control().freeze();
    assert_eq!(poll_once(&mut process), Some(Outcome::Frozen));
    let good = process.snapshot().unwrap();
    assert_eq!(good.frames.len(), 16, "tag, payload and trailer");
    let mut lie = good.clone();
    lie.frames[0] = 7;
    let error = Process::thaw(&image, lie, Ports::nothing())
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, ThawError::Rebuild(_)), "{error}");
    Process::thaw(&image, good, Ports::nothing()).unwrap();
}

#[test]
fn thousands_of_exceptions_that_are_kept_at_a_time_are_thawed() {
    let text = r#"(module (tag $t (param i32 i64))
        (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (func $down (param $n i32) (result i32) (local $e exnref) (local $below i32)
            (if (i32.eqz (local.get $n)) (then (return (call $yield))))
            (block $h (result exnref)
                (try_table (catch_all_ref $h) (throw $t (local.get $n) (i64.const 9)))
                (unreachable))
            (local.set $e)
            (local.set $below (call $down (i32.sub (local.get $n) (i32.const 1))))
            (block $payload (result i32 i64)
                (try_table (catch $t $payload) (throw_ref (local.get $e)))
                (unreachable))
            (drop)
            (i32.add (local.get $below)))
        (func (export "_start") (call $exit (call $down (i32.const 3000)))))"#;
    let images = polling().map(|engine| engine.load(&wat(text)).unwrap());
    for (from, to) in [(0, 1), (1, 0)] {
        let deep = |snapshot: &Snapshot| snapshot.frames.len() > 3000 * 24;
        let snapshot = frozen(&images[from], deep);
        let mut thawed = Process::thaw(&images[to], snapshot, Ports::nothing()).unwrap();
        assert_eq!(
            poll_once(&mut thawed),
            Some(Outcome::Exited(3000 * 3001 / 2))
        );
    }
}
