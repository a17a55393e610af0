//! Idle processes fold by themselves, and nobody who talks to them can tell.

mod common;

use common::{Echo, Node, get, until, within};
use daemon::NodeConfig;
use std::time::Duration;
use wire::api::{ProcessInfo, ProcessState, RunSpec};

/// A node that folds what has not run for a moment.
async fn folding(name: &str, by: Option<&Node>) -> Node {
    let state = tempfile::tempdir().unwrap();
    let config = NodeConfig {
        state_dir: state.path().join("state"),
        name: name.to_owned(),
        listen: "127.0.0.1:0".to_owned(),
        join: by.map(|by| by.ready.ticket.parse().unwrap()),
        fold_after: Some(Duration::from_millis(20)),
        ..NodeConfig::default()
    };
    Node::with(config, state).await.unwrap()
}

async fn folded(node: &Node, process: &str) -> ProcessInfo {
    until(&format!("{process} is folded"), || async {
        let info = node.client.inspect(process).await.ok()?;
        info.folded.then_some(info)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_folds_between_requests_and_answers_each() {
    let node = folding("ant", None).await;
    let (_, address) = node.serve("echo", "echo", None).await;
    // Nobody has called yet.
    let info = folded(&node, "echo").await;
    assert_eq!(info.state, ProcessState::Running);
    assert!(info.memory_bytes >= 65536);
    // Clients old and new, and bytes in the middle of a connection.
    let mut first = Echo::connect(address).await;
    for bytes in [1, 1000, 200_000] {
        first.round_trip(bytes).await;
        assert_eq!(folded(&node, "echo").await.connections, 1);
    }
    let mut second = Echo::connect(address).await;
    second.round_trip(10).await;
    folded(&node, "echo").await;
    first.round_trip(10).await;
    folded(&node, "echo").await;
    first.finish().await;
    second.finish().await;
    let killed = within("a kill", node.client.kill("echo")).await.unwrap();
    assert!(killed.state == ProcessState::Exited && !killed.folded);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_program_had_in_memory_is_there_after_every_fold() {
    let node = folding("ant", None).await;
    let (_, address) = node.serve("httpd", "httpd", None).await;
    for count in 1..6 {
        folded(&node, "httpd").await;
        let answer = within("an answer", get(address, "/count")).await;
        assert_eq!(answer, count.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folded_process_moves_with_its_connections_and_folds_where_it_comes_to() {
    let ant = folding("ant", None).await;
    let bee = folding("bee", Some(&ant)).await;
    for node in [&ant, &bee] {
        node.sees_alive(2).await;
    }
    let (_, address) = ant.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(5000).await;
    for to in [&bee, &ant, &bee] {
        folded(&ant, "echo").await;
        let moved = ant.client.migrate("echo", to.name());
        within("a move", moved).await.unwrap();
        folded(&ant, "echo").await;
        client.round_trip(5000).await;
    }
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_a_folded_process_is_one_of_the_process() {
    let node = folding("ant", None).await;
    let (_, address) = node.serve("httpd", "httpd", None).await;
    within("an answer", get(address, "/count")).await;
    folded(&node, "httpd").await;
    let mut written = Vec::new();
    let checkpoint = node.client.checkpoint("httpd", &mut written);
    within("a checkpoint", checkpoint).await.unwrap();
    // It goes on, and so does what is restored from it.
    let answer = within("an answer", get(address, "/count")).await;
    assert_eq!(answer, "2");
    within("a kill", node.client.kill("httpd")).await.unwrap();
    let listen = ["127.0.0.1:0".to_owned()];
    let restored = node.client.restore(written, Some("again"), None, &listen);
    let restored = within("a restore", restored).await.unwrap();
    folded(&node, "again").await;
    let address = restored.listeners[0].address.parse().unwrap();
    let answer = within("an answer", get(address, "/count")).await;
    assert_eq!(answer, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folded_sleeper_wakes_by_itself() {
    let node = folding("ant", None).await;
    let spec = RunSpec {
        name: Some("sleeper".to_owned()),
        args: ["hello", "sleep", "400"].map(str::to_owned).into(),
        ..RunSpec::default()
    };
    let module = common::guest("hello");
    let run = node.client.run(&spec, &[], &module);
    within("it starts", run).await.unwrap();
    let ended = within("it ends", node.client.wait("sleeper"))
        .await
        .unwrap();
    assert_eq!(ended.exit_code, Some(0));
}
