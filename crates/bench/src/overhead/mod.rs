//! `limosa bench overhead`: what it costs a program that it can be frozen.
//!
//! # What is measured
//! *Run time* is CPU time of the guest's thread, user and system, from the call of the program's
//! entry to its return. Each round runs the plain module, the freezable one, and the plain one
//! again, each in a new instance, in an order that turns from round to round; then the freezable
//! one once more, which is frozen on its way.
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
//! * `noise`: the second plain run over the first. What differs from 1 there is the machine's doing.
//!
//! The plain module runs in Wasmtime with its own settings, the freezable one is made and compiled
//! as the process VM does it; both have one small host that never waits, so that no more than the
//! code differs.
//!
//! Every run of a program must give the same result and output, or there are no figures.

mod measure;
mod report;

use crate::harness::{self, Compiled, Error, Freezable, Machine, Program};
use crate::progress::Progress;
use crate::stats::{geometric_mean, median};
use measure::{Measure, Round};
pub(crate) use report::Report;
use report::{Named, Noise, Row};
use std::sync::Arc;

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
    plain_ms: f64,
}

impl Figures {
    fn of(rounds: &[Round]) -> Figures {
        let middle = |of: fn(&Round) -> f64| median(&rounds.iter().map(of).collect::<Vec<f64>>());
        Figures {
            ratio: middle(|round| round.run / round.plain),
            noise: middle(|round| round.plain_again / round.plain),
            after_freeze: middle(Round::after_freeze),
            plain_ms: middle(|round| round.plain * 1e3),
        }
    }
}

/// Measures everything that is there.
pub(crate) fn measure(quick: bool) -> Result<Report, Error> {
    let extent = if quick { QUICK } else { FULL };
    let machine = Machine::of_this();
    let folder = harness::third_party_folder();
    let (programs, skipped) = harness::programs(folder.as_deref());
    let steps = programs.len() as u64 * extent.layouts * extent.rounds as u64;
    let progress = Progress::new(steps);
    let rows = harness::with_stack(|| {
        let mut rows = Vec::new();
        let same_module = |a: &Program, b: &Program| Arc::ptr_eq(&a.wasm, &b.wasm);
        for programs in programs.chunk_by(same_module) {
            rows.extend(measure_module(programs, &extent, &progress)?);
        }
        Ok(rows)
    })?;
    progress.finish();
    Ok(Report::new(rows, skipped, machine, quick))
}

/// Measures the programs of one module, layout by layout, so that only one is in memory.
fn measure_module(
    programs: &[Program],
    extent: &Extent,
    progress: &Progress,
) -> Result<Vec<Row>, Error> {
    let (plain_engine, freezable_engine) = (harness::plain_engine()?, harness::freezable_engine()?);
    let mut sizes = vec![None; programs.len()];
    let mut figures: Vec<Vec<Figures>> = programs.iter().map(|_| Vec::new()).collect();
    for seed in 0..extent.layouts {
        let Some(first) = programs.first() else { break };
        progress.say(format!("{}: compiling layout {}", first.name, seed + 1));
        let wasm = harness::layout(first.name, &first.wasm, seed)?;
        let plain = Compiled::plain(&plain_engine, first.name, &wasm)?;
        let freezable = Freezable::new(&freezable_engine, first.name, &wasm)?;
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
            let mut measure = Measure::new(program.name, &work, &plain, &freezable)?;
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
        .map(|(program, layouts)| row(program.name, layouts))
        .collect())
}

fn row(name: &'static str, layouts: &[Figures]) -> Row {
    let column = |of: fn(&Figures) -> f64| layouts.iter().map(of).collect::<Vec<f64>>();
    let (ratios, after) = (column(|f| f.ratio), column(|f| f.after_freeze));
    Row {
        name,
        ratio: median(&ratios),
        after_freeze: median(&after),
        plain_ms: median(&column(|f| f.plain_ms)),
        noise: median(&column(|f| f.noise)),
        layouts: ratios,
        after_freeze_layouts: after,
    }
}

impl Report {
    fn new(
        rows: Vec<Row>,
        skipped: Vec<harness::Skipped>,
        machine: Machine,
        quick: bool,
    ) -> Report {
        let ratios: Vec<f64> = rows.iter().map(|row| row.ratio).collect();
        let noises: Vec<f64> = rows.iter().map(|row| row.noise).collect();
        let farthest = |most: f64, noise: &f64| {
            if (noise - 1.0).abs() > (most - 1.0).abs() {
                *noise
            } else {
                most
            }
        };
        Report {
            geomean: geometric_mean(&ratios),
            worst: Named::worst(&rows, |row| row.ratio),
            after_freeze_worst: Named::worst(&rows, |row| row.after_freeze),
            noise: Noise {
                geomean: geometric_mean(&noises),
                farthest: noises.iter().fold(1.0, farthest),
            },
            rows,
            skipped,
            machine,
            quick,
        }
    }
}
