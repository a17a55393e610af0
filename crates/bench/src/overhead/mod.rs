//! `limosa bench overhead`: what it costs a program that it can be frozen.
//!
//! # What is measured
//! *Run time* is CPU time of the guest's thread, user and system, from the call of the program's
//! entry to its return. Each round runs the plain module, the freezable one, the plain one again,
//! and those of the peers, each in a new instance, in an order that turns from round to round; then
//! the freezable one once more, which is frozen on its way.
//!
//! * `ratio`: freezable over plain, of one round. A row's is the median over the rounds of a layout,
//!   then the median over five [layouts](crate::harness).
//! * `after_freeze`: a thread asks for a freeze after 10 % of the run. Let F be the CPU time until
//!   the guest was frozen, T that of the round's undisturbed freezable run, P that of its plain run,
//!   and R that of the rest in the thaw module, from the call of the outermost clone to the
//!   program's end. F / T is the share of the work that was done, so the plain module would have
//!   needed P · (1 − F / T) for what was left, and `after_freeze` = R / (P · (1 − F / T)). Taking
//!   the state out and putting it into the new instance is not counted: `bench freeze` and the
//!   demo measure that.
//! * `epoch`: the plain module, compiled with Wasmtime's epoch interruption, over the plain one. It
//!   can be interrupted, though not be frozen.
//! * `asyncify`: the plain module with polls, made by Binaryen into one that [can be
//!   unwound](asyncify), over the plain one; measured where Binaryen is installed.
//! * `noise`: the second plain run over the first. What differs from 1 there is the machine's doing.
//!
//! The plain module runs in Wasmtime with its own settings, the freezable one is made and compiled
//! as the process VM does it; both have one small host that never waits, so that no more than the
//! code differs.
//!
//! Every run of a program must give the same result and output, or there are no figures.

mod asyncify;
mod measure;
mod report;

use crate::harness::{self, Compiled, Error, Freezable, Machine, Program};
use crate::progress::Progress;
use crate::stats::median;
use asyncify::Asyncify;
use measure::{Forms, Measure, Round};
pub(crate) use report::Report;
use report::Row;
use std::sync::Arc;
use wasmtime::Engine;

/// How much is measured.
struct Extent {
    layouts: u64,
    rounds: usize,
    /// CPU time of a plain run that sizes are chosen for.
    kernel_ms: f64,
    program_ms: f64,
}

const FULL: Extent = Extent {
    layouts: 5,
    rounds: 5,
    kernel_ms: 40.0,
    program_ms: 120.0,
};
const QUICK: Extent = Extent {
    layouts: 1,
    rounds: 5,
    kernel_ms: 15.0,
    program_ms: 60.0,
};

/// The figures of one program in one layout.
struct Figures {
    ratio: f64,
    noise: f64,
    after_freeze: f64,
    epoch: f64,
    asyncify: Option<f64>,
    plain_ms: f64,
}

impl Figures {
    fn of(rounds: &[Round]) -> Figures {
        let middle = |of: fn(&Round) -> f64| median(&rounds.iter().map(of).collect::<Vec<f64>>());
        Figures {
            ratio: middle(|round| round.run / round.plain),
            noise: middle(|round| round.plain_again / round.plain),
            after_freeze: middle(Round::after_freeze),
            epoch: middle(|round| round.epoch / round.plain),
            asyncify: rounds
                .iter()
                .all(|round| round.asyncify.is_some())
                .then(|| middle(|round| round.asyncify.unwrap_or(f64::NAN) / round.plain)),
            plain_ms: middle(|round| round.plain * 1e3),
        }
    }
}

/// Measures everything that is there; if programs are named, only those.
pub(crate) fn measure(quick: bool, only: &[String]) -> Result<Report, Error> {
    let extent = if quick { QUICK } else { FULL };
    let machine = Machine::of_this();
    let folder = harness::third_party_folder();
    let (programs, mut skipped) = harness::programs(folder.as_deref());
    let programs = harness::only(programs, &skipped, only)?;
    if !only.is_empty() {
        // What was not asked for is not missed.
        skipped.clear();
    }
    let mut peers = Peers::find(quick, &mut skipped);
    let engines = Engines {
        plain: harness::plain_engine()?,
        epoch: harness::epoch_engine()?,
        freezable: harness::freezable_engine()?,
    };
    let steps = programs.len() as u64 * extent.layouts * extent.rounds as u64;
    let progress = Progress::new(steps);
    let rows = harness::with_stack(|| {
        let mut rows = Vec::new();
        let same_module = |a: &Program, b: &Program| Arc::ptr_eq(&a.wasm, &b.wasm);
        for programs in programs.chunk_by(same_module) {
            rows.extend(measure_module(
                programs, &extent, &engines, &mut peers, &progress,
            )?);
        }
        Ok(rows)
    })?;
    progress.finish();
    skipped.extend(peers.refused);
    Ok(Report::new(rows, skipped, machine, quick))
}

struct Engines {
    plain: Engine,
    epoch: Engine,
    freezable: Engine,
}

/// The peer that needs a tool, and the programs that it cannot do.
struct Peers {
    asyncify: Option<Asyncify>,
    refused: Vec<harness::Skipped>,
}

impl Peers {
    fn find(quick: bool, skipped: &mut Vec<harness::Skipped>) -> Peers {
        let found = if quick {
            Err("a quick run leaves it out".to_owned())
        } else {
            Asyncify::find()
        };
        let asyncify = found.map_err(|reason| {
            let name = "the column asyncify";
            skipped.push(harness::Skipped { name, reason });
        });
        Peers {
            asyncify: asyncify.ok(),
            refused: Vec::new(),
        }
    }

    /// The module in the peer's form, if there is one.
    fn asyncify(&mut self, program: &Program) -> Option<Vec<u8>> {
        let made = self.asyncify.as_ref()?.apply(program.name, &program.wasm);
        let refused = made.map_err(|error| {
            self.refused.push(harness::Skipped {
                name: "asyncify",
                reason: error.to_string(),
            });
        });
        refused.ok()
    }
}

/// Measures the programs of one module, layout by layout, so that only one is in memory.
fn measure_module(
    programs: &[Program],
    extent: &Extent,
    engines: &Engines,
    peers: &mut Peers,
    progress: &Progress,
) -> Result<Vec<Row>, Error> {
    let mut asyncified = None;
    if let Some(first) = programs.first() {
        progress.say(format!("{}: Asyncify", first.name));
        asyncified = peers.asyncify(first);
    }
    let mut sizes = vec![None; programs.len()];
    let mut figures: Vec<Vec<Figures>> = programs.iter().map(|_| Vec::new()).collect();
    for seed in 0..extent.layouts {
        let Some(first) = programs.first() else { break };
        progress.say(format!("{}: compiling layout {}", first.name, seed + 1));
        let wasm = harness::layout(first.name, &first.wasm, seed)?;
        let plain = Compiled::plain(&engines.plain, first.name, &wasm)?;
        let epoch = Compiled::plain(&engines.epoch, first.name, &wasm)?;
        let freezable = Freezable::new(&engines.freezable, first.name, &wasm)?;
        // What makes it takes too long to be run on every layout: its result is laid out anew.
        let asyncify = match &asyncified {
            Some(wasm) => {
                let wasm = harness::layout(first.name, wasm, seed)?;
                Some(Compiled::plain(&engines.plain, first.name, &wasm)?)
            }
            None => None,
        };
        let forms = Forms {
            plain: &plain,
            epoch: &epoch,
            asyncify: asyncify.as_ref(),
            freezable: &freezable,
        };
        for (index, program) in programs.iter().enumerate() {
            progress.say(format!("{}: layout {}", program.name, seed + 1));
            let target = if program.kernel {
                extent.kernel_ms
            } else {
                extent.program_ms
            };
            let size = match sizes[index] {
                Some(size) => size,
                None => *sizes[index].insert(measure::size(program, &plain, target)?),
            };
            let work = program.work.at(size);
            let mut measure = Measure::new(program.name, &work, forms)?;
            let mut rounds = Vec::new();
            for round in 0..extent.rounds {
                rounds.push(measure.round(round)?);
                progress.step();
            }
            figures[index].push(Figures::of(&rounds));
        }
    }
    Ok(programs
        .iter()
        .zip(&figures)
        .map(|(program, layouts)| row(program, layouts))
        .collect())
}

fn row(program: &Program, layouts: &[Figures]) -> Row {
    let column = |of: fn(&Figures) -> f64| layouts.iter().map(of).collect::<Vec<f64>>();
    let (ratios, after) = (column(|f| f.ratio), column(|f| f.after_freeze));
    let asyncify: Vec<f64> = layouts.iter().filter_map(|f| f.asyncify).collect();
    Row {
        name: program.name,
        kernel: program.kernel,
        ratio: median(&ratios),
        after_freeze: median(&after),
        epoch: median(&column(|f| f.epoch)),
        asyncify: (!asyncify.is_empty()).then(|| median(&asyncify)),
        plain_ms: median(&column(|f| f.plain_ms)),
        noise: median(&column(|f| f.noise)),
        layouts: ratios,
        after_freeze_layouts: after,
    }
}
