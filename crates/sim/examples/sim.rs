//! Runs the simulated world: `sim SEED` one seed, `sim FROM..TO` many. With `LIMOSA_SIM_TRACE` set,
//! prints one line per transition to stderr. Exits with 1 at the first violation, 2 on bad usage.

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
    let argument = std::env::args().nth(1);
    let Some(seeds) = argument.as_deref().and_then(seeds) else {
        eprintln!("usage: sim SEED | FROM..TO");
        return ExitCode::from(2);
    };
    for seed in seeds {
        match sim::run(seed, sim::STEPS) {
            Ok(report) => println!("{report}"),
            Err(violation) => {
                eprintln!("{violation}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
