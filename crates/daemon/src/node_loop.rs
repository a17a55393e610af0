//! The one owner of this node's decisions.
//!
//! A single task selects one input, applies it to [`node::Node`] without awaiting, carries the
//! effects out, and selects the next. What takes time runs elsewhere and comes back as an input.

use crate::core::Core;
use crate::fleet::FleetView;
use crate::links::accept::Place;
use crate::links::control::ControlLink;
use crate::links::keep::{Standing, replaces};
use crate::links::transport::Secured;
use crate::moves::Moves;
use crate::processes::sealed::Sealed;
use crate::store::directory::DirectoryStore;
use node::Node;
use node::event::{Effect, Event, Failure, Reply, Token};
use overlay::membership::Health;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use wire::control::{Control, Member};
use wire::link::Hello;
use wire::{MoveId, NodeId};

/// Messages of members that may wait for the loop, and their bytes; then their links wait.
const WAITING: usize = 1024;
const WAITING_BYTES: usize = 16 << 20;

/// What the loop is told.
pub enum Input {
    /// Something that an effect has asked for has come about.
    Event(Event),
    /// A command or question, and where its reply goes.
    Command {
        /// Makes the event for a token.
        event: Box<dyn FnOnce(Token) -> Event + Send>,
        /// Where the reply goes.
        reply: oneshot::Sender<Reply>,
    },
    /// A process froze for a move, or did not.
    Frozen {
        /// The move.
        id: MoveId,
        /// Its state, or why there is none.
        result: Result<Box<Sealed>, String>,
    },
    /// Say when no process is here any more, and no record of one.
    WhenEmpty(oneshot::Sender<()>),
    /// A control link was opened, by either side.
    Link(Box<Opened>),
    /// A control link broke.
    LinkClosed {
        /// The other side.
        peer: NodeId,
        /// Which link.
        generation: u64,
        /// Why.
        reason: String,
    },
}

/// A control link that was opened.
pub struct Opened {
    /// The other side.
    pub peer: NodeId,
    /// What it said.
    pub hello: Hello,
    /// The connection.
    pub stream: Secured,
    /// Who opened it.
    pub dialled_by: NodeId,
    /// Counts it, if it was accepted.
    pub place: Option<Place>,
}

/// A message that came over a control link.
struct Message {
    from: NodeId,
    generation: u64,
    message: Control,
    /// Its part of what may wait.
    _room: OwnedSemaphorePermit,
}

/// Tells the loop things.
#[derive(Clone, Debug)]
pub struct LoopHandle {
    inputs: mpsc::UnboundedSender<Input>,
}

impl LoopHandle {
    /// Tells it. Inputs are answers to effects and accepted requests, so they are bounded by what
    /// was asked for; messages of other nodes come over a bounded queue of their own.
    pub fn tell(&self, input: Input) {
        // The loop ends with the daemon; then nobody is interested any more.
        let _ = self.inputs.send(input);
    }

    /// Reports an event.
    pub fn event(&self, event: Event) {
        self.tell(Input::Event(event));
    }

    /// Gives a command and waits for the reply.
    pub async fn command(
        &self,
        event: impl FnOnce(Token) -> Event + Send + 'static,
    ) -> Result<Reply, Failure> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Command {
            event: Box::new(event),
            reply,
        });
        match answer.await {
            Ok(Reply::Failed(failure)) => Err(failure),
            Ok(reply) => Ok(reply),
            Err(_) => Err(Failure::Store("this node is shutting down".to_owned())),
        }
    }
}

/// The receiving ends of a [`LoopHandle`].
pub struct Inputs {
    inputs: mpsc::UnboundedReceiver<Input>,
}

/// Makes the channel into a loop that does not run yet.
pub fn channel() -> (LoopHandle, Inputs) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let handle = LoopHandle { inputs: sender };
    (handle, Inputs { inputs: receiver })
}

struct Link {
    generation: u64,
    standing: Standing,
    link: ControlLink,
}

/// What the loop owns.
pub struct NodeLoop {
    node: Node,
    core: Arc<Core>,
    started: Instant,
    store: Option<DirectoryStore>,
    view: watch::Sender<FleetView>,
    links: HashMap<NodeId, Link>,
    /// Per member, whether its control link is up; tells its keeper.
    keepers: BTreeMap<NodeId, watch::Sender<bool>>,
    generations: u64,
    tokens: HashMap<Token, oneshot::Sender<Reply>>,
    next_token: Token,
    messages: (mpsc::Sender<Message>, mpsc::Receiver<Message>),
    /// Bytes of messages that may still come to wait.
    room: Arc<Semaphore>,
    moves: Moves,
    when_empty: Vec<oneshot::Sender<()>>,
}

impl NodeLoop {
    /// The loop of a node at its start. `store` is there on the node that keeps the directory.
    pub fn new(
        core: Arc<Core>,
        config: node::Config,
        store: Option<DirectoryStore>,
        view: watch::Sender<FleetView>,
    ) -> NodeLoop {
        let started = Instant::now();
        NodeLoop {
            node: Node::new(started.elapsed(), config),
            moves: Moves::new(core.clone()),
            core,
            started,
            store,
            view,
            links: HashMap::new(),
            keepers: BTreeMap::new(),
            generations: 0,
            tokens: HashMap::new(),
            next_token: 0,
            messages: mpsc::channel(WAITING),
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
            when_empty: Vec::new(),
        }
    }

    /// Runs until the daemon shuts down.
    pub async fn run(mut self, inputs: Inputs) {
        let mut inputs = inputs.inputs;
        let stop = self.core.shutdown.clone();
        let members = self.node.members();
        self.keep_links(&members);
        self.carry_out();
        loop {
            let deadline = self.node.poll_timeout().map(|at| self.started + at);
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(input) = inputs.recv() => self.apply(input),
                Some(message) = self.messages.1.recv() => self.hear(message),
                () = due => {
                    let now = self.started.elapsed();
                    self.node.handle_timeout(now);
                }
            }
            self.carry_out();
        }
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.handle(event),
            Input::Frozen { id, result } => {
                let event = self.moves.frozen(id, result);
                self.handle(event);
            }
            Input::Command { event, reply } => {
                self.next_token += 1;
                let token = self.next_token;
                self.tokens.insert(token, reply);
                let event = event(token);
                if let Event::Migrate {
                    id,
                    process,
                    to,
                    plan,
                    ..
                } = &event
                {
                    let this = (*id, *process);
                    self.moves.begin(this, *to, token, plan.bandwidth);
                }
                self.handle(event);
            }
            Input::WhenEmpty(reply) => self.when_empty.push(reply),
            Input::Link(opened) => self.take_link(*opened),
            Input::LinkClosed {
                peer,
                generation,
                reason,
            } => {
                let current = self.links.get(&peer).map(|link| link.generation);
                if current == Some(generation) {
                    tracing::info!(
                        node = self.core.node_name(peer),
                        reason,
                        "control link down"
                    );
                    self.drop_link(peer);
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.started.elapsed();
        self.node.handle(now, event);
    }

    fn hear(&mut self, message: Message) {
        let current = self.links.get(&message.from).map(|link| link.generation);
        if current == Some(message.generation) {
            self.handle(Event::Control {
                from: message.from,
                message: message.message,
            });
        }
    }

    fn take_link(&mut self, opened: Opened) {
        let Opened {
            peer,
            hello,
            stream,
            dialled_by,
            place,
        } = opened;
        if !self.core.dialler.is_member(peer) {
            // Forgotten while the link was made.
            return;
        }
        let standing = Standing {
            dialled_by,
            incarnation: hello.incarnation,
        };
        let lower = peer.min(self.core.me());
        if let Some(old) = self.links.get(&peer) {
            if !replaces(standing, old.standing, lower) {
                return;
            }
            self.drop_link(peer);
        }
        self.generations += 1;
        let generation = self.generations;
        let (messages, room) = (self.messages.0.clone(), self.room.clone());
        let handle = self.core.node.clone();
        let link = ControlLink::start(
            stream,
            move |message, length| {
                let (messages, room) = (messages.clone(), room.clone());
                async move {
                    // No message is longer than the room, and the semaphore is never closed.
                    let length = u32::try_from(length).unwrap_or(u32::MAX);
                    let Ok(room) = room.acquire_many_owned(length).await else {
                        return;
                    };
                    let message = Message {
                        from: peer,
                        generation,
                        message,
                        _room: room,
                    };
                    let _ = messages.send(message).await;
                }
            },
            move |reason| {
                drop(place);
                handle.tell(Input::LinkClosed {
                    peer,
                    generation,
                    reason,
                });
            },
        );
        self.links.insert(
            peer,
            Link {
                generation,
                standing,
                link,
            },
        );
        if let Some(keeper) = self.keepers.get(&peer) {
            keeper.send_replace(true);
        }
        self.handle(Event::LinkUp(peer));
    }

    fn drop_link(&mut self, peer: NodeId) {
        if self.links.remove(&peer).is_some() {
            if let Some(keeper) = self.keepers.get(&peer) {
                keeper.send_replace(false);
            }
            self.handle(Event::LinkDown(peer));
        }
    }

    /// Opens and keeps links to all members.
    fn keep_links(&mut self, members: &[Member]) {
        for member in members {
            let peer = member.node;
            if peer == self.core.me() || self.keepers.contains_key(&peer) {
                continue;
            }
            let (up, state) = watch::channel(self.links.contains_key(&peer));
            self.keepers.insert(peer, up);
            self.core.keep_control(peer, state);
            self.core.switch.keep(peer);
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.node.poll_effect() {
            self.carry_out_one(effect);
        }
        if !self.when_empty.is_empty() && self.node.is_empty() {
            for waiting in self.when_empty.drain(..) {
                let _ = waiting.send(());
            }
        }
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                if let Some(link) = self.links.get(&to)
                    && let Err(error) = link.link.send(&message)
                {
                    tracing::warn!(node = self.core.node_name(to), %error, "control link dropped");
                    self.drop_link(to);
                }
            }
            Effect::Members(members) => {
                self.view.send_modify(|view| {
                    view.members = members.iter().map(|m| (m.node, m.clone())).collect();
                    view.health
                        .retain(|node, _| view.members.contains_key(node));
                    if let Some(me) = view.members.get(&view.me.node) {
                        view.me = me.clone();
                    }
                });
                self.core.keep_fleet();
                self.keep_links(&members);
            }
            Effect::Forgotten(node) => {
                tracing::info!(node = %node.short(), "a node is no member any more");
                // Before its links go: no new one is taken, and those for requests and moves end.
                self.view.send_modify(|view| {
                    view.members.remove(&node);
                    view.health.remove(&node);
                });
                self.drop_link(node);
                // Without these nobody dials it.
                self.keepers.remove(&node);
                self.core.switch.forget(node);
            }
            Effect::Health { node, health } => {
                let name = self.core.node_name(node);
                match health {
                    Health::Dead => tracing::warn!(node = name, "a node does not answer"),
                    _ => tracing::info!(node = name, ?health, "a node is seen differently"),
                }
                self.view.send_modify(|view| {
                    view.health.insert(node, health);
                });
                if health == Health::Dead {
                    // A link that still seems to be up is of no use; it is made anew.
                    self.drop_link(node);
                    self.core.switch.node_dead(node);
                    self.core.give_up_later(node);
                }
            }
            Effect::Store { ticket, change } => match &self.store {
                Some(store) => store.store(ticket, change),
                None => self.handle(Event::Stored {
                    ticket,
                    result: Err("this node does not keep the directory".to_owned()),
                }),
            },
            Effect::Reply { token, reply } => {
                self.moves.over(token, matches!(reply, Reply::Moved { .. }));
                if let Some(waiting) = self.tokens.remove(&token) {
                    // Who asked may have gone.
                    let _ = waiting.send(reply);
                }
            }
            Effect::Run { process, epoch } => self.core.processes.run(process, epoch),
            Effect::Consider { id, from, offer } => self.moves.consider(id, from, offer),
            Effect::Prepare { id } => self.moves.prepare(id),
            Effect::SendImage { id, image, .. } => self.moves.send_image(id, image),
            Effect::Precopy { id, process, .. } => self.moves.precopy(id, process),
            Effect::Freeze { id, process, kept } => self.moves.freeze(id, process, kept),
            Effect::SendSnapshot { id, process, .. } => self.moves.send_snapshot(id, process),
            Effect::Unfreeze { process } => self.core.processes.unfreeze(process),
            Effect::Activate { id, process, epoch } => {
                self.moves.activate(id, process, epoch);
                self.core.reopened.look();
            }
            Effect::Discard { id } => self.moves.discard(id),
            Effect::Drop {
                process,
                owner,
                epoch,
            } => self.core.processes.moved(process, owner, epoch),
            Effect::TakeBack { process, epoch } => self.core.processes.take_back(process, epoch),
            Effect::Fence { process } => self.core.processes.fence(process),
            Effect::Lost(record) => {
                let name = self.core.node_name(self.core.me());
                self.core.processes.lost(&self.core.switch, &record, &name);
            }
            Effect::Gone { process, epoch } => {
                self.core.anchors.gone(process, epoch);
                self.core.returning.forget(process);
            }
            Effect::Whereabouts(record) => self.core.anchors.whereabouts(&record),
            Effect::Progress { id, process, phase } => {
                tracing::debug!(%id, %process, phase, "move");
                self.core.processes.progress(process, phase);
                if let Some(progress) = &self.core.progress {
                    progress.0(process, phase);
                }
            }
        }
    }
}
