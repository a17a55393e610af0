//! One node: processes, their clients, their logs, and what bad input gets.

mod common;

use common::{Echo, Node, get, guest, until, within};
use wire::api::{FileSpec, ListenSpec, ProcessState, RunSpec};

fn code(error: &daemon::client::ClientError) -> &str {
    error.code().unwrap_or("none")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_talks_to_a_process_and_ends_half_by_half() {
    let node = Node::first("ant").await;
    let (info, address) = node.serve("echo", "echo", None).await;
    assert_eq!(info.state, ProcessState::Running);
    let mut client = Echo::connect(address).await;
    client.round_trip(10).await;
    client.round_trip(1_000_000).await;
    let seen = node.client.inspect("echo").await.unwrap();
    assert_eq!(seen.connections, 1);
    client.finish().await;
    until("the connection is gone", || async {
        let info = node.client.inspect("echo").await.unwrap();
        (info.connections == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_code_and_what_was_written_are_kept_until_the_process_is_removed() {
    let node = Node::first("ant").await;
    let spec = RunSpec {
        args: ["hello.wasm", "tick", "3", "1"].map(str::to_owned).to_vec(),
        ..RunSpec::default()
    };
    let info = node.client.run(&spec, &[], &guest("hello")).await.unwrap();
    let ended = within("it ends", node.client.wait(&info.name))
        .await
        .unwrap();
    assert_eq!(ended.state, ProcessState::Exited);
    let mut logs = node.client.logs(&info.name, false, None).await.unwrap();
    let mut written = Vec::new();
    while let Some((_, bytes)) = within("logs", logs.next()).await.unwrap() {
        written.extend_from_slice(&bytes);
    }
    assert_eq!(written.split(|byte| *byte == b'\n').count(), 4);
    assert_eq!(ended.exit_code, Some(0));
    node.client.remove(&info.name, false).await.unwrap();
    let error = node.client.inspect(&info.name).await.unwrap_err();
    assert_eq!(code(&error), "unknown_process");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_said() {
    let node = Node::first("ant").await;
    let spec = RunSpec::default();
    let error = node
        .client
        .run(&spec, &[], b"#!/bin/sh\n")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "not_wasm");
    let component = b"\0asm\x0d\0\x01\0";
    let error = node.client.run(&spec, &[], component).await.unwrap_err();
    assert_eq!(code(&error), "not_wasm");
    assert!(error.to_string().contains("component"), "{error}");
    assert!(node.client.processes(false).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_and_nothing_is_started() {
    let node = Node::first("ant").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = node
        .try_serve("echo", "echo", None, &address)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "conflict");
    assert!(error.to_string().contains(&address), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(node.client.processes(false).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_unique_and_unknown_ones_are_said() {
    let node = Node::first("ant").await;
    node.serve("web", "echo", None).await;
    let error = node
        .try_serve("web", "echo", None, "127.0.0.1:0")
        .await
        .unwrap_err();
    assert_eq!(code(&error), "conflict");
    for error in [
        node.client.inspect("nothing").await.map(drop),
        node.client.kill("nothing").await.map(drop),
        node.client.wait("nothing").await.map(drop),
        node.client.logs("nothing", false, None).await.map(drop),
        node.client.migrate("nothing", "ant").await.map(drop),
    ] {
        assert_eq!(code(&error.unwrap_err()), "unknown_process");
    }
    let error = node.client.migrate("web", "nowhere").await.unwrap_err();
    assert_eq!(code(&error), "unknown_node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_breaks_its_connections_and_gives_its_name_free() {
    use tokio::io::AsyncReadExt;
    let node = Node::first("ant").await;
    let (_, address) = node.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(10).await;
    let info = within("kill", node.client.kill("echo")).await.unwrap();
    assert_eq!(
        (info.state, info.exit_code),
        (ProcessState::Exited, Some(137))
    );
    let read = within("it breaks", client.tcp.read(&mut [0; 1])).await;
    assert!(read.is_err(), "{read:?}");
    until("its name is free", || async {
        node.try_serve("echo", "echo", None, "127.0.0.1:0")
            .await
            .ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_takes_no_more_clients_and_serves_those_it_has() {
    let node = Node::first("ant").await;
    let (_, address) = node.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(10).await;
    let stopping = tokio::spawn({
        let client = node.client.clone();
        async move { client.stop("echo", Some(20)).await }
    });
    until("the listener is closed", || async {
        tokio::net::TcpStream::connect(address).await.err()
    })
    .await;
    client.round_trip(1000).await;
    assert!(!stopping.is_finished());
    client.finish().await;
    let info = within("stop", stopping).await.unwrap().unwrap();
    assert_eq!(
        (info.state, info.exit_code),
        (ProcessState::Exited, Some(143))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_to_the_end_of_the_process() {
    let node = Node::first("ant").await;
    let (_, address) = node.serve("echo", "echo", None).await;
    let mut logs = node.client.logs("echo", true, None).await.unwrap();
    let mut client = Echo::connect(address).await;
    client.round_trip(10).await;
    use tokio::io::AsyncWriteExt;
    client.tcp.write_all(b"\nQUIT\n").await.unwrap();
    let mut written = String::new();
    while let Some((_, bytes)) = within("logs", logs.next()).await.unwrap() {
        written += std::str::from_utf8(&bytes).unwrap();
    }
    assert!(written.contains("echo: connections 1"), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_sees_the_files_it_was_given() {
    let node = Node::first("ant").await;
    let file = |path: &str, length| FileSpec {
        path: path.to_owned(),
        directory: false,
        link: None,
        length,
    };
    let spec = RunSpec {
        files: vec![file("/in.txt", 3)],
        ..RunSpec::default()
    };
    // A content that is not as long as announced never gets to the daemon.
    assert!(
        node.client
            .run(&spec, &[b"ab".to_vec()], &guest("hello"))
            .await
            .is_err()
    );
    let spec = RunSpec {
        files: vec![file("relative/../..", 0)],
        ..RunSpec::default()
    };
    let error = node
        .client
        .run(&spec, &[Vec::new()], &guest("hello"))
        .await
        .unwrap_err();
    assert_eq!(code(&error), "bad_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_leaves_the_process_running_and_restores_its_memory() {
    let node = Node::first("ant").await;
    let (info, address) = node.serve("web", "httpd", None).await;
    assert_eq!(get(address, "/count").await, "1");
    assert_eq!(get(address, "/count").await, "2");
    let mut file = Vec::new();
    let length = within("checkpoint", node.client.checkpoint("web", &mut file))
        .await
        .unwrap();
    assert_eq!(length, file.len() as u64);
    assert_eq!(get(address, "/count").await, "3");

    // A second one beside it, with the state of the checkpoint.
    let listen = ["127.0.0.1:0".to_owned()];
    let second = node
        .client
        .restore(file.clone(), None, None, &listen)
        .await
        .unwrap();
    assert_ne!(second.id, info.id);
    let beside = second.listeners[0].address.parse().unwrap();
    assert_eq!(get(beside, "/count").await, "3");
    assert_eq!(get(address, "/count").await, "4");

    // Once the first is gone, its identity is free.
    node.client.remove("web", true).await.unwrap();
    let third = until("the record is gone", || async {
        let third = node
            .client
            .restore(file.clone(), Some("again"), None, &listen)
            .await
            .unwrap();
        if third.id == info.id {
            return Some(third);
        }
        node.client
            .remove(&third.id.to_string(), true)
            .await
            .unwrap();
        None
    })
    .await;
    // What is said late of its earlier life does not concern this one.
    assert!(third.epoch > info.epoch);
    let again = third.listeners[0].address.parse().unwrap();
    assert_eq!(get(again, "/count").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_of_one_checkpoint_at_once_are_processes_that_serve_their_clients() {
    let node = Node::first("ant").await;
    let (info, address) = node.serve("web", "httpd", None).await;
    assert_eq!(get(address, "/count").await, "1");
    let mut file = Vec::new();
    node.client.checkpoint("web", &mut file).await.unwrap();
    node.client.remove("web", true).await.unwrap();

    let listen = ["127.0.0.1:0".to_owned()];
    let restore = || node.client.restore(file.clone(), None, None, &listen);
    let (first, second, third) = within("restores", async {
        tokio::join!(restore(), restore(), restore())
    })
    .await;
    // And one more while they run.
    let fourth = restore().await;
    let all = [first, second, third, fourth].map(Result::unwrap);
    for (index, made) in all.iter().enumerate() {
        let others = &all[index + 1..];
        assert!(others.iter().all(|other| other.id != made.id), "{all:?}");
        assert!(others.iter().all(|other| other.name != made.name));
    }
    assert_eq!(all.iter().filter(|made| made.id == info.id).count(), 1);
    // Each goes on where the checkpoint was, and its clients reach it and no other.
    for count in ["2", "3"] {
        for made in &all {
            let address = made.listeners[0].address.parse().unwrap();
            assert_eq!(get(address, "/count").await, count);
        }
    }
    assert_eq!(node.client.processes(false).await.unwrap().len(), all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_leaves_what_has_ended_listed() {
    let node = Node::first("ant").await;
    let (info, _) = node.serve("web", "httpd", None).await;
    let mut file = Vec::new();
    node.client.checkpoint("web", &mut file).await.unwrap();
    within("kill", node.client.kill("web")).await.unwrap();
    node.serve("other", "echo", None).await;
    let listen = ["127.0.0.1:0".to_owned()];
    let id = info.id.to_string();
    // The name is another's, once the identity is free.
    until("its identity is free", || async {
        let error = node
            .client
            .restore(file.clone(), Some("other"), None, &listen);
        let error = error.await;
        assert_eq!(code(&error.unwrap_err()), "conflict");
        let ended = node.client.inspect(&id).await.unwrap();
        assert_eq!(ended.state, ProcessState::Exited);
        node.client.logs(&id, false, None).await.unwrap();
        let restored = node.client.restore(file.clone(), None, None, &listen);
        (restored.await.unwrap().id == info.id).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_refused() {
    let node = Node::first("ant").await;
    node.serve("web", "httpd", None).await;
    let mut file = Vec::new();
    node.client.checkpoint("web", &mut file).await.unwrap();
    let mut altered = file.clone();
    *altered.last_mut().unwrap() ^= 1;
    for (bad, says) in [
        (b"nonsense".to_vec(), "not a Limosa checkpoint"),
        (file[..file.len() - 1].to_vec(), "truncated"),
        (altered, "altered"),
    ] {
        let error = node.client.restore(bad, None, None, &[]).await.unwrap_err();
        assert_eq!(code(&error), "bad_request");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_a_process_to_serve_it_is_a_usage_error() {
    let node = Node::first("ant").await;
    let spec = RunSpec {
        listen: vec![ListenSpec {
            address: "nonsense".to_owned(),
            name: "main".to_owned(),
        }],
        ..RunSpec::default()
    };
    let error = node
        .client
        .run(&spec, &[], &guest("echo"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("ADDR:PORT"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_too_many_is_refused_and_room_is_made_by_those_who_leave() {
    use tokio::io::AsyncReadExt;
    let state = tempfile::tempdir().unwrap();
    let config = daemon::NodeConfig {
        state_dir: state.path().join("state"),
        listen: "127.0.0.1:0".to_owned(),
        max_connections: Some(daemon::anchors::Most {
            per_listener: 2,
            in_all: 100,
        }),
        ..Default::default()
    };
    let node = Node::with(config, state).await.unwrap();
    let (_, address) = node.serve("echo", "echo", None).await;
    let mut first = Echo::connect(address).await;
    first.round_trip(10).await;
    let mut second = Echo::connect(address).await;
    second.round_trip(10).await;
    let mut third = Echo::connect(address).await;
    let end = within("it is refused", third.tcp.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(0) | Err(_)));
    first.finish().await;
    until("there is room", || async {
        let mut next = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut next, b"x")
            .await
            .ok()?;
        next.read_exact(&mut [0; 1]).await.ok()
    })
    .await;
    second.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_reported_with_its_reason() {
    let node = Node::first("ant").await;
    let spec = RunSpec {
        args: ["hello", "trap"].map(str::to_owned).to_vec(),
        ..RunSpec::default()
    };
    let info = node.client.run(&spec, &[], &guest("hello")).await.unwrap();
    let ended = within("it ends", node.client.wait(&info.id.to_string()))
        .await
        .unwrap();
    assert_eq!(
        (ended.state, ended.exit_code),
        (ProcessState::Exited, Some(134))
    );
    assert!(ended.reason.unwrap().contains("unreachable"));
    let mut logs = node.client.logs(&info.name, false, None).await.unwrap();
    let mut written = String::new();
    while let Some((_, bytes)) = within("logs", logs.next()).await.unwrap() {
        written += std::str::from_utf8(&bytes).unwrap();
    }
    assert!(written.contains("trapped"), "{written}");
}

/// Accepts one client, writes `bytes` bytes to it, and ends.
fn one_answer(bytes: usize) -> Vec<u8> {
    let text = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "sock_accept"
            (func $accept (param i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 2)
          (func (export "_start") (local $left i32)
            (if (call $accept (i32.const 3) (i32.const 0) (i32.const 0)) (then unreachable))
            (local.set $left (i32.const {bytes}))
            (i32.store (i32.const 8) (i32.const 65536))
            (loop $more
              (i32.store (i32.const 12)
                (select (local.get $left) (i32.const 65536)
                  (i32.lt_u (local.get $left) (i32.const 65536))))
              (if (call $write (i32.load (i32.const 0)) (i32.const 8) (i32.const 1) (i32.const 16))
                (then unreachable))
              (local.set $left (i32.sub (local.get $left) (i32.load (i32.const 16))))
              (br_if $more (local.get $left)))))"#
    );
    wat::parse_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_gets_the_last_bytes_of_a_process_that_has_ended() {
    use tokio::io::AsyncReadExt;
    // More than all buffers on the way hold.
    const BYTES: usize = 24_000_000;
    let node = Node::first("ant").await;
    let spec = RunSpec {
        name: Some("answer".to_owned()),
        args: vec!["answer".to_owned()],
        listen: vec![ListenSpec {
            address: "127.0.0.1:0".to_owned(),
            name: "main".to_owned(),
        }],
        ..RunSpec::default()
    };
    let info = node.client.run(&spec, &[], &one_answer(BYTES)).await;
    let address = info.unwrap().listeners[0].address.clone();
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    // Reads a little, then asks whether the process is there: so it is always behind.
    let mut buffer = vec![0; 64 << 10];
    let mut read = 0;
    let gone = async || {
        let info = node.client.inspect("answer").await.unwrap();
        info.state == ProcessState::Exited && info.connections == 0
    };
    while !within("the end of the process", gone()).await {
        let length = within("some", client.read(&mut buffer)).await.unwrap();
        assert_ne!(length, 0, "all was read before the process has ended");
        read += length;
    }
    let mut rest = Vec::new();
    within("the rest", client.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(read + rest.len(), BYTES);
}

/// More than a log keeps and than the buffers on the way to a reader hold.
const MANY_LINES: usize = 200_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_follower_is_told_what_it_missed_and_goes_on_with_whole_lines() {
    let ant = Node::first("ant").await;
    let bee = Node::joining("bee", &ant).await;
    ant.sees_alive(2).await;
    // At the node that is asked, and at another one.
    for on in ["ant", "bee"] {
        let spec = RunSpec {
            name: Some(format!("ticks-{on}")),
            args: ["hello", "tick", &MANY_LINES.to_string(), "0"]
                .map(str::to_owned)
                .to_vec(),
            on: Some(on.to_owned()),
            ..RunSpec::default()
        };
        let info = ant.client.run(&spec, &[], &guest("hello")).await.unwrap();
        let mut logs = ant.client.logs(&info.name, true, None).await.unwrap();
        let first = within("the first line", logs.next()).await.unwrap();
        assert!(first.is_some());
        // Nothing is read while it writes.
        within("it ends", ant.client.wait(&info.name))
            .await
            .unwrap();
        let (mut last, mut seen, mut marks, mut line) = (1, 1, 0, Vec::new());
        while let Some((stream, bytes)) = within("logs", logs.next()).await.unwrap() {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            if stream == 2 {
                assert!(text.contains("bytes of the log are missing here"), "{text}");
                marks += 1;
                line.clear();
                continue;
            }
            line.extend_from_slice(text.as_bytes());
            // A line may come in pieces, and what is missing may end within one.
            if let Some(number) = line.strip_suffix(b"\n") {
                if let Some(number) = number.strip_prefix(b"tick ") {
                    let number: usize = String::from_utf8_lossy(number).parse().unwrap();
                    assert!(number > last, "{number} after {last}");
                    (last, seen) = (number, seen + 1);
                }
                line.clear();
            }
        }
        assert_eq!(last, MANY_LINES, "on {on}");
        assert_eq!(marks > 0, seen < MANY_LINES, "on {on}: {marks}, {seen}");
        // Connections between nodes may hold more.
        assert!(marks > 0 || on == "bee", "{seen}");
    }
    drop(bee);
}
