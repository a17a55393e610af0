//! A process that comes back to a node finds there what it had in its files, and only what has
//! changed is sent.

mod common;

use common::{Node, until, within};
use std::fs;
use std::path::PathBuf;
use wire::api::{FileSpec, ProcessInfo, ProcessState, RunSpec};
use wire::checkpoint::Checkpoint;
use wire::snapshot::Snapshot;

/// Bytes of each file, and files.
const FILE_BYTES: usize = 300_000;
const FILES: usize = 10;
/// More than the rest of a process takes with one file of these.
const LITTLE: u64 = 2 * FILE_BYTES as u64;
const ALL: u64 = (FILES * FILE_BYTES) as u64;

/// Counts in the middle of `f3`, once in a millisecond.
const COUNTER: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pwrite"
        (func $write (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff"
        (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "f3")
    ;; one buffer of 4 bytes at 32
    (data (i32.const 16) "\20\00\00\00\04\00\00\00")
    (func (export "_start")
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 2) (i32.const 0)
                (i64.const 0x3fffffff) (i64.const 0x3fffffff) (i32.const 0) (i32.const 64))
            (then unreachable))
        ;; a millisecond of the monotonic clock
        (i32.store (i32.const 272) (i32.const 1))
        (i64.store (i32.const 280) (i64.const 1000000))
        (loop
            (i32.store (i32.const 32) (i32.add (i32.load (i32.const 32)) (i32.const 1)))
            (if (call $write (i32.load (i32.const 64)) (i32.const 16) (i32.const 1)
                    (i64.const 200000) (i32.const 68))
                (then unreachable))
            (drop (call $poll (i32.const 256) (i32.const 512) (i32.const 1) (i32.const 600)))
            (br 0))))"#;

/// Files that have nothing in common.
fn contents() -> Vec<Vec<u8>> {
    let mut state = 1u64;
    let mut byte = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 56) as u8
    };
    let file = |_| (0..FILE_BYTES).map(|_| byte()).collect();
    (0..FILES).map(file).collect()
}

async fn start(node: &Node, name: &str) -> ProcessInfo {
    let files = (0..FILES).map(|number| FileSpec {
        path: format!("/f{number}"),
        directory: false,
        link: None,
        length: FILE_BYTES as u64,
    });
    let spec = RunSpec {
        name: Some(name.to_owned()),
        args: vec![name.to_owned()],
        files: files.collect(),
        ..RunSpec::default()
    };
    let module = wat::parse_str(COUNTER).unwrap();
    let started = node.client.run(&spec, &contents(), &module).await;
    started.unwrap()
}

/// Moves it; returns the bytes that were sent.
async fn moves(node: &Node, name: &str, to: &Node) -> u64 {
    let moved = within("a move", node.client.migrate(name, to.name())).await;
    moved.unwrap().bytes
}

/// What a node keeps of a process.
fn kept(node: &Node, process: &ProcessInfo) -> PathBuf {
    let path = node.config.state_dir.join("kept");
    path.join(process.id.to_string())
}

async fn keeps(node: &Node, process: &ProcessInfo) {
    let path = kept(node, process);
    until("the files are kept", || async {
        path.exists().then_some(())
    })
    .await;
}

/// All files are what they were, but for the count in one of them.
async fn is_whole(node: &Node, name: &str) {
    let mut file = Vec::new();
    let written = within("a checkpoint", node.client.checkpoint(name, &mut file)).await;
    written.unwrap();
    let snapshot = Snapshot::decode(Checkpoint::decode(&file).unwrap().snapshot).unwrap();
    for (number, mut expected) in contents().into_iter().enumerate() {
        let path = format!("/f{number}");
        let content = vm::read_file(&snapshot.kernel.files, path.as_bytes()).unwrap();
        if number == 3 {
            assert_ne!(content[200_000..200_004], expected[200_000..200_004]);
            expected[200_000..200_004].copy_from_slice(&content[200_000..200_004]);
        }
        assert!(content == expected, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_comes_back_brings_only_what_has_changed() {
    let a = Node::first("ant").await;
    let b = Node::joining("bee", &a).await;
    let c = Node::joining("cat", &a).await;
    a.sees_alive(3).await;
    let info = start(&a, "counter").await;
    let first = moves(&a, "counter", &b).await;
    assert!(first > ALL, "{first}");
    keeps(&a, &info).await;
    let back = moves(&a, "counter", &a).await;
    assert!(back < LITTLE, "{back} of {first}");
    is_whole(&a, "counter").await;
    keeps(&b, &info).await;
    // What a node has itself is not kept twice.
    until("it is dropped", || async {
        (!kept(&a, &info).exists()).then_some(())
    })
    .await;

    // By a third node, and after the first was started again.
    let there = moves(&a, "counter", &c).await;
    assert!(there > ALL, "{there}");
    keeps(&a, &info).await;
    let there = moves(&a, "counter", &b).await;
    assert!(there < LITTLE, "{there}");
    let left = a.stop().await;
    let a = Node::again(left).await;
    b.sees_alive(3).await;
    let back = moves(&b, "counter", &a).await;
    assert!(back < LITTLE, "{back}");
    is_whole(&b, "counter").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_altered_or_lost_is_sent_again() {
    let a = Node::first("ant").await;
    let b = Node::joining("bee", &a).await;
    a.sees_alive(2).await;
    let info = start(&a, "counter").await;
    moves(&a, "counter", &b).await;
    let alterations: [fn(Vec<u8>) -> Vec<u8>; 3] = [
        // One byte in each chunk, so that nothing is as it was.
        |mut file| {
            file.iter_mut()
                .skip(200)
                .step_by(1000)
                .for_each(|byte| *byte ^= 1);
            file
        },
        |file| file[..3].to_vec(),
        |_| vec![0xff; 1 << 20],
    ];
    for alter in alterations {
        keeps(&a, &info).await;
        let path = kept(&a, &info);
        fs::write(&path, alter(fs::read(&path).unwrap())).unwrap();
        let back = moves(&a, "counter", &a).await;
        assert!(back > ALL, "{back}");
        is_whole(&a, "counter").await;
        keeps(&b, &info).await;
        let there = moves(&a, "counter", &b).await;
        assert!(there < LITTLE, "{there}");
    }
    keeps(&a, &info).await;
    fs::remove_file(kept(&a, &info)).unwrap();
    let back = moves(&a, "counter", &a).await;
    assert!(back > ALL, "{back}");
    is_whole(&a, "counter").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_of_processes_that_have_ended() {
    let a = Node::first("ant").await;
    let b = Node::joining("bee", &a).await;
    a.sees_alive(2).await;
    let one = start(&a, "one").await;
    let two = start(&a, "two").await;
    moves(&a, "one", &b).await;
    keeps(&a, &one).await;
    a.client.kill("one").await.unwrap();
    a.sees("one", ProcessState::Exited).await;
    // It is looked for whenever another has left.
    moves(&a, "two", &b).await;
    keeps(&a, &two).await;
    until("nothing is kept of it", || async {
        (!kept(&a, &one).exists()).then_some(())
    })
    .await;
    assert!(kept(&a, &two).exists());
}
