//! Programs that cannot be frozen, run all the same by an engine for such.

mod common;

use common::{polling, wat};
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use vm::ports::Ports;
use vm::{Backend, Config, Engine, Outcome, Process, SnapshotError, Spec};

fn engine(backend: Backend) -> Engine {
    Engine::new(Config {
        backend,
        immobile: true,
        ..Config::default()
    })
    .unwrap()
}

fn finished(run: Pin<&mut impl Future<Output = Outcome>>) -> Option<Outcome> {
    let mut context = Context::from_waker(Waker::noop());
    match run.poll(&mut context) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

/// Garbage-collected types, a start function, active segments, and a call through a typed reference.
const REFUSED: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (type $pair (struct (field i32) (field (mut i32))))
    (type $op (func (param i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 8) "\05")
    (global $started (mut i32) (i32.const 0))
    (elem declare func $twice)
    (func $twice (type $op) (i32.mul (local.get 0) (i32.const 2)))
    (func $begin (global.set $started (i32.const 100)))
    (start $begin)
    (func (export "_start") (local $pair (ref null $pair))
        (local.set $pair (struct.new $pair (i32.const 3) (i32.load8_u (i32.const 8))))
        (call $exit (i32.add (global.get $started)
            (call_ref $op
                (i32.add (struct.get $pair 0 (local.get $pair)) (struct.get $pair 1 (local.get $pair)))
                (ref.func $twice))))))"#;

#[test]
fn a_program_that_the_pass_refuses_runs_as_it_is() {
    let refused = polling()[0].load(&wat(REFUSED)).unwrap_err().to_string();
    assert!(refused.contains("garbage-collected"), "{refused}");
    for backend in [Backend::Native, Backend::Pulley] {
        let image = engine(backend).load(&wat(REFUSED)).unwrap();
        assert!(!image.is_mobile());
        let mut process = Process::start(&image, &Spec::default(), Ports::nothing()).unwrap();
        process.control().freeze();
        assert_eq!(finished(pin!(process.run())), Some(Outcome::Exited(116)));
    }
}

#[test]
fn there_is_no_snapshot_of_it_and_the_reason_is_said() {
    let image = engine(Backend::Native).load(&wat(REFUSED)).unwrap();
    let mut process = Process::start(&image, &Spec::default(), Ports::nothing()).unwrap();
    let error = process.snapshot().unwrap_err();
    assert!(matches!(error, SnapshotError::Immobile), "{error}");
    assert!(error.to_string().contains("--immobile"), "{error}");
}

#[test]
fn its_endless_loops_end_when_it_is_killed() {
    for backend in [Backend::Native, Backend::Pulley] {
        let text = "(module (func (export \"_start\") (loop (br 0))))";
        let image = engine(backend).load(&wat(text)).unwrap();
        let mut process = Process::start(&image, &Spec::default(), Ports::nothing()).unwrap();
        let control = process.control();
        let kills = std::thread::spawn(move || control.kill());
        assert_eq!(finished(pin!(process.run())), Some(Outcome::Killed));
        kills.join().unwrap();
    }
}
