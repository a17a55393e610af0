//! What a machine does for its node: carries bulk, writes its disk, runs model processes.

use crate::conditions::Conditions;
use crate::host::{Activity, Arrival, Instance, Memory, Pages, Snapshot, Write, write};
use crate::world::{Bulk, Local, World, stream_config};
use migrate::rounds::Round;
use node::{Effect, Event};
use overlay::membership::Health;
use std::collections::BTreeSet;
use std::time::Duration;
use stream::Side;
use wire::{Epoch, MoveId, NodeId, ProcessId};

/// Pages that a model process writes, and what each counts in a round.
const PAGES: usize = 16;
const PAGE_BYTES: u64 = 4096;

impl World {
    pub(crate) fn act(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send(index, to, message),
            Effect::Members(members) => {
                let host = &mut self.hosts[index];
                host.members = members;
            }
            // Nobody is forgotten here.
            Effect::Forgotten(_) => {}
            Effect::Health { node, health } => {
                let peer = self.index_of(node);
                self.trace(index, || format!("sees host {peer}: {health:?}"));
                if health == Health::Dead {
                    self.anchors_hear(index, |_| Some(gateway::Event::NodeDead(node)));
                    self.anchor_dead(index, node);
                }
            }
            Effect::Store { ticket, change } => {
                self.hosts[index].writes.push(Write { ticket, change });
                let after = self.work_time();
                self.schedule_at(index, after, Local::Written(ticket));
            }
            Effect::Reply { token, reply } => self.replied(index, token, reply),
            Effect::Run { process, epoch } => {
                self.report.started += 1;
                let me = self.hosts[index].id;
                let config = stream_config();
                let side = Side::new(process, me, epoch, ["main".to_owned()], config);
                self.run(index, process, epoch, Memory::default(), side);
            }
            Effect::Consider { id, from, offer } => {
                let lacks_image = self.random.bool();
                let arrival = Arrival {
                    from: self.index_of(from),
                    offer,
                    lacks_image,
                    preparing: false,
                    landed: Pages::new(),
                    thawed: None,
                    attached: false,
                };
                self.hosts[index].arrivals.insert(id, arrival);
                let result = self.local_work("there is no room").map(|()| lacks_image);
                self.later(index, Event::Considered { id, result });
            }
            Effect::Prepare { id } => {
                if let Some(arrival) = self.hosts[index].arrivals.get_mut(&id) {
                    arrival.preparing = true;
                    if !arrival.lacks_image {
                        let after = self.work_time();
                        self.schedule_at(index, after, Local::Prepared(id));
                    }
                }
            }
            Effect::SendImage { id, to, .. } => self.send_bulk(index, to, id, Bulk::Image),
            Effect::Precopy {
                id,
                process,
                to,
                round,
            } => self.precopy(index, id, process, to, round),
            Effect::Freeze { id, process, .. } => {
                if let Some(instance) = self.hosts[index].instances.get_mut(&process) {
                    instance.freezing = Some(id);
                }
                let after = self.work_time();
                self.schedule_at(index, after, Local::Freeze(id, process));
            }
            Effect::SendSnapshot { id, process, to } => {
                let instance = self.hosts[index].instances.get(&process);
                if let Some(sealed) = instance.and_then(|i| i.sealed.clone()) {
                    self.send_bulk(index, to, id, Bulk::Snapshot(Box::new(sealed)));
                }
            }
            Effect::Unfreeze { process } => self.unfreeze(index, process),
            Effect::Activate { id, process, epoch } => {
                let arrival = self.hosts[index].arrivals.remove(&id);
                match arrival.and_then(|arrival| arrival.thawed) {
                    Some((memory, mut side)) => {
                        side.resume();
                        self.run(index, process, epoch, memory, side);
                    }
                    None => self.broken(format!("host {index} activates {process} unthawed")),
                }
            }
            Effect::Discard { id } => {
                self.hosts[index].arrivals.remove(&id);
            }
            Effect::Drop { process, epoch, .. } => {
                if self.hosts[index].runs(process) {
                    self.broken(format!("host {index} drops {process}, which runs"));
                }
                if let Some(mut instance) = self.hosts[index].instances.remove(&process) {
                    instance.side.leave(epoch);
                    self.send_last_frames(index, instance.side);
                }
                self.hosts[index].left.insert(process, epoch);
            }
            Effect::TakeBack { process, epoch } => {
                self.report.taken_back += 1;
                let instance = self.hosts[index].instances.get_mut(&process);
                match instance {
                    Some(instance) if instance.activity == Activity::Sealed => {
                        instance.activity = Activity::Thawing;
                        let after = self.work_time();
                        self.schedule_at(index, after, Local::Thaw(process, epoch));
                    }
                    _ => self.broken(format!(
                        "host {index} takes {process} back without a snapshot"
                    )),
                }
            }
            Effect::Fence { process } => {
                self.trace(index, || format!("fences {process}"));
                let excused = self.ledger.lives.get(&process);
                if excused.is_some_and(|life| life.excuse.is_none() && !life.ended) {
                    self.broken(format!("host {index} fences {process} for no reason"));
                }
                self.hosts[index].instances.remove(&process);
            }
            Effect::Lost(record) => {
                let process = record.process;
                self.trace(index, || format!("has lost {process}"));
                let was_run = record.claim.attempt > 0;
                if was_run
                    && self
                        .hosts
                        .iter()
                        .any(|host| host.is_up() && host.runs(process))
                {
                    self.broken(format!(
                        "host {index} says that {process} is lost, which runs"
                    ));
                }
            }
            Effect::Gone { process, .. } => {
                self.trace(index, || format!("hears that {process} is gone"));
                self.anchors_hear(index, |anchor| {
                    (anchor.process() == process).then_some(gateway::Event::ProcessGone)
                });
            }
            Effect::Whereabouts(record) => self.anchors_catch_up(index, &record),
            Effect::Progress { process, phase, .. } => {
                self.trace(index, || format!("{process}: {phase}"));
            }
        }
    }

    fn send_bulk(&mut self, index: usize, to: NodeId, id: MoveId, bulk: Bulk) {
        let to = self.index_of(to);
        let whole = self.random.f64() >= self.conditions.break_bulk;
        let after = Conditions::draw(&mut self.random, &self.conditions.bulk_us);
        let from = (index, self.hosts[index].life);
        let arrives = Local::Bulk {
            id,
            from,
            bulk,
            whole,
        };
        self.schedule_at(to, after, arrives);
    }

    pub(crate) fn bulk_ends(
        &mut self,
        index: usize,
        id: MoveId,
        (from, life): (usize, u64),
        bulk: Bulk,
        whole: bool,
    ) {
        let alive = self.hosts[from].is_up() && self.hosts[from].life == life;
        if !whole || !alive || self.network.is_parted(from, index) {
            let reason = "the bulk connection broke".to_owned();
            if alive {
                let reason = reason.clone();
                self.tell(from, Event::BulkFailed { id, reason });
            }
            return self.tell(index, Event::BulkFailed { id, reason });
        }
        let Some(arrival) = self.hosts[index].arrivals.get_mut(&id) else {
            return;
        };
        match bulk {
            Bulk::Image => {
                arrival.lacks_image = false;
                if arrival.preparing {
                    let after = self.work_time();
                    self.schedule_at(index, after, Local::Prepared(id));
                }
            }
            Bulk::Pages(pages) => {
                let process = arrival.offer.process;
                let bytes = pages.len() as u64 * PAGE_BYTES;
                arrival.landed.extend(pages);
                self.tell(index, Event::Landing { id });
                if alive {
                    self.precopied(from, id, process, bytes);
                }
            }
            Bulk::Snapshot(snapshot) => {
                // Only what came as pages is in its memory.
                let mut pages = std::mem::take(&mut arrival.landed);
                let (process, epoch) = (arrival.offer.process, arrival.offer.epoch.next());
                let me = self.hosts[index].id;
                let config = stream_config();
                let Snapshot {
                    mut memory,
                    listeners,
                    streams,
                } = *snapshot;
                pages.append(&mut memory.pages);
                memory.pages = pages;
                match Side::restore(process, me, epoch, listeners, streams, config) {
                    Err(error) => self.broken(format!("a snapshot is refused: {error}")),
                    Ok(mut side) => {
                        side.attach();
                        if let Some(arrival) = self.hosts[index].arrivals.get_mut(&id) {
                            arrival.thawed = Some((memory, side));
                        }
                        self.carry(index);
                        self.mind_the_dead(index);
                    }
                }
            }
        }
    }

    pub(crate) fn written(&mut self, index: usize, ticket: u64) {
        let fails = self.random.f64() < self.conditions.fail_store;
        let host = &mut self.hosts[index];
        let Some(position) = host.writes.iter().position(|w| w.ticket == ticket) else {
            return;
        };
        let done = host.writes.remove(position);
        let result = if fails {
            Err("the disk is full".to_owned())
        } else {
            self.persist(index, &done.change);
            Ok(())
        };
        if result.is_ok() {
            let change = &done.change;
            self.trace(index, || format!("has written {change:?}"));
        }
        self.tell(index, Event::Stored { ticket, result });
    }

    pub(crate) fn persist(&mut self, index: usize, change: &node::Change) {
        if let node::Change::Delete(process) = change
            && self.removals.contains(process)
        {
            self.ledger
                .excuse(*process, || "it was removed by command".to_owned());
        }
        write(&mut self.hosts[index].store, change);
    }

    // ----- model processes -----

    fn run(&mut self, index: usize, process: ProcessId, epoch: Epoch, memory: Memory, side: Side) {
        let instance = Instance {
            epoch,
            activity: Activity::Running,
            freezing: None,
            dirty: None,
            memory,
            side,
            sealed: None,
        };
        self.hosts[index].instances.insert(process, instance);
        self.runs(index, process);
    }

    /// A process runs here from now on.
    fn runs(&mut self, index: usize, process: ProcessId) {
        let Some(instance) = self.hosts[index].instances.get_mut(&process) else {
            return;
        };
        instance.activity = Activity::Running;
        instance.freezing = None;
        instance.sealed = None;
        let (epoch, work) = (instance.epoch, instance.memory.work);
        self.trace(index, || format!("runs {process} under epoch {epoch}"));
        let mut others = (0..self.hosts.len()).filter(|other| *other != index);
        let elsewhere = others.find(|other| self.hosts[*other].runs(process));
        let result = self.ledger.runs(process, index, epoch, work, elsewhere);
        self.note(result);
        if let Some(instance) = self.hosts[index].instances.get(&process) {
            let result = self.ledger.has(process, &instance.memory.pages);
            self.note(result);
        }
        let after = self.work_time();
        self.schedule_at(index, after, Local::Work(process, epoch));
        self.carry(index);
    }

    /// A process that runs writes some of its pages.
    pub(crate) fn scribble(&mut self, index: usize, process: ProcessId) {
        let Some(instance) = self.hosts[index].instances.get_mut(&process) else {
            return;
        };
        if instance.activity != Activity::Running {
            return;
        }
        for _ in 0..self.writes.u8(..3) {
            let (page, value) = (self.writes.usize(..PAGES), self.writes.u64(..));
            instance.memory.pages.insert(page, value);
            if let Some((_, dirty)) = &mut instance.dirty {
                dirty.insert(page);
            }
            self.ledger.writes(process, page, value);
        }
    }

    /// Sends a round of a process's memory.
    fn precopy(&mut self, index: usize, id: MoveId, process: ProcessId, to: NodeId, round: u32) {
        let known = self.local_work("what it writes cannot be known here");
        let Some(instance) = self.hosts[index].instances.get_mut(&process) else {
            return;
        };
        if let Err(reason) = known {
            instance.dirty = None;
            let result = Err(reason);
            return self.tell(index, Event::Precopied { id, result });
        }
        let all = &instance.memory.pages;
        let pages = match &instance.dirty {
            Some((of, dirty)) if *of == id && round > 0 => {
                let dirty = dirty.iter();
                dirty
                    .filter_map(|page| Some((*page, *all.get(page)?)))
                    .collect()
            }
            _ => all.clone(),
        };
        instance.dirty = Some((id, BTreeSet::new()));
        self.send_bulk(index, to, id, Bulk::Pages(pages));
    }

    /// A round has arrived.
    fn precopied(&mut self, index: usize, id: MoveId, process: ProcessId, bytes: u64) {
        self.scribble(index, process);
        let instance = self.hosts[index].instances.get(&process);
        let dirty = instance.and_then(|instance| instance.dirty.as_ref());
        if let Some((_, dirty)) = dirty.filter(|(of, _)| *of == id) {
            let round = Round {
                bytes,
                took: Duration::from_millis(50),
                dirty: dirty.len() as u64 * PAGE_BYTES,
            };
            let result = Ok(round);
            self.tell(index, Event::Precopied { id, result });
        }
    }

    pub(crate) fn work(&mut self, index: usize, process: ProcessId, epoch: Epoch) {
        let Some(instance) = self.hosts[index].instances.get_mut(&process) else {
            return;
        };
        if instance.activity != Activity::Running || instance.epoch != epoch {
            return;
        }
        instance.memory.work += 1;
        let work = instance.memory.work;
        let result = self.ledger.works(process, work);
        self.note(result);
        self.serve(index, process);
        let after = 20 * self.work_time();
        self.schedule_at(index, after, Local::Work(process, epoch));
    }

    pub(crate) fn freeze(&mut self, index: usize, id: MoveId, process: ProcessId) {
        let fails = self.local_work("it cannot be frozen");
        let result = match self.hosts[index].instances.get_mut(&process) {
            None => Err("it has ended".to_owned()),
            Some(instance) if instance.freezing != Some(id) => return,
            Some(instance) => {
                instance.freezing = None;
                fails.map(|()| {
                    instance.activity = Activity::Sealed;
                    let (listeners, streams) = instance.side.seal();
                    let mut memory = instance.memory.clone();
                    if let Some((_, dirty)) = instance.dirty.take().filter(|(of, _)| *of == id) {
                        memory.pages.retain(|page, _| dirty.contains(page));
                    }
                    instance.sealed = Some(Snapshot {
                        memory,
                        listeners,
                        streams,
                    });
                    1 << 20
                })
            }
        };
        self.tell(index, Event::Frozen { id, result });
    }

    fn unfreeze(&mut self, index: usize, process: ProcessId) {
        let Some(instance) = self.hosts[index].instances.get_mut(&process) else {
            return;
        };
        instance.freezing = None;
        if instance.activity == Activity::Sealed {
            instance.side.unseal();
            self.runs(index, process);
        }
    }

    pub(crate) fn thaw(&mut self, index: usize, process: ProcessId, epoch: Epoch) {
        let fails = self.random.f64() < self.conditions.fail_thaw;
        let Some(instance) = self.hosts[index].instances.get_mut(&process) else {
            return;
        };
        let result = if fails {
            self.hosts[index].instances.remove(&process);
            self.ledger
                .excuse(process, || "it could not be thawed again".to_owned());
            Err("out of memory".to_owned())
        } else {
            instance.epoch = epoch;
            instance.side.set_epoch(epoch);
            instance.side.unseal();
            instance.side.resume();
            self.runs(index, process);
            Ok(())
        };
        self.tell(index, Event::TakenBack { process, result });
    }
}
