//! The fuzz targets' bodies over their corpus (`fuzz/corpus/`) and some thousand mutations of it.

mod support;

use std::fs;
use std::path::PathBuf;
use support::{birth, full, mutate, with_partners, with_references};
use wire::api::run_body;
use wire::api::{FileSpec, ListenSpec, ListenerInfo, RunSpec};
use wire::checkpoint::{Checkpoint, Head};
use wire::control::{Control, Member, Offer, Step};
use wire::directory::{Answer, Claim, Operation, Record};
use wire::frame::{Body, End, ResetReason, StreamFrame};
use wire::link::{
    BulkHeader, BulkKind, Hello, Join, JoinReply, LinkKind, Luggage, MAX_CONTROL, Secret,
    write_frame,
};
use wire::pages::PartWriter;
use wire::snapshot::{Binding, Digest, LeftOut, PageKind, Volume};
use wire::ticket::Ticket;
use wire::{ArtefactId, Epoch, ImageId, MoveId, NodeId, ProcessId, StreamId, fuzzing};

const MUTATIONS_PER_SEED: u64 = 1000;

fn run(target: &str, body: fn(&[u8]), seeds: Vec<(&str, Vec<u8>)>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    // LIMOSA_BLESS=1 writes the seeds anew.
    if std::env::var_os("LIMOSA_BLESS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (name, seed) in &seeds {
            fs::write(folder.join(name), seed).unwrap();
        }
    }
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= seeds.len(), "the corpus of {target} is gone");
    for (number, file) in files.iter().enumerate() {
        let seed = fs::read(file).unwrap();
        body(&seed);
        let each = |_, mutated: Vec<u8>| body(&mutated);
        mutate(&seed, number as u64, each, MUTATIONS_PER_SEED);
    }
}

#[test]
fn no_bytes_break_the_snapshot_decoder() {
    // Without its pages the whole is small enough for mutations to hit everything.
    let mut small = full();
    small.memories.truncate(1);
    small.memories[0] = wire::snapshot::Memory::from_bytes(&[0; 65536], &[1; 4096]);
    let seeds = vec![
        ("birth", birth().encode()),
        ("small", small.encode()),
        ("references", with_references().encode()),
        ("partners", with_partners().encode()),
    ];
    run("snapshot", fuzzing::snapshot, seeds);
}

#[test]
fn no_bytes_break_the_reading_of_pages() {
    use PageKind::{Given, Image, Zero};
    let part = |batches: &[&[PageKind]]| {
        let mut writer = PartWriter::new();
        for kinds in batches {
            let kind_of = |number: u64, _: &[u8]| kinds[number as usize - 5];
            writer.append((1, 5), kinds.len(), None, kind_of);
        }
        writer.part().to_vec()
    };
    let all = [Zero, Image, Given, Image, Zero, Zero];
    let seeds = vec![
        ("all-kinds", part(&[&all])),
        ("several", part(&[&[Zero; 64], &[Image], &all])),
    ];
    run("pages", fuzzing::pages, seeds);
}

#[test]
fn no_bytes_break_the_reading_of_checkpoints() {
    let snapshot = birth().encode();
    let head = Head {
        process: ProcessId(1),
        name: "web".to_owned(),
        listeners: vec!["127.0.0.1:8080".to_owned()],
    };
    let file = |module: &[u8]| {
        let head = head.clone();
        let checkpoint = Checkpoint {
            head,
            snapshot: &snapshot,
            module,
        };
        checkpoint.encode().unwrap()
    };
    let seeds = vec![("module", file(b"\0asm\x01\0\0\0")), ("empty", file(b""))];
    run("checkpoint", fuzzing::checkpoint, seeds);
}

#[test]
fn no_bytes_break_the_reading_of_requests_to_run() {
    let file = |path: &str, link: Option<&str>, directory, length| FileSpec {
        path: path.to_owned(),
        directory,
        link: link.map(str::to_owned),
        length,
    };
    let spec = RunSpec {
        name: Some("web".to_owned()),
        args: vec!["web.wasm".to_owned(), "-v".to_owned()],
        env: vec!["HOME=/".to_owned()],
        listen: vec![ListenSpec {
            address: "127.0.0.1:0".to_owned(),
            name: "main".to_owned(),
        }],
        files: vec![
            file("/data", None, true, 0),
            file("/data/a", None, false, 5),
            file("/data/b", Some("a"), false, 0),
        ],
        volumes: vec![Volume {
            source: "/srv/photos".to_owned(),
            destination: "/photos".to_owned(),
            binding: Binding::Share,
        }],
        allow_net: vec!["10.0.0.0/8:443".parse().unwrap()],
        on: Some("north".to_owned()),
        attach: Some(wire::api::Terminals {
            stdin: true,
            ..wire::api::Terminals::default()
        }),
        cpu_weight: Some(50),
        limits: wire::api::LimitSpec {
            memory_bytes: Some(1 << 20),
            ..wire::api::LimitSpec::default()
        },
    };
    let files: [&[u8]; 3] = [b"", b"hello", b""];
    let module = b"\0asm\x01\0\0\0";
    let seeds = vec![
        ("files", run_body::encode(&spec, &files, module).unwrap()),
        (
            "plain",
            run_body::encode(&RunSpec::default(), &[], module).unwrap(),
        ),
    ];
    run("run_body", fuzzing::run_body, seeds);
}

#[test]
fn no_bytes_break_the_ticket_parser() {
    let addresses = vec!["192.0.2.1:7070".to_owned(), "north:7070".to_owned()];
    let ticket = Ticket::new(NodeId([7; 32]), addresses, Secret([8; 32])).unwrap();
    let text = ticket.to_string();
    let seeds = vec![
        ("ticket", text.clone().into_bytes()),
        (
            "capitals",
            format!(" {}\n", text.to_uppercase()).into_bytes(),
        ),
    ];
    run("ticket", fuzzing::ticket, seeds);
}

/// A seed for `link_frames`: the choice of message and of steps, then frames.
fn frames<T: serde::Serialize>(choice: u8, messages: &[T]) -> Vec<u8> {
    let mut bytes = vec![choice];
    for message in messages {
        write_frame(message, MAX_CONTROL, &mut bytes).unwrap();
    }
    bytes
}

#[test]
fn no_bytes_break_the_reading_of_links() {
    let node = NodeId([1; 32]);
    let window = |received| (received, received + 65_536);
    let bodies = [
        Body::Open {
            listener: 1,
            peer: "192.0.2.7:1".to_owned(),
            window: 262_144,
        },
        Body::Data {
            offset: 5,
            bytes: b"hello".to_vec(),
        },
        Body::Ack {
            received: 10,
            limit: 65_546,
        },
        Body::Fin { offset: 10 },
        Body::Reset(ResetReason::Refused),
        Body::Standby {
            node,
            received: window(3).0,
            limit: window(3).1,
        },
        Body::StandbyAck {
            received: window(4).0,
            limit: window(4).1,
        },
        Body::Resume {
            node,
            received: window(5).0,
            limit: window(5).1,
        },
        Body::Resumed {
            received: window(6).0,
            limit: window(6).1,
        },
        Body::NotHere,
        Body::Call {
            listener: "web".to_owned(),
            peer: "process 1".to_owned(),
            window: 262_144,
        },
        Body::Moved { to: node },
    ];
    let partner = End::Partner {
        from: ProcessId(4),
        epoch: Epoch(9),
    };
    let stream_frames = bodies.map(|body| StreamFrame {
        process: ProcessId(1),
        stream: StreamId(2),
        to: match body {
            Body::Call { .. } | Body::Moved { .. } => partner,
            _ => End::Anchor,
        },
        epoch: Epoch(3),
        body,
    });
    let member = Member {
        node,
        name: "north".to_owned(),
        address: "192.0.2.1:7070".to_owned(),
        incarnation: 4,
    };
    let record = Record {
        process: ProcessId(1),
        name: "web".to_owned(),
        image: ImageId([2; 32]),
        claim: Claim {
            owner: node,
            epoch: Epoch(3),
            attempt: 1,
        },
    };
    let offer = Offer {
        process: ProcessId(1),
        name: "web".to_owned(),
        image: ImageId([2; 32]),
        artefact: ArtefactId([3; 32]),
        epoch: Epoch(3),
        attempt: 1,
        memory_bytes: 1 << 23,
        volumes: vec![Volume {
            source: "/srv/photos".to_owned(),
            destination: "/photos".to_owned(),
            binding: Binding::Share,
        }],
    };
    let step = |step| Control::Move {
        id: MoveId(5),
        step,
    };
    let controls = [
        Control::Heartbeat,
        Control::Members(vec![member.clone()]),
        Control::Ask {
            request: 1,
            operation: Operation::Create(record.clone()),
        },
        Control::Ask {
            request: 2,
            operation: Operation::Find("web".to_owned()),
        },
        Control::Answer {
            request: 1,
            answer: Answer::Records {
                records: vec![record],
                more: false,
            },
        },
        step(Step::Offer(offer)),
        step(Step::Accept { need_image: true }),
        step(Step::Prepared {
            kept: [&Digest::of(b"one"), &Digest::of(b"two")]
                .into_iter()
                .collect(),
        }),
        step(Step::Commit { epoch: Epoch(4) }),
        step(Step::Abort {
            reason: "no room".to_owned(),
        }),
        Control::Gone {
            process: ProcessId(1),
            epoch: Epoch(3),
        },
    ];
    let join = Join {
        proof: Secret([8; 32]).prove(node, NodeId([2; 32])),
        member: member.clone(),
    };
    let replies = [
        JoinReply::Accepted {
            members: vec![member],
            directory: node,
        },
        JoinReply::Refused {
            reason: "the ticket is of another fleet".to_owned(),
        },
    ];
    let bulk = BulkHeader {
        id: MoveId(5),
        what: BulkKind::Snapshot,
        length: 1 << 23,
    };
    let luggage = Luggage {
        listeners: vec![ListenerInfo {
            name: "main".to_owned(),
            anchor: node,
            anchor_name: "north".to_owned(),
            anchor_incarnation: 4,
            address: "192.0.2.1:80".to_owned(),
            open: true,
        }],
        allow_net: vec!["*.example.org:443".parse().unwrap()],
        born_ns: 1 << 60,
        moves: 2,
        cpu_weight: 100,
        log_end: 4096,
        frozen_ns: 1_000_000,
        console: None,
        left_out: vec![LeftOut {
            inode: 3,
            index: 1,
            digest: Digest::of(b"one"),
        }],
    };
    let mut hello = Vec::new();
    Hello::new(LinkKind::Control, "north", 4)
        .write_frame(&mut hello)
        .unwrap();
    hello.splice(..4, [5]);
    let seeds = vec![
        ("streams", frames(0, &stream_frames)),
        ("streams-in-steps", frames(0x10, &stream_frames)),
        ("control", frames(1, &controls)),
        ("control-in-steps", frames(0x21, &controls)),
        ("join", frames(2, &[join])),
        ("reply", frames(3, &replies)),
        ("bulk", frames(4, &[bulk])),
        ("luggage", frames(6, &[luggage])),
        ("hello", hello),
    ];
    run("link_frames", fuzzing::link_frames, seeds);
}
