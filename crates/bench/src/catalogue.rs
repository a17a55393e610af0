//! `limosa bench`: the list of benches, and how one is run.

use crate::{
    density, fairness, freeze, harness, io as server_io, migrate, overhead, start, switch,
};
use std::io::{self, Write};

/// How to run a bench.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Print one JSON object instead of a table.
    pub json: bool,
    /// Measure less, in half a minute at most.
    pub quick: bool,
    /// Measure only the programs of these names; all if there is none.
    pub only: Vec<String>,
}

/// A bench that can be run by name.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// Its name.
    pub name: &'static str,
    /// What it measures, in one line.
    pub about: &'static str,
    /// Whether it measures several programs, of which some can be chosen.
    chooses: bool,
    measure: fn(&Options) -> Result<Printed, harness::Error>,
}

/// What a bench has to say.
struct Printed {
    out: String,
    skipped: Vec<harness::Skipped>,
}

/// All benches.
pub const BENCHES: [Bench; 8] = [
    Bench {
        name: "overhead",
        about: "run time of freezable programs over the same in plain Wasmtime",
        chooses: true,
        measure: |options| {
            let report = overhead::measure(options.quick, &options.only)?;
            printed(options, report.json(), report.text(), report.skipped)
        },
    },
    Bench {
        name: "freeze",
        about: "time from request to frozen; capture and thaw per frame; snapshot as bytes",
        chooses: true,
        measure: |options| {
            let report = freeze::measure(options.quick, &options.only)?;
            printed(options, report.json(), report.text(), report.skipped)
        },
    },
    Bench {
        name: "start",
        about: "time from a loaded image to the first host call, beside plain Wasmtime",
        chooses: false,
        measure: |options| {
            let report = start::measure(options.quick)?;
            printed(options, report.json(), report.text(), report.skipped)
        },
    },
    Bench {
        name: "density",
        about: "memory of an idle process, in a fiber and folded",
        chooses: false,
        measure: |options| {
            let report = density::measure(options.quick)?;
            printed(options, report.json(), report.text(), report.skipped)
        },
    },
    Bench {
        name: "fairness",
        about: "time to answer beside endless loops; shares of the cores by weight",
        chooses: false,
        measure: |options| {
            let report = fairness::measure(options.quick)?;
            printed(options, report.json(), report.text(), report.skipped)
        },
    },
    Bench {
        name: "io",
        about: "requests per second of a server over the same compiled natively",
        chooses: false,
        measure: |options| {
            let report = server_io::measure(options.quick)?;
            printed(options, report.json(), report.text(), report.skipped)
        },
    },
    Bench {
        name: "switch",
        about: "cost of a switch between processes, threads, OS processes by working set",
        chooses: false,
        measure: |options| {
            let report = switch::measure(options.quick)?;
            printed(options, report.json(), report.text(), report.skipped)
        },
    },
    Bench {
        name: "migrate",
        about: "how long a move stops a process, by memory, rate of writes and strategy",
        chooses: false,
        measure: |options| {
            let report = migrate::measure(options.quick)?;
            printed(options, report.json(), report.text(), Vec::new())
        },
    },
];

fn printed(
    options: &Options,
    json: Result<String, serde_json::Error>,
    text: String,
    skipped: Vec<harness::Skipped>,
) -> Result<Printed, harness::Error> {
    let out = match json {
        Ok(json) if options.json => json + "\n",
        Err(error) if options.json => {
            return Err(harness::Error::System {
                doing: "cannot write the figures as JSON",
                error: error.into(),
            });
        }
        _ => text,
    };
    Ok(Printed { out, skipped })
}

/// Runs the bench of this name, or lists all if there is none. Figures go to standard output,
/// everything else to standard error.
///
/// Returns the exit code: 0 if there are figures, whether they keep their bars or not; 1 if it
/// failed, or the figures could not be written; 2 if there is no such bench, or programs cannot be
/// chosen for it.
pub fn run(name: Option<&str>, options: &Options) -> u8 {
    let note = |text: String| {
        // If standard error is closed or full, there is no one left to tell.
        let _ = writeln!(io::stderr(), "{text}");
    };
    let text = match name {
        None if options.json => list_json(),
        None => list(),
        Some(name) => {
            let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
                note(format!(
                    "limosa: there is no bench {name:?}; there are:\n{}",
                    list().trim_end()
                ));
                return 2;
            };
            if !bench.chooses && !options.only.is_empty() {
                note(format!(
                    "limosa: bench {name} always measures all of its programs; leave --only out"
                ));
                return 2;
            }
            match (bench.measure)(options) {
                Ok(printed) => {
                    for skipped in &printed.skipped {
                        note(format!("{} was skipped: {}", skipped.name, skipped.reason));
                    }
                    printed.out
                }
                Err(error) => {
                    note(format!("limosa: bench {name}: {error}"));
                    return 1;
                }
            }
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => 0,
        // The reader had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            note(format!("limosa: cannot write the figures: {error}"));
            1
        }
    }
}

fn list() -> String {
    let lines = BENCHES
        .iter()
        .map(|bench| format!("{:<10} {}\n", bench.name, bench.about));
    lines.collect()
}

fn list_json() -> String {
    let benches = BENCHES.iter();
    let benches =
        benches.map(|bench| serde_json::json!({"name": bench.name, "about": bench.about}));
    serde_json::Value::from_iter(benches).to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_bench_is_a_usage_error() {
        assert_eq!(run(Some("speed"), &Options::default()), 2);
    }

    #[test]
    fn programs_are_chosen_only_where_there_are_several_and_by_their_names() {
        let only = |name: &str| Options {
            only: vec![name.to_owned()],
            ..Options::default()
        };
        assert_eq!(run(Some("start"), &only("lua")), 2);
        assert_eq!(run(Some("overhead"), &only("no such program")), 1);
        assert_eq!(run(Some("freeze"), &only("no such program")), 1);
    }

    #[test]
    fn every_bench_is_listed_on_a_line_of_its_own() {
        let list = list();
        assert_eq!(list.lines().count(), BENCHES.len());
        assert!(list.starts_with("overhead "));
    }
}
