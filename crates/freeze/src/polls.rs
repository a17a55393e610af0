//! Where a function polls, and how often a small loop's body is written out for each poll.
//!
//! Between any two polls only so much code can run: every turn of a loop passes a poll, and every
//! activation of a function that calls back (that makes a call which may lead to itself) has
//! polled before. So a stretch without a poll makes no cycle in the call graph and none in a
//! function. Loops poll at their heads, unless every way back to the head polls anyway. A
//! recursive function whose way to a call back passes no such poll gets one of its own, as late as
//! can be: activations that do not call back, the leaves of a recursion and often the most of it,
//! then do not poll.

use crate::body::{BlockId, BlockKind, Body, Item, Point, PointId};
use crate::sites::SiteKind;
use wasmparser::Operator;

/// Loops inside more loops than this keep their poll without asking whether they could do without:
/// the question costs a walk over the loop's body.
const ASK_UP_TO_DEPTH: u32 = 32;

/// How small innermost loops are unrolled, so that several turns share one poll.
///
/// Only loops without any other point of freezing are. The size of a loop is the number of
/// operators between its head and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unroll {
    /// `(largest size, copies)`, by ascending size: the first step that fits decides.
    pub steps: Vec<(usize, u32)>,
}

impl Unroll {
    /// No unrolling: every turn polls.
    pub fn none() -> Unroll {
        Unroll { steps: Vec::new() }
    }

    fn copies(&self, size: usize) -> u32 {
        let step = self.steps.iter().find(|(largest, _)| size <= *largest);
        step.map_or(1, |(_, copies)| (*copies).max(1))
    }
}

impl Default for Unroll {
    fn default() -> Unroll {
        Unroll {
            // Measured: tight loops gain most; loops much larger than this lose more by growing
            // than they gain.
            steps: vec![(20, 8), (40, 4)],
        }
    }
}

/// Decides about all loops of a body, and numbers its points in program order.
pub(crate) fn place(body: &mut Body<'_>, unroll: &Unroll) {
    let mut polls = vec![false; body.blocks.len()];
    for position in 0..body.items.len() {
        // By order of ends, inner loops come before outer ones.
        if let Item::End(id) = body.items[position]
            && body.blocks[id].kind == BlockKind::Loop
        {
            polls[id] = body.blocks[id].loops_around > ASK_UP_TO_DEPTH
                || !every_turn_polls(body, id, &polls);
        }
    }
    before_calls_back(body, &polls);
    number(body, &polls);
    for id in 0..body.blocks.len() {
        let block = &body.blocks[id];
        if block.head.is_some() && block.points.len() == 1 && !has_loop(body, id) {
            let copies = unroll.copies(block.inside().len());
            body.blocks[id].copies = copies;
        }
    }
}

fn has_loop(body: &Body<'_>, id: BlockId) -> bool {
    body.items[body.blocks[id].inside()].iter().any(
        |item| matches!(item, Item::Open(inner) if body.blocks[*inner].kind == BlockKind::Loop),
    )
}

/// A block that is open while [`Walk`] passes.
struct Open {
    id: BlockId,
    /// Whether it had polled when the block opened.
    before: bool,
    /// Whether every branch to the block's end has polled.
    branches: bool,
}

/// A walk over items of a body, which tells whether every way has polled.
struct Walk<'b, 'a> {
    body: &'b Body<'a>,
    /// Of every loop, whether it polls at its head.
    polls: &'b [bool],
    open: Vec<Open>,
    /// Whether every way to here has polled; true where no way leads.
    polled: bool,
    /// Whether every branch to the block around the items has polled.
    branches: bool,
}

impl<'b, 'a> Walk<'b, 'a> {
    fn new(body: &'b Body<'a>, polls: &'b [bool]) -> Walk<'b, 'a> {
        Walk {
            body,
            polls,
            open: Vec::new(),
            polled: false,
            branches: true,
        }
    }

    /// A branch leads to an open block, to the block around all, or out of that.
    fn branch(&mut self, depth: u32) {
        let depth = depth as usize;
        if depth == self.open.len() {
            self.branches &= self.polled;
        } else if depth < self.open.len() {
            let target = self.open.len() - 1 - depth;
            self.open[target].branches &= self.polled;
        }
    }

    fn pass(&mut self, item: &Item<'_>) {
        match item {
            Item::Open(inner) => {
                let loops = self.body.blocks[*inner].kind == BlockKind::Loop;
                self.polled |= loops && self.polls[*inner];
                self.open.push(Open {
                    id: *inner,
                    before: self.polled,
                    branches: true,
                });
            }
            Item::Else(_) => {
                if let Some(block) = self.open.last_mut() {
                    block.branches &= self.polled;
                    self.polled = block.before;
                }
            }
            Item::End(_) => {
                if let Some(block) = self.open.pop() {
                    let inner = &self.body.blocks[block.id];
                    match inner.kind {
                        BlockKind::Loop => {}
                        BlockKind::If if inner.els.is_none() => {
                            self.polled &= block.branches && block.before;
                        }
                        BlockKind::If | BlockKind::Block => self.polled &= block.branches,
                    }
                }
            }
            Item::Entry(_) => self.polled = true,
            // The callee need not have polled.
            Item::Call(_) => {}
            Item::Plain(operator) => match operator {
                Operator::Br { relative_depth } => {
                    self.branch(*relative_depth);
                    self.polled = true;
                }
                Operator::BrIf { relative_depth } => self.branch(*relative_depth),
                Operator::BrTable { targets } => {
                    self.branch(targets.default());
                    for depth in targets.targets().flatten() {
                        self.branch(depth);
                    }
                    self.polled = true;
                }
                Operator::Return | Operator::Unreachable => self.polled = true,
                _ => {}
            },
        }
    }
}

/// Whether every way from the head of a loop back to it passes a poll, so that it needs none of its
/// own. `polls` tells it of the loops inside.
fn every_turn_polls(body: &Body<'_>, id: BlockId, polls: &[bool]) -> bool {
    let mut walk = Walk::new(body, polls);
    for item in &body.items[body.blocks[id].inside()] {
        walk.pass(item);
    }
    walk.branches
}

/// Puts a poll before the calls back that can be reached without one, if there are any.
fn before_calls_back(body: &mut Body<'_>, polls: &[bool]) {
    let mut walk = Walk::new(body, polls);
    let mut bare: Option<(usize, usize)> = None;
    for (position, item) in body.items.iter().enumerate() {
        if let Item::Call(point) = item
            && body.points[*point].calls_back
            && !walk.polled
        {
            let (first, _) = bare.unwrap_or((position, position));
            bare = Some((first, position));
        }
        walk.pass(item);
    }
    let Some((first, last)) = bare else { return };
    let at = latest_before(body, first, last);
    let point = body.points.len();
    body.points.push(Point {
        kind: SiteKind::Entry,
        call: None,
        stack: Vec::new(),
        base: 0,
        takes: 0,
        results: Vec::new(),
        live: Vec::new(),
        calls_back: false,
    });
    body.items.insert(at, Item::Entry(point));
    body.empty.insert(at, true);
    for block in &mut body.blocks {
        let els = block.els.iter_mut();
        for position in els.chain([&mut block.open, &mut block.end]) {
            *position += usize::from(*position >= at);
        }
    }
}

/// The latest position that is in no loop, with nothing on the operand stack, and that every way to
/// the items from `first` to `last` passes.
///
/// Who comes to an item of a sequence has come through all items before it: a branch from within
/// one of them leads to its end or out of the sequence.
fn latest_before(body: &Body<'_>, first: usize, last: usize) -> usize {
    let mut latest = 0;
    let mut position = 0;
    loop {
        // Along the sequence to the item that holds the first.
        let end = loop {
            if body.empty[position] {
                latest = position;
            }
            let end = match &body.items[position] {
                Item::Open(id) => body.blocks[*id].end,
                _ => position,
            };
            if first <= end {
                break end;
            }
            position = end + 1;
        };
        // Into that item, if it holds all and is entered once.
        let Item::Open(id) = &body.items[position] else {
            return latest;
        };
        let block = &body.blocks[*id];
        let (holds, els) = (last <= end, block.els.unwrap_or(end));
        position = match block.kind {
            BlockKind::Block if holds => position + 1,
            BlockKind::If if last < els => position + 1,
            BlockKind::If if holds && els < first => els + 1,
            _ => return latest,
        };
    }
}

/// Gives all points their final numbers, in program order, and every block its range of them.
fn number(body: &mut Body<'_>, polls: &[bool]) {
    let mut old: Vec<Option<Point<'_>>> = std::mem::take(&mut body.points)
        .into_iter()
        .map(Some)
        .collect();
    let mut points: Vec<Point<'_>> = Vec::new();
    for item in &mut body.items {
        match item {
            Item::Plain(_) => {}
            Item::Entry(point) | Item::Call(point) => {
                points.extend(old[*point].take());
                *point = points.len() - 1;
            }
            Item::Open(id) => {
                let block = &mut body.blocks[*id];
                let first: PointId = points.len();
                block.points = first..first;
                if polls[*id] {
                    block.head = Some(first);
                    points.push(Point {
                        kind: SiteKind::Head,
                        call: None,
                        stack: block.params.clone(),
                        base: block.base + (block.stack.len() - block.params.len()) as u32,
                        takes: 0,
                        results: Vec::new(),
                        live: Vec::new(),
                        calls_back: false,
                    });
                }
            }
            Item::Else(id) => body.blocks[*id].else_point = points.len(),
            Item::End(id) => {
                let block = &mut body.blocks[*id];
                block.points.end = points.len();
                if block.els.is_none() {
                    block.else_point = points.len();
                }
            }
        }
    }
    body.points = points;
}
