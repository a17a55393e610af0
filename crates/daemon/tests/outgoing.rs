//! Processes open connections: what they may, what becomes of them when the process moves.

mod common;

use common::{Node, fleet, guest, until, within};
use daemon::client::Client;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use wire::api::{OutgoingState, ProcessInfo, ProcessState, RunSpec};
use wire::destination::Rule;

/// A server that sends everything back; where it is.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = tcp.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}

fn path(address: SocketAddr) -> String {
    format!("/net/tcp/{}/{}", address.ip(), address.port())
}

fn rules(rules: &[&str]) -> Vec<Rule> {
    rules.iter().map(|rule| rule.parse().unwrap()).collect()
}

async fn dial(node: &Node, args: &[&str], allowed: &[&str], on: Option<&str>) -> ProcessInfo {
    let args = [&["dial"], args].concat();
    let spec = RunSpec {
        name: Some("dial".to_owned()),
        args: args.into_iter().map(str::to_owned).collect(),
        allow_net: rules(allowed),
        on: on.map(str::to_owned),
        ..RunSpec::default()
    };
    node.client.run(&spec, &[], &guest("dial")).await.unwrap()
}

/// What it has written by its end.
async fn output(client: &Client) -> String {
    let mut logs = client.logs("dial", true, None).await.unwrap();
    let mut written = String::new();
    while let Some((_, bytes)) = within("its output", logs.next()).await.unwrap() {
        written += std::str::from_utf8(&bytes).unwrap();
    }
    written
}

/// Waits until it says that it is connected.
async fn connected(client: &Client) {
    let mut logs = client.logs("dial", true, None).await.unwrap();
    let mut written = String::new();
    while !written.contains("connected") {
        let (_, bytes) = within("a line", logs.next()).await.unwrap().unwrap();
        written += std::str::from_utf8(&bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_a_process_opens_goes_along_wherever_it_moves() {
    let [a, b, c] = fleet().await;
    let address = echo_server().await;
    let (to, rule) = (path(address), address.to_string());
    let args = ["talk", &to, "150", "60000", "10"];
    dial(&a, &args, &[&rule], Some("bee")).await;
    connected(&a.client).await;
    let seen = a.client.inspect("dial").await.unwrap();
    assert_eq!(seen.allow_net, rules(&[&rule]));
    let opened = &seen.outgoing[..];
    assert_eq!(opened.len(), 1, "{opened:?}");
    assert_eq!((&opened[0].to, opened[0].state), (&to, OutgoingState::Open));
    let mut moves = 0;
    for to in [&a, &c, &b, &c, &a, &b].repeat(20) {
        match a.client.migrate("dial", to.name()).await {
            Ok(_) => moves += 1,
            // It has ended.
            Err(_) => break,
        }
        if let Ok(seen) = a.client.inspect("dial").await
            && seen.state != ProcessState::Exited
        {
            let opened = &seen.outgoing[..];
            assert!(opened.is_empty() || opened[0].anchor == b.ready.node);
            assert_eq!(seen.allow_net, rules(&[&rule]));
        }
    }
    let written = output(&a.client).await;
    assert_eq!(
        written,
        "dial: connected\ndial: 150 rounds, 9000000 bytes\n"
    );
    assert!(moves >= 6, "it moved only {moves} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_reached_that_was_not_allowed() {
    let node = Node::first("ant").await;
    let address = echo_server().await;
    let port = address.port();
    let closed = {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap()
    };
    let tries = |to: Vec<String>, allowed: Vec<String>| {
        let node = &node;
        async move {
            let mut args = vec!["try"];
            args.extend(to.iter().map(String::as_str));
            let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
            dial(node, &args, &allowed, None).await;
            let written = output(&node.client).await;
            node.client.wait("dial").await.unwrap();
            node.client.remove("dial", false).await.unwrap();
            let ends = written.lines().zip(&to);
            let ends = ends.map(|(line, to)| line.strip_prefix(&format!("{to}: ")).unwrap());
            ends.map(str::to_owned).collect::<Vec<_>>()
        }
    };
    let (open, refused) = (path(address), path(closed));
    let by_name = format!("/net/tcp/localhost/{port}");
    let both = || vec![open.clone(), by_name.clone()];
    assert_eq!(tries(both(), vec![]).await, ["EACCES", "EACCES"]);
    let other_port = vec![format!("127.0.0.1:{}", closed.port())];
    assert_eq!(tries(both(), other_port).await, ["EACCES", "EACCES"]);
    // A network allows whatever turns out to be in it.
    let network = vec![format!("127.0.0.0/8:{port}")];
    assert_eq!(tries(both(), network).await, ["open", "open"]);
    let name = vec![format!("localhost:{port}")];
    assert_eq!(tries(both(), name).await, ["EACCES", "open"]);
    let all = vec!["*:*".to_owned()];
    let to = vec![
        open,
        refused,
        "/net/tcp/no-such-host.invalid/80".to_owned(),
        "/net/tcp/a..b/80".to_owned(),
        "/net/tcp/127.0.0.1/0".to_owned(),
    ];
    let ends = tries(to, all).await;
    assert_eq!(ends[..2], ["open", "ECONNREFUSED"]);
    assert_eq!(ends[3..], ["ENOENT", "ENOENT"]);
    // Without a server of names the system may find out late.
    assert!(["ENOENT", "ETIMEDOUT"].contains(&&*ends[2]), "{ends:?}");
}

/// A listener that takes no connection before room is made, and what makes room.
async fn crowded() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut crowd = Vec::new();
    loop {
        let patience = std::time::Duration::from_millis(300);
        match tokio::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(connected) => crowd.push(connected.unwrap()),
            Err(_) => return (listener, address, crowd),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_being_made_when_the_process_moves_is_made_or_fails_as_ever() {
    let [a, b, c] = fleet().await;
    for is_made in [true, false] {
        let (listener, address, crowd) = crowded().await;
        let (to, rule) = (path(address), address.to_string());
        dial(&a, &["keep", &to], &[&rule], None).await;
        until("it is connecting", || async {
            let seen = a.client.inspect("dial").await.unwrap();
            let state = seen.outgoing.first()?.state;
            (state == OutgoingState::Connecting).then_some(())
        })
        .await;
        for to in [&b, &c] {
            within("a move", a.client.migrate("dial", to.name()))
                .await
                .unwrap();
        }
        let seen = a.client.inspect("dial").await.unwrap();
        assert_eq!(seen.outgoing[0].state, OutgoingState::Connecting);
        assert_eq!(seen.outgoing[0].anchor, a.ready.node);
        let mut last = None;
        if is_made {
            for _ in 0..crowd.len() {
                listener.accept().await.unwrap();
            }
            last = Some(within("its connection", listener.accept()).await.unwrap());
            connected(&a.client).await;
        }
        drop((listener, crowd, last));
        let written = output(&a.client).await;
        let expected = match is_made {
            true => "dial: connected\ndial: the end\n".to_owned(),
            false => format!("dial: {to}: ECONNREFUSED\n"),
        };
        assert_eq!(written, expected);
        a.client.wait("dial").await.unwrap();
        a.client.remove("dial", false).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_breaks_with_the_node_that_holds_it_and_with_an_older_state() {
    let [a, b, c] = fleet().await;
    let address = echo_server().await;
    let (to, rule) = (path(address), address.to_string());
    dial(&a, &["keep", &to], &[&rule], Some("cat")).await;
    connected(&a.client).await;
    within("a move", a.client.migrate("dial", "bee"))
        .await
        .unwrap();
    let mut file = Vec::new();
    let written = a.client.checkpoint("dial", &mut file).await;
    written.unwrap();
    drop(c.crash().await);
    assert!(output(&a.client).await.ends_with("dial: ECONNRESET\n"));
    a.client.wait("dial").await.unwrap();
    a.client.remove("dial", false).await.unwrap();
    // The file gives no right to anything, nor a connection.
    let restored = a.client.restore(file, None, Some("bee"), &[]).await;
    assert!(restored.unwrap().allow_net.is_empty());
    assert!(output(&b.client).await.ends_with("dial: ECONNRESET\n"));
}
