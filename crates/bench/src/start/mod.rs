//! `limosa bench start`: how fast a program is started.
//!
//! A start is measured from the decision to start a loaded image to the program's first host call:
//! its memory, instance, kernel, stack and fiber are made in between. Times are by the wall clock,
//! of one thread.
//!
//! * `used`: all that it takes has been used by an earlier process of the image and put back. The
//!   process is killed at its first host call, and its memory given back: `end`.
//! * `new`: everything is made anew, since all earlier processes still live; but for the stack of a
//!   program that does not wait, which is killed at that call, and keeps all else.
//! * `warm`: from a snapshot taken where the program waited for the first time, made into a
//!   template, to the host call that it waited in, issued again.
//! * `starts`: start to first host call, kill and end, over and over, on one thread and on two at a
//!   time. `per_second` is per second of CPU time, user and system, of those threads; so it is per
//!   core, whoever else uses the machine.
//! * `from_disk`: the first start in a new engine whose cache has the program's code: reading the
//!   module, the pass, loading the code, and the start.
//! * `plain`: the program as given in Wasmtime, to its first host call, which fails, so that it
//!   ends; with memories and stacks made on demand and initialised copy-on-write; `new` with all
//!   earlier instances still there.

mod cycles;
mod plain;
mod processes;
mod report;
mod world;

use crate::harness::{self, Error, Machine, Skipped};
use crate::progress::Progress;
pub(crate) use report::Report;
use report::Row;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const HTTPD: &[u8] = include_bytes!("../../../../guests/httpd/httpd.wasm");

/// How much is measured.
#[derive(Clone, Copy)]
struct Extent {
    /// Starts of each kind.
    samples: usize,
    /// Processes that live at a time.
    alive: usize,
    /// How long starts are counted.
    count: Duration,
    /// First starts from disk.
    loads: usize,
}

const FULL: Extent = Extent {
    samples: 5000,
    alive: 400,
    count: Duration::from_millis(1500),
    loads: 7,
};
const QUICK: Extent = Extent {
    samples: 400,
    alive: 60,
    count: Duration::from_millis(100),
    loads: 2,
};

/// A program that is started.
#[derive(Clone)]
struct Program {
    name: &'static str,
    wasm: Arc<[u8]>,
    args: &'static [&'static str],
    listener: bool,
}

/// Programs that are there, and those that are not.
fn programs(folder: Option<&Path>) -> (Vec<Program>, Vec<Skipped>) {
    let mut programs = vec![Program {
        name: "httpd",
        wasm: HTTPD.into(),
        args: &["httpd"],
        listener: true,
    }];
    let mut skipped = Vec::new();
    for name in ["lua", "quickjs"] {
        match harness::third_party_module(folder, name) {
            Ok(wasm) => programs.push(Program {
                name,
                wasm,
                args: &["program", "1"],
                listener: false,
            }),
            Err(reason) => skipped.push(Skipped { name, reason }),
        }
    }
    (programs, skipped)
}

/// Measures everything that is there.
pub(crate) fn measure(quick: bool) -> Result<Report, Error> {
    let extent = if quick { QUICK } else { FULL };
    let folder = harness::third_party_folder();
    let (programs, mut skipped) = programs(folder.as_deref());
    let progress = Progress::new(programs.len() as u64 * 2);
    let mut rows = Vec::new();
    for program in &programs {
        let say = |what: &str| progress.say(format!("{}: {what}", program.name));
        say("processes");
        let processes = match processes::measure(program, extent)? {
            Ok(processes) => processes,
            Err(reason) => {
                let name = program.name;
                skipped.push(Skipped { name, reason });
                continue;
            }
        };
        progress.step();
        say("plain");
        let plain = plain::measure(program, extent)?;
        progress.step();
        rows.push(Row::new(program.name, processes, plain));
    }
    progress.finish();
    Ok(Report::new(rows, skipped, quick, Machine::of_this()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_started_in_every_way() {
        let extent = Extent {
            samples: 20,
            alive: 5,
            count: Duration::from_millis(1),
            loads: 1,
        };
        let (programs, _) = programs(None);
        let httpd = &programs[0];
        let processes = processes::measure(httpd, extent).unwrap().unwrap();
        assert_eq!((processes.used_us.len(), processes.new_us.len()), (20, 5));
        assert!(processes.used_us.iter().all(|time| *time > 0.0));
        assert!(processes.warm_us.is_some_and(|times| times.len() == 20));
        assert!(processes.one.starts > 0 && processes.two.starts > 0);
        let plain = plain::measure(httpd, extent).unwrap();
        assert_eq!(plain.start_us.len(), 20);
    }
}
