//! Any bytes are transformed or refused, and what comes out is valid: the stable twin of the fuzz
//! target.

mod common;

use common::{check, generate, overflowed, plain, steps_of};
use freeze::{Error, Options, Poll, transform};
use std::path::Path;
use wasm_smith::{Config, Module};

fn rounds(usual: u64) -> u64 {
    let rounds = std::env::var("LIMOSA_ROUNDS").ok();
    usual.saturating_mul(rounds.and_then(|r| r.parse().ok()).unwrap_or(1))
}

/// Refused or transformed; the pass validates its own output and calls it too large if it fails,
/// which here must not happen.
fn attempt(wasm: &[u8], what: &str) -> bool {
    let poll = match wasm.len() % 3 {
        0 => Poll::Atomic,
        1 => Poll::Plain,
        _ => Poll::Countdown,
    };
    let options = Options {
        poll,
        ..Options::default()
    };
    match transform(wasm, &options) {
        Ok(_) => true,
        Err(Error::TooLarge { what: limit, .. }) => {
            assert!(!limit.contains("limit of engines"), "{what}: {limit}");
            false
        }
        Err(_) => false,
    }
}

/// Modules to start from: the texts of these tests, the kept inputs of the fuzz target, and
/// generated ones.
fn corpus() -> Vec<Vec<u8>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut corpus = Vec::new();
    for entry in std::fs::read_dir(here.join("tests/wat")).unwrap() {
        corpus.push(wat::parse_file(entry.unwrap().path()).unwrap());
    }
    if let Ok(kept) = std::fs::read_dir(here.join("../../fuzz/corpus/pass")) {
        for entry in kept {
            // The target's first byte chooses options.
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            corpus.push(bytes.get(1..).unwrap_or_default().to_vec());
        }
    }
    corpus.extend((0..20).map(generate::module));
    corpus.sort();
    corpus
}

fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..6) {
        if bytes.is_empty() {
            return;
        }
        let at = random.usize(0..bytes.len());
        match random.u32(0..6) {
            0 => bytes[at] = random.u8(..),
            1 => bytes[at] ^= 1 << random.u32(0..8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.u8(..)),
            4 => {
                bytes.remove(at);
            }
            _ => {
                let end = random.usize(at..bytes.len().min(at + 24));
                let part = bytes[at..end].to_vec();
                let to = random.usize(0..bytes.len());
                bytes.splice(to..to, part);
            }
        }
    }
}

#[test]
fn mutated_modules_are_transformed_or_refused() {
    let corpus = corpus();
    let (mut done, mut refused) = (0, 0);
    for seed in 0..rounds(6000) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = corpus[random.usize(0..corpus.len())].clone();
        mutate(&mut bytes, &mut random);
        if attempt(&bytes, &format!("seed {seed}")) {
            done += 1;
        } else {
            refused += 1;
        }
    }
    println!("{done} transformed, {refused} refused");
    assert!(done > 50 && refused > 50, "{done} and {refused}");
}

#[test]
fn random_bytes_are_refused() {
    for seed in 0..rounds(2000) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = b"\0asm\x01\0\0\0".to_vec();
        bytes.extend((0..random.usize(0..200)).map(|_| random.u8(..)));
        attempt(&bytes, &format!("seed {seed}"));
    }
}

#[test]
fn any_module_of_any_feature_is_transformed_or_refused() {
    for seed in 0..rounds(400) {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = (0..random.usize(50..3000)).map(|_| random.u8(..)).collect();
        let mut input = arbitrary::Unstructured::new(&bytes);
        if let Ok(module) = Module::new(Config::default(), &mut input) {
            attempt(&module.to_bytes(), &format!("seed {seed}"));
        }
    }
}

/// What the pass supports, all exported, and ending.
fn supported() -> Config {
    Config {
        allow_start_export: true,
        bulk_memory_enabled: true,
        canonicalize_nans: true,
        custom_page_sizes_enabled: false,
        exceptions_enabled: true,
        export_everything: true,
        extended_const_enabled: true,
        gc_enabled: false,
        max_imports: 4,
        max_memories: 2,
        max_memory32_bytes: 4 << 16,
        max_memory64_bytes: 4 << 16,
        max_table_elements: 100,
        memory64_enabled: true,
        min_exports: 1,
        min_funcs: 2,
        min_memories: 1,
        multi_value_enabled: true,
        reference_types_enabled: true,
        relaxed_simd_enabled: true,
        shared_everything_threads_enabled: false,
        simd_enabled: true,
        tail_call_enabled: true,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        ..Config::default()
    }
}

#[test]
fn modules_of_wasm_smith_do_the_same_frozen_and_unfrozen() {
    let (mut compared, mut freezes) = (0, 0);
    for seed in 0..rounds(400) {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = (0..random.usize(200..4000))
            .map(|_| random.u8(..))
            .collect();
        let mut input = arbitrary::Unstructured::new(&bytes);
        let Ok(mut module) = Module::new(supported(), &mut input) else {
            continue;
        };
        if module.ensure_termination(300).is_err() {
            continue;
        }
        let wasm = module.to_bytes();
        // Imported memories and globals, and segments that trap, are refused.
        let Ok(artefact) = transform(&wasm, &Options::default()) else {
            continue;
        };
        let steps = steps_of(&artefact);
        let Ok(expected) = plain(&wasm, &steps, common::Backend::Native) else {
            continue; // Its start function traps, or an element segment does.
        };
        if overflowed(&expected) {
            continue;
        }
        let _seed = common::Seed(seed);
        compared += 1;
        freezes += check(&wasm, &steps, 10, seed).freezes;
    }
    println!("{compared} modules compared, {freezes} freezes");
    assert!(compared > 20 && freezes > 50, "{compared} and {freezes}");
}

#[test]
fn deep_nesting_costs_memory_and_not_the_stack() {
    for shape in ["block", "loop", "if", "repeated loop"] {
        let levels = 50_000;
        let mut module = wasm_encoder::Module::new();
        let mut types = wasm_encoder::TypeSection::new();
        types.ty().function([], []);
        module.section(&types);
        let mut functions = wasm_encoder::FunctionSection::new();
        functions.function(0);
        module.section(&functions);
        let mut code = wasm_encoder::CodeSection::new();
        let mut function = wasm_encoder::Function::new([]);
        let mut body = function.instructions();
        let empty = wasm_encoder::BlockType::Empty;
        for _ in 0..levels {
            match shape {
                "block" => body.block(empty),
                "loop" => body.loop_(empty),
                "if" => body.i32_const(1).if_(empty),
                _ => body.loop_(empty).i32_const(0).br_if(0),
            };
        }
        body.loop_(empty).i32_const(0).br_if(0).end();
        for _ in 0..levels {
            body.end();
        }
        body.end();
        code.function(&function);
        module.section(&code);
        // Done, or refused as too large: a loop within 50,000 others is written 50,000 times.
        match transform(&module.finish(), &Options::default()) {
            Ok(_) => {}
            Err(Error::TooLarge { .. }) => assert_eq!(shape, "repeated loop"),
            Err(other) => panic!("{shape}: {other}"),
        }
    }
}
