//! Nodes that were killed and are started again: what they say of what they had, and where they
//! listen.

mod common;

use common::{Done, Node, limosa};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::Command;

/// Asks again until the answer is right: for what one node is yet to hear of another.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !holds() {
        assert!(
            begin.elapsed().as_secs() < 60,
            "not within a minute: {what}"
        );
        std::thread::yield_now();
    }
}

fn state(node: &Node, process: &str) -> Value {
    let done = node.run(["inspect", process, "--json"]);
    if done.code == 0 {
        done.json()["state"].clone()
    } else {
        Value::Null
    }
}

fn sees_alive(node: &Node, count: usize) {
    until("the nodes see each other", || {
        let nodes = node.run(["nodes", "--json"]).json();
        let alive = |node: &&Value| node["state"] == "alive";
        nodes.as_array().unwrap().iter().filter(alive).count() == count
    });
}

#[test]
fn a_node_is_not_started_again_under_the_name_of_another() {
    let one = Node::start("one", None);
    let mut two = Node::start("two", Some(one.ticket()));
    two.kill();
    let taken = two.run(["up", "--name", "one"]);
    taken.fails(1, &["node `one` already"]);
    two.again();
    assert_eq!(two.ready["name"], "two");
}

#[test]
fn what_a_killed_node_had_is_listed_as_lost_in_its_crash_until_it_is_removed() {
    let one = Node::start("one", None);
    let mut two = Node::start("two", Some(one.ticket()));
    let args = ["--name", "far", "--on", "two", "--", "tick", "0", "5"];
    one.start_guest("hello", &args);
    until("it has written something", || {
        one.run(["logs", "far"]).out.starts_with("tick 1\ntick 2\n")
    });
    two.kill();
    two.again();
    until("it is known to be lost", || state(&one, "far") == "exited");
    let reason = "lost in a crash of node two";
    for node in [&one, &two] {
        let listed = node.run(["ps", "-a"]);
        let line = listed.succeeds().lines().nth(1).unwrap();
        assert!(
            line.contains("far") && line.contains("exited (lost)"),
            "{line}"
        );
        assert_eq!(node.run(["ps", "-q"]).succeeds(), "");
        let seen = node.run(["inspect", "far", "--json"]).json();
        assert_eq!(
            (&seen["reason"], &seen["exit_code"]),
            (&reason.into(), &Value::Null)
        );
        assert!(node.run(["inspect", "far"]).succeeds().contains(reason));
        node.run(["wait", "far"]).fails(1, &["far", reason]);
        let logs = node.run(["logs", "far"]);
        assert!(
            logs.code == 0 && logs.out.starts_with("tick 1\ntick 2\n"),
            "{}",
            logs.out
        );
    }
    // It is still so when its node was killed once more.
    two.kill();
    two.again();
    until("it is listed again", || state(&one, "far") == "exited");
    one.run(["wait", "far"]).fails(1, &[reason]);
    one.run(["rm", "far"]).succeeds();
    for node in [&one, &two] {
        assert_eq!(node.run(["ps", "-aq"]).succeeds(), "");
        node.run(["inspect", "far"]).fails(3, &["no such process"]);
    }
}

#[test]
fn who_waits_for_a_process_hears_that_it_was_lost_and_a_list_says_what_is_missing() {
    let one = Node::start("one", None);
    let mut two = Node::start("two", Some(one.ticket()));
    one.start_guest(
        "hello",
        &["--name", "far", "--on", "two", "--", "tick", "0", "5"],
    );
    let follow = ["logs", "-f", "far"];
    let spawned = |args: &[&str]| {
        let mut command = one.limosa();
        let command = command.args(args).stdout(std::process::Stdio::piped());
        command
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let (waits, mut follows) = (spawned(&["wait", "far"]), spawned(&follow));
    let mut line = String::new();
    let mut out = BufReader::new(follows.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "tick 1\n");
    two.kill();
    let waited = Done::from(waits.wait_with_output().unwrap());
    waited.fails(1, &["far", "lost", "two"]);
    let followed = Done::from(follows.wait_with_output().unwrap());
    followed.fails(1, &["limosa inspect far"]);
    until("its node is dead", || state(&one, "far") == "lost");
    let listed = one.run(["ps", "-a"]);
    listed.succeeds();
    assert!(
        listed.err.contains("two") && listed.err.contains("is dead"),
        "{}",
        listed.err
    );
}

#[test]
fn nodes_started_again_in_any_order_find_each_other_where_they_were() {
    let mut one = Node::start("one", None);
    let mut two = Node::start("two", Some(one.ticket()));
    sees_alive(&one, 2);
    let addresses = [&one, &two].map(|node| node.ready["address"].clone());
    assert_ne!(
        addresses[1],
        daemon::DEFAULT_LISTEN,
        "that is the first node's"
    );
    one.kill();
    two.kill();
    two.again();
    one.again();
    assert_eq!(
        [&one, &two].map(|node| node.ready["address"].clone()),
        addresses
    );
    sees_alive(&one, 2);
    sees_alive(&two, 2);
    // Somebody else listens there: it is said, and the others find the node elsewhere.
    two.kill();
    let taken = addresses[1].as_str().unwrap();
    let _other = TcpListener::bind(taken).unwrap();
    two.again();
    assert_eq!(two.ready["taken_address"], taken);
    assert_ne!(two.ready["address"], taken);
    sees_alive(&one, 2);
    // And it stays there.
    let now = two.ready["address"].clone();
    two.kill();
    two.again();
    assert_eq!(
        (&two.ready["address"], two.ready.get("taken_address")),
        (&now, None)
    );
}

#[test]
fn a_node_in_the_background_that_cannot_write_its_log_says_why_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    // No file may grow: what a full disk is to the node, and to its log.
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" --state \"$1\" up -d";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(limosa().get_program())
        .arg(&state);
    let done = Done::from(command.output().unwrap());
    done.fails(1, &["limosa: cannot write", state.to_str().unwrap()]);
    assert_eq!(std::fs::read(state.join("limosa.log")).unwrap(), b"");
}
