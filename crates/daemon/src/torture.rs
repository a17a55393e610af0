//! A program in the foreground, frozen at random places: `limosa run --torture SEED`.
//!
//! It runs twice in a world that follows the seed (virtual clock, seeded entropy): once plainly,
//! unseen, and once frozen again and again, each time written down and thawed in a fresh instance.
//! What the second run writes is shown as it does; any difference to the first is an error.

use crate::local::LocalError;
use crate::processes::tree;
use std::sync::Arc;
use vm::torture::{End, Places, Report, TortureError, World};
use vm::{Engine, Outcome, Polls};
use wire::api::RunSpec;

pub use vm::torture::OnOutput;

/// About how often a program is frozen.
const FREEZES: u64 = 50;

/// How a tortured program ended, and what was done to it.
#[derive(Clone, Debug)]
pub struct Tortured {
    /// How it ended.
    pub ended: Ended,
    /// Times it was frozen, written down and thawed.
    pub freezes: u64,
    /// Of these, in the middle of a call to the host.
    pub freezes_in_calls: u64,
    /// Bytes of the largest snapshot.
    pub largest_snapshot: u64,
    /// What was different from the plain run.
    pub difference: Option<String>,
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

/// Runs a program under torture. Blocks. `files` are the contents of `spec.files`, in order.
pub fn run(
    spec: &RunSpec,
    files: &[Vec<u8>],
    module: &[u8],
    input: Vec<u8>,
    seed: u64,
    on_output: OnOutput,
) -> Result<Tortured, LocalError> {
    let engine = Engine::new(vm::Config {
        polls: Polls::Countdown,
        ..vm::Config::default()
    })?;
    let contents: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    let birth = tree::birth(spec, &contents, Vec::new())?;
    let image = engine.load(module).map_err(LocalError::Module)?;
    let failed = |error: TortureError| LocalError::Start(error.to_string());
    let quiet = World {
        seed,
        input,
        ..World::default()
    };
    let plain = vm::torture::plain(&image, &birth, &quiet).map_err(failed)?;
    let places = Places {
        seed,
        freezes: FREEZES,
    };
    let world = World {
        on_output: Some(on_output),
        ..quiet
    };
    let images = [Arc::clone(&image)];
    let tortured = vm::torture::torture(&images, &birth, &world, places, &plain);
    let tortured = tortured.map_err(failed)?;
    Ok(Tortured {
        ended: ended(&tortured),
        freezes: tortured.freezes,
        freezes_in_calls: tortured.freezes_in_calls,
        largest_snapshot: tortured.largest_snapshot as u64,
        difference: plain.difference(&tortured),
    })
}

fn ended(report: &Report) -> Ended {
    match &report.end {
        End::Outcome(Outcome::Exited(code)) => Ended::Exited(*code),
        End::Outcome(Outcome::Trapped(trap)) => Ended::Trapped(trap.to_string()),
        // Nobody kills it, and a freeze never ends the run.
        End::Outcome(Outcome::Killed | Outcome::Frozen) | End::Stalled => Ended::Stalled,
    }
}
