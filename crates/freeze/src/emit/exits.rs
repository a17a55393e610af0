//! Where a function is left to freeze: an *exit* saves the live values as a frame and returns
//! dummies.
//!
//! ```text
//! block                ; to exit 1
//!   block              ; to exit 0
//!     …the function…   ; at a point: if it freezes, note the point's number, br to an exit
//!     return
//!   end
//!   …exit 0: push values and number, return dummies…
//! end
//! …exit 1…
//! ```
//! Points whose frames hold the same locals leave by the same exit, behind all of the function's own
//! code. Were frames saved where the points are, their values would be used at each of them, and
//! register allocators, to which code that is hardly ever run weighs as much as any other, would
//! keep those values at hand rather than what the function's own code needs most.

use super::{Emitter, Form};
use crate::body::PointId;
use crate::error::Error;
use crate::sites::Site;
use std::collections::HashMap;
use wasm_encoder::BlockType;

/// The exits of a function: for each, the locals that its frames hold.
#[derive(Default)]
pub(super) struct Exits {
    /// In the order in which the walk comes to them.
    values: Vec<Vec<u32>>,
    numbers: HashMap<Vec<u32>, usize>,
    /// How many blocks there are to leave by. Found by a walk whose code is thrown away, since a
    /// block opens before it is known what is in it.
    open: usize,
}

impl Exits {
    /// For the walk after the one that has found these exits.
    pub fn found(self) -> Exits {
        let open = self.values.len();
        Exits { open, ..self }
    }

    fn number(&mut self, values: &[u32]) -> usize {
        if let Some(number) = self.numbers.get(values) {
            return *number;
        }
        let number = self.values.len();
        self.values.push(values.to_vec());
        self.numbers.insert(values.to_vec(), number);
        number
    }
}

impl Emitter<'_, '_, '_> {
    /// Opens the blocks at whose ends the exits are.
    pub(super) fn open_exits(&mut self) {
        for _ in 0..self.exits.open {
            self.open_block(BlockType::Empty);
        }
    }

    /// Writes the exits.
    pub(super) fn close_exits(&mut self) -> Result<(), Error> {
        if self.exits.open == 0 {
            return Ok(());
        }
        self.write().return_();
        for values in std::mem::take(&mut self.exits.values) {
            self.close();
            self.push_frame(&values)?;
            let frozen = self.context.indices.frozen;
            self.write().i32_const(1).global_set(frozen);
            self.return_dummies();
        }
        Ok(())
    }

    /// Leaves for the exit that saves these values.
    pub(super) fn leave(&mut self, point: PointId, values: &[u32]) -> Result<(), Error> {
        if self.form == Form::Run {
            // Sites are numbered in program order, and each is written once in the run form.
            debug_assert_eq!(self.sites.len(), point);
            let kind = self.body.points[point].kind;
            let slots = self.slots(values)?;
            self.sites.push(Site { kind, slots });
        }
        let exit = self.exits.number(values);
        let number = self.number;
        self.write().i32_const(point as i32).local_set(number);
        // The first exit's block is the innermost one, and the function's own is 0.
        let label = self.exits.open.saturating_sub(exit);
        self.branch(label as u32);
        self.check_size()
    }
}
