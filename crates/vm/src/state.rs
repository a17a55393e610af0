//! The state of an instance that is neither memory nor stack: globals, tables that are written to,
//! and references, which a snapshot names by their position in the artefact's list of functions.

use crate::image::Image;
use crate::kernel::Context;
use crate::machine::error;
use freeze::Slot;
use freeze::interface as seam;
use std::collections::HashMap;
use wasmtime::{Func, Global, Instance, Ref, Store, Table, V128, Val};
use wire::snapshot::{GlobalValue, Reference, References};

/// The state, written down.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// The mutable globals.
    pub globals: Vec<GlobalValue>,
    /// References in frames and tables.
    pub references: References,
}

/// Where an instance has its state.
pub(crate) struct StateHandles {
    globals: Vec<Global>,
    tables: Vec<WrittenTable>,
    functions: Option<Functions>,
    settle: Option<Func>,
}

/// A table that the program writes to.
struct WrittenTable {
    table: Table,
    /// Whether it holds functions; if not, all entries are null.
    functions: bool,
}

/// What references can lead to, and those in frames.
struct Functions {
    list: Table,
    count: usize,
    frames: Table,
    rp: Global,
}

fn table(instance: &Instance, store: &mut Store<Context>, name: &str) -> wasmtime::Result<Table> {
    let table = instance.get_table(store, name);
    table.ok_or_else(|| error(format!("the module does not export the table `{name}`")))
}

fn global(instance: &Instance, store: &mut Store<Context>, name: &str) -> wasmtime::Result<Global> {
    let global = instance.get_global(store, name);
    global.ok_or_else(|| error(format!("the module does not export the global `{name}`")))
}

impl StateHandles {
    /// `globals` are those that the artefact lists, in order.
    pub(crate) fn find(
        image: &Image,
        globals: Vec<Global>,
        instance: &Instance,
        store: &mut Store<Context>,
    ) -> wasmtime::Result<StateHandles> {
        let interface = &image.artefact().interface;
        let mut tables = Vec::with_capacity(interface.tables.len());
        for state in &interface.tables {
            tables.push(WrittenTable {
                table: table(instance, store, &seam::table_export(state.index))?,
                functions: state.functions,
            });
        }
        let functions = match interface.references {
            true => Some(Functions::find(interface.functions.len(), instance, store)?),
            false => None,
        };
        let settle = match interface.settle {
            true => Some(
                instance
                    .get_func(&mut *store, seam::SETTLE)
                    .ok_or_else(|| error("the module cannot drop its segments again"))?,
            ),
            false => None,
        };
        Ok(StateHandles {
            globals,
            tables,
            functions,
            settle,
        })
    }

    /// Reads the state of the instance.
    pub(crate) fn save(&self, store: &mut Store<Context>) -> wasmtime::Result<State> {
        let names = match &self.functions {
            Some(functions) => functions.names(store)?,
            None => Names::default(),
        };
        let mut globals = Vec::with_capacity(self.globals.len());
        for global in &self.globals {
            globals.push(match global.get(&mut *store) {
                Val::I32(value) => GlobalValue::I32(value.cast_unsigned()),
                Val::I64(value) => GlobalValue::I64(value.cast_unsigned()),
                Val::F32(bits) => GlobalValue::F32(bits),
                Val::F64(bits) => GlobalValue::F64(bits),
                Val::V128(value) => GlobalValue::V128(value.as_u128().to_le_bytes()),
                Val::FuncRef(function) => GlobalValue::Function(names.of(function, store)?),
                _ => return Err(error("a global that is state is a reference of the host")),
            });
        }
        let mut references = References::default();
        for written in &self.tables {
            let size = written.table.size(&*store);
            let entries = match written.functions {
                true => names.entries(&written.table, size, store)?,
                false => vec![None; usize::try_from(size)?],
            };
            references.tables.push(entries);
        }
        if let Some(functions) = &self.functions {
            references.frames = functions.in_frames(&names, store)?;
        }
        Ok(State {
            globals,
            references,
        })
    }

    /// Reads the references in frames alone.
    pub(crate) fn frame_references(
        &self,
        store: &mut Store<Context>,
    ) -> wasmtime::Result<Vec<Reference>> {
        match &self.functions {
            Some(functions) => functions.in_frames(&functions.names(store)?, store),
            None => Ok(Vec::new()),
        }
    }

    /// Gives the instance this state, which has been checked against the artefact.
    pub(crate) fn load(&self, state: &State, store: &mut Store<Context>) -> wasmtime::Result<()> {
        let functions = match &self.functions {
            Some(functions) => functions.list(store)?,
            None => Vec::new(),
        };
        let function = |reference: Reference| match reference {
            None => Ok(None),
            Some(position) => {
                let function = functions.get(position as usize);
                let unknown = || error(format!("there is no function {position} to refer to"));
                function.copied().map(Some).ok_or_else(unknown)
            }
        };
        for (global, value) in self.globals.iter().zip(&state.globals) {
            let value = match *value {
                GlobalValue::I32(value) => Val::I32(value.cast_signed()),
                GlobalValue::I64(value) => Val::I64(value.cast_signed()),
                GlobalValue::F32(bits) => Val::F32(bits),
                GlobalValue::F64(bits) => Val::F64(bits),
                GlobalValue::V128(bytes) => Val::V128(V128::from(u128::from_le_bytes(bytes))),
                GlobalValue::Function(reference) => Val::FuncRef(function(reference)?),
            };
            global.set(&mut *store, value)?;
        }
        for (written, entries) in self.tables.iter().zip(&state.references.tables) {
            let entry = |reference| match written.functions {
                true => Ok::<_, wasmtime::Error>(Ref::Func(function(reference)?)),
                false => Ok(Ref::Extern(None)),
            };
            fill(&written.table, entries, entry, store)?;
        }
        if let Some(all) = &self.functions {
            let frames = &state.references.frames;
            let entry = |reference| Ok(Ref::Func(function(reference)?));
            fill(&all.frames, frames, entry, store)?;
            let count = u32::try_from(frames.len())?.cast_signed();
            all.rp.set(&mut *store, Val::I32(count))?;
        }
        if let Some(settle) = self.settle {
            // It takes no time and polls nowhere.
            let settle = settle.typed::<(), ()>(&*store)?;
            crate::machine::at_once(settle.call_async(&mut *store, ()))?;
        }
        Ok(())
    }
}

/// Gives a table these entries, and no fewer: tables never shrink.
fn fill(
    table: &Table,
    entries: &[Reference],
    entry: impl Fn(Reference) -> wasmtime::Result<Ref>,
    store: &mut Store<Context>,
) -> wasmtime::Result<()> {
    let more = (entries.len() as u64).saturating_sub(table.size(&*store));
    if more > 0 {
        table.grow(&mut *store, more, entry(None)?)?;
    }
    for (at, reference) in (0..).zip(entries) {
        table.set(&mut *store, at, entry(*reference)?)?;
    }
    Ok(())
}

impl Functions {
    fn find(
        count: usize,
        instance: &Instance,
        store: &mut Store<Context>,
    ) -> wasmtime::Result<Functions> {
        Ok(Functions {
            list: table(instance, store, seam::FUNCTIONS)?,
            count,
            frames: table(instance, store, seam::REFERENCES)?,
            rp: global(instance, store, seam::RP)?,
        })
    }

    fn list(&self, store: &mut Store<Context>) -> wasmtime::Result<Vec<Func>> {
        let mut list = Vec::with_capacity(self.count);
        for at in 0..self.count as u64 {
            match self.list.get(&mut *store, at) {
                Some(Ref::Func(Some(function))) => list.push(function),
                _ => return Err(error(format!("function {at} to refer to is missing"))),
            }
        }
        Ok(list)
    }

    fn names(&self, store: &mut Store<Context>) -> wasmtime::Result<Names> {
        let positions = self.list(store)?.into_iter().zip(0..);
        Ok(Names(
            positions
                .map(|(function, position)| (address(function, store), position))
                .collect(),
        ))
    }

    fn in_frames(
        &self,
        names: &Names,
        store: &mut Store<Context>,
    ) -> wasmtime::Result<Vec<Reference>> {
        let count = self.rp.get(&mut *store).i32().unwrap_or(0);
        names.entries(&self.frames, count.cast_unsigned().into(), store)
    }
}

/// What tells a function from others of its instance.
fn address(function: Func, store: &mut Store<Context>) -> usize {
    function.to_raw(store).addr()
}

/// The position of every function, by address.
#[derive(Default)]
struct Names(HashMap<usize, u32>);

impl Names {
    fn of(
        &self,
        function: Option<Func>,
        store: &mut Store<Context>,
    ) -> wasmtime::Result<Reference> {
        let Some(function) = function else {
            return Ok(None);
        };
        match self.0.get(&address(function, store)) {
            Some(position) => Ok(Some(*position)),
            None => Err(error("a reference leads to a function of unknown name")),
        }
    }

    fn entries(
        &self,
        table: &Table,
        count: u64,
        store: &mut Store<Context>,
    ) -> wasmtime::Result<Vec<Reference>> {
        let mut entries = Vec::with_capacity(usize::try_from(count)?);
        for at in 0..count {
            entries.push(match table.get(&mut *store, at) {
                Some(Ref::Func(function)) => self.of(function, store)?,
                _ => return Err(error("a table of functions holds something else")),
            });
        }
        Ok(entries)
    }
}

/// The pass's name for the type of a global's value.
pub(crate) fn kind_of(value: &GlobalValue) -> Slot {
    match value {
        GlobalValue::I32(_) => Slot::I32,
        GlobalValue::I64(_) => Slot::I64,
        GlobalValue::F32(_) => Slot::F32,
        GlobalValue::F64(_) => Slot::F64,
        GlobalValue::V128(_) => Slot::V128,
        GlobalValue::Function(_) => Slot::Function,
    }
}
