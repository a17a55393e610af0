//! The simulated world: time, and everything that happens in it, one thing after the other.
//!
//! All happenings wait in one queue, ordered by time; every delay and every choice comes from one
//! seeded source. Whoever runs the same seed twice sees the same world twice.

use crate::conditions::Conditions;
use crate::host::{Clock, Host, Pages, Snapshot};
use crate::ledger::Ledger;
use crate::network::{Channel, Network};
use migrate::{Plan, source, target};
use node::{Config, Event, MoveState, Node, Reply, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use wire::api::Strategy;
use wire::control::{Control, Member};
use wire::frame::StreamFrame;
use wire::snapshot::Hints;
use wire::{ArtefactId, Epoch, ImageId, MoveId, NodeId, ProcessId, StreamId};

/// A rule was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The seed that shows it.
    pub seed: u64,
    /// When.
    pub at: Duration,
    /// What.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} at {:.6} s: {}",
            self.seed,
            self.at.as_secs_f64(),
            self.what
        )
    }
}

impl std::error::Error for Violation {}

/// What happened in a world, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Happenings.
    pub steps: u64,
    /// Simulated time.
    pub time: Duration,
    /// Processes started.
    pub started: u64,
    /// Moves that succeeded, as their sources reported.
    pub moved: u64,
    /// Moves that were not done, or not made to begin with.
    pub given_up: u64,
    /// Processes taken back after a grant.
    pub taken_back: u64,
    /// Hosts that crashed.
    pub crashes: u64,
    /// Links that broke.
    pub broken_links: u64,
    /// Processes lost with their hosts.
    pub lost: u64,
    /// Clients that were served to the end.
    pub served: u64,
    /// Clients whose connection was broken, for a reason.
    pub cut: u64,
    /// Bytes that went there and back.
    pub bytes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {} steps, {:.1} s, {} processes started, {} lost, {} moves, {} given up, \
             {} taken back, {} crashes, {} broken links, {} clients served, {} cut, {} bytes",
            self.seed,
            self.steps,
            self.time.as_secs_f64(),
            self.started,
            self.lost,
            self.moved,
            self.given_up,
            self.taken_back,
            self.crashes,
            self.broken_links,
            self.served,
            self.cut,
            self.bytes,
        )
    }
}

/// What crosses a bulk connection.
#[derive(Clone, Debug)]
pub(crate) enum Bulk {
    Image,
    /// A round of memory.
    Pages(Pages),
    Snapshot(Box<Snapshot>),
}

/// What crosses a link.
#[derive(Clone, Debug)]
pub(crate) enum Parcel {
    Control(Control),
    Frame(StreamFrame),
}

impl Parcel {
    fn channel(&self) -> Channel {
        match self {
            Parcel::Control(_) => Channel::Control,
            Parcel::Frame(_) => Channel::Streams,
        }
    }
}

/// Something that will happen.
#[derive(Clone, Debug)]
enum Happening {
    Deliver {
        from: usize,
        to: usize,
        generation: u64,
        parcel: Parcel,
    },
    Dial(usize, usize, Channel),
    Notice {
        end: usize,
        peer: usize,
        channel: Channel,
        generation: u64,
    },
    Boot(usize),
    /// At one host, in one of its lives; void if it has crashed meanwhile.
    At(usize, u64, Local),
}

/// Something that will happen at one host.
#[derive(Clone, Debug)]
pub(crate) enum Local {
    Timer(Duration),
    Event(Event),
    Freeze(MoveId, ProcessId),
    Thaw(ProcessId, Epoch),
    Written(u64),
    Bulk {
        id: MoveId,
        from: (usize, u64),
        bulk: Bulk,
        whole: bool,
    },
    Prepared(MoveId),
    Restored(MoveId),
    Work(ProcessId, Epoch),
    Client(StreamId),
    Frame(StreamFrame),
}

/// The world. Hosts are named by their index; host 0 need not be the directory's.
#[derive(Debug)]
pub struct World {
    /// The seed.
    pub seed: u64,
    /// The time.
    pub now: Duration,
    /// The only source of choices, but for one kind.
    pub random: fastrand::Rng,
    /// Of what processes write, and how they are moved: of a seed of its own, so that everything else
    /// in a world does not hang on it.
    pub(crate) writes: fastrand::Rng,
    /// How things fail.
    pub conditions: Conditions,
    /// The machines.
    pub hosts: Vec<Host>,
    /// Which of them keeps the directory.
    pub directory: usize,
    /// The truth.
    pub ledger: Ledger,
    /// What happened.
    pub report: Report,
    /// Replies, for those who wait for one.
    pub replies: BTreeMap<Token, Reply>,
    /// Streams whose client, or its host, is gone.
    pub(crate) cut: BTreeSet<StreamId>,
    /// Questions of anchors to the directory.
    pub(crate) searches: BTreeMap<Token, StreamId>,
    pub(crate) network: Network,
    queue: BTreeMap<(Duration, u64), Happening>,
    serial: u64,
    /// Processes whose removal was commanded.
    pub(crate) removals: BTreeSet<ProcessId>,
    pending: BTreeMap<Token, (usize, u64, String)>,
    next_token: Token,
    violation: Option<String>,
    trace: bool,
}

impl World {
    /// `hosts` machines, all down, the directory on the one of that index.
    pub fn new(seed: u64, hosts: usize, directory: usize, conditions: Conditions) -> Self {
        let ids = (1..=hosts).map(|n| NodeId([n as u8; 32]));
        Self {
            seed,
            now: Duration::ZERO,
            random: fastrand::Rng::with_seed(seed),
            writes: fastrand::Rng::with_seed(seed ^ (1 << 32)),
            conditions,
            hosts: ids.map(Host::new).collect(),
            directory,
            ledger: Ledger::default(),
            report: Report {
                seed,
                ..Report::default()
            },
            replies: BTreeMap::new(),
            cut: BTreeSet::new(),
            searches: BTreeMap::new(),
            network: Network::default(),
            queue: BTreeMap::new(),
            serial: 0,
            removals: BTreeSet::new(),
            pending: BTreeMap::new(),
            next_token: 1,
            violation: None,
            trace: std::env::var_os("LIMOSA_SIM_TRACE").is_some(),
        }
    }

    /// The first violation, if there was one.
    pub fn check(&self) -> Result<(), Violation> {
        match &self.violation {
            None => Ok(()),
            Some(what) => Err(self.violation(what.clone())),
        }
    }

    /// A violation here and now.
    pub fn violation(&self, what: String) -> Violation {
        Violation {
            seed: self.seed,
            at: self.now,
            what,
        }
    }

    /// Where the moves of a process stand, by host.
    pub fn move_states(&self, process: ProcessId) -> Vec<(usize, MoveState)> {
        let mut states = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let moves = host.node.iter().flat_map(Node::moves);
            let moves = moves.filter(|(_, p, _)| *p == process);
            states.extend(moves.map(|(_, _, state)| (index, state)));
        }
        states
    }

    /// Commands without a reply so far.
    pub fn unanswered(&self) -> impl Iterator<Item = &str> {
        self.pending.values().map(|(_, _, text)| text.as_str())
    }

    // ----- what the outside does to it -----

    /// Starts a machine, under a new incarnation.
    pub fn boot(&mut self, index: usize) {
        if self.hosts[index].is_up() {
            return;
        }
        let skew = self.conditions.skew * (2.0 * self.random.f64() - 1.0);
        let directory = self.hosts[self.directory].id;
        let address = |index: usize| format!("host{index}:1");
        let host = &mut self.hosts[index];
        host.life += 1;
        host.clock = Clock::new(self.now, 1.0 + skew);
        host.armed = None;
        let me = Member {
            node: host.id,
            name: format!("host{index}"),
            address: address(index),
            incarnation: host.life,
        };
        if !host.knows(directory) {
            // From the ticket; its incarnation is not known yet.
            host.members.push(Member {
                node: directory,
                name: format!("host{}", self.directory),
                address: address(self.directory),
                incarnation: 0,
            });
        }
        let config = Config {
            members: host.members.clone(),
            restored: host.store.values().cloned().collect(),
            ..Config::new(me, directory)
        };
        host.node = Some(Node::new(Duration::ZERO, config));
        self.trace(index, || "boots".to_owned());
        self.attend(index);
        for peer in 0..self.hosts.len() {
            if peer != index {
                for channel in [Channel::Control, Channel::Streams] {
                    self.dial_later(index, peer, channel);
                }
            }
        }
    }

    /// Kills a machine with all that is not on its disk.
    pub fn crash(&mut self, index: usize) {
        if !self.hosts[index].is_up() {
            return;
        }
        self.trace(index, || "crashes".to_owned());
        self.report.crashes += 1;
        self.excuse_what_dies_with(index);
        let host = &mut self.hosts[index];
        host.node = None;
        host.instances.clear();
        host.arrivals.clear();
        host.left.clear();
        let anchors = std::mem::take(&mut host.anchors);
        self.cut.extend(anchors.into_keys());
        let host = &mut self.hosts[index];
        for half_done in std::mem::take(&mut host.writes) {
            if self.random.bool() {
                self.persist(index, &half_done.change);
            }
        }
        let life = self.hosts[index].life;
        self.pending
            .retain(|_, (at, then, _)| (*at, *then) != (index, life));
        for peer in 0..self.hosts.len() {
            if peer != index {
                for channel in [Channel::Control, Channel::Streams] {
                    self.break_link(index, peer, channel);
                    self.network.forget(index, peer, channel);
                }
            }
        }
    }

    /// Starts a machine after a while.
    pub fn boot_later(&mut self, index: usize, after: Duration) {
        self.schedule(after, Happening::Boot(index));
    }

    /// Breaks a link; its ends will notice, and it will be made again.
    pub fn break_link(&mut self, a: usize, b: usize, channel: Channel) {
        let Some(generation) = self.network.sever(a, b, channel) else {
            return;
        };
        self.trace(a, || format!("loses its {channel:?} link to host {b}"));
        self.report.broken_links += 1;
        for (end, peer) in [(a, b), (b, a)] {
            let after = Conditions::draw(&mut self.random, &self.conditions.notice_us);
            let notice = Happening::Notice {
                end,
                peer,
                channel,
                generation,
            };
            self.schedule(after, notice);
        }
        self.dial_later(a, b, channel);
    }

    /// Parts two machines until [`World::heal`].
    pub fn part(&mut self, a: usize, b: usize) {
        self.trace(a, || format!("is parted from host {b}"));
        self.network.part(a, b);
        for channel in [Channel::Control, Channel::Streams] {
            self.break_link(a, b, channel);
        }
    }

    /// Ends all partings.
    pub fn heal(&mut self) {
        self.network.heal();
    }

    /// Gives a command to a node; its reply will be checked for.
    pub fn command(
        &mut self,
        index: usize,
        text: &str,
        event: impl FnOnce(Token) -> Event,
    ) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        let life = self.hosts[index].life;
        if self.hosts[index].is_up() {
            self.trace(index, || format!("is told: {text} (#{token})"));
            let text = format!("#{token} {text} at host {index}");
            self.pending.insert(token, (index, life, text));
            self.tell(index, event(token));
        }
        token
    }

    /// Commands a start.
    pub fn start(&mut self, index: usize, process: ProcessId, name: &str) -> Token {
        let name = name.to_owned();
        let text = format!("start {process} {name}");
        self.command(index, &text, |token| Event::Start {
            token,
            process,
            name,
            image: ImageId::default(),
            again: false,
        })
    }

    /// Commands a move.
    pub fn migrate(&mut self, index: usize, process: ProcessId, to: usize) -> Token {
        let strategy = match self.writes.u8(..3) {
            0 => Strategy::Stop,
            _ => Strategy::Precopy,
        };
        self.migrate_by(index, process, to, strategy)
    }

    /// The same, by this strategy.
    pub fn migrate_by(
        &mut self,
        index: usize,
        process: ProcessId,
        to: usize,
        strategy: Strategy,
    ) -> Token {
        let id = MoveId(self.random.u64(..));
        let node = self.hosts[to].id;
        let text = format!("migrate {process} to host {to}, {strategy:?}");
        let plan = Plan {
            strategy,
            ..Plan::default()
        };
        self.command(index, &text, |token| Event::Migrate {
            token,
            id,
            process,
            to: node,
            artefact: ArtefactId::default(),
            memory_bytes: 1 << 20,
            volumes: Vec::new(),
            plan,
        })
    }

    /// Commands the removal of a record.
    pub fn remove(&mut self, index: usize, process: ProcessId) -> Token {
        self.removals.insert(process);
        let text = format!("remove {process}");
        self.command(index, &text, |token| Event::Remove { token, process })
    }

    /// Lets a running process end by itself.
    pub fn end(&mut self, index: usize, process: ProcessId) {
        if self.hosts[index].runs(process) {
            self.trace(index, || format!("{process} ends"));
            if let Some(mut instance) = self.hosts[index].instances.remove(&process) {
                instance.side.kill();
                self.send_last_frames(index, instance.side);
            }
            self.ledger.ends(process);
            self.tell(index, Event::Exited(process));
        }
    }

    /// Tells a node something, as its world would.
    pub fn tell(&mut self, index: usize, event: Event) {
        let now = self.hosts[index].clock.read(self.now);
        if let Some(node) = &mut self.hosts[index].node {
            node.handle(now, event);
            self.attend(index);
        }
    }

    // ----- what happens in it -----

    /// One happening. False if nothing will ever happen again.
    pub fn step(&mut self) -> bool {
        let Some(((at, _), happening)) = self.queue.pop_first() else {
            return false;
        };
        self.now = at;
        self.report.steps += 1;
        self.report.time = at;
        match happening {
            Happening::Boot(index) => self.boot(index),
            Happening::Dial(a, b, channel) => self.dial(a, b, channel),
            Happening::Notice {
                end,
                peer,
                channel,
                generation,
            } => {
                if self.network.notice(end, peer, channel, generation) {
                    self.trace(end, || {
                        format!("notices that its {channel:?} link to host {peer} is broken")
                    });
                    let peer = self.hosts[peer].id;
                    match channel {
                        Channel::Control => self.tell(end, Event::LinkDown(peer)),
                        Channel::Streams => self.stream_link_down(end, peer),
                    }
                }
            }
            Happening::Deliver {
                from,
                to,
                generation,
                parcel,
            } => {
                if self.network.arrives(from, to, parcel.channel(), generation) {
                    self.receive(from, to, parcel);
                }
            }
            Happening::At(index, life, local) => {
                if self.hosts[index].is_up() && self.hosts[index].life == life {
                    self.happen(index, local);
                }
            }
        }
        true
    }

    fn receive(&mut self, from: usize, to: usize, parcel: Parcel) {
        let sender = self.hosts[from].id;
        match parcel {
            Parcel::Control(message) => {
                if !matches!(message, Control::Heartbeat) {
                    self.trace(to, || format!("hears from host {from}: {message:?}"));
                }
                let from = sender;
                self.tell(to, Event::Control { from, message });
            }
            Parcel::Frame(frame) => self.receive_frame(to, sender, frame),
        }
    }

    fn happen(&mut self, index: usize, local: Local) {
        match local {
            Local::Timer(deadline) => {
                let host = &mut self.hosts[index];
                if host.armed == Some(deadline) {
                    host.armed = None;
                    let now = host.clock.read(self.now).max(deadline);
                    if let Some(node) = &mut host.node {
                        node.handle_timeout(now);
                    }
                    self.attend(index);
                }
            }
            Local::Event(event) => self.tell(index, event),
            Local::Freeze(id, process) => self.freeze(index, id, process),
            Local::Thaw(process, epoch) => self.thaw(index, process, epoch),
            Local::Written(ticket) => self.written(index, ticket),
            Local::Bulk {
                id,
                from,
                bulk,
                whole,
            } => self.bulk_ends(index, id, from, bulk, whole),
            Local::Prepared(id) => {
                let result = self.local_work("the image does not compile");
                let result = result.map(|()| Hints::default());
                self.tell(index, Event::Prepared { id, result });
            }
            Local::Restored(id) => {
                let result = self.local_work("the snapshot does not fit");
                self.tell(index, Event::Restored { id, result });
            }
            Local::Work(process, epoch) => self.work(index, process, epoch),
            Local::Client(stream) => self.client(index, stream),
            Local::Frame(frame) => {
                let me = self.hosts[index].id;
                self.receive_frame(index, me, frame);
            }
        }
    }

    fn dial(&mut self, a: usize, b: usize, channel: Channel) {
        if self.network.is_up(a, b, channel) {
            return;
        }
        // Whoever knows the other dials; a stranger knows the directory's node and is admitted.
        let (one, other) = (&self.hosts[a], &self.hosts[b]);
        let introduced = one.knows(other.id) || other.knows(one.id);
        let mutual = (one.knows(other.id) && other.knows(one.id))
            || [a, b].contains(&self.directory) && introduced;
        let both_up = one.is_up() && other.is_up();
        if !both_up || !mutual || !self.network.connect(a, b, channel, self.now) {
            if both_up {
                self.dial_later(a, b, channel);
            }
            return;
        }
        self.trace(a, || format!("has a {channel:?} link to host {b}"));
        if channel == Channel::Streams {
            let (one, other) = (self.hosts[a].id, self.hosts[b].id);
            self.stream_link_up(a, other);
            self.stream_link_up(b, one);
            return;
        }
        for (end, peer) in [(a, b), (b, a)] {
            let node = self.hosts[peer].id;
            if end == self.directory {
                let me = self.hosts[peer].node.as_ref();
                let member = me.and_then(|node| node.members().into_iter().next());
                if let Some(member) = member {
                    self.command(end, "admit a host", |token| Event::Admit { token, member });
                }
            }
            self.tell(end, Event::LinkUp(node));
        }
    }

    fn dial_later(&mut self, a: usize, b: usize, channel: Channel) {
        let (a, b) = (a.min(b), a.max(b));
        let waiting = |h: &Happening| matches!(h, Happening::Dial(x, y, c) if (*x, *y, *c) == (a, b, channel));
        if !self.queue.values().any(waiting) {
            let after = Conditions::draw(&mut self.random, &self.conditions.redial_us);
            self.schedule(after, Happening::Dial(a, b, channel));
        }
    }

    /// Does what a node wants done, and sets its timer.
    fn attend(&mut self, index: usize) {
        while let Some(effect) = self.hosts[index].node.as_mut().and_then(Node::poll_effect) {
            self.act(index, effect);
        }
        let host = &mut self.hosts[index];
        let Some(node) = &host.node else {
            return;
        };
        let due = node.poll_timeout();
        if due != host.armed {
            host.armed = due;
            if let Some(due) = due {
                let after = host.clock.when(due).saturating_sub(self.now);
                self.schedule_at(index, after, Local::Timer(due));
            }
        }
    }

    pub(crate) fn send(&mut self, index: usize, to: NodeId, message: Control) {
        let to = self.index_of(to);
        self.send_parcel(index, to, Parcel::Control(message));
    }

    pub(crate) fn send_parcel(&mut self, index: usize, to: usize, parcel: Parcel) {
        let channel = parcel.channel();
        if self.random.f64() < self.conditions.break_link {
            return self.break_link(index, to, channel);
        }
        let arrival = self.now + Conditions::draw(&mut self.random, &self.conditions.delay_us);
        let sent = self.network.send(index, to, channel, arrival);
        if let Some((at, generation)) = sent {
            let deliver = Happening::Deliver {
                from: index,
                to,
                generation,
                parcel,
            };
            self.schedule(at.saturating_sub(self.now), deliver);
        }
    }

    /// Notes which processes may be gone when this host dies now.
    fn excuse_what_dies_with(&mut self, index: usize) {
        let host = &self.hosts[index];
        let mut doomed: BTreeSet<ProcessId> = BTreeSet::new();
        for (_, process, state) in host.node.iter().flat_map(Node::moves) {
            let deciding = matches!(
                state,
                MoveState::Out(source::State::TakingBack | source::State::Thawing)
                    | MoveState::In(target::State::Activating)
            );
            if deciding {
                doomed.insert(process);
            }
        }
        let directory = &self.hosts[self.directory];
        let writes = directory.writes.iter().filter_map(|w| match &w.change {
            node::Change::Put(record) => Some(record),
            node::Change::Delete(_) => None,
        });
        for record in directory.store.values().chain(writes) {
            if record.claim.owner == host.id && record.claim.attempt > 0 {
                doomed.insert(record.process);
            }
        }
        for process in self.ledger.lives.keys() {
            let mut others = (0..self.hosts.len()).filter(|other| *other != index);
            if host.holds(*process) && !others.any(|other| self.hosts[other].holds(*process)) {
                doomed.insert(*process);
            }
        }
        for process in doomed {
            self.ledger
                .excuse(process, || format!("host {index} died with it"));
        }
    }

    // ----- small things -----

    pub(crate) fn replied(&mut self, index: usize, token: Token, reply: Reply) {
        self.trace(index, || format!("replies to #{token}: {reply:?}"));
        let command = match self.pending.remove(&token) {
            Some((_, _, command)) => command,
            None => {
                self.broken(format!("host {index} replied twice, or unasked: {reply:?}"));
                String::new()
            }
        };
        match &reply {
            Reply::Moved { .. } => self.report.moved += 1,
            Reply::Failed(_) if command.contains("migrate") => self.report.given_up += 1,
            _ => (),
        }
        if let Some(stream) = self.searches.remove(&token) {
            self.found(index, stream, &reply);
        }
        self.replies.insert(token, reply);
    }

    pub(crate) fn local_work(&mut self, failure: &str) -> Result<(), String> {
        match self.random.f64() < self.conditions.fail_work {
            true => Err(failure.to_owned()),
            false => Ok(()),
        }
    }

    pub(crate) fn work_time(&mut self) -> Duration {
        Conditions::draw(&mut self.random, &self.conditions.work_us)
    }

    pub(crate) fn later(&mut self, index: usize, event: Event) {
        let after = self.work_time();
        self.schedule_at(index, after, Local::Event(event));
    }

    pub(crate) fn schedule_at(&mut self, index: usize, after: Duration, local: Local) {
        let life = self.hosts[index].life;
        self.schedule(after, Happening::At(index, life, local));
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.serial += 1;
        self.queue
            .insert((self.now + after, self.serial), happening);
    }

    pub(crate) fn index_of(&self, node: NodeId) -> usize {
        let index = self.hosts.iter().position(|host| host.id == node);
        index.expect("nodes name only hosts of their world")
    }

    pub(crate) fn note(&mut self, result: Result<(), String>) {
        if let Err(what) = result {
            self.broken(what);
        }
    }

    pub(crate) fn broken(&mut self, what: String) {
        if self.trace {
            eprintln!("{:12.6} VIOLATION {what}", self.now.as_secs_f64());
        }
        self.violation.get_or_insert(what);
    }

    /// One line per transition, if `LIMOSA_SIM_TRACE` is set.
    pub fn trace(&self, index: usize, line: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:12.6} host {index} {}", self.now.as_secs_f64(), line());
        }
    }
}

/// Small buffers, so that they fill up.
pub(crate) fn stream_config() -> stream::Config {
    stream::Config {
        send_bytes: 600,
        receive_bytes: 500,
        data_bytes: 200,
        ..stream::Config::default()
    }
}
