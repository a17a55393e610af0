//! Processes move while they keep writing their memory: what lands is what there was.

mod common;

use common::{Node, fleet, until, within};
use daemon::NodeConfig;
use wire::api::{MigrateRequest, MoveReport, ProcessState, RunSpec, Strategy};

/// Walks through its memory again and again. On each page it leaves, at two places, which pass this
/// is, and stops with a trap if it does not find what the pass before has left there, or zeros where
/// the memory has grown since. After each pass it writes a line, and grows by 64 KiB until it has so
/// many pages. It pauses for a millisecond every so many pages, if not 0.
fn walker(pages: u32, grown: u32, pause_every: u32) -> Vec<u8> {
    let (begin, most) = (pages.div_ceil(16), grown.div_ceil(16));
    let text = format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") {begin} {most})
  ;; What is written of a pass; a wait of 1 ms.
  (data (i32.const 0) "\10\00\00\00\05\00\00\00")
  (data (i32.const 16) "pass\n")
  (data (i32.const 80) "\01\00\00\00\00\00\00\00\40\42\0f\00\00\00\00\00")
  (func $check (param $at i32) (param $expected i64)
    (if (i64.ne (i64.load (local.get $at)) (local.get $expected)) (then unreachable)))
  (func (export "_start")
    (local $pass i64) (local $page i32) (local $pages i32) (local $known i32)
    (local $at i32) (local $left i64) (local $pause i32)
    (local.set $pages (i32.const {pages}))
    (loop $passes
      (local.set $pass (i64.add (local.get $pass) (i64.const 1)))
      (local.set $page (i32.const 1))
      (loop $walk
        (local.set $at (i32.shl (local.get $page) (i32.const 12)))
        (local.set $left (i64.const 0))
        (if (i32.lt_u (local.get $page) (local.get $known))
          (then (local.set $left (i64.add
            (i64.shl (i64.sub (local.get $pass) (i64.const 1)) (i64.const 24))
            (i64.extend_i32_u (local.get $page))))))
        (call $check (i32.add (local.get $at) (i32.const 8)) (local.get $left))
        (call $check (i32.add (local.get $at) (i32.const 4080)) (local.get $left))
        (local.set $left (i64.add
          (i64.shl (local.get $pass) (i64.const 24)) (i64.extend_i32_u (local.get $page))))
        (i64.store offset=8 (local.get $at) (local.get $left))
        (i64.store offset=4080 (local.get $at) (local.get $left))
        (local.set $pause (i32.add (local.get $pause) (i32.const 1)))
        (if (i32.eq (local.get $pause) (i32.const {pause_every}))
          (then
            (local.set $pause (i32.const 0))
            (drop (call $poll (i32.const 64) (i32.const 160) (i32.const 1) (i32.const 192)))))
        (local.set $page (i32.add (local.get $page) (i32.const 1)))
        (br_if $walk (i32.lt_u (local.get $page) (local.get $pages))))
      (local.set $known (local.get $pages))
      (if (i32.lt_u (local.get $pages) (i32.const {grown}))
        (then
          (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1))
            (then (local.set $pages (i32.add (local.get $pages) (i32.const 16)))))))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 200)))
      (br $passes))))"#
    );
    wat::parse_str(text).unwrap()
}

async fn run(node: &Node, program: &[u8]) {
    let spec = RunSpec {
        name: Some("walker".to_owned()),
        args: vec!["walker".to_owned()],
        ..RunSpec::default()
    };
    within("it starts", node.client.run(&spec, &[], program))
        .await
        .unwrap();
    walks(node, 1).await;
}

/// Waits until it has made so many more passes.
async fn walks(node: &Node, passes: usize) {
    let logs = node.client.logs("walker", true, Some(0)).await;
    let mut logs = logs.unwrap();
    let mut seen = 0;
    while seen < passes {
        let lines = within("another pass", logs.next()).await.unwrap();
        let (_, bytes) = lines.expect("it goes on");
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.chars().all(|c| "pass\n".contains(c)), "{text}");
        seen += text.lines().count();
    }
}

fn by(strategy: Strategy, to: &Node) -> MigrateRequest {
    MigrateRequest {
        strategy,
        ..MigrateRequest::new(to.name())
    }
}

async fn precopy(asked: &Node, to: &Node) -> MoveReport {
    let request = by(Strategy::Precopy, to);
    let moved = within("a move", asked.client.migrate_as("walker", &request)).await;
    let report = moved.unwrap();
    assert_eq!(report.to, to.ready.node);
    let sent: u64 = report.rounds.iter().map(|round| round.bytes).sum();
    assert_eq!(report.bytes, sent + report.frozen_bytes);
    // On a system that does not tell what is written, all of this is stop-and-copy, and it says so.
    let untracked = report
        .complaint
        .as_ref()
        .filter(|why| why.contains("userfaultfd"));
    match untracked {
        Some(why) => println!("no rounds: {why}"),
        None => assert!(!report.rounds.is_empty()),
    }
    report
}

async fn runs_at(asked: &Node, at: &Node) {
    let seen = asked.sees("walker", ProcessState::Running).await;
    assert_eq!(seen.node, at.ready.node);
    walks(asked, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_keeps_writing_and_growing_arrives_with_the_memory_that_it_had() {
    let [a, b, c] = fleet().await;
    run(&a, &walker(2048, 6000, 64)).await;
    for to in [&b, &c, &a, &b] {
        let report = precopy(&a, to).await;
        println!("{report:?}");
        runs_at(&a, to).await;
    }
    a.client.kill("walker").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_writes_faster_than_the_link_carries_is_stopped_and_this_is_said() {
    let [a, b, _c] = fleet().await;
    run(&a, &walker(2048, 2048, 512)).await;
    let request = MigrateRequest {
        bandwidth: Some(8 << 20),
        ..by(Strategy::Precopy, &b)
    };
    let moved = within("a move", a.client.migrate_as("walker", &request)).await;
    let report = moved.unwrap();
    assert!(report.complaint.is_some(), "{report:?}");
    for round in &report.rounds {
        // However slow this machine is, it sends no faster than it may.
        let rate = round.bytes as f64 / (round.took_ms / 1e3);
        assert!(rate <= 1.1 * (8 << 20) as f64, "{report:?}");
    }
    runs_at(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn left_to_itself_a_small_process_is_stopped_and_a_large_one_sent_while_it_runs() {
    let [a, b, _c] = fleet().await;
    run(&a, &walker(64, 64, 16)).await;
    let moved = within("a move", a.client.migrate("walker", b.name())).await;
    assert!(moved.unwrap().rounds.is_empty());
    runs_at(&a, &b).await;
    a.client.kill("walker").await.unwrap();
    within("it is gone", a.client.remove("walker", true))
        .await
        .unwrap();
    run(&a, &walker(8192, 8192, 64)).await;
    let moved = within("a move", a.client.migrate("walker", b.name())).await;
    let report = moved.unwrap();
    assert!(
        !report.rounds.is_empty() || report.complaint.is_some(),
        "{report:?}"
    );
    runs_at(&a, &b).await;
}

/// The target disappears when a round begins, after so many others.
async fn the_target_vanishes_in_round(round: usize) {
    let [a, b, c] = fleet().await;
    run(&a, &walker(4096, 8192, 512)).await;
    let power = b.power();
    a.steps.at_nth("precopying", round, move || power.cut());
    let request = MigrateRequest {
        bandwidth: Some(256 << 20),
        ..by(Strategy::Precopy, &b)
    };
    let answer = within("an answer", a.client.migrate_as("walker", &request)).await;
    if !a.steps.done() {
        println!("the move had fewer rounds: {answer:?}");
        return;
    }
    let error = answer.unwrap_err();
    let code = error.code().unwrap();
    assert!(["refused", "unavailable"].contains(&code), "{error}");
    runs_at(&a, &a).await;
    precopy(&a, &c).await;
    runs_at(&a, &c).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_vanishes_in_the_first_round_leaves_the_process_running() {
    the_target_vanishes_in_round(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_vanishes_in_a_later_round_leaves_the_process_running() {
    the_target_vanishes_in_round(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_nobody_waits_for_any_more_is_called_off() {
    let [a, b, c] = fleet().await;
    run(&a, &walker(2048, 2048, 64)).await;
    let request = MigrateRequest {
        bandwidth: Some(1 << 20),
        ..by(Strategy::Precopy, &b)
    };
    // Asked of the node that has it, and of one that passes the request on.
    for asked in [&a, &c] {
        let (begun, begins) = tokio::sync::oneshot::channel();
        a.steps.at("precopying", move || begun.send(()).unwrap());
        let moving = tokio::spawn({
            let (client, request) = (asked.client.clone(), request.clone());
            async move { client.migrate_as("walker", &request).await }
        });
        within("it begins", begins).await.unwrap();
        moving.abort();
        until("it is called off", || async {
            let info = a.client.inspect("walker").await.ok()?;
            (info.state == ProcessState::Running).then_some(())
        })
        .await;
        runs_at(&a, &a).await;
    }
    // Nothing of it is left at the target.
    precopy(&a, &b).await;
    runs_at(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_code_and_the_interpreter_take_it_over_from_each_other() {
    let native = Node::first("native").await;
    let (config, state) = Node::config("pulley", Some(&native.ready.ticket));
    let config = NodeConfig {
        backend: vm::Backend::Pulley,
        ..config
    };
    let pulley = Node::with(config, state).await.unwrap();
    native.sees_alive(2).await;
    run(&native, &walker(1024, 3000, 32)).await;
    for to in [&pulley, &native, &pulley] {
        precopy(&native, to).await;
        runs_at(&native, to).await;
    }
}
