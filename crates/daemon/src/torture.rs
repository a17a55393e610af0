//! A program in the foreground, frozen at random places: `limosa run --torture SEED`.
//!
//! It runs twice in a world that follows the seed (virtual clock, seeded entropy): once plainly,
//! unseen, and once frozen again and again, each time written down and thawed in a fresh instance
//! of one of the backends. What the second run writes is shown as it does; any difference to the
//! first is an error.

use crate::local::LocalError;
use crate::processes::tree;
use std::path::PathBuf;
use std::sync::Arc;
use vm::torture::{End, Places, Report, World};
use vm::{Engine, Image, Outcome, Polls};
use wire::api::RunSpec;

pub use vm::Backend;
pub use vm::torture::{OnOutput, TortureError};

/// About how often a program is frozen.
const FREEZES: u64 = 50;

/// What a program is put through.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides where it is frozen, and what is random to it.
    pub seed: u64,
    /// What it runs on: the first begins, and after each freeze any of them goes on.
    pub backends: Vec<Backend>,
    /// Standard input, all of it.
    pub input: Vec<u8>,
    /// Where compiled code is kept; nowhere if absent.
    pub cache_dir: Option<PathBuf>,
}

/// A program and its world, compiled and ready.
pub struct Subject {
    images: Vec<Arc<Image>>,
    birth: vm::Spec,
    options: Options,
}

/// A run without a freeze, to compare with.
pub struct Plain(Report);

/// How a tortured program ended, and what was done to it.
#[derive(Clone, Debug)]
pub struct Tortured {
    /// How it ended.
    pub ended: Ended,
    /// Times it was frozen and written down.
    pub freezes: u64,
    /// Of these, in the middle of a call to the host.
    pub freezes_in_calls: u64,
    /// How often it was thawed on each backend.
    pub thaws: Vec<(Backend, u64)>,
    /// Bytes of the largest snapshot.
    pub largest_snapshot: u64,
    /// What was different from the plain run.
    pub difference: Option<String>,
    /// Nothing but how deep it got before its stack was full, or whether it was.
    pub depth_differs: bool,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By doing what no program may; what, in one line.
    Trapped(String),
    /// It waits for what will never happen: nobody is there but itself.
    Stalled,
}

impl Subject {
    /// Compiles a program for all backends at once. Blocks. `files` are the contents of
    /// `spec.files`, in order.
    pub fn load(
        spec: &RunSpec,
        files: &[Vec<u8>],
        module: &[u8],
        options: Options,
    ) -> Result<Subject, LocalError> {
        let contents: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let birth = tree::birth(spec, &contents, Vec::new())?;
        let load = |backend: &Backend| {
            let engine = Engine::new(vm::Config {
                backend: *backend,
                polls: Polls::Countdown,
                cache_dir: options.cache_dir.clone(),
                ..vm::Config::default()
            })?;
            engine.load(module).map_err(LocalError::Module)
        };
        let images = std::thread::scope(|scope| {
            let threads = options.backends.iter().map(|backend| {
                let load = &load;
                scope.spawn(move || load(backend))
            });
            let threads: Vec<_> = threads.collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread
                    .join()
                    .unwrap_or_else(|fault| std::panic::resume_unwind(fault))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(Subject {
            images,
            birth,
            options,
        })
    }

    fn world(&self, on_output: Option<OnOutput>) -> World {
        World {
            seed: self.options.seed,
            input: self.options.input.clone(),
            on_output,
            ..World::default()
        }
    }

    /// Runs it without freezing it, unseen. Blocks.
    pub fn plain(&self) -> Result<Plain, LocalError> {
        let image = self
            .images
            .first()
            .ok_or_else(|| LocalError::Start("no backend was chosen".to_owned()))?;
        let report = vm::torture::plain(image, &self.birth, &self.world(None));
        let failed = |error: TortureError| LocalError::Start(error.to_string());
        report.map(Plain).map_err(failed)
    }

    /// Runs it, freezing it at random places, and compares. Blocks.
    pub fn torture(&self, plain: &Plain, on_output: OnOutput) -> Result<Tortured, TortureError> {
        let Plain(plain) = plain;
        let places = Places {
            seed: self.options.seed,
            freezes: FREEZES,
        };
        let world = self.world(Some(on_output));
        let tortured = vm::torture::torture(&self.images, &self.birth, &world, places, plain)?;
        let difference = plain.difference(&tortured);
        let backends = self.options.backends.iter().copied();
        Ok(Tortured {
            ended: ended(&tortured),
            freezes: tortured.freezes,
            freezes_in_calls: tortured.freezes_in_calls,
            thaws: backends.zip(tortured.thaws.iter().copied()).collect(),
            largest_snapshot: tortured.largest_snapshot as u64,
            depth_differs: difference.is_none() && (plain.overflowed() || tortured.overflowed()),
            difference,
        })
    }
}

fn ended(report: &Report) -> Ended {
    match &report.end {
        End::Outcome(Outcome::Exited(code)) => Ended::Exited(*code),
        End::Outcome(Outcome::Trapped(trap)) => Ended::Trapped(trap.to_string()),
        // Nobody kills it, and a freeze never ends the run.
        End::Outcome(Outcome::Killed | Outcome::Frozen) | End::Stalled => Ended::Stalled,
    }
}
