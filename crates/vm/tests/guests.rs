//! Guests give the same output plain, frozen at random places, and moved between engines.

mod common;

use common::{guest, same_under_torture, spec, third_party};
use vm::ports::ConnectError;
use vm::torture::{End, Outside, Report, Script, ScriptStep, World};
use vm::{Outcome, Spec, TreeBuilder, read_file};

const SEEDS: std::ops::Range<u64> = 0..20;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn exited(report: &Report) {
    let exited = End::Outcome(Outcome::Exited(0));
    let (output, errors) = (text(&report.output), text(&report.errors));
    assert_eq!(report.end, exited, "{output}\n{errors}");
}

#[test]
fn hello_greets_and_reads_its_input_line_by_line() {
    let world = World {
        input: b"one\ntwo\nthree".to_vec(),
        ..World::default()
    };
    let mut spec = spec(&["hello", "a", "b c"]);
    spec.env = vec![b"HOME=/".to_vec()];
    let report = same_under_torture(&guest("hello"), &spec, &world, SEEDS, 12);
    exited(&report);
    let expected = "hello\nargument 1: a\nargument 2: b c\nenvironment: HOME=/\n\
                    line 1: one\nline 2: two\nline 3: three\n";
    assert!(
        text(&report.output).starts_with(expected),
        "{}",
        text(&report.output)
    );
}

#[test]
fn sleeping_ticking_growing_recursing_and_drawing_are_the_same() {
    for args in [
        &["hello", "sleep", "250"][..],
        &["hello", "tick", "20", "100"],
        &["hello", "spin", "200000"],
        &["hello", "recurse", "5000"],
        &["hello", "grow", "8"],
        &["hello", "random"],
    ] {
        let report = same_under_torture(&guest("hello"), &spec(args), &World::default(), 0..8, 10);
        exited(&report);
        println!("{args:?}: {}", text(&report.output));
    }
}

#[test]
fn exit_codes_and_traps_are_the_same() {
    let world = World::default();
    let report = same_under_torture(
        &guest("hello"),
        &spec(&["hello", "exit", "7"]),
        &world,
        0..4,
        3,
    );
    assert_eq!(report.end, End::Outcome(Outcome::Exited(7)));
    let report = same_under_torture(&guest("hello"), &spec(&["hello", "trap"]), &world, 0..4, 3);
    let End::Outcome(Outcome::Trapped(trap)) = report.end else {
        panic!("{:?}", report.end);
    };
    assert!(trap.reason.contains("unreachable"), "{trap}");
}

#[test]
fn files_are_the_same_and_travel() {
    let mut files = TreeBuilder::new(0);
    files
        .file(b"/keep/before", b"from outside".to_vec())
        .unwrap();
    let mut spec = spec(&["files", "2"]);
    spec.files = files.build();
    let report = same_under_torture(&guest("files"), &spec, &World::default(), SEEDS, 12);
    exited(&report);
    assert!(read_file(&report.files, b"/keep/result").is_some());
    assert_eq!(
        read_file(&report.files, b"/keep/before"),
        Some(b"from outside".to_vec())
    );
}

#[test]
fn preview_1_keeps_its_corners_however_often_it_is_frozen() {
    let wasm = guest("preview1");
    let report = same_under_torture(&wasm, &spec(&["preview1"]), &World::default(), 0..6, 25);
    exited(&report);
    let parts =
        "paths\nnames\ncontent\nrights\ndescriptors\nlisting\ntimes\npolling\nrest\nclean\n";
    assert_eq!(text(&report.output), parts);
    assert!(report.files.inodes.len() == 1, "it leaves something behind");
}

#[test]
fn long_jumps_are_the_same() {
    let world = World::default();
    let report = same_under_torture(&guest("jumps"), &spec(&["jumps"]), &world, 0..12, 40);
    exited(&report);
    let output = text(&report.output);
    assert!(output.contains("left by"), "{output}");
    assert!(output.ends_with("checksum decffe2d\n"), "{output}");
}

#[test]
fn kernels_are_the_same() {
    let report = same_under_torture(
        &guest("kernels"),
        &spec(&["kernels"]),
        &World::default(),
        0..6,
        8,
    );
    exited(&report);
    println!("{}", text(&report.output));
}

#[test]
fn what_a_client_opens_is_opened_once_and_loses_nothing() {
    let outside = [
        ("/net/tcp/echo/7", Outside::Echo),
        ("/net/tcp/closed/7", Outside::Nobody(ConnectError::Refused)),
    ];
    let script = Script {
        window: 1500,
        outside: outside
            .map(|(path, outside)| (path.to_owned(), outside))
            .into(),
        ..Script::default()
    };
    let world = World {
        script,
        ..World::default()
    };
    let wasm = guest("dial");
    let run = |args: &[&str], freezes| {
        let report = same_under_torture(&wasm, &spec(args), &world, 0..12, freezes);
        exited(&report);
        text(&report.output)
    };
    let output = run(&["dial", "talk", "/net/tcp/echo/7", "6", "5000", "3"], 40);
    assert_eq!(output, "dial: connected\ndial: 6 rounds, 30000 bytes\n");
    // So many freezes that each attempt is frozen while it waits.
    let paths = [
        "/net/tcp/echo/7",
        "/net/tcp/closed/7",
        "/net/tcp/other/7",
        "/net/tcp/echo/x",
        "/net/tcp",
        "/net/../net/tcp/echo/7",
    ];
    let output = run(&[&["dial", "try"], &paths[..]].concat(), 60);
    let ends = ["open", "ECONNREFUSED", "EACCES", "ENOENT", "ENOENT", "open"];
    let expected = paths.iter().zip(ends);
    let expected: String = expected
        .map(|(path, end)| format!("{path}: {end}\n"))
        .collect();
    assert_eq!(output, expected);
    for (path, end) in [(paths[0], "written"), (paths[1], "ECONNREFUSED")] {
        let output = run(&["dial", "wait", path], 20);
        assert_eq!(output, format!("{path}: {end}\n"));
    }
}

fn server(name: &str) -> Spec {
    Spec {
        listeners: vec!["http".to_owned()],
        ..spec(&[name])
    }
}

fn connect(client: u64) -> ScriptStep {
    ScriptStep::Connect {
        client,
        listener: 0,
    }
}

fn send(client: u64, bytes: &[u8]) -> ScriptStep {
    let bytes = bytes.to_vec();
    ScriptStep::Send { client, bytes }
}

#[test]
fn the_echo_server_gives_back_every_byte_whenever_it_is_frozen() {
    let sent: Vec<Vec<u8>> = (0..3u8)
        .map(|client| (0..40_000u32).map(|i| (i % 251) as u8 ^ client).collect())
        .collect();
    let mut steps: Vec<_> = (0..3).map(connect).collect();
    for part in 0..8 {
        for (client, bytes) in (0..).zip(&sent) {
            steps.push(send(client, &bytes[part * 5000..(part + 1) * 5000]));
        }
    }
    for client in 0..3 {
        steps.push(ScriptStep::Finish { client });
        let bytes = sent[0].len();
        steps.push(ScriptStep::Await { client, bytes });
    }
    steps.extend([connect(3), send(3, b"QUIT\n")]);
    let world = World {
        script: Script {
            steps,
            window: 1500,
            ..Script::default()
        },
        ..World::default()
    };
    let report = same_under_torture(&guest("echo"), &server("echo"), &world, SEEDS, 25);
    exited(&report);
    for (client, bytes) in (0..).zip(&sent) {
        assert!(report.answers[&client].bytes == *bytes, "client {client}");
        assert!(report.answers[&client].ended, "client {client}");
    }
    assert_eq!(report.answers[&3].bytes, b"QUIT\n");
}

#[test]
fn the_http_server_answers_alike_in_the_middle_of_requests_and_answers() {
    let mut steps = vec![connect(0), connect(1), connect(2)];
    for _ in 0..4 {
        steps.push(send(0, b"GET /count HTTP/1.1\r\nHo"));
        steps.push(send(
            1,
            b"GET /hash/2000 HTTP/1.1\r\nHost: a\r\n\r\nGET /time HTTP/1.1\r\nHost: a\r\n\r\n",
        ));
        steps.push(send(0, b"st: a\r\n\r\n"));
    }
    steps.push(send(2, b"GET /big/30000 HTTP/1.1\r\nHost: a\r\n\r\n"));
    steps.push(ScriptStep::Finish { client: 2 });
    steps.push(send(
        1,
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234",
    ));
    steps.push(send(1, b"56789"));
    steps.push(ScriptStep::Await {
        client: 2,
        bytes: 30_000,
    });
    steps.push(ScriptStep::Reset { client: 0 });
    steps.push(connect(3));
    steps.push(send(3, b"GET /quit HTTP/1.1\r\nHost: a\r\n\r\n"));
    let world = World {
        script: Script {
            steps,
            window: 2000,
            ..Script::default()
        },
        ..World::default()
    };
    let report = same_under_torture(&guest("httpd"), &server("httpd"), &world, SEEDS, 25);
    exited(&report);
    let answer = |client| text(&report.answers[&client].bytes);
    assert_eq!(
        answer(0).matches("HTTP/1.1 200").count(),
        4,
        "{}",
        answer(0)
    );
    assert_eq!(
        answer(1).matches("HTTP/1.1 200").count(),
        9,
        "{}",
        answer(1)
    );
    assert!(answer(1).contains("0123456789"));
    assert!(answer(2).len() > 30_000);
}

#[test]
fn the_bank_keeps_its_sum_and_its_checksum() {
    let mut steps: Vec<_> = (0..4).map(connect).collect();
    for i in 0..60u64 {
        let (from, to) = (i * 7 % 1024, (i * 13 % 1024) ^ 1);
        let request = format!(
            "POST /transfer?from={from}&to={to}&amount={}&id={i} HTTP/1.1\r\nHost: a\r\n\r\n",
            i % 9 + 1
        );
        steps.push(send(i % 4, request.as_bytes()));
    }
    steps.push(send(
        0,
        b"GET /sum HTTP/1.1\r\nHost: a\r\n\r\nGET /checksum HTTP/1.1\r\nHost: a\r\n\r\n",
    ));
    steps.push(send(1, b"GET /quit HTTP/1.1\r\nHost: a\r\n\r\n"));
    let world = World {
        script: Script {
            steps,
            ..Script::default()
        },
        ..World::default()
    };
    let mut spec = server("accounts");
    spec.env = vec![b"ALLOW_QUIT=1".to_vec()];
    let report = same_under_torture(&guest("accounts"), &spec, &world, SEEDS, 12);
    exited(&report);
    let answer = text(&report.answers[&0].bytes);
    assert!(answer.contains("sum=1024000"), "{answer}");
    assert!(answer.contains("count="), "{answer}");
}

#[test]
fn sqlite_is_the_same() {
    let Some(wasm) = third_party("sqlite") else {
        return;
    };
    let args = spec(&["sqlite", "1", "/bank.db"]);
    let report = same_under_torture(&wasm, &args, &World::default(), SEEDS, 10);
    exited(&report);
    println!("{}", text(&report.output));
    assert!(read_file(&report.files, b"/bank.db").is_some_and(|file| file.len() > 10_000));
    let in_memory = same_under_torture(&wasm, &spec(&["sqlite", "1"]), &World::default(), 0..4, 10);
    assert_eq!(text(&in_memory.output), text(&report.output));
}

/// Runs a program with a size of work whose output is known from a native build of it.
fn is_the_same_and_right(wasm: &[u8], args: &[&str], freezes: u64, right: &str) {
    let report = same_under_torture(wasm, &spec(args), &World::default(), SEEDS, freezes);
    exited(&report);
    assert_eq!(text(&report.output), right);
}

#[test]
fn bzip2_is_the_same() {
    let Some(wasm) = third_party("bzip2") else {
        return;
    };
    let right = "text 65536 bytes, checksum 3cf14d00\n\
                 packed 9077 bytes, checksum 38b58602\n\
                 unpacked 65536 bytes, checksum 3cf14d00, equal\n";
    is_the_same_and_right(&wasm, &["bzip2", "64"], 10, right);
}

#[test]
fn zstd_is_the_same_at_every_level_and_as_a_stream() {
    let Some(wasm) = third_party("zstd") else {
        return;
    };
    let right = "text 65536 bytes, checksum 3cf14d00\n\
                 level 1: packed 16435 bytes, checksum 389b3574, unpacked equal\n\
                 level 3: packed 15029 bytes, checksum fdd4e9c6, unpacked equal\n\
                 level 9: packed 14391 bytes, checksum fc51f06c, unpacked equal\n\
                 stream: packed 15188 bytes, checksum 2af546eb, unpacked equal\n";
    is_the_same_and_right(&wasm, &["zstd", "64"], 10, right);
}

#[test]
fn lua_is_the_same_with_errors_and_coroutines() {
    let Some(wasm) = third_party("lua") else {
        return;
    };
    let right = "Lua 5.4\nafter one round\t1480480294\nrounds\t2\tchecksum\t2385975013\n";
    is_the_same_and_right(&wasm, &["lua", "2"], 10, right);
}

#[test]
fn quickjs_is_the_same_with_exceptions_generators_and_promises() {
    let Some(wasm) = third_party("quickjs") else {
        return;
    };
    let right = "after one round 1165316529\nrounds 2 checksum 3742288389\nawaited 190\n";
    is_the_same_and_right(&wasm, &["quickjs", "2"], 10, right);
}

#[test]
fn a_cxx_program_is_the_same_and_destroys_its_global_objects() {
    let right = "after one round: 05c8359c\nrounds 3, checksum c62c234f\n\
                 global object: constructed\nglobal object: used\nglobal object: destroyed\n";
    is_the_same_and_right(&guest("cxx"), &["cxx", "3"], 10, right);
}
