//! Which crate may depend on which. What is not drawn is forbidden.
//!
//! ```text
//! vm -> freeze wire    migrate overlay stream -> wire    node -> migrate overlay stream wire
//! gateway -> overlay wire    daemon -> everything but sim and faces
//! sim -> the pure ones and vm    bench -> anything    cli -> daemon bench wire
//! ```
//!
//! The crates stand in layers: pure ones decide, the machine runs one process, worlds act, faces
//! show. Tests may look further than what they test, but not up: a dev-dependency reaches crates
//! of the same layer or below. And the pure crates stay pure: they depend on nothing that tells
//! the time, draws random numbers, opens sockets or files, or starts threads.

use crate::run;
use serde_json::Value;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Layer {
    Pure,
    Machine,
    World,
    Face,
    /// What only contributors use.
    Workshop,
}

struct Drawn {
    name: &'static str,
    layer: Layer,
    to: &'static [&'static str],
}

const fn drawn(name: &'static str, layer: Layer, to: &'static [&'static str]) -> Drawn {
    Drawn { name, layer, to }
}

/// Every crate of the workspace, with the crates it may depend on.
const ARROWS: &[Drawn] = &[
    drawn("freeze", Layer::Pure, &[]),
    drawn("wire", Layer::Pure, &[]),
    drawn("stream", Layer::Pure, &["wire"]),
    drawn("migrate", Layer::Pure, &["wire"]),
    drawn("overlay", Layer::Pure, &["wire"]),
    drawn(
        "node",
        Layer::Pure,
        &["migrate", "overlay", "stream", "wire"],
    ),
    drawn("gateway", Layer::Pure, &["overlay", "wire"]),
    drawn("vm", Layer::Machine, &["freeze", "wire"]),
    drawn(
        "daemon",
        Layer::World,
        &[
            "freeze", "wire", "stream", "migrate", "overlay", "node", "gateway", "vm",
        ],
    ),
    drawn(
        "sim",
        Layer::World,
        &[
            "freeze", "wire", "stream", "migrate", "overlay", "node", "gateway", "vm",
        ],
    ),
    drawn(
        "bench",
        Layer::Face,
        &[
            "freeze", "wire", "stream", "migrate", "overlay", "node", "gateway", "vm", "sim",
            "daemon",
        ],
    ),
    drawn("cli", Layer::Face, &["wire", "daemon", "bench"]),
    drawn("xtask", Layer::Workshop, &[]),
];

/// Crates that touch the world; no pure crate depends on one, tests aside.
const WORLDLY: &[&str] = &[
    "async-std",
    "axum",
    "cap-std",
    "crossbeam",
    "crossbeam-channel",
    "fastrand",
    "getrandom",
    "hyper",
    "hyper-util",
    "libc",
    "memmap2",
    "mio",
    "nix",
    "parking_lot",
    "quinn",
    "rand",
    "rayon",
    "redb",
    "reqwest",
    "ring",
    "rustix",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-util",
    "wasmtime",
];

/// The name on the picture: without the prefix that the registry needs.
fn short(package: &str) -> &str {
    if package == "limosa" {
        "cli"
    } else {
        package.strip_prefix("limosa-").unwrap_or(package)
    }
}

/// Checks the output of `cargo metadata --no-deps`; returns the number of arrows, or every error.
fn check(metadata: &Value) -> Result<usize, Vec<String>> {
    let mut errors = Vec::new();
    let mut count = 0;
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    if packages.is_empty() {
        errors.push("cargo metadata names no package".to_string());
    }
    for package in packages {
        let from = short(package["name"].as_str().unwrap_or_default());
        let Some(drawn) = ARROWS.iter().find(|drawn| drawn.name == from) else {
            errors.push(format!(
                "crate {from} is not drawn: give it a place in ARCHITECTURE.md and in the table \
                 of xtask/src/arrows.rs"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap_or(&empty) {
            let name = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"] == "dev";
            // Only crates of this workspace have a path.
            if dependency["path"].is_null() {
                if drawn.layer == Layer::Pure && !for_tests && WORLDLY.contains(&name) {
                    errors.push(format!(
                        "{from} -> {name}: {from} decides and does not act, and {name} touches \
                         the world; take what you need as an argument"
                    ));
                }
                continue;
            }
            let to = short(name);
            let Some(target) = ARROWS.iter().find(|drawn| drawn.name == to) else {
                continue; // told where that crate itself is looked at
            };
            if for_tests {
                if target.layer > drawn.layer {
                    errors.push(format!(
                        "{from} -> {to}: tests of {from} may not look up to {to}; put the test \
                         into {to}"
                    ));
                }
            } else if drawn.to.contains(&to) {
                count += 1;
            } else {
                errors.push(format!(
                    "{from} -> {to}: this arrow is not drawn in ARCHITECTURE.md"
                ));
            }
        }
    }
    if errors.is_empty() {
        Ok(count)
    } else {
        Err(errors)
    }
}

/// Asks cargo for the arrows and checks them; returns their number.
pub fn check_workspace() -> Result<usize, String> {
    let text = run::output(run::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&text)
        .map_err(|error| format!("cargo metadata printed something else: {error}"))?;
    check(&metadata).map_err(|errors| errors.join("\n"))
}

/// `cargo xtask arrows`.
pub fn main(arguments: &[String]) -> Result<(), String> {
    if let Some(argument) = arguments.first() {
        return Err(format!("arrows takes no argument, not {argument}"));
    }
    let count = check_workspace()?;
    println!("arrows: {count} between crates, all of them drawn");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dependency(name: &str, kind: Value, path: Value) -> Value {
        json!({ "name": name, "kind": kind, "path": path })
    }

    fn workspace(from: &str, dependency: Value) -> Value {
        json!({ "packages": [{ "name": from, "dependencies": [dependency] }] })
    }

    fn arrow(from: &str, to: &str, kind: Value) -> Result<usize, Vec<String>> {
        check(&workspace(from, dependency(to, kind, json!("/somewhere"))))
    }

    #[test]
    fn a_drawn_arrow_is_allowed() {
        assert_eq!(arrow("limosa-vm", "limosa-freeze", Value::Null), Ok(1));
        assert_eq!(arrow("limosa", "limosa-daemon", Value::Null), Ok(1));
    }

    #[test]
    fn an_arrow_that_is_not_drawn_is_named() {
        for (from, to) in [
            ("limosa-migrate", "limosa-vm"),
            ("limosa-wire", "limosa-freeze"),
        ] {
            let errors = arrow(from, to, Value::Null).unwrap_err();
            assert!(errors[0].starts_with(&format!("{} -> {}", short(from), short(to))));
        }
        assert!(arrow("limosa-daemon", "limosa-sim", Value::Null).is_err());
        assert!(arrow("limosa", "limosa-vm", json!("build")).is_err());
    }

    #[test]
    fn tests_may_look_sideways_and_down_but_not_up() {
        assert_eq!(arrow("limosa-wire", "limosa-freeze", json!("dev")), Ok(0));
        assert_eq!(arrow("limosa-sim", "limosa-daemon", json!("dev")), Ok(0));
        assert!(arrow("limosa-freeze", "limosa-vm", json!("dev")).is_err());
        assert!(arrow("limosa-daemon", "limosa-bench", json!("dev")).is_err());
    }

    #[test]
    fn a_pure_crate_does_not_touch_the_world() {
        let tokio = |from, kind| check(&workspace(from, dependency("tokio", kind, Value::Null)));
        assert!(tokio("limosa-migrate", Value::Null).is_err());
        assert_eq!(tokio("limosa-migrate", json!("dev")), Ok(0));
        assert_eq!(tokio("limosa-daemon", Value::Null), Ok(0));
    }

    #[test]
    fn a_crate_that_is_not_drawn_is_an_error() {
        let errors = arrow("limosa-surprise", "limosa-wire", Value::Null).unwrap_err();
        assert!(errors[0].contains("surprise is not drawn"));
    }

    #[test]
    fn the_table_names_only_its_own_crates_and_points_down() {
        for drawn in ARROWS {
            for to in drawn.to {
                let target = ARROWS.iter().find(|drawn| drawn.name == *to);
                assert!(
                    target.is_some_and(|target| target.layer <= drawn.layer),
                    "{to}"
                );
            }
        }
    }
}
