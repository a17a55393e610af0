//! One process of this node: what runs it, and the handle by which the rest of the daemon holds it.
//!
//! ```text
//!                        +--------- Continue ---------+
//!                        v                            |
//!  created --Continue--> runs --frozen for a move--> sealed --Drop--> (elsewhere)
//!     |                  |  ^
//!     |                  |  +-- frozen for a checkpoint, or for nobody: runs on at once
//!   Drop                 +-- exits, traps, is killed --> ended
//! ```
//!
//! The machine lives and dies in one task of the executor. A kill takes effect at once wherever the
//! process runs or could run; while it is sealed, nobody here knows whether it is still this node's,
//! so the kill waits for the end of the move.

use super::console::Console;
use super::ends::EndRecord;
use super::log::Log;
use super::sealed::Sealed;
use super::sockets::Sockets;
use crate::accounts;
use crate::accounts::resident::{self, Resident};
use crate::executor::weight::Weight;
use crate::executor::{Executor, SystemEntropy, Traits, yield_now};
use crate::moves::pages::Progress;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use vm::ports::{Ports, Stdio};
use vm::{Control, Image, Landing, Meter, Outcome, Process, Window};
use wire::api::{ListenerInfo, MoveProgress, ProcessAccounts, ProcessInfo, ProcessState};
use wire::snapshot::{Hints, Snapshot, Volume};
use wire::{ArtefactId, Epoch, ImageId, MoveId, NodeId, ProcessId};

/// The exit code of a process that trapped (128 + SIGABRT), as a shell would say it.
pub const TRAPPED: i32 = 134;
/// Of one that could not be made (as of `env` and `docker run`).
pub const NOT_STARTED: i32 = 125;
/// Of one that was killed (128 + SIGKILL).
pub const KILLED: i32 = 137;
/// Of one that was stopped (128 + SIGTERM).
pub const STOPPED: i32 = 143;

/// What a process is made from.
pub enum Origin {
    /// Its birth.
    Birth(Box<vm::Spec>),
    /// A state written down earlier; or one that came from another node, and its memory.
    Snapshot(Box<Snapshot>, Option<Landing>),
}

/// All that a new handle needs.
pub struct Launch {
    /// The process.
    pub id: ProcessId,
    /// Its name.
    pub name: String,
    /// Its program.
    pub image: Arc<Image>,
    /// Where it begins.
    pub origin: Origin,
    /// Its sockets.
    pub sockets: Arc<Sockets>,
    /// What is between it and who stays with it.
    pub console: Arc<Console>,
    /// Its standard streams, if they are not the console's.
    pub stdio: Option<Arc<dyn Stdio>>,
    /// What it has written, as far as it is kept.
    pub log: Arc<Log>,
    /// Where its clients connect.
    pub listeners: Vec<ListenerInfo>,
    /// When it was first started, nanoseconds since 1970.
    pub born_ns: u64,
    /// Times it was moved before.
    pub moves: u64,
    /// Directories of this machine that it is given.
    pub volumes: Arc<[vm::Volume]>,
    /// Its share of the cores.
    pub weight: Weight,
}

/// What a process is doing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does not run yet.
    Starting,
    /// It runs.
    Running,
    /// It runs, or is frozen, and is being moved away.
    Moving,
    /// It has ended.
    Ended(End),
    /// It runs elsewhere.
    Moved(NodeId),
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its exit code, or one that says how it was ended. None where nobody knows: it went with its
    /// node.
    pub code: Option<i32>,
    /// Where there is more to say than the code.
    pub reason: Option<String>,
    /// Of a trap: where it happened, function by function.
    pub backtrace: Option<String>,
}

impl End {
    /// It was ended from outside.
    pub fn killed(code: i32, reason: &str) -> End {
        End {
            code: Some(code),
            reason: Some(reason.to_owned()),
            backtrace: None,
        }
    }
}

/// What a process that does not run is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Continue,
    Drop,
}

/// Who has asked for a freeze.
#[derive(Default)]
struct Intents {
    /// For this move, to a target that has so much of its files.
    moving: Option<(MoveId, Hints)>,
    checkpoints: Vec<oneshot::Sender<Result<Arc<Snapshot>, String>>>,
    killed: Option<End>,
    /// Frozen for a move and not told to go on.
    sealed: bool,
}

impl Intents {
    fn wanted(&self) -> bool {
        self.moving.is_some() || !self.checkpoints.is_empty()
    }
}

/// What a process's task reports. Calls come from a worker and must not block.
pub trait Reports: Send + Sync + 'static {
    /// It froze for a move; or it ended before that.
    fn frozen(&self, process: &Arc<Managed>, id: MoveId, result: Result<Box<Sealed>, String>);
    /// It has ended.
    fn ended(&self, process: &Arc<Managed>);
}

/// The handle of a process.
pub struct Managed {
    /// The process.
    pub id: ProcessId,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: ImageId,
    /// Its artefact.
    pub artefact: ArtefactId,
    /// Its sockets.
    pub sockets: Arc<Sockets>,
    /// What is between it and who stays with it.
    pub console: Arc<Console>,
    /// What it wrote.
    pub log: Arc<Log>,
    /// Where its clients connect.
    pub listeners: Vec<ListenerInfo>,
    /// When it was first started, nanoseconds since 1970.
    pub born_ns: u64,
    /// Times it was moved.
    pub moves: u64,
    /// Directories of this machine that it uses.
    pub volumes: Vec<Volume>,
    /// Its share of the cores.
    pub weight: Weight,
    epoch: AtomicU64,
    initial_memory_bytes: u64,
    /// As written down, of one that is only remembered.
    earlier_freezes: u64,
    meter: OnceLock<Meter>,
    status: watch::Sender<Status>,
    control: OnceLock<Control>,
    commands: UnboundedSender<Command>,
    /// The step of its move, rounds of memory so far, and how far this one is.
    moving: Mutex<Option<(String, u32, Progress)>>,
    intents: Mutex<Intents>,
    /// Its end is nobody's business: it was dropped, or never this node's.
    silent: AtomicBool,
}

impl std::fmt::Debug for Managed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Managed({}, {:?})", self.id, *self.status.borrow())
    }
}

impl Managed {
    /// One that has ended before this node was started, as it was written down.
    pub fn remembered(record: EndRecord, log: Arc<Log>, sockets: Arc<Sockets>) -> Arc<Managed> {
        let (commands, _) = unbounded_channel();
        Arc::new(Managed {
            id: record.id,
            name: record.name,
            image: record.image,
            artefact: record.artefact,
            sockets,
            console: Console::detached(log.clone()),
            log,
            listeners: Vec::new(),
            born_ns: record.born_ns,
            moves: record.moves,
            volumes: Vec::new(),
            weight: Weight::default(),
            epoch: AtomicU64::new(record.epoch.0),
            initial_memory_bytes: record.memory_bytes,
            earlier_freezes: record.freezes,
            meter: OnceLock::new(),
            status: watch::Sender::new(Status::Ended(End {
                code: record.code,
                reason: record.reason,
                backtrace: None,
            })),
            control: OnceLock::new(),
            commands,
            moving: Mutex::default(),
            intents: Mutex::default(),
            silent: AtomicBool::new(false),
        })
    }

    /// What is to be remembered of it; none before it has ended.
    pub fn record(&self) -> Option<EndRecord> {
        let Status::Ended(end) = self.status.borrow().clone() else {
            return None;
        };
        Some(EndRecord {
            id: self.id,
            name: self.name.clone(),
            image: self.image,
            artefact: self.artefact,
            epoch: self.epoch(),
            born_ns: self.born_ns,
            moves: self.moves,
            freezes: self.freezes(),
            memory_bytes: self.memory_bytes(),
            code: end.code,
            reason: end.reason,
            log_end: *self.log.follow().borrow(),
        })
    }

    /// Makes the process, as a task of `executor`. It does not run before [`Managed::go_on`].
    /// `created` learns whether it could be made.
    pub fn spawn(
        executor: &Executor,
        launch: Launch,
        reports: Arc<dyn Reports>,
        created: oneshot::Sender<Result<(), String>>,
    ) -> Arc<Managed> {
        let (commands, receiver) = unbounded_channel();
        let managed = Arc::new(Managed {
            id: launch.id,
            name: launch.name,
            image: launch.image.id(),
            artefact: launch.image.artefact_id(),
            sockets: launch.sockets,
            console: launch.console,
            log: launch.log,
            listeners: launch.listeners,
            born_ns: launch.born_ns,
            moves: launch.moves,
            volumes: (launch.volumes.iter())
                .map(|volume| volume.description.clone())
                .collect(),
            weight: launch.weight,
            epoch: AtomicU64::new(0),
            initial_memory_bytes: launch.image.initial_memory_bytes(),
            earlier_freezes: 0,
            meter: OnceLock::new(),
            status: watch::Sender::new(Status::Starting),
            control: OnceLock::new(),
            commands,
            moving: Mutex::default(),
            intents: Mutex::default(),
            silent: AtomicBool::new(false),
        });
        let ports = Ports {
            clock: Arc::new(executor.clock()),
            entropy: Arc::new(SystemEntropy),
            stdio: launch.stdio.unwrap_or_else(|| managed.console.clone()),
            network: managed.sockets.clone(),
            volumes: launch.volumes,
        };
        let yielding = managed.clone();
        let traits = Traits {
            weight: launch.weight,
            // The clients of one that arrives wait for it.
            urgent: matches!(launch.origin, Origin::Snapshot(..)),
            yields: Some(Box::new(move || {
                if let Some(control) = yielding.control.get() {
                    control.freeze();
                }
            })),
        };
        let mut runner = Runner {
            managed: managed.clone(),
            commands: receiver,
            reports,
        };
        let (image, origin) = (launch.image, launch.origin);
        executor.spawn(traits, async move {
            let main = AssertUnwindSafe(runner.main(&image, origin, ports, created));
            if main.catch_unwind().await.is_err() {
                // A fault of ours must not leave a process that nobody can end.
                let reason = "a fault in limosa itself; see the node's log";
                runner.managed.set_ended(End::killed(KILLED, reason));
                runner.end(false);
            }
        });
        managed
    }

    fn intents(&self) -> MutexGuard<'_, Intents> {
        self.intents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is doing; changes wake who waits for them.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        matches!(*self.status.borrow(), Status::Ended(_))
    }

    /// The epoch under which this node has it.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// Linear memory, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let meter = self.meter.get();
        meter.map_or(self.initial_memory_bytes, |meter| meter.read().memory_bytes)
    }

    /// What its files and their names take, in bytes.
    pub fn file_bytes(&self) -> u64 {
        let meter = self.meter.get();
        meter.map_or(0, |meter| meter.read().file_bytes)
    }

    /// Its memory as seen from outside; nothing if it has no instance now.
    pub fn windows(&self) -> Vec<Window> {
        let control = self.control.get();
        control.map(Control::windows).unwrap_or_default()
    }

    fn freezes(&self) -> u64 {
        let meter = self.meter.get();
        meter.map_or(self.earlier_freezes, |meter| meter.read().freezes)
    }

    /// Lets it run (on), under this epoch.
    pub fn go_on(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Relaxed);
        self.intents().sealed = false;
        self.console.go_on();
        self.set_status(Status::Running);
        // Its task is over only if the process has ended.
        let _ = self.commands.send(Command::Continue);
    }

    /// How far the move that begins now is.
    pub fn show_progress(&self, memory: Progress) {
        let phase = "offering".to_owned();
        *self.moving() = Some((phase, 0, memory));
    }

    fn moving(&self) -> MutexGuard<'_, Option<(String, u32, Progress)>> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A move of it has come to this.
    pub fn enter_phase(&self, phase: &str) {
        let mut moving = self.moving();
        if phase == "over" {
            *moving = None;
        } else if let Some((shown, rounds, _)) = &mut *moving {
            *shown = phase.to_owned();
            *rounds += u32::from(phase == "precopying");
        }
    }

    fn move_progress(&self) -> Option<MoveProgress> {
        let moving = self.moving();
        let (phase, rounds, memory) = moving.as_ref()?;
        let (bytes, bytes_left) = memory.read();
        Some(MoveProgress {
            phase: phase.clone(),
            rounds: *rounds,
            bytes,
            bytes_left,
        })
    }

    /// It is being moved, or no longer.
    pub fn set_moving(&self, moving: bool) {
        self.status.send_if_modified(|status| {
            let new = match (&*status, moving) {
                (Status::Running, true) => Status::Moving,
                (Status::Moving, false) => Status::Running,
                _ => return false,
            };
            *status = new;
            true
        });
    }

    fn set_status(&self, new: Status) {
        self.status.send_if_modified(|status| {
            let over = matches!(status, Status::Ended(_) | Status::Moved(_));
            if !over {
                *status = new;
            }
            !over
        });
    }

    fn set_ended(&self, end: End) {
        self.set_status(Status::Ended(end));
    }

    /// Asks for a freeze for a move to a target that has `kept` of its files; reported by
    /// [`Reports::frozen`].
    pub fn freeze(&self, id: MoveId, kept: Hints) {
        self.intents().moving = Some((id, kept));
        if let Some(control) = self.control.get() {
            control.freeze();
        }
    }

    /// The move is off: runs on if it is frozen; if not, the freeze will be for nobody.
    pub fn unfreeze(&self) {
        self.intents().moving = None;
        if self.unseal() {
            self.go_on(self.epoch());
        }
    }

    /// Takes the seal off, if there is one. Whoever gets true decides what becomes of the process,
    /// and nobody else does: so the task is told to go on once, and no command is left for a later
    /// move, which it would end before it is decided.
    #[must_use]
    pub fn unseal(&self) -> bool {
        std::mem::take(&mut self.intents().sealed)
    }

    /// Freezes, takes the state, runs on.
    pub async fn checkpoint(&self) -> Result<Arc<Snapshot>, String> {
        let (sender, receiver) = oneshot::channel();
        self.intents().checkpoints.push(sender);
        if self.has_ended() {
            // Its task may have looked for the last time before this was asked for.
            self.intents().checkpoints.clear();
        }
        if let Some(control) = self.control.get() {
            control.freeze();
        }
        let gone = || Err("the process ended or was moved before it could be frozen".to_owned());
        receiver.await.unwrap_or_else(|_| gone())
    }

    /// Ends it: now if it runs, at the end of the move if it is sealed, unless it is elsewhere then.
    pub fn kill(&self, end: End) {
        let sealed = {
            let mut intents = self.intents();
            intents.killed.get_or_insert(end);
            intents.sealed
        };
        if !sealed && let Some(control) = self.control.get() {
            control.kill();
        }
        // If it waits for its first command, it learns there.
    }

    fn is_killed(&self) -> bool {
        self.intents().killed.is_some()
    }

    /// Forgets it: it runs elsewhere, or should never have run here. Its end is not reported.
    pub fn drop_silently(&self, to: Option<NodeId>) {
        self.silent.store(true, Ordering::Relaxed);
        if let Some(node) = to {
            self.set_status(Status::Moved(node));
        }
        let _ = self.commands.send(Command::Drop);
        if let Some(control) = self.control.get() {
            control.kill();
        }
    }

    /// Whether it runs here, and has an instance that it can do without.
    pub(super) fn may_fold(&self) -> bool {
        let runs = matches!(*self.status.borrow(), Status::Running);
        runs && !self.is_folded()
    }

    /// Asks it to fold, if it waits.
    pub(super) fn fold(&self) {
        if let Some(control) = self.control.get() {
            control.fold();
        }
    }

    fn is_folded(&self) -> bool {
        self.control.get().is_some_and(Control::is_folded)
    }

    /// CPU time that it has used up to the last time it waited.
    pub(super) fn cpu_ns(&self) -> u64 {
        self.meter.get().map_or(0, |meter| meter.read().cpu_ns)
    }

    /// What it has consumed, but for its pages.
    fn accounts(&self) -> ProcessAccounts {
        match self.meter.get() {
            Some(meter) => accounts::of_process(meter, self.weight),
            None => ProcessAccounts {
                cpu_weight: self.weight.get().into(),
                ..ProcessAccounts::default()
            },
        }
    }

    /// Which of its pages are in memory; none where nobody can say. Looks at every page: not for a
    /// thread that must not wait.
    pub fn resident(&self) -> Option<Resident> {
        resident::of_process(self.meter.get()?).ok()
    }

    /// As listed by the API of `node`.
    pub fn info(&self, node: NodeId, node_name: &str) -> ProcessInfo {
        let status = self.status.borrow().clone();
        let (state, exit_code, reason) = match status {
            Status::Starting => (ProcessState::Starting, None, None),
            Status::Running => (ProcessState::Running, None, None),
            Status::Moving | Status::Moved(_) => (ProcessState::Moving, None, None),
            Status::Ended(end) => (ProcessState::Exited, end.code, end.reason),
        };
        let born = std::time::Duration::from_nanos(self.born_ns);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        ProcessInfo {
            id: self.id,
            name: self.name.clone(),
            image: self.image,
            node,
            node_name: node_name.to_owned(),
            epoch: self.epoch(),
            state,
            exit_code,
            reason,
            age_seconds: now.map_or(0, |now| now.saturating_sub(born).as_secs()),
            memory_bytes: self.memory_bytes(),
            freezes: self.freezes(),
            moves: self.moves,
            // They are closed with its end.
            listeners: match state {
                ProcessState::Exited => Vec::new(),
                _ => self.listeners.clone(),
            },
            connections: self.sockets.connections(),
            folded: state == ProcessState::Running && self.is_folded(),
            moving: self
                .move_progress()
                .filter(|_| state == ProcessState::Moving),
            volumes: self.volumes.clone(),
            allow_net: self.sockets.allowed().to_vec(),
            outgoing: self.sockets.outgoing(),
            accounts: self.accounts(),
        }
    }
}

/// What the process's task has.
struct Runner {
    managed: Arc<Managed>,
    commands: UnboundedReceiver<Command>,
    reports: Arc<dyn Reports>,
}

impl Runner {
    async fn main(
        &mut self,
        image: &Arc<Image>,
        origin: Origin,
        ports: Ports,
        created: oneshot::Sender<Result<(), String>>,
    ) {
        let made = match origin {
            Origin::Birth(spec) => {
                Process::start(image, &spec, ports).map_err(|error| error.to_string())
            }
            Origin::Snapshot(snapshot, landing) => {
                let thawed = match landing {
                    None => Process::thaw(image, *snapshot, ports),
                    Some(landing) => Process::thaw_landed(image, *snapshot, landing, ports),
                };
                thawed.map_err(|error| error.to_string())
            }
        };
        let mut process = match made {
            Ok(process) => process,
            Err(reason) => {
                self.managed.set_ended(End::killed(NOT_STARTED, &reason));
                let _ = created.send(Err(reason));
                // One that was to stand by is dropped by its move; one that was to run has ended.
                if self.wait().await.is_some() {
                    self.end(true);
                }
                return;
            }
        };
        let _ = self.managed.meter.set(process.meter());
        let _ = self.managed.control.set(process.control());
        if self.managed.intents().wanted() {
            // Asked for before there was anything to ask.
            process.control().freeze();
        }
        let _ = created.send(Ok(()));
        let end = match self.wait().await {
            Some(()) => self.run(&mut process).await,
            None => None,
        };
        drop(process);
        if let Some(end) = end {
            // The sockets of a program that ended by itself are closed as by a kernel.
            let orderly = !self.managed.is_killed();
            self.managed.set_ended(end);
            self.end(orderly);
        }
        self.fail_waiting();
    }

    /// Tells everyone that it has ended.
    fn end(&self, orderly: bool) {
        self.fail_waiting();
        if !self.managed.silent.load(Ordering::Relaxed) {
            self.managed.sockets.end(orderly);
            self.reports.ended(&self.managed);
        }
    }

    /// Waits for leave to run; none if the process is to be dropped.
    async fn wait(&mut self) -> Option<()> {
        match self.commands.recv().await {
            Some(Command::Continue) => Some(()),
            Some(Command::Drop) | None => None,
        }
    }

    /// Runs the process until it ends; none if it is dropped.
    async fn run(&mut self, process: &mut Process) -> Option<End> {
        loop {
            if let Some(end) = self.killed() {
                return Some(end);
            }
            match process.run().await {
                Outcome::Exited(code) => {
                    return Some(End {
                        code: Some(code),
                        reason: None,
                        backtrace: None,
                    });
                }
                Outcome::Trapped(trap) => {
                    let reason = trap.to_string();
                    tracing::info!(process = %self.managed.id, reason, "a process trapped");
                    let text = format!("limosa: the program trapped: {reason}\n{}", trap.backtrace);
                    self.managed.log.append_lines(2, &text);
                    return Some(End {
                        code: Some(TRAPPED),
                        reason: Some(reason),
                        backtrace: Some(trap.backtrace),
                    });
                }
                Outcome::Killed => return Some(self.killed().unwrap_or_else(killed)),
                Outcome::Frozen => match self.frozen(process).await {
                    Some(()) => {}
                    None => return None,
                },
            }
        }
    }

    fn killed(&self) -> Option<End> {
        self.managed.intents().killed.clone()
    }

    /// Serves those who asked for the freeze; none if the process was dropped meanwhile.
    async fn frozen(&mut self, process: &mut Process) -> Option<()> {
        let (moving, checkpoints) = {
            let mut intents = self.managed.intents();
            if intents.killed.is_some() {
                return Some(());
            }
            let moving = intents.moving.take();
            intents.sealed = moving.is_some();
            (moving, std::mem::take(&mut intents.checkpoints))
        };
        if moving.is_none() && checkpoints.is_empty() {
            // Whoever asked has given up, or the executor has asked: others go first.
            yield_now().await;
            return Some(());
        }
        if !checkpoints.is_empty() {
            let snapshot = process.snapshot().map(Arc::new);
            let snapshot = snapshot.map_err(|error| error.to_string());
            for waiting in checkpoints {
                let _ = waiting.send(snapshot.clone());
            }
        }
        let Some((id, kept)) = moving else {
            return Some(());
        };
        let lent = process.lend().map_err(|error| error.to_string());
        // Here, because a large kernel section must not keep the node's loop from its other work.
        let sealed = lent.map(|(head, memories)| Box::new(Sealed::new(head, memories, &kept)));
        // Without a state there is no move, and the process runs on; if others have decided that
        // already, their command is on its way.
        let runs_on = sealed.is_err() && self.managed.unseal();
        self.reports.frozen(&self.managed, id, sealed);
        if runs_on { Some(()) } else { self.wait().await }
    }

    /// Nobody will freeze this process any more.
    fn fail_waiting(&self) {
        let (moving, checkpoints) = {
            let mut intents = self.managed.intents();
            (
                intents.moving.take(),
                std::mem::take(&mut intents.checkpoints),
            )
        };
        drop(checkpoints);
        if let Some((id, _)) = moving {
            let reason = "the process ended".to_owned();
            self.reports.frozen(&self.managed, id, Err(reason));
        }
    }
}

fn killed() -> End {
    End::killed(KILLED, "killed")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::switch::Switch;
    use std::sync::Barrier;

    /// One that has ended.
    pub fn ended(switch: &Arc<Switch>, id: ProcessId, log: Arc<Log>) -> Arc<Managed> {
        let record = EndRecord {
            id,
            name: "p".to_owned(),
            image: ImageId::default(),
            artefact: ArtefactId::default(),
            epoch: Epoch(1),
            born_ns: 0,
            moves: 0,
            freezes: 0,
            memory_bytes: 0,
            code: Some(0),
            reason: None,
            log_end: 0,
        };
        let sockets = Sockets::none(switch, record.id, record.epoch);
        Managed::remembered(record, log, sockets)
    }

    #[tokio::test]
    async fn a_checkpoint_that_is_asked_for_as_the_process_ends_is_refused_at_once() {
        let switch = Switch::new(crate::local::alone().unwrap());
        let managed = ended(&switch, ProcessId(1), Log::new(0, None));
        let refused = managed.checkpoint().await.unwrap_err();
        assert!(refused.contains("ended"), "{refused}");
    }

    #[tokio::test]
    async fn a_seal_is_taken_off_once_and_no_command_is_left_over() {
        const ROUNDS: usize = 20_000;
        let switch = Switch::new(crate::local::alone().unwrap());
        let managed = ended(&switch, ProcessId(1), Log::new(0, None));
        let mut managed = Arc::into_inner(managed).unwrap();
        let (commands, mut receiver) = unbounded_channel();
        managed.commands = commands;
        let managed = Arc::new(managed);
        let (begin, end) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let node = {
            let (managed, begin, end) = (managed.clone(), begin.clone(), end.clone());
            std::thread::spawn(move || {
                for _ in 0..ROUNDS {
                    begin.wait();
                    managed.unfreeze();
                    end.wait();
                }
            })
        };
        // As the process's task does when its snapshot has failed.
        for round in 0..ROUNDS {
            managed.intents().sealed = true;
            begin.wait();
            let runs_on = managed.unseal();
            end.wait();
            let told = std::iter::from_fn(|| receiver.try_recv().ok()).count();
            assert_eq!(usize::from(runs_on) + told, 1, "round {round}");
        }
        node.join().unwrap();
    }
}
