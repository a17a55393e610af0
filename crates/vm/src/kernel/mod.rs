//! The kernel of one process: WASI preview 1, all of it, over state that can be written down.
//!
//! - [`abi`] numbers of the standard; [`guest`] the guest's memory, checked;
//! - [`link`] what the guest imports, and [`waiting`] how a call blocks, freezes or ends;
//! - by topic: [`context`] arguments and environment, clocks, randomness; [`descriptors`];
//!   [`files`] the private tree, [`volumes`] directories of the node, [`store`] the bytes of either;
//!   [`transfer`] reading and writing; [`sockets`], and those that the program opens, [`outgoing`];
//!   [`poll`].
//!
//! A call either takes effect or gives an error, never both; pointers are checked before effects.
//! A blocking call that has made progress returns it. Only a call without any effect yet freezes;
//! it is issued again at thaw, with the same arguments. What is kept of such a call ([`Pending`]) is
//! when the relative timeouts of `poll_oneoff` end, how far `random_get` has come, and which connection
//! is being made.
//!
//! No call keeps a freeze waiting: what may take more than some tenths of a millisecond works in
//! pieces, and looks between them whether the process is asked to freeze.

mod abi;
mod context;
mod descriptors;
mod files;
mod guest;
mod link;
mod outgoing;
mod poll;
mod sockets;
mod store;
mod transfer;
mod volumes;
mod waiting;

#[cfg(test)]
mod tests;

pub(crate) use descriptors::newborn;
pub use files::TreeError;
pub(crate) use link::{Context, ExitStatus, FREEZING, Interface, Killed, MODULE};
pub(crate) use volumes::Volumes;

use crate::account::Meter;
use crate::control;
use crate::ports::Ports;
use files::Tree;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wire::StreamId;
use wire::snapshot::{Descriptor, Limits, Listener, Pending, Stream, Target};

/// The first reading of a process's monotonic clock. Not 0: Go's runtime takes a clock that
/// reads 0 for a broken one.
const MONOTONIC_ORIGIN_NS: u64 = 1_000_000_000;
/// Bytes of all arguments and environment strings together.
const MAX_STRING_BYTES: usize = 1 << 20;

/// Kernel state that no process can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The file tree is not one.
    #[error(transparent)]
    Files(#[from] TreeError),
    /// A descriptor refers to nothing.
    #[error("descriptor {descriptor} refers to {what}, which is not there")]
    Descriptor {
        /// Its number.
        descriptor: u32,
        /// What it should refer to.
        what: String,
    },
    /// A descriptor refers to a file on a volume that cannot be opened here.
    #[error("descriptor {descriptor} refers to {what}, which cannot be opened here: {reason}")]
    Volume {
        /// Its number.
        descriptor: u32,
        /// The file and the volume.
        what: String,
        /// Why not.
        reason: &'static str,
    },
    /// More descriptors than the limit.
    #[error("{count} descriptors are open, but the limit is {limit}")]
    Descriptors {
        /// Open descriptors.
        count: usize,
        /// The limit.
        limit: u32,
    },
    /// A call waits for a stream that is not there.
    #[error("a call waits for stream {stream}, which is not there")]
    Opening {
        /// The stream.
        stream: StreamId,
    },
    /// Two of descriptors, listeners' queues and a call that opens a connection share a stream.
    #[error("stream {stream} is referred to twice")]
    SharedStream {
        /// The stream.
        stream: StreamId,
    },
    /// A listener's queue names a stream that is not there.
    #[error("a connection waits on stream {stream}, which is not there")]
    Queue {
        /// The stream.
        stream: StreamId,
    },
    /// Too many or too long arguments and environment strings.
    #[error("arguments and environment take {bytes} bytes; {MAX_STRING_BYTES} are allowed")]
    Strings {
        /// Their bytes.
        bytes: usize,
    },
    /// An argument or environment string that holds a zero byte.
    #[error("an argument or environment string contains a zero byte")]
    ZeroInString,
}

/// Ties the clock of a process to that of its port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// Monotonic time since birth, when the port's clock read `origin_ns`.
    base_ns: u64,
    origin_ns: u64,
}

impl Origin {
    /// Monotonic time since the process was born. It never runs backwards: the port's clock does
    /// not, and a thaw goes on from where the freeze was.
    pub(crate) fn since_birth_ns(&self, ports: &Ports) -> u64 {
        let passed = ports.clock.monotonic_ns().saturating_sub(self.origin_ns);
        self.base_ns.saturating_add(passed)
    }

    /// The port's reading at an instant given since birth.
    fn port_ns(&self, since_birth_ns: u64) -> u64 {
        let ahead = since_birth_ns.saturating_sub(self.base_ns);
        self.origin_ns.saturating_add(ahead)
    }
}

/// What a kernel leaves to the next one of its process that is not in its state: its clock, and what
/// is open on volumes.
pub(crate) type Kept = (Origin, Volumes);

/// The kernel of one process.
pub(crate) struct Kernel {
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    descriptors: BTreeMap<u32, Descriptor>,
    tree: Tree,
    volumes: Volumes,
    limits: Limits,
    generation: u64,
    pending: Option<Pending>,
    pub(crate) ports: Ports,
    pub(crate) control: Arc<control::Shared>,
    pub(crate) meter: Meter,
    origin: Origin,
    /// Monotonic time since birth at the last freeze, while frozen.
    frozen_ns: Option<u64>,
    /// The call that froze did so to fold.
    folds: bool,
}

impl Kernel {
    /// Takes the state of a snapshot over, after checking it.
    pub(crate) fn load(
        mut state: wire::snapshot::Kernel,
        ports: Ports,
        control: Arc<control::Shared>,
        meter: Meter,
    ) -> Result<Kernel, KernelError> {
        let strings = || state.args.iter().chain(&state.env);
        let bytes: usize = strings().map(|string| string.len() + 1).sum();
        if bytes > MAX_STRING_BYTES {
            return Err(KernelError::Strings { bytes });
        }
        if strings().any(|string| string.contains(&0)) {
            return Err(KernelError::ZeroInString);
        }
        let limit = state.limits.descriptors.min(descriptors::MAX_DESCRIPTORS);
        if state.descriptors.len() > limit as usize {
            let count = state.descriptors.len();
            return Err(KernelError::Descriptors { count, limit });
        }
        let listeners = std::mem::take(&mut state.listeners);
        let streams = std::mem::take(&mut state.streams);
        let origin = Origin {
            base_ns: state.monotonic_ns,
            origin_ns: ports.clock.monotonic_ns(),
        };
        let volumes = Volumes::new(ports.volumes.clone(), &state.descriptors)?;
        let kernel = Kernel::take_up(state, (origin, volumes), ports, control, meter)?;
        check_descriptors(&kernel, &listeners, &streams)?;
        Ok(kernel)
    }

    /// What a fold keeps of it: all but its sockets, which stay with their port; its clock, and what
    /// it has open on volumes.
    pub(crate) fn put_away(&self) -> (wire::snapshot::Kernel, Kept) {
        (self.state(), (self.origin, self.volumes.clone()))
    }

    /// Takes up what another kernel has put away, with the same ports.
    pub(crate) fn take_up(
        state: wire::snapshot::Kernel,
        (origin, volumes): Kept,
        ports: Ports,
        control: Arc<control::Shared>,
        meter: Meter,
    ) -> Result<Kernel, KernelError> {
        let open: BTreeSet<u64> = state.descriptors.values().filter_map(inode_of).collect();
        let tree = Tree::new(state.files, state.limits.file_bytes, &open)?;
        meter.set_file_bytes(tree.used());
        Ok(Kernel {
            args: state.args,
            env: state.env,
            descriptors: state.descriptors,
            tree,
            volumes,
            limits: state.limits,
            generation: state.generation,
            pending: state.pending,
            ports,
            control,
            meter,
            origin,
            frozen_ns: Some(state.monotonic_ns),
            folds: false,
        })
    }

    /// The state, without its sockets; files on volumes by the paths that they last had.
    fn state(&self) -> wire::snapshot::Kernel {
        let accounts = self.meter.read();
        wire::snapshot::Kernel {
            args: self.args.clone(),
            env: self.env.clone(),
            descriptors: self.descriptors.clone(),
            files: self.tree.save(),
            listeners: Vec::new(),
            streams: Vec::new(),
            monotonic_ns: self.frozen_ns.unwrap_or_else(|| self.since_birth_ns()),
            pending: self.pending.clone(),
            generation: self.generation,
            cpu_ns: accounts.cpu_ns,
            freezes: accounts.freezes,
            limits: self.limits,
        }
    }

    /// The file tree as it is now.
    pub(crate) fn files(&self) -> wire::snapshot::FileTree {
        self.tree.save()
    }

    /// Notes that the process is frozen: the monotonic time that a snapshot tells is this one.
    pub(crate) fn note_frozen(&mut self) {
        self.frozen_ns = Some(self.since_birth_ns());
    }

    /// Notes that the process runs (again).
    pub(crate) fn note_running(&mut self) {
        self.frozen_ns = None;
    }

    /// Whether the freeze that has just ended was for a fold.
    pub(crate) fn take_folds(&mut self) -> bool {
        std::mem::take(&mut self.folds)
    }

    /// Notes that a host call has completed: nothing is kept of an earlier issue of it.
    fn completed(&mut self) {
        self.pending = None;
        self.tree.free_some();
        self.meter.set_file_bytes(self.tree.used());
        self.ports.clock.host_call_completed();
    }
}

fn inode_of(descriptor: &Descriptor) -> Option<u64> {
    match descriptor.target {
        Target::File { inode, .. } | Target::Directory { inode, .. } => Some(inode),
        _ => None,
    }
}

fn check_descriptors(
    kernel: &Kernel,
    listeners: &[Listener],
    streams: &[Stream],
) -> Result<(), KernelError> {
    let (descriptors, tree) = (&kernel.descriptors, &kernel.tree);
    let known: BTreeSet<StreamId> = streams.iter().map(|stream| stream.id).collect();
    let mut used = BTreeSet::new();
    for &stream in listeners.iter().flat_map(|listener| &listener.queue) {
        if !known.contains(&stream) {
            return Err(KernelError::Queue { stream });
        }
        if !used.insert(stream) {
            return Err(KernelError::SharedStream { stream });
        }
    }
    if let Some(Pending::Connect { stream }) = kernel.pending {
        if !known.contains(&stream) {
            return Err(KernelError::Opening { stream });
        }
        if !used.insert(stream) {
            return Err(KernelError::SharedStream { stream });
        }
    }
    for (&descriptor, state) in descriptors {
        let (there, what) = match &state.target {
            Target::Stdin | Target::Stdout | Target::Stderr => continue,
            // Looked for when they are opened again.
            Target::VolumeFile { .. } | Target::VolumeDirectory { .. } => continue,
            Target::File { inode, .. } => (tree.content(*inode).is_ok(), format!("file {inode}")),
            Target::Directory { inode, .. } => {
                (tree.is_directory(*inode), format!("directory {inode}"))
            }
            Target::Listener(index) => {
                let there = usize::from(*index) < listeners.len();
                (there, format!("listener {index}"))
            }
            Target::Socket(stream) => {
                if !used.insert(*stream) {
                    return Err(KernelError::SharedStream { stream: *stream });
                }
                (known.contains(stream), format!("stream {stream}"))
            }
        };
        if !there {
            return Err(KernelError::Descriptor { descriptor, what });
        }
    }
    Ok(())
}
