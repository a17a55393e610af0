//! How a clone finds the site it was frozen at.
//!
//! At the start of a sequence of items, a `br_table` over the site number jumps to the item that
//! holds the site: each such item is preceded by the end of a block which the table can leave.
//!
//! ```text
//! block                ; to the second item
//!   block              ; to the first item
//!     block            ; nothing to resume here: from the start
//!       br_table
//!     end
//!     …code…
//!   end
//!   …first item…       ; a nested block dispatches on by itself
//!   …code…
//! end
//! …second item…
//! ```
//!
//! Where the first item is a block, its dispatch is left to that block, and so on inwards: a switch
//! as compilers write it, a nest of as many blocks as it has cases, is then dispatched once.

use super::{Emitter, Label};
use crate::body::{BlockKind, Item, PointId};
use std::ops::Range;
use wasm_encoder::BlockType;

/// How a sequence of items is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// From its start, and never to resume: as in the run form.
    Start,
    /// To resume at one of its points, or, if there is nothing to resume, from its start.
    Both,
    /// Only ever to resume at one of its points. What comes before the first is left out.
    Resume,
}

/// The state of a sequence that is entered to resume.
pub(super) struct Dispatch {
    /// Whether the first item with points is reached by nothing but dispatch.
    only: bool,
    /// Whether the first item does the dispatch itself.
    merged: bool,
    /// Whether the first item needs no dispatch.
    direct: bool,
    /// Number of items with points seen so far.
    seen: usize,
}

/// A range of points and the block whose end leads to them.
pub(super) struct Way {
    points: Range<PointId>,
    label: Label,
}

/// How the walk comes to an item with points.
pub(super) struct Arrival {
    /// The locals that hold the operands of the block in hand.
    pub operands: Vec<u32>,
    /// How the item can be reached.
    pub entry: Entry,
}

impl Emitter<'_, '_, '_> {
    /// The points of the item at a position, if it has any, and the position after it.
    fn item(&self, position: usize) -> (Range<PointId>, usize) {
        match &self.body.items[position] {
            Item::Open(id) => {
                let block = &self.body.blocks[*id];
                (block.points.clone(), block.end + 1)
            }
            Item::Entry(point) | Item::Call(point) | Item::Bulk(point) => {
                (*point..point + 1, position + 1)
            }
            Item::Plain(_) | Item::Tail(_) | Item::Else(_) | Item::End(_) => (0..0, position + 1),
        }
    }

    /// Writes the start of a sequence of items; `params` are the locals with the operands it
    /// begins with. Tells how it is entered and the first item to write.
    pub(super) fn begin(
        &mut self,
        items: Range<usize>,
        params: &[u32],
        entry: Entry,
    ) -> (Option<Dispatch>, usize) {
        let mut targets = Vec::new();
        if entry != Entry::Start {
            let mut position = items.start;
            while position < items.end {
                let (points, next) = self.item(position);
                if !points.is_empty() {
                    targets.push((position, points));
                }
                position = next;
            }
        }
        let Some((first, _)) = targets.first() else {
            self.push_from(params);
            return (None, items.start);
        };
        let first = *first;
        let only = entry == Entry::Resume;
        let mut pending = std::mem::take(&mut self.pending);
        let block = matches!(&self.body.items[first],
            Item::Open(id) if self.body.blocks[*id].kind == BlockKind::Block);
        let merged = block && (only || first == items.start);
        let direct = only && !merged && targets.len() == 1 && pending.is_empty();

        if !direct {
            let ways = targets.into_iter().skip(usize::from(merged)).rev();
            for (_, points) in ways {
                let label = self.open_block(BlockType::Empty);
                pending.push(Way { points, label });
            }
        }
        if merged {
            self.pending = pending;
        } else if !direct {
            if only {
                self.jump(pending);
            } else {
                self.open_block(BlockType::Empty);
                self.jump(pending);
                self.close();
                self.push_from(params);
            }
        }
        let dispatch = Dispatch {
            only,
            merged,
            direct,
            seen: 0,
        };
        (Some(dispatch), if only { first } else { items.start })
    }

    /// The `br_table`. What is no point of any way stays in the innermost block.
    fn jump(&mut self, mut ways: Vec<Way>) {
        ways.sort_unstable_by_key(|way| way.points.start);
        let first = ways.first().map_or(0, |way| way.points.start);
        let mut table = Vec::new();
        for way in &ways {
            table.resize(way.points.start - first, 0);
            let depth = self.relative(way.label);
            table.resize(way.points.end - first, depth);
        }
        let resume = self.resume;
        self.write().local_get(resume);
        if first != 0 {
            self.write().i32_const(first as i32).i32_sub();
        }
        self.write().br_table(table, 0);
    }

    /// Comes to an item with points: the operands of the block in hand go into locals, and the ways
    /// that lead here end here.
    pub(super) fn arrive(&mut self, operands: Vec<u32>) -> Arrival {
        let dispatch = self.open.last_mut().and_then(|b| b.dispatch.as_mut());
        let Some(dispatch) = dispatch else {
            self.pop_into(&operands);
            return Arrival {
                operands,
                entry: Entry::Start,
            };
        };
        let first = dispatch.seen == 0;
        dispatch.seen += 1;
        let only = first && dispatch.only;
        // Merged, the operands are the block's parameters, and still in their locals.
        let in_place = first && (dispatch.only || dispatch.merged);
        let ends = !(first && (dispatch.merged || dispatch.direct));
        if !in_place {
            self.pop_into(&operands);
        }
        if ends {
            self.close();
        }
        Arrival {
            operands,
            entry: if only { Entry::Resume } else { Entry::Both },
        }
    }

    /// Tests whether this point is the one to resume at.
    pub(super) fn resumes_at(&mut self, point: PointId) {
        let resume = self.resume;
        self.write()
            .local_get(resume)
            .i32_const(point as i32)
            .i32_eq();
    }

    /// Tests whether there is nothing to resume (any more).
    pub(super) fn resumes_nowhere(&mut self) {
        let resume = self.resume;
        self.write().local_get(resume).i32_const(-1).i32_eq();
    }

    /// Tests whether the point to resume at, if any, comes before `point`.
    pub(super) fn resumes_before(&mut self, point: PointId) {
        let resume = self.resume;
        self.write()
            .local_get(resume)
            .i32_const(point as i32)
            .i32_lt_s();
    }
}
