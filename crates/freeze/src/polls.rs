//! Where a function polls, and how often a small loop's body is written out for each poll.
//!
//! Between any two polls only so much code can run: every turn of a loop passes a poll, and every
//! activation of a function that calls back (that makes a call which may lead to itself) polls, at
//! the latest when the first such call has returned. So a stretch without a poll turns in no
//! loop, and in the call graph it goes down, no deeper than the stack is, and up again. Activations
//! that do not call back, the leaves of a recursion and often the most of it, do not poll.
//!
//! A poll costs least right after a call that may freeze, since what is to be looked at there
//! [can be looked at together](crate::emit). So a loop each turn of which makes such a call polls
//! after that, and a recursive function after its first call back. Where that would need polls
//! after many calls, a loop polls at its head instead (unless every way back to the head polls
//! anyway), and a function once, before the calls back, as late as can be.
//!
//! A call in place of a return never comes back, and one under a handler may throw instead: a
//! function that calls back so polls before.

use crate::body::{BlockId, BlockKind, Body, Item, Point, PointId};
use crate::scan::catch_label;
use crate::sites::SiteKind;
use wasmparser::Operator;

/// Loops inside more loops than this keep their poll without asking whether they could do without:
/// the question costs a walk over the loop's body.
const ASK_UP_TO_DEPTH: u32 = 32;

/// Most polls after calls that one loop, or the calls back of one function, may need: each takes a
/// cold path of its own.
const MOST_AFTER_CALLS: usize = 2;

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
    let mut polls = Polls {
        heads: vec![false; body.blocks.len()],
        after: vec![false; body.points.len()],
    };
    for position in 0..body.items.len() {
        // By order of ends, inner loops come before outer ones.
        if let Item::End(id) = body.items[position]
            && body.blocks[id].kind == BlockKind::Loop
        {
            place_in_loop(body, id, &mut polls);
        }
    }
    let before = place_at_calls_back(body, &mut polls);
    insert(body, &polls, before);
    number(body, &polls.heads);
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

/// Where a body polls.
struct Polls {
    /// Of every loop, whether at its head.
    heads: Vec<bool>,
    /// Of every call, whether after it.
    after: Vec<bool>,
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
    polls: &'b Polls,
    /// Takes every call that may freeze and is come to unpolled for one to poll after, and notes
    /// it here; if only calls back, of those.
    noted: Option<Vec<PointId>>,
    only_back: bool,
    /// Whether a call back in place of a return was come to unpolled.
    bare_tail: bool,
    open: Vec<Open>,
    /// Whether every way to here has polled; true where no way leads.
    polled: bool,
    /// Whether every branch to the block around the items has polled.
    branches: bool,
}

impl<'b, 'a> Walk<'b, 'a> {
    fn new(body: &'b Body<'a>, polls: &'b Polls) -> Walk<'b, 'a> {
        Walk {
            body,
            polls,
            noted: None,
            only_back: false,
            bare_tail: false,
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

    fn call(&mut self, id: PointId) {
        let point = &self.body.points[id];
        if self.polls.after[id] {
            self.polled = true;
        } else if !self.polled
            && point.kind == SiteKind::Call
            && (point.calls_back || !self.only_back)
            && let Some(noted) = &mut self.noted
        {
            noted.push(id);
            self.polled = true;
        }
    }

    fn pass(&mut self, item: &Item<'_>) {
        match item {
            Item::Open(inner) => {
                // The first thing within may throw.
                for catch in &self.body.blocks[*inner].catches {
                    self.branch(catch_label(catch));
                }
                let loops = self.body.blocks[*inner].kind == BlockKind::Loop;
                self.polled |= loops && self.polls.heads[*inner];
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
                        BlockKind::If | BlockKind::Block | BlockKind::Try => {
                            self.polled &= block.branches;
                        }
                    }
                }
            }
            Item::Entry(_) => self.polled = true,
            // The callee need not have polled.
            Item::Call(point) => self.call(*point),
            // A short range does not poll.
            Item::Bulk(_) => {}
            Item::Tail(call) => {
                self.bare_tail |= call.calls_back && !self.polled;
                self.polled = true;
            }
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
                Operator::Return
                | Operator::Unreachable
                | Operator::Throw { .. }
                | Operator::ThrowRef => self.polled = true,
                _ => {}
            },
        }
    }
}

/// Lets every way from the head of a loop back to it pass a poll. The loops inside have theirs.
fn place_in_loop(body: &Body<'_>, id: BlockId, polls: &mut Polls) {
    if body.blocks[id].loops_around > ASK_UP_TO_DEPTH {
        polls.heads[id] = true;
        return;
    }
    if every_turn_polls(body, id, polls) {
        return;
    }
    let mut walk = Walk::new(body, polls);
    walk.noted = Some(Vec::new());
    for item in &body.items[body.blocks[id].inside()] {
        walk.pass(item);
    }
    let (every_turn, noted) = (walk.branches, walk.noted.unwrap_or_default());
    if !every_turn || noted.len() > MOST_AFTER_CALLS {
        polls.heads[id] = true;
        return;
    }
    for point in noted {
        polls.after[point] = true;
    }
}

/// Whether every way from the head of a loop back to it passes a poll as it is.
fn every_turn_polls(body: &Body<'_>, id: BlockId, polls: &Polls) -> bool {
    let mut walk = Walk::new(body, polls);
    for item in &body.items[body.blocks[id].inside()] {
        walk.pass(item);
    }
    walk.branches
}

/// Lets every way to a second call back pass a poll: after the first, or before it, at the position
/// that comes back.
fn place_at_calls_back(body: &Body<'_>, polls: &mut Polls) -> Option<usize> {
    let mut walk = Walk::new(body, polls);
    (walk.noted, walk.only_back) = (Some(Vec::new()), true);
    for item in &body.items {
        walk.pass(item);
    }
    let bare_tail = walk.bare_tail;
    let noted = walk.noted.unwrap_or_default();
    let handlers = body.blocks.iter().any(|block| !block.catches.is_empty());
    if noted.len() <= MOST_AFTER_CALLS && !bare_tail && !handlers {
        for point in noted {
            polls.after[point] = true;
        }
        return None;
    }
    let mut walk = Walk::new(body, polls);
    let mut bare: Option<(usize, usize)> = None;
    for (position, item) in body.items.iter().enumerate() {
        let calls_back = match item {
            Item::Call(point) => body.points[*point].calls_back,
            Item::Tail(call) => call.calls_back,
            _ => false,
        };
        if calls_back && !walk.polled {
            let (first, _) = bare.unwrap_or((position, position));
            bare = Some((first, position));
        }
        walk.pass(item);
    }
    bare.map(|(first, last)| latest_before(body, first, last))
}

/// Inserts the polls that are not at loop heads: one at `before`, and those after calls.
fn insert(body: &mut Body<'_>, polls: &Polls, before: Option<usize>) {
    let mut moved = Vec::with_capacity(body.items.len());
    let items = std::mem::take(&mut body.items);
    for (position, item) in items.into_iter().enumerate() {
        if before == Some(position) {
            body.poll(Vec::new(), 0);
        }
        moved.push(body.items.len());
        let call = match &item {
            Item::Call(point) if polls.after[*point] => Some(*point),
            _ => None,
        };
        body.items.push(item);
        if let Some(call) = call {
            let point = &body.points[call];
            let mut stack = point.stack.clone();
            stack.truncate(stack.len() - point.takes);
            stack.extend(&point.results);
            let base = point.base;
            body.poll(stack, base);
        }
    }
    for block in &mut body.blocks {
        let els = block.els.iter_mut();
        for position in els.chain([&mut block.open, &mut block.end]) {
            *position = moved[*position];
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
            Item::Plain(_) | Item::Tail(_) => {}
            Item::Entry(point) | Item::Call(point) | Item::Bulk(point) => {
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
