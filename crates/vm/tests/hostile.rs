//! Snapshots that lie: refused, or harmless.

mod common;

use common::{counting, guest, polling, spec};
use fastrand::Rng;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;
use vm::ports::{Clock, Entropy, Io, Network, Ports, Readiness, Stdio};
use vm::{Control, Image, Outcome, Process, Spec, ThawError};
use wire::snapshot::{
    Content, Descriptor, GlobalValue, InodeKind, Listener, PageKind, Phase, Run, Snapshot, Stream,
    Target,
};
use wire::{ArtefactId, ImageId, NodeId, StreamId};

/// A world that stops the process at its `left`th event, so that no run is long.
struct Impatient {
    left: std::sync::Mutex<(u64, Option<Control>)>,
    streams: Vec<Stream>,
}

impl Impatient {
    fn event(&self) {
        let mut left = self.left.lock().unwrap();
        left.0 = left.0.saturating_sub(1);
        if left.0 == 0
            && let Some(control) = &left.1
        {
            control.freeze();
        }
    }
}

impl Clock for Impatient {
    fn realtime_ns(&self) -> u64 {
        1
    }
    fn monotonic_ns(&self) -> u64 {
        1
    }
    fn wake_at(&self, _: u64, _: &Waker) {
        self.event();
    }
    fn host_call_completed(&self) {
        self.event();
    }
}

impl Entropy for Impatient {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(5);
    }
}

impl Stdio for Impatient {
    fn read(&self, buffer: &mut [u8]) -> Io {
        buffer.fill(b'\n');
        Io::Done(buffer.len())
    }
    fn readable(&self) -> bool {
        true
    }
    fn write(&self, _: u32, bytes: &[u8]) -> Io {
        Io::Done(bytes.len())
    }
    fn register(&self, _: &Waker) {}
}

impl Network for Impatient {
    fn accept(&self, _: u16) -> Option<StreamId> {
        None
    }
    fn read(&self, _: StreamId, _: &mut [u8], _: bool) -> Io {
        Io::Blocked
    }
    fn write(&self, _: StreamId, bytes: &[u8]) -> Io {
        Io::Done(bytes.len())
    }
    fn shutdown(&self, _: StreamId, _: bool, _: bool) {}
    fn close(&self, _: StreamId) {}
    fn stream_readiness(&self, _: StreamId) -> Readiness {
        Readiness::default()
    }
    fn listener_readiness(&self, _: u16) -> Readiness {
        Readiness::default()
    }
    fn register(&self, _: &Waker) {
        self.event();
    }
    fn seal(&self) -> (Vec<Listener>, Vec<Stream>) {
        let listener = Listener {
            name: "l".to_owned(),
            queue: vec![],
        };
        (vec![listener], self.streams.clone())
    }
    fn unseal(&self) {}
}

fn world(events: u64) -> (Arc<Impatient>, Ports) {
    let stream = Stream {
        id: StreamId(9),
        anchor: NodeId::default(),
        peer: String::new(),
        unacknowledged: vec![],
        acknowledged: 0,
        send_limit: 0,
        send_closed: false,
        unread: vec![],
        received: 0,
        end: None,
        receive_closed: false,
        reset: None,
        partner: None,
    };
    let world = Arc::new(Impatient {
        left: (events, None).into(),
        streams: vec![stream],
    });
    let ports = Ports {
        clock: world.clone(),
        entropy: world.clone(),
        stdio: world.clone(),
        network: world.clone(),
        volumes: Arc::default(),
    };
    (world, ports)
}

/// Runs for a few events; what waits for nothing that will come is left alone, and what computes
/// for ever is killed.
fn run(process: &mut Process, world: &Impatient) -> Option<Outcome> {
    let control = process.control();
    world.left.lock().unwrap().1 = Some(control.clone());
    let (done, ended) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(Duration::from_secs(2)) == Err(RecvTimeoutError::Timeout) {
                control.kill();
            }
        });
        let _done = done;
        let mut run = pin!(process.run());
        for _ in 0..3 {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(outcome) = run.as_mut().poll(&mut context) {
                return Some(outcome);
            }
        }
        None
    })
}

/// A guest, frozen after so many host calls.
fn frozen(image: &Arc<Image>, spec: &Spec, events: u64) -> Snapshot {
    let (world, ports) = world(events);
    let mut process = Process::start(image, spec, ports).unwrap();
    assert_eq!(run(&mut process, &world), Some(Outcome::Frozen));
    process.snapshot().unwrap()
}

fn thaw(image: &Arc<Image>, snapshot: Snapshot) -> Result<Process, ThawError> {
    Process::thaw(image, snapshot, world(5).1)
}

fn subject() -> (Arc<Image>, Snapshot) {
    let image = polling()[0].load(&guest("files")).unwrap();
    let spec = Spec {
        listeners: vec!["l".to_owned()],
        ..spec(&["files"])
    };
    let mut snapshot = frozen(&image, &spec, 40);
    let connection = Descriptor {
        target: Target::Socket(StreamId(9)),
        flags: 0,
        rights_base: u64::MAX,
        rights_inheriting: 0,
    };
    snapshot.kernel.descriptors.insert(77, connection);
    (image, snapshot)
}

#[test]
fn each_lie_is_named() {
    let (image, good) = subject();
    thaw(&image, good.clone()).unwrap();
    type Lie = (&'static str, fn(&mut Snapshot));
    let lies: &[Lie] = &[
        ("of image", |s| s.image = ImageId([7; 32])),
        ("uses artefact", |s| s.artefact = ArtefactId([7; 32])),
        ("globals", |s| s.globals.truncate(0)),
        ("globals", |s| s.globals.push(GlobalValue::I32(0))),
        ("globals", |s| s.globals[0] = GlobalValue::V128([0; 16])),
        ("memories", |s| s.memories.clear()),
        ("pages", |s| s.memories[0].wasm_pages = 0),
        ("pages", |s| s.memories[0].wasm_pages = 65_537),
        ("pages", |s| s.memories[0].wasm_pages = u64::MAX),
        ("page map", |s| s.memories[0].wasm_pages += 1),
        ("page map", |s| s.memories[0].map.runs.truncate(1)),
        ("page map", |s| s.memories[0].given.truncate(100)),
        ("page map", |s| {
            let kind = PageKind::Given;
            s.memories[0].map.runs.push(Run {
                kind,
                pages: u64::MAX,
            });
        }),
        ("limit", |s| s.kernel.limits.memory_bytes = 65_536),
        ("no frames", |s| s.frames.clear()),
        ("cut off", |s| _ = s.frames.remove(0)),
        ("frozen stack", |s| s.frames.truncate(8)),
        ("does not exist", |s| {
            let end = s.frames.len();
            s.frames[end - 8..end - 4].fill(0xff);
        }),
        ("unborn", |s| s.phase = Phase::Born),
        ("start function", |s| s.phase = Phase::Start),
        ("descriptors are open", |s| s.kernel.limits.descriptors = 3),
        ("files take", |s| s.kernel.limits.file_bytes = 10),
        ("listener 7", |s| {
            let listener = s.kernel.descriptors.get_mut(&3).unwrap();
            listener.target = Target::Listener(7);
        }),
        ("stream 0000000000000009", |s| s.kernel.streams.clear()),
        ("referred to twice", |s| {
            s.kernel.listeners[0].queue.push(StreamId(9))
        }),
        ("stream 0000000000000008", |s| {
            s.kernel.listeners[0].queue.push(StreamId(8))
        }),
        ("directory 999", |s| {
            let directory = s.kernel.descriptors.get_mut(&4).unwrap();
            directory.target = Target::Directory {
                inode: 999,
                preopen: None,
            };
        }),
        ("file 1", |s| {
            let directory = s.kernel.descriptors.get_mut(&4).unwrap();
            directory.target = Target::File {
                inode: 1,
                position: 0,
            };
        }),
        ("count its entries", |s| {
            let root = s.kernel.files.inodes.get_mut(&1).unwrap();
            let InodeKind::Directory(root) = &mut root.node else {
                panic!("no directory");
            };
            root.next = 0;
        }),
        ("larger than", |s| {
            let mut content = Content::default();
            content.resize(u64::MAX);
            let files = s.kernel.files.inodes.values_mut();
            let mut files = files.filter(|inode| matches!(inode.node, InodeKind::File(_)));
            files.next().unwrap().node = InodeKind::File(content);
        }),
        ("root directory", |s| drop(s.kernel.files.inodes.remove(&1))),
        ("not in use", |s| s.kernel.files.next = 2),
        ("zero byte", |s| s.kernel.args.push(b"a\0b".to_vec())),
        ("environment take", |s| {
            s.kernel.env.push(vec![b'x'; 2 << 20])
        }),
    ];
    for (expected, lie) in lies {
        let mut snapshot = good.clone();
        lie(&mut snapshot);
        match thaw(&image, snapshot) {
            Ok(_) => panic!("not refused: {expected}"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(expected), "{expected}: {error}");
            }
        }
    }
    // A snapshot of this program, but with another's engine settings, is the same program.
    let other = counting()[1].load(&guest("files")).unwrap();
    thaw(&other, good).unwrap();
}

/// Changes bytes here and there.
fn spoil(bytes: &mut Vec<u8>, dice: &mut Rng) {
    if bytes.is_empty() {
        bytes.push(dice.u8(..));
        return;
    }
    for _ in 0..dice.usize(1..4) {
        let at = dice.usize(..bytes.len());
        match dice.u8(..8) {
            0 => bytes[at] = dice.u8(..),
            1 => bytes[at] ^= 1 << dice.u8(..8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.usize(..5)],
            3 => {
                let other = dice.usize(..bytes.len());
                bytes.swap(at, other);
            }
            4 => bytes.insert(at, dice.u8(..)),
            5 if bytes.len() > 1 => drop(bytes.remove(at)),
            6 => bytes.truncate(at.max(1)),
            _ => {
                let end = (at + 4).min(bytes.len());
                let word = dice.u32(..).to_le_bytes();
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
        }
    }
}

/// A lie somewhere in a snapshot.
fn lie(snapshot: &mut Snapshot, dice: &mut Rng) {
    match dice.u8(..6) {
        0 | 1 => spoil(&mut snapshot.frames, dice),
        2 => {
            // Only values: lengths stay, so that most pass the checks and run.
            let at = dice.usize(..snapshot.frames.len());
            snapshot.frames[at] = dice.u8(..);
        }
        3 => {
            let at = dice.usize(..snapshot.globals.len());
            snapshot.globals[at] = match snapshot.globals[at] {
                GlobalValue::I32(_) => GlobalValue::I32(dice.u32(..)),
                _ => GlobalValue::I64(dice.u64(..)),
            };
        }
        4 => {
            let memory = &mut snapshot.memories[0];
            match dice.u8(..4) {
                0 => memory.wasm_pages = dice.u64(..1 << 17),
                1 => {
                    let at = dice.usize(..memory.map.runs.len());
                    memory.map.runs[at].pages = dice.u64(..);
                }
                2 => spoil(&mut memory.given, dice),
                _ => {
                    let at = dice.usize(..memory.given.len());
                    let end = (at + 4096).min(memory.given.len());
                    dice.fill(&mut memory.given[at..end]);
                }
            }
        }
        _ => {
            // Whatever can be decoded can be in a snapshot.
            let mut bytes = postcard::to_stdvec(&snapshot.kernel).unwrap();
            spoil(&mut bytes, dice);
            if let Ok(kernel) = postcard::from_bytes(&bytes) {
                snapshot.kernel = kernel;
            }
        }
    }
}

#[test]
fn random_lies_are_refused_or_harmless() {
    let (image, good) = subject();
    let (mut refused, mut ran) = (0, 0);
    let mut dice = Rng::with_seed(1);
    for _ in 0..4000 {
        let mut snapshot = good.clone();
        lie(&mut snapshot, &mut dice);
        let (world, ports) = world(dice.u64(1..20));
        match Process::thaw(&image, snapshot, ports) {
            Err(_) => refused += 1,
            Ok(mut process) => {
                ran += 1;
                if let Some(Outcome::Frozen) = run(&mut process, &world) {
                    // What it has become is a state like any other.
                    let snapshot = process.snapshot().unwrap();
                    assert!(!snapshot.frames.is_empty());
                }
            }
        }
    }
    println!("{refused} refused, {ran} ran");
    assert!(refused > 500 && ran > 500);
}
