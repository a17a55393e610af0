//! Runs the simulated world: `sim SEED [STEPS]` one seed, `sim FROM..TO [STEPS]` many. With
//! `LIMOSA_SIM_TRACE` set, prints one line per transition to stderr. Exits with 1 at the first
//! violation, 2 on bad usage.

use std::ops::Range;
use std::process::ExitCode;

fn seeds(text: &str) -> Option<Range<u64>> {
    match text.split_once("..") {
        Some((from, to)) => Some(from.parse().ok()?..to.parse().ok()?),
        None => {
            let seed: u64 = text.parse().ok()?;
            Some(seed..seed.checked_add(1)?)
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let steps = match arguments.get(1) {
        Some(text) => text.parse().ok(),
        None => Some(sim::STEPS),
    };
    let seeds = arguments.first().and_then(|text| seeds(text));
    let (Some(seeds), Some(steps)) = (seeds, steps) else {
        eprintln!("usage: sim SEED | FROM..TO [STEPS]");
        return ExitCode::from(2);
    };
    for seed in seeds {
        match sim::run(seed, steps) {
            Ok(report) => println!("{report}"),
            Err(violation) => {
                eprintln!("{violation}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
