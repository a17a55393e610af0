//! Tools out of npm packages, each in a folder of its own under target/tools.

use crate::run;
use std::path::Path;
use std::process::Command;

/// Binaryen, whose Asyncify is a peer of `limosa bench overhead`.
const BINARYEN: [&str; 1] = ["binaryen@132.0.0"];

/// Installs packages, given as NAME@VERSION, if they are not there.
pub fn install(folder: &Path, packages: &[&str]) -> Result<(), String> {
    let stamp = folder.join("installed");
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    run::make_folder(folder)?;
    run::run(
        Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--prefix"])
            .arg(folder)
            .args(packages),
    )
    .map_err(|reason| {
        format!("{reason}: that needs Node.js with npm (Debian: apt install npm) and access to npm's registry")
    })?;
    run::write(&stamp, wanted.as_bytes())
}

/// `cargo xtask binaryen`.
pub fn binaryen(arguments: &[String]) -> Result<(), String> {
    if let Some(argument) = arguments.first() {
        return Err(format!("binaryen takes no argument, not {argument}"));
    }
    let folder = run::root().join("target/tools/binaryen");
    install(&folder, &BINARYEN)?;
    println!(
        "wasm-opt is {}",
        folder.join("node_modules/.bin/wasm-opt").display()
    );
    Ok(())
}
