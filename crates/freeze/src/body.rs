//! A function body as a flat list of items with its blocks and its points of freezing on the side.
//!
//! The list is in program order and keeps, for every block, where it opens, where its `else` is
//! and where it ends, so that everything that follows (placing polls, liveness, emission) walks it
//! with explicit stacks: nesting costs memory in proportion, never the machine's stack. Code that
//! can never be reached is left out.

use crate::bulk;
use crate::callgraph::CallGraph;
use crate::error::{Error, Place};
use crate::module::{Module, broken_in};
use crate::scan::catch_label;
use crate::sites::SiteKind;
use crate::types::{plain, plain_types};
use std::ops::Range;
use wasmparser::{BlockType, Catch, FuncValidator, Operator, ValType, ValidatorResources};

/// Index of a block in [`Body::blocks`]; 0 is the function itself.
pub(crate) type BlockId = usize;

/// Index of a point in [`Body::points`].
pub(crate) type PointId = usize;

/// One item of a body.
pub(crate) enum Item<'a> {
    /// An operator that neither opens nor closes a block nor can freeze.
    Plain(Operator<'a>),
    /// A block, loop or if opens.
    Open(BlockId),
    /// The else of an if.
    Else(BlockId),
    /// A block ends. The last item ends block 0.
    End(BlockId),
    /// A poll that is at no loop head: of a recursive function, before it calls back, or after a
    /// call that can freeze.
    Entry(PointId),
    /// A call that can freeze.
    Call(PointId),
    /// An operator on a range of memory that may be long enough to be frozen within.
    Bulk(PointId),
    /// A call in place of a return.
    Tail(TailCall<'a>),
}

/// A call in place of a return: the function leaves no frame, so it is no point of freezing.
pub(crate) struct TailCall<'a> {
    pub operator: Operator<'a>,
    /// Whether it may lead to another activation of the function.
    pub calls_back: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BlockKind {
    Block,
    Loop,
    If,
    /// A block with handlers.
    Try,
}

/// A block of a body.
pub(crate) struct Block {
    pub kind: BlockKind,
    pub signature: BlockType,
    /// The handlers, their labels counted from outside of the block.
    pub catches: Vec<Catch>,
    pub params: Vec<ValType>,
    pub results: Vec<ValType>,
    /// Types of the operands of the surrounding block when this one opens, its parameters and (of
    /// an if) its condition on top.
    pub stack: Vec<ValType>,
    /// Number of operands below `stack`.
    pub base: u32,
    /// Positions of its items.
    pub open: usize,
    pub els: Option<usize>,
    pub end: usize,
    /// Whether any branch leads to it. A loop that is never repeated is taken for a block.
    pub repeats: bool,
    /// Number of loops around it.
    pub loops_around: u32,
    /// The poll at its head, if it is a loop that has one.
    pub head: Option<PointId>,
    /// How often the body of a loop is written for each poll.
    pub copies: u32,
    /// Its points, head included.
    pub points: Range<PointId>,
    /// The first point of its else branch.
    pub else_point: PointId,
}

impl Block {
    /// The items within, `else` included, the opening and the end excluded.
    pub fn inside(&self) -> Range<usize> {
        self.open + 1..self.end
    }

    pub fn has_points(&self) -> bool {
        !self.points.is_empty()
    }

    /// The number of operands it takes from the operand stack.
    pub fn takes(&self) -> usize {
        self.params.len() + usize::from(self.kind == BlockKind::If)
    }
}

/// A point at which the function can freeze: a site, before its frame is laid out.
pub(crate) struct Point<'a> {
    pub kind: SiteKind,
    /// The call or operator on memory, unless it is a poll.
    pub call: Option<Operator<'a>>,
    /// Types of the operands of the surrounding block, the arguments of a call (or the parameters
    /// of a loop) on top.
    pub stack: Vec<ValType>,
    /// Number of operands below `stack`.
    pub base: u32,
    /// How many operands of `stack` the call takes.
    pub takes: usize,
    /// What the call returns.
    pub results: Vec<ValType>,
    /// The locals that are read later, ascending.
    pub live: Vec<u32>,
    /// Whether the call may lead to another call of the function before it returns.
    pub calls_back: bool,
}

/// A function body, taken apart.
pub(crate) struct Body<'a> {
    /// Index of the function in the module as given.
    pub function: u32,
    pub params: usize,
    pub results: Vec<ValType>,
    /// Types of the parameters and locals.
    pub locals: Vec<ValType>,
    pub items: Vec<Item<'a>>,
    /// For every item, whether the operand stack is empty before it.
    pub empty: Vec<bool>,
    pub blocks: Vec<Block>,
    pub points: Vec<Point<'a>>,
}

impl<'a> Body<'a> {
    /// Takes the body of a defined function apart.
    pub fn parse(
        module: &Module<'a>,
        calls: &CallGraph,
        position: usize,
    ) -> Result<Body<'a>, Error> {
        let function = module.imported() + position as u32;
        Reader::read(module, calls, position)
            .map_err(|error| broken_in(Place::function(function), &error))
    }

    /// Appends a poll at which the surrounding block has these operands.
    pub fn poll(&mut self, stack: Vec<ValType>, base: u32) {
        self.items.push(Item::Entry(self.points.len()));
        self.points.push(Point {
            kind: SiteKind::Entry,
            call: None,
            stack,
            base,
            takes: 0,
            results: Vec::new(),
            live: Vec::new(),
            calls_back: false,
        });
    }

    /// A function that only calls a (freezing) import, with the import's own signature.
    pub fn wrapper(module: &Module<'a>, import: u32) -> Body<'a> {
        let signature = module.signature(import);
        let params = plain_types(signature.params());
        let results = plain_types(signature.results());
        let call = Operator::Call {
            function_index: import,
        };
        Body::only(import, call, SiteKind::Host, params, results)
    }

    /// A function, with this index, that only works through a range of memory.
    pub fn range(module: &Module<'a>, range: bulk::Range, function: u32) -> Body<'a> {
        let params = range.params(module).to_vec();
        let operator = range.operator();
        Body::only(function, operator, SiteKind::Bulk, params, Vec::new())
    }

    /// A function that does one thing, with its own parameters and results.
    fn only(
        function: u32,
        operator: Operator<'a>,
        kind: SiteKind,
        params: Vec<ValType>,
        results: Vec<ValType>,
    ) -> Body<'a> {
        let mut items: Vec<Item<'a>> = (0..params.len() as u32)
            .map(|local_index| Item::Plain(Operator::LocalGet { local_index }))
            .collect();
        items.push(match kind {
            SiteKind::Bulk => Item::Bulk(0),
            _ => Item::Call(0),
        });
        items.push(Item::End(0));
        let point = Point {
            kind,
            call: Some(operator),
            stack: params.clone(),
            base: 0,
            takes: params.len(),
            results: results.clone(),
            live: Vec::new(),
            calls_back: false,
        };
        let mut root = new_block(BlockKind::Block, BlockType::Empty, 0);
        root.results.clone_from(&results);
        root.end = items.len() - 1;
        Body {
            function,
            params: params.len(),
            results,
            locals: params,
            empty: vec![false; items.len()],
            items,
            blocks: vec![root],
            points: vec![point],
        }
    }
}

fn new_block(kind: BlockKind, signature: BlockType, open: usize) -> Block {
    Block {
        kind,
        signature,
        catches: Vec::new(),
        params: Vec::new(),
        results: Vec::new(),
        stack: Vec::new(),
        base: 0,
        open,
        els: None,
        end: open,
        repeats: false,
        loops_around: 0,
        head: None,
        copies: 1,
        points: 0..0,
        else_point: 0,
    }
}

/// Reads a body, with the validator beside it to tell the types on the operand stack.
struct Reader<'m, 'a> {
    module: &'m Module<'a>,
    calls: &'m CallGraph,
    validator: FuncValidator<ValidatorResources>,
    body: Body<'a>,
    /// The blocks that are open.
    open: Vec<BlockId>,
    loops: u32,
    /// Blocks that are open within unreachable code.
    unreachable: usize,
    /// The operator before.
    previous: Option<Operator<'a>>,
}

impl<'m, 'a> Reader<'m, 'a> {
    fn read(
        module: &'m Module<'a>,
        calls: &'m CallGraph,
        position: usize,
    ) -> wasmparser::Result<Body<'a>> {
        let defined = &module.functions[position];
        let function = module.imported() + position as u32;
        let signature = module.signature(function);
        let mut validator = defined.validation().into_validator(Default::default());
        validator.read_locals(&mut defined.body.get_binary_reader())?;
        let mut locals = plain_types(signature.params());
        for group in defined.body.get_locals_reader()? {
            let (count, kind) = group?;
            locals.extend(std::iter::repeat_n(plain(kind), count as usize));
        }
        let mut root = new_block(BlockKind::Block, BlockType::Empty, 0);
        root.results = plain_types(signature.results());
        let mut reader = Reader {
            module,
            calls,
            validator,
            body: Body {
                function,
                params: signature.params().len(),
                results: plain_types(signature.results()),
                locals,
                items: Vec::new(),
                empty: Vec::new(),
                blocks: vec![root],
                points: Vec::new(),
            },
            open: vec![0],
            loops: 0,
            unreachable: 0,
            previous: None,
        };
        let mut operators = defined.body.get_operators_reader()?;
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset()?;
            reader.take(operator.clone(), offset)?;
            reader.previous = Some(operator);
        }
        Ok(reader.body)
    }

    fn take(&mut self, operator: Operator<'a>, offset: u64) -> wasmparser::Result<()> {
        if self.skipped(&operator) {
            return self.validator.op(offset, &operator);
        }
        let empty = self.validator.operand_stack_height() == 0;
        match operator {
            Operator::Block { blockty } => self.opens(BlockKind::Block, blockty, Vec::new()),
            Operator::Loop { blockty } => self.opens(BlockKind::Loop, blockty, Vec::new()),
            Operator::If { blockty } => self.opens(BlockKind::If, blockty, Vec::new()),
            Operator::TryTable { ref try_table } => {
                for catch in &try_table.catches {
                    self.leads_to(catch_label(catch));
                }
                self.opens(BlockKind::Try, try_table.ty, try_table.catches.clone());
            }
            Operator::Else => {
                let block = self.open[self.open.len() - 1];
                self.body.blocks[block].els = Some(self.body.items.len());
                self.body.items.push(Item::Else(block));
            }
            Operator::End => {
                if let Some(id) = self.open.pop() {
                    let block = &mut self.body.blocks[id];
                    block.end = self.body.items.len();
                    if block.kind == BlockKind::Loop {
                        self.loops -= 1;
                        if !block.repeats {
                            block.kind = BlockKind::Block;
                        }
                    }
                    self.body.items.push(Item::End(id));
                }
            }
            Operator::Call { function_index } if self.calls.may_freeze(function_index) => {
                let signature = self.module.signature(function_index);
                let host = function_index < self.module.imported();
                let calls_back = self.calls.calls_back(self.body.function, function_index);
                let kind = if host { SiteKind::Host } else { SiteKind::Call };
                let results = plain_types(signature.results());
                let params = signature.params().len();
                self.call(operator.clone(), kind, params, results, calls_back);
            }
            Operator::CallIndirect {
                type_index,
                table_index,
            } if self.calls.may_freeze_indirect(table_index, type_index) => {
                let signature = &self.module.types[type_index as usize];
                let params = signature.params().len() + 1;
                let results = plain_types(signature.results());
                let caller = self.body.function;
                let calls_back = self
                    .calls
                    .calls_back_indirect(caller, table_index, type_index);
                self.call(
                    operator.clone(),
                    SiteKind::Call,
                    params,
                    results,
                    calls_back,
                );
            }
            Operator::ReturnCall { function_index } => {
                let calls_back = self.calls.calls_back(self.body.function, function_index);
                self.tail_call(operator.clone(), calls_back);
            }
            Operator::ReturnCallIndirect {
                type_index,
                table_index,
            } => {
                let caller = self.body.function;
                let calls_back = self
                    .calls
                    .calls_back_indirect(caller, table_index, type_index);
                self.tail_call(operator.clone(), calls_back);
            }
            _ if bulk::is_long(self.module, self.previous.as_ref(), &operator) => {
                let (stack, base) = self.operands();
                self.body.items.push(Item::Bulk(self.body.points.len()));
                self.body.points.push(Point {
                    kind: SiteKind::Call,
                    call: Some(operator.clone()),
                    stack,
                    base,
                    takes: 3,
                    results: Vec::new(),
                    live: Vec::new(),
                    calls_back: false,
                });
            }
            _ => {
                self.branches(&operator);
                self.body.items.push(Item::Plain(operator.clone()));
            }
        }
        self.body.empty.resize(self.body.items.len(), empty);
        self.validator.op(offset, &operator)
    }

    fn tail_call(&mut self, operator: Operator<'a>, calls_back: bool) {
        self.body.items.push(Item::Tail(TailCall {
            operator,
            calls_back,
        }));
    }

    /// Notes that a branch leads to a block that is open.
    fn leads_to(&mut self, depth: u32) {
        if let Some(target) = self.open.len().checked_sub(1 + depth as usize) {
            self.body.blocks[self.open[target]].repeats = true;
        }
    }

    /// Notes the loops that an operator may lead back to.
    fn branches(&mut self, operator: &Operator<'a>) {
        let mut branch = |depth: u32| self.leads_to(depth);
        match operator {
            Operator::Br { relative_depth } | Operator::BrIf { relative_depth } => {
                branch(*relative_depth);
            }
            Operator::BrTable { targets } => {
                branch(targets.default());
                targets.targets().flatten().for_each(branch);
            }
            _ => {}
        }
    }

    /// Whether an operator is in code that can never be reached, and so is left out. The validator
    /// takes a block that opens in such code for reachable again, so they are counted here.
    fn skipped(&mut self, operator: &Operator<'a>) -> bool {
        let frame = self.validator.get_control_frame(0);
        let ends = frame.is_some_and(|frame| frame.unreachable);
        match operator {
            Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::TryTable { .. } => {
                let skipped = ends || self.unreachable > 0;
                self.unreachable += usize::from(skipped);
                skipped
            }
            Operator::Else => self.unreachable > 0,
            Operator::End => {
                let skipped = self.unreachable > 0;
                self.unreachable -= usize::from(skipped);
                skipped
            }
            _ => ends || self.unreachable > 0,
        }
    }

    /// The operands of the innermost block, and the number of those below it.
    fn operands(&self) -> (Vec<ValType>, u32) {
        let base = match self.validator.get_control_frame(0) {
            Some(frame) => frame.height,
            None => 0,
        };
        let height = self.validator.operand_stack_height() as usize;
        let types = (0..height.saturating_sub(base)).rev().map(|depth| {
            // Only unreachable code has operands of no type, and that is left out.
            let operand = self.validator.get_operand_type(depth);
            plain(operand.flatten().unwrap_or(ValType::I32))
        });
        (types.collect(), base as u32)
    }

    fn opens(&mut self, kind: BlockKind, signature: BlockType, catches: Vec<Catch>) {
        let id = self.body.blocks.len();
        let mut block = new_block(kind, signature, self.body.items.len());
        (block.params, block.results) = self.module.block_signature(signature);
        block.catches = catches;
        (block.stack, block.base) = self.operands();
        block.loops_around = self.loops;
        self.loops += u32::from(kind == BlockKind::Loop);
        self.body.blocks.push(block);
        self.body.items.push(Item::Open(id));
        self.open.push(id);
    }

    fn call(
        &mut self,
        operator: Operator<'a>,
        kind: SiteKind,
        takes: usize,
        results: Vec<ValType>,
        calls_back: bool,
    ) {
        let (stack, base) = self.operands();
        self.body.items.push(Item::Call(self.body.points.len()));
        self.body.points.push(Point {
            kind,
            call: Some(operator),
            stack,
            base,
            takes,
            results,
            live: Vec::new(),
            calls_back,
        });
    }
}
