//! The same module with its code placed otherwise.
//!
//! Where a loop happens to lie in its cache lines and pages can change its speed by a fifth. To
//! measure what the pass costs, and not where code landed, each ratio is taken over several
//! layouts, each applied to the module *before* the plain and the freezable form are made of it.
//! A layout cuts the list of functions into a few runs, puts these in another order (what is called
//! together mostly stays together), and puts unused functions of various sizes between functions.

use super::Error;
use fastrand::Rng;
use std::convert::Infallible;
use wasm_encoder::reencode::{self, Reencode, utils};
use wasm_encoder::{CodeSection, Function, FunctionSection, MemArg, MemArgTarget, Module};
use wasmparser::{CodeSectionReader, FunctionSectionReader, Parser, Payload, TypeRef};

/// How many runs of functions change places.
const RUNS: usize = 8;
/// One padding function per so many functions, about.
const PADDING_EVERY: usize = 6;
/// Padding functions hold that many stores at most; each is some 10 bytes of machine code.
const LONGEST_PADDING: u32 = 40;

/// The module in layout number `seed`. Layout 0 is the module as given.
pub(crate) fn layout(program: &str, wasm: &[u8], seed: u64) -> Result<Vec<u8>, Error> {
    if seed == 0 {
        return Ok(wasm.to_vec());
    }
    let fail = |reason: String| Error::Layout {
        program: program.to_owned(),
        reason,
    };
    let counts = Counts::of(wasm).map_err(|error| fail(error.to_string()))?;
    let mut placed = Placement::draw(&counts, &mut Rng::with_seed(seed));
    let mut module = Module::new();
    placed
        .parse_core_module(&mut module, Parser::new(0), wasm)
        .map_err(|error| fail(error.to_string()))?;
    Ok(module.finish())
}

/// What must be known of a module before its functions can be placed.
#[derive(Default)]
struct Counts {
    imported: u32,
    defined: u32,
    has_memory: bool,
}

impl Counts {
    fn of(wasm: &[u8]) -> Result<Counts, wasmparser::Error> {
        let mut counts = Counts::default();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        if matches!(import?.ty, TypeRef::Func(_)) {
                            counts.imported += 1;
                        }
                    }
                }
                Payload::FunctionSection(section) => counts.defined = section.count(),
                Payload::MemorySection(section) => counts.has_memory = section.count() > 0,
                _ => {}
            }
        }
        Ok(counts)
    }
}

/// What stands at a place of the new order of functions.
#[derive(Clone, Copy)]
enum Place {
    /// The function of this position in the module as given.
    Original(usize),
    /// A function that is never called, with so many stores.
    Padding(u32),
}

/// A rewriting of the module that only renumbers its functions.
struct Placement {
    imported: u32,
    order: Vec<Place>,
    /// New index of every function, imported ones first.
    moved: Vec<u32>,
}

impl Placement {
    fn draw(counts: &Counts, rng: &mut Rng) -> Placement {
        let defined = counts.defined as usize;
        let mut cuts: Vec<usize> = (1..RUNS).map(|_| rng.usize(0..=defined)).collect();
        cuts.extend([0, defined]);
        cuts.sort_unstable();
        let mut runs: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
        rng.shuffle(&mut runs);
        let mut order = Vec::new();
        for function in runs.into_iter().flatten() {
            if counts.has_memory && rng.usize(0..PADDING_EVERY) == 0 {
                order.push(Place::Padding(rng.u32(1..=LONGEST_PADDING)));
            }
            order.push(Place::Original(function));
        }
        let mut moved: Vec<u32> = (0..counts.imported + counts.defined).collect();
        for (position, place) in order.iter().enumerate() {
            if let Place::Original(function) = place {
                moved[counts.imported as usize + function] = counts.imported + position as u32;
            }
        }
        Placement {
            imported: counts.imported,
            order,
            moved,
        }
    }

    fn defined(&self) -> usize {
        self.moved.len() - self.imported as usize
    }
}

/// A body of `stores` stores that ends in a trap, so that it fits every signature.
fn padding(stores: u32) -> Function {
    let mut function = Function::new([]);
    let mut body = function.instructions();
    for store in 0..stores {
        let word = MemArg {
            offset: u64::from(store) * 64,
            align: 2,
            target: MemArgTarget::Memory(0),
            ordering: None,
        };
        body.i32_const(64).i32_const(store as i32).i32_store(word);
    }
    body.unreachable().end();
    function
}

type Broken = reencode::Error<Infallible>;

impl Reencode for Placement {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Broken> {
        let moved = self.moved.get(function as usize);
        Ok(moved.copied().unwrap_or(function))
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<(), Broken> {
        let types = section.into_iter().collect::<Result<Vec<u32>, _>>()?;
        for place in &self.order {
            functions.function(match place {
                Place::Original(function) => types[*function],
                Place::Padding(_) => types[0],
            });
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> Result<(), Broken> {
        let bodies = section.into_iter().collect::<Result<Vec<_>, _>>()?;
        if bodies.len() != self.defined() {
            return Err(reencode::Error::InvalidCodeSectionSize);
        }
        for place in self.order.clone() {
            match place {
                Place::Original(function) => {
                    utils::parse_function_body(self, code, bodies[function].clone())?
                }
                Place::Padding(stores) => {
                    code.function(&padding(stores));
                }
            }
        }
        Ok(())
    }

    /// Names and hints refer to functions by number; none is needed to run.
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
    use super::super::{Compiled, End, Instance, plain_engine, programs};
    use super::*;

    #[test]
    fn every_layout_is_another_module_that_computes_the_same() {
        let (programs, _) = programs(None);
        let fib = programs.iter().find(|p| p.name == "fib").unwrap();
        let engine = plain_engine().unwrap();
        let mut layouts = Vec::new();
        let mut outcomes = Vec::new();
        for seed in 0..4 {
            let wasm = layout("fib", &fib.wasm, seed).unwrap();
            assert!(
                !layouts.contains(&wasm),
                "layout {seed} is one of those before"
            );
            let plain = Compiled::plain(&engine, "fib", &wasm).unwrap();
            let mut instance = Instance::birth(&plain, &fib.work).unwrap();
            match instance.run().unwrap().end {
                End::Done(outcome) => outcomes.push(outcome),
                End::Frozen => panic!("a plain module froze"),
            }
            layouts.push(wasm);
        }
        assert!(
            outcomes.windows(2).all(|pair| pair[0] == pair[1]),
            "{outcomes:?}"
        );
    }

    #[test]
    fn a_layout_is_drawn_from_its_seed_alone() {
        let (programs, _) = programs(None);
        let wasm = &programs[0].wasm;
        assert_eq!(layout("x", wasm, 3).unwrap(), layout("x", wasm, 3).unwrap());
    }

    #[test]
    fn bytes_that_are_no_module_are_refused_with_the_programs_name() {
        let error = layout("sqlite", b"not wasm", 1).unwrap_err().to_string();
        assert!(error.starts_with("sqlite: cannot lay out"), "{error}");
    }
}
