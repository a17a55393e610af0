//! What is measured: the kernels, third-party programs, and the accounts server's request loop.

use super::Error;
use super::host::Host;
use super::traffic::{Script, Traffic};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const KERNELS: &[u8] = include_bytes!("../../../../guests/kernels/kernels.wasm");
const ACCOUNTS: &[u8] = include_bytes!("../../../../guests/accounts/accounts.wasm");

/// The kernels' exports, with the names of their rows.
const KERNEL_NAMES: [(&str, &str); 8] = [
    ("fib", "run_fib"),
    ("calls", "run_calls"),
    ("fpsum", "run_fpsum"),
    ("sieve", "run_sieve"),
    ("qsort", "run_qsort"),
    ("matmul", "run_matmul"),
    ("copy", "run_copy"),
    ("strings", "run_strings"),
];

/// The third-party programs, with the smallest sizes of work that make sense.
const THIRD_PARTY: [(&str, u32); 5] = [
    ("sqlite", 1),
    ("lua", 1),
    ("quickjs", 1),
    ("bzip2", 64),
    ("zstd", 64),
];

/// The fewest requests that the accounts server is asked.
const ACCOUNTS_REQUESTS: u32 = 500;

/// Names the folder with the modules of third-party programs.
pub(crate) const THIRD_PARTY_VARIABLE: &str = "LIMOSA_THIRD_PARTY";
/// Where `cargo xtask third-party` puts them, seen from the repository's root.
const THIRD_PARTY_FOLDER: &str = "target/guests";

/// What is run of a module, and how much of it.
#[derive(Clone)]
pub(crate) enum Work {
    /// An export `(n: i32) -> i32` with n = size.
    Export {
        /// Its name.
        function: &'static str,
        /// Rounds.
        size: u32,
    },
    /// The program with one argument: the size.
    Command {
        /// The argument.
        size: u32,
    },
    /// The server, with scripted clients.
    Server {
        /// What they ask.
        script: Arc<Script>,
    },
}

impl Work {
    /// The same work, in this size.
    pub fn at(&self, size: u32) -> Work {
        match self {
            Work::Export { function, .. } => Work::Export { function, size },
            Work::Command { .. } => Work::Command { size },
            Work::Server { .. } => Work::Server {
                script: Arc::new(Script::new(size)),
            },
        }
    }

    /// The host for one run of it.
    pub fn host(&self) -> Host {
        let args = |size: &u32| vec!["guest".into(), size.to_string()];
        match self {
            Work::Export { .. } => Host::new(vec!["guest".into()], vec![], None),
            Work::Command { size } => Host::new(args(size), vec![], None),
            Work::Server { script } => Host::new(
                vec!["guest".into()],
                vec!["LISTEN_FDS=1".into(), "ALLOW_QUIT=1".into()],
                Some(Traffic::new(script.clone())),
            ),
        }
    }
}

/// A measured program.
#[derive(Clone)]
pub(crate) struct Program {
    /// The name of its row.
    pub name: &'static str,
    /// Its module. Programs of one module lie next to each other, so that it is compiled once.
    pub wasm: Arc<[u8]>,
    /// What is run of it, in its smallest size that makes sense.
    pub work: Work,
    /// That size.
    pub unit: u32,
    /// Whether it is a small loop, which a few milliseconds of work tell all about.
    pub kernel: bool,
}

/// A program that cannot be measured here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    /// The name of its row.
    pub name: &'static str,
    /// Why, and what to do.
    pub reason: String,
}

/// The folder of third-party modules: what the environment names, else the repository's.
pub(crate) fn third_party_folder() -> Option<PathBuf> {
    let named = std::env::var_os(THIRD_PARTY_VARIABLE).map(PathBuf::from);
    named.or_else(|| {
        let folder = PathBuf::from(THIRD_PARTY_FOLDER);
        folder.is_dir().then_some(folder)
    })
}

/// All programs that are there, and those that are not.
pub(crate) fn programs(third_party: Option<&Path>) -> (Vec<Program>, Vec<Skipped>) {
    let kernels: Arc<[u8]> = KERNELS.into();
    let mut programs: Vec<Program> = KERNEL_NAMES
        .iter()
        .map(|(name, function)| Program {
            name,
            wasm: kernels.clone(),
            work: Work::Export { function, size: 1 },
            unit: 1,
            kernel: true,
        })
        .collect();
    let mut skipped = Vec::new();
    for (name, size) in THIRD_PARTY {
        match third_party_module(third_party, name) {
            Ok(wasm) => programs.push(Program {
                name,
                wasm,
                work: Work::Command { size },
                unit: size,
                kernel: false,
            }),
            Err(reason) => skipped.push(Skipped { name, reason }),
        }
    }
    programs.push(Program {
        name: "accounts",
        wasm: ACCOUNTS.into(),
        work: Work::Server {
            script: Arc::new(Script::new(ACCOUNTS_REQUESTS)),
        },
        unit: ACCOUNTS_REQUESTS,
        kernel: false,
    });
    (programs, skipped)
}

/// Those of the programs that are named; all if none is.
pub(crate) fn only(
    mut programs: Vec<Program>,
    skipped: &[Skipped],
    names: &[String],
) -> Result<Vec<Program>, Error> {
    for name in names {
        if !programs.iter().any(|program| program.name == name) {
            let reason = skipped.iter().find(|skipped| skipped.name == name);
            let there: Vec<_> = programs.iter().map(|program| program.name).collect();
            return Err(Error::NoProgram {
                name: name.clone(),
                why: reason.map_or(String::new(), |skipped| format!(" ({})", skipped.reason)),
                there: there.join(", "),
            });
        }
    }
    if !names.is_empty() {
        programs.retain(|program| names.iter().any(|name| name == program.name));
    }
    Ok(programs)
}

/// The module of a third-party program, or why it is not there and what to do.
pub(crate) fn third_party_module(folder: Option<&Path>, name: &str) -> Result<Arc<[u8]>, String> {
    let Some(folder) = folder else {
        return Err(format!(
            "no folder of third-party modules: `cargo xtask third-party` builds them, and \
             {THIRD_PARTY_VARIABLE} names the folder"
        ));
    };
    let file = folder.join(format!("{name}.wasm"));
    match std::fs::read(&file) {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => Err(format!(
            "{}: {error}; `cargo xtask third-party` builds it",
            file.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_skipped_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bzip2.wasm"), b"\0asm").unwrap();
        let (programs, skipped) = programs(Some(folder.path()));
        assert!(programs.iter().any(|program| program.name == "bzip2"));
        assert_eq!(skipped.len(), THIRD_PARTY.len() - 1);
        assert_eq!(skipped[0].name, "sqlite");
        assert!(skipped[0].reason.contains("cargo xtask third-party"));
    }

    #[test]
    fn programs_are_chosen_by_name_and_a_wrong_name_is_told_with_those_there_are() {
        let (all, skipped) = programs(None);
        let chosen = only(all.clone(), &skipped, &["sieve".into(), "fib".into()]).unwrap();
        let names: Vec<_> = chosen.iter().map(|program| program.name).collect();
        assert_eq!(names, ["fib", "sieve"]);
        let count = all.len();
        assert_eq!(only(all.clone(), &skipped, &[]).unwrap().len(), count);
        let error = only(all.clone(), &skipped, &["sqlite".into()])
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("cargo xtask third-party"),
            "{error}"
        );
        let error = only(all, &skipped, &["fibs".into()]).err().unwrap();
        assert!(
            error.to_string().contains("there are: fib, calls"),
            "{error}"
        );
    }

    #[test]
    fn without_a_folder_all_third_party_programs_are_skipped() {
        let (programs, skipped) = programs(None);
        assert_eq!(programs.len(), 9);
        assert_eq!(skipped.len(), THIRD_PARTY.len());
        assert!(skipped[0].reason.contains(THIRD_PARTY_VARIABLE));
    }
}
