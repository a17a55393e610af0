//! The public test-suite of WASI preview 1 (WebAssembly/wasi-testsuite, branch
//! prod/testsuite-all): every program must end as its manifest says, on both engines, and however
//! often it is frozen.
//!
//! The programs are not this project's and in no package registry. `LIMOSA_WASI_TESTSUITE` names a
//! checkout of that branch; without it this test says so and passes: what the programs look at is
//! checked by our own guest `preview1` too.

mod common;

use common::counting;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vm::torture::{End, Places, Report, World, plain, torture};
use vm::{Image, Outcome, Spec, TreeBuilder};

/// Programs in the suite; if there are fewer, the checkout is not the whole of it.
const PROGRAMS: usize = 72;
const SEEDS: u64 = 4;
const FREEZES: u64 = 8;

/// What a program is run with, and what it must do; every part may be missing.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Manifest {
    args: Vec<String>,
    dirs: Vec<String>,
    env: BTreeMap<String, String>,
    exit_code: i32,
    stdout: Option<String>,
    stderr: Option<String>,
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The programs of the suite, in order.
fn programs(suite: &Path) -> Vec<PathBuf> {
    let folders = ["assemblyscript", "c", "rust"].map(|language| {
        suite
            .join("tests")
            .join(language)
            .join("testsuite/wasm32-wasip1")
    });
    let files = folders.iter().flat_map(|folder| entries(folder));
    let programs: Vec<_> = files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
        .collect();
    assert!(
        programs.len() >= PROGRAMS,
        "{} has {} of {PROGRAMS} programs: is it a checkout of prod/testsuite-all?",
        suite.display(),
        programs.len()
    );
    programs
}

/// Puts what lies in `folder` into the tree. What an earlier run of the suite left is left out.
fn fill(tree: &mut TreeBuilder, folder: &Path, inside: &str) {
    for path in entries(folder) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let place = format!("{inside}/{name}");
        if name.ends_with(".cleanup") {
            continue;
        } else if path.is_dir() {
            tree.directory(place.as_bytes()).unwrap();
            fill(tree, &path, &place);
        } else {
            tree.file(place.as_bytes(), read(&path)).unwrap();
        }
    }
}

fn spec(program: &Path, manifest: &Manifest) -> Spec {
    // A process has one tree, and that is what the one directory of a manifest becomes.
    assert!(
        manifest.dirs.len() < 2,
        "{}: two directories",
        program.display()
    );
    let mut tree = TreeBuilder::new(1_700_000_000_000_000_000);
    for directory in &manifest.dirs {
        fill(&mut tree, &program.parent().unwrap().join(directory), "");
    }
    let name = program.file_name().unwrap().to_str().unwrap().to_owned();
    let args = std::iter::once(&name).chain(&manifest.args);
    let env = manifest.env.iter();
    Spec {
        args: args.map(|arg| arg.clone().into_bytes()).collect(),
        env: env
            .map(|(key, value)| format!("{key}={value}").into_bytes())
            .collect(),
        files: tree.build(),
        preopens: manifest
            .dirs
            .iter()
            .map(|dir| dir.clone().into_bytes())
            .collect(),
        ..Spec::default()
    }
}

/// What is wrong with a run, if anything is.
fn verdict(report: &Report, manifest: &Manifest) -> Result<(), String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (output, errors) = (text(&report.output), text(&report.errors));
    if report.end != End::Outcome(Outcome::Exited(manifest.exit_code)) {
        return Err(format!("{:?}\n{output}{errors}", report.end));
    }
    for (what, found, expected) in [
        ("output", output, &manifest.stdout),
        ("error", errors, &manifest.stderr),
    ] {
        if expected.as_ref().is_some_and(|expected| *expected != found) {
            return Err(format!("standard {what} is {found:?}"));
        }
    }
    Ok(())
}

/// Plain on both engines, then frozen with each seed on one and moved between both.
fn check(program: &Path) -> Result<u64, String> {
    let manifest = program.with_extension("json");
    let manifest: Manifest = match manifest.exists() {
        true => serde_json::from_slice(&read(&manifest)).map_err(|error| error.to_string())?,
        false => Manifest::default(),
    };
    let spec = spec(program, &manifest);
    let world = World::default();
    let load = |engine: &vm::Engine| {
        engine
            .load(&read(program))
            .map_err(|error| error.to_string())
    };
    let [native, pulley] = counting();
    let images: [Arc<Image>; 2] = [load(native)?, load(pulley)?];
    let run = |image| plain(image, &spec, &world).map_err(|error| error.to_string());
    let expected = run(&images[0])?;
    verdict(&expected, &manifest)?;
    let interpreted = run(&images[1])?;
    match expected.difference(&interpreted) {
        Some(difference) => return Err(format!("on Pulley, {difference}")),
        None => verdict(&interpreted, &manifest)?,
    }
    let mut freezes = 0;
    for seed in 0..SEEDS {
        let places = Places {
            seed,
            freezes: FREEZES,
        };
        for images in [&images[..1], &images[..]] {
            let report = torture(images, &spec, &world, places, &expected);
            let report = report.map_err(|error| format!("seed {seed}: {error}"))?;
            if let Some(difference) = expected.difference(&report) {
                return Err(format!(
                    "seed {seed}: frozen {} times, {difference}",
                    report.freezes
                ));
            }
            freezes += report.freezes;
        }
    }
    Ok(freezes)
}

#[test]
fn every_program_of_the_public_test_suite_ends_as_it_should_however_often_it_is_frozen() {
    let Some(suite) = std::env::var_os("LIMOSA_WASI_TESTSUITE") else {
        println!(
            "skipped: LIMOSA_WASI_TESTSUITE is not set: it names a checkout of \
             https://github.com/WebAssembly/wasi-testsuite, branch prod/testsuite-all"
        );
        return;
    };
    let programs = programs(Path::new(&suite));
    let mut failures = Vec::new();
    let mut freezes = 0;
    for program in &programs {
        let name = program.file_stem().unwrap().to_string_lossy();
        match check(program) {
            Ok(frozen) => {
                println!("passed: {name}");
                freezes += frozen;
            }
            Err(reason) => {
                println!("FAILED: {name}: {reason}");
                failures.push(name);
            }
        }
    }
    println!(
        "{} of {} passed, with {freezes} freezes",
        programs.len() - failures.len(),
        programs.len()
    );
    assert!(failures.is_empty(), "failed: {failures:?}");
}
