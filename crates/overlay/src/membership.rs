//! Who belongs to the fleet, and who of them is alive.
//!
//! Every node keeps a link to every other. A member's health follows from its link and from when
//! it was last heard:
//!
//! ```text
//!            silent for `suspect_after`, or its link broke
//!   Alive ------------------------------------------------> Suspect
//!     ^                                                        |  silent for `dead_after`, or the
//!     |  heard, or its link is up again                        |  link not remade in `relink_within`
//!     +------------------------ Dead <-------------------------+
//! ```
//!
//! Health is an opinion for people and for giving up waits early. It decides nothing about who
//! may run a process: that is the directory's.
//!
//! A member that comes back under a higher incarnation has been restarted and has lost its
//! processes and moves; this is told apart from a link that only broke.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use wire::NodeId;
use wire::control::Member;
use wire::name::check_name;

/// The longest address of a member, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 255;

/// How a member is seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// It answers.
    Alive,
    /// It has not been heard for a while, or its link broke.
    Suspect,
    /// It is taken to be gone, with its processes, until it is heard again.
    Dead,
}

/// When to say what. All durations are by this node's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How often every linked member is told that this node lives.
    pub heartbeat: Duration,
    /// Silence on a link until a member is suspect.
    pub suspect_after: Duration,
    /// Silence on a link until it is dead.
    pub dead_after: Duration,
    /// From the break of a link until the member is dead, if the link cannot be made again.
    pub relink_within: Duration,
    /// No more members than this are taken.
    pub max_members: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            suspect_after: Duration::from_millis(1500),
            dead_after: Duration::from_secs(3),
            relink_within: Duration::from_secs(2),
            max_members: 1024,
        }
    }
}

/// What the membership is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The link to a node is up; it has proved its key.
    LinkUp(NodeId),
    /// It broke.
    LinkDown(NodeId),
    /// A message came from a node.
    Heard(NodeId),
    /// A member, as it or the world says itself: news about address and incarnation.
    FirstHand(Member),
    /// A member, as another one knows it: believed if it is new or its incarnation is.
    HearSay(Member),
}

/// Why a node was not taken into the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// Another member has its name.
    NameTaken {
        /// Who.
        by: NodeId,
        /// How that one is.
        health: Health,
    },
    /// There are as many members as there may be.
    Full {
        /// How many.
        count: usize,
    },
}

/// What the membership has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a heartbeat.
    Heartbeat(NodeId),
    /// A member is seen differently.
    Health {
        /// Which.
        node: NodeId,
        /// How it is.
        health: Health,
    },
    /// It came back under a new incarnation: what it did in its earlier life is lost.
    Restarted(NodeId),
    /// It is no member any more; nor is it alive, as far as anybody is concerned.
    Removed(NodeId),
    /// The list of members changed.
    Changed,
}

#[derive(Clone, Debug)]
struct Peer {
    member: Member,
    /// When the link broke; `None` while it is up.
    down_since: Option<Duration>,
    heard: Duration,
    health: Health,
}

impl Peer {
    fn health_at(&self, now: Duration, config: &Config) -> Health {
        let (silent_since, suspect_after, dead_after) = match self.down_since {
            Some(since) => (since, Duration::ZERO, config.relink_within),
            None => (self.heard, config.suspect_after, config.dead_after),
        };
        let silence = now.saturating_sub(silent_since);
        if silence >= dead_after {
            Health::Dead
        } else if silence >= suspect_after {
            Health::Suspect
        } else {
            Health::Alive
        }
    }

    /// When its health gets worse if nothing happens.
    fn deadline(&self, config: &Config) -> Option<Duration> {
        let (since, suspect_after, dead_after) = match self.down_since {
            Some(since) => (since, Duration::ZERO, config.relink_within),
            None => (self.heard, config.suspect_after, config.dead_after),
        };
        match self.health {
            Health::Alive => Some(since + suspect_after),
            Health::Suspect => Some(since + dead_after),
            Health::Dead => None,
        }
    }
}

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Membership {
    config: Config,
    me: Member,
    peers: BTreeMap<NodeId, Peer>,
    /// Nodes whose link is up and that nobody has called members yet.
    linked_early: BTreeSet<NodeId>,
    next_heartbeat: Duration,
    effects: VecDeque<Effect>,
}

impl Membership {
    /// This node's view at its start: `members` are known, none is linked yet.
    pub fn new(
        now: Duration,
        config: Config,
        me: Member,
        members: impl IntoIterator<Item = Member>,
    ) -> Self {
        let mut membership = Self {
            config,
            me,
            peers: BTreeMap::new(),
            linked_early: BTreeSet::new(),
            next_heartbeat: now,
            effects: VecDeque::new(),
        };
        for member in members {
            membership.learn(now, member, false);
        }
        membership.effects.clear();
        membership
    }

    /// This node's own entry.
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// All members, this node first.
    pub fn members(&self) -> Vec<Member> {
        let peers = self.peers.values().map(|peer| peer.member.clone());
        std::iter::once(self.me.clone()).chain(peers).collect()
    }

    /// The other members.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// Whether a node belongs to the fleet.
    pub fn is_member(&self, node: NodeId) -> bool {
        node == self.me.node || self.peers.contains_key(&node)
    }

    /// A member's entry.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        if node == self.me.node {
            return Some(&self.me);
        }
        self.peers.get(&node).map(|peer| &peer.member)
    }

    /// How a member is; `None` for strangers. This node itself is alive.
    pub fn health(&self, node: NodeId) -> Option<Health> {
        if node == self.me.node {
            return Some(Health::Alive);
        }
        self.peers.get(&node).map(|peer| peer.health)
    }

    /// Whether messages can be sent to it.
    pub fn is_linked(&self, node: NodeId) -> bool {
        let peer = self.peers.get(&node);
        peer.is_some_and(|peer| peer.down_since.is_none())
    }

    /// Takes in one event. Of strangers only the link is remembered, for when they turn out to be
    /// members.
    pub fn handle(&mut self, now: Duration, event: Event) {
        match event {
            Event::LinkUp(node) => {
                let room = self.linked_early.len() < self.config.max_members;
                if !self.is_member(node) && room {
                    self.linked_early.insert(node);
                }
                self.with_peer(now, node, |peer| {
                    peer.down_since = None;
                    peer.heard = now;
                });
            }
            Event::LinkDown(node) => {
                self.linked_early.remove(&node);
                self.with_peer(now, node, |peer| {
                    peer.down_since.get_or_insert(now);
                });
            }
            Event::Heard(node) => self.with_peer(now, node, |peer| peer.heard = now),
            Event::FirstHand(member) => self.learn(now, member, true),
            Event::HearSay(member) => self.learn(now, member, false),
        }
    }

    /// Takes a node into the fleet that may come in, or a member with its new name, address and
    /// incarnation. Names are kept apart here, where all who join come by.
    pub fn admit(&mut self, now: Duration, member: Member) -> Result<(), NotAdmitted> {
        let me = [(&self.me, Health::Alive)];
        let peers = self.peers.values().map(|peer| (&peer.member, peer.health));
        let namesake = |other: &Member| other.name == member.name && other.node != member.node;
        let taken = me
            .into_iter()
            .chain(peers)
            .find(|(other, _)| namesake(other));
        if let Some((namesake, health)) = taken {
            let by = namesake.node;
            return Err(NotAdmitted::NameTaken { by, health });
        }
        let count = self.peers.len() + 1;
        if !self.is_member(member.node) && count > self.config.max_members {
            return Err(NotAdmitted::Full { count });
        }
        self.learn(now, member, true);
        Ok(())
    }

    /// Forgets a member. It is a stranger from now on, also if it lives after all.
    pub fn remove(&mut self, node: NodeId) {
        if self.peers.remove(&node).is_some() {
            self.effects.push_back(Effect::Removed(node));
            self.effects.push_back(Effect::Changed);
        }
    }

    /// Forgets every other member than these: whoever keeps the list knows of no more.
    pub fn keep_only(&mut self, members: &[NodeId]) {
        let gone = self.peers.keys().filter(|node| !members.contains(node));
        for node in gone.copied().collect::<Vec<_>>() {
            self.remove(node);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + self.config.heartbeat;
            let linked = self.peers.iter().filter(|(_, p)| p.down_since.is_none());
            let beats = linked.map(|(node, _)| Effect::Heartbeat(*node));
            self.effects.extend(beats);
        }
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            self.with_peer(now, node, |_| ());
        }
    }

    /// When [`Membership::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let deadlines = self.peers.values().filter_map(|p| p.deadline(&self.config));
        let beat = self.peers.values().any(|p| p.down_since.is_none());
        deadlines.chain(beat.then_some(self.next_heartbeat)).min()
    }

    /// What to do next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Changes a peer, then says so if its health is another one.
    fn with_peer(&mut self, now: Duration, node: NodeId, change: impl FnOnce(&mut Peer)) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        change(peer);
        let health = peer.health_at(now, &self.config);
        if peer.health != health {
            peer.health = health;
            self.effects.push_back(Effect::Health { node, health });
        }
    }

    /// What a member may be called, after what it says of itself: nothing that is no name, and not as
    /// another one. Otherwise it stays what it was.
    fn name_for(&self, member: &Member, first_hand: bool) -> Option<String> {
        let mut others = std::iter::once(&self.me).chain(self.peers.values().map(|p| &p.member));
        let namesake = |other: &Member| other.name == member.name && other.node != member.node;
        let taken = first_hand && others.any(namesake);
        if check_name(&member.name).is_ok() && !taken {
            return Some(member.name.clone());
        }
        let known = self.peers.get(&member.node);
        known.map(|peer| peer.member.name.clone())
    }

    /// The list of all members must fit into a message, whatever each of them says of itself.
    fn learn(&mut self, now: Duration, mut member: Member, first_hand: bool) {
        let node = member.node;
        let control = member.address.chars().any(char::is_control);
        if node == self.me.node || control || member.address.len() > MAX_ADDRESS_BYTES {
            return;
        }
        let Some(name) = self.name_for(&member, first_hand) else {
            return;
        };
        member.name = name;
        let full = self.peers.len() >= self.config.max_members;
        match self.peers.get_mut(&node) {
            Some(peer) if member.incarnation > peer.member.incarnation => {
                peer.member = member;
                self.effects.push_back(Effect::Restarted(node));
                self.effects.push_back(Effect::Changed);
            }
            Some(peer) => {
                let same_life = member.incarnation == peer.member.incarnation;
                if same_life && first_hand && member != peer.member {
                    peer.member = member;
                    self.effects.push_back(Effect::Changed);
                }
            }
            None if full => (),
            None => {
                let linked = self.linked_early.remove(&node);
                let peer = Peer {
                    member,
                    down_since: (!linked).then_some(now),
                    heard: now,
                    health: Health::Suspect,
                };
                self.peers.insert(node, peer);
                self.effects.push_back(Effect::Changed);
                self.with_peer(now, node, |_| ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn member(node: u8, incarnation: u64) -> Member {
        Member {
            node: NodeId([node; 32]),
            name: format!("node{node}"),
            address: format!("127.0.0.1:{node}"),
            incarnation,
        }
    }

    fn with_one_peer() -> (Membership, NodeId) {
        let membership = Membership::new(
            Duration::ZERO,
            Config::default(),
            member(1, 1),
            [member(1, 1), member(2, 1)],
        );
        (membership, NodeId([2; 32]))
    }

    /// Lets time pass and collects what is said about health meanwhile, with its time.
    fn pass(membership: &mut Membership, until: Duration) -> Vec<(Duration, Health)> {
        while membership.poll_effect().is_some() {}
        let mut said = Vec::new();
        while let Some(due) = membership.poll_timeout().filter(|due| *due <= until) {
            membership.handle_timeout(due);
            while let Some(effect) = membership.poll_effect() {
                if let Effect::Health { health, .. } = effect {
                    said.push((due, health));
                }
            }
        }
        said
    }

    #[test]
    fn a_broken_link_that_is_not_remade_is_a_death_within_two_seconds() {
        let (mut membership, peer) = with_one_peer();
        membership.handle(SECOND, Event::LinkUp(peer));
        assert_eq!(membership.health(peer), Some(Health::Alive));
        membership.handle(2 * SECOND, Event::LinkDown(peer));
        assert_eq!(membership.health(peer), Some(Health::Suspect));
        assert_eq!(
            pass(&mut membership, 9 * SECOND),
            [(4 * SECOND, Health::Dead)]
        );
        membership.handle(9 * SECOND, Event::LinkUp(peer));
        assert_eq!(membership.health(peer), Some(Health::Alive));
    }

    #[test]
    fn silence_on_a_link_is_suspicious_then_deadly() {
        let (mut membership, peer) = with_one_peer();
        membership.handle(Duration::ZERO, Event::LinkUp(peer));
        let said = pass(&mut membership, 9 * SECOND);
        let expected = [
            (SECOND * 3 / 2, Health::Suspect),
            (3 * SECOND, Health::Dead),
        ];
        assert_eq!(said, expected);
        membership.handle(9 * SECOND, Event::Heard(peer));
        assert_eq!(membership.health(peer), Some(Health::Alive));
    }

    #[test]
    fn two_members_that_beat_stay_alive() {
        let (mut membership, peer) = with_one_peer();
        membership.handle(Duration::ZERO, Event::LinkUp(peer));
        for half_seconds in 1..100 {
            let now = half_seconds * SECOND / 2;
            assert!(pass(&mut membership, now).is_empty());
            membership.handle(now, Event::Heard(peer));
        }
    }

    #[test]
    fn a_new_incarnation_is_a_restart_and_an_old_one_is_ignored() {
        let (mut membership, peer) = with_one_peer();
        membership.handle(SECOND, Event::HearSay(member(2, 5)));
        assert_eq!(membership.poll_effect(), Some(Effect::Restarted(peer)));
        assert_eq!(membership.poll_effect(), Some(Effect::Changed));
        membership.handle(SECOND, Event::FirstHand(member(2, 4)));
        assert_eq!(membership.poll_effect(), None);
        assert_eq!(membership.members()[1].incarnation, 5);
    }

    #[test]
    fn an_address_is_believed_at_first_hand_only() {
        let (mut membership, _) = with_one_peer();
        let mut moved = member(2, 1);
        moved.address = "elsewhere:1".to_owned();
        membership.handle(SECOND, Event::HearSay(moved.clone()));
        assert_eq!(membership.poll_effect(), None);
        membership.handle(SECOND, Event::FirstHand(moved));
        assert_eq!(membership.poll_effect(), Some(Effect::Changed));
    }

    #[test]
    fn what_a_member_says_of_itself_is_bounded_and_takes_nobodys_name() {
        let (mut membership, peer) = with_one_peer();
        let mut other = member(3, 1);
        membership.handle(SECOND, Event::HearSay(other.clone()));
        while membership.poll_effect().is_some() {}
        // Also when it was started again: then it has all but the name.
        for (incarnation, name) in [(1, "node1"), (2, "node2"), (3, "no name"), (4, "")] {
            other.incarnation = incarnation;
            other.name = name.to_owned();
            membership.handle(SECOND, Event::FirstHand(other.clone()));
            let known = membership.member(other.node).unwrap();
            assert_eq!((&*known.name, known.incarnation), ("node3", incarnation));
        }
        other.name = "x".repeat(1 << 20);
        membership.handle(SECOND, Event::FirstHand(other.clone()));
        other.name = "fresh".to_owned();
        membership.handle(SECOND, Event::FirstHand(other.clone()));
        for address in ["x".repeat(1 << 20), "host\x1b[2J:1".to_owned()] {
            other.address = address;
            membership.handle(SECOND, Event::FirstHand(other.clone()));
        }
        let known = membership.member(other.node).unwrap();
        assert_eq!((&*known.name, &*known.address), ("fresh", "127.0.0.1:3"));
        // Nor by way of the directory's node.
        other.node = NodeId([4; 32]);
        membership.handle(SECOND, Event::HearSay(other));
        assert_eq!(membership.members().len(), 3);
        assert!(membership.is_member(peer));
    }

    #[test]
    fn a_node_that_linked_before_it_was_introduced_is_alive() {
        let (mut membership, _) = with_one_peer();
        let node = NodeId([3; 32]);
        membership.handle(SECOND, Event::LinkUp(node));
        membership.handle(SECOND, Event::HearSay(member(3, 1)));
        assert!(membership.is_linked(node));
        assert_eq!(membership.health(node), Some(Health::Alive));
    }

    #[test]
    fn a_name_is_given_once_and_a_full_fleet_takes_nobody() {
        let mut membership = Membership::new(
            Duration::ZERO,
            Config {
                max_members: 2,
                ..Config::default()
            },
            member(1, 1),
            [member(2, 1)],
        );
        for taken in ["node1", "node2"] {
            let mut twin = member(3, 1);
            twin.name = taken.to_owned();
            let refused = membership.admit(SECOND, twin);
            assert!(matches!(refused, Err(NotAdmitted::NameTaken { .. })));
        }
        // Who is a member already may come again, under a new address.
        let mut again = member(2, 2);
        again.address = "elsewhere:1".to_owned();
        assert_eq!(membership.admit(SECOND, again), Ok(()));
        assert_eq!(membership.admit(SECOND, member(3, 1)), Ok(()));
        let refused = membership.admit(SECOND, member(4, 1));
        assert_eq!(refused, Err(NotAdmitted::Full { count: 3 }));
        assert!(!membership.is_member(NodeId([4; 32])));
    }

    #[test]
    fn who_was_removed_is_a_stranger_until_it_is_admitted_anew() {
        let (mut membership, peer) = with_one_peer();
        membership.handle(SECOND, Event::LinkUp(peer));
        while membership.poll_effect().is_some() {}
        membership.keep_only(&[NodeId([1; 32]), peer]);
        assert_eq!(membership.poll_effect(), None);
        membership.keep_only(&[NodeId([1; 32])]);
        assert_eq!(membership.poll_effect(), Some(Effect::Removed(peer)));
        assert_eq!(membership.poll_effect(), Some(Effect::Changed));
        assert!(!membership.is_member(peer) && !membership.is_linked(peer));
        membership.handle(SECOND, Event::LinkDown(peer));
        membership.handle(SECOND, Event::Heard(peer));
        assert_eq!(membership.health(peer), None);
        assert_eq!(membership.poll_timeout(), None);
        assert_eq!(membership.admit(SECOND, member(2, 2)), Ok(()));
        assert!(membership.is_member(peer));
    }

    #[test]
    fn strangers_change_nothing() {
        let (mut membership, _) = with_one_peer();
        let stranger = NodeId([9; 32]);
        for event in [
            Event::LinkUp(stranger),
            Event::LinkDown(stranger),
            Event::Heard(stranger),
        ] {
            membership.handle(SECOND, event);
        }
        assert_eq!(membership.poll_effect(), None);
        assert_eq!(membership.health(stranger), None);
    }
}
