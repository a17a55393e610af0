//! `limosa bench fairness`: what computes for ever leaves to others.
//!
//! * `answers`: an HTTP server is asked every few milliseconds over one kept connection, counted
//!   from the instant at which each request was due; while nothing else runs, and while two endless
//!   loops per core do. The peer, in the same run: the same server compiled natively, beside as
//!   many endless loops that are OS processes.
//! * `shares`: endless loops of four weights on one core; which share each gets of what all
//!   together get, by the node's accounts.

mod answers;
mod report;
mod shares;

use crate::harness::{Error, Machine};
use crate::progress::Progress;
use answers::Answers;
pub(crate) use report::Report;
use std::time::Duration;

/// Computes for ever.
const LOOP: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (loop $again (br $again))))"#;

fn endless() -> Result<Vec<u8>, Error> {
    wat::parse_str(LOOP).map_err(|error| Error::System {
        doing: "cannot assemble a loop",
        error: std::io::Error::other(error.to_string()),
    })
}

/// Measures everything.
pub(crate) fn measure(quick: bool) -> Result<Report, Error> {
    let (requests, shares) = match quick {
        true => (300, Duration::from_secs(4)),
        false => (2000, Duration::from_secs(20)),
    };
    let machine = Machine::of_this();
    let progress = Progress::new(5);
    let mut skipped = Vec::new();
    progress.say("answers of a process".into());
    let process = Answers::of_process(machine.cores, requests, &progress)?;
    progress.say("answers of the native peer".into());
    let native = match Answers::of_native(machine.cores, requests, &progress)? {
        Ok(native) => Some(native),
        Err(reason) => {
            skipped.push(reason);
            None
        }
    };
    progress.say("shares by weight".into());
    let shares = shares::measure(shares)?;
    progress.finish();
    Ok(Report::new(process, native, shares, skipped, machine))
}
