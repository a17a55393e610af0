//! Response times over the run, reduced to what a plot can show.

use super::downtime::{Probe, Quantiles};
use std::time::Duration;

/// What is plotted.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Per slice of time: its middle in seconds, and median and longest response in milliseconds.
    pub slices: Vec<Slice>,
    /// Seconds at which a move was asked for.
    pub moves: Vec<f64>,
    /// Length of the run in seconds.
    pub seconds: f64,
}

/// One slice of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slice {
    /// Its middle, in seconds.
    pub at: f64,
    /// Median response in milliseconds.
    pub median: f64,
    /// Longest response in milliseconds.
    pub longest: f64,
}

/// Shorter than this is drawn as this: the scale is logarithmic.
pub const FLOOR_MS: f64 = 0.05;

impl Curve {
    /// Cuts the time from `start` to `end` into `slices` slices.
    pub fn new(
        probes: &[Probe],
        moves: &[Duration],
        start: Duration,
        end: Duration,
        slices: usize,
    ) -> Curve {
        let seconds = end.saturating_sub(start).as_secs_f64().max(1e-3);
        let slices = slices.max(1);
        let mut waits = vec![Vec::new(); slices];
        for probe in probes {
            let Some(since) = probe.due.checked_sub(start) else {
                continue;
            };
            let index = (since.as_secs_f64() / seconds * slices as f64) as usize;
            if let Some(slice) = waits.get_mut(index) {
                slice.push(probe.wait(end));
            }
        }
        let reduce = |(index, waits): (usize, Vec<Duration>)| {
            let quantiles = Quantiles::of(waits.iter().copied());
            let shown = |value: Duration| (value.as_secs_f64() * 1e3).max(FLOOR_MS);
            (!waits.is_empty()).then(|| Slice {
                at: (index as f64 + 0.5) * seconds / slices as f64,
                median: shown(quantiles.p50),
                longest: shown(quantiles.max),
            })
        };
        let since_start = |at: &Duration| at.saturating_sub(start).as_secs_f64();
        Curve {
            slices: waits.into_iter().enumerate().filter_map(reduce).collect(),
            moves: moves.iter().map(since_start).collect(),
            seconds,
        }
    }

    /// The longest response in milliseconds.
    pub fn longest(&self) -> f64 {
        let longest = self.slices.iter().map(|slice| slice.longest);
        longest.fold(FLOOR_MS, f64::max)
    }

    /// The power of ten above the longest response, at least 10 ms.
    pub fn ceiling(&self) -> f64 {
        10f64.powf(self.longest().log10().ceil()).max(10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_hold_median_and_longest_of_their_time() {
        let ms = Duration::from_millis;
        let probe = |due, wait| Probe {
            due: ms(due),
            answered: Some(ms(due + wait)),
        };
        let probes = [
            probe(50, 900),
            probe(100, 1),
            probe(120, 2),
            probe(140, 30),
            probe(290, 0),
        ];
        let curve = Curve::new(&probes, &[ms(130)], ms(100), ms(300), 4);
        assert_eq!(curve.slices.len(), 2, "{:?}", curve.slices);
        let first = curve.slices[0];
        assert!((first.at - 0.025).abs() < 1e-9);
        assert_eq!((first.median, first.longest), (2.0, 30.0));
        assert_eq!(curve.slices[1].longest, FLOOR_MS);
        assert!((curve.moves[0] - 0.03).abs() < 1e-9);
        assert_eq!(curve.ceiling(), 100.0);
    }
}
