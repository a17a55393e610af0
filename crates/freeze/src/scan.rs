//! One validating pass over every function body: what it calls, whether it loops, and what
//! state it touches that is in no memory.

use crate::bulk::{self, Range};
use crate::error::{Error, Place};
use crate::module::{Module, classify};
use crate::types::plain;
use wasmparser::{Catch, FuncValidatorAllocations, Operator, ValType};

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
    /// Functions called in place of a return.
    pub tail_calls: Vec<u32>,
    /// Whether there are references to functions in operands or locals.
    pub references_kept: bool,
    /// Whether there are references that the engine keeps in a heap, or handlers of exceptions.
    pub heap: bool,
    /// Tables that are written to.
    pub written_tables: Vec<u32>,
    /// Segments that are dropped.
    pub dropped_elements: Vec<u32>,
    pub dropped_data: Vec<u32>,
    /// Whether data segments are read or dropped at run time.
    pub reads_data: bool,
    /// Operators on ranges of memory that may be large.
    pub ranges: Vec<Range>,
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
        let mut previous = None;
        for group in function.body.get_locals_reader().map_err(failed)? {
            let (_, kind) = group.map_err(failed)?;
            match plain(kind) {
                ValType::FUNCREF => summary.references_kept = true,
                ValType::Ref(_) => summary.heap = true,
                _ => {}
            }
        }
        // Of every open block: whether it is a loop.
        let mut open = vec![false];
        let mut operators = function.body.get_operators_reader().map_err(failed)?;
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset().map_err(failed)?;
            validator.op(offset, &operator).map_err(failed)?;
            note(&operator, &mut open, &mut summary);
            if bulk::is_long(module, previous.as_ref(), &operator) {
                summary.ranges.extend(Range::of(&operator));
            }
            previous = Some(operator);
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
        Operator::TryTable { try_table } => {
            try_table.catches.iter().map(catch_label).for_each(branch);
            open.push(false);
            summary.heap = true;
        }
        Operator::Throw { .. } | Operator::ThrowRef => summary.heap = true,
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
        }
        | Operator::ReturnCallIndirect {
            type_index,
            table_index,
        } => summary.indirect.push((*table_index, *type_index)),
        Operator::ReturnCall { function_index } => {
            summary.calls.push(*function_index);
            summary.tail_calls.push(*function_index);
        }
        Operator::RefFunc { function_index } => {
            summary.references.push(*function_index);
            summary.references_kept = true;
        }
        Operator::RefNull { .. } | Operator::TableGet { .. } => summary.references_kept = true,
        Operator::TableSet { table }
        | Operator::TableGrow { table }
        | Operator::TableFill { table }
        | Operator::TableInit { table, .. }
        | Operator::TableCopy {
            dst_table: table, ..
        } => summary.written_tables.push(*table),
        Operator::ElemDrop { elem_index } => summary.dropped_elements.push(*elem_index),
        Operator::DataDrop { data_index } => {
            summary.dropped_data.push(*data_index);
            summary.reads_data = true;
        }
        Operator::MemoryInit { .. } => summary.reads_data = true,
        _ => {}
    }
}

/// Where a handler leads, counted from outside of its block.
pub(crate) fn catch_label(catch: &Catch) -> u32 {
    match catch {
        Catch::One { label, .. }
        | Catch::OneRef { label, .. }
        | Catch::All { label }
        | Catch::AllRef { label } => *label,
    }
}
