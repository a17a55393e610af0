//! CPU weights, and the nice values that stand for them.
//!
//! A weight is a share: of two processes that could both use a whole core, one with twice the
//! weight gets twice the time. The range is that of cgroup v2's `cpu.weight`, 1 to 10000, with 100
//! for everybody who is not told. The kernel gives threads time by their nice value, a step of
//! which is a factor of about 1.25; a weight becomes the nice value whose share is nearest, as in
//! cgroup's own `cpu.weight.nice`. So the kernel's load keeps to the weight within 13 %
//! (46 % for weight 1, the lightest that there is being 1.46).
//!
//! | weight | 1 | 5 | 10 | 25 | 50 | 100 | 125 | 150 | 200 | 300 | 1000 | 10000 |
//! |---|---|---|---|---|---|---|---|---|---|---|---|---|
//! | nice | 19 | 13 | 10 | 6 | 3 | 0 | -1 | -2 | -3 | -5 | -10 | -20 |
//!
//! They are relative to the node's own, so a node that was made nice is so with all its processes.
//! Values below the node's need the right to raise priorities (`CAP_SYS_NICE`, or `RLIMIT_NICE`); without
//! it, weights above 100 count as 100.

use rustix::process::Pid;

/// The kernel's load of each nice value, from -20 to 19; that of 0 is 1024 (`sched_prio_to_weight`
/// in kernel/sched/core.c).
const LOADS: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904,
    3906, 3121, 2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87,
    70, 56, 45, 36, 29, 23, 18, 15,
];
/// The load of nice 0, and the weight that it stands for.
const NORMAL_LOAD: f64 = 1024.0;
const NORMAL_WEIGHT: f64 = 100.0;

/// The share of a process in the cores, 1 to 10000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u16);

/// A number that is no weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a CPU weight is a number from 1 to 10000, not {0}; 100 is the normal one")]
pub struct NotAWeight(pub u32);

impl Default for Weight {
    fn default() -> Weight {
        Weight(100)
    }
}

impl TryFrom<u32> for Weight {
    type Error = NotAWeight;

    fn try_from(weight: u32) -> Result<Weight, NotAWeight> {
        match u16::try_from(weight) {
            Ok(small @ 1..=10_000) => Ok(Weight(small)),
            _ => Err(NotAWeight(weight)),
        }
    }
}

impl Weight {
    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The nice value whose share is nearest.
    pub fn nice(self) -> i32 {
        let wanted = f64::from(self.0) / NORMAL_WEIGHT;
        let distance = |load: u32| (f64::from(load) / NORMAL_LOAD / wanted).ln().abs();
        let nices = (-20..20).zip(LOADS);
        let nearest = nices.min_by(|(_, a), (_, b)| distance(*a).total_cmp(&distance(*b)));
        nearest.map_or(0, |(nice, _)| nice)
    }
}

/// Gives a thread of this OS process a nice value, or the nearest that there is. Fails where the
/// system does not allow it.
pub(super) fn set_nice(thread: Pid, nice: i32) -> rustix::io::Result<()> {
    // On Linux the call is about threads, whatever POSIX says.
    rustix::process::setpriority_process(Some(thread), nice.clamp(-20, 19))
}

/// The nice value of the calling thread.
pub(super) fn own_nice() -> i32 {
    let thread = Some(rustix::thread::gettid());
    rustix::process::getpriority_process(thread).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(number: u32) -> Weight {
        Weight::try_from(number).unwrap()
    }

    #[test]
    fn numbers_outside_the_range_are_refused() {
        for number in [0, 10_001, 65_636, u32::MAX] {
            assert_eq!(Weight::try_from(number), Err(NotAWeight(number)));
        }
        assert_eq!(weight(1).get(), 1);
        assert_eq!(weight(10_000).get(), 10_000);
    }

    #[test]
    fn the_documented_weights_have_the_documented_nice_values() {
        let table = [
            (1, 19),
            (5, 13),
            (10, 10),
            (25, 6),
            (50, 3),
            (100, 0),
            (125, -1),
            (150, -2),
            (200, -3),
            (300, -5),
            (1000, -10),
            (10_000, -20),
        ];
        for (number, nice) in table {
            assert_eq!(weight(number).nice(), nice, "weight {number}");
        }
    }

    #[test]
    fn more_weight_is_never_a_smaller_share_and_shares_keep_to_weights() {
        let mut last = 20;
        for number in 1..=10_000 {
            let nice = weight(number).nice();
            assert!(nice <= last, "weight {number}");
            last = nice;
            if (2..=9_500).contains(&number) {
                let load = f64::from(LOADS[(nice + 20) as usize]) / NORMAL_LOAD;
                let share = load / (f64::from(number) / NORMAL_WEIGHT);
                assert!((0.87..1.13).contains(&share), "weight {number}: {share}");
            }
        }
    }
}
