//! Processes of the VM that yield to each other on an executor with one worker.

use crate::harness::Error;
use daemon::executor::{Config, Executor, SystemEntropy, Traits};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::Waker;
use std::time::Duration;
use vm::ports::{Clock, Io, Ports, Stdio};
use vm::{Engine, Image, Outcome, Process, Spec};

/// Longer is broken.
const PATIENCE: Duration = Duration::from_secs(120);

fn failed(doing: &'static str) -> impl FnOnce(String) -> Error {
    move |reason| Error::Process {
        program: "yields",
        doing,
        reason,
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Touches its working set, and yields if there is anybody to yield to, so many rounds.
fn program(working_set: usize, rounds: usize, yields: bool) -> String {
    let yields = if yields { "(drop (call $yield))" } else { "" };
    let pages = working_set.div_ceil(65536) + 1;
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (memory (export "memory") {pages})
  (func (export "_start") (local $round i32) (local $at i32)
    (loop $rounds
      (local.set $at (i32.const 0))
      (block $touched (loop $touch
        (br_if $touched (i32.ge_u (local.get $at) (i32.const {working_set})))
        (i32.store8 (local.get $at) (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))
        (local.set $at (i32.add (local.get $at) (i32.const 64)))
        (br $touch)))
      {yields}
      (local.set $round (i32.add (local.get $round) (i32.const 1)))
      (br_if $rounds (i32.lt_u (local.get $round) (i32.const {rounds}))))))"#
    )
}

/// No input, no output.
struct Silent;

impl Stdio for Silent {
    fn read(&self, _: &mut [u8]) -> Io {
        Io::Done(0)
    }
    fn readable(&self) -> bool {
        true
    }
    fn write(&self, _: u32, bytes: &[u8]) -> Io {
        Io::Done(bytes.len())
    }
    fn register(&self, _: &Waker) {}
}

/// Nanoseconds of a turn, with so many processes.
pub(super) fn turn_ns(count: usize, working_set: usize, rounds: usize) -> Result<f64, Error> {
    let wasm = wat::parse_str(program(working_set, rounds, count > 1)).map_err(text);
    let wasm = wasm.map_err(failed("assembling it"))?;
    let engine = Engine::new(vm::Config::default()).map_err(text);
    let engine = engine.map_err(failed("making an engine"))?;
    let image = engine
        .load(&wasm)
        .map_err(text)
        .map_err(failed("loading it"))?;
    image
        .prepare_thaw()
        .map_err(text)
        .map_err(failed("loading it"))?;
    let executor = Executor::new(Config {
        workers: 1,
        ..Config::default()
    });
    let executor = executor
        .map_err(text)
        .map_err(failed("making an executor"))?;
    let processes: Result<Vec<_>, _> = (0..count).map(|_| start(&executor, &image)).collect();
    let (sender, receiver) = mpsc::channel();
    let clock = executor.clock();
    let began = clock.monotonic_ns();
    for mut process in processes? {
        let sender = sender.clone();
        executor.spawn(Traits::default(), async move {
            // The receiver is there until all have said this.
            let _ = sender.send(process.run().await);
        });
    }
    for _ in 0..count {
        let outcome = receiver.recv_timeout(PATIENCE).map_err(text);
        let outcome = outcome.map_err(failed("running it"))?;
        if outcome != Outcome::Exited(0) {
            return Err(failed("running it")(format!("{outcome:?}")));
        }
    }
    let took = clock.monotonic_ns() - began;
    Ok(took as f64 / (rounds * count) as f64)
}

fn start(executor: &Executor, image: &Arc<Image>) -> Result<Process, Error> {
    let ports = Ports {
        clock: Arc::new(executor.clock()),
        entropy: Arc::new(SystemEntropy),
        stdio: Arc::new(Silent),
        ..Ports::nothing()
    };
    let process = Process::start(image, &Spec::default(), ports).map_err(text);
    process.map_err(failed("starting it"))
}
