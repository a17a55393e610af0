//! The search for the owner: one question at a time, and between questions a pause that doubles.
//!
//! ```text
//!          ask()                     answered(), or patience() is over
//!  Resting ─────▶ Asking ──────────────────────────▶ Resting
//!     │             ▲
//!     └──pause()──▶ Pausing: asks again when the pause is over
//! ```

use crate::Config;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Resting,
    Asking { until: Duration },
    Pausing { until: Duration },
}

/// The search for the owner.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    state: State,
    /// Questions asked since the last success.
    tries: u32,
}

impl Search {
    pub fn new() -> Search {
        Search {
            state: State::Resting,
            tries: 0,
        }
    }

    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Whether a question is to be asked now: not while one is out.
    pub fn ask(&mut self, now: Duration, config: &Config) -> bool {
        if let State::Asking { .. } = self.state {
            return false;
        }
        self.tries = self.tries.saturating_add(1);
        self.state = State::Asking {
            until: now + config.lookup_timeout,
        };
        true
    }

    /// The answer has come. False if nothing was asked.
    pub fn answered(&mut self) -> bool {
        let asked = matches!(self.state, State::Asking { .. });
        if asked {
            self.state = State::Resting;
        }
        asked
    }

    /// Asks again after a pause, which is longer the more was asked in vain.
    pub fn pause(&mut self, now: Duration, config: &Config) {
        if let State::Resting = self.state {
            let doublings = self.tries.saturating_sub(1).min(16);
            let pause = config.first_pause * (1 << doublings);
            let until = now + pause.min(config.longest_pause);
            self.state = State::Pausing { until };
        }
    }

    /// The pause, if it is one, is cut short.
    pub fn hurry(&mut self, now: Duration) {
        if let State::Pausing { until } = &mut self.state {
            *until = now;
        }
    }

    /// Found: the next search begins afresh.
    pub fn reset(&mut self) {
        *self = Search::new();
    }

    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Resting => None,
            State::Asking { until } | State::Pausing { until } => Some(until),
        }
    }

    /// What has run out by now.
    pub fn expire(&mut self, now: Duration) -> Expired {
        match self.state {
            State::Asking { until } if until <= now => {
                self.state = State::Resting;
                Expired::Question
            }
            State::Pausing { until } if until <= now => {
                self.state = State::Resting;
                Expired::Pause
            }
            _ => Expired::Nothing,
        }
    }
}

/// What has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    Nothing,
    /// No answer came.
    Question,
    /// It is time to ask again.
    Pause,
}
