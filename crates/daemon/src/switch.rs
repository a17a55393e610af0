//! Carries stream frames between ends: over the streams link to another node, or through memory
//! where both ends are here.
//!
//! An end is a [`Port`]: a machine behind a lock. Frames leave it while its lock is held, so they
//! go out in the order in which it made them; they only enter queues then, so no two ends' locks
//! are ever held at once. What arrives, arrives from one link (or from memory) in order.

use crate::links::Dialler;
use crate::links::accept::Place;
use crate::links::keep::{self, Standing, replaces};
use crate::links::streams::StreamsLink;
use crate::links::transport::Secured;
use overlay::membership::Health;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;
use stream::{Transmit, answer_for_missing_anchor, answer_for_missing_process};
use tokio::sync::{Notify, mpsc, watch};
use wire::frame::{End, StreamFrame};
use wire::link::{Hello, LinkKind};
use wire::{Epoch, NodeId, ProcessId, StreamId};

/// Processes whose departure is remembered, so that anchors can be told the epoch, and other processes
/// where they went.
const REMEMBERED: usize = 4096;

/// How long bytes may stay unacknowledged for no better reason than to save frames. What is not
/// acknowledged travels with a process that moves.
const FLUSH: Duration = Duration::from_millis(20);

/// One or more ends of streams.
pub trait Port: Send + Sync + 'static {
    /// A frame has arrived.
    fn arrived(&self, from: NodeId, frame: StreamFrame);
    /// There is a new link to a node.
    fn link_up(&self, node: NodeId);
    /// The link to a node broke.
    fn link_down(&self, node: NodeId);
    /// A node is taken to be dead; it may come back.
    fn node_dead(&self, node: NodeId);
    /// A node is gone for good.
    fn node_gone(&self, node: NodeId);
    /// There is time to acknowledge what has not been.
    fn flush(&self);
}

/// Where frames go. See the module's documentation.
pub struct Switch {
    dialler: Dialler,
    links: RwLock<HashMap<NodeId, Slot>>,
    /// Serialises what changes the links.
    changing: Mutex<u64>,
    anchors: RwLock<HashMap<StreamId, Arc<dyn Port>>>,
    processes: RwLock<HashMap<ProcessId, Arc<dyn Port>>>,
    departed: Mutex<HashMap<ProcessId, (Epoch, Option<NodeId>)>>,
    memory: mpsc::UnboundedSender<StreamFrame>,
    lazy: Mutex<Vec<Arc<dyn Port>>>,
    lazy_waiting: Arc<Notify>,
    this: Weak<Switch>,
}

struct Slot {
    up: watch::Sender<bool>,
    link: Option<Current>,
}

struct Current {
    generation: u64,
    standing: Standing,
    link: StreamsLink,
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Switch({})", self.dialler.identity.node().short())
    }
}

impl Switch {
    /// A switch without links. Must be called within a tokio runtime.
    pub fn new(dialler: Dialler) -> Arc<Switch> {
        // Bounded by the windows of the streams whose both ends are here.
        let (memory, mut arriving) = mpsc::unbounded_channel();
        let switch = Arc::new_cyclic(|this| Switch {
            dialler,
            links: RwLock::default(),
            changing: Mutex::default(),
            anchors: RwLock::default(),
            processes: RwLock::default(),
            departed: Mutex::default(),
            memory,
            lazy: Mutex::default(),
            lazy_waiting: Arc::default(),
            this: this.clone(),
        });
        let this = switch.this.clone();
        tokio::spawn(async move {
            while let Some(frame) = arriving.recv().await {
                let Some(switch) = this.upgrade() else { return };
                switch.deliver(switch.me(), frame);
            }
        });
        let (this, waiting) = (switch.this.clone(), switch.lazy_waiting.clone());
        tokio::spawn(async move {
            loop {
                waiting.notified().await;
                // Whoever comes meanwhile goes along.
                tokio::time::sleep(FLUSH).await;
                let Some(switch) = this.upgrade() else { return };
                switch.flush();
            }
        });
        switch
    }

    /// A port has something to acknowledge when there is time.
    pub fn flush_soon(&self, port: Arc<dyn Port>) {
        let mut lazy = self.lazy.lock().unwrap_or_else(PoisonError::into_inner);
        lazy.push(port);
        if lazy.len() == 1 {
            self.lazy_waiting.notify_one();
        }
    }

    fn flush(&self) {
        let lazy = {
            let mut lazy = self.lazy.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *lazy)
        };
        lazy.iter().for_each(|port| port.flush());
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.dialler.identity.node()
    }

    /// Whether a node is taken to be dead.
    pub fn is_dead(&self, node: NodeId) -> bool {
        self.dialler.fleet.borrow().health(node) == Health::Dead
    }

    /// This node's name and incarnation, as others see it.
    pub fn introduction(&self) -> (&str, u64) {
        (&self.dialler.name, self.dialler.incarnation)
    }

    /// Sends one frame; where there is no link it is lost, and made good once there is one.
    pub fn send(&self, transmit: Transmit) {
        let Transmit { to, frame } = transmit;
        if to == self.me() {
            let _ = self.memory.send(frame);
            return;
        }
        if let Some(current) = self.links().get(&to).and_then(|slot| slot.link.as_ref()) {
            current.link.send(&frame);
        }
    }

    fn links(&self) -> std::sync::RwLockReadGuard<'_, HashMap<NodeId, Slot>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers the anchor's end of a stream.
    pub fn add_anchor(&self, stream: StreamId, port: Arc<dyn Port>) {
        let mut anchors = self.anchors.write().unwrap_or_else(PoisonError::into_inner);
        anchors.insert(stream, port);
    }

    /// Forgets it.
    pub fn remove_anchor(&self, stream: StreamId) {
        let mut anchors = self.anchors.write().unwrap_or_else(PoisonError::into_inner);
        anchors.remove(&stream);
    }

    /// Registers the ends of a process. False if it has some here: those stay.
    #[must_use]
    pub fn add_process(&self, process: ProcessId, port: Arc<dyn Port>) -> bool {
        let mut ports = self
            .processes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match ports.entry(process) {
            Entry::Vacant(free) => {
                free.insert(port);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Forgets them, if they still are `port`'s. `epoch` is the latest one known of the process, and
    /// `went` where it is under that, if it is anywhere.
    pub fn remove_process(
        &self,
        process: ProcessId,
        port: &Arc<dyn Port>,
        epoch: Epoch,
        went: Option<NodeId>,
    ) {
        let mut ports = self
            .processes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if ports
            .get(&process)
            .is_some_and(|known| Arc::ptr_eq(known, port))
        {
            ports.remove(&process);
        }
        drop(ports);
        let mut departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
        if departed.len() >= REMEMBERED {
            departed.clear();
        }
        departed.insert(process, (epoch, went));
    }

    /// Forgets them, as if they had never been.
    pub fn withdraw_process(&self, process: ProcessId, port: &Arc<dyn Port>) {
        let mut ports = self
            .processes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if ports
            .get(&process)
            .is_some_and(|known| Arc::ptr_eq(known, port))
        {
            ports.remove(&process);
        }
    }

    fn port(&self, frame: &StreamFrame) -> Option<Arc<dyn Port>> {
        match frame.to {
            End::Anchor => {
                let anchors = self.anchors.read().unwrap_or_else(PoisonError::into_inner);
                anchors.get(&frame.stream).cloned()
            }
            End::Process | End::Partner { .. } => {
                let ports = self
                    .processes
                    .read()
                    .unwrap_or_else(PoisonError::into_inner);
                ports.get(&frame.process).cloned()
            }
        }
    }

    fn deliver(&self, from: NodeId, frame: StreamFrame) {
        if let Some(port) = self.port(&frame) {
            port.arrived(from, frame);
            return;
        }
        let answer = match frame.to {
            End::Anchor => answer_for_missing_anchor(&frame),
            End::Process | End::Partner { .. } => {
                let departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
                let known = departed.get(&frame.process).copied();
                let (epoch, went) = known.unwrap_or((frame.epoch, None));
                answer_for_missing_process(&frame, epoch, went)
            }
        };
        if let Some(frame) = answer {
            self.send(Transmit { to: from, frame });
        }
    }

    /// Keeps a link to a member up from now on.
    pub fn keep(&self, peer: NodeId) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if links.contains_key(&peer) {
            return;
        }
        let (up, state) = watch::channel(false);
        links.insert(peer, Slot { up, link: None });
        drop(links);
        let this = self.this.clone();
        let me = self.me();
        tokio::spawn(keep::keep(
            self.dialler.clone(),
            peer,
            LinkKind::Streams,
            state,
            move |stream, hello| {
                if let Some(switch) = this.upgrade() {
                    switch.take_link(peer, &hello, stream, me, None);
                }
            },
        ));
    }

    /// Takes a fresh link into use, unless the one that is there stays.
    pub fn take_link(
        &self,
        peer: NodeId,
        hello: &Hello,
        stream: Secured,
        dialled_by: NodeId,
        place: Option<Place>,
    ) {
        let mut generations = self.changing();
        if !self.dialler.is_member(peer) {
            // Forgotten while the link was made.
            return;
        }
        let standing = Standing {
            dialled_by,
            incarnation: hello.incarnation,
        };
        let lower = peer.min(self.me());
        let present = self
            .links()
            .get(&peer)
            .and_then(|slot| slot.link.as_ref())
            .map(|current| current.standing);
        if let Some(old) = present {
            if !replaces(standing, old, lower) {
                return;
            }
            self.lose(peer);
        }
        *generations += 1;
        let generation = *generations;
        let (arrived, closed) = (self.this.clone(), self.this.clone());
        let link = StreamsLink::start(
            stream,
            move |frame| {
                if let Some(switch) = arrived.upgrade() {
                    switch.deliver(peer, frame);
                }
            },
            move |reason| {
                drop(place);
                if let Some(switch) = closed.upgrade() {
                    switch.closed(peer, generation, &reason);
                }
            },
        );
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let slot = links.entry(peer).or_insert_with(|| Slot {
            up: watch::Sender::new(false),
            link: None,
        });
        slot.link = Some(Current {
            generation,
            standing,
            link,
        });
        slot.up.send_replace(true);
        drop(links);
        self.tell_all(|port| port.link_up(peer));
    }

    /// Drops the link to a node, if there is one; it is dialled anew.
    fn disconnect(&self, peer: NodeId) {
        let _changing = self.changing();
        self.lose(peer);
    }

    fn closed(&self, peer: NodeId, generation: u64, reason: &str) {
        let _changing = self.changing();
        let current = self
            .links()
            .get(&peer)
            .and_then(|slot| slot.link.as_ref())
            .map(|current| current.generation);
        if current == Some(generation) {
            tracing::info!(node = %peer.short(), reason, "streams link down");
            self.lose(peer);
        }
    }

    /// Called with `changing` held, so that ends hear of links in the order of what happened.
    fn lose(&self, peer: NodeId) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = links.get_mut(&peer) else {
            return;
        };
        if slot.link.take().is_none() {
            return;
        }
        slot.up.send_replace(false);
        drop(links);
        self.tell_all(|port| port.link_down(peer));
    }

    fn changing(&self) -> MutexGuard<'_, u64> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node is taken to be dead: its link is of no use, even if it still seems to be up.
    pub fn node_dead(&self, node: NodeId) {
        self.disconnect(node);
        self.tell_all(|port| port.node_dead(node));
    }

    /// A node is gone for good, with the clients that it was the anchor of.
    pub fn node_gone(&self, node: NodeId) {
        self.tell_all(|port| port.node_gone(node));
    }

    /// A node is no member any more: there is no link to it, and will be none.
    pub fn forget(&self, node: NodeId) {
        self.node_dead(node);
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        links.remove(&node);
        drop(links);
        self.node_gone(node);
    }

    fn tell_all(&self, tell: impl Fn(&dyn Port)) {
        let mut ports: Vec<Arc<dyn Port>> = Vec::new();
        {
            let anchors = self.anchors.read().unwrap_or_else(PoisonError::into_inner);
            ports.extend(anchors.values().cloned());
        }
        {
            let processes = self
                .processes
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            ports.extend(processes.values().cloned());
        }
        ports.iter().for_each(|port| tell(&**port));
    }
}
