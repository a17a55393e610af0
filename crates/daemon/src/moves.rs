//! The world's part in moves: what [`node::Node`] asks for at the source and at the target.
//!
//! ```text
//! source: begin (dials the bulk link) -> send_image -> precopy, round by round -> freeze
//!         -> send_snapshot -> over
//! target: consider -> prepare (image arrives, compiles) -> [memory lands, snapshot arrives, is thawed,
//!         stands by] -> activate | discard
//! ```
//!
//! At the target one task per move does all that takes time, in order, so that giving up is
//! ending it. What is frozen at the source stays with its process's task until the node says
//! what becomes of it.

mod arrivals;
mod pace;
pub mod pages;
pub mod returning;

pub use arrivals::Arrivals;

use crate::core::Core;
use crate::executor::weight::Weight;
use crate::links::bulk::BulkOut;
use crate::loader::{Unloadable, Wanted, blocking};
use crate::processes::Reserved;
use crate::processes::console::Console;
use crate::processes::log::Log;
use crate::processes::managed::{Launch, Managed, Origin};
use crate::processes::sealed::Sealed;
use crate::processes::sockets::Sockets;
use crate::processes::volumes;
use crate::store::images::id_of;
use arrivals::{Arrived, MAX_LUGGAGE};
use node::event::{Event, Token};
use pace::Pace;
use pages::{Carrier, Ground, NoRound, Progress};
use returning::Chunks;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use vm::{Image, Landing};
use wire::control::Offer;
use wire::link::{BulkKind, Luggage};
use wire::snapshot::{Chunk, Hints, Limits, Snapshot};
use wire::{Epoch, ImageId, MoveId, NodeId, ProcessId};

/// More than any program can write in its life.
const MOST_LOGGED: u64 = 1 << 62;

/// Moves of this node, out and in. Owned by the node's loop.
pub struct Moves {
    core: Arc<Core>,
    outgoing: HashMap<MoveId, Outgoing>,
    incoming: HashMap<MoveId, Incoming>,
}

/// The source's side of one move.
struct Outgoing {
    token: Token,
    parts: mpsc::UnboundedSender<Part>,
    sender: AbortHandle,
    sealed: Option<Box<Sealed>>,
    /// What is kept of the process once it is gone.
    keeps: Option<(ProcessId, Vec<Chunk>)>,
    /// When the freeze was asked for.
    freezing: Instant,
}

/// What goes over the bulk link.
enum Part {
    Image(ImageId),
    /// A round of memory.
    Round(Vec<vm::Window>),
    Snapshot {
        sealed: Box<Sealed>,
        luggage: Luggage,
        log: Arc<Log>,
    },
}

/// The target's side of one move.
struct Incoming {
    prepare: Option<oneshot::Sender<()>>,
    receiver: AbortHandle,
    /// The process, once it stands by.
    standing: Arc<Standing>,
    _reserved: Reserved,
}

impl Moves {
    /// No moves.
    pub fn new(core: Arc<Core>) -> Moves {
        Moves {
            core,
            outgoing: HashMap::new(),
            incoming: HashMap::new(),
        }
    }

    /// Source: a move was asked for; its reply will have this token.
    pub fn begin(
        &mut self,
        (id, process): (MoveId, ProcessId),
        to: NodeId,
        token: Token,
        bandwidth: Option<u64>,
    ) {
        let progress = Progress::default();
        if let Some(managed) = self.core.processes.running(process) {
            managed.show_progress(progress.clone());
        }
        let (parts, queue) = mpsc::unbounded_channel();
        let core = self.core.clone();
        let task = tokio::spawn(async move {
            let carrier = Carrier::new(Pace::new(bandwidth), progress);
            if let Err(reason) = send_parts(&core, id, to, queue, carrier).await {
                core.node.event(Event::BulkFailed { id, reason });
            }
        });
        let outgoing = Outgoing {
            token,
            parts,
            sender: task.abort_handle(),
            sealed: None,
            keeps: None,
            freezing: Instant::now(),
        };
        self.outgoing.insert(id, outgoing);
    }

    /// Source: the reply to the command of this token is given. What is still on its way to a
    /// target that runs the process arrives there; else it ends here.
    pub fn over(&mut self, token: Token, moved: bool) {
        self.outgoing.retain(|_, outgoing| {
            let this = outgoing.token == token;
            if this && !moved {
                outgoing.sender.abort();
            }
            if this
                && moved
                && let Some((process, chunks)) = outgoing.keeps.take()
            {
                self.core.returning.left(process, chunks);
            }
            !this
        });
    }

    /// Source: send the image.
    pub fn send_image(&mut self, id: MoveId, image: ImageId) {
        if let Some(outgoing) = self.outgoing.get(&id) {
            let _ = outgoing.parts.send(Part::Image(image));
        }
    }

    /// Source: send a round of memory.
    pub fn precopy(&mut self, id: MoveId, process: ProcessId) {
        let managed = self.core.processes.running(process);
        let windows = managed.map(|managed| managed.windows());
        match (self.outgoing.get(&id), windows) {
            (Some(outgoing), Some(windows)) => {
                let _ = outgoing.parts.send(Part::Round(windows));
            }
            _ => {
                let reason = "the process has ended".to_owned();
                self.core.node.event(Event::BulkFailed { id, reason });
            }
        }
    }

    /// Source: freeze the process, to be sent to a target that has so much of its files.
    pub fn freeze(&mut self, id: MoveId, process: ProcessId, kept: Hints) {
        if let Some(outgoing) = self.outgoing.get_mut(&id) {
            outgoing.freezing = Instant::now();
        }
        match self.core.processes.running(process) {
            Some(managed) => managed.freeze(id, kept),
            None => self.core.node.event(Event::Frozen {
                id,
                result: Err("the process has ended".to_owned()),
            }),
        }
    }

    /// Source: the process is frozen, or not. Returns what the node is to be told.
    pub fn frozen(&mut self, id: MoveId, result: Result<Box<Sealed>, String>) -> Event {
        let result = result.map(|sealed| {
            let bytes = sealed.total_bytes();
            if let Some(outgoing) = self.outgoing.get_mut(&id) {
                outgoing.sealed = Some(sealed);
            }
            bytes
        });
        Event::Frozen { id, result }
    }

    /// Source: send what was sealed.
    pub fn send_snapshot(&mut self, id: MoveId, process: ProcessId) {
        let Some(outgoing) = self.outgoing.get_mut(&id) else {
            return;
        };
        let sealed = outgoing.sealed.take();
        let since = outgoing.freezing.elapsed();
        let managed = self.core.processes.running(process);
        let (Some(sealed), Some(managed)) = (sealed, managed) else {
            let reason = "the frozen state is gone".to_owned();
            self.core.node.event(Event::BulkFailed { id, reason });
            return;
        };
        // It writes nothing while it is frozen.
        let log_end = *managed.log.follow().borrow();
        let luggage = Luggage {
            listeners: managed.listeners.clone(),
            allow_net: managed.sockets.allowed().to_vec(),
            born_ns: managed.born_ns,
            moves: managed.moves + 1,
            cpu_weight: managed.weight.get().into(),
            log_end,
            frozen_ns: nanoseconds(since),
            console: managed.console.seal(),
            left_out: sealed.left_out().to_vec(),
        };
        outgoing.keeps = Some((process, sealed.chunks().to_vec()));
        let _ = outgoing.parts.send(Part::Snapshot {
            sealed,
            luggage,
            log: managed.log.clone(),
        });
    }

    /// Target: whether the process can come here.
    pub fn consider(&mut self, id: MoveId, from: NodeId, offer: Offer) {
        let result = self.room_for(&offer).map(|reserved| {
            // Before it is looked for: from now on it stays.
            let image = self.core.loader.want(offer.image);
            let need_image = !self.core.loader.images().has(offer.image);
            let (prepare, prepared) = oneshot::channel();
            let standing = Arc::new(Standing::default());
            let parts = self.core.arrivals.expect(id, from, need_image);
            let task = Receive {
                core: self.core.clone(),
                id,
                offer,
                need_image,
                _image: image,
                parts,
                standing: standing.clone(),
            };
            let receiver = tokio::spawn(task.run(prepared)).abort_handle();
            let incoming = Incoming {
                prepare: Some(prepare),
                receiver,
                standing,
                _reserved: reserved,
            };
            self.incoming.insert(id, incoming);
            need_image
        });
        self.core.node.event(Event::Considered { id, result });
    }

    fn room_for(&self, offer: &Offer) -> Result<Reserved, String> {
        if self.core.shutdown.is_cancelled() {
            return Err("the node is shutting down".to_owned());
        }
        volumes::movable(&offer.name, &offer.volumes)?;
        let reserved = self.core.processes.reserve(offer.process);
        let reserved = reserved.map_err(|error| error.to_string())?;
        let memory = self.core.memory.read();
        match memory.map(|memory| memory.available) {
            Some(available) if available < offer.memory_bytes => Err(format!(
                "the process has {} MiB of memory, the node has {} MiB left",
                offer.memory_bytes >> 20,
                available >> 20
            )),
            _ => Ok(reserved),
        }
    }

    /// Target: get the image ready.
    pub fn prepare(&mut self, id: MoveId) {
        if let Some(prepare) = self
            .incoming
            .get_mut(&id)
            .and_then(|incoming| incoming.prepare.take())
        {
            let _ = prepare.send(());
        }
    }

    /// Target: the process is this node's and runs.
    pub fn activate(&mut self, id: MoveId, process: ProcessId, epoch: Epoch) {
        // Its place is kept until it is listed.
        let incoming = self.incoming.remove(&id);
        match incoming
            .as_ref()
            .and_then(|incoming| incoming.standing.get())
        {
            Some(managed) => {
                self.core.processes.adopt(managed.clone(), epoch);
                self.core.returning.forget(process);
                // Of those that died before it came, nobody else gives its clients up.
                for anchor in managed.sockets.dead_anchors() {
                    self.core.give_up_later(anchor);
                }
            }
            None => tracing::error!(%process, "a process was activated that does not stand by"),
        }
    }

    /// Target: the move is off.
    pub fn discard(&mut self, id: MoveId) {
        self.core.arrivals.forget(id);
        if let Some(incoming) = self.incoming.remove(&id) {
            incoming.receiver.abort();
            incoming.standing.discard();
        }
    }
}

/// The process that stands by for a move, once there is one.
#[derive(Default)]
struct Standing(Mutex<(Option<Arc<Managed>>, bool)>);

impl Standing {
    fn get(&self) -> Option<Arc<Managed>> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.clone()
    }

    fn set(&self, managed: Arc<Managed>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.1 {
            forget(&managed);
        }
        state.0 = Some(managed);
    }

    /// The move is off; a process that comes to stand by later is forgotten at once.
    fn discard(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = true;
        if let Some(managed) = &state.0 {
            forget(managed);
        }
    }
}

fn forget(managed: &Managed) {
    managed.sockets.withdraw();
    managed.drop_silently(None);
    managed.log.withdraw_files();
}

/// Dials the bulk link, then sends parts as they come.
async fn send_parts(
    core: &Core,
    id: MoveId,
    to: NodeId,
    mut parts: mpsc::UnboundedReceiver<Part>,
    mut carrier: Carrier,
) -> Result<(), String> {
    let dialled = BulkOut::dial(&core.dialler, to, id).await;
    let mut link = match dialled {
        Ok(link) => link,
        Err(error) => {
            // Nothing is lost yet: the node decides whether there will be anything to send.
            return match parts.recv().await {
                Some(_) => Err(error.to_string()),
                None => Ok(()),
            };
        }
    };
    let broken = |error: io::Error| format!("the transfer broke: {error}");
    while let Some(part) = parts.recv().await {
        match part {
            Part::Image(image) => {
                let images = core.loader.images().clone();
                let module = blocking(move || {
                    let module = images.get(image).map_err(Unloadable::Store)?;
                    module.ok_or(Unloadable::Missing(image))
                });
                let module = module.await.map_err(|error| error.to_string())?;
                link.send(BulkKind::Image, &[&module])
                    .await
                    .map_err(broken)?;
            }
            Part::Round(windows) => {
                let result = match carrier.round(&mut link, windows).await {
                    Ok(round) => Ok(round),
                    Err(NoRound::Untracked(reason)) => Err(reason),
                    Err(NoRound::Broken(error)) => return Err(broken(error)),
                };
                tracing::debug!(%id, ?result, "round of memory");
                core.node.event(Event::Precopied { id, result });
            }
            Part::Snapshot {
                mut sealed,
                luggage,
                log,
            } => {
                let encoded = encode_luggage(&luggage)?;
                link.send(BulkKind::Luggage, &[&encoded])
                    .await
                    .map_err(broken)?;
                let memories = std::mem::take(&mut sealed.memories);
                let memory = carrier.rest(&mut link, memories).await.map_err(broken)?;
                let slices: Vec<&[u8]> = sealed.slices().collect();
                link.send(BulkKind::Snapshot, &slices)
                    .await
                    .map_err(broken)?;
                // Its memory has been taken out.
                let bytes = memory + sealed.total_bytes();
                tracing::debug!(%id, bytes, "snapshot sent");
                core.node.event(Event::Sent { id, bytes });
                drop(sealed);
                // The process does not wait for this, and can do without.
                if let Err(error) = send_log(&mut link, log).await {
                    tracing::warn!(%error, "the log did not go along with its process");
                }
            }
        }
    }
    link.finish().await;
    carrier.end().await;
    Ok(())
}

async fn send_log(link: &mut BulkOut, log: Arc<Log>) -> io::Result<()> {
    link.send(BulkKind::Log, &[&log.export().0]).await?;
    let text = blocking(move || {
        let text = log.text();
        text.map_err(|error| Unloadable::Store(format!("the log file cannot be read: {error}")))
    });
    let text = text.await.map_err(io::Error::other)?;
    link.send(BulkKind::LogText, &[&text]).await
}

fn encode_luggage(luggage: &Luggage) -> Result<Vec<u8>, String> {
    let mut frame = Vec::new();
    wire::link::write_frame(luggage, MAX_LUGGAGE as usize, &mut frame)
        .map_err(|error| error.to_string())?;
    // The header of the part has the length already.
    Ok(frame.split_off(4))
}

/// The target's task of one move.
struct Receive {
    core: Arc<Core>,
    id: MoveId,
    offer: Offer,
    need_image: bool,
    _image: Wanted,
    parts: mpsc::Receiver<Arrived>,
    standing: Arc<Standing>,
}

impl Receive {
    async fn run(mut self, prepare: oneshot::Receiver<()>) {
        if prepare.await.is_err() {
            return;
        }
        let id = self.id;
        let kept = find_kept(self.core.clone(), self.offer.process);
        let ready = async { Ok::<_, String>((self.volumes().await?, self.image().await?)) };
        let (kept, ready) = tokio::join!(kept, ready);
        let (volumes, (image, ground)) = match ready {
            Ok(ready) => ready,
            Err(reason) => {
                let result = Err(reason);
                self.core.node.event(Event::Prepared { id, result });
                return;
            }
        };
        self.core.arrivals.prepare(id, ground.clone());
        let result = Ok(returning::hints(&kept));
        self.core.node.event(Event::Prepared { id, result });
        let restored = match self.snapshot().await {
            Ok((luggage, arrived, bytes)) => match ground.take() {
                Some(landing) => {
                    let place = (image, landing, volumes, kept);
                    self.restore(place, luggage, arrived, bytes).await
                }
                None => Err("its memory is gone".to_owned()),
            },
            Err(reason) => Err(reason),
        };
        let (result, chunks) = match restored {
            Ok(chunks) => (Ok(()), chunks),
            Err(reason) => (Err(reason), Vec::new()),
        };
        let failed = result.is_err();
        self.core.node.event(Event::Restored { id, result });
        if !failed && let Some(managed) = self.standing.get() {
            self.log(&managed.log).await;
        }
        self.core.arrivals.forget(id);
        // The next move need not compute them while the process is frozen.
        tokio::task::spawn_blocking(move || {
            for chunk in chunks {
                chunk.digest();
            }
        });
    }

    /// Takes what the process has written before.
    async fn log(&mut self, log: &Arc<Log>) {
        let result = async {
            let Arrived::Log(frames) = self.next().await? else {
                return Err("something else arrived in place of the log".to_owned());
            };
            log.import(&frames);
            drop(frames);
            let Arrived::LogText(text) = self.next().await? else {
                return Err("something else arrived in place of the log file".to_owned());
            };
            let log = log.clone();
            let laid = tokio::task::spawn_blocking(move || log.lay_down(&text));
            laid.await.map_err(|error| error.to_string())
        };
        let result: Result<(), String> = result.await;
        if let Err(reason) = result {
            tracing::warn!(id = %self.id, reason, "the log did not come along with its process");
            let missing = "what was written before the process came to this node is missing here: ";
            log.mark_missing(&format!("{missing}{reason}"));
        }
    }

    async fn next(&mut self) -> Result<Arrived, String> {
        match self.parts.recv().await {
            Some(Arrived::Failed(reason)) => Err(reason),
            Some(arrived) => Ok(arrived),
            None => Err("the move is over".to_owned()),
        }
    }

    /// Opens the volumes: what is not here is said before anything is frozen.
    async fn volumes(&self) -> Result<Arc<[vm::Volume]>, String> {
        let (grants, volumes) = (self.core.grants.clone(), self.offer.volumes.clone());
        let opened = tokio::task::spawn_blocking(move || grants.open(&volumes)).await;
        let opened = opened.map_err(|error| error.to_string())?;
        opened.map_err(|refused| refused.to_string())
    }

    /// Loads the image, waiting for its bytes if they are not here, compiles both modules, and makes
    /// room for its memory to land.
    async fn image(&mut self) -> Result<(Arc<Image>, Ground), String> {
        let wanted = self.offer.image;
        let loaded = if self.need_image {
            let Arrived::Image(module) = self.next().await? else {
                return Err("something else arrived in place of the image".to_owned());
            };
            if id_of(&module) != wanted {
                return Err("the image that arrived is another one".to_owned());
            }
            self.core.loader.add(module.into()).await
        } else {
            self.core.loader.load(wanted).await
        };
        let image = loaded.map_err(|error| error.to_string())?;
        if image.artefact_id() != self.offer.artefact {
            return Err(
                "this node makes another artefact of the image; bring both nodes to \
                        the same release"
                    .to_owned(),
            );
        }
        let compiled = image.clone();
        blocking(move || Ok(compiled.prepare_thaw()?))
            .await
            .map_err(|error| error.to_string())?;
        // It may grow while it moves, as far as any process may here.
        let most = Limits::default().memory_bytes;
        let landing = image.landing(most).map_err(|error| error.to_string())?;
        let node = self.core.node.clone();
        Ok((image, Ground::new(node, self.id, landing)))
    }

    async fn snapshot(&mut self) -> Result<(Luggage, Instant, Vec<u8>), String> {
        let Arrived::Luggage(luggage) = self.next().await? else {
            return Err("something else arrived in place of the luggage".to_owned());
        };
        if luggage.log_end > MOST_LOGGED {
            return Err("the source says something impossible of the log".to_owned());
        }
        let arrived = Instant::now();
        let Arrived::Snapshot(bytes) = self.next().await? else {
            return Err("something else arrived in place of the snapshot".to_owned());
        };
        Ok((luggage, arrived, bytes))
    }

    /// Thaws the process and attaches it, standing by, to all its anchors. Returns the chunks of its
    /// files.
    async fn restore(
        &self,
        (image, landing, volumes, kept): (Arc<Image>, Landing, Arc<[vm::Volume]>, Chunks),
        luggage: Luggage,
        arrived: Instant,
        bytes: Vec<u8>,
    ) -> Result<Vec<Chunk>, String> {
        let (core, offer) = (self.core.clone(), self.offer.clone());
        let standing = self.standing.clone();
        let start = Instant::now();
        let prepare = move || {
            let failed = |reason: String| Unloadable::Store(reason);
            let mut snapshot =
                Snapshot::decode_from_link(bytes).map_err(|error| failed(error.to_string()))?;
            let decoded = start.elapsed();
            if snapshot.image != offer.image || snapshot.artefact != offer.artefact {
                return Err(failed("the snapshot is of another program".to_owned()));
            }
            if snapshot.volumes != offer.volumes {
                return Err(failed("the snapshot names other volumes".to_owned()));
            }
            let weight = Weight::try_from(luggage.cpu_weight);
            let weight = weight.map_err(|error| failed(error.to_string()))?;
            let kernel = &mut snapshot.kernel;
            let put_back =
                (kernel.files).put_back(&luggage.left_out, |digest| kept.get(digest).cloned());
            if let Err(missing) = put_back {
                // All of it is sent the next time.
                core.returning.forget(offer.process);
                return Err(failed(missing.to_string()));
            }
            drop(kept);
            let chunks = kernel.files.chunks_to_keep().cloned().collect();
            kernel.limits = kernel.limits.within(Limits::default());
            // Its clock went on while it was away; from the thaw on it counts by itself.
            let away = luggage
                .frozen_ns
                .saturating_add(nanoseconds(arrived.elapsed()));
            kernel.monotonic_ns = kernel.monotonic_ns.saturating_add(away);
            let sockets = Sockets::standing_by(
                &core.switch,
                offer.process,
                offer.epoch.next(),
                &snapshot.kernel,
            )
            .map_err(|error| failed(error.to_string()))?;
            sockets.grant(&core.anchors, luggage.allow_net);
            let path = core.processes.log_path(offer.process);
            let log = Log::new(luggage.log_end, Some(&path));
            let launch = Launch {
                id: offer.process,
                name: offer.name,
                image,
                origin: Origin::Snapshot(Box::new(snapshot), Some(landing)),
                sockets: sockets.clone(),
                console: Console::moved_here(log.clone(), luggage.console),
                stdio: None,
                log,
                listeners: luggage.listeners,
                born_ns: luggage.born_ns,
                moves: luggage.moves,
                volumes,
                weight,
            };
            let (created, made) = oneshot::channel();
            let reports = core.processes.clone();
            let managed = Managed::spawn(core.processes.executor(), launch, reports, created);
            // Before anything can fail, so that giving up finds it.
            standing.set(managed);
            tracing::debug!(?decoded, attaching = ?start.elapsed(), "snapshot restored");
            Ok((sockets, made, chunks))
        };
        let (sockets, made, chunks) = blocking(prepare).await.map_err(|error| error.to_string())?;
        made.await
            .unwrap_or_else(|_| Err("its node has gone down".to_owned()))?;
        let thawed = start.elapsed();
        sockets.mind_the_dead();
        let name = |anchor| self.core.fleet.borrow().named(anchor).to_string();
        sockets.attached(name).await?;
        tracing::debug!(id = %self.id, ?thawed, attached = ?start.elapsed(), "stands by");
        Ok(chunks)
    }
}

/// What is here of the files of a process that comes back.
async fn find_kept(core: Arc<Core>, process: ProcessId) -> Chunks {
    let found = tokio::task::spawn_blocking(move || core.returning.find(process));
    found.await.unwrap_or_default()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
