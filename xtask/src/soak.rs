//! `cargo xtask soak`: the machinery of the tests for hours.
//!
//! A round is: all tests with a new seed and more rounds of every random model, each fuzz target
//! for some minutes, and the demo several times. Rounds repeat until the time is over; at least
//! one is done. Whatever fails is told at once and again at the end, with what repeats it.

use crate::run::{self, Ended, Report};
use crate::{fuzz, languages, third_party};
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many times more rounds a random model does than in `cargo xtask test`.
const MORE_ROUNDS: &str = "20";
/// How often the demo runs in a round.
const DEMOS: u32 = 10;
/// How long each target is fuzzed in a round.
const FUZZ_SECONDS: u64 = 300;

/// A seed that no round before had.
fn new_seed(round: u64) -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&now.as_nanos().to_le_bytes());
    hasher.update(&round.to_le_bytes());
    let mut seed = [0; 8];
    seed.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(seed)
}

/// What the demo's JSON says went wrong; nothing if it is as it must be.
fn demo_faults(result: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for name in ["lost", "wrong", "reconnects"] {
        if result[name].as_u64() != Some(0) {
            faults.push(format!("{name} is {}", result[name]));
        }
    }
    for name in ["moves", "requests"] {
        if result[name].as_u64().is_none_or(|count| count == 0) {
            faults.push(format!("{name} is {}", result[name]));
        }
    }
    faults
}

fn demo() -> Result<Ended, String> {
    for count in 1..=DEMOS {
        let text = run::output(run::cargo().args([
            "run",
            "--release",
            "--quiet",
            "--",
            "demo",
            "--json",
        ]))?;
        let result: Value = serde_json::from_str(&text).map_err(|error| {
            format!("the demo printed something else than JSON: {error}\n{text}")
        })?;
        println!("demo {count} of {DEMOS}: {result}");
        let faults = demo_faults(&result);
        if !faults.is_empty() {
            return Err(faults.join(", "));
        }
    }
    Ok(Ended::Passed)
}

fn tests(seed: u64) -> Result<Ended, String> {
    let mut command = run::cargo();
    command
        .args(["test", "--release", "--workspace", "--no-fail-fast"])
        .env("LIMOSA_SEED", seed.to_string())
        .env("LIMOSA_ROUNDS", MORE_ROUNDS);
    if let Ended::Skipped(reason) = third_party::check() {
        println!("without other people's programs: {reason}");
        command.env_remove("LIMOSA_THIRD_PARTY");
    } else {
        command.env("LIMOSA_THIRD_PARTY", third_party::folder());
    }
    command.env("LIMOSA_LANGUAGES", languages::folder());
    run::run(&mut command).map(|()| Ended::Passed)
}

fn duration(arguments: &[String]) -> Result<Duration, String> {
    let usage = "usage: cargo xtask soak [--hours H | --minutes M]";
    let number = |text: &String| -> Result<f64, String> {
        text.parse()
            .ok()
            .filter(|value: &f64| (0.0..=10_000.0).contains(value))
            .ok_or_else(|| format!("\"{text}\" is not a number from 0 to 10000\n{usage}"))
    };
    match arguments {
        [] => Ok(Duration::from_secs(3600)),
        [flag, value] if flag == "--hours" => Ok(Duration::from_secs_f64(number(value)? * 3600.0)),
        [flag, value] if flag == "--minutes" => Ok(Duration::from_secs_f64(number(value)? * 60.0)),
        _ => Err(usage.into()),
    }
}

/// `cargo xtask soak`.
pub fn main(arguments: &[String]) -> Result<(), String> {
    let duration = duration(arguments)?;
    println!("soaking for {:.0} minutes", duration.as_secs_f64() / 60.0);
    if let Err(reason) = languages::build() {
        println!("without some guests: {reason}");
    }
    let start = Instant::now();
    let mut report = Report::default();
    for round in 1.. {
        let seed = new_seed(round);
        // What repeats the tests of this round is the command that is printed with them.
        report.step(
            &format!("tests {round}"),
            &format!("all tests with seed {seed}, {MORE_ROUNDS} times the rounds"),
            || tests(seed),
        );
        // A short soak still looks at every target.
        let seconds = FUZZ_SECONDS
            .min(duration.as_secs() / 4 / fuzz::TARGETS.len() as u64)
            .max(5);
        report.step(
            &format!("fuzz {round}"),
            &format!("each target for {seconds} seconds"),
            || fuzz::all(seconds),
        );
        report.step(
            &format!("demo {round}"),
            &format!("{DEMOS} demos, each with moves under load"),
            demo,
        );
        println!(
            "\n{:.0} minutes of soaking are over",
            start.elapsed().as_secs_f64() / 60.0
        );
        if start.elapsed() >= duration {
            break;
        }
    }
    report.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_demo_without_fault_has_moves_and_requests_and_nothing_lost() {
        let good = json!({"moves": 20, "requests": 9000, "lost": 0, "wrong": 0, "reconnects": 0});
        assert!(demo_faults(&good).is_empty());
        for (name, value) in [
            ("lost", json!(1)),
            ("moves", json!(0)),
            ("wrong", Value::Null),
        ] {
            let mut bad = good.clone();
            bad[name] = value;
            assert_eq!(demo_faults(&bad).len(), 1, "{name}");
        }
    }

    #[test]
    fn durations_are_hours_or_minutes_and_an_hour_without_argument() {
        let parse =
            |text: &[&str]| duration(&text.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        assert_eq!(parse(&[]), Ok(Duration::from_secs(3600)));
        assert_eq!(parse(&["--hours", "2.5"]), Ok(Duration::from_secs(9000)));
        assert_eq!(parse(&["--minutes", "3"]), Ok(Duration::from_secs(180)));
        for bad in [
            &["--minutes"][..],
            &["--hours", "x"],
            &["--hours", "-1"],
            &["--hours", "NaN"],
        ] {
            assert!(parse(bad).is_err());
        }
    }

    #[test]
    fn every_round_has_a_seed_of_its_own() {
        assert_ne!(new_seed(1), new_seed(2));
    }
}
