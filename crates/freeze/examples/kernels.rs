//! What the pass costs, kernel by kernel: a quick look while working on it.
//!
//! `cargo run --release -p limosa-freeze --example kernels -- MODULE.wasm [NAME…] [--layouts N]
//! [--unroll 8:8,24:4]… [--after]`
//!
//! The module exports kernels as `run_NAME(rounds) -> checksum`; imports are stubs. For each it
//! prints the run time of the run module over that of the module as given: pairs in turn, the
//! median of pairs, then the median over layouts; one column per `--unroll`. With `--after` the
//! module is frozen at a tenth of the run and goes on in the thaw module. The measurements that
//! the project answers for are those of `limosa bench`.

use freeze::{Artefact, Options, Unroll, interface, transform};
use std::convert::Infallible;
use std::time::{Duration, Instant};
use wasm_encoder::reencode::{Error as Broken, Reencode, utils};
use wasmtime::{
    Config, Engine, ExternType, Instance, Linker, MemoryType, Module, SharedMemory, Store, Val,
};

const PAIRS: usize = 7;
const TARGET: Duration = Duration::from_millis(25);

fn engine() -> Engine {
    let mut config = Config::new();
    config.wasm_threads(true);
    config.shared_memory(true);
    config.wasm_branch_hinting(true);
    config.memory_init_cow(false);
    config.max_wasm_stack(2 << 20);
    config.async_stack_size(3 << 20);
    Engine::new(&config).unwrap()
}

/// Sets the freeze request, as only an atomic store of another thread can: by a module of its own.
fn request(engine: &Engine, flag: &SharedMemory, value: i32) {
    let text = r#"(module
        (import "limosa" "flag" (memory 1 1 shared))
        (func (export "set") (param i32) (i32.atomic.store (i32.const 0) (local.get 0))))"#;
    let module = Module::new(engine, wat::parse_str(text).unwrap()).unwrap();
    let mut store = Store::new(engine, ());
    let instance = Instance::new(&mut store, &module, &[flag.clone().into()]).unwrap();
    let set = instance
        .get_typed_func::<i32, ()>(&mut store, "set")
        .unwrap();
    set.call(&mut store, value).unwrap();
}

struct Subject {
    store: Store<()>,
    instance: Instance,
    flag: Option<SharedMemory>,
}

impl Subject {
    fn new(engine: &Engine, module: &Module, flag: Option<&SharedMemory>) -> Subject {
        let mut store = Store::new(engine, ());
        let mut linker = Linker::new(engine);
        for import in module.imports() {
            if let ExternType::Func(kind) = import.ty() {
                let results: Vec<_> = kind.results().collect();
                let stub = move |_: wasmtime::Caller<'_, ()>, _: &[Val], out: &mut [Val]| {
                    for (value, kind) in out.iter_mut().zip(&results) {
                        *value = Val::default_for_ty(kind).unwrap();
                    }
                    Ok(())
                };
                linker
                    .func_new(import.module(), import.name(), kind, stub)
                    .unwrap();
            }
        }
        if let Some(flag) = flag {
            let (module, name) = (interface::MODULE, interface::FLAG_MEMORY);
            linker.define(&store, module, name, flag.clone()).unwrap();
        }
        let instance = linker.instantiate(&mut store, module).unwrap();
        Subject {
            store,
            instance,
            flag: flag.cloned(),
        }
    }

    fn born(engine: &Engine, module: &Module, flag: &SharedMemory, artefact: &Artefact) -> Subject {
        let mut subject = Subject::new(engine, module, Some(flag));
        for (index, image) in (0..).zip(&artefact.image) {
            let name = interface::memory_export(index);
            let memory = subject.instance.get_memory(&mut subject.store, &name);
            for chunk in &image.chunks {
                let at = chunk.offset as usize;
                let data = memory.unwrap().data_mut(&mut subject.store);
                data[at..at + chunk.bytes.len()].copy_from_slice(&chunk.bytes);
            }
        }
        subject
    }

    fn run(&mut self, kernel: &str, rounds: i32) -> (Duration, i32) {
        let kernel = self
            .instance
            .get_typed_func::<i32, i32>(&mut self.store, kernel)
            .unwrap();
        let start = Instant::now();
        let result = kernel.call(&mut self.store, rounds).unwrap();
        (start.elapsed(), result)
    }

    /// Runs, freezes after `when`, and goes on in a thaw instance; the time is that of the rest.
    fn run_frozen(
        mut self,
        mut thawed: Subject,
        kernel: &str,
        rounds: i32,
        when: Duration,
        artefact: &Artefact,
    ) -> Option<(Duration, Duration, i32)> {
        let flag = self.flag.clone().unwrap();
        let raise = flag.clone();
        let engine = self.store.engine().clone();
        let timer = std::thread::spawn(move || {
            std::thread::sleep(when);
            request(&engine, &raise, 1);
        });
        let (first, _) = self.run(kernel, rounds);
        timer.join().unwrap();
        request(self.store.engine(), &flag, 0);
        let get = |s: &mut Subject, name: &str| s.instance.get_global(&mut s.store, name).unwrap();
        let frozen = get(&mut self, interface::FROZEN);
        if frozen.get(&mut self.store).unwrap_i32() == 0 {
            return None;
        }
        for index in 0..artefact.image.len() as u32 {
            let name = interface::memory_export(index);
            let from = self.instance.get_memory(&mut self.store, &name).unwrap();
            let to = thawed
                .instance
                .get_memory(&mut thawed.store, &name)
                .unwrap();
            let more = from.data_size(&self.store) - to.data_size(&thawed.store);
            to.grow(&mut thawed.store, more as u64 / 65536).unwrap();
            to.data_mut(&mut thawed.store)
                .copy_from_slice(from.data(&self.store));
        }
        for global in &artefact.interface.globals {
            let name = interface::global_export(global.index);
            let value = get(&mut self, &name).get(&mut self.store);
            get(&mut thawed, &name)
                .set(&mut thawed.store, value)
                .unwrap();
        }
        let sp = get(&mut self, interface::SP).get(&mut self.store);
        let size = sp.unwrap_i32() as usize;
        let frames = interface::FRAMES;
        let from = self.instance.get_memory(&mut self.store, frames).unwrap();
        let to = thawed
            .instance
            .get_memory(&mut thawed.store, frames)
            .unwrap();
        let bytes = &from.data(&self.store)[..size];
        let id = u32::from_le_bytes(bytes[size - 8..size - 4].try_into().unwrap());
        to.data_mut(&mut thawed.store)[..size].copy_from_slice(bytes);
        get(&mut thawed, interface::SP)
            .set(&mut thawed.store, sp)
            .unwrap();
        let table = thawed
            .instance
            .get_table(&mut thawed.store, interface::CLONES)
            .unwrap();
        let clone = table.get(&mut thawed.store, id.into()).unwrap();
        let clone = *clone.unwrap_func().unwrap();
        let mut out = [Val::I32(0)];
        let start = Instant::now();
        clone.call(&mut thawed.store, &[], &mut out).unwrap();
        Some((first, start.elapsed(), out[0].unwrap_i32()))
    }
}

/// The module with unused functions before its own, so that all code lies elsewhere.
struct Padding {
    imported: u32,
    functions: u32,
    stores: u32,
}

impl Reencode for Padding {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Broken> {
        let moves = function >= self.imported;
        Ok(function + if moves { self.functions } else { 0 })
    }

    fn parse_function_section(
        &mut self,
        functions: &mut wasm_encoder::FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Broken> {
        for _ in 0..self.functions {
            functions.function(0);
        }
        utils::parse_function_section(self, functions, section)
    }

    fn parse_code_section(
        &mut self,
        code: &mut wasm_encoder::CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), Broken> {
        for _ in 0..self.functions {
            let mut function = wasm_encoder::Function::new([]);
            for store in 0..self.stores {
                let mut body = function.instructions();
                body.i32_const(64).i32_const(store as i32);
                body.i32_store(wasm_encoder::MemArg {
                    offset: u64::from(store) * 64,
                    align: 2,
                    target: wasm_encoder::MemArgTarget::Memory(0),
                    ordering: None,
                });
            }
            function.instructions().unreachable().end();
            code.function(&function);
        }
        utils::parse_code_section(self, code, section)
    }

    fn parse_custom_section(
        &mut self,
        _: &mut wasm_encoder::Module,
        _: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), Broken> {
        Ok(())
    }
}

fn padded(wasm: &[u8], layout: u32) -> Vec<u8> {
    let mut imported = 0;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        if let wasmparser::Payload::ImportSection(section) = payload.unwrap() {
            imported = section.count();
        }
    }
    let mut padding = Padding {
        imported,
        functions: layout,
        stores: layout * 7 % 5 + 1,
    };
    let mut module = wasm_encoder::Module::new();
    padding
        .parse_core_module(&mut module, wasmparser::Parser::new(0), wasm)
        .unwrap();
    module.finish()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1);
    let file = args.next().expect("MODULE.wasm");
    let (mut names, mut unrolls, mut layouts, mut after) = (Vec::new(), Vec::new(), 5, false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--layouts" => layouts = args.next().unwrap().parse().unwrap(),
            "--after" => after = true,
            "--unroll" => {
                let text = args.next().unwrap();
                let steps = text.split(',').filter_map(|step| {
                    let (size, copies) = step.split_once(':')?;
                    Some((size.parse().unwrap(), copies.parse().unwrap()))
                });
                let steps = steps.collect();
                unrolls.push((text.clone(), Unroll { steps }));
            }
            _ => names.push(format!("run_{arg}")),
        }
    }
    if unrolls.is_empty() {
        unrolls.push(("default".to_owned(), Unroll::default()));
    }
    let wasm = std::fs::read(&file).unwrap();
    let engine = engine();
    if names.is_empty() {
        let module = Module::new(&engine, &wasm).unwrap();
        let exports = module.exports().map(|export| export.name().to_owned());
        names = exports.filter(|name| name.starts_with("run_")).collect();
    }

    // Per kernel, per column: the ratio in each layout.
    let columns = unrolls.len() + 1;
    let mut ratios = vec![vec![Vec::new(); columns]; names.len()];
    for layout in 0..layouts {
        let wasm = padded(&wasm, layout);
        let plain = Module::new(&engine, &wasm).unwrap();
        let made: Vec<_> = unrolls
            .iter()
            .map(|(_, unroll)| {
                let options = Options {
                    unroll: unroll.clone(),
                    stack_bytes: 2 << 20,
                    ..Options::default()
                };
                let artefact = transform(&wasm, &options).unwrap();
                let run = Module::new(&engine, &artefact.run).unwrap();
                let thaw = Module::new(&engine, &artefact.thaw).unwrap();
                (artefact, run, thaw)
            })
            .collect();
        let flag = SharedMemory::new(&engine, MemoryType::shared(1, 1)).unwrap();
        for (name, ratios) in names.iter().zip(&mut ratios) {
            let mut rounds = 1;
            loop {
                let (time, _) = Subject::new(&engine, &plain, None).run(name, rounds);
                if time >= TARGET {
                    break;
                }
                rounds *= 2;
            }
            let mut pairs = vec![Vec::new(); columns];
            for _ in 0..PAIRS {
                let (base, result) = Subject::new(&engine, &plain, None).run(name, rounds);
                for (column, pairs) in pairs.iter_mut().enumerate() {
                    let (time, scale, found) = if column == 0 {
                        let (time, found) = Subject::new(&engine, &plain, None).run(name, rounds);
                        (time, 1.0, found)
                    } else {
                        let (artefact, run, thaw) = &made[column - 1];
                        let mut subject = Subject::born(&engine, run, &flag, artefact);
                        if after {
                            let thawed = Subject::new(&engine, thaw, Some(&flag));
                            let when = base / 10;
                            let done = subject.run_frozen(thawed, name, rounds, when, artefact);
                            let Some((first, rest, found)) = done else {
                                continue;
                            };
                            // The first part ran in the run module: count the rest for its share.
                            let share = 1.0 - first.as_secs_f64() / base.as_secs_f64();
                            (rest, share.max(0.1), found)
                        } else {
                            let (time, found) = subject.run(name, rounds);
                            (time, 1.0, found)
                        }
                    };
                    assert_eq!(found, result, "{name}");
                    pairs.push(time.as_secs_f64() / scale / base.as_secs_f64());
                }
            }
            for (ratios, pairs) in ratios.iter_mut().zip(pairs) {
                if !pairs.is_empty() {
                    ratios.push(median(pairs));
                }
            }
        }
    }

    print!("{:14}{:>14}", "kernel", "plain again");
    for (name, _) in &unrolls {
        print!("{name:>18}");
    }
    println!();
    let mut products = vec![0.0; columns];
    for (name, ratios) in names.iter().zip(ratios) {
        print!("{name:14}");
        for (column, ratios) in ratios.into_iter().enumerate() {
            let worst = ratios.iter().copied().fold(0.0, f64::max);
            let middle = median(ratios);
            products[column] += middle.ln();
            print!("{:>18}", format!("{middle:.3} ({worst:.2})"));
        }
        println!();
    }
    print!("{:14}", "geomean");
    for product in products {
        print!("{:>18.3}", (product / names.len() as f64).exp());
    }
    println!();
}
