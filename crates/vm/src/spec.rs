//! What a program is started with.

use crate::files::TreeBuilder;
use crate::image::Image;
use crate::kernel::newborn;
use std::collections::BTreeMap;
use wire::snapshot::{FileTree, Kernel, Limits, Listener, Phase, Snapshot};

/// What a program is started with.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Arguments, the program's name first.
    pub args: Vec<Vec<u8>>,
    /// Environment, `K=V` each. `LISTEN_FDS` and `LISTEN_FDNAMES` are added for the listeners.
    pub env: Vec<Vec<u8>>,
    /// The private file tree; see [`crate::TreeBuilder`].
    pub files: FileTree,
    /// Names of the listeners; they are the descriptors from 3.
    pub listeners: Vec<String>,
    /// What the root of the file tree is preopened as; descriptors after the listeners.
    pub preopens: Vec<Vec<u8>>,
    /// What its volumes are preopened as, in the order of [`crate::ports::Ports::volumes`];
    /// descriptors after the preopens.
    pub volumes: Vec<Vec<u8>>,
    /// Limits.
    pub limits: Limits,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            args: vec![b"program".to_vec()],
            env: Vec::new(),
            files: FileTree::default(),
            listeners: Vec::new(),
            preopens: vec![b"/".to_vec()],
            volumes: Vec::new(),
            limits: Limits::default(),
        }
    }
}

impl Spec {
    fn environment(&self) -> Vec<Vec<u8>> {
        let mut env = self.env.clone();
        let mut add = |key: &str, value: String| {
            let start = format!("{key}=").into_bytes();
            if !env.iter().any(|entry| entry.starts_with(&start)) {
                env.push([start, value.into_bytes()].concat());
            }
        };
        if !self.listeners.is_empty() {
            add("LISTEN_FDS", self.listeners.len().to_string());
            add("LISTEN_FDNAMES", self.listeners.join(":"));
        }
        env
    }

    pub(crate) fn kernel(&self) -> Kernel {
        let count = u16::try_from(self.listeners.len()).unwrap_or(u16::MAX);
        let listener = |name: &String| Listener {
            name: name.clone(),
            queue: Vec::new(),
        };
        let descriptors = newborn(count, &self.preopens, &self.volumes);
        let descriptors: BTreeMap<_, _> = (0..).zip(descriptors).collect();
        Kernel {
            args: self.args.clone(),
            env: self.environment(),
            descriptors,
            files: match self.files.inodes.is_empty() {
                true => TreeBuilder::new(0).build(),
                false => self.files.clone(),
            },
            listeners: self
                .listeners
                .iter()
                .take(count.into())
                .map(listener)
                .collect(),
            limits: self.limits,
            ..Kernel::default()
        }
    }
}

impl Image {
    /// The birth snapshot: the state before the first instruction.
    pub fn birth(&self, spec: &Spec) -> Snapshot {
        Snapshot {
            image: self.id(),
            artefact: self.artefact_id(),
            phase: Phase::Born,
            frames: Vec::new(),
            globals: self.initial_state().globals.clone(),
            references: self.initial_state().references.clone(),
            memories: self.initial_memories().to_vec(),
            kernel: spec.kernel(),
            volumes: Vec::new(),
        }
    }
}
