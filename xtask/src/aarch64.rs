//! An aarch64 build of Limosa, run by QEMU's user mode, and processes that move between it and nodes
//! of this machine. Everything is below target/.
//!
//! | part | from here, if it is there | else |
//! |---|---|---|
//! | Rust's standard library for aarch64 | the toolchain in use (`rustup target add`) | Debian's rustc with that of both architectures |
//! | C compiler and linker | | the one that builds the guests, which has all targets |
//! | `qemu-aarch64` | `$PATH` | Debian's package |
//! | the C library to run with | /usr/aarch64-linux-gnu | Debian's package |
//!
//! Debian's packages are unpacked, not installed ([`crate::packages`]). What is built is tested by
//! `crates/cli/tests/unlike.rs`, which `LIMOSA_AARCH64` tells of it.

use crate::guests::Recipe;
use crate::packages::{self, Source};
use crate::run;
use crate::toolchain::Toolchain;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// The target in the words of the C compiler, with a C library not newer than that to run with.
const C_TARGET: &str = "aarch64-linux-gnu.2.36";
const LIBRARY: &str = "/usr/aarch64-linux-gnu";
const LOADER: &str = "lib/ld-linux-aarch64.so.1";

fn folder() -> PathBuf {
    run::root().join("target/tools/aarch64")
}

/// What the command is asked for.
struct Options {
    source: Source,
    build_only: bool,
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        source: Source {
            mirror: None,
            suite: "sid".to_owned(),
        },
        build_only: false,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let value = arguments.next().cloned();
            value.ok_or_else(|| format!("{argument} needs a value; see `cargo xtask help`"))
        };
        match argument.as_str() {
            "--mirror" => options.source.mirror = Some(value()?),
            "--suite" => options.source.suite = value()?,
            "--build-only" => options.build_only = true,
            other => {
                return Err(format!(
                    "there is no option {other}; see `cargo xtask help`"
                ));
            }
        }
    }
    Ok(options)
}

/// What runs and builds programs for aarch64.
struct Tools {
    /// A script in place of rustc; none if the one in use has the target.
    rustc: Option<PathBuf>,
    cc: PathBuf,
    ar: PathBuf,
    /// None where the machine itself runs them.
    emulator: Option<(PathBuf, PathBuf)>,
}

/// Whether the compiler in use has the target's standard library.
fn has_target() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let printed =
        run::output(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]));
    let entries = printed
        .ok()
        .and_then(|path| std::fs::read_dir(path.trim()).ok());
    let is_std = |name: &str| name.starts_with("libstd-") && name.ends_with(".rlib");
    entries.is_some_and(|entries| {
        let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.any(|name| is_std(&name))
    })
}

fn in_path(programs: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path);
    let candidates = places.flat_map(|place| programs.iter().map(move |name| place.join(name)));
    candidates.into_iter().find(|candidate| candidate.is_file())
}

/// Writes a program that a shell runs.
fn script(path: &Path, text: &str) -> Result<(), String> {
    run::write(path, format!("#!/bin/sh\n{text}").as_bytes())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("cannot make {} a program: {error}", path.display()))
}

fn quoted(path: &Path) -> String {
    run::shell_word(path.as_os_str())
}

impl Tools {
    fn prepare(source: &Source) -> Result<Tools, String> {
        let folder = folder();
        run::make_folder(&folder)?;
        let here = cfg!(target_arch = "aarch64");
        let own = here || has_target();
        let emulator = in_path(&["qemu-aarch64-static", "qemu-aarch64"]);
        let library = Path::new(LIBRARY).join(LOADER).is_file();
        let mut wanted = Vec::new();
        if !own {
            wanted.extend(["rustc", "libstd-rust-dev:arm64"]);
        }
        if !here && emulator.is_none() {
            wanted.push("qemu-user");
        }
        if !here && !library {
            wanted.extend(["libc6:arm64", "libgcc-s1:arm64"]);
        }
        let root = match wanted.is_empty() {
            true => folder.join("root"),
            false => packages::unpack(&folder, source, "arm64", &wanted).map_err(|error| {
                format!(
                    "{error}\nwhat is missing here: {}; a system that is not Debian's needs \
                     `rustup target add {TARGET}`, qemu-aarch64 on the path and a C library in \
                     {LIBRARY}",
                    wanted.join(", ")
                )
            })?,
        };
        let emulator = emulator.unwrap_or_else(|| root.join("usr/bin/qemu-aarch64"));
        let library = match library {
            true => PathBuf::from(LIBRARY),
            false => root.clone(),
        };
        let (cc, ar) = c_compiler(&folder)?;
        Ok(Tools {
            rustc: match own {
                true => None,
                false => Some(debian_rustc(&folder, &root)?),
            },
            cc,
            ar,
            emulator: (!here).then_some((emulator, library)),
        })
    }

    /// Builds the program; returns where it is.
    fn build(&self) -> Result<PathBuf, String> {
        let target = run::root().join("target/aarch64");
        let mut cargo = run::cargo();
        let arguments = [
            "build",
            "--release",
            "--locked",
            "--package",
            "limosa",
            "--bin",
            "limosa",
        ];
        cargo
            .args(arguments)
            .args(["--target", TARGET, "--target-dir"])
            .arg(&target)
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", &self.cc)
            .env("CC_aarch64_unknown_linux_gnu", &self.cc)
            .env("AR_aarch64_unknown_linux_gnu", &self.ar)
            // Nobody debugs it, and it is not built often.
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "false");
        if let Some(rustc) = &self.rustc {
            cargo.env("RUSTC", rustc);
        }
        run::run(&mut cargo)?;
        Ok(target.join(TARGET).join("release/limosa"))
    }

    /// A program of this machine that runs the one for aarch64.
    fn runner(&self, program: &Path) -> Result<PathBuf, String> {
        let Some((emulator, library)) = &self.emulator else {
            return Ok(program.to_owned());
        };
        let runner = folder().join("limosa");
        let (emulator, library) = (quoted(emulator), quoted(library));
        let text = format!("exec {emulator} -L {library} {} \"$@\"\n", quoted(program));
        script(&runner, &text)?;
        Ok(runner)
    }
}

/// Debian's compiler, run with the libraries that belong to it.
fn debian_rustc(folder: &Path, root: &Path) -> Result<PathBuf, String> {
    let loaders = root.join("usr/lib64");
    let loader = std::fs::read_dir(&loaders).ok().and_then(|entries| {
        let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.find(|path| path.is_file())
    });
    let loader = loader.ok_or_else(|| {
        format!(
            "there is no loader in {}; remove {} and try again",
            loaders.display(),
            folder.display()
        )
    })?;
    let usr = root.join("usr");
    let libraries = usr.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
    let rustc = folder.join("rustc");
    let text = format!(
        "exec {} --library-path {} {} --sysroot {} \"$@\"\n",
        quoted(&loader),
        quoted(&libraries),
        quoted(&usr.join("bin/rustc")),
        quoted(&usr)
    );
    script(&rustc, &text)?;
    run::output(Command::new(&rustc).arg("-vV"))?;
    Ok(rustc)
}

/// The compiler of C and the archiver, as what builds and links for aarch64 calls them.
fn c_compiler(folder: &Path) -> Result<(PathBuf, PathBuf), String> {
    let toolchain = Toolchain::install(&Recipe::read()?.compiler)?;
    let (cc, ar) = (folder.join("cc"), folder.join("ar"));
    let text = format!(
        "# It has a name of its own for the target, and does not know all that other linkers do.\n\
         for argument do\n\
         \x20 shift\n\
         \x20 case $argument in\n\
         \x20   --target=* | -Wl,-O1) ;;\n\
         \x20   *) set -- \"$@\" \"$argument\" ;;\n\
         \x20 esac\n\
         done\n\
         exec {} -target {C_TARGET} \"$@\"\n",
        toolchain.shell("cc")
    );
    script(&cc, &text)?;
    script(&ar, &format!("exec {} \"$@\"\n", toolchain.shell("ar")))?;
    Ok((cc, ar))
}

/// Builds, and moves processes there and back.
pub fn main(arguments: &[String]) -> Result<(), String> {
    let options = options(arguments)?;
    let tools = Tools::prepare(&options.source)?;
    let runner = tools.runner(&tools.build()?)?;
    let version = run::output(Command::new(&runner).arg("--version"))
        .map_err(|error| format!("the program was built and does not run: {error}"))?;
    println!("{}: {}", runner.display(), version.trim());
    if options.build_only {
        return Ok(());
    }
    let mut tests = run::cargo();
    tests
        .args(["test", "--release", "--workspace", "--test", "unlike"])
        .args(["--", "--nocapture", "--test-threads", "1"])
        .env("LIMOSA_AARCH64", &runner);
    run::run(&mut tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        options(&words)
    }

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let options = parse(&[]).unwrap();
        assert_eq!(
            (options.source.suite.as_str(), options.build_only),
            ("sid", false)
        );
        let options = parse(&["--build-only", "--mirror", "m", "--suite", "s"]).unwrap();
        assert_eq!(options.source.mirror.as_deref(), Some("m"));
        assert_eq!(
            (options.source.suite.as_str(), options.build_only),
            ("s", true)
        );
        assert!(parse(&["--mirror"]).is_err());
        assert!(parse(&["--other"]).is_err());
    }
}
