//! The contributor's command, `cargo xtask`: every check of the project, and what they need.
//!
//! Each subcommand says what it does while it does it. Nothing here is needed to build or to use
//! Limosa.

mod aarch64;
mod arrows;
mod fuzz;
mod guests;
mod languages;
mod npm;
mod packages;
mod run;
mod soak;
mod test;
mod third_party;
mod toolchain;

use std::process::ExitCode;

/// A subcommand: its name, its arguments, what it does, and what runs it.
struct Subcommand {
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<(), String>,
}

const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        name: "test",
        arguments: "",
        about: "every check: format, arrows, guests, lints, documentation, tests",
        run: test::main,
    },
    Subcommand {
        name: "soak",
        arguments: "[--hours H | --minutes M]",
        about: "the same machinery for hours: new seeds, fuzzing, moves under load (one hour)",
        run: soak::main,
    },
    Subcommand {
        name: "fuzz",
        arguments: "[--seconds N] [TARGET...]",
        about: "fuzzes each target for N seconds (60); needs a nightly toolchain",
        run: fuzz::main,
    },
    Subcommand {
        name: "arrows",
        arguments: "",
        about: "checks which crate depends on which against the arrows of ARCHITECTURE.md",
        run: arrows::main,
    },
    Subcommand {
        name: "guests",
        arguments: "[--rebuild | --languages]",
        about: "checks the modules in guests/ against CHECKSUMS, or builds them anew, or those in Go, Rust and AssemblyScript",
        run: guests::main,
    },
    Subcommand {
        name: "third-party",
        arguments: "",
        about: "builds other people's programs into target/guests, for tests and measurements",
        run: third_party::main,
    },
    Subcommand {
        name: "aarch64",
        arguments: "[--build-only] [--mirror URL] [--suite S]",
        about: "builds limosa for aarch64 and moves processes between it, under QEMU, and this machine; what is missing comes from Debian's mirror that apt uses (suite sid)",
        run: aarch64::main,
    },
    Subcommand {
        name: "binaryen",
        arguments: "",
        about: "installs wasm-opt, whose Asyncify `limosa bench overhead` measures beside",
        run: npm::binaryen,
    },
];

fn help() -> String {
    let mut text = String::from("usage: cargo xtask COMMAND\n\n");
    for command in SUBCOMMANDS {
        let usage = format!("{} {}", command.name, command.arguments);
        text += &format!("  {usage:<32} {}\n", command.about);
    }
    text += "\nCI=true in the environment makes whatever would be skipped an error.\n";
    text
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        eprint!("{}", help());
        return ExitCode::from(2);
    };
    if ["help", "--help", "-h"].contains(&name.as_str())
        || rest
            .iter()
            .any(|argument| argument == "--help" || argument == "-h")
    {
        print!("{}", help());
        return ExitCode::SUCCESS;
    }
    let Some(command) = SUBCOMMANDS.iter().find(|command| command.name == name) else {
        eprintln!("xtask: there is no command \"{name}\"\n\n{}", help());
        return ExitCode::from(2);
    };
    match (command.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask {name}: {message}");
            ExitCode::FAILURE
        }
    }
}
