//! From the request to the frozen program.

use crate::harness::{Compiled, End, Error, Freezable, Instance, Program, Requester, engine};
use crate::progress::Progress;
use fastrand::Rng;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// The request comes at a random instant of this span after the program went on.
const LATEST: Duration = Duration::from_millis(4);
/// Freezes of one life of a program: the first in the run module, the others in the thaw module.
const FREEZES_PER_LIFE: usize = 4;
/// Lives of a program that may end, in a row, before a request reaches it.
const LIVES: u32 = 50;
/// Kernels and the server get more work than they can do meanwhile; SQLite and bzip2 some 100 ms.
const PLENTY: u32 = 1 << 20;
const SERVER_REQUESTS: u32 = 20_000;
const SIZE_FACTOR: u32 = 4;

/// The freezes of one program.
pub(super) struct Latencies {
    pub name: &'static str,
    /// From the request to the return of the outermost call, in microseconds.
    pub microseconds: Vec<f64>,
}

/// Freezes each program so many times.
pub(super) fn measure(
    programs: &[Program],
    samples: usize,
    progress: &Progress,
) -> Result<Vec<Latencies>, Error> {
    let engine = engine()?;
    let mut all = Vec::new();
    for group in programs.chunk_by(|a, b| Arc::ptr_eq(&a.wasm, &b.wasm)) {
        let Some(first) = group.first() else { continue };
        progress.say(format!("{}: compiling", first.name));
        let plain_engine = &engine;
        let freezable = Freezable::new(plain_engine, first.name, &first.wasm)?;
        for program in group {
            progress.say(format!("{}: freezing", program.name));
            let requester = Requester::new(&engine, &freezable.flag)?;
            all.push(Latencies {
                name: program.name,
                microseconds: freeze_often(program, &freezable, requester, samples)?,
            });
            progress.step();
        }
    }
    Ok(all)
}

/// Asks for a freeze when told to: after a delay. Answers when it did.
fn ask(
    mut requester: Requester,
    delays: mpsc::Receiver<Duration>,
    asked: mpsc::Sender<Instant>,
) -> Result<(), Error> {
    while let Ok(delay) = delays.recv() {
        thread::sleep(delay);
        let now = Instant::now();
        requester.set(true)?;
        if asked.send(now).is_err() {
            break;
        }
    }
    Ok(())
}

fn freeze_often(
    program: &Program,
    freezable: &Freezable,
    requester: Requester,
    samples: usize,
) -> Result<Vec<f64>, Error> {
    let mut clear = Requester::new(freezable.run.module.engine(), &freezable.flag)?;
    let mut rng = Rng::with_seed(7);
    thread::scope(|scope| {
        let (delays, delay) = mpsc::channel();
        let (answer, asked) = mpsc::channel();
        let asking = scope.spawn(move || ask(requester, delay, answer));
        let mut body = || {
            let mut microseconds = Vec::new();
            let mut fruitless = 0;
            while microseconds.len() < samples {
                let mut instance = birth(program, &freezable.run)?;
                for life in 0..FREEZES_PER_LIFE {
                    let span = LATEST.as_secs_f64() * rng.f64();
                    if delays.send(Duration::from_secs_f64(span)).is_err() {
                        return Ok(microseconds);
                    }
                    let end = instance.run()?.end;
                    let frozen = Instant::now();
                    let Ok(asked) = asked.recv() else {
                        return Ok(microseconds);
                    };
                    clear.set(false)?;
                    if let End::Done(_) = end {
                        fruitless += 1;
                        break;
                    }
                    fruitless = 0;
                    microseconds.push(frozen.duration_since(asked).as_secs_f64() * 1e6);
                    if life == 0 {
                        instance = Instance::thaw(&freezable.thaw, instance.freeze())?;
                    }
                }
                if fruitless > LIVES {
                    return Err(Error::NeverFrozen {
                        program: program.name.into(),
                        attempts: LIVES,
                    });
                }
            }
            microseconds.truncate(samples);
            Ok(microseconds)
        };
        let measured = body();
        drop(delays);
        match asking.join() {
            Ok(asked) => asked.and(measured),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn birth(program: &Program, run: &Compiled) -> Result<Instance, Error> {
    let size = match (program.kernel, program.name) {
        (true, _) => PLENTY,
        (false, "accounts") => SERVER_REQUESTS,
        (false, _) => program.unit * SIZE_FACTOR,
    };
    Instance::birth(run, &program.work.at(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{programs, with_stack};

    #[test]
    fn a_running_loop_is_frozen_as_often_as_asked() {
        let (programs, _) = programs(None);
        let fpsum: Vec<_> = programs.into_iter().filter(|p| p.name == "fpsum").collect();
        let latencies = with_stack(|| measure(&fpsum, 6, &Progress::new(1))).unwrap();
        assert_eq!(latencies.len(), 1);
        assert_eq!(latencies[0].microseconds.len(), 6);
        assert!(latencies[0].microseconds.iter().all(|time| *time > 0.0));
    }
}
