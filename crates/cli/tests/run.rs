//! `limosa run` and `limosa wait`: what comes of programs, wherever they run.

mod common;

use common::{Done, Node, guest, limosa, until};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

fn module(directory: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = directory.path().join("program.wasm");
    fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
    path
}

/// `run` with a seed, and what it says it has done.
fn tortured(seed: u64, options: &[&str], program: &PathBuf, args: &[&str]) -> (Done, Value) {
    let mut command = limosa();
    command.args(["run", "--json", "--torture", &seed.to_string()]);
    command.args(options).arg(program).arg("--").args(args);
    let done = Done::from(command.output().unwrap());
    let mut lines = done.err.lines();
    let summary = lines.find_map(|line| serde_json::from_str(line).ok());
    let summary = summary.unwrap_or_else(|| panic!("no summary: {}", done.err));
    (done, summary)
}

#[test]
fn a_program_that_cannot_be_run_gives_126_wherever_it_was_to_run() {
    let node = Node::start("alone", None);
    let directory = tempfile::tempdir().unwrap();
    let programs = [
        r#"(module (import "env" "launch" (func)) (func (export "_start") call 0))"#,
        "(module)",
        r#"(module (func (export "_start") (param i32)))"#,
        r#"(module (func $odd (export "odd") atomic.fence) (func (export "_start")))"#,
    ];
    for text in programs {
        let path = module(&directory, text);
        for options in [&["run"][..], &["run", "-d"], &["run", "--on", "alone"]] {
            let mut command = node.limosa();
            let done = Done::from(command.args(options).arg(&path).output().unwrap());
            done.fails(126, &["limosa: "]);
        }
    }
    assert_eq!(node.run(["ps", "-aq"]).succeeds(), "");
}

#[test]
fn a_program_connects_where_it_may_with_a_node_and_without() {
    let node = Node::start("alone", None);
    node.start_guest("httpd", &["--name", "web", "--listen", "0"]);
    let info = node.run(["inspect", "web", "--json"]).json();
    let address = info["listeners"][0]["address"].as_str().unwrap();
    let path = format!("/net/tcp/{}", address.replace(':', "/"));
    let fetch = |options: &[&str]| {
        let mut command = node.limosa();
        command.arg("run").args(options).arg(guest("dial"));
        Done::from(
            command
                .args(["--", "get", &path, "/count"])
                .output()
                .unwrap(),
        )
    };
    for place in [&["--on", "alone"][..], &[]] {
        let done = fetch(&[place, &["--allow-net", address]].concat());
        assert!(!done.succeeds().is_empty(), "{}", done.err);
        for options in [&[][..], &["--allow-net", "127.0.0.1:1"]] {
            let done = fetch(&[place, options].concat());
            assert_eq!(
                (done.code, done.out),
                (1, format!("dial: {path}: EACCES\n"))
            );
        }
    }
    fetch(&["--allow-net", "nowhere"]).fails(2, &["example.org:443"]);
}

#[test]
fn limosa_failing_before_the_program_gives_125() {
    let node = Node::start("alone", None);
    node.start_guest("hello", &["--name", "taken", "--", "tick", "0", "50"]);
    for options in [&["-d"][..], &[]] {
        let mut command = node.limosa();
        command.args(["run", "--name", "taken"]).args(options);
        let done = Done::from(command.arg(guest("hello")).output().unwrap());
        done.fails(125, &["`taken`"]);
    }
}

#[test]
fn a_process_that_is_lost_with_its_node_is_a_failure_to_wait_for() {
    let one = Node::start("one", None);
    let mut two = Node::start("two", Some(one.ticket()));
    one.start_guest(
        "hello",
        &["--name", "far", "--on", "two", "--", "tick", "0", "50"],
    );
    let id = one.start_guest("hello", &["--name", "near", "--", "exit", "4"]);
    two.kill();
    until("its node is dead when the others say so", || {
        let far = one.run(["inspect", "far", "--json"]);
        (far.code == 0 && far.json()["state"] == "lost").then_some(())
    });
    let waited = one.run(["wait", "far", &id]);
    waited.fails(1, &["far", "two", "lost", "limosa rm"]);
    assert_eq!(waited.out, "4\n", "the others are waited for");
    let waited = one.run(["wait", "far", "--json"]);
    waited.fails(1, &["lost"]);
    assert_eq!(waited.json()[0]["state"], "lost");
    // All are removed, and none is no error.
    let ids = one.run(["ps", "-aq"]);
    let ids = ids.succeeds().lines();
    one.run(["rm", "-f"].into_iter().chain(ids)).succeeds();
    assert_eq!(one.run(["ps", "-aq"]).succeeds(), "");
    one.run(["rm", "-f"]).succeeds();
}

#[test]
fn torture_goes_on_natively_and_on_pulley() {
    let program = guest("files");
    let (done, both) = tortured(1, &[], &program, &[]);
    assert_eq!(done.code, 0, "{}", done.err);
    let count = |summary: &Value, field: &str| summary[field].as_u64().unwrap();
    assert!(
        count(&both, "thaws_native") > 0 && count(&both, "thaws_pulley") > 0,
        "{both}"
    );
    let thaws = count(&both, "thaws_native") + count(&both, "thaws_pulley");
    assert_eq!(thaws, count(&both, "freezes"));
    assert_eq!(
        (&both["same"], &both["depth_differs"]),
        (&true.into(), &false.into())
    );
    for (backend, none) in [("native", "thaws_pulley"), ("pulley", "thaws_native")] {
        let (alone, summary) = tortured(1, &["--backend", backend], &program, &[]);
        assert_eq!((alone.code, &alone.out), (0, &done.out));
        assert_eq!(count(&summary, none), 0, "{summary}");
        assert!(count(&summary, "freezes") > 0);
    }
    // In words, for people.
    let mut command = limosa();
    let words = command
        .args(["run", "--torture", "1"])
        .arg(&program)
        .output();
    let words = Done::from(words.unwrap());
    words.succeeds();
    assert!(
        words.err.contains("natively") && words.err.contains("on Pulley"),
        "{}",
        words.err
    );
}

#[test]
fn a_program_that_traps_or_overflows_its_stack_behaves_the_same_under_torture() {
    let program = guest("hello");
    let (done, summary) = tortured(1, &[], &program, &["trap"]);
    done.fails(134, &["unreachable"]);
    assert_eq!(summary["same"], true);
    for seed in 1..4 {
        let (done, summary) = tortured(seed, &[], &program, &["recurse", "100000000"]);
        done.fails(134, &["call stack exhausted"]);
        assert!(!done.err.contains("report"), "{}", done.err);
        assert_eq!(summary["same"], true, "{summary}");
        assert_eq!(summary["depth_differs"], true, "{summary}");
    }
    // One that tells how deep it is.
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\02\00\00\00")
        (data (i32.const 16) "x\n")
        (func $deeper (param $depth i32)
            (if (i32.eqz (i32.rem_u (local.get $depth) (i32.const 1000)))
                (then (drop (call $write
                    (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
            (call $deeper (i32.add (local.get $depth) (i32.const 1)))
            (i32.store (i32.const 32) (local.get $depth)))
        (func (export "_start") (call $deeper (i32.const 0))))"#;
    let directory = tempfile::tempdir().unwrap();
    let program = module(&directory, text);
    for seed in 1..4 {
        let (done, summary) = tortured(seed, &[], &program, &[]);
        done.fails(134, &["call stack exhausted"]);
        assert_eq!(summary["same"], true, "{summary}");
        assert!(done.out.starts_with("x\nx\n"));
    }
}

#[test]
fn a_program_works_in_the_directory_itself_or_in_a_copy_as_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let run = |options: &[&str]| {
        let mut command = limosa();
        command.arg("run").args(options).arg(guest("files"));
        Done::from(command.output().unwrap())
    };
    let result = directory.path().join("result");
    for binding in ["", ":copy"] {
        let kept = run(&["--volume", &format!("{path}:/keep{binding}")]);
        assert!(kept.succeeds().contains("\nkept "));
        assert!(!result.exists(), "{binding}");
    }
    for binding in [":share", ":pin"] {
        let kept = run(&["--volume", &format!("{path}:/keep{binding}")]);
        let (_, hash) = kept.succeeds().rsplit_once("kept ").unwrap();
        assert_eq!(fs::read_to_string(&result).unwrap().trim_end(), hash);
        fs::remove_file(&result).unwrap();
    }
    let share = format!("{path}:/keep:share");
    run(&["--torture", "1", "--volume", &share]).fails(2, &["--torture", "copy"]);
    run(&["--on", "x", "--volume", "here:/keep:share"]).fails(2, &["`here`", "--on"]);
    let missing = format!("{path}/none:/keep:pin");
    run(&["--volume", &missing]).fails(125, &["`/keep`", "none"]);
    run(&["--volume", &format!("{path}:/keep:mine")]).fails(2, &["--volume"]);
}

#[test]
fn a_node_gives_the_directories_that_it_was_started_with() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let share = format!("{path}:/keep:share");
    let run = |node: &Node| {
        let mut command = node.limosa();
        command.args(["run", "--on", "one", "--volume", &share]);
        Done::from(command.arg(guest("files")).output().unwrap())
    };
    let node = Node::start("one", None);
    run(&node).fails(125, &["`/keep`", "--volumes"]);
    drop(node);
    let node = Node::start_with("one", None, &["--volumes", path]);
    assert!(run(&node).succeeds().contains("\nkept "));
    assert!(directory.path().join("result").exists());
}
