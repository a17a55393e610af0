//! One client connection at its anchor.
//!
//! ```text
//!                Locate                 Open                Active
//!  new() ──▶ Connecting ──Located──▶ Opening ────────────▶ Forwarding ◀───────────┐
//!               ▲   │  NotHere, LinkDown, timeout │          │  │                  │
//!               └───┼─────────────────────────────┘  LinkDown│  │both directions  │ Active (after
//!                   │                                NotHere │  │have ended       │ Resync, or by
//!                   │ Unknown, Refused,             NodeDead ▼  ▼                 │ the new owner's
//!                   │ too many tries                   Holding  Draining ─────────┤ Resume)
//!                   ▼                                     │        │              │
//!                 Closed ◀────────────────────────────────┴────────┘              │
//!                      Unknown, hold timeout, reset        Drained        Holding ┘
//! ```
//!
//! - *Connecting*: nobody knows yet where the process is. Bounded tries, with pauses that double.
//! - *Opening*: its owner was asked to take the connection.
//! - *Forwarding*: bytes flow. *Draining*: the same, both directions have ended and the last bytes and
//!   acknowledgements are on their way.
//! - *Holding*: the owner cannot be reached, or is no longer the owner. The client stays connected,
//!   its bytes are held up to a bound, then its reading stops. Ends when the stream flows again or
//!   after the hold timeout.
//! - *Closed*: for good; no effect follows.
//!
//! The stream's end has the fence: it refuses frames of a former owner whatever is decided here. What
//! is decided here never goes back either: an owner of an earlier epoch than the one known is news to
//! nobody. `Open` goes out only before the stream was ever active, `Resync` only after.

use crate::search::{Expired, Search};
use std::collections::VecDeque;
use std::time::Duration;
use wire::frame::ResetReason;
use wire::{Epoch, NodeId};

/// Times and bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long the directory may take to answer.
    pub lookup_timeout: Duration,
    /// How long an owner may take to answer an `Open` or `Resync`.
    pub answer_timeout: Duration,
    /// The pause after the first question in vain.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// Questions to the directory before a connection that was never opened is refused.
    pub max_tries: u32,
    /// How long a client is held.
    pub hold_timeout: Duration,
    /// How long it is held, or let wait before anything was opened, at most once the owner's node is
    /// taken to be dead.
    pub dead_timeout: Duration,
    /// How long the last bytes may take once both directions have ended.
    pub drain_timeout: Duration,
    /// Bytes of a client that are held before its reading stops.
    pub hold_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            lookup_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(2),
            first_pause: Duration::from_millis(10),
            longest_pause: Duration::from_millis(500),
            max_tries: 10,
            hold_timeout: Duration::from_secs(30),
            dead_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(60),
            hold_bytes: 256 * 1024,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The directory: this node owns the process, under this epoch.
    Located {
        /// The owner.
        owner: NodeId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The directory: there is no such process.
    Unknown,
    /// The directory cannot be reached.
    Unavailable,
    /// The stream's end is active with this owner: it was opened, or resynchronised, or it has
    /// followed a new owner's `Resume`.
    Active {
        /// The owner.
        owner: NodeId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A node says that it does not have the process.
    NotHere {
        /// The node.
        from: NodeId,
        /// As of when.
        epoch: Epoch,
    },
    /// There is a link to this node.
    LinkUp(NodeId),
    /// The link to this node is gone.
    LinkDown(NodeId),
    /// This node is taken to be dead.
    NodeDead(NodeId),
    /// The process has ended and has nothing more to deliver.
    ProcessGone,
    /// The client sends no more.
    ClientEnded,
    /// The client's connection broke.
    ClientReset,
    /// The process sends no more.
    StreamEnded,
    /// The stream was reset.
    StreamReset(ResetReason),
    /// While holding: that many bytes of the client wait in all.
    Waiting(u64),
    /// Both directions have ended, the client has everything, and so has the process.
    Drained,
    /// The time that `poll_timeout` named has come.
    Timeout,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the directory who owns the process.
    Locate,
    /// Open the stream at this node.
    Open {
        /// The owner.
        to: NodeId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Resynchronise the stream with this node.
    Resync {
        /// The owner.
        to: NodeId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Read from the client, or stop reading.
    ReadClient(bool),
    /// Break the stream; where the owner cannot be reached it will hear of it later.
    ResetStream(ResetReason),
    /// The connection was never opened: close it at once.
    Refuse,
    /// Close the client's connection.
    CloseClient(Close),
    /// For logs and figures.
    Report(Report),
}

/// How to close a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// In order: what has arrived for it is written first.
    Fin,
    /// So that it notices that something is missing. What has arrived for it is written first, as far
    /// as it takes it at once.
    Reset,
}

/// For logs and figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The stream is open.
    Opened {
        /// Since the client connected.
        after: Duration,
    },
    /// The client is being held.
    Holding(Held),
    /// The stream flows again.
    Resumed {
        /// The owner now.
        owner: NodeId,
        /// Its epoch.
        epoch: Epoch,
        /// How long the client was held.
        held: Duration,
    },
    /// The connection is over.
    Closed(Ended),
}

/// Why a client is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The link to the owner is gone.
    LinkDown,
    /// The node that was the owner no longer is.
    NotHere,
    /// The owner's node is taken to be dead.
    NodeDead,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides have ended it and have everything.
    Done,
    /// The client broke it.
    ClientReset,
    /// The stream was reset.
    StreamReset(ResetReason),
    /// There is no such process (any more).
    ProcessGone,
    /// The process was not found, or did not answer, in as many tries as there may be.
    NotFound,
    /// The owner stayed away for too long.
    HoldTimeout,
    /// The last bytes took too long.
    DrainTimeout,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The owner is looked for.
    Connecting,
    /// The owner was asked.
    Opening,
    /// Bytes flow.
    Forwarding,
    /// The owner is away.
    Holding,
    /// Both directions have ended, the last bytes flow.
    Draining,
    /// Over.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    node: NodeId,
    epoch: Epoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Opening {
        until: Duration,
    },
    /// Draining if `until` is set.
    Forwarding {
        until: Option<Duration>,
    },
    Holding {
        since: Duration,
        until: Duration,
        /// A `Resync` is out, and how long it may take.
        answer: Option<Duration>,
    },
    Closed,
}

/// One client connection.
#[derive(Clone, Debug)]
pub struct Connection {
    config: Config,
    since: Duration,
    phase: Phase,
    search: Search,
    /// The latest owner known.
    owner: Option<Owner>,
    /// The owner that said that it is not there, until the directory names it once more.
    absent: Option<Owner>,
    /// The stream was opened.
    opened: bool,
    /// It was not, and its owner's node is dead: then it is refused at this time.
    refuse_at: Option<Duration>,
    reading: bool,
    client_ended: bool,
    stream_ended: bool,
    effects: VecDeque<Effect>,
}

impl Connection {
    /// A client has connected. `owner` is what the node remembers of the process's owner, if
    /// anything: that saves a question.
    pub fn new(now: Duration, owner: Option<(NodeId, Epoch)>, config: Config) -> Connection {
        let mut connection = Connection {
            config,
            since: now,
            phase: Phase::Connecting,
            search: Search::new(),
            owner: None,
            absent: None,
            opened: false,
            refuse_at: None,
            reading: false,
            client_ended: false,
            stream_ended: false,
            effects: VecDeque::new(),
        };
        match owner {
            Some((node, epoch)) => connection.open(now, Owner { node, epoch }),
            None => connection.locate(now),
        }
        connection
    }

    /// A connection that the process has opened, by way of this anchor, and that is made now. The
    /// process is where the stream's end says.
    pub fn made(now: Duration, owner: NodeId, epoch: Epoch, config: Config) -> Connection {
        let mut connection = Connection::new(now, Some((owner, epoch)), config);
        connection.effects.clear();
        connection.active(now, Owner { node: owner, epoch });
        connection
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Connecting => State::Connecting,
            Phase::Opening { .. } => State::Opening,
            Phase::Forwarding { until: None } => State::Forwarding,
            Phase::Forwarding { until: Some(_) } => State::Draining,
            Phase::Holding { .. } => State::Holding,
            Phase::Closed => State::Closed,
        }
    }

    /// The owner that bytes flow to, if they flow.
    pub fn forwarding_to(&self) -> Option<(NodeId, Epoch)> {
        let flows = matches!(self.phase, Phase::Forwarding { .. });
        let owner = self.owner.filter(|_| flows);
        owner.map(|owner| (owner.node, owner.epoch))
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call with [`Event::Timeout`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        let own = match self.phase {
            Phase::Connecting => None,
            Phase::Opening { until } => Some(until),
            Phase::Forwarding { until } => until,
            Phase::Holding { until, answer, .. } => {
                Some(answer.map_or(until, |answer| answer.min(until)))
            }
            Phase::Closed => return None,
        };
        let own = own.into_iter().chain(self.refuse_at);
        own.chain(self.search.deadline()).min()
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Duration, event: Event) {
        if self.phase == Phase::Closed {
            return;
        }
        match event {
            Event::Located { owner, epoch } => self.located(now, Owner { node: owner, epoch }),
            Event::Unknown => {
                if self.search.answered() {
                    self.end(Ended::ProcessGone);
                }
            }
            Event::Unavailable => {
                if self.search.answered() {
                    self.search_again(now);
                }
            }
            Event::Active { owner, epoch } => self.active(now, Owner { node: owner, epoch }),
            Event::NotHere { from, epoch } => self.not_here(now, from, epoch),
            Event::LinkUp(node) => self.link_up(now, node),
            Event::LinkDown(node) => self.owner_away(now, node, Held::LinkDown),
            Event::NodeDead(node) => self.owner_away(now, node, Held::NodeDead),
            Event::ProcessGone => self.end(Ended::ProcessGone),
            Event::ClientEnded => {
                self.client_ended = true;
                self.drain_if_ended(now);
            }
            Event::ClientReset => self.end(Ended::ClientReset),
            Event::StreamEnded => {
                self.stream_ended = true;
                self.drain_if_ended(now);
            }
            Event::StreamReset(reason) => self.end(Ended::StreamReset(reason)),
            Event::Waiting(bytes) => {
                let flows = matches!(self.phase, Phase::Forwarding { .. });
                if !flows && bytes >= self.config.hold_bytes {
                    self.read_client(false);
                }
            }
            Event::Drained => {
                if self.client_ended && self.stream_ended {
                    self.end(Ended::Done);
                }
            }
            Event::Timeout => self.timeout(now),
        }
    }

    fn located(&mut self, now: Duration, owner: Owner) {
        if !self.search.answered() {
            return;
        }
        if self.owner.is_some_and(|known| owner.epoch < known.epoch) {
            // The directory has not heard what we have.
            return self.search_again(now);
        }
        if self.absent == Some(owner) {
            // The same here; but should it say so again, it is believed: the owner may only have been
            // about to be there.
            self.absent = None;
            return self.search_again(now);
        }
        match self.phase {
            Phase::Connecting => self.open(now, owner),
            Phase::Holding { .. } => self.resync(now, owner),
            // An answer that came too late: we know better.
            Phase::Opening { .. } | Phase::Forwarding { .. } | Phase::Closed => {}
        }
    }

    fn active(&mut self, now: Duration, owner: Owner) {
        if self.owner.is_some_and(|known| owner.epoch < known.epoch) {
            return;
        }
        self.owner = Some(owner);
        self.absent = None;
        self.refuse_at = None;
        self.search.reset();
        if !self.opened {
            self.opened = true;
            let after = now.saturating_sub(self.since);
            self.report(Report::Opened { after });
        }
        if let Phase::Holding { since, .. } = self.phase {
            self.report(Report::Resumed {
                owner: owner.node,
                epoch: owner.epoch,
                held: now.saturating_sub(since),
            });
        }
        if !matches!(self.phase, Phase::Forwarding { .. }) {
            self.phase = Phase::Forwarding { until: None };
            self.read_client(true);
            self.drain_if_ended(now);
        }
    }

    fn not_here(&mut self, now: Duration, from: NodeId, epoch: Epoch) {
        let Some(owner) = self.owner.filter(|owner| owner.node == from) else {
            return;
        };
        if epoch < owner.epoch {
            return;
        }
        self.absent = Some(owner);
        match self.phase {
            Phase::Opening { .. } => {
                self.phase = Phase::Connecting;
                self.search_now(now);
            }
            Phase::Forwarding { .. } => {
                self.hold(now, Held::NotHere);
                self.search_now(now);
            }
            Phase::Holding { since, until, .. } => {
                self.phase = Phase::Holding {
                    since,
                    until,
                    answer: None,
                };
                self.search_again(now);
            }
            Phase::Connecting | Phase::Closed => {}
        }
    }

    fn owner_away(&mut self, now: Duration, node: NodeId, why: Held) {
        if self.owner.is_none_or(|owner| owner.node != node) {
            return;
        }
        if why == Held::NodeDead && !self.opened {
            self.refuse_at.get_or_insert(now + self.config.dead_timeout);
        }
        match self.phase {
            Phase::Opening { .. } => {
                self.phase = Phase::Connecting;
                self.search_again(now);
            }
            Phase::Forwarding { .. } => {
                self.hold(now, why);
                self.search_again(now);
            }
            Phase::Holding { since, until, .. } => {
                let soon = now + self.config.dead_timeout;
                let until = match why {
                    Held::NodeDead => until.min(soon),
                    _ => until,
                };
                self.phase = Phase::Holding {
                    since,
                    until,
                    answer: None,
                };
                self.search_again(now);
            }
            Phase::Connecting | Phase::Closed => {}
        }
    }

    fn link_up(&mut self, now: Duration, node: NodeId) {
        let Some(owner) = self.owner.filter(|owner| owner.node == node) else {
            return;
        };
        self.refuse_at = None;
        match self.phase {
            // It may have moved on meanwhile; then it says so.
            Phase::Holding { .. } if self.absent != Some(owner) => self.resync(now, owner),
            Phase::Connecting => self.search.hurry(now),
            _ => {}
        }
    }

    fn timeout(&mut self, now: Duration) {
        if self.refuse_at.is_some_and(|at| at <= now) {
            return self.end(Ended::NotFound);
        }
        match self.phase {
            Phase::Opening { until } if until <= now => {
                self.phase = Phase::Connecting;
                self.search_again(now);
            }
            Phase::Forwarding { until: Some(until) } if until <= now => {
                return self.end(Ended::DrainTimeout);
            }
            Phase::Holding { until, .. } if until <= now => return self.end(Ended::HoldTimeout),
            Phase::Holding {
                since,
                until,
                answer: Some(answer),
            } if answer <= now => {
                self.phase = Phase::Holding {
                    since,
                    until,
                    answer: None,
                };
                self.search_again(now);
            }
            _ => {}
        }
        match self.search.expire(now) {
            Expired::Nothing => {}
            Expired::Question => self.search_again(now),
            Expired::Pause => self.locate(now),
        }
    }

    fn open(&mut self, now: Duration, owner: Owner) {
        if self.owner.is_some_and(|known| known.node != owner.node) {
            self.refuse_at = None;
        }
        self.owner = Some(owner);
        self.phase = Phase::Opening {
            until: now + self.config.answer_timeout,
        };
        self.effects.push_back(Effect::Open {
            to: owner.node,
            epoch: owner.epoch,
        });
    }

    fn resync(&mut self, now: Duration, owner: Owner) {
        if let Phase::Holding { since, until, .. } = self.phase {
            self.owner = Some(owner);
            self.phase = Phase::Holding {
                since,
                until,
                answer: Some(now + self.config.answer_timeout),
            };
            self.effects.push_back(Effect::Resync {
                to: owner.node,
                epoch: owner.epoch,
            });
        }
    }

    fn hold(&mut self, now: Duration, why: Held) {
        let timeout = match why {
            Held::NodeDead => self.config.dead_timeout.min(self.config.hold_timeout),
            Held::LinkDown | Held::NotHere => self.config.hold_timeout,
        };
        self.phase = Phase::Holding {
            since: now,
            until: now + timeout,
            answer: None,
        };
        self.report(Report::Holding(why));
    }

    /// Asks the directory at once.
    fn search_now(&mut self, now: Duration) {
        if self.search.tries() == 0 {
            self.locate(now);
        } else {
            self.search_again(now);
        }
    }

    /// Asks the directory after a pause; or gives up, where nothing was opened and enough was tried.
    fn search_again(&mut self, now: Duration) {
        if !self.opened && self.search.tries() >= self.config.max_tries {
            return self.end(Ended::NotFound);
        }
        self.search.pause(now, &self.config);
    }

    fn locate(&mut self, now: Duration) {
        if self.search.ask(now, &self.config) {
            self.effects.push_back(Effect::Locate);
        }
    }

    fn drain_if_ended(&mut self, now: Duration) {
        if self.client_ended
            && self.stream_ended
            && let Phase::Forwarding {
                until: until @ None,
            } = &mut self.phase
        {
            *until = Some(now + self.config.drain_timeout);
        }
    }

    fn read_client(&mut self, read: bool) {
        if self.reading != read && !(read && self.client_ended) {
            self.reading = read;
            self.effects.push_back(Effect::ReadClient(read));
        }
    }

    fn report(&mut self, report: Report) {
        self.effects.push_back(Effect::Report(report));
    }

    /// Closes for good.
    fn end(&mut self, why: Ended) {
        let asked = self.opened || self.owner.is_some();
        let broken = match why {
            Ended::Done | Ended::StreamReset(_) | Ended::ProcessGone => false,
            Ended::ClientReset | Ended::NotFound | Ended::HoldTimeout | Ended::DrainTimeout => {
                asked
            }
        };
        if broken {
            self.effects
                .push_back(Effect::ResetStream(ResetReason::ClientGone));
        }
        let close = match why {
            Ended::Done => Close::Fin,
            // All that the process had to say has arrived.
            Ended::ProcessGone if self.stream_ended => Close::Fin,
            _ => Close::Reset,
        };
        if self.opened || matches!(why, Ended::ClientReset) {
            self.effects.push_back(Effect::CloseClient(close));
        } else {
            self.effects.push_back(Effect::Refuse);
        }
        self.report(Report::Closed(why));
        self.phase = Phase::Closed;
        self.search.reset();
    }
}
