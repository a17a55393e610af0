//! One process: born, running, frozen, ended.
//!
//! ```text
//!   start --> Born --run--> (runs, folds) --> Ended(Exited, Trapped, Killed)
//!               |              |  ^
//!               | snapshot   Frozen |  run: thawed in place
//!               v              v  |
//!            Snapshot <----- Frozen <--- thaw(Snapshot), tried out once
//! ```
//! On success, `thaw` gives a process that stands exactly where the snapshot was taken; it has
//! rebuilt the whole stack and frozen it again, so nothing about the stack can fail later. On
//! failure nothing has happened: no call of the kernel took effect.

use crate::account::{Accounts, Meter};
use crate::code::Exports;
use crate::control::{Control, Shared};
use crate::fold::{self, Folded};
use crate::image::Image;
use crate::kernel::{ExitStatus, Kernel, Killed};
use crate::machine::{Machine, Part, WASM_PAGE_BYTES, at_once};
use crate::memory::{Budget, Landing, Source, Window};
use crate::ports::Ports;
use crate::snapshot::{ThawError, check};
use crate::spec::Spec;
use crate::state::State;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use wire::snapshot::{FileTree, Memory, Phase, Reference, Snapshot};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program ended with this status.
    Exited(i32),
    /// The program did what no program may.
    Trapped(Trap),
    /// It is frozen: [`Process::snapshot`] tells its state, [`Process::run`] goes on.
    Frozen,
    /// It was killed.
    Killed,
}

/// What a program did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// In one line.
    pub reason: String,
    /// Where, function by function, as far as the module tells names.
    pub backtrace: String,
}

/// What the engine says when the native stack is full.
const OVERFLOW: &str = "wasm trap: call stack exhausted";

impl Trap {
    /// Whether the program called itself too deep.
    pub fn overflow(&self) -> bool {
        self.reason == OVERFLOW
    }
}

impl std::fmt::Display for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

/// No snapshot can be taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The image was loaded by an engine for immobile programs.
    #[error(
        "the process is immobile: it was started with --immobile, and can be neither moved nor written down"
    )]
    Immobile,
    /// It has a file open that can be opened nowhere else.
    #[error(
        "the process has a file open that has been removed, or taken out of its volume: {0}; it can \
         be written down when the file is closed"
    )]
    Removed(String),
    /// The process has ended, or its run was abandoned.
    #[error("the process is not frozen: it has ended")]
    Ended,
    /// The instance cannot be read: a bug.
    #[error("the frozen instance cannot be read: {0}")]
    Instance(String),
}

/// What a folded process is called to.
enum Called {
    Work,
    Freeze,
    End,
}

/// How often it is tried to give a folded process an instance again, and after what pause: for
/// longer than it takes until others that took the room are folded themselves.
const UNFOLDING_TRIES: u32 = 6000;
const UNFOLDING_PAUSE_NS: u64 = 100_000_000;

/// Where a process stands between runs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Born,
    Frozen,
    /// A run is under way, or was abandoned half-way.
    Running,
    Ended(Outcome),
}

/// One process.
pub struct Process {
    machine: Option<Box<Machine>>,
    /// Instead of the machine, while it is folded.
    folded: Option<Box<Folded>>,
    standing: Standing,
    phase: Phase,
    control: Arc<Shared>,
    meter: Meter,
    ports: Ports,
    sealed: bool,
    /// Dropped after the machine, so that what was lent to that finds its home.
    image: Arc<Image>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.control.detach();
    }
}

/// The volumes that a process is given.
fn described(ports: &Ports) -> impl Iterator<Item = &wire::snapshot::Volume> {
    ports.volumes.iter().map(|volume| &volume.description)
}

/// Memories that begin as the image's do.
fn of_image(image: &Image) -> Vec<Source> {
    image.pages().iter().cloned().map(Source::Pages).collect()
}

pub(crate) fn engine(error: wasmtime::Error) -> ThawError {
    ThawError::Engine(format!("{error:#}"))
}

impl Process {
    /// Starts a program: thaws its birth snapshot. It runs when [`Process::run`] is polled.
    pub fn start(image: &Arc<Image>, spec: &Spec, ports: Ports) -> Result<Process, ThawError> {
        let (bytes, limit) = (image.initial_memory_bytes(), spec.limits.memory_bytes);
        if bytes > limit {
            return Err(ThawError::MemoryLimit { bytes, limit });
        }
        // What the image begins with needs no check, and a new instance has its globals.
        Process::assemble(image, Phase::Born, spec.kernel(), of_image(image), ports)
    }

    /// Makes a process of a snapshot, after checking it against the image. The sockets in `ports`
    /// are to be those of the snapshot. Waits for the thaw module, if it is needed.
    ///
    /// To make many processes of one snapshot, make a [`Template`](crate::Template) of it.
    pub fn thaw(
        image: &Arc<Image>,
        snapshot: Snapshot,
        ports: Ports,
    ) -> Result<Process, ThawError> {
        Process::thaw_in(image, snapshot, of_image(image), ports)
    }

    /// The same where its memory has landed. If any pages have, the snapshot must be one of a
    /// process that has lent its memory.
    pub fn thaw_landed(
        image: &Arc<Image>,
        snapshot: Snapshot,
        landing: Landing,
        ports: Ports,
    ) -> Result<Process, ThawError> {
        if landing.is_touched() {
            let mut sizes = landing.sizes().zip(&snapshot.memories);
            if !snapshot.memories.iter().all(Memory::is_of_image) {
                return Err(ThawError::Landed("the snapshot has pages of its own"));
            }
            if sizes.any(|(landed, memory)| landed / WASM_PAGE_BYTES > memory.wasm_pages) {
                return Err(ThawError::Landed("more has landed than it has memory"));
            }
        }
        let slots = landing.into_slots().map(Source::Slot).collect();
        Process::thaw_in(image, snapshot, slots, ports)
    }

    fn thaw_in(
        image: &Arc<Image>,
        snapshot: Snapshot,
        sources: Vec<Source>,
        ports: Ports,
    ) -> Result<Process, ThawError> {
        check(image, &snapshot)?;
        if !snapshot.volumes.iter().eq(described(&ports)) {
            return Err(ThawError::Volumes);
        }
        let Snapshot {
            phase,
            frames,
            globals,
            references,
            memories,
            kernel,
            ..
        } = snapshot;
        let mut process = Process::assemble(image, phase, kernel, sources, ports)?;
        let Some(machine) = &mut process.machine else {
            return Ok(process);
        };
        // The segments of an immobile program have run.
        if image.is_mobile() {
            machine.apply(image, &memories).map_err(engine)?;
        }
        let state = State {
            globals,
            references,
        };
        if state != *image.initial_state() {
            machine.load_state(&state).map_err(engine)?;
        }
        if machine.part == Part::Thaw {
            let (_, code) = image.part(Part::Thaw)?;
            machine.set_frames(&frames).map_err(engine)?;
            let references = &state.references.frames;
            rehearse(
                machine,
                &code.exports,
                &process.control,
                &frames,
                references,
            )?;
        }
        Ok(process)
    }

    /// A process whose memories begin as `sources` say, and that is about to be at this phase.
    pub(crate) fn assemble(
        image: &Arc<Image>,
        phase: Phase,
        kernel: wire::snapshot::Kernel,
        sources: Vec<Source>,
        ports: Ports,
    ) -> Result<Process, ThawError> {
        let (part, standing) = match phase {
            Phase::Born => (Part::Run, Standing::Born),
            Phase::Start | Phase::Main => (Part::Thaw, Standing::Frozen),
        };
        image.part(part)?;
        let control = Shared::new(image);
        let budget = Arc::new(Budget::new(kernel.limits.memory_bytes));
        let meter = Meter::new(kernel.cpu_ns, kernel.freezes, budget);
        let ports = meter.metered(ports);
        let kernel = Kernel::load(kernel, ports.clone(), Arc::clone(&control), meter.clone())?;
        let machine = Machine::new(image, part, kernel, sources).map_err(engine)?;
        if !image.is_mobile() {
            control.interrupt_instead(machine.store.engine());
        }
        control.attach(&machine);
        Ok(Process {
            machine: Some(Box::new(machine)),
            folded: None,
            standing,
            phase,
            control,
            meter,
            ports,
            sealed: false,
            image: Arc::clone(image),
        })
    }

    pub(crate) fn machine_mut(&mut self) -> Option<&mut Machine> {
        self.machine.as_deref_mut()
    }

    /// A handle to ask it to freeze or to end.
    pub fn control(&self) -> Control {
        self.control.control()
    }

    /// A handle to read its accounts while it runs.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// What it has consumed so far.
    pub fn accounts(&self) -> Accounts {
        self.meter.read()
    }

    /// Bytes of linear memory that it has.
    pub fn memory_bytes(&self) -> u64 {
        self.meter.read().memory_bytes
    }

    /// Bytes in the pages of linear memory that it has written since it was started or thawed here;
    /// all others it shares with other processes, or they are not there. Nothing if its instance is
    /// gone, or the system cannot tell.
    pub fn written_bytes(&self) -> Option<u64> {
        match &self.folded {
            Some(folded) => Some(folded.given_bytes()),
            None => self.machine.as_ref()?.written_bytes(),
        }
    }

    /// The image it is a process of.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Its file tree; nothing if its instance is gone.
    pub fn files(&self) -> Option<FileTree> {
        match &self.folded {
            Some(folded) => folded.files(),
            None => Some(self.machine.as_ref()?.kernel().files()),
        }
    }

    /// Runs until the program ends or the process is frozen or killed. After `Frozen` it may be
    /// run again and goes on in place (the first time it waits for the thaw module, see
    /// [`Image::prepare_thaw`]); after anything else it says the same again. A future that is
    /// dropped half-way kills the process.
    pub async fn run(&mut self) -> Outcome {
        let standing = std::mem::replace(&mut self.standing, Standing::Running);
        let born = match standing {
            Standing::Ended(outcome) => {
                self.standing = Standing::Ended(outcome.clone());
                return outcome;
            }
            Standing::Running => return self.end(Outcome::Killed),
            Standing::Born => true,
            Standing::Frozen => false,
        };
        if self.control.killed() {
            return self.end(Outcome::Killed);
        }
        if self.sealed {
            self.ports.network.unseal();
            self.sealed = false;
        }
        let mut result = match self.unfold().await {
            Ok(true) => self.metered_steps(born).await,
            Ok(false) => Ok(true),
            Err(error) => Err(error),
        };
        while matches!(result, Ok(true)) && self.folds() {
            match called(&self.control).await {
                Called::Work => {}
                Called::Freeze => break,
                Called::End => return self.end(Outcome::Killed),
            }
            result = match self.unfold().await {
                Ok(true) => self.metered_steps(false).await,
                // Asked to freeze, or to end, before there was room for it.
                Ok(false) => break,
                Err(error) => Err(error),
            };
        }
        match result {
            Ok(true) if self.control.killed() => self.end(Outcome::Killed),
            Ok(true) => {
                self.control.frozen();
                self.meter.count_freeze();
                if let Some(folded) = &mut self.folded {
                    folded.note_frozen(&self.ports);
                } else if let Some(machine) = &mut self.machine {
                    machine.kernel_mut().note_frozen();
                }
                self.standing = Standing::Frozen;
                Outcome::Frozen
            }
            Ok(false) => self.end(Outcome::Exited(0)),
            Err(error) => match error.downcast_ref::<ExitStatus>() {
                Some(ExitStatus(status)) => self.end(Outcome::Exited(*status)),
                None if error.is::<Killed>() => self.end(Outcome::Killed),
                None => {
                    let mut trap = trap(&error);
                    // Only pushing frames can trap while the stack is being frozen. There is room
                    // for all that the run module's stack can hold; a thawed program has a larger
                    // one, and has gone deeper than it could have without being frozen.
                    if self.machine.as_deref_mut().is_some_and(Machine::freezing) {
                        trap.reason = OVERFLOW.to_owned();
                    }
                    self.end(Outcome::Trapped(trap))
                }
            },
        }
    }

    /// [`Process::steps`], and what they take.
    async fn metered_steps(&mut self, born: bool) -> wasmtime::Result<bool> {
        let clock = Arc::clone(&self.ports.clock);
        let meter = self.meter.clone();
        // Not a part of this future: one that is folded keeps no room for them.
        let mut steps = Box::pin(self.steps(born));
        poll_fn(|cx| {
            let before = clock.poll_begins();
            meter.begin_poll(&before);
            let poll = steps.as_mut().poll(cx);
            meter.end_poll(&before, &clock.poll_ends(), poll.is_pending());
            poll
        })
        .await
    }

    fn end(&mut self, outcome: Outcome) -> Outcome {
        self.standing = Standing::Ended(outcome.clone());
        outcome
    }

    /// Runs from where the process stands. `Ok(true)`: it froze; `Ok(false)`: it came to its end.
    async fn steps(&mut self, born: bool) -> wasmtime::Result<bool> {
        let image = Arc::clone(&self.image);
        if !born {
            self.move_to_thaw_module()?;
        }
        let machine = self.machine.as_mut();
        let machine = machine.ok_or_else(|| wasmtime::Error::msg("the instance is gone"))?;
        let code = image.part(machine.part);
        let (_, code) = code.map_err(|error| wasmtime::Error::msg(error.to_string()))?;
        let exports = &code.exports;
        machine.kernel_mut().note_running();
        let mut function = match (born, &exports.start) {
            (false, _) => machine.clone_of_outermost(exports)?,
            (true, Some(start)) => {
                self.phase = Phase::Start;
                machine.function(start)?
            }
            (true, None) => {
                self.phase = Phase::Main;
                machine.function(&exports.entry)?
            }
        };
        loop {
            if machine.call(function).await? {
                return Ok(true);
            }
            if self.phase != Phase::Start {
                return Ok(false);
            }
            self.phase = Phase::Main;
            function = machine.function(&exports.entry)?;
        }
    }

    /// An instance of the run module cannot rebuild a stack: one of the thaw module takes its
    /// memories over.
    fn move_to_thaw_module(&mut self) -> wasmtime::Result<()> {
        // Before anything is given up.
        let thaw = self.image.part(Part::Thaw);
        thaw.map_err(|error| wasmtime::Error::msg(error.to_string()))?;
        let Some(mut machine) = self.machine.take_if(|machine| machine.part == Part::Run) else {
            return Ok(());
        };
        let state = machine.save_state()?;
        let frames = machine.frames()?.len();
        let (kernel, slots) = machine.take_apart();
        let slots = slots.into_iter().map(Source::Slot).collect();
        let mut machine = Machine::new(&self.image, Part::Thaw, kernel, slots)?;
        machine.load_state(&state)?;
        machine.set_sp(frames)?;
        self.control.attach(&machine);
        self.machine = Some(Box::new(machine));
        Ok(())
    }

    /// Folds the process, if that is what it has frozen for, and says whether it is folded now.
    fn folds(&mut self) -> bool {
        let machine = self.machine.take_if(|machine| {
            let folds = machine.kernel_mut().take_folds();
            folds && !self.control.wants_freeze()
        });
        let Some(mut machine) = machine else {
            return self.folded.is_some();
        };
        self.control.forget_fold();
        self.control.detach();
        match Folded::of(&mut machine, &self.image, self.phase) {
            Ok(folded) => {
                // Gives back what it was charged with, which is still the process's.
                drop(machine);
                let _ = self.meter.budget.take(folded.memory_bytes());
                self.meter.count_fold();
                self.control.set_folded(true);
                self.folded = Some(Box::new(folded));
            }
            // It goes on in its instance, as one that was frozen.
            Err(_) => {
                // What raised it is dealt with.
                machine.flag.lower();
                self.control.attach(&machine);
                self.machine = Some(machine);
            }
        }
        true
    }

    /// Gives a folded process an instance again. Where there is no room for one it waits for it, for
    /// a while. False if the process was asked to freeze or to end meanwhile.
    async fn unfold(&mut self) -> wasmtime::Result<bool> {
        let mut tries = 0;
        while let Some(folded) = self.folded.take() {
            let budget = &self.meter.budget;
            budget.give_back(folded.memory_bytes());
            let unfolded = folded.unfold(&self.image, &self.ports, &self.control, &self.meter);
            let error = match unfolded {
                Ok(machine) => {
                    self.control.set_folded(false);
                    self.control.attach(&machine);
                    self.machine = Some(Box::new(machine));
                    break;
                }
                Err(error) => error,
            };
            let _ = budget.take(folded.memory_bytes());
            self.folded = Some(folded);
            tries += 1;
            if tries == UNFOLDING_TRIES {
                return Err(error.context("the folded process could not be unfolded"));
            }
            let next = self.ports.clock.monotonic_ns() + UNFOLDING_PAUSE_NS;
            let asked = poll_fn(|cx| {
                self.control.register(cx.waker());
                if self.control.wants_freeze() {
                    return Poll::Ready(true);
                }
                if self.ports.clock.monotonic_ns() >= next {
                    return Poll::Ready(false);
                }
                self.ports.clock.wake_at(next, cx.waker());
                Poll::Pending
            });
            if asked.await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The state of the process, which is frozen or not yet born. Seals its sockets: until it runs
    /// again, nothing is acknowledged or sent. May be called any number of times.
    pub fn snapshot(&mut self) -> Result<Snapshot, SnapshotError> {
        let (snapshot, _) = self.sealed(false)?;
        Ok(snapshot)
    }

    /// The same, but nothing of its memories is copied: they are to be read through windows for as
    /// long as the process does not run, and the snapshot says of each page that it is the image's.
    /// It is whole again where all pages that differ have landed (see [`Image::landing`]).
    pub fn lend(&mut self) -> Result<(Snapshot, Vec<Window>), SnapshotError> {
        self.sealed(true)
    }

    fn sealed(&mut self, lent: bool) -> Result<(Snapshot, Vec<Window>), SnapshotError> {
        if !self.image.is_mobile() {
            return Err(SnapshotError::Immobile);
        }
        let phase = match self.standing {
            Standing::Born => Phase::Born,
            Standing::Frozen => self.phase,
            _ => return Err(SnapshotError::Ended),
        };
        let failed = |error: wasmtime::Error| SnapshotError::Instance(format!("{error:#}"));
        let mut windows = Vec::new();
        let (snapshot, volumes) = match (&self.folded, &mut self.machine) {
            (Some(folded), _) => (folded.snapshot(&self.image, &self.ports), folded.volumes()),
            (None, Some(machine)) => {
                let (kernel, (_, volumes)) = machine.kernel().put_away();
                let memories = match lent {
                    true => {
                        windows = machine.windows(&self.image).map_err(failed)?;
                        machine.memories_of_image()
                    }
                    false => machine.capture(&self.image).map_err(failed)?,
                };
                let snapshot = fold::snapshot(machine, &self.image, phase, kernel, memories);
                (snapshot, volumes)
            }
            (None, None) => return Err(SnapshotError::Ended),
        };
        let mut snapshot = snapshot.map_err(failed)?;
        if lent && windows.is_empty() {
            // Folded: what it had is a copy already.
            for (memory, pages) in snapshot.memories.iter_mut().zip(self.image.pages()) {
                let bytes = pages.whole(memory).map_err(|error| failed(error.into()))?;
                windows.push(Window::of_copy(bytes, pages));
                *memory = Memory::of_image(memory.wasm_pages);
            }
        }
        let descriptors = volumes.save(&snapshot.kernel.descriptors);
        snapshot.kernel.descriptors = descriptors.map_err(SnapshotError::Removed)?;
        snapshot.volumes = described(&self.ports).cloned().collect();
        let accounts = self.meter.read();
        (snapshot.kernel.cpu_ns, snapshot.kernel.freezes) = (accounts.cpu_ns, accounts.freezes);
        (snapshot.kernel.listeners, snapshot.kernel.streams) = self.ports.network.seal();
        self.sealed = true;
        Ok((snapshot, windows))
    }

    /// Torture: freeze at the `polls`th poll or the `calls`th host call from now; 0 is never.
    pub(crate) fn arm(&mut self, polls: u32, calls: u64) {
        self.control.freeze_at_host_call(calls);
        if let Some(machine) = &self.machine {
            machine.flag.set_countdown(polls);
        }
    }

    /// Torture: what is left of the countdown of host calls.
    pub(crate) fn host_calls_left(&self) -> u64 {
        self.control.host_calls_left()
    }

    /// Torture: what is left of the countdown of polls.
    pub(crate) fn polls_left(&self) -> u32 {
        let machine = self.machine.as_ref();
        machine.map_or(0, |machine| machine.flag.countdown())
    }
}

/// Waits until something comes that a folded process waits for, or that is asked of it.
async fn called(control: &Shared) -> Called {
    let mut waits = false;
    poll_fn(|cx| {
        control.register(cx.waker());
        if control.killed() {
            return Poll::Ready(Called::End);
        }
        if control.wants_freeze() {
            return Poll::Ready(Called::Freeze);
        }
        match std::mem::replace(&mut waits, true) {
            // The ports have had this very waker since the call looked for the last time.
            true => Poll::Ready(Called::Work),
            false => Poll::Pending,
        }
    })
    .await
}

/// Rebuilds the stack and freezes it at once, to see that it can be done. It must come out as it
/// was; no call of the kernel takes effect, since a freeze that is asked for wins over the call.
fn rehearse(
    machine: &mut Machine,
    exports: &Exports,
    control: &Arc<Shared>,
    frames: &[u8],
    references: &[Reference],
) -> Result<(), ThawError> {
    let failed = |error: wasmtime::Error| ThawError::Rebuild(trap(&error).reason);
    let clone = machine.clone_of_outermost(exports).map_err(failed)?;
    control.control().freeze();
    let frozen = at_once(machine.call(clone)).map_err(failed)?;
    control.frozen();
    if !frozen {
        return Err(ThawError::Rebuild("it ran to its end".to_owned()));
    }
    if machine.frames().map_err(failed)? != frames
        || machine.frame_references().map_err(failed)? != references
    {
        return Err(ThawError::Rebuild("it came out different".to_owned()));
    }
    Ok(())
}

fn trap(error: &wasmtime::Error) -> Trap {
    let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>();
    Trap {
        reason: error.root_cause().to_string(),
        backtrace: backtrace.map(ToString::to_string).unwrap_or_default(),
    }
}
