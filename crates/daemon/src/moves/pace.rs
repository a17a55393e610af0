//! How fast a move may send: a limit in bytes per second that holds over any while longer than a
//! moment, however late timers are.

use std::time::{Duration, Instant};

/// How far it may fall behind and catch up again: longer than a timer is late, and short enough that
/// nobody notices a burst.
const MOMENT: Duration = Duration::from_millis(50);

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes per second.
    limit: Option<u64>,
    /// When all that was sent would be over at that rate.
    over: Option<Instant>,
}

impl Pace {
    /// At most so many bytes per second; without a limit as fast as the link carries.
    pub fn new(limit: Option<u64>) -> Pace {
        Pace { limit, over: None }
    }

    /// So many bytes were sent, from `began` until now. Says when to go on, if that is not now.
    pub fn next(&mut self, began: Instant, now: Instant, bytes: u64) -> Option<Instant> {
        let limit = self.limit?.max(1);
        let takes = Duration::from_secs_f64(bytes as f64 / limit as f64);
        let earliest = began.checked_sub(MOMENT).unwrap_or(began);
        let over = self.over.unwrap_or(began).max(earliest) + takes;
        self.over = Some(over);
        (over > now).then_some(over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: u64 = 256 << 10;

    #[test]
    fn it_holds_within_a_tenth_however_late_timers_are() {
        let mut late_us = [0, 1999, 300, 50, 1200, 0, 900].into_iter().cycle();
        for limit in [100 << 10, 1 << 20, 10 << 20, 100 << 20, 1 << 30] {
            let mut pace = Pace::new(Some(limit));
            let start = Instant::now();
            let (mut now, mut sent) = (start, 0);
            while now < start + Duration::from_secs(20) {
                sent += PART;
                // To send takes time too, but less than it may.
                let began = now;
                now += Duration::from_secs_f64(PART as f64 / limit as f64 / 2.0);
                if let Some(next) = pace.next(began, now, PART) {
                    now = now.max(next) + Duration::from_micros(late_us.next().unwrap());
                }
            }
            let rate = sent as f64 / (now - start).as_secs_f64();
            let ratio = rate / limit as f64;
            assert!((0.9..=1.1).contains(&ratio), "{limit} per second: {ratio}");
        }
    }

    #[test]
    fn who_has_paused_does_not_catch_up() {
        let mut pace = Pace::new(Some(1 << 20));
        let start = Instant::now();
        assert!(pace.next(start, start, PART).is_some());
        let later = start + Duration::from_secs(60);
        let sent = (1..100).take_while(|_| pace.next(later, later, PART).is_none());
        assert_eq!(sent.count(), 0);
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let mut pace = Pace::new(None);
        let now = Instant::now();
        assert_eq!(pace.next(now, now, u64::MAX), None);
    }
}
