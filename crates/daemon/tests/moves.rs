//! Processes move between nodes while their clients keep talking to them.

mod common;

use common::{Echo, Node, fleet, within};
use wire::api::{MoveReport, ProcessState};

async fn migrate(asked: &Node, process: &str, to: &Node) -> MoveReport {
    let moved = within("a move", asked.client.migrate(process, to.name())).await;
    let report = moved.unwrap();
    assert_eq!(report.to, to.ready.node);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_moves_away_on_and_back_in_the_middle_of_everything() {
    let [a, b, c] = fleet().await;
    let (info, address) = a.serve("echo", "echo", None).await;
    let mut quiet = Echo::connect(address).await;
    quiet.round_trip(10).await;
    let mut busy = Echo::connect(address).await;
    let mut ended = Echo::connect(address).await;
    ended.round_trip(1).await;
    for to in [&b, &c, &a, &c, &b, &a] {
        // More than the windows hold, so that bytes wait in every place there is.
        busy.send(100_000).await;
        let report = migrate(&a, "echo", to).await;
        assert_eq!(report.process, info.id);
        busy.send(50_000).await;
        busy.receive_all().await;
        quiet.round_trip(1).await;
        let seen = a.sees("echo", ProcessState::Running).await;
        assert_eq!(seen.node, to.ready.node);
        assert_eq!(seen.epoch, report.epoch);
    }
    quiet.finish().await;
    busy.finish().await;
    ended.finish().await;
    let mut late = Echo::connect(address).await;
    late.round_trip(10).await;
    let seen = a.client.inspect("echo").await.unwrap();
    assert_eq!((seen.id, seen.moves), (info.id, 6));
}
