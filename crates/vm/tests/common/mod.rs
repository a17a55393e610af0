//! What the tests share: engines, guests, and the comparison of a plain run with tortured ones.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use vm::torture::{Places, Report, World, folded, plain, torture};
use vm::{Backend, Config, Engine, Image, Polls, Spec};

pub fn engine(backend: Backend, polls: Polls) -> Engine {
    Engine::new(Config {
        backend,
        polls,
        cache_dir: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("code")),
        ..Config::default()
    })
    .unwrap()
}

fn shared(cell: &'static OnceLock<Engine>, backend: Backend, polls: Polls) -> &'static Engine {
    cell.get_or_init(|| engine(backend, polls))
}

/// Engines that count polls: native, Pulley.
pub fn counting() -> [&'static Engine; 2] {
    static NATIVE: OnceLock<Engine> = OnceLock::new();
    static PULLEY: OnceLock<Engine> = OnceLock::new();
    [
        shared(&NATIVE, Backend::Native, Polls::Countdown),
        shared(&PULLEY, Backend::Pulley, Polls::Countdown),
    ]
}

/// Engines that poll for requests: native, Pulley.
pub fn polling() -> [&'static Engine; 2] {
    static NATIVE: OnceLock<Engine> = OnceLock::new();
    static PULLEY: OnceLock<Engine> = OnceLock::new();
    [
        shared(&NATIVE, Backend::Native, Polls::Request),
        shared(&PULLEY, Backend::Pulley, Polls::Request),
    ]
}

pub fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// One of the project's own guests.
pub fn guest(name: &str) -> Vec<u8> {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
    let path = guests.join(name).join(name).with_extension("wasm");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A program that is built from other people's sources when tests need it.
pub fn third_party(name: &str) -> Option<Vec<u8>> {
    let reason = match std::env::var_os("LIMOSA_THIRD_PARTY") {
        Some(folder) => {
            let path = PathBuf::from(folder).join(name).with_extension("wasm");
            match std::fs::read(&path) {
                Ok(wasm) => return Some(wasm),
                Err(error) => format!("{}: {error}", path.display()),
            }
        }
        None => "LIMOSA_THIRD_PARTY is not set (cargo xtask third-party builds it)".to_owned(),
    };
    let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!ci, "{name}: {reason}");
    println!("skipped: {name}: {reason}");
    None
}

pub fn spec(args: &[&str]) -> Spec {
    Spec {
        args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        ..Spec::default()
    }
}

/// Runs a program plain, on both engines, and folded whenever it waits; then with each of `seeds`
/// freezes it on the native one, and moves it between the two. All must be the same. Gives the plain run.
pub fn same_under_torture(
    wasm: &[u8],
    spec: &Spec,
    world: &World,
    seeds: std::ops::Range<u64>,
    freezes: u64,
) -> Report {
    let images: Vec<Arc<Image>> = counting().map(|engine| engine.load(wasm).unwrap()).into();
    let expected = plain(&images[0], spec, world).unwrap();
    let interpreted = plain(&images[1], spec, world).unwrap();
    assert_eq!(expected.difference(&interpreted), None, "on Pulley");
    assert_eq!(expected.polls, interpreted.polls);
    let away = folded(&images[0], spec, world).unwrap();
    assert_eq!(
        expected.difference(&away),
        None,
        "folded {} times",
        away.folds
    );
    let (mut frozen, mut in_calls) = (0, 0);
    for seed in seeds {
        let places = Places { seed, freezes };
        for images in [&images[..1], &images[..]] {
            let report = torture(images, spec, world, places, &expected);
            let report = report.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let difference = expected.difference(&report);
            let engines = images.len();
            assert_eq!(difference, None, "seed {seed}, {engines} engines");
            frozen += report.freezes;
            in_calls += report.freezes_in_calls;
        }
    }
    println!(
        "{} polls, {} host calls; {frozen} freezes, {in_calls} of them in host calls; {} folds",
        expected.polls, expected.host_calls, away.folds
    );
    expected
}
