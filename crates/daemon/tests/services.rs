//! Processes connect to each other: /svc/NAME, while both move.

mod common;

use common::{Echo, Node, fleet, guest, until, within};
use std::net::SocketAddr;
use wire::api::{ListenSpec, OutgoingState, ProcessInfo, ProcessState, RunSpec};

/// Starts a guest under the name `name`, with a listener or without.
async fn start(node: &Node, name: &str, args: &[&str], on: &str, listens: bool) -> ProcessInfo {
    let listen = ListenSpec {
        address: "127.0.0.1:0".to_owned(),
        name: "main".to_owned(),
    };
    let spec = RunSpec {
        name: Some(name.to_owned()),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        listen: if listens { vec![listen] } else { Vec::new() },
        on: Some(on.to_owned()),
        ..RunSpec::default()
    };
    let module = guest(args[0]);
    let run = node.client.run(&spec, &[], &module);
    run.await.unwrap()
}

/// What a process has written by its end.
async fn output(node: &Node, process: &str) -> String {
    let mut logs = node.client.logs(process, true, None).await.unwrap();
    let mut written = String::new();
    while let Some((_, bytes)) = within("its output", logs.next()).await.unwrap() {
        written += std::str::from_utf8(&bytes).unwrap();
    }
    written
}

/// Waits until a process says that it is connected.
async fn connected(node: &Node, process: &str) {
    let mut logs = node.client.logs(process, true, None).await.unwrap();
    let mut written = String::new();
    while !written.contains("connected") {
        let (_, bytes) = within("a line", logs.next()).await.unwrap().unwrap();
        written += std::str::from_utf8(&bytes).unwrap();
    }
}

/// Moves a process at random until it has ended; how often.
async fn roam(node: &Node, process: &str, seed: u64, names: [String; 3]) -> u64 {
    let (mut state, mut moves) = (seed, 0);
    loop {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let to = &names[(state >> 33) as usize % 3];
        match node.client.inspect(process).await {
            Ok(seen) if seen.state == ProcessState::Exited => return moves,
            Ok(seen) if seen.node_name == *to => continue,
            _ => {}
        }
        // Refused, if it has ended meanwhile.
        let moved = within("a move", node.client.migrate(process, to)).await;
        moves += u64::from(moved.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_between_two_processes_survives_that_both_move_at_once() {
    let nodes = fleet().await;
    let [a, b, c] = &nodes;
    start(a, "echo", &["echo"], "ant", true).await;
    let args = ["dial", "talk", "/svc/echo", "120", "50000", "15"];
    start(b, "dial", &args, "bee", false).await;
    connected(b, "dial").await;
    let names = || [a, b, c].map(|node| node.name().to_owned());
    let client = roam(a, "dial", 7, names());
    let ended = async {
        let server = roam(c, "echo", 11, names());
        tokio::select! {
            _ = server => unreachable!("it does not end by itself"),
            _ = b.client.wait("dial") => {}
        }
    };
    let (moves, ()) = tokio::join!(client, ended);
    let written = output(a, "dial").await;
    assert_eq!(
        written,
        "dial: connected\ndial: 120 rounds, 6000000 bytes\n"
    );
    let seen = a.client.inspect("echo").await.unwrap();
    assert!(moves >= 3 && seen.moves >= 3, "{moves} and {}", seen.moves);
    until("its stream is over", || async {
        let seen = a.client.inspect("echo").await.ok()?;
        (seen.connections == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_and_its_service_move_while_clients_talk_through_them() {
    let nodes = fleet().await;
    let [a, b, c] = &nodes;
    let proxy = start(a, "proxy", &["proxy", "/svc/echo/main"], "bee", true).await;
    start(a, "echo", &["echo"], "cat", true).await;
    let address: SocketAddr = proxy.listeners[0].address.parse().unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Echo::connect(address).await;
        client.round_trip(10).await;
        clients.push(client);
    }
    for (proxy, echo) in [(c, a), (a, b), (b, c), (c, b), (a, a), (b, a), (c, c)] {
        for client in &mut clients {
            client.send(150_000).await;
        }
        let (first, second) = tokio::join!(
            within("a move", a.client.migrate("proxy", proxy.name())),
            within("a move", b.client.migrate("echo", echo.name())),
        );
        first.unwrap();
        // It may be there already.
        let _ = second;
        for client in &mut clients {
            client.receive_all().await;
        }
    }
    let seen = a.client.inspect("proxy").await.unwrap();
    assert_eq!(seen.outgoing.len(), 3);
    for outgoing in &seen.outgoing {
        assert_eq!(outgoing.to, "/svc/echo/main");
        assert_eq!(outgoing.anchor_name, "cat");
        assert_eq!(outgoing.state, OutgoingState::Open);
    }
    for client in clients {
        client.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_stream_was_opened_does_not_matter_once_both_have_left() {
    let [a, b, c] = fleet().await;
    start(&a, "serve", &["echo"], "bee", true).await;
    let args = ["dial", "talk", "/svc/serve", "100", "20000", "20"];
    start(&a, "dial", &args, "bee", false).await;
    connected(&a, "dial").await;
    for (process, to) in [("dial", "ant"), ("serve", "cat")] {
        within("a move", a.client.migrate(process, to))
            .await
            .unwrap();
    }
    b.stop().await;
    let written = output(&a, "dial").await;
    assert_eq!(
        written,
        "dial: connected\ndial: 100 rounds, 2000000 bytes\n"
    );
    drop(c);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_is_said_and_one_that_ends_is_noticed() {
    let [a, b, c] = fleet().await;
    start(&a, "idle", &["hello", "tick", "0", "1000"], "ant", false).await;
    start(&a, "web", &["httpd"], "bee", true).await;
    let paths = ["/svc/nobody", "/svc/web/other", "/svc/idle", "/svc/web"];
    let args = [&["dial", "try"], &paths[..]].concat();
    start(&a, "try", &args, "cat", false).await;
    let written = output(&a, "try").await;
    let expected =
        "/svc/nobody: ENOENT\n/svc/web/other: ENOENT\n/svc/idle: ENOENT\n/svc/web: open\n";
    assert_eq!(written, expected);
    // It is killed; then its node dies.
    for (place, server) in [("ant", "first"), ("cat", "second")] {
        start(&a, server, &["httpd"], "cat", true).await;
        let (name, path) = (format!("keep-{server}"), format!("/svc/{server}"));
        start(&a, &name, &["dial", "keep", &path], place, false).await;
        connected(&a, &name).await;
        if server == "first" {
            a.client.kill(server).await.unwrap();
        } else {
            within("a move", a.client.migrate(&name, "bee"))
                .await
                .unwrap();
        }
    }
    assert_eq!(
        output(&a, "keep-first").await,
        "dial: connected\ndial: ECONNRESET\n"
    );
    drop(c.crash().await);
    assert_eq!(
        output(&a, "keep-second").await,
        "dial: connected\ndial: ECONNRESET\n"
    );
    drop(b);
}
