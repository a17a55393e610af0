//! Random runs of the whole world; see `sim` for what is checked. `LIMOSA_ROUNDS` says how many.

fn rounds() -> u64 {
    let rounds = std::env::var("LIMOSA_ROUNDS").ok();
    rounds.and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn whatever_breaks_no_rule_is_broken_and_everything_ends() {
    let mut sum = sim::Report::default();
    for seed in 0..rounds() {
        match sim::run(seed, sim::STEPS) {
            Ok(report) => {
                sum.moved += report.moved;
                sum.taken_back += report.taken_back;
                sum.crashes += report.crashes;
                sum.served += report.served;
            }
            Err(violation) => panic!(
                "{violation}\nLIMOSA_SIM_TRACE=1 cargo run --release -p limosa-sim --example sim -- {seed}"
            ),
        }
    }
    println!("{sum}");
    // A storm in which nothing happens proves nothing.
    assert!(sum.moved >= rounds() && sum.crashes > 0 && sum.served >= rounds());
}

#[test]
fn the_same_seed_is_the_same_world() {
    let first = sim::run(11, 5_000).unwrap();
    assert_eq!(first, sim::run(11, 5_000).unwrap());
    assert_ne!(first, sim::run(12, 5_000).unwrap());
}
