//! Writes the code of an instrumented function: its run form, or its clone for thawing.
//!
//! Both forms come from one walk over the flat body ([`walk`]); here is what the walk writes with.
//!
//! **Run form.** The function as given, and at every point of freezing a cold path, which saves the
//! live values as a frame and returns dummies. A cold path never returns into the code around it: if
//! it did, floats would be spilled in the hot path. Nor do cold paths share code: where they met, all
//! that a local is at any of them would become one value, which a register allocator tries to keep in
//! one place, and loops would pay for it.
//!
//! **Clone.** A function without parameters that takes the outermost frame off the frames memory,
//! jumps to its site with the saved values in place, and goes on from there. What can be reached
//! only by that jump is written without alternatives, and a loop is *peeled*: first the rest of the
//! turn in which it was frozen, then the loop as in the run form. So no way back to a loop head
//! passes a dispatch, and a loop runs after a thaw as fast as before.

mod bulk;
mod dispatch;
mod frame;
mod walk;

use crate::Poll;
use crate::body::{Body, PointId};
use crate::error::{Error, Place};
use crate::interface::{FLAG_COUNTDOWN, FLAG_REQUEST, FLAG_SCRATCH};
use crate::remap::{Indices, Remap, value_type};
use crate::sites::{Site, SiteKind};
use crate::types::Types;
use frame::null_of;
use std::collections::HashMap;
use wasm_encoder::{BlockType, Catch, InstructionSink, MemArg, MemArgTarget};
use wasmparser::ValType;

/// Largest body that engines accept.
const MAX_FUNCTION_BYTES: usize = 7_654_321;

/// Most locals that engines accept.
const MAX_LOCALS: usize = 50_000;

/// Which code to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Run,
    Clone,
}

/// What all functions of a module share.
pub(crate) struct Context<'c> {
    pub indices: &'c Indices,
    pub remap: &'c Remap,
    pub types: &'c mut Types,
    pub poll: Poll,
    /// Of every memory of the module as given, whether its addresses have 64 bits.
    pub wide_memories: Vec<bool>,
}

/// The code of a function.
pub(crate) struct Emitted {
    /// Its operators, the last `end` included.
    pub code: Vec<u8>,
    /// Types of its locals beyond its parameters.
    pub locals: Vec<wasm_encoder::ValType>,
    /// Offsets in `code` of the ifs that are hardly ever taken.
    pub cold: Vec<usize>,
    /// Its sites, by number.
    pub sites: Vec<Site>,
}

/// Writes one form of a function.
pub(crate) fn emit(
    context: &mut Context<'_>,
    body: &Body<'_>,
    function_id: u32,
    form: Form,
) -> Result<Emitted, Error> {
    let mut emitter = Emitter::new(context, body, function_id, form);
    emitter.walk()?;
    if emitter.locals.len() > MAX_LOCALS {
        return Err(emitter.too_large(format!("it would need more than {MAX_LOCALS} locals")));
    }
    let params = match form {
        Form::Run => body.params,
        Form::Clone => 0,
    };
    let locals = emitter.locals.iter().skip(params);
    Ok(Emitted {
        locals: locals.map(|kind| value_type(*kind)).collect(),
        code: emitter.code,
        cold: emitter.cold,
        sites: emitter.sites,
    })
}

/// A block of the code being written, counted from the function's own, 0.
type Label = u32;

struct Emitter<'e, 'c, 'a> {
    context: &'e mut Context<'c>,
    body: &'e Body<'a>,
    function_id: u32,
    form: Form,

    code: Vec<u8>,
    cold: Vec<usize>,
    sites: Vec<Site>,
    /// Types of all locals: the function's, then our own.
    locals: Vec<ValType>,
    /// Local that holds the address of the frame in hand.
    frame: u32,
    /// Local of a clone that holds the site to resume at, and -1 once it has been resumed.
    resume: u32,
    /// Locals that hold operands over a point of freezing, by height and type.
    spills: HashMap<(u32, ValType), u32>,
    /// The locals that hold the operands below the block in hand, lowest operand first.
    spilled: Vec<u32>,

    /// Number of open blocks in the code, the function's own included.
    depth: u32,
    /// For every open block of the body: where a branch to it leads.
    labels: Vec<Label>,
    open: Vec<walk::OpenBlock>,
    /// Ways that an outer dispatch has left to an inner one.
    pending: Vec<dispatch::Way>,
}

impl<'e, 'c, 'a> Emitter<'e, 'c, 'a> {
    fn new(
        context: &'e mut Context<'c>,
        body: &'e Body<'a>,
        function_id: u32,
        form: Form,
    ) -> Emitter<'e, 'c, 'a> {
        let mut locals = body.locals.clone();
        let frame = locals.len() as u32;
        let resume = frame + 1;
        locals.push(ValType::I32);
        if form == Form::Clone {
            locals.push(ValType::I32);
        }
        Emitter {
            context,
            body,
            function_id,
            form,
            code: Vec::new(),
            cold: Vec::new(),
            sites: Vec::new(),
            locals,
            frame,
            resume,
            spills: HashMap::new(),
            spilled: Vec::new(),
            depth: 1,
            labels: Vec::new(),
            open: Vec::new(),
            pending: Vec::new(),
        }
    }

    fn place(&self) -> Place {
        Place::function(self.body.function)
    }

    fn too_large(&self, what: String) -> Error {
        Error::too_large(self.place(), what)
    }

    fn check_size(&self) -> Result<(), Error> {
        if self.code.len() > MAX_FUNCTION_BYTES {
            let what = format!("its code would exceed {MAX_FUNCTION_BYTES} bytes");
            return Err(self.too_large(what));
        }
        Ok(())
    }

    fn write(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.code)
    }

    // Blocks.

    fn open_block(&mut self, kind: BlockType) -> Label {
        self.write().block(kind);
        self.depth += 1;
        self.depth - 1
    }

    fn open_loop(&mut self, kind: BlockType) -> Label {
        self.write().loop_(kind);
        self.depth += 1;
        self.depth - 1
    }

    fn open_if(&mut self, kind: BlockType) -> Label {
        self.write().if_(kind);
        self.depth += 1;
        self.depth - 1
    }

    /// A block with handlers. Handlers lead to blocks that are open already, and every such block
    /// takes what its original does.
    fn open_try(&mut self, kind: BlockType, catches: &[wasmparser::Catch]) -> Label {
        use wasmparser::Catch as Given;
        let outer = |depth: u32| {
            let label = self.labels[self.labels.len() - 1 - depth as usize];
            self.relative(label)
        };
        let catches: Vec<Catch> = catches
            .iter()
            .map(|catch| match *catch {
                Given::One { tag, label } => Catch::One {
                    tag,
                    label: outer(label),
                },
                Given::OneRef { tag, label } => Catch::OneRef {
                    tag,
                    label: outer(label),
                },
                Given::All { label } => Catch::All {
                    label: outer(label),
                },
                Given::AllRef { label } => Catch::AllRef {
                    label: outer(label),
                },
            })
            .collect();
        self.write().try_table(kind, catches);
        self.depth += 1;
        self.depth - 1
    }

    /// An if that is hardly ever taken.
    fn open_cold_if(&mut self) -> Label {
        self.cold.push(self.code.len());
        self.open_if(BlockType::Empty)
    }

    fn close(&mut self) {
        self.write().end();
        self.depth -= 1;
    }

    /// The label as a branch from here names it.
    fn relative(&self, label: Label) -> u32 {
        self.depth - 1 - label
    }

    fn branch(&mut self, label: Label) {
        let depth = self.relative(label);
        self.write().br(depth);
    }

    fn block_type(&mut self, params: &[ValType], results: &[ValType]) -> BlockType {
        self.context.types.block(params, results)
    }

    // Operands and locals.

    fn spill(&mut self, height: u32, kind: ValType) -> u32 {
        let next = self.locals.len() as u32;
        let local = *self.spills.entry((height, kind)).or_insert(next);
        if local == next {
            self.locals.push(kind);
        }
        local
    }

    /// The locals for operands of these types from `base` up.
    fn spills_for(&mut self, base: u32, types: &[ValType]) -> Vec<u32> {
        let operands = types.iter().zip(base..);
        operands
            .map(|(kind, height)| self.spill(height, *kind))
            .collect()
    }

    /// Moves the topmost operands into locals.
    fn pop_into(&mut self, locals: &[u32]) {
        for local in locals.iter().rev() {
            self.write().local_set(*local);
        }
    }

    fn push_from(&mut self, locals: &[u32]) {
        for local in locals {
            self.write().local_get(*local);
        }
    }

    /// After something that ran with the operands `below` it spilled has left `results`: puts all
    /// of them on the operand stack.
    fn put_back(&mut self, below: &[u32], base: u32, results: &[ValType]) {
        if below.is_empty() {
            return;
        }
        let results = self.spills_for(base + below.len() as u32, results);
        self.pop_into(&results);
        self.push_from(below);
        self.push_from(&results);
    }

    // Freezing.

    fn in_flags(&self, offset: u32) -> MemArg {
        MemArg {
            offset: offset.into(),
            align: 2,
            target: MemArgTarget::Memory(self.context.indices.flag_memory),
            ordering: None,
        }
    }

    /// Pushes whether a freeze is asked for.
    fn ask(&mut self) {
        let request = self.in_flags(FLAG_REQUEST);
        match self.context.poll {
            Poll::Atomic => {
                self.write().i32_const(0).i32_atomic_load(request);
            }
            Poll::Plain => {
                // The store keeps the compiler from taking the load out of a loop: for all it
                // knows, the two words are one.
                let scratch = self.in_flags(FLAG_SCRATCH);
                self.write().i32_const(0).i32_const(0).i32_store(scratch);
                self.write().i32_const(0).i32_load(request);
            }
            Poll::Countdown => {
                let (countdown, left) = (self.in_flags(FLAG_COUNTDOWN), self.frame);
                self.write()
                    .i32_const(0)
                    .i32_const(0)
                    .i32_load(countdown)
                    .i32_const(1)
                    .i32_sub()
                    .local_tee(left)
                    .i32_store(countdown);
                self.write().local_get(left).i32_eqz();
                self.write().i32_const(0).i32_load(request).i32_or();
            }
        }
    }

    /// Asks for a freeze, if a host function has frozen without being asked: a poll after a call
    /// looks at nothing else.
    fn raise(&mut self) {
        let request = self.in_flags(FLAG_REQUEST);
        let mut sink = self.write();
        sink.i32_const(0).i32_const(1);
        match self.context.poll {
            Poll::Atomic => self.write().i32_atomic_store(request),
            Poll::Plain | Poll::Countdown => self.write().i32_store(request),
        };
    }

    /// A poll: freezes if that is asked for.
    fn poll(&mut self, point: PointId, values: &[u32]) -> Result<(), Error> {
        self.ask();
        self.open_cold_if();
        self.leave(point, values)?;
        self.close();
        Ok(())
    }

    /// After a call and at a poll behind it: freezes this function if the callee did, or if that is
    /// asked for. The callee freezes only while it is asked for, so one look is enough.
    fn follow_and_poll(
        &mut self,
        call: (PointId, &[u32]),
        poll: (PointId, &[u32]),
    ) -> Result<(), Error> {
        let frozen = self.context.indices.frozen;
        if self.context.poll == Poll::Countdown {
            // A countdown that ends asks for nothing, and what follows a freeze is not counted.
            self.write().global_get(frozen);
            self.open_if(BlockType::Result(wasm_encoder::ValType::I32));
            self.write().i32_const(1).else_();
            self.ask();
            self.close();
        } else {
            self.ask();
        }
        self.open_cold_if();
        self.write().global_get(frozen);
        self.open_if(BlockType::Empty);
        self.leave(call.0, call.1)?;
        self.close();
        self.leave(poll.0, poll.1)?;
        self.close();
        Ok(())
    }

    /// After a call: freezes this function too if the callee did.
    fn follow(&mut self, point: PointId, values: &[u32]) -> Result<(), Error> {
        let frozen = self.context.indices.frozen;
        self.write().global_get(frozen);
        self.open_cold_if();
        if self.body.points[point].kind == SiteKind::Host {
            self.raise();
        }
        self.leave(point, values)?;
        self.close();
        Ok(())
    }

    /// Freezes this function at a point: saves these values as a frame and returns.
    fn leave(&mut self, point: PointId, values: &[u32]) -> Result<(), Error> {
        if self.form == Form::Run {
            // Sites are numbered in program order, and each is written once in the run form.
            debug_assert_eq!(self.sites.len(), point);
            let kind = self.body.points[point].kind;
            let slots = self.slots(values)?;
            self.sites.push(Site { kind, slots });
        }
        self.push_frame(point, values)?;
        let frozen = self.context.indices.frozen;
        self.write().i32_const(1).global_set(frozen);
        self.return_dummies();
        self.check_size()
    }

    fn return_dummies(&mut self) {
        for result in &self.body.results {
            let mut sink = InstructionSink::new(&mut self.code);
            match result {
                ValType::I32 => sink.i32_const(0),
                ValType::I64 => sink.i64_const(0),
                ValType::F32 => sink.f32_const(0.0.into()),
                ValType::F64 => sink.f64_const(0.0.into()),
                ValType::V128 => sink.v128_const(0),
                ValType::Ref(_) => sink.ref_null(null_of(*result)),
            };
        }
        self.write().return_();
    }
}
