//! Processes move between nodes while their clients keep talking to them.

mod common;

use common::{Echo, Node, fleet, until, within};
use wire::api::{MoveReport, ProcessState};

async fn migrate(asked: &Node, process: &str, to: &Node) -> MoveReport {
    let moved = within("a move", asked.client.migrate(process, to.name())).await;
    let report = moved.unwrap();
    assert_eq!(report.to, to.ready.node);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_moves_away_on_and_back_in_the_middle_of_everything() {
    let [a, b, c] = fleet().await;
    let (info, address) = a.serve("echo", "echo", None).await;
    let mut quiet = Echo::connect(address).await;
    quiet.round_trip(10).await;
    let mut busy = Echo::connect(address).await;
    let mut ended = Echo::connect(address).await;
    ended.round_trip(1).await;
    for to in [&b, &c, &a, &c, &b, &a] {
        // More than the windows hold, so that bytes wait in every place there is.
        busy.send(100_000).await;
        let report = migrate(&a, "echo", to).await;
        assert_eq!(report.process, info.id);
        busy.send(50_000).await;
        busy.receive_all().await;
        quiet.round_trip(1).await;
        let seen = a.sees("echo", ProcessState::Running).await;
        assert_eq!(seen.node, to.ready.node);
        assert_eq!(seen.epoch, report.epoch);
    }
    quiet.finish().await;
    busy.finish().await;
    ended.finish().await;
    let mut late = Echo::connect(address).await;
    late.round_trip(10).await;
    let seen = a.client.inspect("echo").await.unwrap();
    assert_eq!((seen.id, seen.moves), (info.id, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_matter_where_the_anchor_is() {
    let [a, b, c] = fleet().await;
    // The anchor is the source; then the target; then neither.
    let (_, address) = a.serve("echo", "echo", Some("ant")).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(10).await;
    for to in [&b, &c, &a, &b, &a] {
        client.send(300_000).await;
        migrate(&c, "echo", to).await;
        client.receive_all().await;
    }
    client.finish().await;
    // A process that starts elsewhere is anchored at the node that was asked.
    let (info, address) = b.serve("other", "echo", Some("cat")).await;
    assert_eq!(info.node, c.ready.node);
    assert_eq!(info.listeners[0].anchor, b.ready.node);
    let mut client = Echo::connect(address).await;
    client.round_trip(1000).await;
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_nobody_reads_moves_along_and_arrives_whole() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let [a, b, c] = fleet().await;
    let (_, address) = a.serve("web", "httpd", None).await;
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    const LENGTH: usize = 20_000_000;
    let request = format!("GET /big/{LENGTH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    // The client reads a little between the moves, so that everything is full all the time.
    let mut answer = vec![0; 100_000];
    within("the beginning", tcp.read_exact(&mut answer))
        .await
        .unwrap();
    for to in [&b, &c, &a] {
        migrate(&a, "web", to).await;
        let mut more = vec![0; 700_000];
        within("more", tcp.read_exact(&mut more)).await.unwrap();
        answer.extend(more);
    }
    within("the rest", tcp.read_to_end(&mut answer))
        .await
        .unwrap();
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let body = &answer[head..];
    assert_eq!(body.len(), LENGTH);
    let letters = b"\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
    for (place, byte) in body.iter().enumerate() {
        let from_end = LENGTH - 1 - place;
        let (column, line) = (from_end % 64, from_end / 64);
        let expected = match column {
            0 => letters[0],
            _ => letters[1 + (column + line) % 63],
        };
        assert_eq!(*byte, expected, "at {place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computation_without_host_calls_moves_and_ends_elsewhere() {
    let [a, b, _c] = fleet().await;
    let spec = wire::api::RunSpec {
        name: Some("spin".to_owned()),
        args: ["hello", "spin", "3000000000"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let info = a
        .client
        .run(&spec, &[], &common::guest("hello"))
        .await
        .unwrap();
    // Who waits learns the end from the node where it ends.
    let waiting = tokio::spawn({
        let client = a.client.clone();
        async move { client.wait("spin").await }
    });
    let mut logs = a.client.logs("spin", true, None).await.unwrap();
    migrate(&a, "spin", &b).await;
    let ended = within("it ends", waiting).await.unwrap().unwrap();
    assert_eq!(
        (ended.state, ended.exit_code),
        (ProcessState::Exited, Some(0))
    );
    assert_eq!((ended.id, ended.node), (info.id, b.ready.node));
    let mut written = String::new();
    while let Some((_, bytes)) = within("logs", logs.next()).await.unwrap() {
        written += std::str::from_utf8(&bytes).unwrap();
    }
    assert_eq!(written.lines().count(), 1, "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_follow_a_process_from_node_to_node() {
    let [a, b, c] = fleet().await;
    let spec = wire::api::RunSpec {
        name: Some("tick".to_owned()),
        args: ["hello", "tick", "0", "2"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    a.client
        .run(&spec, &[], &common::guest("hello"))
        .await
        .unwrap();
    let mut logs = a.client.logs("tick", true, None).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut written = String::new();
        while let Some((_, bytes)) = logs.next().await.unwrap() {
            written += std::str::from_utf8(&bytes).unwrap();
        }
        written
    });
    for to in [&b, &c, &a, &b] {
        migrate(&a, "tick", to).await;
    }
    c.client.kill("tick").await.unwrap();
    let written = within("logs", reading).await.unwrap();
    let numbers = written
        .lines()
        .map(|line| line.strip_prefix("tick ").unwrap());
    let numbers: Vec<u32> = numbers.map(|number| number.parse().unwrap()).collect();
    let count = numbers.len() as u32;
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
    // The whole log has come along.
    let mut logs = c.client.logs("tick", false, Some(10)).await.unwrap();
    let mut tail = String::new();
    while let Some((_, bytes)) = within("logs", logs.next()).await.unwrap() {
        tail += std::str::from_utf8(&bytes).unwrap();
    }
    assert!(
        written.ends_with(&tail) && tail.lines().count() == 10,
        "{tail}"
    );
}

/// What is read of a log, by stream.
async fn read(mut logs: daemon::client::Logs) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    while let Some((stream, bytes)) = within("logs", logs.next()).await.unwrap() {
        let text = if stream == 1 { &mut out } else { &mut err };
        *text += std::str::from_utf8(&bytes).unwrap();
    }
    (out, err)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_says_what_is_missing_and_its_file_goes_along() {
    let a = Node::first("ant").await;
    let b = Node::joining("bee", &a).await;
    a.sees_alive(2).await;
    let spec = wire::api::RunSpec {
        name: Some("tick".to_owned()),
        args: ["hello", "tick", "0", "0"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let info = a
        .client
        .run(&spec, &[], &common::guest("hello"))
        .await
        .unwrap();
    // More than is kept in memory.
    let mut logs = a.client.logs("tick", true, None).await.unwrap();
    let mut seen = 0;
    while seen < 2 * daemon::processes::log::KEPT_BYTES {
        let (_, bytes) = within("logs", logs.next()).await.unwrap().unwrap();
        seen += bytes.len();
    }
    drop(logs);
    migrate(&a, "tick", &b).await;
    a.client.kill("tick").await.unwrap();
    let (out, err) = read(a.client.logs("tick", false, None).await.unwrap()).await;
    assert!(
        err.starts_with("limosa: about ") && err.lines().count() == 1,
        "{err}"
    );
    let missing: usize = err.split(' ').nth(2).unwrap().parse().unwrap();
    let number = |line: &str| {
        line.strip_prefix("tick ")
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    let first = number(out.lines().next().unwrap());
    let frames: usize = (1..first).map(|n| format!("tick {n}\n").len() + 5).sum();
    // A line may have come in pieces, each with a header of its own.
    assert!(
        (frames..frames + 100).contains(&missing),
        "{missing}, {frames}"
    );
    // Nothing is missing between the lines, nor for one who wants the last ones.
    let count = out.lines().count();
    assert!(out.lines().map(number).eq(first..first + count));
    let (out, err) = read(b.client.logs("tick", false, Some(3)).await.unwrap()).await;
    assert_eq!((out.lines().count(), err.as_str()), (3, ""));
    // The file came along, and none stayed behind.
    let file = |node: &Node, end| {
        node.config
            .state_dir
            .join(format!("logs/{}.log{end}", info.id))
    };
    assert!(!file(&a, "").exists() && !file(&a, ".1").exists());
    // All of it, unless the program was so fast that it is more than a file may have.
    let written: usize = (1..first + count)
        .map(|n| format!("tick {n}\n").len())
        .sum();
    let all = written as u64 <= daemon::processes::log::TEXT_BYTES;
    until("the older part of the file", || async {
        let text = std::fs::read_to_string(file(&b, ".1")).ok()?;
        let begins = text.starts_with("tick 1\n");
        (!text.is_empty()).then(|| assert!(begins || !all, "of {written} bytes"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_does_not_wait_for_a_slow_target() {
    let [a, b, _c] = fleet().await;
    a.serve("echo", "echo", None).await;
    let (reached, at_ready) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    // The target stands by, and does not come to say so.
    b.steps.at("ready", move || {
        reached.send(()).unwrap();
        released.recv().unwrap_err();
    });
    let moving = tokio::spawn({
        let client = a.client.clone();
        async move { client.migrate("echo", "bee").await }
    });
    within("the target is ready", at_ready).await.unwrap();
    let ended = within("the kill", a.client.kill("echo")).await.unwrap();
    let error = within("the move", moving).await.unwrap().unwrap_err();
    drop(release);
    assert!(
        error.to_string().contains("the process was ended"),
        "{error}"
    );
    assert_eq!((ended.node, ended.moves), (a.ready.node, 0));
    assert_eq!(ended.exit_code, Some(137));
    assert!(ended.listeners.is_empty(), "what has ended does not listen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_a_moved_process_restores_anywhere() {
    let [a, b, c] = fleet().await;
    let (_, address) = a.serve("web", "httpd", None).await;
    let get = |address, path: &'static str| common::get(address, path);
    assert_eq!(get(address, "/count").await, "1");
    migrate(&a, "web", &b).await;
    assert_eq!(get(address, "/count").await, "2");
    let mut file = Vec::new();
    within("checkpoint", c.client.checkpoint("web", &mut file))
        .await
        .unwrap();
    let listen = ["127.0.0.1:0".to_owned()];
    let restored = a
        .client
        .restore(file, Some("second"), Some("cat"), &listen)
        .await
        .unwrap();
    assert_eq!(restored.node, c.ready.node);
    assert_eq!(restored.listeners[0].anchor, a.ready.node);
    let beside = restored.listeners[0].address.parse().unwrap();
    assert_eq!(get(beside, "/count").await, "3");
    assert_eq!(get(address, "/count").await, "3");
}

/// The target disappears when the source enters a state before its proposal: the process runs on at
/// the source, which says why; its clients notice nothing.
async fn the_target_vanishes(phase: &'static str) {
    let [a, b, c] = fleet().await;
    let (_, address) = a.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    client.send(200_000).await;
    let power = b.power();
    a.steps.at(phase, move || power.cut());
    let error = within("an answer", a.client.migrate("echo", "bee"))
        .await
        .unwrap_err();
    assert!(a.steps.done());
    let code = error.code().unwrap();
    assert!(
        ["refused", "unavailable"].contains(&code),
        "{phase}: {error}"
    );
    client.receive_all().await;
    let seen = a.client.inspect("echo").await.unwrap();
    assert_eq!(
        (seen.node, seen.state),
        (a.ready.node, ProcessState::Running)
    );
    client.round_trip(1000).await;
    // And it still can be moved.
    migrate(&a, "echo", &c).await;
    client.round_trip(1000).await;
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_vanishes_while_it_is_asked_leaves_the_process_running() {
    the_target_vanishes("offering").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_vanishes_while_it_prepares_leaves_the_process_running() {
    the_target_vanishes("preparing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_vanishes_at_the_freeze_leaves_the_process_running() {
    the_target_vanishes("freezing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_vanishes_while_the_snapshot_comes_leaves_the_process_running() {
    the_target_vanishes("sealed").await;
}

/// The target disappears after the source has proposed: the process is taken back.
async fn the_granted_target_vanishes(phase: &'static str) {
    let [a, b, _c] = fleet().await;
    let (before, address) = a.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    client.send(200_000).await;
    let power = b.power();
    a.steps.at(phase, move || power.cut());
    let error = within("an answer", a.client.migrate("echo", "bee"))
        .await
        .unwrap_err();
    assert!(a.steps.done());
    assert!(error.code().is_some(), "{error}");
    client.receive_all().await;
    client.round_trip(100_000).await;
    let seen = a.sees("echo", ProcessState::Running).await;
    assert_eq!(seen.node, a.ready.node);
    assert!(seen.epoch > before.epoch);
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_vanishes_when_it_is_proposed_loses_the_process_again() {
    the_granted_target_vanishes("proposing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_says_why_and_the_process_runs_on() {
    let a = Node::first("ant").await;
    let state = tempfile::tempdir().unwrap();
    let config = daemon::NodeConfig {
        state_dir: state.path().join("state"),
        name: "full".to_owned(),
        listen: "127.0.0.1:0".to_owned(),
        join: Some(a.ready.ticket.parse().unwrap()),
        max_processes: 0,
        ..Default::default()
    };
    let _full = Node::with(config, state).await.unwrap();
    a.sees_alive(2).await;
    let (_, address) = a.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(10).await;
    let error = within("an answer", a.client.migrate("echo", "full"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some("refused"));
    assert!(error.to_string().contains("its limit"), "{error}");
    client.round_trip(10).await;
    let error = a
        .try_serve("x", "echo", Some("full"), "127.0.0.1:0")
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some("unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_vanishes_during_a_move_delays_it_until_it_is_back() {
    let [a, b, c] = fleet().await;
    let (_, address) = b.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    client.send(200_000).await;
    let power = a.power();
    b.steps.at("proposing", move || power.cut());
    let moving = tokio::spawn({
        let client = b.client.clone();
        async move { client.migrate("echo", "cat").await }
    });
    let steps = b.steps.clone();
    until("the proposal", || async { steps.done().then_some(()) }).await;
    let a = Node::again(a.crash().await).await;
    let moved = within("the move", moving).await.unwrap();
    // Whichever way it was decided, there is one process and its clients have lost nothing.
    client.receive_all().await;
    client.round_trip(100_000).await;
    let at = if moved.is_ok() {
        c.ready.node
    } else {
        b.ready.node
    };
    let seen = a.sees("echo", ProcessState::Running).await;
    assert_eq!(seen.node, at, "{moved:?}");
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_vanishes_after_the_grant_leaves_the_process_to_the_target() {
    let [a, b, c] = fleet().await;
    let (_, address) = a.serve("echo", "echo", Some("bee")).await;
    let mut client = Echo::connect(address).await;
    client.send(200_000).await;
    let power = b.power();
    b.steps.at("granted", move || power.cut());
    let error = within("the link breaks", a.client.migrate("echo", "cat")).await;
    assert!(error.is_err());
    client.receive_all().await;
    client.round_trip(100_000).await;
    let seen = a.sees("echo", ProcessState::Running).await;
    assert_eq!(seen.node, c.ready.node);
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_works_at_every_step_of_a_move() {
    for phase in ["preparing", "freezing", "sealed", "proposing", "granted"] {
        let [a, b, c] = fleet().await;
        a.serve("echo", "echo", None).await;
        let (begun, begins) = std::sync::mpsc::channel();
        let killing = {
            let client = c.client.clone();
            let handle = tokio::runtime::Handle::current();
            handle.spawn_blocking(move || {
                begins.recv().unwrap();
                tokio::runtime::Handle::current().block_on(client.kill("echo"))
            })
        };
        a.steps.at(phase, move || begun.send(()).unwrap());
        let _ = within("the move", a.client.migrate("echo", b.name())).await;
        let ended = within("the kill", killing).await.unwrap().unwrap();
        assert_eq!(ended.exit_code, Some(137), "{phase}");
        until("the record is gone", || async {
            let all = c.client.processes(false).await.unwrap();
            all.iter()
                .all(|p| p.state == ProcessState::Exited)
                .then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_that_dies_during_a_move_does_not_keep_the_process_from_moving() {
    // Before the process is frozen, and after.
    for phase in ["preparing", "freezing", "sealed"] {
        let [a, b, c] = fleet().await;
        let (_, address) = c.serve("echo", "echo", Some("ant")).await;
        let (_, living) = b.serve("other", "echo", Some("ant")).await;
        let mut other = Echo::connect(living).await;
        other.round_trip(10).await;
        let mut client = Echo::connect(address).await;
        client.send(200_000).await;
        client.receive_all().await;
        let power = c.power();
        a.steps.at(phase, move || power.cut());
        let report = migrate(&a, "echo", &b).await;
        assert!(a.steps.done());
        let seen = a.sees("echo", ProcessState::Running).await;
        assert_eq!((seen.node, seen.epoch), (b.ready.node, report.epoch));
        // It notices that its client is gone, and its neighbour nothing.
        until("the connection is gone", || async {
            let info = a.client.inspect("echo").await.unwrap();
            (info.connections == 0).then_some(())
        })
        .await;
        other.round_trip(1000).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_learns_that_the_clients_of_a_dead_anchor_are_gone() {
    let [a, _b, c] = fleet().await;
    let (_, address) = c.serve("echo", "echo", Some("bee")).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(10).await;
    let crashed = c.crash().await;
    until("the connection is gone", || async {
        let info = a.client.inspect("echo").await.unwrap();
        (info.connections == 0).then_some(())
    })
    .await;
    drop(crashed);
}
