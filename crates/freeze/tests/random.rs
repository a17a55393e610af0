//! Random modules, frozen at random sites, against the plain run.
//!
//! `LIMOSA_SEED` is the first seed, `LIMOSA_ROUNDS` how many times more modules are tried; a failure
//! prints its seed.

mod common;

use common::{check, generate, steps_of};
use freeze::{Options, transform};

fn seeds(usual: u64) -> impl Iterator<Item = u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("LIMOSA_SEED").unwrap_or(0);
    let count = usual.saturating_mul(number("LIMOSA_ROUNDS").unwrap_or(1));
    (0..count).map(move |round| first.wrapping_add(round))
}

#[test]
fn generated_modules_do_the_same_frozen_and_unfrozen() {
    let (mut freezes, mut polls) = (0, 0);
    for seed in seeds(150) {
        let _seed = common::Seed(seed);
        let wasm = generate::module(seed);
        let artefact = transform(&wasm, &Options::default()).expect("it can be transformed");
        let tally = check(&wasm, &steps_of(&artefact), 25, seed);
        if std::env::var_os("LIMOSA_VERBOSE").is_some() {
            eprintln!("seed {seed}: {tally:?}");
        }
        freezes += tally.freezes;
        polls += tally.polls;
    }
    println!("{freezes} freezes, {polls} polls");
}
