//! Volumes of processes on nodes: who is given one, and where a process can go with it.

mod common;

use common::{Node, within};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use wire::api::{ProcessState, RunSpec};
use wire::snapshot::{Binding, Volume};

/// Opens `log` on its volume and appends one number after the other, until there is `stop`.
const COUNTER: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_filestat_get"
        (func $stat (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff"
        (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "log")
    (data (i32.const 8) "stop")
    ;; one buffer of 4 bytes at 32
    (data (i32.const 16) "\20\00\00\00\04\00\00\00")
    (func $must (param i32)
        (if (local.get 0) (then (call $exit (i32.const 1)))))
    (func (export "_start")
        ;; descriptor 3 is the root, 4 the volume; 1 creates, 1 appends
        (call $must (call $open
            (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 1)
            (i64.const 0x3fffffff) (i64.const 0x3fffffff) (i32.const 1) (i32.const 64)))
        ;; a millisecond of the monotonic clock
        (i32.store (i32.const 272) (i32.const 1))
        (i64.store (i32.const 280) (i64.const 1000000))
        (loop $on
            (call $must (call $write
                (i32.load (i32.const 64)) (i32.const 16) (i32.const 1) (i32.const 68)))
            (i32.store (i32.const 32) (i32.add (i32.load (i32.const 32)) (i32.const 1)))
            (call $must (call $poll
                (i32.const 256) (i32.const 512) (i32.const 1) (i32.const 600)))
            (br_if $on (call $stat
                (i32.const 4) (i32.const 0) (i32.const 8) (i32.const 4) (i32.const 640))))))"#;

/// A node that may give these directories.
async fn node(name: &str, by: Option<&Node>, volumes: &[&Path]) -> Node {
    let state = tempfile::tempdir().unwrap();
    let config = daemon::NodeConfig {
        state_dir: state.path().join("state"),
        name: name.to_owned(),
        listen: "127.0.0.1:0".to_owned(),
        join: by.map(|by| by.ready.ticket.parse().unwrap()),
        volumes: volumes.iter().map(|path| path.to_path_buf()).collect(),
        ..Default::default()
    };
    Node::with(config, state).await.unwrap()
}

fn volume(directory: &Path, binding: Binding) -> Volume {
    Volume {
        source: directory.to_str().unwrap().to_owned(),
        destination: "/data".to_owned(),
        binding,
    }
}

fn counter(directory: &Path, binding: Binding) -> (RunSpec, Vec<u8>) {
    let spec = RunSpec {
        name: Some("counter".to_owned()),
        args: vec!["counter".to_owned()],
        volumes: vec![volume(directory, binding)],
        ..RunSpec::default()
    };
    (spec, wat::parse_str(COUNTER).unwrap())
}

/// A directory with one beneath, which is the volume.
fn directories() -> (TempDir, PathBuf) {
    let above = tempfile::tempdir().unwrap();
    let volume = above.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    (above, volume)
}

/// The program ends, and has written each number once.
async fn ends_well(node: &Node, directory: &Path) {
    std::fs::write(directory.join("stop"), "").unwrap();
    let ended = within("it ends", node.client.wait("counter"))
        .await
        .unwrap();
    assert_eq!(
        (ended.state, ended.exit_code),
        (ProcessState::Exited, Some(0)),
        "{:?}",
        ended.reason
    );
    let log = std::fs::read(directory.join("log")).unwrap();
    let numbers = log.chunks(4).map(|number| number.try_into().unwrap());
    let numbers: Vec<u32> = numbers.map(u32::from_le_bytes).collect();
    let count = numbers.len() as u32;
    assert!(count > 0);
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_a_shared_volume_moves_to_where_it_is_and_nowhere_else() {
    let (above, directory) = directories();
    let a = node("ant", None, &[above.path()]).await;
    let b = node("bee", Some(&a), &[&directory]).await;
    let c = node("cat", Some(&a), &[]).await;
    a.sees_alive(3).await;
    let (spec, module) = counter(&directory, Binding::Share);
    let info = a.client.run(&spec, &[], &module).await.unwrap();
    assert_eq!(info.volumes, spec.volumes);
    for to in [&b, &a, &b] {
        let moved = within("a move", a.client.migrate("counter", to.name())).await;
        moved.unwrap();
        let refused = within("an answer", a.client.migrate("counter", "cat")).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Some("refused"), "{refused}");
        for word in ["/data", directory.to_str().unwrap(), "--volumes"] {
            assert!(refused.to_string().contains(word), "{refused}");
        }
        // It has noticed nothing of that.
        let seen = a.sees("counter", ProcessState::Running).await;
        assert_eq!((seen.node, seen.freezes), (to.ready.node, seen.moves));
    }
    ends_well(&c, &directory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_a_pinned_volume_stays_and_names_it() {
    let (_above, directory) = directories();
    let a = node("ant", None, &[&directory]).await;
    let _b = node("bee", Some(&a), &[&directory]).await;
    a.sees_alive(2).await;
    let (spec, module) = counter(&directory, Binding::Pin);
    a.client.run(&spec, &[], &module).await.unwrap();
    let refused = within("an answer", a.client.migrate("counter", "bee")).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Some("refused"), "{refused}");
    assert!(refused.to_string().contains("`/data`"), "{refused}");
    let mut file = Vec::new();
    let refused = within("an answer", a.client.checkpoint("counter", &mut file)).await;
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("`/data`"), "{refused}");
    let seen = a.client.inspect("counter").await.unwrap();
    assert_eq!((seen.freezes, seen.moves), (0, 0));
    ends_well(&a, &directory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_given_by_the_node_and_not_by_who_asks_nor_by_a_file() {
    let (above, directory) = directories();
    let a = node("ant", None, &[&directory]).await;
    let b = node("bee", Some(&a), &[]).await;
    a.sees_alive(2).await;
    let (spec, module) = counter(&directory, Binding::Share);
    let elsewhere = RunSpec {
        on: Some("bee".to_owned()),
        ..spec.clone()
    };
    let refused = a.client.run(&elsewhere, &[], &module).await.unwrap_err();
    assert_eq!(refused.code(), Some("refused"), "{refused}");
    let outside = counter(above.path(), Binding::Share).0;
    let refused = a.client.run(&outside, &[], &module).await.unwrap_err();
    assert_eq!(refused.code(), Some("refused"), "{refused}");
    assert!(a.client.processes(true).await.unwrap().is_empty());

    a.client.run(&spec, &[], &module).await.unwrap();
    let mut file = Vec::new();
    let written = within("a checkpoint", a.client.checkpoint("counter", &mut file)).await;
    written.unwrap();
    let restored = within(
        "an answer",
        b.client.restore(file.clone(), Some("two"), None, &[]),
    )
    .await;
    let refused = restored.unwrap_err();
    assert_eq!(refused.code(), Some("refused"), "{refused}");
    ends_well(&a, &directory).await;

    // It goes on behind what was written since.
    std::fs::remove_file(directory.join("stop")).unwrap();
    let before = std::fs::read(directory.join("log")).unwrap().len();
    let restored = within("a restore", a.client.restore(file, Some("two"), None, &[])).await;
    assert_eq!(restored.unwrap().volumes, spec.volumes);
    std::fs::write(directory.join("stop"), "").unwrap();
    let ended = within("it ends", a.client.wait("two")).await.unwrap();
    assert_eq!(ended.exit_code, Some(0), "{:?}", ended.reason);
    assert!(std::fs::read(directory.join("log")).unwrap().len() >= before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_open_file_was_removed_stays_until_it_is_closed() {
    let (_above, directory) = directories();
    let a = node("ant", None, &[&directory]).await;
    let _b = node("bee", Some(&a), &[&directory]).await;
    a.sees_alive(2).await;
    let (spec, module) = counter(&directory, Binding::Share);
    a.client.run(&spec, &[], &module).await.unwrap();
    let log = directory.join("log");
    common::until("the log is there", || async { log.exists().then_some(()) }).await;
    let kept = directory.join("kept");
    std::fs::hard_link(&log, &kept).unwrap();
    std::fs::remove_file(&log).unwrap();
    let refused = within("an answer", a.client.migrate("counter", "bee")).await;
    let refused = refused.unwrap_err();
    assert!(
        refused.to_string().contains("has been removed"),
        "{refused}"
    );
    // It writes on where it is.
    std::fs::rename(&kept, &log).unwrap();
    ends_well(&a, &directory).await;
}
