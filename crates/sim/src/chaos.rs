//! A random run: a stormy phase in which anything may fail, then a calm one in which everything
//! must come to an end.

use crate::conditions::Conditions;
use crate::network::Channel;
use crate::world::{Report, Violation, World};
use node::Event;
use overlay::membership::Health;
use std::time::Duration;
use wire::ProcessId;

/// Machines in a random run.
const HOSTS: usize = 3;
/// Processes that exist at once, at most.
const PROCESSES: usize = 3;
/// How long the calm phase lasts: longer than the longest wait of any machine.
const CALM: Duration = Duration::from_secs(300);

/// How likely some acts are in this run, of 1.
struct Mood {
    crashes: f64,
    ends: f64,
}

/// Runs the world of a seed: `steps` happenings in the storm, then the calm.
///
/// # Errors
/// The first rule that was broken; the same seed and steps break it again.
pub fn run(seed: u64, steps: u64) -> Result<Report, Violation> {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x0011_2233_4455_6677);
    let directory = random.usize(0..HOSTS);
    let conditions = Conditions::stormy(&mut random);
    let mut world = World::new(seed, HOSTS, directory, conditions);
    for host in 0..HOSTS {
        let after = Duration::from_millis(random.u64(0..300));
        world.boot_later(host, after);
    }
    let mood = Mood {
        crashes: random.f64() * random.f64(),
        ends: random.f64(),
    };
    let pace_ms = random.u64(20..1_000);
    let mut next_act = Duration::from_millis(500);
    for _ in 0..steps {
        world.step();
        world.check()?;
        if world.now >= next_act {
            act(&mut world, &mut random, &mood);
            world.check()?;
            next_act = world.now + Duration::from_millis(random.u64(1..pace_ms));
        }
    }
    calm(&mut world)?;
    Ok(world.report)
}

/// Ends all faults and waits; then nothing may be left undone.
pub fn calm(world: &mut World) -> Result<(), Violation> {
    world.conditions = Conditions::calm();
    world.heal();
    for host in 0..world.hosts.len() {
        world.boot(host);
    }
    let end = world.now + CALM;
    while world.now < end && world.step() {
        world.check()?;
    }
    at_rest(world).map_err(|what| world.violation(what))?;
    let lives = world.ledger.lives.values();
    world.report.lost = lives.filter(|life| life.excuse.is_some()).count() as u64;
    Ok(())
}

/// One thing that users or the weather do.
fn act(world: &mut World, random: &mut fastrand::Rng, mood: &Mood) {
    let host = random.usize(0..HOSTS);
    let other = (host + random.usize(1..HOSTS)) % HOSTS;
    let running: Vec<(usize, ProcessId)> = (0..HOSTS)
        .flat_map(|h| world.hosts[h].instances.keys().map(move |p| (h, *p)))
        .collect();
    let chosen = (!running.is_empty()).then(|| running[random.usize(0..running.len())]);
    match (random.u8(0..60), chosen) {
        (0..=5, _) if running.len() < PROCESSES => {
            let process = ProcessId(random.u64(..));
            let name = format!("name{}", random.u8(0..6));
            world.start(host, process, &name);
        }
        (6..=23, Some((at, process))) => {
            world.migrate(at, process, (at + random.usize(0..HOSTS)) % HOSTS);
        }
        (24, Some((_, process))) => {
            world.migrate(host, process, other);
        }
        (25, Some((at, process))) if random.f64() < mood.ends => world.end(at, process),
        (26, _) => {
            world.command(host, "list", |token| Event::List { token });
        }
        (27, Some((_, process))) => {
            let text = format!("locate {process}");
            world.command(host, &text, |token| Event::Locate { token, process });
        }
        (28, _) => {
            let directory = &world.hosts[world.directory];
            let recorded: Vec<ProcessId> = directory.store.keys().copied().collect();
            if !recorded.is_empty() {
                let process = recorded[random.usize(0..recorded.len())];
                world.remove(host, process);
            }
        }
        (29..=31, _) if random.f64() < mood.crashes => {
            world.crash(host);
            let most = if random.bool() { 500 } else { 8_000 };
            world.boot_later(host, Duration::from_millis(random.u64(1..most)));
        }
        (32..=34, _) => {
            let channel = match random.bool() {
                true => Channel::Control,
                false => Channel::Streams,
            };
            world.break_link(host, other, channel);
        }
        (40..=54, Some((_, process))) => {
            let total = random.u64(0..3_000);
            world.connect(host, process, total);
        }
        (55, _) => {
            let clients = world.hosts[host].anchors.keys().next().copied();
            if let Some(stream) = clients {
                world.hang_up(host, stream);
            }
        }
        (35..=36, _) => world.part(host, other),
        (37..=38, _) => world.heal(),
        _ => (),
    }
}

/// Nothing waits, nothing is frozen, the directory says what is, and nothing is missing.
fn at_rest(world: &World) -> Result<(), String> {
    if let Some(command) = world.unanswered().next() {
        return Err(format!("no reply to {command}"));
    }
    for (index, host) in world.hosts.iter().enumerate() {
        let node = host.node.as_ref();
        let node = node.ok_or_else(|| format!("host {index} is down"))?;
        if let Some((id, process, state)) = node.moves().next() {
            return Err(format!(
                "the move {id} of {process} at host {index} never ends: {state:?}"
            ));
        }
        if let Some(id) = host.arrivals.keys().next() {
            return Err(format!("host {index} keeps what came by move {id}"));
        }
        for peer in &world.hosts {
            if node.health(peer.id) != Some(Health::Alive) {
                return Err(format!(
                    "host {index} does not see {} alive",
                    peer.id.short()
                ));
            }
        }
        for (process, instance) in &host.instances {
            if !host.runs(*process) {
                return Err(format!(
                    "{process} stays {:?} at host {index}",
                    instance.activity
                ));
            }
            let record = world.hosts[world.directory].store.get(process);
            let owned = record.is_some_and(|record| {
                record.claim.owner == host.id && record.claim.epoch == instance.epoch
            });
            if !owned {
                return Err(format!(
                    "{process} runs at host {index} under epoch {}, but its record is {record:?}",
                    instance.epoch
                ));
            }
        }
        let known = node.processes().count();
        if known != host.instances.len() {
            return Err(format!(
                "host {index} runs {} processes, its node knows {known}",
                host.instances.len()
            ));
        }
    }
    world.traffic_at_rest()?;
    for record in world.hosts[world.directory].store.values() {
        if !world.hosts.iter().any(|host| host.runs(record.process)) {
            return Err(format!("nobody runs {record:?}"));
        }
    }
    for (process, life) in &world.ledger.lives {
        let runs = world.hosts.iter().any(|host| host.runs(*process));
        if !runs && !life.ended && life.excuse.is_none() {
            return Err(format!("{process} has disappeared: {life:?}"));
        }
    }
    Ok(())
}
