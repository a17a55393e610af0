//! Precopy: when enough of a process's memory is at the target to freeze it.
//!
//! While a process runs, its memory is sent in rounds: first all of it, then what was written during
//! the round before. Each round is shorter than the last as long as the process writes more slowly
//! than the link carries. Like bailing a boat: it pays while more goes out than comes in, and is
//! over when what is left does not matter.

use std::time::Duration;

/// Rounds, at most: each of the last few would have to carry as much as the one before.
const MOST_ROUNDS: usize = 30;
/// How many rounds in a row may leave nearly as much as they found.
const MOST_VAIN_ROUNDS: u32 = 2;
/// What is as slow as this, in bytes per second, is not measured but guessed: nothing was sent.
const SLOWEST: f64 = 1.0;

/// One round, as the world tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Bytes sent.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Bytes of the pages that the process wrote meanwhile, which are to be sent again.
    pub dirty: u64,
}

impl Round {
    /// Bytes per second that went over the link.
    pub fn bandwidth(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64().max(1e-6)
    }

    /// Bytes per second of pages that the process wrote. Of one that writes the same pages again and
    /// again these count once for the round.
    pub fn dirty_rate(&self) -> f64 {
        self.dirty as f64 / self.took.as_secs_f64().max(1e-6)
    }
}

/// Why there is no further round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What is left fits the downtime that is wanted.
    Fits,
    /// The process writes as fast as the link carries.
    Diverges,
    /// There were as many as there may be.
    TooMany,
}

impl Ending {
    /// For people, if it is not as wanted.
    pub fn complaint(self) -> Option<&'static str> {
        match self {
            Ending::Fits => None,
            Ending::Diverges => Some(
                "the process writes its memory as fast as the link carries it: it was frozen for \
                 what was left",
            ),
            Ending::TooMany => {
                Some("after 30 rounds the process was frozen for what was left of its memory")
            }
        }
    }
}

/// The rounds of one move so far.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// How long the rest may take to be sent.
    patience: Duration,
    made: Vec<Round>,
    vain: u32,
}

impl Rounds {
    /// None yet. Of the downtime that is wanted half is for the pages that are left, and half for
    /// all that a move does beside.
    pub fn new(downtime: Duration) -> Rounds {
        Rounds {
            patience: downtime / 2,
            made: Vec::new(),
            vain: 0,
        }
    }

    /// The rounds so far.
    pub fn made(&self) -> &[Round] {
        &self.made
    }

    /// Bytes sent in all rounds.
    pub fn bytes(&self) -> u64 {
        self.made.iter().map(|round| round.bytes).sum()
    }

    /// Notes a round, and says whether it was the last one, and why.
    pub fn note(&mut self, round: Round) -> Option<Ending> {
        // Nearly as much is left as there was before: seven eighths.
        let vain = round.dirty > 0 && round.dirty >= round.bytes / 8 * 7;
        self.vain = if vain { self.vain + 1 } else { 0 };
        self.made.push(round);
        if self.rest(round.dirty) <= self.patience {
            Some(Ending::Fits)
        } else if self.vain >= MOST_VAIN_ROUNDS {
            Some(Ending::Diverges)
        } else if self.made.len() >= MOST_ROUNDS {
            Some(Ending::TooMany)
        } else {
            None
        }
    }

    /// How long so many bytes would be on their way: by what the longest round has shown, since the
    /// last ones are too short to tell.
    fn rest(&self, bytes: u64) -> Duration {
        let best = self.made.iter().max_by_key(|round| round.took);
        let bandwidth = best.map_or(0.0, Round::bandwidth).max(SLOWEST);
        Duration::try_from_secs_f64(bytes as f64 / bandwidth).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Rounds of a process with so much memory that writes so many bytes per second of other pages
    /// all the time, over a link that carries so many, until one is the last.
    fn run(memory: u64, dirty_rate: u64, bandwidth: u64) -> (Rounds, Ending) {
        let mut rounds = Rounds::new(Duration::from_millis(20));
        let mut left = memory;
        loop {
            let took = Duration::from_secs_f64(left as f64 / bandwidth as f64);
            let dirty = ((dirty_rate as f64 * took.as_secs_f64()) as u64).min(memory);
            let round = Round {
                bytes: left,
                took,
                dirty,
            };
            if let Some(ending) = rounds.note(round) {
                return (rounds, ending);
            }
            left = dirty;
        }
    }

    #[test]
    fn rounds_go_on_until_the_rest_fits_half_the_downtime() {
        let (rounds, ending) = run(1024 * MIB, 64 * MIB, 1024 * MIB);
        assert_eq!(ending, Ending::Fits);
        // 1 s, 62 ms; then 4 MiB are left, which take 4 ms.
        assert_eq!(rounds.made().len(), 2);
        assert_eq!(rounds.made()[1].dirty, 4 * MIB);
        assert_eq!(rounds.bytes(), 1088 * MIB);
    }

    #[test]
    fn a_process_that_does_not_write_needs_one_round() {
        let (rounds, ending) = run(1024 * MIB, 0, 100 * MIB);
        assert_eq!((rounds.made().len(), ending), (1, Ending::Fits));
    }

    #[test]
    fn a_process_that_writes_faster_than_the_link_carries_is_stopped_soon() {
        let (rounds, ending) = run(256 * MIB, 200 * MIB, 100 * MIB);
        assert_eq!((rounds.made().len(), ending), (2, Ending::Diverges));
        assert!(ending.complaint().is_some());
    }

    #[test]
    fn one_that_writes_the_same_few_pages_all_the_time_is_stopped_when_only_they_are_left() {
        let mut rounds = Rounds::new(Duration::from_millis(20));
        let mut bytes = 1024 * MIB;
        for expected in [None, None, Some(Ending::Diverges)] {
            let took = Duration::from_secs_f64(bytes as f64 / (100 * MIB) as f64);
            let dirty = 8 * MIB;
            let round = Round { bytes, took, dirty };
            assert_eq!(rounds.note(round), expected);
            bytes = dirty;
        }
    }

    #[test]
    fn rounds_that_bring_little_end_too() {
        let (rounds, ending) = run(100_000 * MIB, 86 * MIB, 100 * MIB);
        assert_eq!((rounds.made().len(), ending), (30, Ending::TooMany));
    }

    #[test]
    fn a_round_without_bytes_or_time_is_no_trouble() {
        let mut rounds = Rounds::new(Duration::ZERO);
        assert_eq!(rounds.note(Round::default()), Some(Ending::Fits));
        assert_eq!(rounds.made()[0].dirty_rate(), 0.0);
    }
}
