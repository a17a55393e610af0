//! Idle processes, put away.
//!
//! ```text
//!  waits in a host call --fold--> frozen there --> folded: a snapshot, but for its sockets, and
//!                                                    |       what differs of memory
//!   the call is issued again <-- a new instance <----+ something comes that it waits for
//! ```
//! A process that waits holds an instance, a native stack and a slot. One that waits long can do
//! without: it is frozen where it waits, and what is left is small, and no mapping. Its sockets
//! stay with their port, and its files on volumes stay open, so nothing has to be given up or granted
//! anew; and no time is lost, since its clocks go on.
//!
//! Nothing that comes is missed: the call looks once more after its wakers are registered, and only
//! then freezes; whatever comes later wakes the process. A folded process is frozen in all respects:
//! asked to freeze it says so at once, and its snapshot is that of the process as it waited.

use crate::account::Meter;
use crate::control::Shared;
use crate::delta::Delta;
use crate::image::Image;
use crate::kernel::{Kept, Kernel, Volumes};
use crate::machine::{Machine, Part};
use crate::memory::Source;
use crate::ports::Ports;
use crate::state::State;
use std::sync::Arc;
use wire::snapshot::{FileTree, Memory, Phase, Snapshot};

/// Bytes of linear memory and files that a process may have to be folded. What it has written is
/// copied away and back, and a client waits for that; and what is large would not become much smaller.
pub(crate) const MOST_BYTES: u64 = 16 << 20;

/// A process without an instance.
pub(crate) struct Folded {
    /// A snapshot without memories and sockets, as bytes.
    bytes: Box<[u8]>,
    memories: Box<[Delta]>,
    kept: Kept,
    /// When it was frozen for somebody, in nanoseconds since birth.
    frozen_ns: Option<u64>,
}

fn unreadable(error: impl std::fmt::Display) -> wasmtime::Error {
    wasmtime::Error::msg(format!("the folded state cannot be read: {error}"))
}

/// The state of an instance whose stack is frozen, and of its kernel, with these memories; without
/// its volumes.
pub(crate) fn snapshot(
    machine: &mut Machine,
    image: &Image,
    phase: Phase,
    kernel: wire::snapshot::Kernel,
    memories: Vec<Memory>,
) -> wasmtime::Result<Snapshot> {
    let State {
        globals,
        references,
    } = machine.save_state()?;
    Ok(Snapshot {
        image: image.id(),
        artefact: image.artefact_id(),
        phase,
        frames: machine.frames()?.to_vec(),
        globals,
        references,
        memories,
        kernel,
        volumes: Vec::new(),
    })
}

impl Folded {
    /// What is left of an instance whose stack is frozen. It is still there, and to be dropped.
    pub(crate) fn of(
        machine: &mut Machine,
        image: &Image,
        phase: Phase,
    ) -> wasmtime::Result<Folded> {
        let (kernel, kept) = machine.kernel().put_away();
        let state = snapshot(machine, image, phase, kernel, Vec::new())?;
        let memories = machine.capture(image)?.into_iter().zip(image.pages());
        let memories = memories.map(|(memory, pages)| Delta::of(memory, pages.bytes()));
        Ok(Folded {
            bytes: state.encode().into(),
            memories: memories.collect(),
            kept,
            frozen_ns: None,
        })
    }

    fn read(&self) -> wasmtime::Result<Snapshot> {
        Snapshot::decode(&self.bytes).map_err(unreadable)
    }

    fn memories(&self, image: &Image) -> Vec<Memory> {
        let memories = self.memories.iter().zip(image.pages());
        let memories = memories.map(|(delta, pages)| delta.memory(pages.bytes()));
        memories.collect()
    }

    /// A new instance with that state, in which the frozen stack can be rebuilt.
    pub(crate) fn unfold(
        &self,
        image: &Image,
        ports: &Ports,
        control: &Arc<Shared>,
        meter: &Meter,
    ) -> wasmtime::Result<Machine> {
        let state = self.read()?;
        let (ports, control) = (ports.clone(), Arc::clone(control));
        let kernel = Kernel::take_up(
            state.kernel,
            self.kept.clone(),
            ports,
            control,
            meter.clone(),
        );
        let kernel = kernel.map_err(unreadable)?;
        let sources = image.pages().iter().cloned().map(Source::Pages).collect();
        let mut machine = Machine::new(image, Part::Thaw, kernel, sources)?;
        machine.apply(image, &self.memories(image))?;
        machine.set_frames(&state.frames)?;
        machine.load_state(&State {
            globals: state.globals,
            references: state.references,
        })?;
        Ok(machine)
    }

    /// Notes that the process is frozen: the time that a snapshot tells is this one.
    pub(crate) fn note_frozen(&mut self, ports: &Ports) {
        self.frozen_ns = Some(self.kept.0.since_birth_ns(ports));
    }

    /// Its state, but for its sockets and accounts.
    pub(crate) fn snapshot(&self, image: &Image, ports: &Ports) -> wasmtime::Result<Snapshot> {
        let mut state = self.read()?;
        state.memories = self.memories(image);
        let now = || self.kept.0.since_birth_ns(ports);
        state.kernel.monotonic_ns = self.frozen_ns.unwrap_or_else(now);
        Ok(state)
    }

    /// What it has open on volumes.
    pub(crate) fn volumes(&self) -> Volumes {
        self.kept.1.clone()
    }

    /// Its file tree.
    pub(crate) fn files(&self) -> Option<FileTree> {
        self.read().ok().map(|state| state.kernel.files)
    }

    /// Bytes of its memories.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memories.iter().map(Delta::memory_bytes).sum()
    }

    /// Bytes of the pages of memory that differ from the image's.
    pub(crate) fn given_bytes(&self) -> u64 {
        self.memories.iter().map(Delta::given_bytes).sum()
    }
}
