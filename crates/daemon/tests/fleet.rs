//! Nodes find, trust and miss each other; strangers get nowhere.

mod common;

use common::{Echo, Node, fleet, until, within};
use daemon::fleet::FleetView;
use daemon::links::Dialler;
use daemon::links::identity::{Identity, generate};
use daemon::links::join::{JoinError, join};
use daemon::links::transport::read_frame;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::api::{NodeState, ProcessState};
use wire::control::Member;
use wire::link::{LinkKind, Secret};
use wire::ticket::Ticket;

/// Somebody with a key of his own that no fleet knows.
fn stranger(host: &Node) -> (Dialler, Member) {
    let identity = Identity::new(&generate().unwrap()).unwrap();
    let me = Member {
        node: identity.node(),
        name: "stranger".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        incarnation: 1,
    };
    let host = Member {
        node: host.ready.node,
        name: "host".to_owned(),
        address: host.ready.address.clone(),
        incarnation: 1,
    };
    let (_, fleet) = tokio::sync::watch::channel(FleetView {
        me: me.clone(),
        directory: host.node,
        members: BTreeMap::from([(host.node, host)]),
        health: BTreeMap::new(),
    });
    let dialler = Dialler {
        identity,
        name: me.name.clone(),
        incarnation: 1,
        fleet,
    };
    (dialler, me)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_joined_by_a_ticket_see_each_other() {
    let nodes = fleet().await;
    for node in &nodes {
        let seen = node.client.nodes().await.unwrap();
        let names: Vec<&str> = seen.iter().map(|node| &*node.name).collect();
        assert_eq!(names.len(), 3);
        for name in ["ant", "bee", "cat"] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert_eq!(seen.iter().filter(|node| node.this).count(), 1);
        let directory = seen.iter().find(|node| node.directory).unwrap();
        assert_eq!(directory.name, "ant");
        assert!(
            seen.iter()
                .all(|node| node.version == env!("CARGO_PKG_VERSION"))
        );
        // Whoever is asked, the ticket is that of the directory's node.
        let ticket: Ticket = node.client.ticket().await.unwrap().parse().unwrap();
        assert_eq!(ticket.node(), nodes[0].ready.node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_ticket_is_refused() {
    let host = Node::first("ant").await;
    let good: Ticket = host.ready.ticket.parse().unwrap();
    let wrong = Ticket::new(good.node(), good.addresses().to_vec(), Secret([7; 32])).unwrap();
    let error = Node::start("bee", Some(&wrong.to_string()))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("ticket"), "{error}");
    // A ticket of another fleet, by its node's id.
    let other = Node::first("other").await;
    let other: Ticket = other.ready.ticket.parse().unwrap();
    let wrong = Ticket::new(other.node(), good.addresses().to_vec(), *good.secret()).unwrap();
    let error = Node::start("bee", Some(&wrong.to_string()))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("is not node"), "{error}");
    assert_eq!(host.client.nodes().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_for_another_node_is_of_no_use() {
    let host = Node::first("ant").await;
    let ticket: Ticket = host.ready.ticket.parse().unwrap();
    let (dialler, me) = stranger(&host);
    // He presents another one's entry.
    let (_, other) = stranger(&host);
    let refused = join(
        &dialler,
        &ticket,
        Member {
            node: other.node,
            ..me
        },
    )
    .await;
    assert!(matches!(refused, Err(JoinError::Refused(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_no_link_but_to_join() {
    let host = Node::first("ant").await;
    let (dialler, _) = stranger(&host);
    for kind in [
        LinkKind::Control,
        LinkKind::Streams,
        LinkKind::Bulk,
        LinkKind::Api,
    ] {
        let opened = within("an answer", dialler.open(host.ready.node, kind)).await;
        assert!(opened.is_err(), "{kind:?}");
    }
    // And there he may say one thing, of limited length.
    let (mut link, _) = dialler.open(host.ready.node, LinkKind::Join).await.unwrap();
    link.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    link.flush().await.unwrap();
    let answer = within("the end", read_frame(&mut link, 1 << 20)).await;
    if let Ok(Some(answer)) = answer {
        let reply: wire::link::JoinReply = wire::link::decode(&answer).unwrap();
        assert!(matches!(reply, wire::link::JoinReply::Refused { .. }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_silence_on_the_port_keep_nobody_out() {
    let host = Node::first("ant").await;
    let mut silent = Vec::new();
    // More than may wait at a time; none ever says hello.
    for index in 0..300u32 {
        let mut tcp = TcpStream::connect(&host.ready.address).await.unwrap();
        match index % 3 {
            0 => {}
            1 => tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
            _ => tcp.write_all(&[0x16, 3, 1, 0, 200, 1]).await.unwrap(),
        }
        silent.push(tcp);
    }
    let joined = Node::joining("bee", &host).await;
    joined.sees_alive(2).await;
    // The silent ones are not kept for ever.
    for mut tcp in silent {
        let mut sink = Vec::new();
        let _ = within("it is closed", tcp.read_to_end(&mut sink)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_say_that_they_join_and_do_not_keep_nobody_out() {
    let host = Node::first("ant").await;
    let mut idle = Vec::new();
    // More than may be joining at a time, each with a key of its own.
    for _ in 0..40 {
        let (dialler, _) = stranger(&host);
        let opened = dialler.open(host.ready.node, LinkKind::Join);
        idle.push(within("an answer", opened).await.unwrap().0);
    }
    let joined = Node::joining("bee", &host).await;
    joined.sees_alive(2).await;
    // Those that had to go are told why.
    let answer = within("an answer", read_frame(&mut idle[0], 1 << 20)).await;
    let reply: wire::link::JoinReply = wire::link::decode(&answer.unwrap().unwrap()).unwrap();
    let wire::link::JoinReply::Refused { reason } = reply else {
        panic!("{reply:?}");
    };
    assert!(reason.contains("others"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_for_no_move_is_closed() {
    let [a, b, _c] = fleet().await;
    // A member, but nothing was offered: b's key, dialling from outside of b.
    let key = std::fs::read(b.config.state_dir.join("node.key")).unwrap();
    let (mut dialler, _) = stranger(&a);
    dialler.identity = Identity::new(&key).unwrap();
    let (mut link, _) = dialler.open(a.ready.node, LinkKind::Bulk).await.unwrap();
    let header = wire::link::BulkHeader {
        id: wire::MoveId(1),
        what: wire::link::BulkKind::Snapshot,
        length: u64::MAX,
    };
    let mut frame = Vec::new();
    wire::link::write_frame(&header, 1 << 20, &mut frame).unwrap();
    link.write_all(&frame).await.unwrap();
    link.flush().await.unwrap();
    let end = within("it is closed", link.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_with_its_processes_is_noticed_within_seconds() {
    let [a, b, c] = fleet().await;
    let (info, address) = a.serve("echo", "echo", Some("bee")).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(10).await;
    let crashed = b.crash().await;
    for node in [&a, &c] {
        until("it is seen as dead", || async {
            let nodes = node.client.nodes().await.unwrap();
            let bee = nodes.into_iter().find(|node| node.name == "bee").unwrap();
            (bee.state == NodeState::Dead).then_some(())
        })
        .await;
        let lost = node.sees("echo", ProcessState::Lost).await;
        assert_eq!((lost.id, lost.node), (info.id, crashed_node(&info)));
        let listed = node.client.processes(false).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].state, ProcessState::Lost);
    }
    // Its clients are told, and its name is free once it is removed.
    let broken = within("the connection breaks", client.tcp.read(&mut [0; 1])).await;
    assert!(matches!(broken, Ok(0) | Err(_)));
    let error = c.client.migrate("echo", "cat").await.unwrap_err();
    assert_eq!(error.code(), Some("unavailable"));
    c.client.remove("echo", false).await.unwrap();
    let error = a.client.inspect("echo").await.unwrap_err();
    assert_eq!(error.code(), Some("unknown_process"));
    drop(crashed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_without_a_word_holds_no_request_for_ever() {
    let [a, b, _c] = fleet().await;
    let (info, _) = a.serve("echo", "echo", Some("bee")).await;
    // Its answer has begun and goes on for as long as the process runs.
    let mut logs = a.client.logs("echo", true, None).await.unwrap();
    let waiting = a.client.wait("echo");
    let mut waiting = std::pin::pin!(waiting);
    let polled = std::future::poll_fn(|context| {
        std::task::Poll::Ready(waiting.as_mut().poll(context).is_ready())
    });
    assert!(!polled.await, "it runs");
    let stopped = b.power().suspend();
    let lost = within("who waits hears of it", waiting).await.unwrap();
    assert_eq!((lost.id, lost.state), (info.id, ProcessState::Lost));
    let end = within("who reads hears of it", async {
        while let Ok(Some(_)) = logs.next().await {}
    });
    end.await;
    drop(stopped);
    // It was not dead, and can be asked again.
    let again = b.sees("echo", ProcessState::Running).await;
    assert_eq!(again.id, info.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_anchor_does_not_hold_a_process_where_it_is() {
    let [a, b, c] = fleet().await;
    let (_, address) = c.serve("echo", "echo", Some("bee")).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(10).await;
    let crashed = c.crash().await;
    for node in [&a, &b] {
        until("the anchor is seen as dead", || async {
            let nodes = node.client.nodes().await.unwrap();
            let cat = nodes.into_iter().find(|node| node.name == "cat").unwrap();
            (cat.state == NodeState::Dead).then_some(())
        })
        .await;
    }
    a.client.migrate("echo", "ant").await.unwrap();
    let seen = a.sees("echo", ProcessState::Running).await;
    assert_eq!(seen.node, a.ready.node);
    // The process notices that its client is gone.
    until("the connection is gone", || async {
        let info = a.client.inspect("echo").await.unwrap();
        (info.connections == 0).then_some(())
    })
    .await;
    drop(crashed);
}

fn crashed_node(info: &wire::api::ProcessInfo) -> wire::NodeId {
    info.node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_comes_back_and_says_that_its_processes_are_lost() {
    let [a, b, c] = fleet().await;
    let (info, _) = a.serve("echo", "echo", Some("bee")).await;
    let id = b.ready.node;
    let b = Node::again(b.crash().await).await;
    assert_eq!(b.ready.node, id);
    for node in [&a, &b, &c] {
        node.sees_alive(3).await;
    }
    for node in [&a, &b, &c] {
        let lost = node.sees("echo", ProcessState::Exited).await;
        assert_eq!((lost.id, lost.node), (info.id, id));
        assert_eq!((lost.exit_code, lost.epoch), (None, info.epoch));
        let reason = lost.reason.as_deref();
        assert_eq!(reason, Some("lost in a crash of node bee"));
        let listed = node.client.processes(false).await.unwrap();
        assert_eq!((listed.len(), listed[0].id), (1, info.id));
    }
    // It can be given work again, and under the same name.
    let (_, address) = c.serve("echo", "echo", Some("bee")).await;
    Echo::connect(address).await.round_trip(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_and_clients_live_on_while_the_directory_is_away() {
    let [a, b, c] = fleet().await;
    let (info, address) = b.serve("echo", "echo", Some("cat")).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(10).await;
    let crashed = a.crash().await;
    until("the directory is seen as dead", || async {
        let nodes = b.client.nodes().await.unwrap();
        let ant = nodes.into_iter().find(|node| node.name == "ant").unwrap();
        (ant.state == NodeState::Dead).then_some(())
    })
    .await;
    client.round_trip(100_000).await;
    Echo::connect(address).await.round_trip(10).await;
    // What is known is listed, and what is missing is said.
    let listing = b.client.list_processes().await.unwrap();
    assert_eq!(listing.items.len(), 1);
    assert!(listing.incomplete.unwrap().contains("ant"));
    let nodes = b.client.list_nodes().await.unwrap();
    assert_eq!(nodes.items.len(), 3);
    assert!(nodes.incomplete.unwrap().contains("ant"));
    let seen = b.client.inspect("echo").await.unwrap();
    assert_eq!(seen.node, c.ready.node);
    // What needs the directory says so, and nothing is frozen for it.
    let error = c.client.migrate("echo", "bee").await.unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");
    client.round_trip(10).await;
    // Back from its store, it knows everything.
    let a = Node::again(crashed).await;
    for node in [&a, &b, &c] {
        node.sees_alive(3).await;
    }
    let seen = a.sees("echo", ProcessState::Running).await;
    assert_eq!((seen.id, seen.node), (info.id, c.ready.node));
    let moved = within("a move", a.client.migrate("echo", "bee"))
        .await
        .unwrap();
    assert_eq!(moved.epoch, info.epoch.next());
    client.round_trip(10).await;
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_shut_down_leaves_no_process_behind() {
    let [a, b, _c] = fleet().await;
    a.serve("echo", "echo", Some("bee")).await;
    b.client.shutdown().await.unwrap();
    until("its process is gone", || async {
        let error = a.client.inspect("echo").await.err()?;
        (error.code() == Some("unknown_process")).then_some(())
    })
    .await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_to_its_fleet() {
    let [a, b, _c] = fleet().await;
    let other = Node::first("other").await;
    let (mut config, state) = b.stop().await;
    config.join = Some(other.ready.ticket.parse().unwrap());
    let error = Node::with(config.clone(), state).await.err().unwrap();
    assert!(error.to_string().contains("in a fleet already"), "{error}");
    drop(a);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_wrote_before_it_ended_arrives_although_its_client_is_slow() {
    let [a, _b, _c] = fleet().await;
    let (_, address) = a.serve("web", "httpd", Some("bee")).await;
    // A client that takes little at a time: what it has not read waits at the process.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut tcp = socket.connect(address).await.unwrap();
    const LENGTH: usize = 3_000_000;
    let requests = format!(
        "GET /big/{LENGTH} HTTP/1.1\r\nhost: x\r\n\r\nGET /quit HTTP/1.1\r\nhost: x\r\n\r\n"
    );
    tcp.write_all(requests.as_bytes()).await.unwrap();
    let mut answer = vec![0; LENGTH - 250_000];
    within("the most of it", tcp.read_exact(&mut answer))
        .await
        .unwrap();
    let ended = within("it ends", a.client.wait("web")).await.unwrap();
    assert_eq!(
        (ended.state, ended.exit_code),
        (ProcessState::Exited, Some(0))
    );
    within("the rest", tcp.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(answer.len() > LENGTH);
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(text.matches("HTTP/1.1 200").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_of_a_name_is_refused_and_told_what_to_do() {
    let host = Node::first("ant").await;
    let _bee = Node::joining("bee", &host).await;
    for taken in ["ant", "bee"] {
        let error = Node::start(taken, Some(&host.ready.ticket)).await;
        let error = error.err().unwrap().to_string();
        for word in [taken, "--name"] {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    }
    let error = Node::start("a node", None).await.err().unwrap().to_string();
    assert!(error.contains("letters, digits"), "{error}");
    assert_eq!(host.client.nodes().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_started_again_keeps_its_name_and_takes_nobody_elses() {
    let host = Node::first("ant").await;
    let bee = Node::joining("bee", &host).await;
    let (mut config, state) = bee.stop().await;
    // Where no name is given this is the machine's, which another node of it may have.
    config.name = "ant".to_owned();
    config.keep_name = true;
    config.join = None;
    let bee = Node::with(config, state).await.unwrap();
    assert_eq!(bee.name(), "bee");
    let info = until("its new address is known", || async {
        let nodes = host.client.nodes().await.unwrap();
        nodes
            .into_iter()
            .find(|node| node.address == bee.ready.address)
    })
    .await;
    assert_eq!((&*info.name, info.id), ("bee", bee.ready.node));
    let (mut config, state) = bee.stop().await;
    config.name = "ant".to_owned();
    config.keep_name = false;
    let error = Node::with(config, state).await.err().unwrap().to_string();
    assert!(error.contains("`ant` already"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_has_ended_is_not_moved_and_that_is_said() {
    let [a, b, _c] = fleet().await;
    a.serve("echo", "echo", Some("bee")).await;
    assert_eq!(a.client.list_processes().await.unwrap().incomplete, None);
    a.client.kill("echo").await.unwrap();
    for node in [&a, &b] {
        let error = node.client.migrate("echo", "cat").await.unwrap_err();
        assert_eq!(error.code(), Some("conflict"), "{error}");
        assert!(error.to_string().contains("has ended"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_for_good_is_forgotten_until_it_joins_anew() {
    let [a, b, c] = fleet().await;
    a.serve("echo", "echo", Some("cat")).await;
    for (asked, node) in [(&b, "cat"), (&a, "cat"), (&c, "ant")] {
        let error = asked.client.forget_node(node, true).await.unwrap_err();
        assert_eq!(error.code(), Some("conflict"), "{error}");
    }
    let id = c.ready.node;
    let crashed = c.crash().await;
    a.sees("echo", ProcessState::Lost).await;
    let error = b.client.forget_node("cat", false).await.unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    let forgotten = b.client.forget_node("cat", true).await.unwrap();
    assert_eq!((forgotten.id, forgotten.processes), (id, 1));
    // Also after a crash.
    let kept = std::fs::read_to_string(a.config.state_dir.join("fleet.json")).unwrap();
    assert!(kept.contains("bee") && !kept.contains("cat"), "{kept}");
    let error = b.client.inspect("echo").await.unwrap_err();
    assert_eq!(error.code(), Some("unknown_process"));
    for node in [&a, &b] {
        until("it is not listed", || async {
            (node.client.nodes().await.unwrap().len() == 2).then_some(())
        })
        .await;
    }
    let error = b.client.forget_node("cat", true).await.unwrap_err();
    assert_eq!(error.code(), Some("unknown_node"));

    // It comes back, and is a stranger.
    let c = Node::again(crashed).await;
    let error = c.client.ticket().await.unwrap_err().to_string();
    assert!(
        error.contains("forgotten") && error.contains("limosa join"),
        "{error}"
    );
    assert!(c.ready.no_ticket.as_ref().unwrap().contains("limosa join"));
    assert_eq!(a.client.nodes().await.unwrap().len(), 2);
    let (mut config, state) = c.stop().await;
    config.join = Some(a.ready.ticket.parse().unwrap());
    let c = Node::with(config, state).await.unwrap();
    for node in [&a, &b, &c] {
        node.sees_alive(3).await;
    }
    let (_, address) = b.serve("echo", "echo", Some("cat")).await;
    Echo::connect(address).await.round_trip(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_open_again_when_its_node_is() {
    let [a, b, c] = fleet().await;
    let (info, address) = c.serve("echo", "echo", Some("bee")).await;
    assert!(info.listeners[0].open);
    Echo::connect(address).await.round_trip(10).await;
    let is_open = |node: &Node, wanted: bool| {
        let client = node.client.clone();
        async move {
            until("the listener is seen so", || async {
                let info = client.inspect("echo").await.unwrap();
                assert_eq!(info.listeners[0].anchor_name, "cat");
                (info.listeners[0].open == wanted).then_some(())
            })
            .await;
        }
    };
    let crashed = c.crash().await;
    is_open(&a, false).await;
    let c = Node::again(crashed).await;
    is_open(&a, true).await;
    Echo::connect(address).await.round_trip(10).await;
    // Also for a process that moves while its listener's node is away.
    let crashed = c.crash().await;
    is_open(&b, false).await;
    a.client.migrate("echo", "ant").await.unwrap();
    let _c = Node::again(crashed).await;
    is_open(&b, true).await;
    Echo::connect(address).await.round_trip(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_clients_of_a_lost_process_are_refused() {
    let [a, b, _c] = fleet().await;
    let (_, address) = a.serve("echo", "echo", Some("bee")).await;
    let crashed = b.crash().await;
    a.sees("echo", ProcessState::Lost).await;
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let refused = within("it is refused", tcp.read(&mut [0; 1])).await;
    assert!(matches!(refused, Ok(0) | Err(_)));
    drop(crashed);
}
