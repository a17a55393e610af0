//! The real binary, with what people and scripts do to it. Nothing here needs more than one node.

mod common;

use common::{Done, Node, guest, limosa, run, run_with_input, until};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

fn hello(args: &[&str]) -> Done {
    let mut command = limosa();
    command.arg("run").arg(guest("hello")).arg("--").args(args);
    command.output().unwrap().into()
}

/// Writes a module given as text to a file and runs it.
fn run_text(text: &str) -> Done {
    run_bytes(&wat::parse_str(text).unwrap())
}

fn run_bytes(bytes: &[u8]) -> Done {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program.wasm");
    fs::write(&path, bytes).unwrap();
    limosa().arg("run").arg(path).output().unwrap().into()
}

#[test]
fn wrong_flags_are_usage_errors_with_a_suggestion() {
    run(["ps", "--jsn"]).fails(2, &["--json"]);
    run(["migrte", "x"]).fails(2, &["migrate"]);
    run(["migrate", "x"]).fails(2, &["--to"]);
    run(["run", "x.wasm", "--listen", "http"]).fails(2, &["8080"]);
    run(["run", "x.wasm", "--dir", "src"]).fails(2, &["SRC:DST"]);
    run(["run", "x.wasm", "--listen", "foo"]).fails(2, &["8080"]);
    run(["run", "x.wasm", "--env", "NOT_SET_ANYWHERE"]).fails(2, &["NOT_SET_ANYWHERE", "K=V"]);
    run(["run", "x.wasm", "-e", "=x"]).fails(2, &["K=V"]);
    run(["run", "x.wasm", "--name", "a b"]).fails(2, &["--name", "letters"]);
    run(["run", "x.wasm", "--on", ""]).fails(2, &["--on", "id"]);
    run(["run", "-d", "x.wasm", "--torture", "1"]).fails(2, &["--torture"]);
    run(["run", "-d", "x.wasm", "--rm"]).fails(2, &["--rm"]);
    run(["run", "x.wasm", "--backend", "pulley"]).fails(2, &["--torture"]);
    run(["run", "x.wasm", "--torture", "1", "--backend", "x86"]).fails(2, &["pulley"]);
    run(["restore", "x", "--name", "/"]).fails(2, &["--name", "letters"]);
    run(["restore", "x", "--listen", "web=80"]).fails(2, &["--listen", "keep their names"]);
    run(["inspect", ""]).fails(2, &["first digits"]);
    run(["rm"]).fails(2, &["PROCESSES"]);
    run(["bench", "speed"]).fails(2, &["speed"]);
    run([]).fails(2, &["Usage", "demo"]);
}

#[test]
fn a_node_is_not_started_from_a_wrong_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let wrong = |args: &[&str], words: &[&str]| {
        let mut command = limosa();
        command.env("LIMOSA_STATE", &state).args(args);
        Done::from(command.output().unwrap()).fails(2, words);
        assert!(!state.exists(), "{args:?}");
    };
    wrong(&["up", "--listen-link", "foo"], &["192.0.2.7:7420"]);
    wrong(&["up", "--listen-link", "7421"], &["127.0.0.1:7421"]);
    wrong(&["up", "--name", "a b"], &["--name", "letters"]);
    for ticket in ["nonsense", "limosa-", "limosa-aaaaaaaa"] {
        wrong(&["join", "-d", ticket], &["limosa: ", "ticket"]);
    }
}

#[test]
fn the_usage_names_what_is_missing_and_no_more() {
    let mut command = limosa();
    command.env("LIMOSA_STATE", "/nonexistent").arg("migrate");
    let done = Done::from(command.output().unwrap());
    done.fails(2, &["Usage: limosa migrate --to <NODE> <PROCESS>\n"]);
}

#[test]
fn a_state_directory_with_too_long_a_path_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("d".repeat(110));
    let words = ["limosa: ", "limosa.sock", "107", "--state DIR"];
    for command in [&["up"][..], &["up", "-d"], &["ps"], &["run", "-d"]] {
        let program = command[0] == "run";
        let mut limosa = limosa();
        limosa.env("LIMOSA_STATE", &state).args(command);
        limosa.args(program.then(|| guest("hello")));
        Done::from(limosa.output().unwrap()).fails(2, &words);
        assert!(!state.exists());
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure_and_said() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for args in [
        &["--help"][..],
        &["--version"],
        &["completion", "bash"],
        &["bench"],
    ] {
        let mut command = limosa();
        let done = command.args(args).stdout(full()).stderr(Stdio::piped());
        let done = Done::from(done.spawn().unwrap().wait_with_output().unwrap());
        done.fails(1, &["limosa: cannot write", "No space left"]);
    }
    // Where there is nobody to tell, the exit code is still right.
    let mut command = limosa();
    let quiet = command.args(["run", "/nonexistent"]).stderr(full());
    assert_eq!(quiet.status().unwrap().code(), Some(3));
    let mut command = limosa();
    let quiet = command
        .arg("run")
        .args(["--torture", "1"])
        .arg(guest("hello"));
    assert_eq!(quiet.stderr(full()).status().unwrap().code(), Some(0));
}

#[test]
fn help_and_version_go_to_standard_output() {
    assert!(run(["--help"]).succeeds().contains("Exit codes:"));
    assert!(run(["run", "--help"]).succeeds().contains("127.0.0.1"));
    assert!(run(["run", "--help"]).succeeds().contains("copy"));
    assert!(run(["--version"]).succeeds().starts_with("limosa "));
    let commands = "run ps inspect logs wait stop kill rm migrate checkpoint restore up join down \
                    nodes ticket top demo bench completion";
    for command in commands.split_whitespace() {
        let help = run([command, "--help"]);
        assert!(help.succeeds().contains("Usage: limosa"), "{command}");
    }
}

#[test]
fn completions_generate_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = run(["completion", shell]);
        let script = done.succeeds();
        assert!(
            script.contains("migrate") && script.contains("torture"),
            "{shell}"
        );
    }
    run(["completion", "tcsh"]).fails(2, &["bash"]);
}

#[test]
fn what_is_no_program_is_refused_with_what_to_do() {
    run(["run", "/nonexistent/x.wasm"]).fails(3, &["limosa: ", "/nonexistent/x.wasm"]);
    run(["run", "/tmp"]).fails(126, &["/tmp", "directory"]);
    // A device without end is not read to its end.
    run(["run", "/dev/zero"]).fails(126, &["not a WebAssembly module"]);
    run(["demo", "--guest", "/tmp"]).fails(126, &["/tmp", "directory"]);
    run_bytes(b"#!/bin/sh\n").fails(126, &["limosa: ", "not a WebAssembly module"]);
    run_bytes(b"").fails(126, &["not a WebAssembly module"]);
    run_bytes(b"\0asm\x0d\0\x01\0").fails(126, &["component"]);
    run_bytes(b"\0asm\x01\0\0\0\x01").fails(126, &["invalid WebAssembly"]);
}

#[test]
fn an_unknown_import_is_named() {
    let text = r#"(module (import "env" "launch" (func)) (func (export "_start") call 0))"#;
    run_text(text).fails(126, &["`launch`", "`env`"]);
}

#[test]
fn an_unsupported_feature_is_named_with_its_function() {
    let text = r#"(module
        (func $odd (export "odd") atomic.fence)
        (func (export "_start")))"#;
    run_text(text).fails(126, &["odd", "threads"]);
}

#[test]
fn a_foreground_program_has_the_terminals_streams_and_its_exit_code() {
    let mut command = limosa();
    command.arg("run").arg(guest("hello")).env("SEEN", "here");
    command.args(["-e", "A=1", "--env", "SEEN", "--", "one", "--json"]);
    let done = run_with_input(&mut command, b"first\nsecond");
    let expected = "hello\nargument 1: one\nargument 2: --json\nenvironment: A=1\n\
                    environment: SEEN=here\nline 1: first\nline 2: second\nend of input\n";
    assert_eq!((done.code, &done.out[..], &done.err[..]), (0, expected, ""));

    assert_eq!(hello(&["exit", "7"]).code, 7);
    assert_eq!(hello(&["exit", "0"]).code, 0);
    hello(&["trap"]).fails(134, &["limosa: ", "unreachable"]);
}

#[test]
fn a_directory_is_copied_into_the_program() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("result"), "from outside\n").unwrap();
    let mut command = limosa();
    command.arg("run").arg(guest("files"));
    command
        .arg("--dir")
        .arg(format!("{}:/keep", directory.path().display()));
    let done = Done::from(command.args(["--", "1", "print"]).output().unwrap());
    // The program says what it found as a hash, FNV-1a.
    let hash = b"from outside\n"
        .iter()
        .fold(2_166_136_261u32, |hash, &byte| {
            (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
        });
    let found = format!("found {hash:08x}\n");
    assert!(done.succeeds().starts_with(&found), "{}", done.out);
    // It works on a copy.
    let kept = fs::read_to_string(directory.path().join("result")).unwrap();
    assert_eq!(kept, "from outside\n");

    run(["run", "x.wasm", "--dir", "/nonexistent:/x"]).fails(3, &["x.wasm"]);
    let mut command = limosa();
    command
        .arg("run")
        .arg(guest("hello"))
        .args(["--dir", "/nonexistent:/x"]);
    Done::from(command.output().unwrap()).fails(3, &["/nonexistent"]);
}

#[test]
fn torture_gives_the_output_of_a_plain_run() {
    let plain = hello(&["recurse", "50"]);
    for seed in ["1", "2", "3"] {
        let mut command = limosa();
        command.args(["run", "--torture", seed]).arg(guest("hello"));
        let done = Done::from(command.args(["--", "recurse", "50"]).output().unwrap());
        assert_eq!(done.succeeds(), plain.succeeds(), "seed {seed}");
    }
}

#[test]
fn a_foreground_server_listens_on_the_port_it_was_given() {
    let mut command = limosa();
    command
        .arg("run")
        .arg(guest("echo"))
        .args(["--listen", "0"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Where a port was left to the system, it is said.
    let mut line = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    let address = line
        .split_whitespace()
        .find(|word| word.starts_with("127.0.0.1:"));
    let mut stream = TcpStream::connect(address.unwrap_or_else(|| panic!("{line}"))).unwrap();
    stream.write_all(b"over there\nQUIT\n").unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "over there\nQUIT\n");
    let done = Done::from(child.wait_with_output().unwrap());
    assert!(done.succeeds().contains("connections 1"), "{}", done.out);
}

#[test]
fn a_port_in_use_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = limosa();
    command
        .arg("run")
        .arg(guest("echo"))
        .args(["--listen", &address]);
    Done::from(command.output().unwrap()).fails(125, &["limosa: ", &address, "in use"]);

    let node = Node::start("alone", None);
    let mut command = node.limosa();
    command
        .args(["run", "-d"])
        .arg(guest("echo"))
        .args(["--listen", &address]);
    Done::from(command.output().unwrap()).fails(125, &[&address, "in use"]);
    assert_eq!(
        node.run(["ps", "-aq"]).succeeds(),
        "",
        "nothing stays behind"
    );
}

#[test]
fn without_a_daemon_every_command_says_how_to_start_one() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let commands: [&[&str]; 15] = [
        &["ps"],
        &["nodes"],
        &["ticket"],
        &["down"],
        &["inspect", "x"],
        &["logs", "x"],
        &["wait", "x"],
        &["stop", "x"],
        &["kill", "x"],
        &["rm", "x"],
        &["forget", "x"],
        &["migrate", "x", "--to", "y"],
        &["checkpoint", "x", "-o", "/tmp/limosa-test-never-written"],
        &["ps", "--json"],
        &["wait", "x", "y"],
    ];
    for command in commands {
        let done = run(["--state", state]
            .into_iter()
            .chain(command.iter().copied()));
        done.fails(4, &["limosa: ", "limosa up"]);
        assert!(
            done.out.is_empty() || command.contains(&"--json"),
            "{}",
            done.out
        );
    }
    let mut command = limosa();
    command
        .args(["--state", state, "run", "-d"])
        .arg(guest("hello"));
    Done::from(command.output().unwrap()).fails(4, &["limosa up"]);
}

#[test]
fn a_reader_that_has_gone_ends_the_output_quietly() {
    let mut child = limosa()
        .args(["completion", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!((done.code, &done.err[..]), (0, ""));
}

#[test]
fn a_program_ends_when_nobody_reads_what_it_writes() {
    let mut child = limosa()
        .arg("run")
        .arg(guest("hello"))
        .args(["--", "tick", "0", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!((done.code, &done.err[..]), (141, ""));
}

#[test]
fn a_program_that_ends_at_once_gives_its_port_back() {
    let node = Node::start("alone", None);
    // What has ended says no more where it listened.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let first = node.start_guest("hello", &["--listen", &address, "--", "exit", "0"]);
    node.run(["wait", &first]).succeeds();
    node.run(["rm", &first]).succeeds();
    // Its end and the opening of its port may cross: it is given back, sooner or later.
    let start = std::time::Instant::now();
    while std::net::TcpListener::bind(&address).is_err() {
        assert!(start.elapsed().as_secs() < 20, "{address} is still bound");
        std::thread::yield_now();
    }
}

#[test]
fn a_restored_server_is_where_it_was() {
    use std::io::{Read, Write};
    let node = Node::start("alone", None);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("httpd.snap");
    let file = file.to_str().unwrap();
    let id = node.start_guest("httpd", &["--name", "web", "--listen", "127.0.0.1:0"]);
    let info = node.run(["inspect", "web", "--json"]).json();
    let info = info.get(0).cloned().unwrap_or(info);
    let address = info["listeners"][0]["address"].as_str().unwrap().to_owned();
    let count = || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream
            .write_all(b"GET /count HTTP/1.1\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.lines().last().unwrap().to_owned()
    };
    assert_eq!(count(), "1");
    node.run(["checkpoint", "web", "-o", file]).succeeds();
    assert_eq!(count(), "2");
    node.run(["restore", file]).fails(1, &[&address, "in use"]);
    node.run(["rm", "-f", "web"]).succeeds();
    assert_eq!(node.run(["ps", "-aq"]).succeeds(), "");
    assert_eq!(node.run(["restore", file]).succeeds(), id);
    assert_eq!(count(), "2", "it goes on from the checkpoint");
}

#[test]
fn unknown_things_are_named() {
    let node = Node::start("alone", None);
    node.run(["inspect", "nobody"])
        .fails(3, &["`nobody`", "limosa ps"]);
    node.run(["logs", "nobody"]).fails(3, &["nobody"]);
    node.run(["kill", "nobody", "noone"])
        .fails(3, &["nobody", "noone"]);
    node.run(["migrate", "nobody", "--to", "alone"])
        .fails(3, &["nobody"]);
    node.run(["restore", "/nonexistent.snap"])
        .fails(3, &["/nonexistent.snap"]);
    let id = node.start_guest("hello", &["--name", "ticker", "--", "tick", "0", "50"]);
    node.run(["migrate", "ticker", "--to", "nowhere"])
        .fails(3, &["`nowhere`", "limosa nodes"]);
    node.run(["rm", "ticker"]).fails(1, &["ticker"]);
    let mut command = node.limosa();
    command
        .args(["run", "-d", "--name", "ticker"])
        .arg(guest("hello"));
    Done::from(command.output().unwrap()).fails(125, &["ticker"]);
    let mut command = node.limosa();
    command
        .args(["run", "-d", "--on", "nowhere"])
        .arg(guest("hello"));
    Done::from(command.output().unwrap()).fails(3, &["nowhere"]);
    assert_eq!(node.run(["rm", "-f", &id]).succeeds(), id);
}

#[test]
fn a_process_is_seen_from_start_to_end() {
    let node = Node::start("alone", None);
    let id = node.start_guest("hello", &["--name", "greeter", "-e", "K=V", "--", "x"]);
    assert_eq!(id.len(), 16, "{id}");
    assert_eq!(node.run(["wait", "greeter"]).succeeds(), "0");
    let logs = node.run(["logs", "greeter"]);
    assert_eq!(
        logs.succeeds(),
        "hello\nargument 1: x\nenvironment: K=V\nend of input"
    );
    assert_eq!(
        node.run(["logs", "--tail", "1", &id]).succeeds(),
        "end of input"
    );
    assert_eq!(node.run(["ps"]).succeeds().lines().count(), 1);
    let all = node.run(["ps", "-a"]);
    assert!(all.succeeds().contains("exited (0)"), "{}", all.out);
    let inspected = node.run(["inspect", &id[..6]]);
    assert!(
        inspected.succeeds().contains("greeter"),
        "{}",
        inspected.out
    );
    assert_eq!(node.run(["rm", "greeter"]).succeeds(), "greeter");
    assert_eq!(node.run(["ps", "-aq"]).succeeds(), "");

    let id = node.start_guest("hello", &["--", "exit", "9"]);
    assert_eq!(node.run(["wait", &id]).succeeds(), "9");
    let id = node.start_guest("hello", &["--", "tick", "0", "10"]);
    assert_eq!(node.run(["kill", &id]).succeeds(), id);
    let killed = node.run(["wait", "--json", &id]).json();
    assert_eq!(killed[0]["state"], "exited");
    assert_ne!(killed[0]["exit_code"], 0);
}

#[test]
fn json_has_the_fields_that_programs_rely_on() {
    let node = Node::start("alone", None);
    let mut command = node.limosa();
    command
        .args(["run", "-d", "--json", "--name", "echo"])
        .arg(guest("echo"));
    let started = Done::from(command.args(["--listen", "web=0"]).output().unwrap()).json();
    let id = started["id"].as_str().unwrap();
    let strings = ["id", "name", "image", "node", "node_name", "state"];
    let numbers = [
        "epoch",
        "age_seconds",
        "memory_bytes",
        "freezes",
        "moves",
        "connections",
    ];
    let check = |process: &Value| {
        assert!(
            strings.iter().all(|field| process[field].is_string()),
            "{process}"
        );
        assert!(
            numbers.iter().all(|field| process[field].is_u64()),
            "{process}"
        );
        assert_eq!(process["listeners"][0]["name"], "web");
        assert!(process["listeners"][0]["address"].is_string());
    };
    check(&started);
    check(&node.run(["inspect", "echo", "--json"]).json());
    let listed = node.run(["ps", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    check(&listed[0]);
    assert_eq!(node.run(["ps", "-q", "--json"]).json()[0], *id);

    let nodes = node.run(["nodes", "--json"]).json();
    assert_eq!(nodes[0]["name"], "alone");
    assert_eq!(nodes[0]["state"], "alive");
    assert_eq!(nodes[0]["this"], true);
    let ticket = node.run(["ticket", "--json"]).json();
    assert_eq!(ticket["ticket"], node.ready["ticket"]);
    assert_eq!(node.run(["ticket"]).succeeds(), node.ticket());

    let stopped = node.run(["stop", "--json", "echo"]).json();
    assert_eq!(stopped[0]["state"], "exited");
    let quiet = node.run(["wait", "nobody", "--json"]);
    assert_eq!((quiet.code, quiet.json()), (3, Value::Array(vec![])));
}

#[test]
fn a_checkpoint_is_whole_or_not_there_and_restores_to_a_process() {
    let node = Node::start("alone", None);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ticker.snap");
    let file = path.to_str().unwrap();
    let id = node.start_guest("hello", &["--name", "ticker", "--", "tick", "0", "5"]);
    let written = node
        .run(["checkpoint", "ticker", "-o", file, "--json"])
        .json();
    let length = fs::metadata(&path).unwrap().len();
    assert_eq!(written["bytes"], length);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

    // A name that leads elsewhere keeps leading there, and a pipe is written, not replaced.
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    node.run(["checkpoint", "ticker", "-o", link.to_str().unwrap()])
        .succeeds();
    assert!(link.is_symlink() && !path.is_symlink());
    let pipe = directory.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap().len() as u64
    });
    let written = node
        .run([
            "checkpoint",
            "ticker",
            "-o",
            pipe.to_str().unwrap(),
            "--json",
        ])
        .json();
    assert_eq!(written["bytes"], reader.join().unwrap());
    let length = fs::metadata(&path).unwrap().len();

    let mut command = node.limosa();
    let piped = command
        .args(["checkpoint", "ticker", "-o", "-"])
        .output()
        .unwrap();
    assert!(piped.status.success() && !piped.stdout.is_empty());

    node.run(["checkpoint", "nobody", "-o", file])
        .fails(3, &["nobody"]);
    assert_eq!(
        fs::metadata(&path).unwrap().len(),
        length,
        "an old file stays"
    );
    node.run(["checkpoint", "ticker", "-o", "/nonexistent/x"])
        .fails(3, &["/nonexistent/x"]);

    let clone = node.run(["restore", file, "--name", "second"]);
    assert_ne!(
        clone.succeeds(),
        id,
        "the first one lives, so the id is taken"
    );
    node.run(["rm", "-f", "ticker"]).succeeds();
    let again = node.run(["restore", file, "--json"]).json();
    assert_eq!(
        (again["id"].as_str(), again["name"].as_str()),
        (Some(&id[..]), Some("ticker"))
    );
    node.run(["checkpoint", "ticker", "-o", "/dev/full"])
        .fails(1, &["/dev/full", "No space left"]);
}

#[test]
fn what_is_no_checkpoint_is_refused_with_what_is_wrong() {
    let node = Node::start("alone", None);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.snap");
    let file = path.to_str().unwrap();
    node.start_guest("hello", &["--name", "ticker", "--", "tick", "0", "5"]);
    node.run(["checkpoint", "ticker", "-o", file]).succeeds();
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], words: &[&str]| {
        fs::write(&path, bytes).unwrap();
        node.run(["restore", file]).fails(1, words);
    };
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= byte;
        bytes
    };
    refused(b"", &["limosa: ", "not a Limosa checkpoint"]);
    refused(b"not a checkpoint", &["not a Limosa checkpoint"]);
    refused(&good[..good.len() / 2], &["truncated"]);
    refused(&with(good.len() / 2, 1), &["altered"]);
    refused(&with(9, 1), &["version 257", "later"]);
    refused(&[&good[..], b"x"].concat(), &["1 bytes follow"]);
    node.run(["restore", "/dev/zero"])
        .fails(1, &["not a Limosa checkpoint"]);
    node.run(["restore", "/tmp"])
        .fails(1, &["/tmp", "directory"]);
    assert_eq!(node.run(["ps", "-aq"]).succeeds().lines().count(), 1);
}

#[test]
fn a_node_in_the_background_outlives_the_command_and_ends_on_demand() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let state = state.to_str().unwrap();
    let up = [
        "--state",
        state,
        "up",
        "-d",
        "--name",
        "quiet",
        "--listen-link",
        "127.0.0.1:0",
    ];
    let started = run(up);
    assert!(
        started.succeeds().contains("limosa join limosa-"),
        "{}",
        started.out
    );
    assert!(started.out.contains("quiet"));
    run(up).fails(1, &["limosa: ", "another limosa daemon"]);
    assert_eq!(
        run(["--state", state, "nodes", "--json"]).json()[0]["name"],
        "quiet"
    );
    run(["--state", state, "down"]).succeeds();
    // When it says so, the node is gone: its process has ended.
    let commands = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let command = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&command).replace('\0', " "))
    });
    let left: Vec<String> = commands.filter(|c| c.contains(state)).collect();
    assert!(left.is_empty(), "{left:?}");
    run(["--state", state, "nodes"]).fails(4, &["limosa up"]);
}

#[test]
fn two_nodes_make_a_fleet_and_a_process_moves_between_them() {
    let one = Node::start("one", None);
    let two = Node::start("two", Some(one.ticket()));
    let names = |nodes: &Value| -> Vec<String> {
        let name = |node: &Value| node["name"].as_str().unwrap().to_owned();
        let mut names: Vec<String> = nodes.as_array().unwrap().iter().map(name).collect();
        names.sort();
        names
    };
    assert_eq!(names(&two.run(["nodes", "--json"]).json()), ["one", "two"]);
    let id = one.start_guest("echo", &["--name", "echo", "--listen", "0"]);
    let inspected = one.run(["inspect", "echo", "--json"]).json();
    let address = inspected["listeners"][0]["address"].as_str().unwrap();
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    let mut exchange = |line: &str| {
        stream.get_mut().write_all(line.as_bytes()).unwrap();
        let mut heard = String::new();
        stream.read_line(&mut heard).unwrap();
        assert_eq!(heard, line);
    };
    exchange("at one\n");
    let report = one.run(["migrate", "echo", "--to", "two", "--json"]).json();
    assert_eq!(report["process"], *id);
    assert_eq!(report["epoch"], 2);
    assert!(report["frozen_ms"].is_f64() && report["bytes"].is_u64());
    exchange("at two\n");
    // Asked of either node, by name or by id.
    for node in [&one, &two] {
        let process = node.run(["inspect", &id, "--json"]).json();
        assert_eq!(process["node_name"], "two");
        assert_eq!(process["moves"], 1);
    }
    let back = two.run(["migrate", "echo", "--to", "one"]);
    assert!(
        back.succeeds().starts_with("echo runs on one: "),
        "{}",
        back.out
    );
    exchange("at one again\n");
    exchange("QUIT\n");
    assert_eq!(one.run(["wait", "echo"]).succeeds(), "0");
}

#[test]
fn only_nodes_that_are_gone_are_forgotten() {
    let one = Node::start("one", None);
    let two = Node::start("two", Some(one.ticket()));
    two.run(["forget", "two"])
        .fails(1, &["two (", "limosa down"]);
    two.run(["forget", "one"]).fails(1, &["directory"]);
    one.run(["forget", "nobody"]).fails(3, &["limosa nodes"]);
    two.run(["down"]).succeeds();
    let forgotten = until("it is seen as dead", || {
        let done = one.run(["forget", "two", "--json"]);
        if done.code != 0 {
            done.fails(1, &["two ("]);
            return None;
        }
        Some(done.json())
    });
    assert_eq!(forgotten[0]["name"], "two");
    let nodes = one.run(["nodes", "--json"]).json();
    assert_eq!(nodes.as_array().unwrap().len(), 1);
}

#[test]
fn top_shows_what_processes_and_nodes_consume_once_where_there_is_no_terminal() {
    let node = Node::start("ant", None);
    node.start_guest("hello", &["--", "tick", "0", "5"]);
    let often = ["--interval", "0.3"];
    let shown = node.run(["top", "--json"].into_iter().chain(often)).json();
    assert_eq!(shown["nodes"][0]["name"], "ant");
    assert_eq!(shown["nodes"][0]["load"].as_array().unwrap().len(), 3);
    let process = &shown["processes"][0];
    assert_eq!(process["name"], "hello");
    assert!(process["cpu_percent"].is_number(), "{process}");
    assert!(process["accounts"]["stdio"]["written_bytes"].as_u64() > Some(0));
    for once in [&["top"][..], &["top", "--once", "--sort", "memory"]] {
        let table = node.run(once.iter().copied().chain(often));
        let table = table.succeeds();
        assert!(table.contains("TLP") && table.contains("CPU%"), "{table}");
        assert!(
            table.lines().any(|line| line.starts_with("hello")),
            "{table}"
        );
    }
    run(["top", "--interval", "0"]).fails(2, &["0.1"]);
    let inspected = node.run(["inspect", "hello"]);
    assert!(
        inspected.succeeds().contains("cpu weight:"),
        "{}",
        inspected.out
    );
}
