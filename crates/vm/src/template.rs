//! A snapshot from which many processes are started: warm starts and clones.
//!
//! What a thaw does each time is done once: the snapshot is checked, its stack is rebuilt for a
//! trial, and its memories and frames become pages that every process maps copy-on-write. A start
//! from a template is then the same as one from an image, with other pages.

use crate::image::Image;
use crate::memory::{Pages, Source};
use crate::ports::Ports;
use crate::process::{Process, engine};
use crate::snapshot::ThawError;
use crate::state::State;
use std::sync::Arc;
use wire::snapshot::{Kernel, Phase, Snapshot};

const WASM_PAGE_BYTES: usize = 65536;

/// A state of a program that processes are started in.
pub struct Template {
    image: Arc<Image>,
    phase: Phase,
    frames_bytes: usize,
    state: State,
    /// Of the program's memories, then of the frames.
    pages: Vec<Arc<Pages>>,
    kernel: Kernel,
}

impl Template {
    /// Makes a template of a snapshot, after trying out that it can be thawed. Waits for the thaw
    /// module, if it is needed.
    pub fn new(image: &Arc<Image>, snapshot: Snapshot) -> Result<Template, ThawError> {
        drop(Process::thaw(image, snapshot.clone(), Ports::nothing())?);
        let memories = image.pages().iter().zip(&snapshot.memories);
        let pages = memories.map(|(begun, state)| Pages::of_snapshot(begun, state));
        let minimum = image.artefact().interface.frames_pages as usize * WASM_PAGE_BYTES;
        let frames_size = snapshot.frames.len().next_multiple_of(WASM_PAGE_BYTES);
        let frames_size = frames_size.max(minimum);
        let frames = Pages::of_host(image.engine().pool(), &snapshot.frames, frames_size);
        let pages: Result<Vec<_>, _> = pages.chain([frames]).collect();
        let pages = pages.map_err(|error| ThawError::Engine(error.to_string()))?;
        Ok(Template {
            image: Arc::clone(image),
            phase: snapshot.phase,
            frames_bytes: snapshot.frames.len(),
            state: State {
                globals: snapshot.globals,
                references: snapshot.references,
            },
            pages,
            kernel: snapshot.kernel,
        })
    }

    /// The image it is a state of.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Starts a process there. It stands frozen; [`Process::run`] goes on. The sockets in `ports`
    /// are to be those of the snapshot.
    pub fn start(&self, ports: Ports) -> Result<Process, ThawError> {
        let sources = self.pages.iter().cloned().map(Source::Pages).collect();
        let kernel = self.kernel.clone();
        let mut process = Process::assemble(&self.image, self.phase, kernel, sources, ports)?;
        if let Some(machine) = process.machine_mut() {
            if self.state != *self.image.initial_state() {
                machine.load_state(&self.state).map_err(engine)?;
            }
            machine.set_sp(self.frames_bytes).map_err(engine)?;
        }
        Ok(process)
    }
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Template({:?})", self.image)
    }
}
