//! Processes that have ended: what is known of them, until when, and how they go.

mod common;

use common::{Echo, Node, fleet, guest, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::api::{ProcessState, RunSpec};

async fn run(node: &Node, name: &str, on: Option<&Node>, args: &[&str]) {
    let spec = RunSpec {
        name: Some(name.to_owned()),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        on: on.map(|node| node.name().to_owned()),
        ..RunSpec::default()
    };
    let run = node.client.run(&spec, &[], &guest("hello")).await;
    run.unwrap();
}

async fn written(node: &Node, process: &str) -> String {
    let mut logs = node.client.logs(process, false, None).await.unwrap();
    let mut text = String::new();
    while let Some((stream, bytes)) = within("logs", logs.next()).await.unwrap() {
        // A line may come in pieces.
        if text.is_empty() || text.ends_with('\n') {
            text += &format!("{stream}:");
        }
        text += &String::from_utf8_lossy(&bytes);
    }
    text
}

/// Files that a node keeps of processes.
fn files(node: &Node) -> Vec<String> {
    let directory = std::fs::read_dir(node.config.state_dir.join("logs")).unwrap();
    let names = directory.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_still_known_after_the_node_was_restarted() {
    let node = Node::first("ant").await;
    run(&node, "done", None, &["hello", "tick", "3", "0"]).await;
    run(&node, "trapped", None, &["hello", "trap"]).await;
    run(&node, "runs", None, &["hello", "sleep", "1000000"]).await;
    let mut before = Vec::new();
    for name in ["done", "trapped"] {
        within("it ends", node.client.wait(name)).await.unwrap();
        before.push((
            node.client.inspect(name).await.unwrap(),
            written(&node, name).await,
        ));
    }
    assert_eq!(before[0].1, "1:tick 1\n1:tick 2\n1:tick 3\n");
    assert_eq!(
        (before[1].0.exit_code, before[1].0.state),
        (Some(134), ProcessState::Exited)
    );
    let (config, state) = node.stop().await;
    let node = Node::again((config, state)).await;
    for (info, log) in before {
        let known = within("it has ended", node.client.wait(&info.name))
            .await
            .unwrap();
        assert_eq!((known.id, known.exit_code), (info.id, info.exit_code));
        assert_eq!((&known.reason, known.epoch), (&info.reason, info.epoch));
        assert_eq!(known.freezes, info.freezes);
        assert_eq!(written(&node, &info.name).await, log);
    }
    let all = node.client.processes(true).await.unwrap();
    let mut names: Vec<&str> = all.iter().map(|p| p.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["done", "runs", "trapped"]);
    let ended = node.client.inspect("runs").await.unwrap();
    assert_eq!(ended.reason.as_deref(), Some("its node was shut down"));
    // What was removed stays so, and leaves no file.
    for name in ["done", "trapped", "runs"] {
        node.client.remove(name, false).await.unwrap();
    }
    assert_eq!(files(&node), Vec::<String>::new());
    let node = Node::again(node.stop().await).await;
    assert!(node.client.processes(true).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_refused_leaves_no_file() {
    let node = Node::first("ant").await;
    run(&node, "one", None, &["hello", "sleep", "1000000"]).await;
    let one = node.client.inspect("one").await.unwrap();
    for _ in 0..3 {
        let again = node.try_serve("one", "echo", None, "127.0.0.1:0").await;
        assert_eq!(again.unwrap_err().code(), Some("conflict"));
    }
    assert_eq!(files(&node), [format!("{}.log", one.id)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_removed_by_force_at_once_are_all_gone() {
    const PROCESSES: usize = 12;
    const ROUNDS: usize = 20;
    let nodes = fleet().await;
    for round in 0..ROUNDS {
        let names: Vec<String> = (0..PROCESSES).map(|n| format!("p{round}-{n}")).collect();
        let starting = names.iter().enumerate().map(|(n, name)| {
            let on = Some(&nodes[n % 3]);
            // Some end by themselves meanwhile.
            let args: &[&str] = match n % 4 {
                0 => &["hello", "exit", "3"],
                1 => &["hello", "sleep", "1"],
                _ => &["hello", "sleep", "1000000"],
            };
            run(&nodes[0], name, on, args)
        });
        within("they start", futures_util::future::join_all(starting)).await;
        let removing = names.iter().enumerate().map(|(n, name)| {
            let client = &nodes[n % 2].client;
            async move { (name, client.remove(name, true).await) }
        });
        let removed = within("they go", futures_util::future::join_all(removing)).await;
        for (name, result) in removed {
            result.unwrap_or_else(|error| panic!("round {round}, {name}: {error}"));
        }
        for node in &nodes {
            let left = node.client.processes(true).await.unwrap();
            assert!(left.is_empty(), "round {round}, {}: {left:?}", node.name());
            assert_eq!(files(node), Vec::<String>::new(), "round {round}");
        }
    }
}

/// Nobody lists it, and its name can be used.
async fn is_gone(nodes: &[&Node], name: &str) {
    for node in nodes {
        let left = node.client.processes(true).await.unwrap();
        assert!(left.is_empty(), "{}: {left:?}", node.name());
    }
    run(nodes[0], name, None, &["hello", "sleep", "1000000"]).await;
    nodes[0].client.remove(name, true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_by_force_is_gone_although_its_anchor_is_dead() {
    // Before the anchor is known to be dead, and after; removed at once, or when it has been killed
    // or stopped.
    for (known, before) in [(false, ""), (true, ""), (false, "kill"), (true, "stop")] {
        let [a, b, c] = fleet().await;
        let (_, address) = c.serve("echo", "echo", Some("bee")).await;
        let mut client = Echo::connect(address).await;
        client.round_trip(10).await;
        let crashed = c.crash().await;
        if known {
            sees_dead(&a, "cat").await;
            sees_dead(&b, "cat").await;
        }
        match before {
            "kill" => drop(within("kill", a.client.kill("echo")).await.unwrap()),
            "stop" => {
                let at_once = Some(0);
                drop(
                    within("stop", a.client.stop("echo", at_once))
                        .await
                        .unwrap(),
                );
            }
            _ => {}
        }
        within("rm", a.client.remove("echo", true)).await.unwrap();
        is_gone(&[&a, &b], "echo").await;
        drop(crashed);
    }
}

async fn sees_dead(node: &Node, name: &str) {
    until("it is seen as dead", || async {
        let nodes = node.client.nodes().await.unwrap();
        let it = nodes.into_iter().find(|node| node.name == name).unwrap();
        (it.state == wire::api::NodeState::Dead).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_for_clients_of_a_dead_anchor_keep_no_name() {
    let [a, b, c] = fleet().await;
    let (_, address) = c.serve("web", "httpd", Some("bee")).await;
    let _slow = ended_with_a_slow_client(&a, address).await;
    let crashed = c.crash().await;
    // Without force: it is waited for what an anchor that may live may still ask for.
    sees_dead(&b, "cat").await;
    within("rm", b.client.remove("web", false)).await.unwrap();
    is_gone(&[&a, &b], "web").await;
    drop(crashed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_by_force_breaks_the_connections_that_still_deliver() {
    let a = Node::first("ant").await;
    let (_, address) = a.serve("web", "httpd", None).await;
    let mut slow = ended_with_a_slow_client(&a, address).await;
    within("rm -f", a.client.remove("web", true)).await.unwrap();
    is_gone(&[&a], "web").await;
    let mut rest = Vec::new();
    let read = within("it breaks", slow.read_to_end(&mut rest)).await;
    assert!(read.is_err() || rest.len() < LENGTH, "{}", rest.len());
}

/// Bytes of an answer that is more than all buffers on its way hold but for those of its process.
const LENGTH: usize = 3_000_000;

/// Lets the process `web` write an answer and end, with a client that does not read it.
async fn ended_with_a_slow_client(
    node: &Node,
    address: std::net::SocketAddr,
) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut tcp = socket.connect(address).await.unwrap();
    let requests = format!(
        "GET /big/{LENGTH} HTTP/1.1\r\nhost: x\r\n\r\nGET /quit HTTP/1.1\r\nhost: x\r\n\r\n"
    );
    tcp.write_all(requests.as_bytes()).await.unwrap();
    // It ends when its own buffer has room for the rest, which then waits there.
    let mut some = vec![0; 20_000];
    let ended = until("it ends", || async {
        let info = node.client.inspect("web").await.ok()?;
        (info.state == ProcessState::Exited).then_some(info)
    });
    let mut ended = std::pin::pin!(ended);
    loop {
        tokio::select! {
            biased;
            info = &mut ended => {
                assert_eq!(info.exit_code, Some(0));
                break;
            }
            read = tcp.read_exact(&mut some) => drop(read.unwrap()),
        }
    }
    tcp
}
