//! `poll_oneoff`: waits for clocks and descriptors.
//!
//! A relative timeout runs from the first issue of the call. If the call freezes, the instants at
//! which its relative timeouts end are written down, and its next issue takes them up, so that a
//! sleep is as long as it was meant to be, however often the process moves.

use super::Kernel;
use super::MONOTONIC_ORIGIN_NS;
use super::abi::{Call, EVENT_BYTES, Errno, SUBSCRIPTION_BYTES, clockid, eventtype, rights};
use super::guest::{Guest, Record, u16_at, u32_at, u64_at};
use super::waiting::{Blocking, Step, Wait};
use wire::snapshot::{Pending, Target};

const ABSOLUTE: u16 = 1;
const HANGUP: u16 = 1;
/// Subscriptions of one call.
const MAX_SUBSCRIPTIONS: u32 = 1 << 14;
/// Subscriptions that are looked at before the next look at whether the process is asked to
/// freeze: some tens of microseconds.
const LOOKS_AT_ONCE: u32 = 1 << 10;

/// `poll_oneoff`.
pub(super) struct PollOneoff {
    pub subscriptions: u32,
    pub events: u32,
    pub count: u32,
    pub out: u32,
    /// When relative timeouts end, once known: (index, nanoseconds since birth).
    pub deadlines: Option<Vec<(u32, u64)>>,
}

struct Event {
    userdata: u64,
    kind: u8,
    error: Option<Errno>,
    bytes: u64,
    hangup: bool,
}

/// What a subscription comes to now.
enum State {
    Ready { bytes: u64, hangup: bool },
    Failed(Errno),
    Waits(Wait),
}

const READY: State = State::Ready {
    bytes: 1,
    hangup: false,
};

impl PollOneoff {
    /// When the timeout of a clock subscription ends, on the port's monotonic clock.
    fn deadline_ns(&self, kernel: &Kernel, index: u32, subscription: &[u8]) -> Call<u64> {
        let timeout = u64_at(subscription, 24);
        let absolute = u16_at(subscription, 40) & ABSOLUTE != 0;
        let clock = u32_at(subscription, 16);
        match (clock, absolute) {
            (clockid::REALTIME | clockid::MONOTONIC, false) => {
                let known = self.deadlines.as_deref().unwrap_or_default();
                let found = known.binary_search_by_key(&index, |known| known.0);
                let since_birth = found.ok().and_then(|at| known.get(at));
                let since_birth = since_birth.map_or(u64::MAX, |known| known.1);
                Ok(kernel.port_deadline_ns(since_birth))
            }
            (clockid::MONOTONIC, true) => {
                Ok(kernel.port_deadline_ns(timeout.saturating_sub(MONOTONIC_ORIGIN_NS)))
            }
            (clockid::REALTIME, true) => {
                let ahead = timeout.saturating_sub(kernel.now_ns());
                Ok(kernel.ports.clock.monotonic_ns().saturating_add(ahead))
            }
            (clockid::PROCESS_CPUTIME | clockid::THREAD_CPUTIME, _) => Err(Errno::NOTSUP),
            _ => Err(Errno::INVAL),
        }
    }

    /// Fixes the ends of relative timeouts at the first attempt of the first issue.
    fn fix_deadlines(&mut self, kernel: &Kernel, list: &[u8]) {
        if self.deadlines.is_some() {
            return;
        }
        if let Some(Pending::Poll { deadlines }) = &kernel.pending {
            self.deadlines = Some(deadlines.clone());
            return;
        }
        let now = kernel.since_birth_ns();
        let relative = |subscription: &[u8]| {
            subscription.get(8) == Some(&eventtype::CLOCK)
                && u16_at(subscription, 40) & ABSOLUTE == 0
        };
        let all = (0..).zip(list.chunks_exact(SUBSCRIPTION_BYTES as usize));
        let deadlines = all
            .filter(|(_, subscription)| relative(subscription))
            .map(|(index, subscription)| (index, now.saturating_add(u64_at(subscription, 24))));
        self.deadlines = Some(deadlines.collect());
    }

    fn look(&self, kernel: &Kernel, index: u32, subscription: &[u8]) -> State {
        let descriptor = u32_at(subscription, 16);
        let state = match subscription.get(8) {
            Some(&eventtype::CLOCK) => self.deadline_ns(kernel, index, subscription).map(|end| {
                if kernel.ports.clock.monotonic_ns() >= end {
                    State::Ready {
                        bytes: 0,
                        hangup: false,
                    }
                } else {
                    State::Waits(Wait {
                        deadline_ns: Some(end),
                        ..Wait::NOTHING
                    })
                }
            }),
            Some(&eventtype::FD_READ) => kernel.poll_read(descriptor),
            Some(&eventtype::FD_WRITE) => kernel.poll_write(descriptor),
            _ => Err(Errno::INVAL),
        };
        state.unwrap_or_else(State::Failed)
    }
}

impl Kernel {
    fn poll_read(&self, descriptor: u32) -> Call<State> {
        let state = self.descriptor(descriptor)?;
        // A directory has no right to be read like a file; as in POSIX it never blocks.
        let needed = match state.target {
            Target::Directory { .. } | Target::VolumeDirectory { .. } => rights::POLL_FD_READWRITE,
            _ => rights::POLL_FD_READWRITE | rights::FD_READ,
        };
        self.permitted(descriptor, needed)?;
        Ok(match state.target {
            Target::Stdin if self.ports.stdio.readable() => READY,
            Target::Stdin => State::Waits(Wait::STDIO),
            Target::Stdout | Target::Stderr => return Err(Errno::BADF),
            Target::File { inode, position } => State::Ready {
                bytes: self.tree.size(inode).saturating_sub(position),
                hangup: false,
            },
            Target::VolumeFile { position, .. } => State::Ready {
                bytes: self.volumes.size(descriptor)?.saturating_sub(position),
                hangup: false,
            },
            Target::Directory { .. } | Target::VolumeDirectory { .. } => READY,
            Target::Listener(listener) => {
                match self.ports.network.listener_readiness(listener).readable {
                    0 => State::Waits(Wait::NETWORK),
                    waiting => State::Ready {
                        bytes: waiting,
                        hangup: false,
                    },
                }
            }
            Target::Socket(stream) => {
                let readiness = self.ports.network.stream_readiness(stream);
                match (readiness.readable, readiness.hangup) {
                    (0, false) => State::Waits(Wait::NETWORK),
                    (bytes, hangup) => State::Ready {
                        bytes,
                        // While bytes remain, they come first.
                        hangup: hangup && bytes == 0,
                    },
                }
            }
        })
    }

    fn poll_write(&self, descriptor: u32) -> Call<State> {
        let state = self.descriptor(descriptor)?;
        if !matches!(state.target, Target::Listener(_)) {
            self.permitted(descriptor, rights::POLL_FD_READWRITE | rights::FD_WRITE)?;
        }
        Ok(match state.target {
            Target::Stdout | Target::Stderr | Target::File { .. } | Target::VolumeFile { .. } => {
                READY
            }
            Target::Stdin | Target::Directory { .. } | Target::VolumeDirectory { .. } => {
                return Err(Errno::BADF);
            }
            Target::Listener(_) => State::Waits(Wait::NOTHING),
            Target::Socket(stream) => match self.ports.network.stream_readiness(stream).writable {
                0 => State::Waits(Wait::NETWORK),
                bytes => State::Ready {
                    bytes,
                    hangup: false,
                },
            },
        })
    }
}

impl Blocking for PollOneoff {
    fn attempt(&mut self, kernel: &mut Kernel, guest: &mut Guest<'_>) -> Call<Step> {
        if self.count == 0 || self.count > MAX_SUBSCRIPTIONS {
            return Err(Errno::INVAL);
        }
        guest.range(self.events, self.count * EVENT_BYTES)?;
        guest.range(self.out, 4)?;
        let list = guest.bytes(self.subscriptions, self.count * SUBSCRIPTION_BYTES)?;
        self.fix_deadlines(kernel, list);
        let mut events = Vec::new();
        let mut wait = Wait::NOTHING;
        for (index, subscription) in (0..).zip(list.chunks_exact(SUBSCRIPTION_BYTES as usize)) {
            let event = |error, bytes, hangup| Event {
                userdata: u64_at(subscription, 0),
                kind: subscription.get(8).copied().unwrap_or_default(),
                error,
                bytes,
                hangup,
            };
            if index % LOOKS_AT_ONCE == LOOKS_AT_ONCE - 1 && kernel.control.wants_freeze() {
                // What was found is told, if anything was; else the freeze comes first.
                wait.turn = true;
                break;
            }
            match self.look(kernel, index, subscription) {
                State::Ready { bytes, hangup } => events.push(event(None, bytes, hangup)),
                State::Failed(error) => events.push(event(Some(error), 0, false)),
                State::Waits(more) => {
                    wait.stdio |= more.stdio;
                    wait.network |= more.network;
                    let ends = [wait.deadline_ns, more.deadline_ns];
                    wait.deadline_ns = ends.into_iter().flatten().min();
                }
            }
        }
        if events.is_empty() {
            return Ok(Step::Block(wait));
        }
        let mut at = self.events;
        for event in &events {
            let flags = if event.hangup { HANGUP } else { 0 };
            let mut record = Record::<{ EVENT_BYTES as usize }>::new()
                .put(0, &event.userdata.to_le_bytes())
                .put(8, &event.error.map_or(0, |error| error.0).to_le_bytes())
                .put(10, &[event.kind]);
            if event.kind != eventtype::CLOCK {
                record = record
                    .put(16, &event.bytes.to_le_bytes())
                    .put(24, &flags.to_le_bytes());
            }
            guest.write(at, &record.0)?;
            at = at.wrapping_add(EVENT_BYTES);
        }
        guest.write_u32(self.out, events.len() as u32)?;
        Ok(Step::Done)
    }

    fn freeze(&mut self, kernel: &mut Kernel) {
        // Frozen before the first attempt, it has nothing to add to what an earlier issue left.
        if let Some(deadlines) = self.deadlines.take()
            && !deadlines.is_empty()
        {
            kernel.pending = Some(Pending::Poll { deadlines });
        }
    }
}

/// `sched_yield`: lets others run once.
#[derive(Default)]
pub(super) struct Yield {
    yielded: bool,
}

impl Blocking for Yield {
    fn attempt(&mut self, _: &mut Kernel, _: &mut Guest<'_>) -> Call<Step> {
        if self.yielded {
            return Ok(Step::Done);
        }
        self.yielded = true;
        Ok(Step::Block(Wait::TURN))
    }
}
