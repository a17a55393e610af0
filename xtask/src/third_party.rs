//! Guests made of other people's programs: their C sources come out of crates, at test time.
//!
//! Neither those sources nor the modules made from them are kept in this project. What is built
//! lies in target/guests/NAME.wasm, beside a key over everything that went into it.

use crate::guests::{self, Recipe, ThirdParty};
use crate::run::{self, Ended};
use crate::toolchain::Toolchain;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the modules are, for LIMOSA_THIRD_PARTY.
pub fn folder() -> PathBuf {
    run::root().join("target/guests")
}

/// A crate as it was fetched.
struct Source {
    version: String,
    folder: PathBuf,
}

/// Fetches the crates of guests/third-party/Cargo.lock, by name.
fn fetch() -> Result<BTreeMap<String, Source>, String> {
    println!("fetching the sources of guests/third-party/Cargo.toml");
    let manifest = guests::folder().join("third-party/Cargo.toml");
    let text = run::output(
        run::cargo()
            .args([
                "metadata",
                "--locked",
                "--format-version",
                "1",
                "--manifest-path",
            ])
            .arg(&manifest),
    )
    .map_err(|reason| {
        format!("cannot fetch crates (that needs cargo and access to crates.io)\n{reason}")
    })?;
    let metadata: Value = serde_json::from_str(&text)
        .map_err(|error| format!("cargo metadata printed something else: {error}"))?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    Ok(packages
        .filter_map(|package| {
            let manifest = Path::new(package["manifest_path"].as_str()?);
            let source = Source {
                version: package["version"].as_str()?.to_string(),
                folder: manifest.parent()?.to_path_buf(),
            };
            Some((package["name"].as_str()?.to_string(), source))
        })
        .collect())
}

/// A hash over all that decides what the module will be. What a crate holds is known by its version.
fn key(recipe: &Recipe, guest: &ThirdParty, source: &Source) -> Result<String, String> {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for name in [&recipe.compiler, &guest.package, &source.version] {
        part(name.as_bytes());
    }
    for flag in recipe
        .flags
        .iter()
        .chain(&recipe.c_flags)
        .chain(&recipe.third_party_flags)
        .chain(&guest.flags)
        .chain(&guest.crate_sources)
    {
        part(flag.as_bytes());
    }
    for file in guest.sources.iter().chain(&guest.headers) {
        part(&run::read(&guests::folder().join(file))?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn build(
    recipe: &Recipe,
    guest: &ThirdParty,
    source: &Source,
    toolchain: &Toolchain,
) -> Result<(), String> {
    let module = folder().join(format!("{}.wasm", guest.name));
    let stamp = folder().join(format!("{}.key", guest.name));
    let key = key(recipe, guest, source)?;
    if module.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|kept| kept == key) {
        println!("{}: built before, from the same sources", guest.name);
        return Ok(());
    }
    println!("{}: building", guest.name);
    let fresh = folder().join(format!("{}.fresh-{}", guest.name, std::process::id()));
    run::output(
        recipe
            .compiler(toolchain, &guest.sources)
            .args(&recipe.third_party_flags)
            .args(&guest.flags)
            .arg("-I")
            .arg(source.folder.join(&guest.include))
            .arg("-o")
            .arg(&fresh)
            .args(&guest.sources)
            .args(
                guest
                    .crate_sources
                    .iter()
                    .map(|file| source.folder.join(file)),
            ),
    )?;
    let bytes = run::read(&fresh)?;
    let _ = std::fs::remove_file(&fresh);
    // The key comes last: a module without its key is built again.
    let _ = std::fs::remove_file(&stamp);
    run::write(&module, &bytes)?;
    run::write(&stamp, key.as_bytes())
}

/// Builds what is not built yet; returns the number of guests.
fn build_all() -> Result<usize, String> {
    let recipe = Recipe::read()?;
    let toolchain = Toolchain::install(&recipe.compiler)?;
    let sources = fetch()?;
    run::make_folder(&folder())?;
    for guest in &recipe.third_party {
        let source = sources.get(&guest.package).ok_or_else(|| {
            format!(
                "guests/third-party/Cargo.toml does not name the crate {}",
                guest.package
            )
        })?;
        build(&recipe, guest, source, &toolchain)?;
    }
    Ok(recipe.third_party.len())
}

/// Builds the guests; where that cannot be done, says why.
pub fn check() -> Ended {
    match build_all() {
        Ok(_) => Ended::Passed,
        Err(reason) => Ended::Skipped(reason),
    }
}

/// `cargo xtask third-party`.
pub fn main(arguments: &[String]) -> Result<(), String> {
    if let Some(argument) = arguments.first() {
        return Err(format!("third-party takes no argument, not {argument}"));
    }
    let count = build_all()?;
    println!("{count} guests are in {}", folder().display());
    Ok(())
}
