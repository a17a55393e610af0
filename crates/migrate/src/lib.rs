//! Moves a process: the source and target machines of one move.
//!
//! ```text
//!   source S                                 directory                       target T
//!   Offering    --- Offer ---------------------------------------------->    Considering
//!   Preparing   <-- Accept ----------------------------------------------    Preparing
//!               === image, if asked for ================================>      compiles
//!   Precopying  <-- Prepared --------------------------------------------    Receiving
//!      (rounds) === memory, while the process runs =====================>      lays it down
//!   Checking    --- Get ------------------------> reachable, still S
//!   Freezing      freezes the process, seals its streams
//!   Sealed      === memory not yet sent, snapshot ======================>      thaws, standby
//!   Proposing   <-- Ready -----------------------------------------------    Ready
//!               --- {S,e,a} -> {T,e+1,0} -------> grants
//!   Granted     --- Commit --------------------------------------------->    Activating
//!                                                 <- {T,e+1,0} -> {T,e+1,1} -
//!   Over        <-- Running ---------------------------------------------    Over: it runs
//! ```
//!
//! The proposal is the watershed. Before it, every failure ends the move at once, the process runs
//! on at the source, and the source says why. After it, nobody guesses: each side asks the
//! directory until it knows, and the process stays frozen until then. A grant that nobody has run
//! under can be taken back, by compare-and-set like everything else.
//!
//! Precopying is left out where the process is to be stopped at once, or has little memory.
//!
//! The machines know ids and amounts, not WebAssembly and not links. They are told what happened
//! (`handle`), what time it is, and asked what to do next (`poll_action`).

pub mod rounds;
pub mod source;
pub mod target;

use std::time::Duration;
use wire::api::Strategy;
use wire::directory::{Answer, Operation};

/// How long each side waits for the other, and for its own world, in every state before the
/// proposal. After it there is no giving up, only asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// For the target to say yes or no.
    pub offer: Duration,
    /// For the image to be sent and compiled at the target.
    pub prepare: Duration,
    /// For the directory to say that it can be reached.
    pub check: Duration,
    /// For the process to reach a point where it can be frozen.
    pub freeze: Duration,
    /// For memory and snapshot to be sent and thawed, besides what their size needs.
    pub restore: Duration,
    /// What sending is granted for the size of what is sent, in bytes per second.
    pub least_bytes_per_second: u64,
    /// What a link is taken to carry before anything was sent over it, in bytes per second.
    pub likely_bytes_per_second: u64,
    /// For the target to report that it runs what it was granted; then the source takes it back
    /// if it still can. Also how long a target that is ready waits for the source's decision
    /// before it asks the directory.
    pub commit: Duration,
    /// Between two tries to say or ask something that may have been lost.
    pub retry: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            offer: Duration::from_secs(5),
            prepare: Duration::from_secs(120),
            check: Duration::from_secs(3),
            freeze: Duration::from_secs(10),
            restore: Duration::from_secs(10),
            least_bytes_per_second: 16 << 20,
            likely_bytes_per_second: 1 << 30,
            commit: Duration::from_secs(5),
            retry: Duration::from_millis(500),
        }
    }
}

impl Config {
    /// How long so many bytes may be on their way.
    fn restore_of(&self, bytes: u64, plan: Plan) -> Duration {
        let half = plan.bandwidth.map_or(u64::MAX, |limit| limit / 2);
        let least = self.least_bytes_per_second.min(half).max(1);
        self.restore + Duration::from_secs(bytes / least)
    }
}

/// How a process is to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In which order its memory goes.
    pub strategy: Strategy,
    /// For how long it may stand still, as far as that depends on its memory.
    pub downtime: Duration,
    /// The most bytes per second that may be sent.
    pub bandwidth: Option<u64>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            strategy: Strategy::Auto,
            downtime: Duration::from_millis(20),
            bandwidth: None,
        }
    }
}

impl Plan {
    /// Whether so much memory is sent while the process runs.
    fn precopies(&self, config: &Config, bytes: u64) -> bool {
        match self.strategy {
            Strategy::Stop => false,
            Strategy::Precopy => true,
            Strategy::Auto => {
                let likely = config.likely_bytes_per_second;
                let likely = self.bandwidth.map_or(likely, |limit| limit.min(likely));
                let patience = self.downtime.as_secs_f64() / 2.0;
                bytes as f64 > patience * likely as f64
            }
        }
    }
}

/// A question to the directory. An answer counts only for the latest question of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Tells the answers apart.
    pub number: u32,
    /// What is asked.
    pub operation: Operation,
    /// When to give up and answer `None`; if absent, ask until there is an answer.
    pub patience: Option<Duration>,
}

/// The directory's answer to a [`Question`], or `None` when patience ran out.
pub type Reply = Option<Answer>;

/// An enum of states with a list of all of them and their names, so that tests and displays
/// cannot miss one.
macro_rules! states {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$state_doc:meta])* $state:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$state_doc])* $state,)* }

        impl $name {
            /// All states, in the order of a move that succeeds.
            pub const ALL: &[Self] = &[$(Self::$state,)*];

            /// Its name, for progress displays and logs.
            pub fn name(self) -> &'static str {
                match self { $(Self::$state => $text,)* }
            }
        }
    };
}
use states;
