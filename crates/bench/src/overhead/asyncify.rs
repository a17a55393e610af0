//! The peer: Binaryen's Asyncify, which also makes a stack that can be unwound and rewound.
//!
//! So that a program could be stopped about as promptly as a freezable one, it polls at every loop
//! head (and, in its favour, nowhere else). A poll loads a word of the program's own memory and,
//! were it set, would call the one import that may unwind; all is then given to
//! `wasm-opt --asyncify -O2`, which inlines what it finds worthwhile. What comes out is kept beside
//! the third-party modules: it takes a minute for SQLite.

use crate::harness::{Error, third_party_folder};
use std::convert::Infallible;
use std::path::PathBuf;
use std::process::Command;
use wasm_encoder::reencode::{self, Reencode, utils};
use wasm_encoder::{
    BlockType, CodeSection, EntityType, Function, FunctionSection, ImportSection, Instruction,
    MemArg, MemArgTarget, Module, TypeSection, ValType,
};
use wasmparser::{
    CodeSectionReader, FunctionBody, FunctionSectionReader, ImportSectionReader, Operator, Parser,
    Payload, TypeRef, TypeSectionReader,
};

/// Names the command, if it is not where `cargo xtask binaryen` puts it.
const VARIABLE: &str = "LIMOSA_WASM_OPT";
/// Where that is, seen from the repository's root.
const INSTALLED: &str = "target/tools/binaryen/node_modules/.bin/wasm-opt";
/// The import that may unwind.
const IMPORT: [&str; 2] = ["limosa", "unwind"];
/// The word that is polled: nothing of a C program lies so low.
const WORD: u64 = 8;
/// What the programs are made of; anything else, `wasm-opt` says itself.
const ARGUMENTS: [&str; 12] = [
    "--asyncify",
    "--pass-arg=asyncify-imports@limosa.unwind",
    "-O2",
    "--enable-bulk-memory",
    "--enable-bulk-memory-opt",
    "--enable-exception-handling",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
    "--enable-simd",
];

/// `wasm-opt`, ready to use.
pub(super) struct Asyncify {
    command: PathBuf,
    version: String,
}

impl Asyncify {
    /// Finds the command, or says what to do.
    pub fn find() -> Result<Asyncify, String> {
        let named = std::env::var_os(VARIABLE).map(PathBuf::from);
        let command = named.unwrap_or_else(|| INSTALLED.into());
        let version = Command::new(&command).arg("--version").output();
        match version {
            Ok(output) if output.status.success() => Ok(Asyncify {
                command,
                version: String::from_utf8_lossy(&output.stdout).into_owned(),
            }),
            Ok(output) => Err(format!(
                "{} --version ended with {}",
                command.display(),
                output.status
            )),
            Err(error) => Err(format!(
                "{}: {error}; `cargo xtask binaryen` installs it, and {VARIABLE} names another",
                command.display()
            )),
        }
    }

    /// The module in the form of the peer, or why there is none.
    pub fn apply(&self, program: &str, wasm: &[u8]) -> Result<Vec<u8>, Error> {
        let fail = |reason: String| Error::Peer {
            program: program.to_owned(),
            reason,
        };
        let polling = polling(program, wasm)?;
        let folder = third_party_folder().unwrap_or_else(std::env::temp_dir);
        let given = folder.join(format!("{program}.polling.wasm"));
        let made = folder.join(format!("{program}.asyncify.wasm"));
        let stamp = folder.join(format!("{program}.asyncify.made-of"));
        let key = [self.version.as_bytes(), &polling].concat();
        if std::fs::read(&stamp).is_ok_and(|kept| kept == key)
            && let Ok(bytes) = std::fs::read(&made)
        {
            return Ok(bytes);
        }
        // The key comes last: a module without its key is made again.
        let _ = std::fs::remove_file(&stamp);
        std::fs::write(&given, polling).map_err(|error| fail(error.to_string()))?;
        let output = Command::new(&self.command)
            .arg(&given)
            .args(ARGUMENTS)
            .arg("-o")
            .arg(&made)
            .output()
            .map_err(|error| fail(error.to_string()))?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let first = complaint.lines().next().unwrap_or("it says nothing");
            let first: String = first.chars().take(200).collect();
            return Err(fail(format!(
                "wasm-opt ended with {}: {first}",
                output.status
            )));
        }
        let bytes = std::fs::read(&made).map_err(|error| fail(error.to_string()))?;
        // Whether it can be kept does not matter.
        let _ = std::fs::write(&stamp, key);
        let _ = std::fs::remove_file(&given);
        Ok(bytes)
    }
}

/// The module with polls.
fn polling(program: &str, wasm: &[u8]) -> Result<Vec<u8>, Error> {
    let fail = |reason: String| Error::Peer {
        program: program.to_owned(),
        reason,
    };
    let mut polls = Polls::new(wasm).map_err(|error| fail(error.to_string()))?;
    let mut module = Module::new();
    polls
        .parse_core_module(&mut module, Parser::new(0), wasm)
        .map_err(|error| fail(error.to_string()))?;
    Ok(module.finish())
}

/// A rewriting of the module that adds the import, after the others, and the polls.
struct Polls {
    imported: u32,
    defined: u32,
    types: u32,
}

type Broken = reencode::Error<Infallible>;

impl Polls {
    fn new(wasm: &[u8]) -> Result<Polls, wasmparser::BinaryReaderError> {
        let (mut imported, mut defined, mut types) = (0, 0, 0);
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        types += group?.types().len() as u32;
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        imported += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                    }
                }
                Payload::FunctionSection(section) => defined = section.count(),
                _ => {}
            }
        }
        Ok(Polls {
            imported,
            defined,
            types,
        })
    }

    /// The function that polls comes last.
    fn poll(&self) -> u32 {
        self.imported + 1 + self.defined
    }
}

impl Reencode for Polls {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Broken> {
        Ok(function + u32::from(function >= self.imported))
    }

    /// Two more: of the import and of the poll.
    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: TypeSectionReader<'_>,
    ) -> Result<(), Broken> {
        utils::parse_type_section(self, types, section)?;
        types.ty().function([], [ValType::I32]);
        types.ty().function([], []);
        Ok(())
    }

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: ImportSectionReader<'_>,
    ) -> Result<(), Broken> {
        utils::parse_import_section(self, imports, section)?;
        imports.import(IMPORT[0], IMPORT[1], EntityType::Function(self.types));
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<(), Broken> {
        utils::parse_function_section(self, functions, section)?;
        functions.function(self.types + 1);
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> Result<(), Broken> {
        utils::parse_code_section(self, code, section)?;
        let word = MemArg {
            offset: WORD,
            align: 2,
            target: MemArgTarget::Memory(0),
            ordering: None,
        };
        let mut poll = Function::new([]);
        let mut body = poll.instructions();
        body.i32_const(0).i32_load(word).if_(BlockType::Empty);
        body.call(self.imported).drop().end().end();
        code.function(&poll);
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: FunctionBody<'_>,
    ) -> Result<(), Broken> {
        let poll = Instruction::Call(self.poll());
        let mut function = self.new_function_with_parsed_locals(&body)?;
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            let operator = reader.read()?;
            let head = matches!(operator, Operator::Loop { .. });
            function.instruction(&self.instruction(operator)?);
            if head {
                function.instruction(&poll);
            }
        }
        code.function(&function);
        Ok(())
    }

    /// Names refer to functions by number; none is needed to run.
    fn parse_custom_section(
        &mut self,
        _: &mut Module,
        _: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), Broken> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{Compiled, End, Instance, plain_engine, programs};

    /// How many loops there are, and how many calls of the last function.
    fn loops_and_polls(wasm: &[u8]) -> (usize, usize) {
        let counts = Polls::new(wasm).unwrap();
        let last = counts.imported + counts.defined - 1;
        let (mut loops, mut polls) = (0, 0);
        for payload in Parser::new(0).parse_all(wasm) {
            let Payload::CodeSectionEntry(body) = payload.unwrap() else {
                continue;
            };
            for operator in body.get_operators_reader().unwrap() {
                match operator.unwrap() {
                    Operator::Loop { .. } => loops += 1,
                    Operator::Call { function_index } => {
                        polls += usize::from(function_index == last);
                    }
                    _ => {}
                }
            }
        }
        (loops, polls)
    }

    #[test]
    fn programs_with_polls_compute_the_same() {
        let (programs, _) = programs(None);
        let engine = plain_engine().unwrap();
        for name in ["fib", "qsort", "accounts"] {
            let program = programs.iter().find(|p| p.name == name).unwrap();
            let polling = polling(name, &program.wasm).unwrap();
            let (loops, polls) = loops_and_polls(&polling);
            assert!(loops > 10 && polls == loops, "{name}: {loops}, {polls}");
            let outcomes = [&program.wasm[..], &polling].map(|wasm| {
                let compiled = Compiled::plain(&engine, name, wasm).unwrap();
                let mut instance = Instance::birth(&compiled, &program.work).unwrap();
                match instance.run().unwrap().end {
                    End::Done(outcome) => outcome,
                    End::Frozen => panic!("{name}: a plain module froze"),
                }
            });
            assert_eq!(outcomes[0], outcomes[1], "{name}");
        }
    }
}
