//! Decides for one machine.
//!
//! A [`Node`] is told what happened ([`Node::handle`]) and what time it is, and is asked what to
//! do next ([`Node::poll_effect`]) and when to be called again ([`Node::poll_timeout`]). It opens
//! no socket, reads no clock and draws no random number: the daemon and the simulated world drive
//! the very same code.
//!
//! It is composed of smaller machines, one file each:
//!
//! - `overlay::membership`: who is alive;
//! - `directory_client`: questions to the directory, asked until they are answered;
//! - `directory_server`: the directory, on the node that keeps it;
//! - `processes`: what runs here, from its record's creation to its removal;
//! - `moves`: what is on its way, in or out (`migrate::source`, `migrate::target`).
//!
//! A process that runs here needs nobody's leave to run on: neither the directory's node nor any
//! other. What needs the directory waits for it: a command until its patience ends, a decision
//! about who may run a process for as long as it takes.

mod config;
mod directory_client;
mod directory_server;
pub mod event;
mod moves;
mod processes;

pub use config::{Config, Limits};
pub use event::{Change, Effect, Event, Failure, Named, Reply, Token};
pub use moves::MoveState;

use directory_client::{Client, Patience};
use directory_server::Server;
use moves::Moves;
use overlay::directory::Directory;
use overlay::membership::{self, Health, Membership, NotAdmitted};
use processes::Processes;
use std::collections::VecDeque;
use std::time::Duration;
use wire::control::{Control, Member};
use wire::directory::{Answer, Claim, Operation, Record};
use wire::name::printable;
use wire::{Epoch, MoveId, NodeId, ProcessId};

/// What an answer of the directory is for.
#[derive(Debug)]
enum Purpose {
    /// The record of a new process.
    Create(ProcessId),
    /// The end of a process that was here.
    Remove(ProcessId),
    /// Whether a process that runs here still is this node's, and where one is that is watched,
    /// since it had this epoch.
    Verify {
        process: ProcessId,
        watched: Option<Epoch>,
    },
    /// A question of a move's machine.
    Move { id: MoveId, number: u32 },
    /// `Migrate` of a process that is not here: where is it?
    MigrateElsewhere { token: Token, process: ProcessId },
    /// `Locate`.
    Locate { token: Token, process: ProcessId },
    /// `Find`.
    Find { token: Token },
    /// `List`: what the pages so far have listed.
    List { token: Token, listed: Vec<Record> },
    /// `Remove`: the record as it is.
    Inspect { token: Token, process: ProcessId },
    /// `Remove`: the record's end.
    Forget { token: Token, record: Record },
    /// All records, to find those of this node that nobody runs.
    Survey,
    /// The end of one of those, under this claim.
    Leftover(Claim),
}

/// One machine's decisions. See the crate's documentation.
#[derive(Debug)]
pub struct Node {
    config: Config,
    membership: Membership,
    /// On the directory's node.
    server: Option<Server>,
    client: Client<Purpose>,
    processes: Processes,
    moves: Moves,
    effects: VecDeque<Effect>,
}

impl Node {
    /// A node at its start: it runs nothing and is linked to nobody.
    pub fn new(now: Duration, mut config: Config) -> Self {
        let me = config.me.clone();
        let restored = std::mem::take(&mut config.restored);
        let server = (config.directory == me.node).then(|| {
            let directory = Directory::new(restored, config.floor, config.limits.records);
            Server::new(directory, config.limits)
        });
        let members = std::mem::take(&mut config.members);
        let mut node = Self {
            client: Client::new(me.incarnation, config.retry),
            membership: Membership::new(now, config.membership, me, members),
            server,
            processes: Processes::default(),
            moves: Moves::default(),
            effects: VecDeque::new(),
            config,
        };
        node.survey(now);
        node.settle(now);
        node
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.config.me.node
    }

    /// All members, this node first.
    pub fn members(&self) -> Vec<Member> {
        self.membership.members()
    }

    /// How a member is; `None` for strangers.
    pub fn health(&self, node: NodeId) -> Option<Health> {
        self.membership.health(node)
    }

    /// Moves in flight, in and out.
    pub fn moves(&self) -> impl Iterator<Item = (MoveId, ProcessId, MoveState)> {
        self.moves.iter()
    }

    /// The records of the processes that this node runs or is moving away.
    pub fn processes(&self) -> impl Iterator<Item = &Record> {
        self.processes.records()
    }

    /// Whether nothing is here whose record the directory still has: the node can go down without
    /// leaving anything behind.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// What to do next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Node::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let timeouts = [
            self.membership.poll_timeout(),
            self.client.poll_timeout(),
            self.moves.poll_timeout(),
            self.processes.poll_timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.membership.handle_timeout(now);
        self.client.handle_timeout(now);
        self.handle_move_timeouts(now);
        self.remove_leftovers(now);
        self.settle(now);
    }

    /// Takes in one event.
    pub fn handle(&mut self, now: Duration, event: Event) {
        match event {
            Event::LinkUp(node) => self.handle_link_up(now, node),
            Event::LinkDown(node) => {
                self.membership
                    .handle(now, membership::Event::LinkDown(node));
                self.handle_move_link_down(now, node);
            }
            Event::Control { from, message } => {
                if self.membership.is_member(from) {
                    self.membership.handle(now, membership::Event::Heard(from));
                    self.handle_control(now, from, message);
                }
            }
            Event::ForgetNode { token, node } => self.forget_node(now, token, node),
            Event::Admit { token, member } => self.admit(now, token, member),
            Event::Stored { ticket, result } => {
                if let Some(server) = &mut self.server {
                    server.handle_stored(ticket, result);
                }
            }
            Event::Start {
                token,
                process,
                name,
                image,
                again,
            } => self.start(now, token, process, name, image, again),
            Event::Migrate {
                token,
                id,
                process,
                to,
                artefact,
                memory_bytes,
                volumes,
                plan,
            } => self.migrate(
                now,
                token,
                id,
                process,
                to,
                artefact,
                memory_bytes,
                volumes,
                plan,
            ),
            Event::Cancel { process, reason } => self.cancel(now, process, reason),
            Event::Remove { token, process } => {
                let operation = Operation::Get(process);
                self.ask_for(now, token, operation, Purpose::Inspect { token, process });
            }
            Event::Locate { token, process } => {
                let operation = Operation::Get(process);
                self.ask_for(now, token, operation, Purpose::Locate { token, process });
            }
            Event::Find { token, name } => {
                self.ask_for(now, token, Operation::Find(name), Purpose::Find { token });
            }
            Event::List { token } => self.list(now, token, Vec::new()),
            Event::Watch { process, epoch } => self.watch(now, process, epoch),
            Event::Unwatch(process) => self.processes.unwatch(process),
            Event::Exited(process) => self.handle_exited(now, process),
            Event::Precopied { id, result } => self.handle_precopied(now, id, result),
            Event::Sent { id, bytes } => self.handle_sent(now, id, bytes),
            Event::Landing { id } => self.handle_landing(now, id),
            Event::Frozen { id, result } => self.handle_frozen(now, id, result),
            Event::Considered { id, result } => self.handle_considered(now, id, result),
            Event::Prepared { id, result } => self.handle_prepared(now, id, result),
            Event::Restored { id, result } => self.handle_restored(now, id, result),
            Event::BulkFailed { id, reason } => self.handle_bulk_failed(now, id, reason),
            Event::TakenBack { process, result } => self.handle_taken_back(now, process, result),
        }
        self.settle(now);
    }

    fn admit(&mut self, now: Duration, token: Token, member: Member) {
        let admitted = self.membership.admit(now, member);
        // The world knows the member before whoever waits for this reply.
        self.settle(now);
        let reply = match admitted {
            Ok(()) => Reply::Admitted(self.membership.members()),
            Err(NotAdmitted::NameTaken { by, health }) => Reply::Failed(Failure::NodeNameTaken {
                by: self.named(by),
                dead: health == Health::Dead,
            }),
            Err(NotAdmitted::Full { count }) => Reply::Failed(Failure::FleetFull(count)),
        };
        self.reply(token, reply);
    }

    fn forget_node(&mut self, now: Duration, token: Token, node: NodeId) {
        let named = self.named(node);
        let Some(server) = &mut self.server else {
            let why = "this node does not keep it".to_owned();
            return self.reply(token, Reply::Failed(Failure::Store(why)));
        };
        let count = server.owned_by(node);
        let failure = match self.membership.health(node) {
            None => Failure::UnknownNode(named),
            _ if node == self.config.me.node => Failure::NodeNeeded(named),
            Some(Health::Alive | Health::Suspect) => Failure::NodeAlive(named),
            Some(Health::Dead) if count > 0 => Failure::NodeOwns { node: named, count },
            Some(Health::Dead) => {
                server.forget(node);
                self.membership.remove(node);
                // The world knows before whoever waits for this reply.
                self.settle(now);
                return self.reply(token, Reply::Forgotten);
            }
        };
        self.reply(token, Reply::Failed(failure));
    }

    fn handle_link_up(&mut self, now: Duration, node: NodeId) {
        self.membership.handle(now, membership::Event::LinkUp(node));
        // A stranger may be a member that this node is yet to hear of, and is told no more than who
        // this is; of the directory's node it is told nothing, which knows better.
        let introduction = match self.server {
            None => Some(vec![self.membership.me().clone()]),
            Some(_) if self.membership.is_member(node) => Some(self.membership.members()),
            Some(_) => None,
        };
        if let Some(introduction) = introduction {
            self.send(node, Control::Members(introduction));
        }
        if node == self.config.directory {
            self.client.handle_link_up(now);
            self.verify_all(now);
        }
        self.handle_move_link_up(now, node);
    }

    fn handle_control(&mut self, now: Duration, from: NodeId, message: Control) {
        match message {
            Control::Heartbeat => (),
            Control::Members(members) => {
                if from == self.config.directory {
                    let all: Vec<NodeId> = members.iter().map(|member| member.node).collect();
                    self.membership.keep_only(&all);
                }
                for member in members {
                    let event = if member.node == from {
                        membership::Event::FirstHand(member)
                    } else if from == self.config.directory {
                        membership::Event::HearSay(member)
                    } else {
                        continue;
                    };
                    self.membership.handle(now, event);
                }
            }
            Control::Ask { request, operation } => {
                if let Some(server) = &mut self.server {
                    server.handle_ask(from, request, operation);
                }
            }
            Control::Answer { request, answer } => {
                let answer = match answer {
                    // It is shown to people.
                    Answer::Failed(why) => Answer::Failed(printable(&why, moves::MAX_REASON)),
                    answer => answer,
                };
                if from == self.config.directory {
                    self.client.handle_answer(now, request, answer);
                }
            }
            Control::Move { id, step } => self.handle_step(now, from, id, step),
            Control::Gone { process, epoch } => self.handle_gone(now, process, epoch),
        }
    }

    /// Lets the parts talk to each other until none has anything to say.
    fn settle(&mut self, now: Duration) {
        loop {
            if let Some(effect) = self.membership.poll_effect() {
                self.handle_membership(now, effect);
            } else if let Some(output) = self.client.poll_output() {
                match output {
                    directory_client::Output::Ask { request, operation } => {
                        self.ask_directory(request, operation);
                    }
                    directory_client::Output::Answered { purpose, answer } => {
                        self.handle_answer(now, purpose, answer);
                    }
                }
            } else if let Some(output) = self.server.as_mut().and_then(Server::poll_output) {
                self.handle_server(now, output);
            } else {
                return;
            }
        }
    }

    fn handle_membership(&mut self, now: Duration, effect: membership::Effect) {
        match effect {
            membership::Effect::Heartbeat(node) => self.send(node, Control::Heartbeat),
            membership::Effect::Health { node, health } => {
                self.effects.push_back(Effect::Health { node, health });
                if health == Health::Dead {
                    self.handle_peer_gone(now, node, "it is dead");
                }
            }
            membership::Effect::Restarted(node) => {
                self.handle_peer_gone(now, node, "it was restarted");
                self.survey(now);
            }
            membership::Effect::Removed(node) => {
                self.handle_peer_gone(now, node, "it was removed from the fleet");
                self.effects.push_back(Effect::Forgotten(node));
            }
            membership::Effect::Changed => {
                let members = self.membership.members();
                if self.server.is_some() {
                    self.broadcast(&Control::Members(members.clone()));
                }
                self.effects.push_back(Effect::Members(members));
            }
        }
    }

    fn handle_server(&mut self, now: Duration, output: directory_server::Output) {
        match output {
            directory_server::Output::Answer {
                to,
                request,
                answer,
            } => {
                if to == self.id() {
                    self.client.handle_answer(now, request, answer);
                } else {
                    self.send(to, Control::Answer { request, answer });
                }
            }
            directory_server::Output::Store { ticket, change } => {
                self.effects.push_back(Effect::Store { ticket, change });
            }
            directory_server::Output::Removed { process, epoch } => {
                self.broadcast(&Control::Gone { process, epoch });
                self.handle_gone(now, process, epoch);
            }
        }
    }

    fn handle_answer(&mut self, now: Duration, purpose: Purpose, answer: Option<Answer>) {
        match purpose {
            Purpose::Create(process) => self.handle_created(now, process, answer),
            Purpose::Remove(process) => self.handle_removed(now, process, answer),
            Purpose::Verify { process, watched } => {
                self.handle_verified(now, process, watched, answer);
            }
            Purpose::Move { id, number } => self.handle_move_answer(now, id, number, answer),
            Purpose::MigrateElsewhere { token, process } => {
                let failure = match answer {
                    Some(Answer::Done(record)) if record.claim.owner != self.id() => {
                        let owner = self.named(record.claim.owner);
                        Failure::NotOwner { process, owner }
                    }
                    None => Failure::DirectoryUnreachable,
                    Some(_) => Failure::UnknownProcess(process),
                };
                self.reply(token, Reply::Failed(failure));
            }
            Purpose::Locate { token, process } => {
                let reply = match answer {
                    Some(Answer::Done(record)) => Reply::Located(record),
                    other => Reply::Failed(not_answered(other, process)),
                };
                self.reply(token, reply);
            }
            Purpose::Find { token } => {
                let reply = match answer {
                    Some(Answer::Done(record)) => Reply::Found(Some(record)),
                    Some(Answer::Unknown) => Reply::Found(None),
                    Some(Answer::Failed(why)) => Reply::Failed(Failure::Store(why)),
                    _ => Reply::Failed(Failure::DirectoryUnreachable),
                };
                self.reply(token, reply);
            }
            Purpose::List { token, mut listed } => {
                let reply = match answer {
                    Some(Answer::Records { records, more }) => {
                        // A page without any would be asked for again for ever.
                        let more = more && !records.is_empty();
                        listed.extend(records);
                        if more && listed.len() < self.config.limits.records {
                            return self.list(now, token, listed);
                        }
                        Reply::Records(listed)
                    }
                    Some(Answer::Failed(why)) => Reply::Failed(Failure::Store(why)),
                    _ => Reply::Failed(Failure::DirectoryUnreachable),
                };
                self.reply(token, reply);
            }
            Purpose::Inspect { token, process } => match answer {
                Some(Answer::Done(record)) => self.forget(now, token, record),
                other => {
                    let failure = not_answered(other, process);
                    self.reply(token, Reply::Failed(failure));
                }
            },
            Purpose::Forget { token, record } => {
                let process = record.process;
                let reply = match answer {
                    // Unknown: done before the directory's node was restarted.
                    Some(Answer::Done(_) | Answer::Unknown) => Reply::Removed(record),
                    Some(Answer::Conflict(record)) => Reply::Failed(Failure::OwnerAlive {
                        process,
                        owner: self.named(record.claim.owner),
                    }),
                    other => Reply::Failed(not_answered(other, process)),
                };
                self.reply(token, reply);
            }
            Purpose::Survey => {
                if let Some(Answer::Records { records, more }) = answer {
                    self.handle_survey(now, records, more);
                }
            }
            Purpose::Leftover(claim) => self.handle_leftover(now, claim, answer),
        }
    }

    /// Asks for the next page of a list.
    fn list(&mut self, now: Duration, token: Token, listed: Vec<Record>) {
        let after = listed.last().map(|record| record.process);
        let operation = Operation::List { after };
        self.ask_for(now, token, operation, Purpose::List { token, listed });
    }

    /// Removes the record of a process that nobody runs, as far as can be known from here.
    fn forget(&mut self, now: Duration, token: Token, record: Record) {
        let (process, owner) = (record.process, record.claim.owner);
        let lost = match self.membership.health(owner) {
            _ if owner == self.id() => !self.is_here(process),
            Some(Health::Alive | Health::Suspect) => false,
            Some(Health::Dead) | None => true,
        };
        if !lost {
            let owner = self.named(owner);
            let failure = Failure::OwnerAlive { process, owner };
            return self.reply(token, Reply::Failed(failure));
        }
        let operation = Operation::Remove {
            process,
            expect: record.claim,
        };
        self.ask_for(now, token, operation, Purpose::Forget { token, record });
    }

    /// Asks for a command, which gets a reply when patience ends.
    fn ask_for(&mut self, now: Duration, token: Token, operation: Operation, purpose: Purpose) {
        let count = self.config.limits.questions;
        if self.client.len() >= count {
            let what = "questions to the directory in flight";
            let failure = Failure::TooMany { what, count };
            return self.reply(token, Reply::Failed(failure));
        }
        let patience = Patience::For(self.config.patience);
        self.ask(now, operation, purpose, patience);
    }

    fn ask(&mut self, now: Duration, operation: Operation, purpose: Purpose, patience: Patience) {
        self.client.ask(now, operation, purpose, patience);
    }

    fn ask_directory(&mut self, request: u64, operation: Operation) {
        let me = self.id();
        match &mut self.server {
            Some(server) => server.handle_ask(me, request, operation),
            None => {
                let directory = self.config.directory;
                if self.membership.is_linked(directory) {
                    self.send(directory, Control::Ask { request, operation });
                }
            }
        }
    }

    /// A node, for people.
    fn named(&self, node: NodeId) -> Named {
        let name = self.membership.member(node).map(|m| m.name.clone());
        Named { node, name }
    }

    fn broadcast(&mut self, message: &Control) {
        let linked = self.membership.peers();
        let linked: Vec<NodeId> = linked.filter(|n| self.membership.is_linked(*n)).collect();
        for node in linked {
            self.send(node, message.clone());
        }
    }

    fn send(&mut self, to: NodeId, message: Control) {
        self.effects.push_back(Effect::Send { to, message });
    }

    fn reply(&mut self, token: Token, reply: Reply) {
        self.effects.push_back(Effect::Reply { token, reply });
    }
}

/// Why an answer is not what a command about one process needs.
fn not_answered(answer: Option<Answer>, process: ProcessId) -> Failure {
    match answer {
        None => Failure::DirectoryUnreachable,
        Some(Answer::Failed(why)) => Failure::Store(why),
        Some(_) => Failure::UnknownProcess(process),
    }
}
