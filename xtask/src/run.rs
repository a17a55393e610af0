//! Running steps and other programs: what is done is printed before, how long it took after.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The project's top folder.
pub fn root() -> PathBuf {
    // Cargo names the folder of this package when it runs us; the path from the time of building
    // is the fallback for running the binary by itself.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|path| path.ends_with("xtask"))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    package.parent().map(Path::to_path_buf).unwrap_or(package)
}

/// Whether this is continuous integration, where nothing may be skipped.
pub fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Cargo, to be run in the top folder.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Cargo describes this package to us in variables that are not meant for what we start: with
    // them, build scripts that watch one would run anew.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_PKG_") || name_text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// A command as one would type it.
pub fn shown(command: &Command) -> String {
    let mut text = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            text += &format!("{}={} ", name.to_string_lossy(), quoted(value));
        }
    }
    let program = Path::new(command.get_program());
    text += &program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy();
    for argument in command.get_args() {
        text.push(' ');
        text += &quoted(argument);
    }
    text
}

fn quoted(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    if text.is_empty() || text.contains(char::is_whitespace) {
        format!("'{text}'")
    } else {
        text.into_owned()
    }
}

/// One word of a shell, whatever is in it.
pub fn shell_word(text: &OsStr) -> String {
    format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"))
}

/// Prints a command and runs it with our own standard streams; an error if it fails.
pub fn run(command: &mut Command) -> Result<(), String> {
    println!("$ {}", shown(command));
    let status = command
        .status()
        .map_err(|error| format!("cannot run {}: {error}", shown(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} ended with {status}", shown(command)))
    }
}

/// Runs a command and returns what it printed; an error, with what it complained about, if it
/// fails.
pub fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", shown(command)))?;
    if !output.status.success() {
        return Err(format!(
            "{} ended with {}\n{}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{} printed no text", shown(command)))
}

/// Reads a file; the error names it.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Writes a file in one step, so that no reader sees half of it; the error names it.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let fresh = path.with_extension(format!("fresh-{}", std::process::id()));
    std::fs::write(&fresh, bytes)
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Makes a folder and those above it; the error names it.
pub fn make_folder(path: &Path) -> Result<(), String> {
    std::fs::create_dir_all(path)
        .map_err(|error| format!("cannot make the folder {}: {error}", path.display()))
}

/// How a step ended.
pub enum Ended {
    /// What was to be seen was seen.
    Passed,
    /// It could not be done here, for this reason. In continuous integration that is a failure.
    Skipped(String),
}

/// The steps of one command and how they ended.
#[derive(Default)]
pub struct Report {
    lines: Vec<String>,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    /// Runs one step. True if it passed; what fails is told and counted, and the next step goes on.
    pub fn step(
        &mut self,
        name: &str,
        what: &str,
        step: impl FnOnce() -> Result<Ended, String>,
    ) -> bool {
        println!("\n== {name}: {what}");
        let start = Instant::now();
        let ended = match step() {
            Ok(Ended::Skipped(reason)) if in_ci() => {
                Err(format!("CI must not skip this: {reason}"))
            }
            ended => ended,
        };
        let took = format!("{:.1} s", start.elapsed().as_secs_f64());
        let (word, reason) = match ended {
            Ok(Ended::Passed) => {
                self.passed += 1;
                ("ok", String::new())
            }
            Ok(Ended::Skipped(reason)) => {
                self.skipped += 1;
                ("skipped", format!(": {reason}"))
            }
            Err(reason) => {
                self.failed += 1;
                ("FAILED", format!(": {reason}"))
            }
        };
        println!("== {name}: {word} after {took}{reason}");
        // The summary names only the first line of a long reason; all of it stands above.
        let first = reason.lines().next().unwrap_or_default();
        self.lines
            .push(format!("{word:<8} {name:<14} {took:>9}{first}"));
        word == "ok"
    }

    /// Prints the summary; an error if a step failed.
    pub fn finish(self) -> Result<(), String> {
        println!("\n{}", self.lines.join("\n"));
        println!(
            "xtask: {} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
        if self.failed == 0 {
            Ok(())
        } else {
            Err(format!("failed steps: {}", self.failed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_goes_on_after_a_failure_and_ends_with_an_error() {
        let mut report = Report::default();
        assert!(!report.step("first", "fails", || Err("for a reason".into())));
        assert!(report.step("second", "passes", || Ok(Ended::Passed)));
        assert_eq!((report.passed, report.failed), (1, 1));
        assert!(report.finish().is_err());
    }

    #[test]
    fn commands_are_shown_as_one_would_type_them() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["test", "a b"]).env("SEED", "7");
        assert_eq!(shown(&command), "SEED=7 cargo test 'a b'");
    }

    #[test]
    fn a_word_of_a_shell_stays_one_whatever_is_in_it() {
        let text = "a 'b' $c\n\\ \"d\" ;";
        let echo = format!("printf %s {}", shell_word(OsStr::new(text)));
        let printed = output(Command::new("sh").args(["-c", &echo]));
        assert_eq!(printed, Ok(text.to_owned()));
    }

    #[test]
    fn the_top_folder_holds_the_workspace() {
        assert!(root().join("guests/recipe.json").is_file());
    }
}
