//! What processes and nodes consume, as the API tells it.

mod common;

use common::{Echo, Node, guest, until, within};
use wire::api::{ProcessInfo, RunSpec};

const LOOP: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (loop $again (br $again))))"#;

fn cpu_ns(info: &ProcessInfo) -> u64 {
    info.accounts.cpu_user_ns + info.accounts.cpu_kernel_ns
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_never_waits_is_charged_while_it_computes() {
    let node = Node::first("ant").await;
    let spec = RunSpec {
        name: Some("loop".to_owned()),
        cpu_weight: Some(50),
        ..RunSpec::default()
    };
    let module = wat::parse_str(LOOP).unwrap();
    node.client.run(&spec, &[], &module).await.unwrap();
    for more in [1_000_000, 20_000_000, 100_000_000] {
        until("it has used the processor", || async {
            let info = node.client.inspect("loop").await.unwrap();
            assert_eq!(info.accounts.cpu_weight, 50);
            assert_eq!(info.accounts.voluntary_switches, 0);
            (cpu_ns(&info) > more).then_some(())
        })
        .await;
    }
    // It holds a thread of its own, and counts as load in no time.
    until("it has a thread of its own", || async {
        let accounts = node.client.node_accounts("ant").await.unwrap();
        assert_eq!((accounts.processes, accounts.running), (1, 1));
        assert!(accounts.parallelism > 0.5 && accounts.advised_cores == 1);
        assert!(accounts.threads > accounts.workers);
        (accounts.detached == 1 && accounts.handovers > 0).then_some(())
    })
    .await;
    // A freeze ends the poll, and what it used stays counted once.
    let before = node.client.inspect("loop").await.unwrap();
    node.client
        .checkpoint("loop", &mut Vec::new())
        .await
        .unwrap();
    let after = node.client.inspect("loop").await.unwrap();
    assert_eq!(after.freezes, 1);
    assert!(cpu_ns(&after) >= cpu_ns(&before));
    let ended = node.client.kill("loop").await.unwrap();
    assert!(cpu_ns(&ended) >= cpu_ns(&after));
    let age_ns = (ended.age_seconds + 1) * 1_000_000_000;
    assert!(cpu_ns(&ended) <= age_ns, "one thread in {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_counted_by_device() {
    let node = Node::first("ant").await;
    let (_, address) = node.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(100_000).await;
    let info = node.client.inspect("echo").await.unwrap();
    let sockets = info.accounts.sockets;
    assert_eq!(
        (sockets.read_bytes, sockets.written_bytes),
        (100_000, 100_000)
    );
    assert!(sockets.reads > 0 && sockets.writes > 0);
    assert!(info.accounts.voluntary_switches > 0);
    let (resident, private) = (info.accounts.resident_bytes, info.accounts.private_bytes);
    let (resident, private) = (resident.unwrap(), private.unwrap());
    assert!(0 < private && private <= resident && resident <= info.memory_bytes);
    client.finish().await;

    let spec = RunSpec {
        args: ["hello", "tick", "3", "1"].map(str::to_owned).to_vec(),
        ..RunSpec::default()
    };
    let info = node.client.run(&spec, &[], &guest("hello")).await.unwrap();
    let ended = within("it ends", node.client.wait(&info.name))
        .await
        .unwrap();
    let mut logs = node.client.logs(&info.name, false, None).await.unwrap();
    let mut written = 0;
    while let Some((_, bytes)) = logs.next().await.unwrap() {
        written += bytes.len() as u64;
    }
    assert_eq!(ended.accounts.stdio.written_bytes, written);
    assert_eq!(ended.accounts.sockets.written_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_tells_the_accounts_of_any() {
    let ant = Node::first("ant").await;
    let bee = Node::joining("bee", &ant).await;
    ant.sees_alive(2).await;
    bee.sees_alive(2).await;
    let of_bee = ant.client.node_accounts("bee").await.unwrap();
    assert_eq!((of_bee.name.as_str(), of_bee.node), ("bee", bee.ready.node));
    assert!(of_bee.cores > 0 && of_bee.workers > 0 && of_bee.resident_bytes > 0);
    let error = ant.client.node_accounts("cat").await.unwrap_err();
    assert_eq!(error.code(), Some("unknown_node"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weight_that_is_none_is_refused() {
    let node = Node::first("ant").await;
    for weight in [0, 10_001] {
        let spec = RunSpec {
            cpu_weight: Some(weight),
            ..RunSpec::default()
        };
        let error = node
            .client
            .run(&spec, &[], &guest("hello"))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some("bad_request"), "{error}");
    }
}
