//! How bad the weather is.

use std::ops::Range;
use std::time::Duration;

/// Delays and chances of failure. Chances are per occasion, of 1.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// A message's way, in microseconds.
    pub delay_us: Range<u64>,
    /// Until an end notices that its link is broken, in microseconds.
    pub notice_us: Range<u64>,
    /// Until a broken link is tried again, in microseconds.
    pub redial_us: Range<u64>,
    /// A local piece of work (freezing, compiling, thawing, writing to disk), in microseconds.
    pub work_us: Range<u64>,
    /// The way of an image or a snapshot, in microseconds.
    pub bulk_us: Range<u64>,
    /// A message breaks its link instead of arriving.
    pub break_link: f64,
    /// Image or snapshot do not arrive.
    pub break_bulk: f64,
    /// A local piece of work fails.
    pub fail_work: f64,
    /// A sealed process cannot be thawed again.
    pub fail_thaw: f64,
    /// A write to the directory's store fails.
    pub fail_store: f64,
    /// How fast a clock may run wrong.
    pub skew: f64,
}

impl Conditions {
    /// Nothing fails, and delays are those of one machine.
    pub fn calm() -> Self {
        Self {
            delay_us: 100..300,
            notice_us: 100..300,
            redial_us: 1_000..50_000,
            work_us: 500..2_000,
            bulk_us: 1_000..3_000,
            break_link: 0.0,
            break_bulk: 0.0,
            fail_work: 0.0,
            fail_thaw: 0.0,
            fail_store: 0.0,
            skew: 0.0,
        }
    }

    /// Everything fails now and then.
    pub fn stormy(random: &mut fastrand::Rng) -> Self {
        let mut chance = |most: f64| most * random.f64() * random.f64();
        Self {
            break_link: chance(0.03),
            break_bulk: chance(0.2),
            fail_work: chance(0.2),
            fail_thaw: chance(0.2),
            fail_store: chance(0.2),
            skew: chance(0.1),
            delay_us: 100..random.u64(500..60_000),
            notice_us: 100..random.u64(500..1_500_000),
            redial_us: 10_000..random.u64(20_000..500_000),
            work_us: 500..random.u64(1_000..200_000),
            bulk_us: 1_000..random.u64(2_000..400_000),
        }
    }

    /// One draw from a range of microseconds.
    pub fn draw(random: &mut fastrand::Rng, range: &Range<u64>) -> Duration {
        Duration::from_micros(random.u64(range.clone()))
    }
}
