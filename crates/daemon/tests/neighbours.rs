//! Processes that take all they can get, and neighbours that do not notice.

mod common;

use common::{Echo, Node, guest, within};
use wire::api::{ProcessState, RunSpec};

/// Computes for ever, without a call to the host.
const LOOP: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (loop $again (br $again))))"#;

/// Is ready again as soon as it has let others run.
const YIELDS: &str = r#"(module
    (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
    (memory (export "memory") 1)
    (func (export "_start") (loop $again (drop (call $yield)) (br $again))))"#;

async fn start(node: &Node, name: String, args: &[&str], module: &[u8]) -> String {
    let args = args.iter().map(|arg| (*arg).to_owned());
    let spec = RunSpec {
        name: Some(name.clone()),
        args: [name.clone()].into_iter().chain(args).collect(),
        ..RunSpec::default()
    };
    within("it starts", node.client.run(&spec, &[], module))
        .await
        .unwrap();
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_loops_and_floods_keep_neither_the_api_nor_a_neighbour_from_answering() {
    let node = Node::first("ant").await;
    let (_, address) = node.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    let (endless, yields) = (
        wat::parse_str(LOOP).unwrap(),
        wat::parse_str(YIELDS).unwrap(),
    );
    let mut greedy = Vec::new();
    for number in 0..8 {
        greedy.push(start(&node, format!("loop-{number}"), &[], &endless).await);
    }
    for number in 0..2 {
        greedy.push(start(&node, format!("yields-{number}"), &[], &yields).await);
        let tick = ["tick", "0", "0"];
        greedy.push(start(&node, format!("prints-{number}"), &tick, &guest("hello")).await);
    }
    // All of them run, and so do these: clients old and new, listings, and an end by itself.
    for _ in 0..50 {
        client.round_trip(100).await;
    }
    let mut late = Echo::connect(address).await;
    late.round_trip(100_000).await;
    late.finish().await;
    let listed = within("a list", node.client.processes(false))
        .await
        .unwrap();
    let running = |info: &&wire::api::ProcessInfo| info.state == ProcessState::Running;
    assert_eq!(listed.iter().filter(running).count(), greedy.len() + 1);
    let short = start(&node, "short".to_owned(), &["exit", "7"], &guest("hello")).await;
    let ended = within("it ends", node.client.wait(&short)).await.unwrap();
    assert_eq!(ended.exit_code, Some(7));
    // Each can be frozen where it is, and killed.
    for name in &greedy {
        let mut written = Vec::new();
        let checkpoint = node.client.checkpoint(name, &mut written);
        within("a checkpoint", checkpoint).await.unwrap();
        assert!(!written.is_empty());
    }
    client.round_trip(100).await;
    for name in &greedy {
        let killed = within("a kill", node.client.kill(name)).await.unwrap();
        assert_eq!(killed.state, ProcessState::Exited);
    }
    client.finish().await;
}
