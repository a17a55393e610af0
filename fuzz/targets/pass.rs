//! The pass: it transforms or refuses any bytes, and what it makes is valid WebAssembly.
//!
//! The first byte chooses: bytes as given, or a module that wasm-smith makes of them.
#![no_main]

use freeze::{Imports, Options, Poll};
use libfuzzer_sys::arbitrary::Unstructured;
use wasm_smith::{Config, Module};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let module = if choice & 1 == 0 {
        data.to_vec()
    } else {
        match Module::new(Config::default(), &mut Unstructured::new(data)) {
            Ok(module) => module.to_bytes(),
            Err(_) => return,
        }
    };
    let poll = match choice >> 1 & 3 {
        0 => Poll::Plain,
        1 => Poll::Countdown,
        _ => Poll::Atomic,
    };
    let freezing_imports = if choice & 8 == 0 {
        Imports::All
    } else {
        Imports::Only(Vec::new())
    };
    let options = Options {
        poll,
        freezing_imports,
        ..Options::default()
    };
    if let Ok(artefact) = freeze::transform(&module, &options) {
        for made in [&artefact.run, &artefact.thaw] {
            let mut validator =
                wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all());
            validator
                .validate_all(made)
                .expect("what the pass makes is valid");
        }
    }
});
