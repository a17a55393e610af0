//! The kernel section: every handle of a process as state that can be written down.

use super::Content;
use crate::{Epoch, NodeId, ProcessId, StreamId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the process's kernel knows.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kernel {
    /// Arguments, the program's name first.
    pub args: Vec<Vec<u8>>,
    /// Environment, `K=V` each.
    pub env: Vec<Vec<u8>>,
    /// Open descriptors by number.
    pub descriptors: BTreeMap<u32, Descriptor>,
    /// The private file tree.
    pub files: FileTree,
    /// Names of the listeners; the index is the one that streams are opened with.
    pub listeners: Vec<Listener>,
    /// The streams of the process, accepted or waiting in a listener's queue.
    pub streams: Vec<Stream>,
    /// Monotonic time at the freeze, in nanoseconds since the process was born.
    pub monotonic_ns: u64,
    /// What is kept of the host call that was frozen without any effect, if one was.
    pub pending: Option<Pending>,
    /// Raised at each restore and clone; a process can read it.
    pub generation: u64,
    /// CPU time consumed so far, in nanoseconds.
    pub cpu_ns: u64,
    /// Times it was frozen.
    pub freezes: u64,
    /// Limits it runs under.
    pub limits: Limits,
}

/// State of a host call that is issued again at thaw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pending {
    /// `poll_oneoff` with relative timeouts: the monotonic instant at which each clock
    /// subscription ends, in nanoseconds since birth, by index of the subscription.
    Poll {
        /// (index of the subscription, deadline), by index.
        deadlines: Vec<(u32, u64)>,
    },
    /// `random_get`: so many bytes at the beginning of its buffer are filled.
    Random {
        /// Bytes.
        filled: u32,
    },
    /// A call that opens a connection: the stream that it has opened and waits for.
    Connect {
        /// The stream.
        stream: StreamId,
    },
}

/// Limits of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memory, in bytes, all memories together.
    pub memory_bytes: u64,
    /// Open descriptors.
    pub descriptors: u32,
    /// What the private file tree takes, in bytes: what is written, and some hundred bytes for each
    /// file, name and 64 KiB of a file. Holes take nothing.
    pub file_bytes: u64,
}

impl Limits {
    /// The stricter of both, one by one: a snapshot's own limits give it no right to more than its
    /// node allows.
    pub fn within(self, allowed: Limits) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes.min(allowed.memory_bytes),
            descriptors: self.descriptors.min(allowed.descriptors),
            file_bytes: self.file_bytes.min(allowed.file_bytes),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 1 << 32,
            descriptors: 1024,
            file_bytes: 1 << 30,
        }
    }
}

/// An open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// What it refers to.
    pub target: Target,
    /// WASI `fdflags` bits.
    pub flags: u16,
    /// WASI rights.
    pub rights_base: u64,
    /// WASI inheriting rights.
    pub rights_inheriting: u64,
}

/// What a descriptor refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A regular file of the private tree and the position in it.
    File {
        /// Inode.
        inode: u64,
        /// Offset of the next read or write.
        position: u64,
    },
    /// A directory of the private tree.
    Directory {
        /// Inode.
        inode: u64,
        /// The path it is preopened as, if it is.
        preopen: Option<Vec<u8>>,
    },
    /// A listener, by index.
    Listener(u16),
    /// A connection.
    Socket(StreamId),
    /// A regular file on a volume and the position in it.
    VolumeFile {
        /// Index of the volume.
        volume: u16,
        /// Its path from the volume's root.
        path: Vec<u8>,
        /// Offset of the next read or write.
        position: u64,
    },
    /// A directory of a volume.
    VolumeDirectory {
        /// Index of the volume.
        volume: u16,
        /// Its path from the volume's root; `.` is the root.
        path: Vec<u8>,
        /// The path it is preopened as, if it is.
        preopen: Option<Vec<u8>>,
    },
}

/// A file tree: inodes by number; 1 is the root of the first preopen. Removed files that are still
/// open stay as inodes without a name.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileTree {
    /// The inodes.
    pub inodes: BTreeMap<u64, Inode>,
    /// The next free number.
    pub next: u64,
}

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// What it holds.
    pub node: InodeKind,
    /// Access time, nanoseconds since 1970.
    pub accessed_ns: u64,
    /// Modification time, nanoseconds since 1970.
    pub modified_ns: u64,
    /// Change time, nanoseconds since 1970.
    pub changed_ns: u64,
    /// Names that refer to it.
    pub links: u64,
}

/// What an inode holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InodeKind {
    /// A regular file.
    File(Content),
    /// A directory.
    Directory(Directory),
    /// A symbolic link.
    Link(Vec<u8>),
}

/// A directory.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Directory {
    /// Entries by name.
    pub entries: BTreeMap<Vec<u8>, Entry>,
    /// The directory that holds it; itself for a root, and for one that was removed.
    pub parent: u64,
    /// The serial number of the next entry; all in use are lower.
    pub next: u64,
}

/// An entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it names.
    pub inode: u64,
    /// When it came into the directory, counted; no two entries of one directory have the same. A
    /// listing goes by it, from the newest to the oldest.
    pub serial: u64,
}

impl Directory {
    /// An empty directory in `parent`.
    pub fn new(parent: u64) -> Directory {
        Directory {
            parent,
            ..Directory::default()
        }
    }

    /// Names `inode`; gives the entry that the name had before.
    pub fn insert(&mut self, name: Vec<u8>, inode: u64) -> Option<Entry> {
        let serial = self.next;
        self.next += 1;
        self.entries.insert(name, Entry { inode, serial })
    }
}

/// A listener, as the process sees it (`LISTEN_FDNAMES`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Connections that wait to be accepted, oldest first.
    pub queue: Vec<StreamId>,
}

/// The process's end of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its id.
    pub id: StreamId,
    /// The node that holds the other side.
    pub anchor: NodeId,
    /// The client's address as text; of a stream that the process opened, the path that it opened.
    pub peer: String,
    /// The bytes that the process wrote and the anchor has not acknowledged.
    #[serde(with = "serde_bytes")]
    pub unacknowledged: Vec<u8>,
    /// Offset of the first of them.
    pub acknowledged: u64,
    /// The highest offset that the anchor lets us send.
    pub send_limit: u64,
    /// The process has shut its writing side down.
    pub send_closed: bool,
    /// The bytes that arrived and the process has not read.
    #[serde(with = "serde_bytes")]
    pub unread: Vec<u8>,
    /// The next offset expected.
    pub received: u64,
    /// The length of the direction towards the process, once known.
    pub end: Option<u64>,
    /// The process has shut its reading side down.
    pub receive_closed: bool,
    /// Set when the stream was reset.
    pub reset: Option<crate::frame::ResetReason>,
    /// Of a stream to another process; `anchor` is the node where that was last. (A section of its
    /// own.)
    #[serde(skip)]
    pub partner: Option<Partner>,
}

/// The other process of a stream between two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partner {
    /// The process, once it is known.
    pub process: Option<ProcessId>,
    /// The epoch of its owner, as last heard.
    pub epoch: Epoch,
    /// While it has not answered: the service that was called.
    pub calling: Option<Service>,
}

/// What a process offers to others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Service {
    /// The name of the process.
    pub name: String,
    /// The name of its listener; the first one, if it is empty.
    pub listener: String,
}
