//! Which locals are read later, at every point of freezing.
//!
//! Backwards over the flat body. A loop is walked again, from its end, until what is live at its
//! head no longer grows; what is known of a loop is kept when an outer loop is walked again.
//! Whatever may throw within a block with handlers may go on at any of them.

use crate::body::{Block, BlockKind, Body, Item};
use crate::error::{Error, Place};
use crate::scan::catch_label;
use wasmparser::Operator;

/// Most words of bit sets that one function may need at a time (128 MiB).
const MAX_WORDS: usize = 1 << 24;

/// A set of locals.
#[derive(Clone, PartialEq, Eq)]
struct Locals(Vec<u64>);

impl Locals {
    fn insert(&mut self, local: u32) {
        if let Some(word) = self.0.get_mut(local as usize / 64) {
            *word |= 1 << (local % 64);
        }
    }

    fn remove(&mut self, local: u32) {
        if let Some(word) = self.0.get_mut(local as usize / 64) {
            *word &= !(1 << (local % 64));
        }
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }

    fn add(&mut self, other: &Locals) {
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    fn list(&self) -> Vec<u32> {
        let mut list = Vec::new();
        for (index, word) in self.0.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                list.push(index as u32 * 64 + rest.trailing_zeros());
                rest &= rest - 1;
            }
        }
        list
    }
}

/// A block that the walk is inside of.
struct Open {
    /// What is live where a branch to it leads.
    target: Locals,
    /// What is live after its end.
    after: Locals,
    /// What is live at the start of its else branch.
    els: Option<Locals>,
    /// What is live where its handlers and those around it lead, if there are any.
    handlers: Option<Locals>,
}

/// Fills in [`crate::body::Point::live`] of all points.
pub(crate) fn solve(body: &mut Body<'_>) -> Result<(), Error> {
    let words = body.locals.len().div_ceil(64);
    let sets = 4 * deepest(body) + body.blocks.len() + body.points.len();
    if words * sets > MAX_WORDS {
        return Err(Error::too_large(
            Place::function(body.function),
            format!(
                "{} locals with {} blocks and {} places to freeze at",
                body.locals.len(),
                body.blocks.len(),
                body.points.len()
            ),
        ));
    }
    let none = Locals(vec![0; words]);
    let mut heads: Vec<Option<Locals>> = vec![None; body.blocks.len()];
    let mut at_points: Vec<Locals> = vec![none.clone(); body.points.len()];
    let mut open: Vec<Open> = Vec::new();
    let mut live = none.clone();

    let mut position = body.items.len();
    while position > 0 {
        position -= 1;
        match &body.items[position] {
            Item::End(id) => {
                let target = match body.blocks[*id].kind {
                    BlockKind::Loop => heads[*id].get_or_insert_with(|| none.clone()).clone(),
                    BlockKind::Block | BlockKind::If | BlockKind::Try => live.clone(),
                };
                let handlers = handlers(&body.blocks[*id], &open);
                open.push(Open {
                    target,
                    after: live.clone(),
                    els: None,
                    handlers,
                });
            }
            Item::Else(_) => {
                if let Some(block) = open.last_mut() {
                    let after = block.after.clone();
                    block.els = Some(std::mem::replace(&mut live, after));
                }
            }
            Item::Open(id) => match body.blocks[*id].kind {
                BlockKind::Block | BlockKind::Try => {
                    open.pop();
                }
                BlockKind::If => {
                    if let Some(block) = open.pop() {
                        live.add(&block.els.unwrap_or(block.after));
                    }
                }
                BlockKind::Loop => {
                    if let Some(point) = body.blocks[*id].head {
                        at_points[point] = live.clone();
                    }
                    if heads[*id].as_ref() == Some(&live) {
                        open.pop();
                    } else if let Some(block) = open.last_mut() {
                        heads[*id] = Some(live.clone());
                        block.target = std::mem::replace(&mut live, block.after.clone());
                        position = body.blocks[*id].end;
                    }
                }
            },
            Item::Call(point) => {
                // After a thaw the callee goes on, and may throw.
                may_throw(&open, &mut live);
                at_points[*point] = live.clone();
            }
            Item::Entry(point) | Item::Bulk(point) => at_points[*point] = live.clone(),
            // Handlers are left behind with the frame.
            Item::Tail(_) => live.clear(),
            Item::Plain(operator) => step(operator, &open, &mut live),
        }
    }
    for (point, live) in body.points.iter_mut().zip(&at_points) {
        point.live = live.list();
    }
    Ok(())
}

/// What is live where the handlers of a block and those around it lead.
fn handlers(block: &Block, open: &[Open]) -> Option<Locals> {
    let mut handlers = open.last().and_then(|outer| outer.handlers.clone());
    for catch in &block.catches {
        let target = open.len().checked_sub(1 + catch_label(catch) as usize);
        if let Some(target) = target.map(|target| &open[target].target) {
            match &mut handlers {
                Some(handlers) => handlers.add(target),
                None => handlers = Some(target.clone()),
            }
        }
    }
    handlers
}

fn may_throw(open: &[Open], live: &mut Locals) {
    if let Some(handlers) = open.last().and_then(|block| block.handlers.as_ref()) {
        live.add(handlers);
    }
}

fn step(operator: &Operator<'_>, open: &[Open], live: &mut Locals) {
    let target = |depth: u32| {
        let index = open.len().checked_sub(1 + depth as usize)?;
        Some(&open[index].target)
    };
    match operator {
        Operator::LocalGet { local_index } => live.insert(*local_index),
        Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
            live.remove(*local_index);
        }
        Operator::Br { relative_depth } => {
            if let Some(target) = target(*relative_depth) {
                live.clone_from(target);
            }
        }
        Operator::BrIf { relative_depth } => {
            if let Some(target) = target(*relative_depth) {
                live.add(target);
            }
        }
        Operator::BrTable { targets } => {
            live.clear();
            let mut depths: Vec<u32> = targets.targets().flatten().collect();
            depths.push(targets.default());
            depths.sort_unstable();
            depths.dedup();
            for target in depths.into_iter().filter_map(target) {
                live.add(target);
            }
        }
        Operator::Return | Operator::Unreachable => live.clear(),
        Operator::Call { .. } | Operator::CallIndirect { .. } => may_throw(open, live),
        Operator::Throw { .. } | Operator::ThrowRef => {
            live.clear();
            may_throw(open, live);
        }
        _ => {}
    }
}

fn deepest(body: &Body<'_>) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for item in &body.items {
        match item {
            Item::Open(_) => depth += 1,
            Item::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest + 1
}
