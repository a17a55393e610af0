//! Programs that take all they can get, of whatever there is, and neighbours that do not notice.

mod common;

use common::{Echo, Node, fleet, guest, within};
use daemon::anchors::Most;
use wire::api::{LimitSpec, ListenSpec, ProcessInfo, ProcessState, RunSpec};

const LIMITS: LimitSpec = LimitSpec {
    memory_bytes: Some(16 << 20),
    file_bytes: Some(4 << 20),
    descriptors: Some(200),
};

/// What is taken up to a limit, what the guest says when it is there, and what it can then have at
/// least and at most.
const LIMITED: [(&str, &str, u64, u64); 5] = [
    ("memory", "bytes of memory", 15 << 20, 16 << 20),
    ("descriptors", "descriptors", 190, 200),
    ("files", "bytes of files", 3 << 20, 4 << 20),
    ("names", "names", 5_000, 60_000),
    ("timers", "timers", 1, 1 << 14),
];
/// What knows no limit.
const ENDLESS: [&str; 5] = ["output", "lines", "loop", "yield", "deaf"];

async fn start(node: &Node, mode: &str, limits: LimitSpec) -> ProcessInfo {
    let spec = RunSpec {
        name: Some(mode.to_owned()),
        args: vec!["hostile".to_owned(), mode.to_owned()],
        limits,
        ..RunSpec::default()
    };
    within("it starts", node.client.run(&spec, &[], &guest("hostile")))
        .await
        .unwrap()
}

/// The number that the guest says when it has come to its limit.
async fn reached(node: &Node, mode: &str, what: &str) -> u64 {
    let mut logs = node.client.logs(mode, true, None).await.unwrap();
    let mut text = String::new();
    let reached = async {
        loop {
            let (_, bytes) = logs.next().await.unwrap().expect("it goes on");
            text += std::str::from_utf8(&bytes).unwrap();
            if let Some((said, _)) = text.split_once('\n') {
                let number = said.strip_prefix(what).and_then(|n| n.strip_prefix(": "));
                return number.and_then(|n| n.parse().ok()).expect("a number");
            }
        }
    };
    within("it comes to its limit", reached).await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_against_programs_that_attack_them_and_a_neighbour_goes_on_answering() {
    let node = Node::first("ant").await;
    let (_, address) = node.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    for mode in LIMITED.map(|(mode, ..)| mode).into_iter().chain(ENDLESS) {
        start(&node, mode, LIMITS).await;
        client.round_trip(100).await;
    }
    for (mode, what, least, most) in LIMITED {
        let number = reached(&node, mode, what).await;
        assert!((least..=most).contains(&number), "{what}: {number}");
        client.round_trip(100).await;
    }
    // A recursion without end is a trap, and no more, however often it comes.
    for round in 0..3 {
        start(&node, "recursion", LIMITS).await;
        let ended = node.client.wait("recursion");
        let ended = within("the stack overflows", ended).await.unwrap();
        assert_eq!(ended.exit_code, Some(134), "round {round}");
        let reason = ended.reason.unwrap();
        assert!(reason.contains("stack"), "{reason}");
        within("it goes", node.client.remove("recursion", false))
            .await
            .unwrap();
        client.round_trip(100).await;
    }
    // They go on trying, and get no more.
    for _ in 0..20 {
        client.round_trip(1000).await;
        let mut late = Echo::connect(address).await;
        late.round_trip(10).await;
        late.finish().await;
        let listed = within("a list", node.client.processes(false)).await;
        for info in listed.unwrap() {
            assert_eq!(info.state, ProcessState::Running, "{info:?}");
            if info.name != "echo" {
                assert!(info.memory_bytes <= 16 << 20, "{info:?}");
                assert!(info.accounts.file_bytes <= 4 << 20, "{info:?}");
            }
        }
    }
    let files = node.client.inspect("names").await.unwrap();
    assert!(files.accounts.file_bytes > 3 << 20, "{files:?}");
    // Each can be frozen and written down wherever it is, and killed.
    for mode in LIMITED.map(|(mode, ..)| mode).into_iter().chain(ENDLESS) {
        let mut written = Vec::new();
        let checkpoint = node.client.checkpoint(mode, &mut written);
        within("a checkpoint", checkpoint).await.unwrap();
        assert!(!written.is_empty());
        let killed = within("a kill", node.client.kill(mode)).await.unwrap();
        assert_eq!(killed.exit_code, Some(137));
        client.round_trip(100).await;
    }
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_clients_at_one_process_leaves_room_for_those_of_another() {
    const CLIENTS: usize = 200;
    let state = tempfile::tempdir().unwrap();
    let config = daemon::NodeConfig {
        state_dir: state.path().join("state"),
        listen: "127.0.0.1:0".to_owned(),
        max_connections: Some(Most {
            per_listener: 1000,
            in_all: 64,
        }),
        ..Default::default()
    };
    let node = Node::with(config, state).await.unwrap();
    let (_, address) = node.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    client.round_trip(100).await;
    // Accepts none of them, ever.
    let spec = RunSpec {
        name: Some("deaf".to_owned()),
        args: ["hostile", "deaf"].map(str::to_owned).to_vec(),
        listen: vec![ListenSpec {
            address: "127.0.0.1:0".to_owned(),
            name: "main".to_owned(),
        }],
        ..RunSpec::default()
    };
    let deaf = node.client.run(&spec, &[], &guest("hostile")).await;
    let flooded = deaf.unwrap().listeners[0].address.clone();
    let mut flood = Vec::new();
    for _ in 0..CLIENTS {
        let connect = tokio::net::TcpStream::connect(&flooded);
        flood.push(within("connect", connect).await.unwrap());
    }
    let closed = |flood: &[tokio::net::TcpStream]| {
        let closed = flood.iter().filter(|client| {
            let read = client.try_read(&mut [0; 1]);
            !matches!(read, Err(ref error) if error.kind() == std::io::ErrorKind::WouldBlock)
        });
        closed.count()
    };
    // Of the 63 that are left beside the first client, a listener gets no more than it leaves.
    common::until("the rest is refused", || async {
        (closed(&flood) == CLIENTS - 32).then_some(())
    })
    .await;
    for _ in 0..10 {
        client.round_trip(100).await;
        let mut late = Echo::connect(address).await;
        late.round_trip(100).await;
        late.finish().await;
    }
    assert_eq!(closed(&flood), CLIENTS - 32);
    // Room is made by its end.
    within("a kill", node.client.kill("deaf")).await.unwrap();
    common::until("all are closed", || async {
        (closed(&flood) == CLIENTS).then_some(())
    })
    .await;
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_weight_go_along_when_a_process_moves() {
    let [a, b, _] = fleet().await;
    let spec = RunSpec {
        name: Some("bomb".to_owned()),
        args: ["hostile", "memory"].map(str::to_owned).to_vec(),
        cpu_weight: Some(50),
        limits: LIMITS,
        ..RunSpec::default()
    };
    a.client.run(&spec, &[], &guest("hostile")).await.unwrap();
    reached(&a, "bomb", "bytes of memory").await;
    for (node, to) in [(&a, &b), (&b, &a)] {
        let moved = node.client.migrate("bomb", to.name());
        within("a move", moved).await.unwrap();
        let before = to.client.inspect("bomb").await.unwrap().accounts;
        assert_eq!(before.cpu_weight, 50);
        // It has tried again there.
        common::until("it goes on", || async {
            let info = to.client.inspect("bomb").await.unwrap();
            assert!(info.memory_bytes <= 16 << 20, "{info:?}");
            (info.accounts.cpu_user_ns > before.cpu_user_ns).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_above_that_of_every_node_is_refused() {
    let node = Node::first("ant").await;
    let wrong = [
        LimitSpec {
            memory_bytes: Some(5 << 30),
            ..LimitSpec::default()
        },
        LimitSpec {
            file_bytes: Some(2 << 30),
            ..LimitSpec::default()
        },
        LimitSpec {
            descriptors: Some(2000),
            ..LimitSpec::default()
        },
        // Fewer than the standard streams and the root.
        LimitSpec {
            descriptors: Some(1),
            ..LimitSpec::default()
        },
        // Less than it begins with.
        LimitSpec {
            memory_bytes: Some(65536),
            ..LimitSpec::default()
        },
    ];
    for limits in wrong {
        let spec = RunSpec {
            limits,
            ..RunSpec::default()
        };
        let run = node.client.run(&spec, &[], &guest("hostile")).await;
        let error = run.unwrap_err().to_string();
        assert!(
            error.contains("at most") || error.contains("limit"),
            "{error}"
        );
    }
}
