//! Where a function polls: at loop heads, unless every way back to the head polls anyway; and how
//! often a small loop's body is written out for each poll.

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

/// A block that is open while [`every_turn_polls`] walks.
struct Open {
    id: BlockId,
    /// Whether it had polled when the block opened.
    before: bool,
    /// Whether every branch to the block's end has polled.
    branches: bool,
}

/// Whether every way from the head of a loop back to it passes a poll, so that it needs none of its
/// own. `polls` tells it of the loops inside.
fn every_turn_polls(body: &Body<'_>, id: BlockId, polls: &[bool]) -> bool {
    let mut open: Vec<Open> = Vec::new();
    // Whether every way to here has polled since the head; true where no way leads.
    let mut polled = false;
    let mut always = true;
    // A branch leads to an open block, to the loop itself, or out of it.
    let branch = |open: &mut Vec<Open>, depth: u32, polled: bool, always: &mut bool| {
        let depth = depth as usize;
        if depth == open.len() {
            *always &= polled;
        } else if depth < open.len() {
            let target = open.len() - 1 - depth;
            open[target].branches &= polled;
        }
    };
    for item in &body.items[body.blocks[id].inside()] {
        match item {
            Item::Open(inner) => {
                let loops = body.blocks[*inner].kind == BlockKind::Loop;
                polled |= loops && polls[*inner];
                open.push(Open {
                    id: *inner,
                    before: polled,
                    branches: true,
                });
            }
            Item::Else(_) => {
                if let Some(block) = open.last_mut() {
                    block.branches &= polled;
                    polled = block.before;
                }
            }
            Item::End(_) => {
                if let Some(block) = open.pop() {
                    let inner = &body.blocks[block.id];
                    match inner.kind {
                        BlockKind::Loop => {}
                        BlockKind::If if inner.els.is_none() => {
                            polled &= block.branches && block.before;
                        }
                        BlockKind::If | BlockKind::Block => polled &= block.branches,
                    }
                }
            }
            Item::Entry(_) => polled = true,
            Item::Call(point) => polled |= body.points[*point].polls,
            Item::Plain(operator) => match operator {
                Operator::Br { relative_depth } => {
                    branch(&mut open, *relative_depth, polled, &mut always);
                    polled = true;
                }
                Operator::BrIf { relative_depth } => {
                    branch(&mut open, *relative_depth, polled, &mut always);
                }
                Operator::BrTable { targets } => {
                    branch(&mut open, targets.default(), polled, &mut always);
                    for depth in targets.targets().flatten() {
                        branch(&mut open, depth, polled, &mut always);
                    }
                    polled = true;
                }
                Operator::Return | Operator::Unreachable => polled = true,
                _ => {}
            },
        }
    }
    always
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
                        polls: true,
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
