//! `cargo xtask test`: every check. This is what continuous integration runs, and all it runs.
//!
//! One profile, release, serves the demo and all checks, so that each dependency is built once.

use crate::run::{self, Ended, Report};
use crate::{arrows, guests, third_party};

/// `cargo xtask test`.
pub fn main(arguments: &[String]) -> Result<(), String> {
    if let Some(argument) = arguments.first() {
        return Err(format!(
            "test takes no argument, not {argument}; for one crate: cargo test --release -p CRATE"
        ));
    }
    let mut report = Report::default();
    let cargo = |arguments: &[&str]| run::run(run::cargo().args(arguments)).map(|()| Ended::Passed);
    report.step(
        "format",
        "is everything formatted as rustfmt would?",
        || cargo(&["fmt", "--all", "--check"]),
    );
    report.step("arrows", "do crates depend on each other as drawn?", || {
        let count = arrows::check_workspace()?;
        println!("{count} arrows, all of them drawn");
        Ok(Ended::Passed)
    });
    let built = report.step(
        "third-party",
        "build other people's programs for the tests",
        || Ok(third_party::check()),
    );
    report.step(
        "guests",
        "are the modules in guests/ those of their sources?",
        guests::check,
    );
    report.step("clippy", "does the linter find anything?", || {
        cargo(&[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    });
    report.step("documentation", "does it build without a warning?", || {
        run::run(
            run::cargo()
                .args(["doc", "--release", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
        .map(|()| Ended::Passed)
    });
    // Tests choose more features of the dependencies. What people build has fewer: it must do with
    // them, but to compile all dependencies once more would take minutes.
    report.step(
        "check",
        "does it build without what only tests need?",
        || cargo(&["check", "--release", "--workspace"]),
    );
    report.step("tests", "every test of every crate", || {
        let mut command = run::cargo();
        command.args(["test", "--release", "--workspace", "--no-fail-fast"]);
        if built {
            command.env("LIMOSA_THIRD_PARTY", third_party::folder());
        } else {
            println!("without other people's programs: tests that need them are skipped");
            command.env_remove("LIMOSA_THIRD_PARTY");
        }
        run::run(&mut command).map(|()| Ended::Passed)
    });
    report.finish()
}
