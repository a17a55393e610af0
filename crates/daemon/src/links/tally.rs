//! Log lines that strangers can cause: the first of a minute is written, the others are counted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No more than one line in this time.
const QUIET: Duration = Duration::from_secs(60);

/// Counts what happens and says when to write a line about it.
#[derive(Debug)]
pub struct Tally(Mutex<Counted>);

#[derive(Debug)]
struct Counted {
    /// When the last line was written.
    written: Option<Instant>,
    /// What has happened since.
    since: u64,
}

impl Tally {
    /// Nothing has happened yet.
    pub const fn new() -> Tally {
        Tally(Mutex::new(Counted {
            written: None,
            since: 0,
        }))
    }

    /// It has happened once more. If a line is due: how many were not written about.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |at: Instant| now.saturating_duration_since(at) < QUIET;
        if counted.written.is_some_and(quiet) {
            counted.since += 1;
            return None;
        }
        counted.written = Some(now);
        Some(std::mem::take(&mut counted.since))
    }
}

impl Default for Tally {
    fn default() -> Tally {
        Tally::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_minute_that_says_how_many() {
        let tally = Tally::new();
        let start = Instant::now();
        assert_eq!(tally.due(start), Some(0));
        for _ in 0..1000 {
            assert_eq!(tally.due(start + QUIET / 2), None);
        }
        assert_eq!(tally.due(start + QUIET), Some(1000));
        assert_eq!(tally.due(start + QUIET), None);
        assert_eq!(tally.due(start + 2 * QUIET), Some(1));
    }
}
