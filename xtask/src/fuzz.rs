//! `cargo xtask fuzz`: coverage-guided fuzzing of every decoder and of the pass.
//!
//! It needs a nightly toolchain (the sanitizers do) and cargo-fuzz, which is installed under
//! target/tools if it is missing. On stable Rust the tests of `wire` and `freeze` run the same
//! bodies over the kept inputs and mutations of them.

use crate::run::{self, Ended};
use std::path::PathBuf;
use std::process::Command;

/// The targets of fuzz/Cargo.toml.
pub const TARGETS: &[&str] = &[
    "snapshot",
    "checkpoint",
    "run_body",
    "link_frames",
    "pages",
    "ticket",
    "pass",
];

/// What is needed to fuzz.
pub struct Fuzzer {
    program: PathBuf,
}

impl Fuzzer {
    /// Finds or installs cargo-fuzz; the error says what is missing.
    pub fn install() -> Result<Self, String> {
        run::output(Command::new("rustup").args(["run", "nightly", "rustc", "--version"]))
            .map_err(|_| {
                "there is no nightly toolchain; install one: rustup toolchain install nightly"
                    .to_string()
            })?;
        let tools = run::root().join("target/tools");
        let own = tools.join(format!("bin/cargo-fuzz{}", std::env::consts::EXE_SUFFIX));
        for program in [PathBuf::from("cargo-fuzz"), own.clone()] {
            if run::output(Command::new(&program).arg("--version")).is_ok() {
                return Ok(Self { program });
            }
        }
        println!("installing cargo-fuzz into target/tools");
        run::run(
            run::cargo()
                .args(["install", "cargo-fuzz", "--locked", "--root"])
                .arg(&tools),
        )
        .map_err(|reason| format!("cannot install cargo-fuzz: {reason}"))?;
        Ok(Self { program: own })
    }

    /// Fuzzes one target for some seconds. New inputs go to target/fuzz-corpus, not to the kept
    /// ones; what crashes is left in fuzz/artifacts and named.
    pub fn run(&self, target: &str, seconds: u64) -> Result<(), String> {
        let found = run::root().join("target/fuzz-corpus").join(target);
        run::make_folder(&found)?;
        let mut command = Command::new(&self.program);
        command
            .current_dir(run::root())
            .env("RUSTUP_TOOLCHAIN", "nightly")
            // Our own cargo is not the nightly one.
            .env_remove("CARGO")
            .args(["run", "--release"])
            .arg("--target-dir")
            .arg(run::root().join("target/fuzz"))
            .arg(target)
            .arg(&found)
            .arg(run::root().join("fuzz/corpus").join(target))
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .args([
                "-timeout=20",
                "-rss_limit_mb=4096",
                "-print_final_stats=1",
                "-verbosity=0",
            ]);
        run::run(&mut command)
    }
}

/// Fuzzes all targets; skipped, with the reason, where that cannot be done.
pub fn all(seconds: u64) -> Result<Ended, String> {
    let fuzzer = match Fuzzer::install() {
        Ok(fuzzer) => fuzzer,
        Err(reason) => return Ok(Ended::Skipped(reason)),
    };
    run_all(&fuzzer, TARGETS, seconds).map(|()| Ended::Passed)
}

/// `cargo xtask fuzz`.
pub fn main(arguments: &[String]) -> Result<(), String> {
    let usage = "usage: cargo xtask fuzz [--seconds N] [TARGET...]";
    let mut seconds = 60;
    let mut chosen = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            let value = arguments.next().ok_or(usage)?;
            seconds = value
                .parse()
                .map_err(|_| format!("--seconds {value}: not a number"))?;
        } else if TARGETS.contains(&argument.as_str()) {
            chosen.push(argument.as_str());
        } else {
            return Err(format!(
                "there is no target \"{argument}\"; there are {}\n{usage}",
                TARGETS.join(", ")
            ));
        }
    }
    let fuzzer = Fuzzer::install()?;
    run_all(
        &fuzzer,
        if chosen.is_empty() { TARGETS } else { &chosen },
        seconds,
    )
}

/// Fuzzes targets one after the other; a crash in one does not keep the next from its turn.
fn run_all(fuzzer: &Fuzzer, targets: &[&str], seconds: u64) -> Result<(), String> {
    let mut crashed = Vec::new();
    for target in targets {
        println!("\n== fuzzing {target} for {seconds} seconds");
        if let Err(reason) = fuzzer.run(target, seconds) {
            crashed.push(format!(
                "{target}: {reason}; its input is in fuzz/artifacts/{target}"
            ));
        }
    }
    if crashed.is_empty() {
        Ok(())
    } else {
        Err(crashed.join("\n"))
    }
}
