//! The walk over a body that writes a function, item by item.
//!
//! The position in the body moves forward, but for a loop, whose body may be walked several times:
//! once for every copy of an unrolled loop, and in a clone once more before, for the rest of the
//! turn in which it was frozen. A stack of [`OpenBlock`]s says what to do at an end.

use super::dispatch::{Arrival, Dispatch, Entry};
use super::{Emitter, Form, Label};
use crate::body::{BlockId, BlockKind, Item, PointId};
use crate::error::Error;
use crate::sites::SiteKind;
use wasm_encoder::BlockType;
use wasmparser::Operator;

/// A block of the body that is being written.
pub(super) struct OpenBlock {
    /// Set while its sequence in hand is entered to resume.
    pub dispatch: Option<Dispatch>,
    shape: Shape,
    /// The locals that hold the operands below the block.
    below: Vec<u32>,
    /// The locals that hold its parameters.
    params: Vec<u32>,
}

/// What a block has become in the code, and so what to do at its end.
enum Shape {
    /// Itself, without any point of freezing in it.
    AsGiven,
    /// A block.
    Block,
    /// An if; its else branch is entered as its then branch was.
    If(Entry),
    /// An if of which only one branch can be reached: a block.
    OneBranch,
    /// The loop itself, perhaps within a block for leaving it; `copies` of its body are still to
    /// be written after this one.
    Loop {
        exit: Option<Label>,
        turn: Label,
        copies: u32,
    },
    /// The rest of the turn in which a loop was frozen: the loop itself follows.
    Rest { exit: Label },
}

impl<'a> Emitter<'_, '_, 'a> {
    /// Writes the whole function.
    pub(super) fn walk(&mut self) -> Result<(), Error> {
        let end = self.body.items.len() - 1;
        self.labels.push(0);
        let entry = match self.form {
            Form::Run => Entry::Start,
            Form::Clone => {
                if self.asks() {
                    self.load_from_top(4);
                    let resume = self.resume;
                    self.write().local_set(resume);
                }
                Entry::Resume
            }
        };
        let (dispatch, mut position) = self.begin(0..end, &[], entry);
        self.open.push(OpenBlock {
            dispatch,
            shape: Shape::Block,
            below: Vec::new(),
            params: Vec::new(),
        });
        while position < end {
            self.check_size()?;
            position = match &self.body.items[position] {
                Item::Plain(operator) => {
                    self.plain(operator);
                    position + 1
                }
                Item::Entry(point) => {
                    self.entry(*point)?;
                    position + 1
                }
                Item::Call(point) => self.call(*point, position)?,
                Item::Bulk(point) => {
                    self.bulk(*point)?;
                    position + 1
                }
                Item::Tail(call) => {
                    // Through the wrapper, if it is an import: that leaves a frame.
                    self.context.remap.write(&call.operator, &mut self.code);
                    position + 1
                }
                Item::Open(id) => self.opens(*id)?,
                Item::Else(id) => self.turns_to_else(*id),
                Item::End(id) => self.ends(*id)?,
            };
        }
        self.write().end();
        Ok(())
    }

    fn plain(&mut self, operator: &Operator<'a>) {
        let label = |depth: u32| {
            let label = self.labels[self.labels.len() - 1 - depth as usize];
            self.relative(label)
        };
        match operator {
            Operator::Br { relative_depth } => {
                let depth = label(*relative_depth);
                self.write().br(depth);
            }
            Operator::BrIf { relative_depth } => {
                let depth = label(*relative_depth);
                self.write().br_if(depth);
            }
            Operator::BrTable { targets } => {
                let depths: Vec<u32> = targets.targets().flatten().map(label).collect();
                let default = label(targets.default());
                self.write().br_table(depths, default);
            }
            other => self.context.remap.write(other, &mut self.code),
        }
    }

    fn entry(&mut self, point: PointId) -> Result<(), Error> {
        let poll = &self.body.points[point];
        let operands = self.spills_for(poll.base, &poll.stack);
        let Arrival { operands, entry } = self.arrive(operands);
        self.spilled.extend(&operands);
        let values = self.values(point, &[]);
        self.resume_with(point, entry, &values)?;
        // Resumed, it polls again: a flag that is still set freezes the same state once more.
        self.poll(point, &values)?;
        self.spilled.truncate(self.spilled.len() - operands.len());
        self.push_from(&operands);
        Ok(())
    }

    /// Writes a call, and with it the poll behind it if there is one that cannot be jumped to. Tells
    /// the position to go on at.
    fn call(&mut self, id: PointId, position: usize) -> Result<usize, Error> {
        let point = &self.body.points[id];
        let Some(operator) = &point.call else {
            return Ok(position + 1);
        };
        let host = point.kind == SiteKind::Host;
        let resumes = self.open.last().is_some_and(|b| b.dispatch.is_some());
        let below = point.stack.len() - point.takes;
        let poll = match self.body.items.get(position + 1) {
            Some(Item::Entry(poll)) if !resumes && !host => Some(*poll),
            _ => None,
        };
        if !resumes && !host && below == 0 && poll.is_none() {
            // Nothing is to be kept in locals.
            self.call_operator(operator);
            let values = self.values(id, &[]);
            self.follow(id, &values)?;
            return Ok(position + 1);
        }

        let operands = self.spills_for(point.base, &point.stack);
        let arrival = self.arrive(operands);
        let (below, arguments) = arrival.operands.split_at(below);
        self.spilled.extend(below);
        let values = self.values(id, if host { arguments } else { &[] });
        let asks = arrival.entry == Entry::Both;
        let results = self.block_type(&[], &point.results);
        if arrival.entry == Entry::Start || host {
            // A host call that froze is issued again, with the same arguments.
            self.resume_with(id, arrival.entry, &values)?;
            self.push_from(arguments);
            self.call_operator(operator);
        } else {
            if asks {
                self.resumes_at(id);
                self.open_if(results);
            }
            self.restore(&values)?;
            self.call_clone(&point.results);
            if asks {
                self.write().else_();
                self.push_from(arguments);
                self.call_operator(operator);
                self.close();
            }
        }
        if let Some(poll) = poll {
            let results = self.spills_for(point.base + below.len() as u32, &point.results);
            self.pop_into(&results);
            let at_poll = self.values(poll, &results);
            self.follow_and_poll((id, &values), (poll, &at_poll))?;
            self.spilled.truncate(self.spilled.len() - below.len());
            self.push_from(below);
            self.push_from(&results);
            return Ok(position + 2);
        }
        self.follow(id, &values)?;
        self.spilled.truncate(self.spilled.len() - below.len());
        self.put_back(below, point.base, &point.results);
        Ok(position + 1)
    }

    /// Where a point is resumed by doing again what it stands before: pops its frame, if it is the
    /// one to resume at.
    pub(super) fn resume_with(
        &mut self,
        point: PointId,
        entry: Entry,
        values: &[u32],
    ) -> Result<(), Error> {
        match entry {
            Entry::Start => Ok(()),
            Entry::Resume => self.restore(values),
            Entry::Both => {
                self.resumes_at(point);
                self.open_if(BlockType::Empty);
                self.restore(values)?;
                self.close();
                Ok(())
            }
        }
    }

    /// Writes the call itself. Imports are called directly, never through their wrappers.
    fn call_operator(&mut self, operator: &Operator<'a>) {
        match operator {
            Operator::Call { function_index } => {
                self.write().call(*function_index);
            }
            other => self.context.remap.write(other, &mut self.code),
        }
    }

    fn opens(&mut self, id: BlockId) -> Result<usize, Error> {
        let block = &self.body.blocks[id];
        if !block.has_points() {
            let kind = self.context.remap.block_type(block.signature);
            let label = match block.kind {
                BlockKind::Block => self.open_block(kind),
                BlockKind::Loop => self.open_loop(kind),
                BlockKind::If => self.open_if(kind),
                BlockKind::Try => self.open_try(kind, &block.catches),
            };
            self.push_block(label, None, Shape::AsGiven, Vec::new(), Vec::new());
            return Ok(block.open + 1);
        }
        let operands = self.spills_for(block.base, &block.stack);
        let arrival = self.arrive(operands);
        let below = arrival.operands.len() - block.takes();
        let (below, taken) = arrival.operands.split_at(below);
        let (params, condition) = taken.split_at(block.params.len());
        self.spilled.extend(below);
        let (below, params) = (below.to_vec(), params.to_vec());
        match block.kind {
            BlockKind::Block | BlockKind::Try => {
                let kind = self.block_type(&[], &block.results);
                let label = match block.kind {
                    BlockKind::Try => self.open_try(kind, &block.catches),
                    _ => self.open_block(kind),
                };
                let (dispatch, next) = self.begin(block.inside(), &params, arrival.entry);
                self.push_block(label, dispatch, Shape::Block, below, params);
                Ok(next)
            }
            BlockKind::If => Ok(self.opens_if(id, arrival.entry, condition, below, params)),
            BlockKind::Loop => self.opens_loop(id, arrival.entry, below, params),
        }
    }

    fn push_block(
        &mut self,
        label: Label,
        dispatch: Option<Dispatch>,
        shape: Shape,
        below: Vec<u32>,
        params: Vec<u32>,
    ) {
        self.labels.push(label);
        self.open.push(OpenBlock {
            dispatch,
            shape,
            below,
            params,
        });
    }

    fn opens_if(
        &mut self,
        id: BlockId,
        entry: Entry,
        condition: &[u32],
        below: Vec<u32>,
        params: Vec<u32>,
    ) -> usize {
        let block = &self.body.blocks[id];
        let kind = self.block_type(&[], &block.results);
        let then = block.open + 1..block.els.unwrap_or(block.end);
        let in_then = block.points.start < block.else_point;
        let in_else = block.else_point < block.points.end;
        if entry == Entry::Resume && !(in_then && in_else) {
            let label = self.open_block(kind);
            let branch = match block.els {
                Some(els) if in_else => els + 1..block.end,
                _ => then,
            };
            let (dispatch, next) = self.begin(branch, &params, entry);
            self.push_block(label, dispatch, Shape::OneBranch, below, params);
            return next;
        }
        match entry {
            Entry::Start => self.push_from(condition),
            Entry::Resume => self.resumes_before(block.else_point),
            Entry::Both => {
                self.push_from(condition);
                self.resumes_before(block.else_point);
                self.resumes_nowhere();
                self.write().select();
            }
        }
        let label = self.open_if(kind);
        let (dispatch, next) = self.begin(then, &params, entry);
        self.push_block(label, dispatch, Shape::If(entry), below, params);
        next
    }

    fn turns_to_else(&mut self, id: BlockId) -> usize {
        let block = &self.body.blocks[id];
        let next = block.els.map_or(block.end, |els| els + 1);
        let Some(open) = self.open.last() else {
            return next;
        };
        match open.shape {
            Shape::OneBranch => block.end,
            Shape::If(entry) => {
                let params = open.params.clone();
                self.write().else_();
                let (dispatch, next) = self.begin(next..block.end, &params, entry);
                if let Some(open) = self.open.last_mut() {
                    open.dispatch = dispatch;
                }
                next
            }
            _ => {
                self.write().else_();
                next
            }
        }
    }

    fn opens_loop(
        &mut self,
        id: BlockId,
        entry: Entry,
        below: Vec<u32>,
        params: Vec<u32>,
    ) -> Result<usize, Error> {
        let block = &self.body.blocks[id];
        let results = self.block_type(&[], &block.results);
        if entry == Entry::Start {
            let exit = (block.copies > 1).then(|| self.open_block(results));
            self.push_from(&params);
            return self.turns(id, exit, below, params);
        }

        // The block `exit` holds everything; the end of `head` leads to the loop itself.
        let exit = self.open_block(results);
        let kind = self.block_type(&[], &block.params);
        let head = self.open_block(kind);
        if entry == Entry::Both {
            self.resumes_nowhere();
            if params.is_empty() {
                self.write().br_if(0);
            } else {
                self.open_if(BlockType::Empty);
                self.push_from(&params);
                self.branch(head);
                self.close();
            }
        }
        let more = block.points.len() > usize::from(block.head.is_some());
        if let Some(point) = block.head {
            let values = self.values(point, &params);
            if more {
                self.resumes_at(point);
                self.open_if(BlockType::Empty);
            }
            self.restore(&values)?;
            self.push_from(&params);
            if more {
                self.branch(head);
                self.close();
            }
        }
        if more {
            let (dispatch, next) = self.begin(block.inside(), &[], Entry::Resume);
            self.push_block(head, dispatch, Shape::Rest { exit }, below, params);
            return Ok(next);
        }
        self.close();
        self.resumed();
        self.turns(id, Some(exit), below, params)
    }

    /// The loop itself, its parameters on the operand stack.
    fn turns(
        &mut self,
        id: BlockId,
        exit: Option<Label>,
        below: Vec<u32>,
        params: Vec<u32>,
    ) -> Result<usize, Error> {
        let block = &self.body.blocks[id];
        let kind = self.block_type(&block.params, &block.results);
        let turn = self.open_loop(kind);
        if let Some(point) = block.head {
            self.pop_into(&params);
            let values = self.values(point, &params);
            self.poll(point, &values)?;
            self.push_from(&params);
        }
        let copies = block.copies - 1;
        let label = if copies > 0 {
            let kind = self.block_type(&block.params, &block.params);
            self.open_block(kind)
        } else {
            turn
        };
        let shape = Shape::Loop { exit, turn, copies };
        self.push_block(label, None, shape, below, params);
        Ok(block.open + 1)
    }

    fn ends(&mut self, id: BlockId) -> Result<usize, Error> {
        let block = &self.body.blocks[id];
        let Some(open) = self.open.pop() else {
            return Ok(block.end + 1);
        };
        self.labels.pop();
        match open.shape {
            Shape::AsGiven => {
                self.close();
                return Ok(block.end + 1);
            }
            Shape::Block | Shape::OneBranch => self.close(),
            Shape::If(_) => {
                if block.els.is_none() && !open.params.is_empty() {
                    self.write().else_();
                    self.push_from(&open.params);
                }
                self.close();
            }
            Shape::Rest { exit } => {
                self.branch(exit);
                self.close();
                self.resumed();
                return self.turns(id, Some(exit), open.below, open.params);
            }
            Shape::Loop { exit, turn, copies } => {
                if copies > 0
                    && let Some(exit_label) = exit
                {
                    // The next copy follows: a branch to the loop has come here.
                    self.branch(exit_label);
                    self.close();
                    let copies = copies - 1;
                    let label = if copies > 0 {
                        let kind = self.block_type(&block.params, &block.params);
                        self.open_block(kind)
                    } else {
                        turn
                    };
                    let shape = Shape::Loop { exit, turn, copies };
                    self.push_block(label, None, shape, open.below, open.params);
                    return Ok(block.open + 1);
                }
                self.close();
                if exit.is_some() {
                    self.close();
                }
            }
        }
        self.spilled.truncate(self.spilled.len() - open.below.len());
        self.put_back(&open.below, block.base, &block.results);
        Ok(block.end + 1)
    }
}
