//! What concerns the whole OS process, and so is tested in one of its own, one test at a time.

mod common;

use common::{Echo, Node, guest, until, within};
use daemon::accounts::resident::of_this_program;
use daemon::memory::{Memory, MemorySource};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Mutex;
use wire::api::{LimitSpec, ProcessState, RunSpec};

static ALONE: Mutex<()> = Mutex::const_new(());

const MIB: u64 = 1 << 20;

async fn hostile(node: &Node, name: &str, mode: &str, memory_bytes: Option<u64>) {
    let spec = RunSpec {
        name: Some(name.to_owned()),
        args: vec!["hostile".to_owned(), mode.to_owned()],
        limits: LimitSpec {
            memory_bytes,
            ..LimitSpec::default()
        },
        ..RunSpec::default()
    };
    within("it starts", node.client.run(&spec, &[], &guest("hostile")))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_memory_runs_out_the_process_that_has_most_is_ended_and_no_other() {
    let _alone = ALONE.lock().await;
    let begin = of_this_program().unwrap();
    // As if there were 256 MiB from here on.
    let source = MemorySource(Arc::new(move || {
        let used = of_this_program()?.saturating_sub(begin);
        Some(Memory {
            total: 512 * MIB,
            available: (256 * MIB).saturating_sub(used),
        })
    }));
    let state = tempfile::tempdir().unwrap();
    let config = daemon::NodeConfig {
        state_dir: state.path().join("state"),
        listen: "127.0.0.1:0".to_owned(),
        memory: source,
        ..Default::default()
    };
    let node = Node::with(config, state).await.unwrap();
    let (_, address) = node.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    hostile(&node, "bounded", "memory", Some(32 * MIB)).await;
    for round in 0..3 {
        hostile(&node, "bomb", "memory", None).await;
        client.round_trip(100).await;
        let ended = within("it is ended", node.client.wait("bomb"))
            .await
            .unwrap();
        assert_eq!(ended.exit_code, Some(137), "round {round}");
        let reason = ended.reason.unwrap();
        assert!(reason.contains("ran out of memory"), "{reason}");
        client.round_trip(100).await;
        within("it goes", node.client.remove("bomb", false))
            .await
            .unwrap();
        until("its memory is free", || async {
            let used = of_this_program()?.saturating_sub(begin);
            (used < 160 * MIB).then_some(())
        })
        .await;
    }
    let bounded = node.client.inspect("bounded").await.unwrap();
    assert_eq!(bounded.state, ProcessState::Running);
    within("a kill", node.client.kill("bounded")).await.unwrap();
    client.finish().await;
}

/// Threads that run processes, as the system has them.
fn workers() -> HashMap<String, Worker> {
    let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second();
    let mut workers = HashMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        // One that has just ended has none.
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else {
            continue;
        };
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if name == "limosa-worker" {
            let ticks = |field: usize| fields[field].parse::<u64>().unwrap();
            let worker = Worker {
                runnable: fields[0] == "R",
                cpu_ns: (ticks(11) + ticks(12)) * tick_ns,
            };
            workers.insert(task.file_name().into_string().unwrap(), worker);
        }
    }
    workers
}

struct Worker {
    /// It runs, or would if there was a processor.
    runnable: bool,
    cpu_ns: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_add_up_to_what_the_system_says_of_the_threads() {
    const LOOPS: u64 = 3;
    let _alone = ALONE.lock().await;
    // Of the other test.
    let others = workers();
    let new = || {
        let mut all = workers();
        all.retain(|thread, _| !others.contains_key(thread));
        all
    };
    let cpu_ns = || new().values().map(|worker| worker.cpu_ns).sum::<u64>();
    let node = Node::first("ant").await;
    let names: Vec<String> = (0..LOOPS).map(|number| format!("loop-{number}")).collect();
    for name in &names {
        hostile(&node, name, "loop", None).await;
    }
    // As many run as there are threads that do.
    until("all run at once", || async {
        let accounts = node.client.node_accounts("ant").await.unwrap();
        let runnable = new().values().filter(|worker| worker.runnable).count();
        (accounts.running == LOOPS && runnable as u64 == LOOPS).then_some(())
    })
    .await;
    until("most of the time", || async {
        let accounts = node.client.node_accounts("ant").await.unwrap();
        let busy = accounts.parallelism > LOOPS as f64 - 0.5;
        assert!(accounts.parallelism < LOOPS as f64 + 0.01, "{accounts:?}");
        (busy && accounts.advised_cores == LOOPS).then_some(())
    })
    .await;
    // Some that wait and wake, too.
    hostile(&node, "yield", "yield", None).await;
    until("they have used two seconds", || async {
        (cpu_ns() > 2_000_000_000).then_some(())
    })
    .await;
    let mut counted = 0;
    for name in names.iter().map(String::as_str).chain(["yield"]) {
        let ended = node.client.kill(name).await.unwrap();
        counted += ended.accounts.cpu_user_ns + ended.accounts.cpu_kernel_ns;
    }
    let used = cpu_ns();
    // Starts and ends of processes are nobody's; and the system counts whole ticks.
    let tenth = used / 10;
    assert!(
        (used - tenth..used + tenth).contains(&counted),
        "{counted} of {used}"
    );
}
