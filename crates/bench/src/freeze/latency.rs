//! From the request to the frozen process.

use super::world::{LISTENER_NAME, ports};
use crate::harness::{Error, Program, Work};
use crate::progress::Progress;
use fastrand::Rng;
use std::future::Future;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use vm::{Control, Image, Outcome, Process, Spec};

/// The request comes at a random instant of this span after the process went on.
const LATEST: Duration = Duration::from_millis(4);
/// Freezes of one life of a process.
const FREEZES_PER_LIFE: usize = 4;
/// Processes that may end, in a row, before a request reaches them.
const LIVES: u32 = 50;
/// Kernels get more work than they can do meanwhile; the server and the others some 100 ms of it.
const PLENTY: u32 = 1 << 20;
const SERVER_REQUESTS: u32 = 20_000;
const SIZE_FACTOR: u32 = 4;

/// The freezes of one program; times in microseconds.
#[derive(Default)]
pub(super) struct Latencies {
    pub name: &'static str,
    /// From the request to `Frozen`.
    pub frozen_us: Vec<f64>,
    /// Taking a snapshot.
    pub snapshot_us: Vec<f64>,
    /// Making a process of it.
    pub thaw_us: Vec<f64>,
    /// Its memory, at most.
    pub memory_bytes: u64,
}

/// Freezes each program so many times.
pub(super) fn measure(
    programs: &[Program],
    samples: usize,
    progress: &Progress,
) -> Result<Vec<Latencies>, Error> {
    let engine = vm::Engine::new(vm::Config::default()).map_err(|error| Error::Process {
        program: "all",
        doing: "starting the engine",
        reason: error.to_string(),
    })?;
    let mut all = Vec::new();
    for group in programs.chunk_by(|a, b| Arc::ptr_eq(&a.wasm, &b.wasm)) {
        let Some(first) = group.first() else { continue };
        progress.say(format!("{}: compiling", first.name));
        let refused = |error: vm::LoadError| refused(first.name, "loading it", &error);
        let image = engine.load(&first.wasm).map_err(refused)?;
        image.prepare_thaw().map_err(refused)?;
        for program in group {
            progress.say(format!("{}: freezing", program.name));
            all.push(freeze_often(program, &image, samples)?);
            progress.step();
        }
    }
    Ok(all)
}

fn refused(program: &'static str, doing: &'static str, error: &dyn std::error::Error) -> Error {
    Error::Process {
        program,
        doing,
        reason: error.to_string(),
    }
}

/// A request to be made, so long from now.
struct Request {
    control: Control,
    delay: Duration,
}

/// Makes requests; answers when each was made.
fn ask(requests: mpsc::Receiver<Request>, asked: mpsc::Sender<Instant>) {
    while let Ok(Request { control, delay }) = requests.recv() {
        thread::sleep(delay);
        let now = Instant::now();
        control.freeze();
        if asked.send(now).is_err() {
            break;
        }
    }
}

fn freeze_often(program: &Program, image: &Arc<Image>, samples: usize) -> Result<Latencies, Error> {
    thread::scope(|scope| {
        let (send, requests) = mpsc::channel();
        let (answer, asked) = mpsc::channel();
        scope.spawn(move || ask(requests, answer));
        let mut lives = Lives {
            program,
            image,
            rng: Rng::with_seed(7),
            requests: send,
            asked,
            seen: Latencies {
                name: program.name,
                ..Latencies::default()
            },
        };
        let mut fruitless = 0;
        while lives.seen.frozen_us.len() < samples {
            let before = lives.seen.frozen_us.len();
            lives.one()?;
            fruitless += 1;
            if lives.seen.frozen_us.len() > before {
                fruitless = 0;
            } else if fruitless == LIVES {
                return Err(Error::NeverFrozen {
                    program: program.name.into(),
                    attempts: LIVES,
                });
            }
        }
        Ok(lives.seen)
    })
}

/// One process after another.
struct Lives<'a> {
    program: &'a Program,
    image: &'a Arc<Image>,
    rng: Rng,
    requests: mpsc::Sender<Request>,
    asked: mpsc::Receiver<Instant>,
    seen: Latencies,
}

impl Lives<'_> {
    /// A process from its start to its last freeze, or its end.
    fn one(&mut self) -> Result<(), Error> {
        let (spec, work) = birth(self.program);
        let ports = ports(&work);
        let error = |doing, error: &dyn std::error::Error| refused(self.program.name, doing, error);
        let mut process = Process::start(self.image, &spec, ports.clone())
            .map_err(|thaw| error("starting it", &thaw))?;
        for freeze in 0..FREEZES_PER_LIFE {
            let request = Request {
                control: process.control(),
                delay: LATEST.mul_f64(self.rng.f64()),
            };
            // The asking thread lives as long as this channel.
            let _ = self.requests.send(request);
            let outcome = wait(process.run())?;
            let frozen = Instant::now();
            let Ok(asked) = self.asked.recv() else {
                return Ok(());
            };
            match outcome {
                Outcome::Frozen => {}
                Outcome::Exited(0) => return Ok(()),
                other => {
                    return Err(Error::Process {
                        program: self.program.name,
                        doing: "running it",
                        reason: format!("it ended with {other:?}"),
                    });
                }
            }
            self.seen
                .frozen_us
                .push(microseconds(frozen.saturating_duration_since(asked)));
            let memory = process.memory_bytes();
            self.seen.memory_bytes = self.seen.memory_bytes.max(memory);
            if freeze == 0 {
                let start = Instant::now();
                let snapshot = process
                    .snapshot()
                    .map_err(|snapshot| error("taking its snapshot", &snapshot))?;
                self.seen.snapshot_us.push(microseconds(start.elapsed()));
                drop(process);
                let start = Instant::now();
                process = Process::thaw(self.image, snapshot, ports.clone())
                    .map_err(|thaw| error("thawing it", &thaw))?;
                self.seen.thaw_us.push(microseconds(start.elapsed()));
            }
        }
        Ok(())
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Runs a future that hardly ever waits, on this thread.
fn wait<T>(future: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| Error::System {
        doing: "cannot start an executor",
        error,
    })?;
    Ok(runtime.block_on(future))
}

/// How a program is started, and what it does.
fn birth(program: &Program) -> (Spec, Work) {
    let work = match (&program.work, program.kernel) {
        (_, true) => program.work.at(PLENTY),
        (Work::Server { .. }, _) => program.work.at(SERVER_REQUESTS),
        (_, false) => program.work.at(program.unit * SIZE_FACTOR),
    };
    let host = work.host();
    let mut spec = Spec {
        env: host.env.into_iter().map(String::into_bytes).collect(),
        ..Spec::default()
    };
    let args = match &work {
        // As a program, it takes the kernel's name before the size.
        Work::Export { size, .. } => vec!["kernels".into(), program.name.into(), size.to_string()],
        Work::Command { .. } | Work::Server { .. } => host.args,
    };
    spec.args = args.into_iter().map(String::into_bytes).collect();
    if host.traffic.is_some() {
        spec.listeners = vec![LISTENER_NAME.into()];
    }
    (spec, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::programs;

    #[test]
    fn a_loop_and_a_server_are_frozen_as_often_as_asked() {
        let (programs, _) = programs(None);
        let two: Vec<_> = programs
            .into_iter()
            .filter(|program| ["fpsum", "accounts"].contains(&program.name))
            .collect();
        let latencies = measure(&two, 5, &Progress::new(2)).unwrap();
        assert_eq!(latencies.len(), 2);
        for program in latencies {
            assert!(program.frozen_us.len() >= 5, "{}", program.name);
            assert!(program.frozen_us.iter().all(|time| *time > 0.0));
            assert!(!program.snapshot_us.is_empty() && !program.thaw_us.is_empty());
            assert!(program.memory_bytes > 1 << 20);
        }
    }
}
