//! Starts of processes.

use super::cycles::{self, Count};
use super::world::{LISTENER, World};
use super::{Extent, Program};
use crate::harness::Error;
use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use vm::{Engine, Image, LoadError, Outcome, Process, Spec, Template, ThawError};

/// What was measured; times in microseconds.
pub(super) struct Processes {
    pub used_us: Vec<f64>,
    pub end_us: Vec<f64>,
    pub new_us: Vec<f64>,
    /// Of a program that waits for something.
    pub warm_us: Option<Vec<f64>>,
    pub one: Count,
    pub two: Count,
    pub warm: Option<Count>,
    pub from_disk: Vec<FromDisk>,
}

/// A first start from disk.
#[derive(Clone, Copy)]
pub(super) struct FromDisk {
    /// Reading the module, and all that is not below.
    pub total_ms: f64,
    pub pass_ms: f64,
    pub code_ms: f64,
}

struct Starter<'a> {
    program: &'a Program,
    spec: Spec,
}

fn once<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn system(doing: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::System { doing, error }
}

fn us_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

/// Measures a program, or says why it cannot be.
pub(super) fn measure(
    program: &Program,
    extent: Extent,
) -> Result<Result<Processes, String>, Error> {
    let args = program.args.iter().map(|arg| arg.as_bytes().to_vec());
    let listeners = program.listener.then(|| LISTENER.to_owned());
    let starter = Starter {
        program,
        spec: Spec {
            args: args.collect(),
            listeners: listeners.into_iter().collect(),
            ..Spec::default()
        },
    };
    let folder = tempfile::tempdir().map_err(system("cannot make a folder"))?;
    let image = match starter.engine(folder.path())?.load(&program.wasm) {
        Err(refused @ LoadError::Pass(_)) => return Ok(Err(refused.to_string())),
        image => starter.prepared(image)?,
    };
    let new_us = starter.new_ones(&image, extent.alive)?;
    let (used_us, end_us) = starter.used(extent.samples, |world| {
        Process::start(&image, &starter.spec, world.ports())
    })?;
    let count = |threads| {
        cycles::count(threads, extent.count, || {
            starter.cycle(|world| Process::start(&image, &starter.spec, world.ports()))
        })
    };
    let (one, two) = (count(1)?, count(2)?);
    let (mut warm_us, mut warm) = (None, None);
    if let Some(template) = starter.template(&image)? {
        let start = |world: &Arc<World>| template.start(world.ports());
        warm_us = Some(starter.used(extent.samples, start)?.0);
        warm = Some(cycles::count(1, extent.count, || starter.cycle(start))?);
    }
    Ok(Ok(Processes {
        used_us,
        end_us,
        new_us,
        warm_us,
        one,
        two,
        warm,
        from_disk: starter.first_loads(folder.path(), extent.loads)?,
    }))
}

impl Starter<'_> {
    fn error(&self, doing: &'static str, reason: impl ToString) -> Error {
        Error::Process {
            program: self.program.name,
            doing,
            reason: reason.to_string(),
        }
    }

    /// An engine with its cache in a folder.
    fn engine(&self, folder: &Path) -> Result<Engine, Error> {
        let config = vm::Config {
            cache_dir: Some(folder.join("code")),
            ..vm::Config::default()
        };
        Engine::new(config).map_err(|error| self.error("starting the engine", error))
    }

    fn prepared(&self, image: Result<Arc<Image>, LoadError>) -> Result<Arc<Image>, Error> {
        let image = image.map_err(|error| self.error("loading it", error))?;
        let prepared = image.prepare_thaw();
        prepared.map_err(|error| self.error("loading it", error))?;
        Ok(image)
    }

    /// The time to the first host call of processes that all live. One that would go on, and leave
    /// nothing of its like in the caches for the next, is killed there, and keeps its memory.
    fn new_ones(&self, image: &Arc<Image>, count: usize) -> Result<Vec<f64>, Error> {
        let (mut waiting, mut killed) = (Vec::new(), Vec::new());
        let mut times = Vec::new();
        for _ in 0..count {
            let world = World::new(self.program.listener);
            let start = Instant::now();
            if self.program.listener {
                let process = Process::start(image, &self.spec, world.ports());
                let mut process = process.map_err(|error| self.error("starting it", error))?;
                world.expect(None);
                let mut run = Box::pin(async move { process.run().await });
                let _ = once(run.as_mut());
                waiting.push(run);
            } else {
                let begun = |world: &Arc<World>| Process::start(image, &self.spec, world.ports());
                killed.push(self.start(&world, begun)?);
            }
            times.push(self.first_us(&world, start)?);
        }
        Ok(times)
    }

    fn first_us(&self, world: &World, start: Instant) -> Result<f64, Error> {
        let first = world.first_us(start);
        first.ok_or_else(|| self.error("running it", "it made no host call"))
    }

    /// Starts a process; it is killed at its first host call.
    fn start(
        &self,
        world: &Arc<World>,
        start: impl Fn(&Arc<World>) -> Result<Process, ThawError>,
    ) -> Result<Process, Error> {
        let process = start(world);
        let mut process = process.map_err(|error| self.error("starting it", error))?;
        world.expect(Some(process.control()));
        let outcome = once(pin!(process.run()));
        match outcome {
            Poll::Ready(Outcome::Killed) => Ok(process),
            other => Err(self.error("running it", format!("killed, it is {other:?}"))),
        }
    }

    /// The times to the first host call, and of the ends, in used slots.
    fn used(
        &self,
        samples: usize,
        start: impl Fn(&Arc<World>) -> Result<Process, ThawError>,
    ) -> Result<(Vec<f64>, Vec<f64>), Error> {
        let world = World::new(self.program.listener);
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for sample in 0..samples + samples / 10 {
            let began = Instant::now();
            let process = self.start(&world, &start)?;
            let first = self.first_us(&world, began)?;
            let end = Instant::now();
            drop(process);
            if sample >= samples / 10 {
                starts.push(first);
                ends.push(us_since(end));
            }
        }
        Ok((starts, ends))
    }

    fn cycle<'a>(
        &'a self,
        start: impl Fn(&Arc<World>) -> Result<Process, ThawError> + 'a,
    ) -> Result<impl FnMut() -> Result<(), Error> + 'a, Error> {
        let world = World::new(self.program.listener);
        Ok(move || self.start(&world, &start).map(drop))
    }

    /// The program where it waits for the first time, if it does.
    fn template(&self, image: &Arc<Image>) -> Result<Option<Template>, Error> {
        let world = World::new(self.program.listener);
        let process = Process::start(image, &self.spec, world.ports());
        let mut process = process.map_err(|error| self.error("starting it", error))?;
        let control = process.control();
        {
            let mut run = pin!(process.run());
            if once(run.as_mut()).is_ready() {
                return Ok(None);
            }
            control.freeze();
            if once(run.as_mut()) != Poll::Ready(Outcome::Frozen) {
                return Ok(None);
            }
        }
        let snapshot = process.snapshot();
        let snapshot = snapshot.map_err(|error| self.error("taking its snapshot", error))?;
        let template = Template::new(image, snapshot);
        Ok(Some(template.map_err(|error| {
            self.error("making a template of it", error)
        })?))
    }

    /// First starts in engines that have the code in this folder.
    fn first_loads(&self, folder: &Path, loads: usize) -> Result<Vec<FromDisk>, Error> {
        let file = folder.join("program.wasm");
        std::fs::write(&file, &self.program.wasm).map_err(system("cannot write the program"))?;
        let mut all = Vec::new();
        for _ in 0..loads {
            let engine = self.engine(folder)?;
            let world = World::new(self.program.listener);
            let start = Instant::now();
            let wasm = std::fs::read(&file).map_err(system("cannot read the program"))?;
            let image = engine.load(&wasm);
            let image = image.map_err(|error| self.error("loading it", error))?;
            let begun = |world: &Arc<World>| Process::start(&image, &self.spec, world.ports());
            drop(self.start(&world, begun)?);
            let load = image.load_time();
            all.push(FromDisk {
                total_ms: self.first_us(&world, start)? / 1e3,
                pass_ms: load.pass.as_secs_f64() * 1e3,
                code_ms: load.compile.as_secs_f64() * 1e3,
            });
        }
        Ok(all)
    }
}
