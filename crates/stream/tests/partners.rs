//! Streams between processes in a random world: three processes call each other, and themselves, and
//! move between three nodes, several at once; links break and are remade, frames of broken links
//! arrive late and twice, moves fail and are taken back, and what the directory says comes late. Whatever happens, the bytes read are those written, and
//! all comes to an end. A failing seed is the bug report: run it with `LIMOSA_SEED=n`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use stream::{Config, Io, Progress, Side, Sought, Transmit, answer_for_missing_process};
use wire::frame::{Body, ResetReason, StreamFrame};
use wire::snapshot::{Listener, Service, Stream};
use wire::{Epoch, NodeId, ProcessId, StreamId};

const HOSTS: usize = 3;
const PROCESSES: usize = 3;

fn host(index: usize) -> NodeId {
    NodeId([index as u8 + 1; 32])
}

fn index_of(node: NodeId) -> usize {
    usize::from(node.0[0]) - 1
}

fn process(index: usize) -> ProcessId {
    ProcessId(index as u64 + 1)
}

/// Both ends' name for their stream.
fn pair(stream: StreamId) -> u64 {
    stream.0 & !1
}

/// The byte that the end of this id writes at `offset`.
fn pattern(writer: StreamId, offset: u64) -> u8 {
    let mixed = (offset ^ writer.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// How a program deals with one stream.
#[derive(Clone, Debug, Default)]
struct Talk {
    read: u64,
    written: u64,
    to_write: u64,
    ended: bool,
    shut: bool,
    closed: bool,
    /// Lets go when this much was read, whatever is left.
    rude_after: Option<u64>,
}

/// A program: what it knows travels with its process.
type Program = BTreeMap<StreamId, Talk>;

struct Move {
    to: usize,
    granted: bool,
}

struct Process {
    owner: usize,
    epoch: Epoch,
    sides: Vec<Option<Side>>,
    program: Program,
    moving: Option<Move>,
    /// A former owner that has not left yet.
    leaving: Option<usize>,
    /// What nodes remember of where it went.
    departed: Vec<Option<(Epoch, NodeId)>>,
}

#[derive(Default)]
struct Link {
    up: bool,
    queue: VecDeque<StreamFrame>,
}

#[derive(Default)]
struct Totals {
    streams: u64,
    bytes: u64,
    moves: u64,
    at_once: u64,
    aborted: u64,
    taken_back: u64,
    broken_links: u64,
    rude: u64,
}

struct World {
    random: fastrand::Rng,
    config: Config,
    processes: Vec<Process>,
    /// By sender and receiver; to itself it never breaks.
    links: Vec<Vec<Link>>,
    /// What was on the way when a link broke and arrives nevertheless: from where, and where to.
    late: Vec<(usize, usize, StreamFrame)>,
    /// What the directory has said and nobody has heard yet: to which process's owner.
    answers: Vec<(usize, Sought, ProcessId, NodeId, Epoch)>,
    /// Streams that somebody broke on purpose.
    rude: BTreeSet<u64>,
    opened: BTreeSet<u64>,
    done: BTreeSet<StreamId>,
    totals: Totals,
}

fn service(index: usize) -> Service {
    Service {
        name: format!("p{index}"),
        listener: if index == 0 { "calls" } else { "" }.to_owned(),
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let config = Config {
            send_bytes: random.usize(16..3000),
            receive_bytes: random.usize(16..3000),
            data_bytes: random.usize(16..700),
            ..Config::default()
        };
        let processes = (0..PROCESSES).map(|index| {
            let owner = random.usize(..HOSTS);
            let listeners = ["calls".to_owned()];
            let (id, node) = (process(index), host(owner));
            let side = Side::new(id, node, Epoch(1), listeners, config.clone());
            let mut sides: Vec<Option<Side>> = (0..HOSTS).map(|_| None).collect();
            sides[owner] = Some(side);
            Process {
                owner,
                epoch: Epoch(1),
                sides,
                program: Program::new(),
                moving: None,
                leaving: None,
                departed: vec![None; HOSTS],
            }
        });
        let processes = processes.collect();
        let link = |_| Link {
            up: true,
            ..Link::default()
        };
        World {
            random,
            config,
            processes,
            links: (0..HOSTS).map(|_| (0..HOSTS).map(link).collect()).collect(),
            late: Vec::new(),
            answers: Vec::new(),
            rude: BTreeSet::new(),
            opened: BTreeSet::new(),
            done: BTreeSet::new(),
            totals: Totals::default(),
        }
    }

    /// The process's side, if it runs.
    fn running(&mut self, index: usize) -> Option<(&mut Side, &mut Program)> {
        let process = &mut self.processes[index];
        if process.moving.is_some() {
            return None;
        }
        let side = process.sides[process.owner].as_mut()?;
        Some((side, &mut process.program))
    }

    fn step(&mut self, quiet: bool) {
        match self.random.u32(..100) {
            0..=3 if !quiet => self.open(),
            4..=34 => self.act(),
            35..=44 => {
                let index = self.random.usize(..PROCESSES);
                if let Some((side, _)) = self.running(index) {
                    side.flush();
                }
            }
            45..=79 => {
                for _ in 0..self.random.usize(1..40) {
                    self.deliver();
                }
            }
            80..=83 => self.seek(),
            84..=88 => self.hear(),
            89..=90 if !quiet => self.break_link(),
            91 => self.make_link(),
            92..=93 if quiet => self.make_link(),
            92..=93 if !quiet => self.deliver_late(),
            94..=95 if !quiet => self.begin_move(),
            96..=99 => self.go_on_with_move(quiet),
            _ => {}
        }
        self.pump();
    }

    fn open(&mut self) {
        let (index, to) = (
            self.random.usize(..PROCESSES),
            self.random.usize(..PROCESSES),
        );
        let number = self.random.u64(..);
        let to_write = self.random.u64(..6000);
        let rude_after = (self.random.u32(..8) == 0).then(|| self.random.u64(..3000));
        if self.opened.len() >= 12 {
            return;
        }
        let Some((side, program)) = self.running(index) else {
            return;
        };
        let stream = side.call(number, service(to), "/svc/p").unwrap();
        let talk = Talk {
            to_write,
            rude_after,
            ..Talk::default()
        };
        program.insert(stream, talk);
        self.opened.insert(pair(stream));
        self.totals.streams += 1;
    }

    /// A program does something with one of its streams.
    fn act(&mut self) {
        let index = self.random.usize(..PROCESSES);
        let (length, choice) = (self.random.usize(1..900), self.random.usize(..1 << 16));
        let to_write = self.random.u64(..6000);
        let rude = (self.random.u32(..8) == 0).then(|| self.random.u64(..3000));
        let mut rudely = BTreeSet::new();
        let known_rude = self.rude.clone();
        let Some((side, program)) = self.running(index) else {
            return;
        };
        while let Some(stream) = side.accept(0) {
            let talk = Talk {
                to_write,
                rude_after: rude,
                ..Talk::default()
            };
            let before = program.insert(stream, talk);
            assert!(
                before.is_none() || known_rude.contains(&pair(stream)),
                "{stream} is accepted twice"
            );
        }
        let count = program.values().filter(|talk| !talk.closed).count();
        if count == 0 {
            return;
        }
        let mut open = program.iter_mut().filter(|(_, talk)| !talk.closed);
        let Some((&stream, talk)) = open.nth(choice % count) else {
            return;
        };
        let excused = known_rude.contains(&pair(stream));
        let (mut bytes, mut done) = (0, None);
        match side.progress(stream) {
            Progress::Connecting => {
                assert_eq!(side.write(stream, b"x"), Io::Blocked);
                return;
            }
            Progress::Failed(reason) => {
                assert!(excused, "{stream} failed: {reason:?}");
                talk.closed = true;
                side.close(stream);
            }
            Progress::Connected => {
                let mut buffer = vec![0; length];
                match side.read(stream, &mut buffer, false) {
                    Io::Done(0) => talk.ended = true,
                    Io::Done(count) => {
                        let other = StreamId(stream.0 ^ 1);
                        for byte in &buffer[..count] {
                            let expected = pattern(other, talk.read);
                            assert_eq!(*byte, expected, "{stream} at {}", talk.read);
                            talk.read += 1;
                        }
                        bytes = count as u64;
                    }
                    Io::Blocked => {}
                    broken => assert!(excused, "{stream} reads {broken:?}"),
                }
                let until = talk.to_write.min(talk.written + length as u64);
                let piece: Vec<u8> = (talk.written..until)
                    .map(|at| pattern(stream, at))
                    .collect();
                match side.write(stream, &piece) {
                    Io::Done(count) => talk.written += count as u64,
                    Io::Blocked => {}
                    Io::Closed if talk.shut => {}
                    broken => assert!(excused, "{stream} writes {broken:?}"),
                }
                if talk.written == talk.to_write && !talk.shut {
                    talk.shut = true;
                    side.shutdown(stream, false, true);
                }
                if talk.ended && talk.shut {
                    talk.closed = true;
                    side.close(stream);
                    done = Some(stream);
                } else if talk.rude_after.is_some_and(|after| talk.read >= after) {
                    talk.closed = true;
                    side.close(stream);
                    rudely.insert(pair(stream));
                }
            }
        }
        self.done.extend(done);
        self.totals.bytes += bytes;
        self.totals.rude += rudely.len() as u64;
        self.rude.append(&mut rudely);
    }

    fn send(&mut self, from: usize, transmit: Transmit) {
        let link = &mut self.links[from][index_of(transmit.to)];
        if link.up {
            link.queue.push_back(transmit.frame);
        }
    }

    fn pump(&mut self) {
        for from in 0..HOSTS {
            let mut out = Vec::new();
            for process in &mut self.processes {
                if let Some(side) = &mut process.sides[from] {
                    out.extend(std::iter::from_fn(|| side.poll_transmit()));
                }
            }
            for transmit in out {
                self.send(from, transmit);
            }
        }
    }

    /// One frame of a link arrives.
    fn deliver(&mut self) {
        let full = (0..HOSTS * HOSTS).map(|pair| (pair / HOSTS, pair % HOSTS));
        let full = full.filter(|(from, to)| !self.links[*from][*to].queue.is_empty());
        let full: Vec<(usize, usize)> = full.collect();
        let Some((from, to)) = self.random.choice(full) else {
            return;
        };
        let frame = self.links[from][to].queue.pop_front().unwrap();
        self.arrive(from, to, frame);
    }

    /// A frame of a broken link arrives after all, and may do so again.
    fn deliver_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let at = self.random.usize(..self.late.len());
        let (from, to, frame) = match self.random.bool() {
            true => self.late.swap_remove(at),
            false => self.late[at].clone(),
        };
        self.arrive(from, to, frame);
    }

    fn arrive(&mut self, from: usize, to: usize, frame: StreamFrame) {
        let index = frame.process.0 as usize - 1;
        let process = &mut self.processes[index];
        if let Some(side) = &mut process.sides[to] {
            side.handle(host(from), frame);
            return;
        }
        let (known, went) = match process.departed[to] {
            Some((epoch, went)) => (epoch, Some(went).filter(|_| self.random.bool())),
            None => (frame.epoch, None),
        };
        if let Some(frame) = answer_for_missing_process(&frame, known, went) {
            let back = Transmit {
                to: host(from),
                frame,
            };
            self.send(to, back);
        }
        self.pump();
    }

    /// A running process asks the directory for those that its streams wait for.
    fn seek(&mut self) {
        let index = self.random.usize(..PROCESSES);
        // Who may still be answered waits for longer.
        let patient = self.random.u32(..10) > 0;
        let Some((side, _)) = self.running(index) else {
            return;
        };
        for (sought, lost) in side.seeking() {
            if !lost && patient {
                continue;
            }
            let found = match &sought {
                Sought::Service(service) => service.name[1..].parse().unwrap(),
                Sought::Process(process) => process.0 as usize - 1,
            };
            // As the directory has it: of a move that was granted, the target.
            let there = &self.processes[found];
            let (owner, epoch) = match &there.moving {
                Some(Move { to, granted: true }) => (*to, there.epoch.next()),
                _ => (there.owner, there.epoch),
            };
            let answer = (index, sought, process(found), host(owner), epoch);
            self.answers.push(answer);
        }
    }

    /// An answer of the directory arrives, unless the process has gone meanwhile.
    fn hear(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let at = self.random.usize(..self.answers.len());
        let (index, sought, process, owner, epoch) = self.answers.swap_remove(at);
        if let Some((side, _)) = self.running(index) {
            side.found(&sought, process, owner, epoch);
        }
    }

    fn with_sides(&mut self, at: usize, mut act: impl FnMut(&mut Side)) {
        for process in &mut self.processes {
            if let Some(side) = &mut process.sides[at] {
                act(side);
            }
        }
    }

    fn break_link(&mut self) {
        let (a, b) = (self.random.usize(..HOSTS), self.random.usize(..HOSTS));
        if a == b || !self.links[a][b].up {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            self.links[from][to].up = false;
            for frame in std::mem::take(&mut self.links[from][to].queue) {
                // A call that comes late makes another stream, which is broken soon.
                let calls = matches!(frame.body, Body::Call { .. });
                if !calls && self.late.len() < 100 && self.random.bool() {
                    self.late.push((from, to, frame));
                }
            }
            self.with_sides(from, |side| side.link_down(host(to)));
        }
        self.totals.broken_links += 1;
    }

    fn make_link(&mut self) {
        let (a, b) = (self.random.usize(..HOSTS), self.random.usize(..HOSTS));
        if a == b || self.links[a][b].up {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            self.links[from][to].up = true;
            self.with_sides(from, |side| {
                side.link_up(host(to));
                side.attach();
            });
        }
    }

    fn begin_move(&mut self) {
        let index = self.random.usize(..PROCESSES);
        let to = self.random.usize(..HOSTS);
        let moving = self.processes.iter().any(|p| p.moving.is_some());
        let config = self.config.clone();
        let moved = &mut self.processes[index];
        let busy = moved.moving.is_some() || moved.leaving.is_some();
        if busy || to == moved.owner || moved.sides[to].is_some() {
            return;
        }
        let (listeners, streams): (Vec<Listener>, Vec<Stream>) =
            moved.sides[moved.owner].as_mut().unwrap().seal();
        let (id, epoch) = (process(index), moved.epoch.next());
        let side = Side::restore(id, host(to), epoch, listeners, streams, config);
        let mut side = side.unwrap();
        side.attach();
        assert!(side.all_attached(), "a move waits for a partner");
        moved.sides[to] = Some(side);
        moved.moving = Some(Move { to, granted: false });
        self.totals.at_once += u64::from(moving);
    }

    fn go_on_with_move(&mut self, quiet: bool) {
        let index = self.random.usize(..PROCESSES);
        let choice = if quiet { 9 } else { self.random.u32(..10) };
        let moved = &mut self.processes[index];
        if let Some(left) = moved.leaving.take() {
            let (epoch, went) = (moved.epoch, host(moved.owner));
            let mut side = moved.sides[left].take().unwrap();
            side.leave(epoch);
            let last: Vec<Transmit> = std::iter::from_fn(|| side.poll_transmit()).collect();
            moved.departed[left] = Some((epoch, went));
            for transmit in last {
                self.send(left, transmit);
            }
            return;
        }
        let Some(Move { to, granted }) = &mut moved.moving else {
            return;
        };
        let (to, source) = (*to, moved.owner);
        match (*granted, choice) {
            (false, 0..2) => {
                moved.sides[to] = None;
                moved.sides[source].as_mut().unwrap().unseal();
                moved.moving = None;
                self.totals.aborted += 1;
            }
            (false, _) => *granted = true,
            (true, 0) => {
                // The target has died; nobody has run under its epoch.
                moved.sides[to] = None;
                moved.epoch = moved.epoch.next().next();
                let side = moved.sides[source].as_mut().unwrap();
                side.set_epoch(moved.epoch);
                side.unseal();
                side.resume();
                moved.moving = None;
                self.totals.taken_back += 1;
            }
            (true, _) => {
                moved.epoch = moved.epoch.next();
                moved.owner = to;
                moved.leaving = Some(source);
                moved.sides[to].as_mut().unwrap().resume();
                moved.moving = None;
                self.totals.moves += 1;
            }
        }
    }

    fn is_settled(&self) -> bool {
        let at_rest = |p: &Process| {
            let side = p.sides[p.owner].as_ref().unwrap();
            p.moving.is_none() && p.leaving.is_none() && side.streams() == 0
        };
        self.processes.iter().all(at_rest)
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for (index, process) in self.processes.iter().enumerate() {
            for (at, side) in process.sides.iter().enumerate() {
                let Some(side) = side else { continue };
                let statuses: Vec<_> = side.statuses().collect();
                let ignored = side.ignored();
                text += &format!(
                    "process {index} under {} at {at} (owner {}): {statuses:?} {ignored:?} {:?}\n",
                    process.epoch,
                    process.owner,
                    side.seeking()
                );
            }
            for side in process.sides.iter().flatten() {
                text += &format!("{side:?}\n");
            }
            text += &format!("  {:?}\n", process.program);
        }
        text
    }
}

fn run(seed: u64, totals: &mut Totals) {
    let mut world = World::new(seed);
    for _ in 0..3000 {
        world.step(false);
    }
    // Nothing breaks any more: all comes to an end.
    for turn in 0.. {
        world.step(true);
        if world.is_settled() {
            break;
        }
        assert!(
            turn < 60_000,
            "seed {seed} never ends:\n{}",
            world.describe()
        );
    }
    for pair in &world.opened {
        let ends = [StreamId(*pair), StreamId(pair | 1)];
        let whole = ends.iter().all(|end| world.done.contains(end));
        assert!(
            whole || world.rude.contains(pair),
            "seed {seed}: stream {pair:x} did not end in order"
        );
    }
    let Totals {
        streams,
        bytes,
        moves,
        at_once,
        aborted,
        taken_back,
        broken_links,
        rude,
    } = world.totals;
    totals.streams += streams;
    totals.bytes += bytes;
    totals.moves += moves;
    totals.at_once += at_once;
    totals.aborted += aborted;
    totals.taken_back += taken_back;
    totals.broken_links += broken_links;
    totals.rude += rude;
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(otherwise, |value| value.parse().unwrap())
}

#[test]
fn bytes_between_processes_arrive_once_and_in_order_whichever_of_them_move() {
    let first = from_environment("LIMOSA_SEED", 0);
    let rounds = from_environment("LIMOSA_ROUNDS", 1);
    let mut totals = Totals::default();
    for seed in first..first + 1500 * rounds {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut one = Totals::default();
            run(seed, &mut one);
            one
        }));
        let one = ran.unwrap_or_else(|fault| {
            println!("seed {seed}");
            std::panic::resume_unwind(fault)
        });
        totals.streams += one.streams;
        totals.bytes += one.bytes;
        totals.moves += one.moves;
        totals.at_once += one.at_once;
        totals.aborted += one.aborted;
        totals.taken_back += one.taken_back;
        totals.broken_links += one.broken_links;
        totals.rude += one.rude;
    }
    println!(
        "{} streams, {} bytes, {} moves, {} of them begun during another, {} aborted, {} taken back, \
         {} links broken, {} streams broken on purpose",
        totals.streams,
        totals.bytes,
        totals.moves,
        totals.at_once,
        totals.aborted,
        totals.taken_back,
        totals.broken_links,
        totals.rude
    );
    assert!(totals.moves > 10_000 && totals.at_once > 1000 && totals.bytes > 1_000_000);
}

#[test]
fn a_service_that_is_not_there_or_takes_nobody_is_said() {
    let config = Config::default();
    let mut caller = Side::new(process(0), host(0), Epoch(1), [], config.clone());
    let sought = Sought::Service(service(0));
    let stream = caller.call(7, service(0), "/svc/p0").unwrap();
    assert_eq!(caller.seeking(), [(sought.clone(), true)]);
    assert_eq!(caller.progress(stream), Progress::Connecting);
    caller.gone(&sought, ResetReason::NotFound);
    let failed = Progress::Failed(ResetReason::NotFound);
    assert_eq!(caller.progress(stream), failed);
    assert!(caller.seekers() == 0 && caller.poll_transmit().is_none());
    caller.close(stream);
    assert!(caller.is_idle());
    // A process without that listener, and one that has ended.
    for ended in [false, true] {
        let listeners = ["other".to_owned()];
        let mut called = Side::new(process(1), host(1), Epoch(4), listeners, config.clone());
        if ended {
            called.end();
        }
        let stream = caller.call(9, service(0), "/svc/p0").unwrap();
        caller.found(&sought, process(1), host(1), Epoch(4));
        let Transmit { to, frame } = caller.poll_transmit().unwrap();
        assert!(to == host(1) && matches!(frame.body, Body::Call { .. }));
        called.handle(host(0), frame);
        let Transmit { to, frame } = called.poll_transmit().unwrap();
        assert_eq!(to, host(0));
        caller.handle(host(1), frame);
        let reason = match ended {
            false => ResetReason::NotFound,
            true => ResetReason::Refused,
        };
        assert_eq!(caller.progress(stream), Progress::Failed(reason));
        caller.close(stream);
    }
}

#[test]
fn what_a_former_owner_of_the_other_process_says_is_refused() {
    let config = Config::default();
    let mut caller = Side::new(process(0), host(0), Epoch(1), [], config.clone());
    let listeners = ["calls".to_owned()];
    let mut called = Side::new(process(1), host(1), Epoch(4), listeners, config);
    let stream = caller.call(6, service(1), "/svc/p1").unwrap();
    let sought = Sought::Service(service(1));
    caller.found(&sought, process(1), host(1), Epoch(4));
    let call = caller.poll_transmit().unwrap();
    called.handle(host(0), call.frame);
    let answer = called.poll_transmit().unwrap();
    caller.handle(host(1), answer.frame.clone());
    assert_eq!(caller.progress(stream), Progress::Connected);
    let said = |epoch, bytes: &[u8]| StreamFrame {
        to: wire::frame::End::Partner {
            from: process(1),
            epoch: Epoch(epoch),
        },
        body: Body::Data {
            offset: 0,
            bytes: bytes.to_vec(),
        },
        ..answer.frame.clone()
    };
    let mut buffer = [0; 8];
    // From an owner of before, from one that nobody has heard of, and from another node.
    caller.handle(host(1), said(3, b"former"));
    caller.handle(host(1), said(5, b"later"));
    caller.handle(host(2), said(4, b"foreign"));
    assert_eq!(caller.read(stream, &mut buffer, false), Io::Blocked);
    let ignored = caller.ignored();
    let counted = (ignored.older_epoch, ignored.newer_epoch, ignored.foreign);
    assert_eq!(counted, (1, 1, 1));
    caller.handle(host(1), said(4, b"owner"));
    assert_eq!(caller.read(stream, &mut buffer, false), Io::Done(5));
}
