//! The world of a tortured program: a virtual clock, seeded entropy, captured standard streams.

use super::network::ScriptedNetwork;
use super::{Answer, Script};
use crate::ports::{Clock, Entropy, Io, Ports, Stdio};
use crate::spec::Spec;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// 2026-01-01 00:00:00 UTC.
const EPOCH_NS: u64 = 1_767_225_600 * 1_000_000_000;
/// What a host call takes.
const HOST_CALL_NS: u64 = 1_000;

/// Called with what a program writes: descriptor (1 or 2) and bytes.
pub type OnOutput = Arc<dyn Fn(u32, &[u8]) + Send + Sync>;

/// What a program is run in.
#[derive(Clone, Default)]
pub struct World {
    /// Seeds the entropy.
    pub seed: u64,
    /// Standard input.
    pub input: Vec<u8>,
    /// What clients do.
    pub script: Script,
    /// Called with what the program writes, as it does.
    pub on_output: Option<OnOutput>,
}

impl World {
    /// A world at its beginning.
    pub(super) fn begin(&self, spec: &Spec) -> Living {
        let mut hasher = blake3::Hasher::new_derive_key("limosa torture entropy 1");
        let entropy = hasher.update(&self.seed.to_le_bytes()).finalize_xof();
        Living {
            clock: Arc::new(VirtualClock::default()),
            entropy: Arc::new(SeededEntropy(Mutex::new(entropy))),
            stdio: Arc::new(CapturedStdio {
                streams: Mutex::new(Streams {
                    input: self.input.clone(),
                    ..Streams::default()
                }),
                on_output: self.on_output.clone(),
            }),
            network: Arc::new(ScriptedNetwork::new(self.script.clone(), &spec.listeners)),
        }
    }
}

/// A world in the middle of a run.
pub(super) struct Living {
    clock: Arc<VirtualClock>,
    entropy: Arc<SeededEntropy>,
    stdio: Arc<CapturedStdio>,
    network: Arc<ScriptedNetwork>,
}

impl Living {
    pub(super) fn ports(&self) -> Ports {
        Ports {
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            stdio: self.stdio.clone(),
            network: self.network.clone(),
            volumes: Arc::default(),
        }
    }

    /// What the blocked program waits for next: a step of the script, or the next deadline. False
    /// if there is neither.
    pub(super) fn advance(&self) -> bool {
        self.network.advance() || self.clock.jump()
    }

    /// Only the deadline of the call that is blocked now counts.
    pub(super) fn forget_deadline(&self) {
        lock(&self.clock.state).deadline = None;
    }

    /// The sockets' state is what the snapshot says.
    pub(super) fn restore(&self, kernel: &wire::snapshot::Kernel) {
        self.network.restore(&kernel.listeners, &kernel.streams);
    }

    pub(super) fn written(&self) -> (Vec<u8>, Vec<u8>) {
        let streams = lock(&self.stdio.streams);
        (streams.output.clone(), streams.errors.clone())
    }

    pub(super) fn answers(&self) -> BTreeMap<u64, Answer> {
        self.network.answers()
    }

    pub(super) fn clock_ns(&self) -> u64 {
        self.clock.monotonic_ns()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes that a waker was woken.
#[derive(Default)]
pub(super) struct Wake(AtomicBool);

impl Wake {
    pub(super) fn reset(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(super) fn woken(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl std::task::Wake for Wake {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct VirtualClock {
    state: Mutex<ClockState>,
}

#[derive(Default)]
struct ClockState {
    now_ns: u64,
    deadline: Option<(u64, Waker)>,
}

impl VirtualClock {
    fn jump(&self) -> bool {
        let mut state = lock(&self.state);
        let Some((deadline_ns, waker)) = state.deadline.take() else {
            return false;
        };
        state.now_ns = state.now_ns.max(deadline_ns);
        drop(state);
        waker.wake();
        true
    }
}

impl Clock for VirtualClock {
    fn realtime_ns(&self) -> u64 {
        EPOCH_NS.saturating_add(self.monotonic_ns())
    }

    fn monotonic_ns(&self) -> u64 {
        lock(&self.state).now_ns
    }

    fn wake_at(&self, deadline_ns: u64, waker: &Waker) {
        lock(&self.state).deadline = Some((deadline_ns, waker.clone()));
    }

    fn thread_cpu_ns(&self) -> u64 {
        self.monotonic_ns()
    }

    fn host_call_completed(&self) {
        let mut state = lock(&self.state);
        state.now_ns = state.now_ns.saturating_add(HOST_CALL_NS);
    }
}

struct SeededEntropy(Mutex<blake3::OutputReader>);

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        lock(&self.0).fill(buffer);
    }
}

struct CapturedStdio {
    streams: Mutex<Streams>,
    on_output: Option<OnOutput>,
}

#[derive(Default)]
struct Streams {
    input: Vec<u8>,
    read: usize,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Stdio for CapturedStdio {
    fn read(&self, buffer: &mut [u8]) -> Io {
        let mut streams = lock(&self.streams);
        let rest = streams.input.get(streams.read..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        streams.read += count;
        Io::Done(count)
    }

    fn readable(&self) -> bool {
        true
    }

    fn write(&self, descriptor: u32, bytes: &[u8]) -> Io {
        let mut streams = lock(&self.streams);
        let stream = match descriptor {
            1 => &mut streams.output,
            _ => &mut streams.errors,
        };
        stream.extend_from_slice(bytes);
        if let Some(on_output) = &self.on_output {
            on_output(descriptor, bytes);
        }
        Io::Done(bytes.len())
    }

    fn register(&self, _: &Waker) {}
}
