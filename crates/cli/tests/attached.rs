//! `limosa run` of a process of a node with which the terminal stays.

mod common;

use common::{Done, Node, guest};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Starts a guest on a node with pipes in place of a terminal.
fn start(node: &Node, options: &[&str], args: &[&str]) -> (Child, ChildStdin, Lines) {
    let mut command = node.limosa();
    command.arg("run").args(options).arg(guest("hello"));
    let mut child = command
        .arg("--")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdin, stdout.lines())
}

type Lines = std::io::Lines<BufReader<ChildStdout>>;

fn next(lines: &mut Lines) -> String {
    lines.next().unwrap().unwrap()
}

#[test]
fn a_program_on_another_node_has_the_terminals_output_and_its_exit_code() {
    let one = Node::start("one", None);
    let _two = Node::start("two", Some(one.ticket()));
    let attached = |options: &[&str], args: &[&str]| {
        let mut command = one.limosa();
        command.arg("run").args(options).arg(guest("hello"));
        Done::from(command.arg("--").args(args).output().unwrap())
    };
    let done = attached(&["--on", "two", "--name", "far", "-e", "A=1"], &["x"]);
    assert_eq!(
        done.succeeds(),
        "hello\nargument 1: x\nenvironment: A=1\nend of input"
    );
    assert_eq!(done.err, "");
    let far = one.run(["inspect", "far", "--json"]).json();
    assert_eq!(
        (&far["node_name"], &far["exit_code"]),
        (&"two".into(), &0.into())
    );
    assert_eq!(
        attached(&["--name", "near", "--rm"], &["exit", "7"]).code,
        7
    );
    let done = attached(&["--on", "two", "--rm"], &["trap"]);
    done.fails(134, &["limosa: ", "unreachable"]);
    // What was to be forgotten is.
    assert_eq!(one.run(["ps", "-aq"]).succeeds().lines().count(), 1);
    one.run(["inspect", "near"]).fails(3, &["near"]);
    attached(&["--on", "nowhere"], &[]).fails(3, &["nowhere"]);
}

#[test]
fn an_interrupt_kills_the_program_that_the_terminal_stays_with() {
    let node = Node::start("alone", None);
    let mut command = node.limosa();
    command
        .args(["run", "--name", "ticker"])
        .arg(guest("hello"));
    let mut child = command
        .args(["--", "tick", "0", "5"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "tick 1\n");
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", "INT", &pid]).status();
    assert!(sent.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let ticker = node.run(["inspect", "ticker", "--json"]).json();
    assert_eq!(
        (&ticker["state"], &ticker["exit_code"]),
        (&"exited".into(), &137.into())
    );
}

#[test]
fn what_is_said_to_a_program_reaches_it_once_and_in_order_while_it_moves() {
    const LINES: usize = 20_000;
    let one = Node::start("one", None);
    let _two = Node::start("two", Some(one.ticket()));
    let (mut child, mut stdin, mut lines) = start(&one, &["--name", "far", "--on", "two"], &[]);
    assert_eq!(next(&mut lines), "hello");
    let text = |number: usize| format!("{number:050}");
    let writer = std::thread::spawn(move || {
        for number in 1..=LINES {
            writeln!(stdin, "{}", text(number)).unwrap();
        }
        stdin
    });
    for number in 1..=LINES {
        assert_eq!(next(&mut lines), format!("line {number}: {}", text(number)));
        if number % (LINES / 6) == 0 {
            let to = if number / (LINES / 6) % 2 == 1 {
                "one"
            } else {
                "two"
            };
            one.run(["migrate", "far", "--to", to]).succeeds();
        }
    }
    drop(writer.join().unwrap());
    assert_eq!(next(&mut lines), "end of input");
    assert!(lines.next().is_none());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let far = one.run(["inspect", "far", "--json"]).json();
    assert_eq!(far["moves"], 6);
}

#[test]
fn a_program_waits_for_its_reader_and_for_its_writer_wherever_it_is() {
    // Much more than a log keeps.
    const TICKS: usize = 100_000;
    let one = Node::start("one", None);
    let _two = Node::start("two", Some(one.ticket()));
    let args = ["tick", &TICKS.to_string(), "0"];
    let (mut child, _stdin, mut lines) = start(&one, &["--name", "fast", "--on", "two"], &args);
    assert_eq!(next(&mut lines), "tick 1");
    // Nobody reads meanwhile.
    for to in ["one", "two"] {
        one.run(["migrate", "fast", "--to", to]).succeeds();
    }
    for number in 2..=TICKS {
        assert_eq!(next(&mut lines), format!("tick {number}"));
    }
    assert!(lines.next().is_none());
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let (mut child, mut stdin, mut lines) = start(&one, &["--name", "slow", "--on", "two"], &[]);
    assert_eq!(next(&mut lines), "hello");
    for number in 1..=4 {
        let to = if number % 2 == 1 { "one" } else { "two" };
        one.run(["migrate", "slow", "--to", to]).succeeds();
        writeln!(stdin, "now").unwrap();
        assert_eq!(next(&mut lines), format!("line {number}: now"));
    }
    drop(stdin);
    assert_eq!(next(&mut lines), "end of input");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_a_program_does_not_read_stays_for_who_reads_next() {
    let node = Node::start("alone", None);
    let mut shell = Command::new("sh");
    let mut limosa = node.limosa();
    limosa
        .arg("run")
        .args(["--name", "deaf", "--rm"])
        .arg(guest("hello"));
    limosa.args(["--", "exit", "0"]);
    // The shell runs it with what is left of its own input.
    shell
        .args(["-c", r#""$@" && cat"#, "sh"])
        .arg(limosa.get_program());
    shell.args(limosa.get_args());
    for (name, value) in limosa.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let done: Done = common::run_with_input(&mut shell, b"for the shell\n");
    assert_eq!(done.succeeds(), "for the shell");
}
