//! The arithmetic of the report: percentiles, and how long a service was away at each move.
//!
//! *Downtime* of a move is the longest unanswered probe that overlaps it: the time from the instant
//! at which a probe was due (not when it could be sent: a prober that is held up by the service
//! must not flatter it) to its answer. The prober sends one request a millisecond on one kept
//! connection, whether or not earlier ones were answered.

use std::time::Duration;

/// One probe. All times count from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// When it was to be sent.
    pub due: Duration,
    /// When its answer was there; `None` if it never came.
    pub answered: Option<Duration>,
}

impl Probe {
    /// How long it went unanswered; what has no answer waits until `end`, the end of the run.
    pub fn wait(&self, end: Duration) -> Duration {
        self.answered.unwrap_or(end).saturating_sub(self.due)
    }
}

/// The longest wait among the probes that were unanswered at some instant of `from..=until`.
pub fn downtime(probes: &[Probe], from: Duration, until: Duration, end: Duration) -> Duration {
    probes
        .iter()
        .filter(|probe| probe.due <= until && probe.due + probe.wait(end) >= from)
        .map(|probe| probe.wait(end))
        .max()
        .unwrap_or_default()
}

/// The median, the 99th percentile and the maximum of a set of durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Half of the values are at most this.
    pub p50: Duration,
    /// 99 % of the values are at most this.
    pub p99: Duration,
    /// All values are at most this.
    pub max: Duration,
}

impl Quantiles {
    /// Of the given values; zero if there are none.
    pub fn of(values: impl IntoIterator<Item = Duration>) -> Quantiles {
        let mut sorted: Vec<Duration> = values.into_iter().collect();
        sorted.sort_unstable();
        Quantiles {
            p50: nearest_rank(&sorted, 50),
            p99: nearest_rank(&sorted, 99),
            max: sorted.last().copied().unwrap_or_default(),
        }
    }
}

/// The smallest value that at least `percent` of the values do not exceed.
fn nearest_rank(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn probe(due: u64, answered: u64) -> Probe {
        Probe {
            due: ms(due),
            answered: Some(ms(answered)),
        }
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let quantiles = Quantiles::of((1..=200).rev().map(ms));
        assert_eq!(quantiles.p50, ms(100));
        assert_eq!(quantiles.p99, ms(198));
        assert_eq!(quantiles.max, ms(200));
        let one = Quantiles::of([ms(7)]);
        assert_eq!((one.p50, one.p99, one.max), (ms(7), ms(7), ms(7)));
        let twenty = Quantiles::of((1..=20).map(ms));
        assert_eq!((twenty.p50, twenty.p99), (ms(10), ms(20)));
        assert_eq!(Quantiles::of([]), Quantiles::default());
    }

    #[test]
    fn downtime_is_the_longest_probe_that_overlaps_the_move() {
        let end = ms(1000);
        let probes = [
            probe(0, 90),    // over before the move: however long, not its doing
            probe(95, 101),  // sent before the freeze, answered after it
            probe(100, 130), // sent while frozen
            probe(101, 130),
            probe(141, 999), // sent after it
        ];
        assert_eq!(downtime(&probes, ms(100), ms(140), end), ms(30));
        assert_eq!(downtime(&probes, ms(100), ms(141), end), ms(858));
        assert_eq!(downtime(&probes, ms(91), ms(94), end), ms(0));
        assert_eq!(downtime(&probes, ms(10), ms(20), end), ms(90));
        assert_eq!(downtime(&[], ms(0), ms(1000), end), ms(0));
    }

    #[test]
    fn a_probe_without_an_answer_waits_until_the_end_of_the_run() {
        let probes = [
            probe(5, 6),
            Probe {
                due: ms(10),
                answered: None,
            },
        ];
        assert_eq!(downtime(&probes, ms(400), ms(410), ms(1000)), ms(990));
    }
}
