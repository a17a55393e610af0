//! Random modules that are dense in what the pass has to get right: calls of all kinds with operands
//! below them, loops in loops, blocks with parameters, branches of all kinds, recursion.
//!
//! They end: every loop turn and function entry burns fuel from a global, and without fuel a
//! function returns.

#![allow(dead_code)]

use fastrand::Rng;
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, ElementSection, Elements, EntityType, ExportKind,
    ExportSection, Function, FunctionSection, GlobalSection, GlobalType, ImportSection,
    InstructionSink, MemArg, MemArgTarget, MemorySection, MemoryType, Module, RefType,
    TableSection, TableType, TypeSection, ValType,
};

const FUEL: u32 = 0;

type Kinds = Vec<ValType>;

struct Signature {
    params: Kinds,
    results: Kinds,
}

/// What a branch to a label carries.
struct Label {
    carries: Kinds,
}

struct Generator {
    random: Rng,
    types: Vec<Signature>,
    /// Type of every function, imports first.
    functions: Vec<u32>,
    imports: u32,
    memories: u32,
    globals: Kinds,
}

/// A module for a seed.
pub fn module(seed: u64) -> Vec<u8> {
    let mut random = Rng::with_seed(seed);
    let kinds = |random: &mut Rng, most: usize| -> Kinds {
        let count = random.usize(0..=most);
        (0..count).map(|_| kind(random)).collect()
    };
    let types: Vec<Signature> = (0..random.usize(2..6))
        .map(|_| Signature {
            params: kinds(&mut random, 3),
            results: kinds(&mut random, 2),
        })
        .collect();
    let imports = random.u32(0..4);
    let defined = random.u32(1..6);
    let functions = (0..imports + defined)
        .map(|_| random.u32(0..types.len() as u32))
        .collect();
    let mut globals = vec![ValType::I32];
    globals.extend(kinds(&mut random, 4));
    let mut generator = Generator {
        types,
        functions,
        imports,
        memories: random.u32(1..3),
        globals,
        random,
    };
    generator.module()
}

fn kind(random: &mut Rng) -> ValType {
    match random.u32(0..10) {
        0..4 => ValType::I32,
        4..6 => ValType::I64,
        6 => ValType::F32,
        7..9 => ValType::F64,
        _ => ValType::V128,
    }
}

/// A function while it is written.
struct Body {
    code: Vec<u8>,
    locals: Kinds,
    params: usize,
    labels: Vec<Label>,
    /// Operands of the innermost block.
    stack: Kinds,
    /// Types of blocks that need one: (params, results), with indices from `first_type`.
    size: usize,
}

impl Body {
    fn sink(&mut self) -> InstructionSink<'_> {
        self.size += 1;
        InstructionSink::new(&mut self.code)
    }

    fn ends_with(&self, kinds: &[ValType]) -> bool {
        self.stack.ends_with(kinds)
    }
}

impl Generator {
    fn module(&mut self) -> Vec<u8> {
        let bodies: Vec<Body> = (self.imports as usize..self.functions.len())
            .map(|function| self.function(function))
            .collect();

        let mut module = Module::new();
        let mut types = TypeSection::new();
        for signature in &self.types {
            types
                .ty()
                .function(signature.params.clone(), signature.results.clone());
        }
        module.section(&types);
        let mut imports = ImportSection::new();
        for index in 0..self.imports {
            let kind = EntityType::Function(self.functions[index as usize]);
            imports.import("host", &format!("f{index}"), kind);
        }
        module.section(&imports);
        let mut functions = FunctionSection::new();
        for kind in &self.functions[self.imports as usize..] {
            functions.function(*kind);
        }
        module.section(&functions);
        let mut tables = TableSection::new();
        tables.table(TableType {
            element_type: RefType::FUNCREF,
            table64: false,
            minimum: self.functions.len() as u64 + 2,
            maximum: None,
            shared: false,
        });
        module.section(&tables);
        let mut memories = MemorySection::new();
        for _ in 0..self.memories {
            memories.memory(MemoryType {
                minimum: 1,
                maximum: Some(3),
                memory64: false,
                shared: false,
                page_size_log2: None,
            });
        }
        module.section(&memories);
        let mut globals = GlobalSection::new();
        let fuel = self.random.i32(20..400);
        for (index, kind) in self.globals.iter().enumerate() {
            let value = match kind {
                _ if index == FUEL as usize => ConstExpr::i32_const(fuel),
                ValType::I32 => ConstExpr::i32_const(1),
                ValType::I64 => ConstExpr::i64_const(2),
                ValType::F32 => ConstExpr::f32_const(3.0.into()),
                ValType::F64 => ConstExpr::f64_const(4.0.into()),
                _ => ConstExpr::v128_const(5),
            };
            let kind = GlobalType {
                val_type: *kind,
                mutable: true,
                shared: false,
            };
            globals.global(kind, &value);
        }
        module.section(&globals);
        let mut exports = ExportSection::new();
        for index in self.imports..self.functions.len() as u32 {
            exports.export(&format!("f{index}"), ExportKind::Func, index);
        }
        for index in 0..self.memories {
            exports.export(&format!("m{index}"), ExportKind::Memory, index);
        }
        for index in 0..self.globals.len() as u32 {
            exports.export(&format!("g{index}"), ExportKind::Global, index);
        }
        module.section(&exports);
        let mut elements = ElementSection::new();
        let all: Vec<u32> = (0..self.functions.len() as u32).collect();
        elements.active(
            None,
            &ConstExpr::i32_const(0),
            Elements::Functions(all.into()),
        );
        module.section(&elements);
        let mut code = CodeSection::new();
        for body in bodies {
            let locals = body.locals.iter().skip(body.params).copied();
            let mut function = Function::new_with_locals_types(locals);
            function.raw(body.code);
            code.function(&function);
        }
        module.section(&code);
        module.finish()
    }

    fn signature(&self, function: usize) -> (Kinds, Kinds) {
        let signature = &self.types[self.functions[function] as usize];
        (signature.params.clone(), signature.results.clone())
    }

    fn function(&mut self, function: usize) -> Body {
        let (params, results) = self.signature(function);
        let mut body = Body {
            code: Vec::new(),
            params: params.len(),
            locals: params,
            labels: vec![Label {
                carries: results.clone(),
            }],
            stack: Vec::new(),
            size: 0,
        };
        for _ in 0..self.random.usize(1..6) {
            let kind = kind(&mut self.random);
            body.locals.push(kind);
        }
        self.burn(&mut body, &results);
        self.sequence(&mut body, &results, 5);
        body.sink().end();
        body
    }

    /// Without fuel the function returns.
    fn burn(&mut self, body: &mut Body, results: &[ValType]) {
        body.sink()
            .global_get(FUEL)
            .i32_const(1)
            .i32_sub()
            .global_set(FUEL);
        body.sink()
            .global_get(FUEL)
            .i32_const(0)
            .i32_lt_s()
            .if_(BlockType::Empty);
        for kind in results {
            self.constant(body, *kind);
            body.stack.pop();
        }
        body.sink().return_().end();
    }

    fn constant(&mut self, body: &mut Body, kind: ValType) {
        let n = self.random.i32(-3..40);
        match kind {
            ValType::I32 => body.sink().i32_const(n),
            ValType::I64 => body.sink().i64_const(i64::from(n) << 20),
            ValType::F32 => body.sink().f32_const((n as f32 / 2.0).into()),
            ValType::F64 => body.sink().f64_const((f64::from(n) / 4.0).into()),
            _ => body.sink().v128_const(i128::from(n) << 40),
        };
        body.stack.push(kind);
    }

    /// Pushes a value of a kind.
    fn value(&mut self, body: &mut Body, kind: ValType) {
        let locals: Vec<u32> = (0..body.locals.len() as u32)
            .filter(|local| body.locals[*local as usize] == kind)
            .collect();
        let globals: Vec<u32> = (0..self.globals.len() as u32)
            .filter(|global| self.globals[*global as usize] == kind && *global != FUEL)
            .collect();
        match self.random.u32(0..10) {
            0..5 if !locals.is_empty() => {
                let local = locals[self.random.usize(0..locals.len())];
                body.sink().local_get(local);
                body.stack.push(kind);
            }
            5..7 if !globals.is_empty() => {
                let global = globals[self.random.usize(0..globals.len())];
                body.sink().global_get(global);
                body.stack.push(kind);
            }
            7 => {
                let arg = self.memory(kind);
                let address = self.random.i32(0..2000);
                let mut sink = body.sink();
                sink.i32_const(address);
                match kind {
                    ValType::I32 => sink.i32_load(arg),
                    ValType::I64 => sink.i64_load(arg),
                    ValType::F32 => sink.f32_load(arg),
                    ValType::F64 => sink.f64_load(arg),
                    _ => sink.v128_load(arg),
                };
                body.stack.push(kind);
            }
            _ => self.constant(body, kind),
        }
    }

    fn memory(&mut self, kind: ValType) -> MemArg {
        let _ = kind;
        MemArg {
            offset: self.random.u64(0..200),
            align: 0,
            target: MemArgTarget::Memory(self.random.u32(0..self.memories)),
            ordering: None,
        }
    }

    /// Code that ends with exactly `results` on the block's stack.
    fn sequence(&mut self, body: &mut Body, results: &[ValType], depth: u32) {
        let statements = self.random.usize(1..7);
        for _ in 0..statements {
            if body.size > 600 {
                break;
            }
            if self.statement(body, depth) {
                return; // What follows could not be reached.
            }
        }
        while !body.stack.is_empty() && !results.starts_with(&body.stack) {
            self.consume(body);
        }
        for kind in results.iter().skip(body.stack.len()) {
            self.value(body, *kind);
        }
    }

    /// Takes the topmost operand.
    fn consume(&mut self, body: &mut Body) {
        let Some(kind) = body.stack.pop() else {
            return;
        };
        let locals: Vec<u32> = (0..body.locals.len() as u32)
            .filter(|local| body.locals[*local as usize] == kind)
            .collect();
        let globals: Vec<u32> = (0..self.globals.len() as u32)
            .filter(|global| self.globals[*global as usize] == kind && *global != FUEL)
            .collect();
        match self.random.u32(0..6) {
            0..3 if !locals.is_empty() => {
                let local = locals[self.random.usize(0..locals.len())];
                body.sink().local_set(local);
            }
            3..5 if !globals.is_empty() => {
                let global = globals[self.random.usize(0..globals.len())];
                body.sink().global_set(global);
            }
            _ => {
                body.sink().drop();
            }
        }
    }

    fn signature_type(&mut self, depth: u32) -> usize {
        let _ = depth;
        self.random.usize(0..self.types.len())
    }

    /// One statement; true if nothing after it can be reached.
    fn statement(&mut self, body: &mut Body, depth: u32) -> bool {
        match self.random.u32(0..20) {
            0..3 => {
                let kind = kind(&mut self.random);
                self.value(body, kind);
            }
            3..5 => self.operate(body),
            5 => {
                if !body.stack.is_empty() {
                    self.consume(body);
                }
            }
            6 => {
                let kind = kind(&mut self.random);
                let arg = self.memory(kind);
                let address = self.random.i32(0..2000);
                body.sink().i32_const(address);
                body.stack.push(ValType::I32);
                self.value(body, kind);
                let mut sink = body.sink();
                match kind {
                    ValType::I32 => sink.i32_store(arg),
                    ValType::I64 => sink.i64_store(arg),
                    ValType::F32 => sink.f32_store(arg),
                    ValType::F64 => sink.f64_store(arg),
                    _ => sink.v128_store(arg),
                };
                body.stack.truncate(body.stack.len() - 2);
            }
            7..11 if depth > 0 => self.block(body, depth - 1),
            11..15 => self.call(body),
            15 => self.call_indirect(body),
            16..18 => {
                // br_if
                let target = self.random.usize(0..body.labels.len());
                let carries = body.labels[target].carries.clone();
                self.supply(body, &carries);
                self.value(body, ValType::I32);
                body.stack.pop();
                let relative = body.labels.len() - 1 - target;
                let mask = self.random.i32(0..4);
                body.sink().i32_const(mask).i32_and().br_if(relative as u32);
            }
            18 if self.random.u32(0..4) == 0 => return self.leave(body),
            _ => {
                let memory = self.random.u32(0..self.memories);
                if self.random.u32(0..4) == 0 {
                    body.sink().i32_const(1).memory_grow(memory);
                } else {
                    body.sink().memory_size(memory);
                }
                body.stack.push(ValType::I32);
            }
        }
        false
    }

    /// Makes sure that the topmost operands are of these types.
    fn supply(&mut self, body: &mut Body, kinds: &[ValType]) {
        if !body.ends_with(kinds) {
            for kind in kinds {
                self.value(body, *kind);
            }
        }
    }

    fn operate(&mut self, body: &mut Body) {
        let kind = kind(&mut self.random);
        self.supply(body, &[kind, kind]);
        body.stack.pop();
        let which = self.random.u32(0..4);
        let mut sink = body.sink();
        match (kind, which) {
            (ValType::I32, 0) => sink.i32_add(),
            (ValType::I32, 1) => sink.i32_xor(),
            (ValType::I32, 2) => sink.i32_mul(),
            (ValType::I32, _) => sink.i32_sub(),
            (ValType::I64, 0) => sink.i64_add(),
            (ValType::I64, 1) => sink.i64_rotl(),
            (ValType::I64, _) => sink.i64_mul(),
            (ValType::F32, 0) => sink.f32_add(),
            (ValType::F32, _) => sink.f32_mul(),
            (ValType::F64, 0) => sink.f64_sub(),
            (ValType::F64, _) => sink.f64_max(),
            (_, 0) => sink.i32x4_add(),
            (_, _) => sink.v128_xor(),
        };
    }

    fn block(&mut self, body: &mut Body, depth: u32) {
        let index = self.signature_type(depth);
        let (params, results) = if self.random.bool() {
            (Vec::new(), Vec::new())
        } else {
            let signature = &self.types[index];
            (signature.params.clone(), signature.results.clone())
        };
        let kind = if params.is_empty() && results.is_empty() {
            BlockType::Empty
        } else {
            BlockType::FunctionType(index as u32)
        };
        self.supply(body, &params);
        let shape = self.random.u32(0..4);
        if shape == 2 {
            self.value(body, ValType::I32);
            body.stack.pop();
        }
        body.stack.truncate(body.stack.len() - params.len());
        let outer = std::mem::replace(&mut body.stack, params.clone());
        match shape {
            0 | 1 => {
                body.sink().loop_(kind);
                body.labels.push(Label {
                    carries: params.clone(),
                });
                let function = body.labels[0].carries.clone();
                let stack = std::mem::take(&mut body.stack);
                self.burn(body, &function);
                body.stack = stack;
                self.sequence(body, &results, depth);
                self.maybe_repeat(body, &params, &results);
            }
            2 => {
                body.sink().if_(kind);
                body.labels.push(Label {
                    carries: results.clone(),
                });
                self.sequence(body, &results, depth);
                if params != results || self.random.bool() {
                    body.sink().else_();
                    body.stack = params;
                    self.sequence(body, &results, depth);
                }
            }
            _ => {
                body.sink().block(kind);
                body.labels.push(Label {
                    carries: results.clone(),
                });
                self.sequence(body, &results, depth);
            }
        }
        body.sink().end();
        body.labels.pop();
        body.stack = outer;
        body.stack.extend(results);
    }

    /// At the end of a loop: once more, perhaps.
    fn maybe_repeat(&mut self, body: &mut Body, params: &[ValType], results: &[ValType]) {
        if self.random.u32(0..5) == 0 {
            return;
        }
        for kind in params {
            self.value(body, *kind);
        }
        body.sink().global_get(FUEL).i32_const(3).i32_and().br_if(0);
        for _ in params {
            body.sink().drop();
        }
        body.stack = results.to_vec();
    }

    fn call(&mut self, body: &mut Body) {
        let function = self.random.usize(0..self.functions.len());
        let (params, results) = self.signature(function);
        self.supply(body, &params);
        body.stack.truncate(body.stack.len() - params.len());
        body.sink().call(function as u32);
        body.stack.extend(results);
    }

    fn call_indirect(&mut self, body: &mut Body) {
        let function = self.random.usize(0..self.functions.len());
        let (params, results) = self.signature(function);
        self.supply(body, &params);
        // Now and then the wrong function, or none: a trap.
        let index = if self.random.u32(0..40) == 0 {
            self.random.i32(0..self.functions.len() as i32 + 4)
        } else {
            function as i32
        };
        body.stack.truncate(body.stack.len() - params.len());
        let kind = self.functions[function];
        body.sink().i32_const(index).call_indirect(0, kind);
        body.stack.extend(results);
    }

    /// Leaves for good: br, br_table, return or unreachable.
    fn leave(&mut self, body: &mut Body) -> bool {
        let target = self.random.usize(0..body.labels.len());
        let carries = body.labels[target].carries.clone();
        let alike: Vec<u32> = (0..body.labels.len())
            .filter(|label| body.labels[*label].carries == carries)
            .map(|label| (body.labels.len() - 1 - label) as u32)
            .collect();
        let relative = (body.labels.len() - 1 - target) as u32;
        match self.random.u32(0..16) {
            0 => {
                body.sink().unreachable();
            }
            1..4 => {
                let results = body.labels[0].carries.clone();
                self.supply(body, &results);
                body.sink().return_();
            }
            4..9 => {
                self.supply(body, &carries);
                body.sink().br(relative);
            }
            _ => {
                self.supply(body, &carries);
                body.sink().global_get(FUEL).br_table(alike, relative);
            }
        }
        body.stack.clear();
        true
    }
}
