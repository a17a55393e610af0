//! The project's own guests: the recipe, their checksums, building them.

use crate::languages;
use crate::run::{self, Ended};
use crate::toolchain::Toolchain;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// guests/recipe.json. All paths in it are relative to guests/, where the compiler runs, so that
/// nothing in a module depends on where the project lies.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What pip installs.
    pub compiler: String,
    /// Flags for every guest.
    pub flags: Vec<String>,
    /// Flags for those in C.
    pub c_flags: Vec<String>,
    /// Flags for those in C++.
    pub cxx_flags: Vec<String>,
    /// Flags for those of `own`.
    pub own_flags: Vec<String>,
    /// Flags for those of `third_party`.
    pub third_party_flags: Vec<String>,
    /// Guests whose modules are kept in guests/NAME/NAME.wasm.
    pub own: Vec<Guest>,
    /// Guests that are built when tests need them.
    pub third_party: Vec<ThirdParty>,
}

/// A guest of this project.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Its name, and that of its folder and module.
    pub name: String,
    /// What is compiled.
    pub sources: Vec<String>,
    /// What the sources include.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Flags beside those for all.
    #[serde(default)]
    pub flags: Vec<String>,
}

/// A guest most of whose source comes out of a crate.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThirdParty {
    /// Its name, and that of its module.
    pub name: String,
    /// The crate, at the version of guests/third-party/Cargo.lock.
    #[serde(rename = "crate")]
    pub package: String,
    /// The folder of the crate's headers.
    pub include: String,
    /// What is compiled of the crate.
    pub crate_sources: Vec<String>,
    /// What is compiled of ours.
    pub sources: Vec<String>,
    /// What ours includes.
    pub headers: Vec<String>,
    /// Flags beside those for all.
    pub flags: Vec<String>,
}

/// The folder guests/.
pub fn folder() -> PathBuf {
    run::root().join("guests")
}

impl Recipe {
    /// Reads guests/recipe.json.
    pub fn read() -> Result<Self, String> {
        let path = folder().join("recipe.json");
        serde_json::from_slice(&run::read(&path)?)
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The compiler for these sources, with the flags for all guests in their language.
    pub fn compiler(&self, toolchain: &Toolchain, sources: &[String]) -> Command {
        let (mut compiler, flags) = if sources.iter().any(|source| source.ends_with(".cpp")) {
            (toolchain.cxx(), &self.cxx_flags)
        } else {
            (toolchain.cc(), &self.c_flags)
        };
        compiler.current_dir(folder()).args(&self.flags).args(flags);
        compiler
    }

    /// The files that CHECKSUMS names, in order.
    fn files(&self) -> Vec<String> {
        let mut files: Vec<String> = Vec::new();
        for guest in &self.own {
            files.push(module(&guest.name));
            files.extend(guest.sources.iter().chain(&guest.headers).cloned());
        }
        files.sort();
        files.dedup();
        files
    }
}

fn module(name: &str) -> String {
    format!("{name}/{name}.wasm")
}

/// The text of CHECKSUMS: one line per file, as `b3sum` prints and checks them.
fn checksums(folder: &Path, files: &[String]) -> Result<String, String> {
    let mut text = String::new();
    for file in files {
        let hash = blake3::hash(&run::read(&folder.join(file))?);
        text += &format!("{}  {file}\n", hash.to_hex());
    }
    Ok(text)
}

/// What differs between two texts of CHECKSUMS.
fn differences(kept: &str, found: &str) -> Vec<String> {
    fn lines(text: &str) -> BTreeMap<&str, &str> {
        text.lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(hash, file)| (file, hash))
            .collect()
    }
    let (kept, found) = (lines(kept), lines(found));
    let mut differences = Vec::new();
    for (file, hash) in &found {
        match kept.get(file) {
            Some(known) if known == hash => {}
            Some(_) => differences.push(format!("{file} is not the one of CHECKSUMS")),
            None => differences.push(format!("{file} is missing in CHECKSUMS")),
        }
    }
    for file in kept.keys().filter(|file| !found.contains_key(*file)) {
        differences.push(format!("{file} stands in CHECKSUMS but not in recipe.json"));
    }
    differences
}

/// Checks sources and modules against CHECKSUMS; returns the number of files.
fn verify(recipe: &Recipe) -> Result<usize, String> {
    let files = recipe.files();
    let kept = run::read(&folder().join("CHECKSUMS"))?;
    let differences = differences(
        &String::from_utf8_lossy(&kept),
        &checksums(&folder(), &files)?,
    );
    if differences.is_empty() {
        return Ok(files.len());
    }
    Err(format!(
        "{}\nafter changing a guest, run: cargo xtask guests --rebuild",
        differences.join("\n")
    ))
}

/// Builds one guest of our own into `output`.
fn build(
    recipe: &Recipe,
    guest: &Guest,
    toolchain: &Toolchain,
    output: &Path,
) -> Result<(), String> {
    println!("building {}", guest.name);
    let fresh = output.with_extension(format!("fresh-{}", std::process::id()));
    run::output(
        recipe
            .compiler(toolchain, &guest.sources)
            .args(&recipe.own_flags)
            .args(&guest.flags)
            .arg("-o")
            .arg(&fresh)
            .args(&guest.sources),
    )?;
    let bytes = run::read(&fresh)?;
    let _ = std::fs::remove_file(&fresh);
    run::write(output, &bytes)
}

fn rebuild(recipe: &Recipe) -> Result<(), String> {
    let toolchain = Toolchain::install(&recipe.compiler)?;
    for guest in &recipe.own {
        build(
            recipe,
            guest,
            &toolchain,
            &folder().join(module(&guest.name)),
        )?;
    }
    let text = checksums(&folder(), &recipe.files())?;
    run::write(&folder().join("CHECKSUMS"), text.as_bytes())
}

/// Checks the checksums and, if the compiler is there, that it makes the very same modules.
pub fn check() -> Result<Ended, String> {
    let recipe = Recipe::read()?;
    let count = verify(&recipe)?;
    println!("{count} files are those of guests/CHECKSUMS");
    let Some(toolchain) = Toolchain::installed(&recipe.compiler) else {
        println!("the compiler is not installed, so the modules were not built again to compare");
        return Ok(Ended::Passed);
    };
    let scratch = run::root().join("target/guests/own");
    run::make_folder(&scratch)?;
    for guest in &recipe.own {
        let built = scratch.join(format!("{}.wasm", guest.name));
        build(&recipe, guest, &toolchain, &built)?;
        if run::read(&built)? != run::read(&folder().join(module(&guest.name)))? {
            return Err(format!(
                "{} is not what its source gives; run: cargo xtask guests --rebuild",
                module(&guest.name)
            ));
        }
    }
    println!("{} modules are what their sources give", recipe.own.len());
    Ok(Ended::Passed)
}

/// `cargo xtask guests`.
pub fn main(arguments: &[String]) -> Result<(), String> {
    match arguments {
        [] => check().map(|_| ()),
        [flag] if flag == "--rebuild" => {
            let recipe = Recipe::read()?;
            rebuild(&recipe)?;
            println!(
                "{} guests built, guests/CHECKSUMS written",
                recipe.own.len()
            );
            Ok(())
        }
        [flag] if flag == "--languages" => languages::build(),
        _ => Err("usage: cargo xtask guests [--rebuild | --languages]".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_names_files_that_are_there() {
        let recipe = Recipe::read().unwrap();
        assert_eq!(recipe.own.len(), 12);
        for file in recipe.files() {
            assert!(folder().join(&file).is_file(), "{file}");
        }
    }

    #[test]
    fn a_changed_a_missing_and_a_forgotten_file_are_told() {
        let kept = "aa  one.c\nbb  two.c\ncc  three.c\n";
        let found = "aa  one.c\nxx  two.c\ndd  four.c\n";
        assert_eq!(
            differences(kept, found),
            [
                "four.c is missing in CHECKSUMS",
                "two.c is not the one of CHECKSUMS",
                "three.c stands in CHECKSUMS but not in recipe.json"
            ]
        );
        assert!(differences(kept, kept).is_empty());
    }
}
