//! Random modules against an interpreter that has nothing in common with the compiler under test.

mod common;

use common::{Backend, Bits, Seen, Step, answer, check, overflowed, plain, steps_of};
use freeze::{Options, Slot, transform};
use wasm_smith::{Config, Module};
use wasmi::{Caller, Extern, ExternType, Linker, Store, Val, ValType};

/// Every host call: its import and arguments.
type Calls = Vec<(u32, Vec<Option<Bits>>)>;

fn bits(value: &Val) -> Option<Bits> {
    Some(match value {
        Val::I32(v) => Bits(Slot::I32, v.cast_unsigned().into()),
        Val::I64(v) => Bits(Slot::I64, v.cast_unsigned().into()),
        Val::F32(v) => Bits(Slot::F32, v.to_bits().into()),
        Val::F64(v) => Bits(Slot::F64, v.to_bits().into()),
        Val::FuncRef(function) => Bits(Slot::Function, (!function.is_null()).into()),
        Val::ExternRef(external) if external.is_null() => Bits(Slot::External, 0),
        _ => return None,
    })
}

fn value(bits: Bits) -> Val {
    match bits.0 {
        Slot::I32 => Val::I32((bits.1 as u32).cast_signed()),
        Slot::I64 => Val::I64((bits.1 as u64).cast_signed()),
        Slot::F32 => Val::F32(wasmi::F32::from_bits(bits.1 as u32)),
        Slot::F64 => Val::F64(wasmi::F64::from_bits(bits.1 as u64)),
        Slot::External => Val::default_for_ty(ValType::ExternRef),
        _ => Val::default_for_ty(ValType::FuncRef),
    }
}

fn slot(kind: ValType) -> Slot {
    match kind {
        ValType::I32 => Slot::I32,
        ValType::I64 => Slot::I64,
        ValType::F32 => Slot::F32,
        ValType::F64 => Slot::F64,
        _ => Slot::Function,
    }
}

/// Runs a module; nothing if it cannot be instantiated.
fn interpret(wasm: &[u8], steps: &[Step]) -> Option<Seen> {
    let mut config = wasmi::Config::default();
    config
        .wasm_tail_call(true)
        .wasm_memory64(true)
        .wasm_multi_memory(true);
    config.wasm_extended_const(true);
    let engine = wasmi::Engine::new(&config);
    let module = wasmi::Module::new(&engine, wasm).expect("the interpreter knows the features");
    let mut linker = Linker::<Calls>::new(&engine);
    let functions = module.imports().filter_map(|import| match import.ty() {
        ExternType::Func(kind) => Some((import.module(), import.name(), kind.clone())),
        _ => None,
    });
    for (index, (from, name, kind)) in (0..).zip(functions) {
        let results: Vec<Slot> = kind.results().iter().map(|kind| slot(*kind)).collect();
        let body = move |mut caller: Caller<'_, Calls>, args: &[Val], out: &mut [Val]| {
            let args: Vec<_> = args.iter().map(bits).collect();
            let made = caller.data().len();
            for (result, slot) in out.iter_mut().zip(&results) {
                *result = value(answer(index, &args, made, *slot));
            }
            caller.data_mut().push((index, args));
            Ok(())
        };
        // The two linkers do not agree about what is imported twice.
        linker.func_new(from, name, kind, body).ok()?;
    }
    let mut store = Store::new(&engine, Calls::new());
    let instance = linker.instantiate_and_start(&mut store, &module).ok()?;
    let mut done = Vec::new();
    for step in steps {
        let function = instance.get_func(&store, &step.export)?;
        let args: Vec<Val> = step.args.iter().copied().map(value).collect();
        let kinds = function.ty(&store);
        let mut results: Vec<Val> = kinds
            .results()
            .iter()
            .map(|k| Val::default_for_ty(*k))
            .collect();
        done.push(match function.call(&mut store, &args, &mut results) {
            Ok(()) => Ok(results.iter().map(bits).collect()),
            Err(_) => Err(TRAP.to_owned()),
        });
    }
    let mut exports: Vec<(String, Extern)> = instance
        .exports(&store)
        .map(|export| (export.name().to_owned(), export.into_extern()))
        .collect();
    exports.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut memories, mut globals) = (Vec::new(), Vec::new());
    for (name, export) in exports {
        match export {
            Extern::Memory(memory) => memories.push((name, memory.data(&store).to_vec())),
            Extern::Global(global) => globals.push((name, bits(&global.get(&store)))),
            _ => {}
        }
    }
    Some(Seen {
        steps: done,
        memories,
        globals,
        calls: store.into_data(),
    })
}

/// Each engine says in its own words why a step trapped.
const TRAP: &str = "trap";

fn in_common_words(mut seen: Seen) -> Seen {
    for step in &mut seen.steps {
        if let Err(reason) = step {
            *reason = TRAP.to_owned();
        }
    }
    seen
}

/// What both the pass and the interpreter know.
fn known() -> Config {
    Config {
        allow_start_export: true,
        bulk_memory_enabled: true,
        canonicalize_nans: true,
        custom_page_sizes_enabled: false,
        exceptions_enabled: false,
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
        relaxed_simd_enabled: false,
        shared_everything_threads_enabled: false,
        simd_enabled: false,
        tail_call_enabled: true,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        ..Config::default()
    }
}

#[test]
fn random_modules_do_frozen_what_the_interpreter_does() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("LIMOSA_SEED").unwrap_or(0);
    let count = 500 * number("LIMOSA_ROUNDS").unwrap_or(1);
    let (mut compared, mut freezes) = (0, 0);
    for seed in (0..count).map(|round| first.wrapping_add(round)) {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = (0..random.usize(200..4000))
            .map(|_| random.u8(..))
            .collect();
        let mut input = arbitrary::Unstructured::new(&bytes);
        let Ok(mut module) = Module::new(known(), &mut input) else {
            continue;
        };
        if module.ensure_termination(300).is_err() {
            continue;
        }
        let wasm = module.to_bytes();
        // Imported memories, tables and globals, and segments that trap, are refused.
        let Ok(artefact) = transform(&wasm, &Options::default()) else {
            continue;
        };
        let steps = steps_of(&artefact);
        let Some(interpreted) = interpret(&wasm, &steps) else {
            continue;
        };
        let _seed = common::Seed(seed);
        let compiled = plain(&wasm, &steps, Backend::Native).expect("it can be instantiated");
        if overflowed(&compiled) {
            continue;
        }
        common::assert_same(&in_common_words(compiled), &interpreted, "interpreted");
        compared += 1;
        freezes += check(&wasm, &steps, 10, seed).freezes;
    }
    println!("{compared} modules compared, {freezes} freezes");
    assert!(compared > 20 && freezes > 50, "{compared} and {freezes}");
}
