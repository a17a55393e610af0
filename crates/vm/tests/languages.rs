//! Guests in Go, Rust and AssemblyScript do the same plain, frozen and moved between engines. They
//! are built on demand: `cargo xtask guests --languages`; LIMOSA_LANGUAGES names their folder.

mod common;

use common::{same_under_torture, spec};
use std::path::PathBuf;
use vm::torture::{End, Report, Script, ScriptStep, World};
use vm::{Outcome, Spec};

const SEEDS: std::ops::Range<u64> = 0..20;

/// A guest, if it was built. Nobody is made to build them, not even continuous integration.
fn language(name: &str) -> Option<Vec<u8>> {
    let Some(folder) = std::env::var_os("LIMOSA_LANGUAGES") else {
        println!(
            "skipped: {name}: LIMOSA_LANGUAGES is not set (cargo xtask guests --languages builds it)"
        );
        return None;
    };
    let path = PathBuf::from(folder).join(name).with_extension("wasm");
    match std::fs::read(&path) {
        Ok(wasm) => Some(wasm),
        Err(error) => {
            println!("skipped: {name}: {}: {error}", path.display());
            None
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn exited(report: &Report) {
    let exited = End::Outcome(Outcome::Exited(0));
    let (output, errors) = (text(&report.output), text(&report.errors));
    assert_eq!(report.end, exited, "{output}\n{errors}");
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

fn send(client: u64, text: &str) -> ScriptStep {
    let bytes = text.as_bytes().to_vec();
    ScriptStep::Send { client, bytes }
}

fn world(steps: Vec<ScriptStep>) -> World {
    World {
        script: Script {
            steps,
            window: 2000,
            ..Script::default()
        },
        ..World::default()
    }
}

#[test]
fn goroutines_maps_and_panics_are_the_same() {
    let Some(wasm) = language("go") else { return };
    let report = same_under_torture(&wasm, &spec(&["go", "3"]), &World::default(), SEEDS, 10);
    exited(&report);
    assert_eq!(text(&report.output), "rounds 3, checksum 44537049\n");
}

#[test]
fn the_http_server_of_go_answers_alike_whenever_it_is_frozen() {
    let Some(wasm) = language("go") else { return };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut steps = vec![connect(0), connect(1)];
    for _ in 0..3 {
        steps.push(send(0, "GET /count HTTP/1.1\r\nHo"));
        steps.push(send(1, &(get("/hash/7") + &get("/count"))));
        steps.push(send(0, "st: a\r\n\r\n"));
    }
    steps.push(send(
        1,
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234",
    ));
    steps.push(send(1, "56789"));
    // Whoever quits must not be faster than the others' answers.
    for (client, bytes) in [(0, 3 * 117), (1, 6 * 117)] {
        steps.push(ScriptStep::Await { client, bytes });
    }
    steps.push(connect(2));
    steps.push(send(2, &get("/quit")));
    let report = same_under_torture(&wasm, &server("go"), &world(steps), SEEDS, 20);
    exited(&report);
    let answer = |client| text(&report.answers[&client].bytes);
    assert_eq!(
        answer(0).matches("HTTP/1.1 200 OK").count(),
        3,
        "{}",
        answer(0)
    );
    assert_eq!(
        answer(1).matches("HTTP/1.1 200 OK").count(),
        7,
        "{}",
        answer(1)
    );
    assert!(answer(1).ends_with("0123456789"), "{}", answer(1));
}

#[test]
fn rust_is_the_same() {
    let Some(wasm) = language("rust") else { return };
    let report = same_under_torture(&wasm, &spec(&["rust", "3"]), &World::default(), SEEDS, 10);
    exited(&report);
    assert_eq!(text(&report.output), "rounds 3, checksum 65e164ae\n");
}

#[test]
fn the_listener_of_rust_serves_one_client_after_another_whenever_it_is_frozen() {
    let Some(wasm) = language("rust") else { return };
    let mut steps = Vec::new();
    for client in 0..3 {
        steps.extend([
            connect(client),
            send(client, "one\ntw"),
            send(client, "o\nthree\n"),
        ]);
        steps.push(ScriptStep::Finish { client });
    }
    steps.extend([connect(3), send(3, "QUIT\n")]);
    let report = same_under_torture(&wasm, &server("rust"), &world(steps), SEEDS, 20);
    exited(&report);
    for (client, first) in (0..3).zip([1, 4, 7]) {
        let expected = format!("{first} one\n{} two\n{} three\n", first + 1, first + 2);
        assert_eq!(text(&report.answers[&client].bytes), expected);
    }
    assert_eq!(text(&report.answers[&3].bytes), "10 QUIT\n");
}

#[test]
fn assemblyscript_is_the_same() {
    let Some(wasm) = language("assemblyscript") else {
        return;
    };
    let report = same_under_torture(&wasm, &spec(&["main"]), &World::default(), SEEDS, 10);
    exited(&report);
    assert_eq!(text(&report.output), "checksum d3331086\n");
}
