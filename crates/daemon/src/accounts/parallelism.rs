//! Thread-level parallelism: how many processes run at once while any does.
//!
//! TLP = Σ i·c_i / (1 − c_0), where c_i is the part of the time in which i run at once (Blake,
//! Dreslinski, Mudge and Flautner, ISCA 2010). It says how many cores the processes would use, and
//! idle time does not dilute it. What was a minute ago counts 1/e of what is now.

use std::time::{Duration, Instant};

/// Numbers of processes that are told apart; more count as so many.
const MOST: usize = 256;
/// The decay is applied in steps of this.
const STEP: Duration = Duration::from_secs(1);
const OVER_S: f64 = 60.0;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Parallelism {
    /// Seconds in which so many ran at once, decayed.
    seconds: Vec<f64>,
    running: usize,
    since: Option<Instant>,
    decayed: Option<Instant>,
}

impl Default for Parallelism {
    fn default() -> Parallelism {
        Parallelism {
            seconds: vec![0.0; MOST + 1],
            running: 0,
            since: None,
            decayed: None,
        }
    }
}

impl Parallelism {
    /// From `now` on, `running` run at once.
    pub fn running(&mut self, now: Instant, running: usize) {
        let Some(since) = self.since else {
            self.since = Some(now);
            self.decayed = Some(now);
            self.running = running.min(MOST);
            return;
        };
        if let Some(seconds) = self.seconds.get_mut(self.running) {
            *seconds += now.saturating_duration_since(since).as_secs_f64();
        }
        self.since = Some(now);
        self.running = running.min(MOST);
        if let Some(decayed) = self.decayed
            && now.saturating_duration_since(decayed) >= STEP
        {
            let factor = (-now.saturating_duration_since(decayed).as_secs_f64() / OVER_S).exp();
            self.seconds
                .iter_mut()
                .for_each(|seconds| *seconds *= factor);
            self.decayed = Some(now);
        }
    }

    /// TLP; 0 if nothing has run.
    pub fn average(&self) -> f64 {
        let counted = (0u32..).zip(&self.seconds);
        let weighted: f64 = counted.map(|(i, seconds)| f64::from(i) * seconds).sum();
        let busy: f64 = self.seconds.iter().skip(1).sum();
        if busy > 0.0 { weighted / busy } else { 0.0 }
    }
}

/// The cores that this parallelism advises: enough to run, on average, all that run at once.
pub fn advised_cores(parallelism: f64) -> u64 {
    // Between two counts by less than measuring tells apart is the lower one.
    (parallelism - 0.05).ceil().max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_does_not_count_and_the_rest_is_averaged_by_time() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut parallelism = Parallelism::default();
        assert_eq!(parallelism.average(), 0.0);
        parallelism.running(at(0), 0);
        parallelism.running(at(500), 1);
        parallelism.running(at(600), 4);
        parallelism.running(at(900), 0);
        parallelism.running(at(990), 0);
        // 0.1 s of 1 and 0.3 s of 4.
        assert!((parallelism.average() - 1.3 / 0.4).abs() < 1e-9);
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut parallelism = Parallelism::default();
        parallelism.running(at(0), 8);
        for second in 1..1000 {
            parallelism.running(at(second), 2);
        }
        assert!((parallelism.average() - 2.0).abs() < 0.01);
    }

    #[test]
    fn cores_are_advised_for_what_runs_at_once() {
        let table = [(0.0, 1), (1.0, 1), (1.02, 1), (1.2, 2), (3.25, 4), (8.0, 8)];
        for (parallelism, cores) in table {
            assert_eq!(advised_cores(parallelism), cores, "{parallelism}");
        }
    }
}
