//! Snapshots to test with.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use wire::frame::ResetReason;
use wire::snapshot::{
    Binding, Content, Descriptor, Directory, Entry, FileTree, GlobalValue, Inode, InodeKind,
    Kernel, Limits, Listener, Memory, PAGE_BYTES, PageKind, Partner, Pending, Phase, References,
    Service, Snapshot, Stream, Target, Volume,
};
use wire::{ArtefactId, Epoch, ImageId, NodeId, ProcessId, StreamId};

/// The least that a process can be.
pub fn birth() -> Snapshot {
    Snapshot {
        image: ImageId([0x11; 32]),
        artefact: ArtefactId([0x22; 32]),
        phase: Phase::Born,
        frames: Vec::new(),
        globals: Vec::new(),
        references: References::default(),
        memories: Vec::new(),
        kernel: Kernel::default(),
        volumes: Vec::new(),
    }
}

/// One of everything.
pub fn full() -> Snapshot {
    let mut first = Memory {
        wasm_pages: 2,
        ..Memory::default()
    };
    for page in 0..32 {
        first.map.push(match page {
            0 | 5 => PageKind::Given,
            1..=4 => PageKind::Image,
            _ => PageKind::Zero,
        });
    }
    first.given = (0..2 * PAGE_BYTES).map(|at| (at / 7) as u8).collect();
    let second = Memory::from_bytes(&[0; 65536], &[]);
    let inode = |node, links| Inode {
        node,
        accessed_ns: 1,
        modified_ns: 2,
        changed_ns: 3,
        links,
    };
    let entry = |inode, serial| Entry { inode, serial };
    let root = InodeKind::Directory(Directory {
        entries: BTreeMap::from([
            (b"notes".to_vec(), entry(2, 1)),
            (b"link".to_vec(), entry(3, 0)),
        ]),
        parent: 1,
        next: 2,
    });
    let inodes = BTreeMap::from([
        (1, inode(root, 1)),
        (2, inode(InodeKind::File(Content::from(&b"content"[..])), 1)),
        (3, inode(InodeKind::Link(b"notes".to_vec()), 1)),
    ]);
    let targets = [
        Target::Stdin,
        Target::Stdout,
        Target::Stderr,
        Target::Listener(0),
        Target::Directory {
            inode: 1,
            preopen: Some(b"/".to_vec()),
        },
        Target::File {
            inode: 2,
            position: 3,
        },
        Target::Socket(StreamId(0xabc)),
    ];
    let descriptors = targets.into_iter().enumerate().map(|(number, target)| {
        let descriptor = Descriptor {
            target,
            flags: 4,
            rights_base: 0x1fff_ffff,
            rights_inheriting: u64::MAX,
        };
        (number as u32, descriptor)
    });
    let stream = |id, reset| Stream {
        id: StreamId(id),
        anchor: NodeId([0x33; 32]),
        peer: "192.0.2.7:50123".to_owned(),
        unacknowledged: b"answer".to_vec(),
        acknowledged: 1_000_000_007,
        send_limit: 1_000_065_543,
        send_closed: false,
        unread: b"GET /".to_vec(),
        received: 77,
        end: Some(77),
        receive_closed: false,
        reset,
        partner: None,
    };
    Snapshot {
        image: ImageId([0xaa; 32]),
        artefact: ArtefactId([0xbb; 32]),
        phase: Phase::Main,
        frames: (0..=255).collect(),
        globals: vec![
            GlobalValue::I32(1),
            GlobalValue::I64(u64::MAX),
            GlobalValue::F32(0x7fc0_0001),
            GlobalValue::F64(0x7ff8_0000_dead_beef),
            GlobalValue::V128([9; 16]),
        ],
        references: References::default(),
        memories: vec![first, second],
        kernel: Kernel {
            args: vec![b"server".to_vec(), b"--port".to_vec(), vec![0xff]],
            env: vec![b"LISTEN_FDS=1".to_vec()],
            descriptors: descriptors.collect(),
            files: FileTree { inodes, next: 4 },
            listeners: vec![Listener {
                name: "http".to_owned(),
                queue: vec![StreamId(0xdef)],
            }],
            streams: vec![
                stream(0xabc, None),
                stream(0xdef, Some(ResetReason::ClientGone)),
            ],
            monotonic_ns: 123_456_789_000,
            pending: Some(Pending::Poll {
                deadlines: vec![(0, 123_456_999_000)],
            }),
            generation: 2,
            cpu_ns: 9_000_000,
            freezes: 3,
            limits: Limits::default(),
        },
        volumes: Vec::new(),
    }
}

/// The same with references to functions.
pub fn with_references() -> Snapshot {
    let mut snapshot = full();
    snapshot
        .globals
        .extend([None, Some(3)].map(GlobalValue::Function));
    snapshot.references = References {
        frames: vec![Some(1), None],
        tables: vec![vec![None, Some(0), Some(7)], Vec::new()],
    };
    snapshot
}

/// The same with a volume, and a file and a directory open on it.
pub fn with_volume() -> Snapshot {
    let mut snapshot = full();
    snapshot.volumes = vec![Volume {
        source: "/srv/photos".to_owned(),
        destination: "/photos".to_owned(),
        binding: Binding::Share,
    }];
    let targets = [
        Target::VolumeDirectory {
            volume: 0,
            path: b".".to_vec(),
            preopen: Some(b"/photos".to_vec()),
        },
        Target::VolumeFile {
            volume: 0,
            path: b"2026/index".to_vec(),
            position: 12,
        },
    ];
    let descriptors = targets.map(|target| Descriptor {
        target,
        flags: 0,
        rights_base: 3,
        rights_inheriting: 7,
    });
    snapshot.kernel.descriptors.extend((40..).zip(descriptors));
    snapshot
}

/// The same with streams to other processes: one that flows, and one that is being opened.
pub fn with_partners() -> Snapshot {
    let mut snapshot = full();
    let partners = [
        Partner {
            process: Some(ProcessId(7)),
            epoch: Epoch(4),
            calling: None,
        },
        Partner {
            process: None,
            epoch: Epoch(0),
            calling: Some(Service {
                name: "bank".to_owned(),
                listener: "web".to_owned(),
            }),
        },
    ];
    for (stream, partner) in snapshot.kernel.streams.iter_mut().zip(partners) {
        stream.partner = Some(partner);
    }
    snapshot.kernel.pending = Some(Pending::Connect {
        stream: StreamId(0xdef),
    });
    snapshot
}

/// `count` mutations of `original`, from a seed: bits flipped, bytes and numbers replaced, parts
/// cut, repeated and moved.
pub fn mutate(original: &[u8], seed: u64, mut each: impl FnMut(u64, Vec<u8>), count: u64) {
    for number in 0..count {
        let mut random = fastrand::Rng::with_seed(seed ^ (number << 20));
        let mut bytes = original.to_vec();
        for _ in 0..random.usize(1..6) {
            if bytes.is_empty() {
                break;
            }
            let at = random.usize(..bytes.len());
            // Most meaning is in the small parts at the front and the back.
            let at = match random.u8(..3) {
                0 => at,
                1 => at.min(random.usize(..512)),
                _ => bytes.len() - 1 - at.min(random.usize(..512)).min(bytes.len() - 1),
            };
            let length = random.usize(..64).min(bytes.len() - at);
            match random.u8(..7) {
                0 => bytes[at] ^= 1 << random.u8(..8),
                1 => bytes[at] = random.u8(..),
                2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(..5)],
                3 => bytes[at..at + length].fill(0xff),
                4 => {
                    bytes.drain(at..at + length);
                }
                5 => {
                    let copy = bytes[at..at + length].to_vec();
                    let to = random.usize(..=bytes.len());
                    bytes.splice(to..to, copy);
                }
                _ => bytes.truncate(at),
            }
        }
        each(number, bytes);
    }
}
