//! Streams in a random world: an anchor with several clients, a process that moves between three
//! nodes, links that delay, break and are remade, and late frames of broken links that still arrive,
//! twice and out of order. Whatever happens, the bytes read are those written, and all comes to an
//! end. A failing seed is the bug report: run it with `LIMOSA_SEED=n`.

use std::collections::{BTreeMap, VecDeque};
use stream::{
    Config, End, Io, Side, Status, Transmit, answer_for_missing_anchor, answer_for_missing_process,
};
use wire::frame::{self, Body, ResetReason, StreamFrame};
use wire::snapshot::{Listener, Stream};
use wire::{Epoch, NodeId, ProcessId, StreamId};

const PROCESS: ProcessId = ProcessId(1);
const ANCHOR: NodeId = NodeId([0xa; 32]);
const HOSTS: usize = 3;

fn host(index: usize) -> NodeId {
    NodeId([index as u8 + 1; 32])
}

/// The byte at `offset` of one direction of a stream: tells where it belongs.
fn pattern(stream: StreamId, to_process: bool, offset: u64) -> u8 {
    let mixed = (offset ^ (stream.0 << 32) ^ (u64::from(to_process) << 60))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

fn patterned(stream: StreamId, to_process: bool, offset: u64, length: usize) -> Vec<u8> {
    let offsets = offset..offset + length as u64;
    offsets.map(|at| pattern(stream, to_process, at)).collect()
}

/// How an application deals with one stream, at either end.
#[derive(Clone, Debug, Default)]
struct Progress {
    read: u64,
    written: u64,
    to_write: u64,
    ended: bool,
    shut: bool,
    closed: bool,
    reset: bool,
    /// Lets go when this much was read, whatever is left.
    rude_after: Option<u64>,
}

impl Progress {
    fn is_done(&self) -> bool {
        self.reset || self.closed || (self.ended && self.shut)
    }
}

/// The program in the process: what it knows travels with it.
#[derive(Clone, Default)]
struct Guest {
    streams: BTreeMap<StreamId, Progress>,
}

struct Client {
    id: StreamId,
    end: Option<End>,
    app: Progress,
    /// The other side may break it.
    may_break: bool,
}

/// Frames on their way between the anchor and one host.
#[derive(Default)]
struct Link {
    up: bool,
    to_host: VecDeque<StreamFrame>,
    to_anchor: VecDeque<StreamFrame>,
    /// What was on the way when a link broke and arrives nevertheless.
    late: Vec<(bool, StreamFrame)>,
}

struct Move {
    from: usize,
    to: usize,
    guest: Guest,
    granted: bool,
}

struct World {
    random: fastrand::Rng,
    config: Config,
    clients: Vec<Client>,
    links: Vec<Link>,
    sides: Vec<Option<Side>>,
    guest: Guest,
    owner: usize,
    epoch: Epoch,
    moving: Option<Move>,
    /// The former owner, which has not left yet, and since when it may.
    leaving: Option<usize>,
    next_stream: u64,
    traced: bool,
    moves: u64,
    aborted: u64,
    taken_back: u64,
    broken_links: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let config = Config {
            send_bytes: random.usize(16..4000),
            receive_bytes: random.usize(16..4000),
            data_bytes: random.usize(1..700),
            ..Config::default()
        };
        let listeners = ["http".to_owned()];
        let side = Side::new(PROCESS, host(0), Epoch(1), listeners, config.clone());
        let link = || Link {
            up: true,
            ..Link::default()
        };
        World {
            random,
            config,
            clients: Vec::new(),
            links: (0..HOSTS).map(|_| link()).collect(),
            sides: vec![Some(side), None, None],
            guest: Guest::default(),
            owner: 0,
            epoch: Epoch(1),
            moving: None,
            leaving: None,
            next_stream: 1,
            traced: std::env::var_os("LIMOSA_TRACE").is_some(),
            moves: 0,
            aborted: 0,
            taken_back: 0,
            broken_links: 0,
        }
    }

    /// With `LIMOSA_SEED` set, `LIMOSA_TRACE=1` tells what happens.
    fn trace(&self, what: impl Fn() -> String) {
        if self.traced {
            eprintln!("{}", what());
        }
    }

    fn connect(&mut self) {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        // The anchor's buffers need not be those of the process.
        let config = Config {
            send_bytes: self.random.usize(16..4000),
            receive_bytes: self.random.usize(16..4000),
            ..self.config.clone()
        };
        let peer = "192.0.2.7:1";
        let owner = host(self.owner);
        let end = End::open(PROCESS, id, ANCHOR, owner, self.epoch, 0, peer, &config);
        let rude = self.random.u8(..8) == 0;
        let app = Progress {
            to_write: self.random.u64(..20_000),
            rude_after: rude.then(|| self.random.u64(..5000)),
            ..Progress::default()
        };
        self.clients.push(Client {
            id,
            end: Some(end),
            app,
            may_break: rude,
        });
    }

    fn step(&mut self) {
        match self.random.u32(..1000) {
            0..5 if self.clients.len() < 5 => self.connect(),
            5..10 => self.break_link(),
            10..50 => self.make_link(),
            50..60 => self.begin_move(),
            60..130 => self.go_on_with_move(),
            130..135 => self.hint(),
            135..160 => self.deliver_late(),
            160..200 => self.flush(),
            200..400 => self.client_acts(),
            400..600 => self.guest_acts(),
            600..800 => {
                let count = self.random.usize(1..8);
                self.pump(count);
            }
            _ => {
                let link = self.random.usize(..HOSTS);
                let to_host = self.random.bool();
                self.deliver(link, to_host);
            }
        }
    }

    fn client_acts(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let index = self.random.usize(..self.clients.len());
        let client = &mut self.clients[index];
        let Some(end) = &mut client.end else { return };
        act(&mut self.random, client.id, true, end, &mut client.app);
        self.forget_if_over(index);
    }

    fn forget_if_over(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client
            .end
            .as_ref()
            .is_some_and(|end| end.is_over() && client.app.is_done())
        {
            client.end = None;
        }
    }

    fn guest_acts(&mut self) {
        let Some(side) = &mut self.sides[self.owner] else {
            return;
        };
        if let Some(id) = side.accept(0) {
            let rude = self.random.u8(..8) == 0;
            let progress = Progress {
                to_write: self.random.u64(..20_000),
                rude_after: rude.then(|| self.random.u64(..5000)),
                ..Progress::default()
            };
            self.guest.streams.insert(id, progress);
            if rude {
                let client = self.clients.iter_mut().find(|client| client.id == id);
                client.unwrap().may_break = true;
            }
        }
        let ids: Vec<StreamId> = self.guest.streams.keys().copied().collect();
        for id in ids {
            let progress = self.guest.streams.get_mut(&id).unwrap();
            act(
                &mut self.random,
                id,
                false,
                &mut OfSide { side, id },
                progress,
            );
        }
    }

    fn flush(&mut self) {
        for client in &mut self.clients {
            if let Some(end) = &mut client.end {
                end.flush();
            }
        }
        for side in self.sides.iter_mut().flatten() {
            side.flush();
        }
    }

    /// Carries frames from the ends onto the links.
    fn pump(&mut self, count: usize) {
        for _ in 0..count {
            let from = self.random.usize(..HOSTS + 1);
            if from < HOSTS {
                let Some(side) = &mut self.sides[from] else {
                    continue;
                };
                let sealed_or_left = self
                    .moving
                    .as_ref()
                    .is_some_and(|moving| moving.from == from);
                let frame = side.poll_transmit();
                assert!(
                    frame.is_none() || !sealed_or_left,
                    "a sealed side has sent {frame:?}"
                );
                if let Some(Transmit { to, frame }) = frame {
                    assert_eq!(to, ANCHOR);
                    if self.links[from].up {
                        self.links[from].to_anchor.push_back(frame);
                    }
                }
            } else if !self.clients.is_empty() {
                let index = self.random.usize(..self.clients.len());
                let Some(end) = &mut self.clients[index].end else {
                    continue;
                };
                if let Some(Transmit { to, frame }) = end.poll_transmit() {
                    let link = (0..HOSTS).find(|at| host(*at) == to).unwrap();
                    if self.links[link].up {
                        self.links[link].to_host.push_back(frame);
                    }
                }
                self.forget_if_over(index);
            }
        }
    }

    fn deliver(&mut self, link: usize, to_host: bool) -> bool {
        let queue = if to_host {
            &mut self.links[link].to_host
        } else {
            &mut self.links[link].to_anchor
        };
        let Some(frame) = queue.pop_front() else {
            return false;
        };
        self.arrive(link, to_host, frame);
        true
    }

    fn deliver_late(&mut self) {
        let link = self.random.usize(..HOSTS);
        let late = &mut self.links[link].late;
        if late.is_empty() {
            return;
        }
        let index = self.random.usize(..late.len());
        let (to_host, frame) = if self.random.bool() {
            late.swap_remove(index)
        } else {
            late[index].clone()
        };
        self.arrive(link, to_host, frame);
    }

    fn arrive(&mut self, link: usize, to_host: bool, frame: StreamFrame) {
        self.trace(|| format!("host {link}, to it {to_host}: {frame:?}"));
        if to_host {
            match &mut self.sides[link] {
                Some(side) => {
                    side.handle(ANCHOR, frame);
                }
                None => {
                    // A node that knows nothing of the process but that it is not here.
                    if let Some(answer) = answer_for_missing_process(&frame, frame.epoch, None)
                        && self.links[link].up
                    {
                        self.links[link].to_anchor.push_back(answer);
                    }
                }
            }
            return;
        }
        let not_here = frame.body == Body::NotHere;
        let client = self
            .clients
            .iter_mut()
            .find(|client| client.id == frame.stream);
        match client.and_then(|client| client.end.as_mut()) {
            Some(end) => {
                let fresh = not_here && frame.epoch >= end.epoch() && end.peer() == host(link);
                end.handle(host(link), frame);
                // What the gateway does, with a directory that answers at once.
                if fresh {
                    end.resync(host(self.owner), self.epoch);
                }
            }
            None => {
                if let Some(answer) = answer_for_missing_anchor(&frame)
                    && self.links[link].up
                {
                    self.links[link].to_host.push_back(answer);
                }
            }
        }
    }

    fn break_link(&mut self) {
        let index = self.random.usize(..HOSTS);
        if !self.links[index].up {
            return;
        }
        self.trace(|| format!("link {index} down"));
        let link = &mut self.links[index];
        self.broken_links += 1;
        link.up = false;
        // Of what was on the way some is lost, some comes late.
        for (to_host, queue) in [(true, &mut link.to_host), (false, &mut link.to_anchor)] {
            for frame in queue.drain(..) {
                if self.random.u8(..3) == 0 && link.late.len() < 40 {
                    link.late.push((to_host, frame));
                }
            }
        }
        if self.random.bool() {
            self.notice_down(index, true);
        }
        if self.random.bool() {
            self.notice_down(index, false);
        }
    }

    fn notice_down(&mut self, index: usize, by_host: bool) {
        if by_host {
            if let Some(side) = &mut self.sides[index] {
                side.link_down(ANCHOR);
            }
            return;
        }
        for end in self
            .clients
            .iter_mut()
            .filter_map(|client| client.end.as_mut())
        {
            if end.peer() == host(index) {
                end.link_down();
            }
        }
    }

    fn make_link(&mut self) {
        let index = self.random.usize(..HOSTS);
        self.make_that_link(index);
    }

    fn make_that_link(&mut self, index: usize) {
        if self.links[index].up {
            return;
        }
        self.trace(|| format!("link {index} up"));
        self.links[index].up = true;
        self.notice_down(index, true);
        self.notice_down(index, false);
        if let Some(side) = &mut self.sides[index] {
            side.link_up(ANCHOR);
        }
        for end in self
            .clients
            .iter_mut()
            .filter_map(|client| client.end.as_mut())
        {
            if end.peer() == host(index) {
                end.link_up();
            }
        }
    }

    fn begin_move(&mut self) {
        if self.moving.is_some() || self.leaving.is_some() {
            return;
        }
        let from = self.owner;
        let to = (from + 1 + self.random.usize(..HOSTS - 1)) % HOSTS;
        let side = self.sides[from].as_mut().unwrap();
        let (listeners, streams): (Vec<Listener>, Vec<Stream>) = side.seal();
        assert_eq!(side.seal(), (listeners.clone(), streams.clone()));
        let config = Config {
            send_bytes: self.random.usize(16..4000),
            receive_bytes: self.random.usize(16..4000),
            data_bytes: self.random.usize(1..700),
            ..self.config.clone()
        };
        let epoch = self.epoch.next();
        let mut target =
            Side::restore(PROCESS, host(to), epoch, listeners, streams, config).unwrap();
        target.attach();
        self.sides[to] = Some(target);
        self.moving = Some(Move {
            from,
            to,
            guest: self.guest.clone(),
            granted: false,
        });
    }

    fn go_on_with_move(&mut self) {
        if let Some(former) = self.leaving {
            let epoch = self.epoch;
            let side = self.sides[former].as_mut().unwrap();
            // A sealed side may be asked again, and it still says the same.
            side.leave(epoch);
            self.leaving = None;
            return;
        }
        let Some(moving) = &mut self.moving else {
            return;
        };
        let (from, to) = (moving.from, moving.to);
        let chance = self.random.u8(..20);
        if moving.granted {
            match chance {
                0..4 => self.take_back(),
                4..12 => self.activate(),
                _ => {}
            }
        } else if chance == 0 {
            self.aborted += 1;
            self.sides[to] = None;
            self.sides[from].as_mut().unwrap().unseal();
            self.moving = None;
        } else if self.sides[to].as_ref().unwrap().all_attached() {
            moving.granted = true;
        }
    }

    /// The target runs it.
    fn activate(&mut self) {
        let moving = self.moving.take().unwrap();
        self.moves += 1;
        self.guest = moving.guest;
        self.owner = moving.to;
        self.epoch = self.epoch.next();
        self.sides[moving.to].as_mut().unwrap().resume();
        self.trace(|| format!("{} runs it", moving.to));
        self.leaving = Some(moving.from);
    }

    /// The target died before it ran: the source has it again, two epochs on.
    fn take_back(&mut self) {
        let moving = self.moving.take().unwrap();
        self.taken_back += 1;
        self.sides[moving.to] = None;
        self.epoch = self.epoch.next().next();
        let epoch = self.epoch;
        let side = self.sides[moving.from].as_mut().unwrap();
        side.set_epoch(epoch);
        side.unseal();
        side.resume();
    }

    /// The directory has granted a move; an anchor may hear of it before it comes about.
    fn hint(&mut self) {
        let (at, epoch) = match &self.moving {
            Some(moving) if moving.granted => (moving.to, self.epoch.next()),
            _ => (self.owner, self.epoch),
        };
        if self.clients.is_empty() || !self.links[at].up {
            return;
        }
        let index = self.random.usize(..self.clients.len());
        if let Some(end) = &mut self.clients[index].end {
            end.resync(host(at), epoch);
        }
    }

    /// From now on nothing goes wrong: everything must come to its end.
    fn settle(&mut self) {
        for index in 0..HOSTS {
            self.make_that_link(index);
        }
        let mut rounds = 0;
        while !self.is_settled() {
            rounds += 1;
            assert!(
                rounds < 200_000,
                "does not come to an end: {}",
                self.describe()
            );
            self.go_on_with_move();
            self.pump(20);
            self.client_acts();
            self.guest_acts();
            for link in 0..HOSTS {
                for to_host in [true, false] {
                    while self.deliver(link, to_host) {}
                }
            }
            if rounds % 50 == 0 {
                self.flush();
                self.look_again();
            }
            for index in 0..self.clients.len() {
                self.forget_if_over(index);
            }
        }
    }

    /// What the gateway does for connections that hang: looks up the owner again.
    fn look_again(&mut self) {
        for end in self
            .clients
            .iter_mut()
            .filter_map(|client| client.end.as_mut())
        {
            let status = end.status();
            if matches!(
                status,
                Status::Opening | Status::Detached | Status::Resyncing
            ) {
                end.resync(host(self.owner), self.epoch);
            }
        }
    }

    fn is_settled(&self) -> bool {
        let side = self.sides[self.owner].as_ref().unwrap();
        let clients = self.clients.iter().all(|client| client.end.is_none());
        self.moving.is_none() && clients && side.streams() == 0
    }

    fn describe(&self) -> String {
        let mut text = format!("owner {} epoch {}", self.owner, self.epoch);
        for client in &self.clients {
            text += &format!("\nclient {:?} {:?} {:?}", client.id, client.app, client.end);
        }
        for side in self.sides.iter().flatten() {
            text += &format!("\n{side:?}");
        }
        for (id, progress) in &self.guest.streams {
            text += &format!("\nguest {id:?} {progress:?}");
        }
        text
    }

    /// What must hold in the end: polite pairs have exchanged everything.
    fn check(&self) {
        for client in &self.clients {
            if client.may_break {
                continue;
            }
            let id = client.id;
            let guest = &self.guest.streams[&id];
            assert!(
                !client.app.reset && !guest.reset,
                "{id:?} was reset: {}",
                self.describe()
            );
            assert_eq!(client.app.read, guest.to_write, "{id:?}");
            assert_eq!(guest.read, client.app.to_write, "{id:?}");
        }
    }
}

/// The verbs that both kinds of end offer to an application.
trait Socket {
    fn read(&mut self, buffer: &mut [u8], peek: bool) -> Io;
    fn write(&mut self, bytes: &[u8]) -> Io;
    fn shut(&mut self);
    fn close(&mut self);
}

impl Socket for End {
    fn read(&mut self, buffer: &mut [u8], peek: bool) -> Io {
        End::read(self, buffer, peek)
    }
    fn write(&mut self, bytes: &[u8]) -> Io {
        End::write(self, bytes)
    }
    fn shut(&mut self) {
        self.shutdown(false, true);
    }
    fn close(&mut self) {
        self.abort(ResetReason::ClientGone);
    }
}

struct OfSide<'a> {
    side: &'a mut Side,
    id: StreamId,
}

impl Socket for OfSide<'_> {
    fn read(&mut self, buffer: &mut [u8], peek: bool) -> Io {
        self.side.read(self.id, buffer, peek)
    }
    fn write(&mut self, bytes: &[u8]) -> Io {
        self.side.write(self.id, bytes)
    }
    fn shut(&mut self) {
        self.side.shutdown(self.id, false, true);
    }
    fn close(&mut self) {
        self.side.close(self.id);
    }
}

/// One random act of an application on one stream.
fn act(
    random: &mut fastrand::Rng,
    id: StreamId,
    is_client: bool,
    socket: &mut impl Socket,
    app: &mut Progress,
) {
    if app.reset && !is_client && !app.closed {
        socket.close();
        app.closed = true;
    }
    if app.closed || app.reset {
        return;
    }
    if app.rude_after.is_some_and(|after| app.read >= after) {
        socket.close();
        app.closed = true;
        return;
    }
    if random.bool() {
        let mut buffer = vec![0; random.usize(1..3000)];
        let peek = random.u8(..8) == 0;
        match socket.read(&mut buffer, peek) {
            Io::Done(0) => app.ended = true,
            Io::Done(length) => {
                let expected = patterned(id, !is_client, app.read, length);
                assert!(
                    buffer[..length] == expected,
                    "{id:?}: wrong bytes at {}",
                    app.read
                );
                assert!(!app.ended, "{id:?}: bytes after the end");
                if !peek {
                    app.read += length as u64;
                }
            }
            Io::Blocked => {}
            Io::Reset => app.reset = true,
            Io::Closed => panic!("a read cannot be closed"),
        }
    } else if app.written < app.to_write {
        let length = random.u64(1..3000).min(app.to_write - app.written);
        let bytes = patterned(id, is_client, app.written, length as usize);
        match socket.write(&bytes) {
            Io::Done(done) => app.written += done as u64,
            Io::Blocked => {}
            Io::Reset => app.reset = true,
            Io::Closed => panic!("writing was not shut down"),
        }
    } else if !app.shut {
        socket.shut();
        app.shut = true;
    }
    if !is_client && app.ended && app.shut {
        socket.close();
        app.closed = true;
    }
}

#[derive(Default)]
struct Totals {
    moves: u64,
    aborted: u64,
    taken_back: u64,
    broken_links: u64,
    bytes: u64,
    polite: u64,
}

fn run(seed: u64, totals: &mut Totals) {
    let mut world = World::new(seed);
    world.connect();
    for _ in 0..world.random.usize(500..6000) {
        world.step();
    }
    world.settle();
    world.check();
    totals.moves += world.moves;
    totals.aborted += world.aborted;
    totals.taken_back += world.taken_back;
    totals.broken_links += world.broken_links;
    totals.bytes += world
        .clients
        .iter()
        .map(|client| client.app.read)
        .sum::<u64>();
    totals.polite += world
        .clients
        .iter()
        .filter(|client| !client.may_break)
        .count() as u64;
}

#[test]
fn bytes_arrive_once_and_in_order_whatever_moves_and_breaks() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let mut totals = Totals::default();
    if let Some(seed) = number("LIMOSA_SEED") {
        return run(seed, &mut totals);
    }
    for seed in 0..number("LIMOSA_SEEDS").unwrap_or(3000) {
        if let Err(panic) = std::panic::catch_unwind(|| {
            let mut totals = Totals::default();
            run(seed, &mut totals);
            totals
        })
        .map(|one| {
            totals.moves += one.moves;
            totals.aborted += one.aborted;
            totals.taken_back += one.taken_back;
            totals.broken_links += one.broken_links;
            totals.bytes += one.bytes;
            totals.polite += one.polite;
        }) {
            eprintln!("failed with LIMOSA_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
    // The model is worth something only if all of this happens.
    assert!(totals.moves > 3000, "{} moves", totals.moves);
    assert!(totals.aborted > 300, "{} aborted moves", totals.aborted);
    assert!(
        totals.taken_back > 300,
        "{} moves taken back",
        totals.taken_back
    );
    assert!(
        totals.broken_links > 3000,
        "{} broken links",
        totals.broken_links
    );
    assert!(totals.bytes > 10_000_000, "{} bytes", totals.bytes);
    assert!(totals.polite > 3000, "{} streams", totals.polite);
}

#[test]
fn statuses_and_roles_are_what_the_model_takes_them_for() {
    let config = Config::default();
    let end = End::open(
        PROCESS,
        StreamId(1),
        ANCHOR,
        host(0),
        Epoch(1),
        0,
        "c",
        &config,
    );
    assert_eq!(end.status(), Status::Opening);
    let mut end = end;
    let open = end.poll_transmit().unwrap();
    assert_eq!(open.to, host(0));
    assert_eq!(open.frame.to, frame::End::Process);
}
