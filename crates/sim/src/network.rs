//! Links between hosts: in order or broken, never anything in between.
//!
//! A link breaks as a connection does: what is in flight is lost, each end notices in its own
//! time, and only when both have is it made again. Two hosts that are parted cannot link.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a link carries. Each pair of hosts has one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Messages between nodes.
    Control,
    /// Frames of client streams.
    Streams,
}

#[derive(Clone, Debug, Default)]
struct Link {
    generation: u64,
    up: bool,
    /// Which end believes that it is up.
    believed: [bool; 2],
    /// When the last message to each end arrives.
    last_arrival: [Duration; 2],
}

/// Two hosts and a channel, the lower host first.
pub type Pair = (usize, usize, Channel);

/// All links.
#[derive(Debug, Default)]
pub struct Network {
    links: BTreeMap<Pair, Link>,
    parted: BTreeSet<(usize, usize)>,
}

fn pair(a: usize, b: usize, channel: Channel) -> Pair {
    (a.min(b), a.max(b), channel)
}

impl Network {
    fn link(&mut self, a: usize, b: usize, channel: Channel) -> &mut Link {
        self.links.entry(pair(a, b, channel)).or_default()
    }

    /// Whether the two can reach each other.
    pub fn is_parted(&self, a: usize, b: usize) -> bool {
        self.parted.contains(&(a.min(b), a.max(b)))
    }

    /// Parts two hosts; existing links must be broken too.
    pub fn part(&mut self, a: usize, b: usize) {
        self.parted.insert((a.min(b), a.max(b)));
    }

    /// Lets everybody reach everybody.
    pub fn heal(&mut self) {
        self.parted.clear();
    }

    /// Makes the link if neither end still believes in the old one.
    pub fn connect(&mut self, a: usize, b: usize, channel: Channel, now: Duration) -> bool {
        if self.is_parted(a, b) {
            return false;
        }
        let link = self.link(a, b, channel);
        if link.up || link.believed != [false; 2] {
            return false;
        }
        link.up = true;
        link.believed = [true; 2];
        link.generation += 1;
        link.last_arrival = [now; 2];
        true
    }

    /// Whether it carries anything.
    pub fn is_up(&self, a: usize, b: usize, channel: Channel) -> bool {
        self.links
            .get(&pair(a, b, channel))
            .is_some_and(|link| link.up)
    }

    /// Breaks it; returns its generation if it was up, so that the ends can be told.
    pub fn sever(&mut self, a: usize, b: usize, channel: Channel) -> Option<u64> {
        let link = self.link(a, b, channel);
        std::mem::take(&mut link.up).then_some(link.generation)
    }

    /// One end notices that it is broken; false if it knew, or if this is about an older link.
    pub fn notice(&mut self, end: usize, peer: usize, channel: Channel, generation: u64) -> bool {
        let link = self.link(end, peer, channel);
        let side = usize::from(end > peer);
        link.generation == generation && std::mem::take(&mut link.believed[side])
    }

    /// An end has forgotten everything.
    pub fn forget(&mut self, end: usize, peer: usize, channel: Channel) {
        let side = usize::from(end > peer);
        self.link(end, peer, channel).believed[side] = false;
    }

    /// When a message sent now arrives, and on which generation; `None` if it is lost.
    pub fn send(
        &mut self,
        from: usize,
        to: usize,
        channel: Channel,
        arrival: Duration,
    ) -> Option<(Duration, u64)> {
        let link = self.link(from, to, channel);
        if !link.up || !link.believed[usize::from(from > to)] {
            return None;
        }
        let last = &mut link.last_arrival[usize::from(to > from)];
        *last = arrival.max(*last);
        Some((*last, link.generation))
    }

    /// Whether what was sent on this generation still arrives.
    pub fn arrives(&self, from: usize, to: usize, channel: Channel, generation: u64) -> bool {
        let link = self.links.get(&pair(from, to, channel));
        link.is_some_and(|link| link.up && link.generation == generation)
    }
}
