//! Load averages: how many processes were runnable, on average over 1, 5 and 15 minutes.
//!
//! Like Linux's: a sample every five seconds, and exponential decay, like a memory in which what
//! was a minute ago counts 1/e of what is now. Between the times at which it is told anything,
//! what was last told is taken to have gone on; an executor that sleeps says nothing, so it is
//! told 0 when it goes to sleep.

use std::time::Duration;

/// Seconds between samples.
const SAMPLE_S: f64 = 5.0;
/// Seconds over which the averages are taken.
const OVER_S: [f64; 3] = [60.0, 300.0, 900.0];

/// See the module's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    averages: [f64; 3],
    sampled: Duration,
}

impl Load {
    /// The averages at the time `now` (since whenever), `runnable` being so many at this moment.
    /// Samples that were missed count as if nothing had been runnable: who has something to run
    /// does not miss any.
    pub fn sample(&mut self, now: Duration, runnable: usize) -> [f64; 3] {
        let passed = now.saturating_sub(self.sampled).as_secs_f64();
        let samples = (passed / SAMPLE_S).floor();
        if samples >= 1.0 {
            for (average, over) in self.averages.iter_mut().zip(OVER_S) {
                let decay = (-SAMPLE_S / over).exp();
                *average *= decay.powf(samples);
                *average += runnable as f64 * (1.0 - decay);
            }
            self.sampled += Duration::from_secs_f64(samples * SAMPLE_S);
        }
        self.averages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_always_runnable_is_approached_by_each_average_in_its_time() {
        let mut load = Load::default();
        for second in (5..=60).step_by(5) {
            load.sample(at(second), 4);
        }
        let [one, five, fifteen] = load.averages;
        assert!((one - 4.0 * (1.0 - (-1.0f64).exp())).abs() < 1e-9, "{one}");
        assert!(five < one && fifteen < five && fifteen > 0.0);
        for second in (65..=36_000).step_by(5) {
            load.sample(at(second), 4);
        }
        assert!(
            load.averages
                .iter()
                .all(|average| (average - 4.0).abs() < 1e-6)
        );
    }

    #[test]
    fn asking_often_changes_nothing_and_silence_decays() {
        let mut load = Load::default();
        load.sample(at(5), 10);
        let told = load.averages;
        for milliseconds in 5_001..9_999 {
            assert_eq!(load.sample(Duration::from_millis(milliseconds), 50), told);
        }
        let later = load.sample(at(65), 0);
        assert!((later[0] - told[0] * (-1.0f64).exp()).abs() < 1e-9);
        assert!(load.sample(at(1_000_000), 0)[2] < 1e-6);
    }
}
