//! One validating pass over every function body: what it calls, whether it loops, and whether it
//! does anything that cannot be frozen.

use crate::error::{Error, Place};
use crate::module::{Module, classify};
use wasmparser::{FuncValidatorAllocations, Operator};

/// What the call graph needs to know of a function body.
#[derive(Default)]
pub(crate) struct Summary {
    /// Functions called directly.
    pub calls: Vec<u32>,
    /// Tables and types called through: (table index, type index).
    pub indirect: Vec<(u32, u32)>,
    /// Whether there is a loop that is ever repeated.
    pub repeats: bool,
    /// Functions whose reference is taken.
    pub references: Vec<u32>,
    /// Whether data segments are read at run time.
    pub reads_data: bool,
}

/// Validates and summarises all bodies, in order of definition.
pub(crate) fn scan(wasm: &[u8], module: &Module<'_>) -> Result<Vec<Summary>, Error> {
    let mut allocations = FuncValidatorAllocations::default();
    let mut summaries = Vec::with_capacity(module.functions.len());
    for (position, function) in module.functions.iter().enumerate() {
        let place = Place::function(module.imported() + position as u32);
        let failed = |e| classify(wasm, place.clone(), e);
        let mut validator = function.validation().into_validator(allocations);
        let mut locals = function.body.get_binary_reader();
        validator.read_locals(&mut locals).map_err(failed)?;

        let mut summary = Summary::default();
        // Of every open block: whether it is a loop.
        let mut open = vec![false];
        let mut operators = function.body.get_operators_reader().map_err(failed)?;
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset().map_err(failed)?;
            validator.op(offset, &operator).map_err(failed)?;
            if let Some(feature) = unwritable_state(&operator) {
                return Err(Error::unsupported(place, feature, offset));
            }
            note(&operator, &mut open, &mut summary);
        }
        operators.finish().map_err(failed)?;
        allocations = validator.into_allocations();

        summary.calls.sort_unstable();
        summary.calls.dedup();
        summary.indirect.sort_unstable();
        summary.indirect.dedup();
        summaries.push(summary);
    }
    Ok(summaries)
}

fn note(operator: &Operator<'_>, open: &mut Vec<bool>, summary: &mut Summary) {
    let mut branch = |depth: u32| {
        let target = open.len().checked_sub(1 + depth as usize);
        summary.repeats |= target.is_some_and(|block| open[block]);
    };
    match operator {
        Operator::Block { .. } | Operator::If { .. } => open.push(false),
        Operator::Loop { .. } => open.push(true),
        Operator::End => {
            open.pop();
        }
        Operator::Br { relative_depth } | Operator::BrIf { relative_depth } => {
            branch(*relative_depth);
        }
        Operator::BrTable { targets } => {
            branch(targets.default());
            targets.targets().flatten().for_each(branch);
        }
        Operator::Call { function_index } => summary.calls.push(*function_index),
        Operator::CallIndirect {
            type_index,
            table_index,
        } => summary.indirect.push((*table_index, *type_index)),
        Operator::RefFunc { function_index } => summary.references.push(*function_index),
        Operator::MemoryInit { .. } => summary.reads_data = true,
        _ => {}
    }
}

/// State that is in no memory, global or frame, and so would be lost at a freeze.
fn unwritable_state(operator: &Operator<'_>) -> Option<&'static str> {
    Some(match operator {
        Operator::TableSet { .. } => "a table that is written to (table.set)",
        Operator::TableGrow { .. } => "a table that is written to (table.grow)",
        Operator::TableFill { .. } => "a table that is written to (table.fill)",
        Operator::TableCopy { .. } => "a table that is written to (table.copy)",
        Operator::TableInit { .. } => "a table that is written to (table.init)",
        Operator::ElemDrop { .. } => "element segments that are dropped (elem.drop)",
        Operator::DataDrop { .. } => "data segments that are dropped (data.drop)",
        _ => return None,
    })
}
