//! Names of functions, for errors and for the modules that are made.

use crate::error::{Error, Place};
use std::collections::BTreeMap;
use wasmparser::{ExternalKind, KnownCustom, Name, Parser, Payload};

/// What a module calls itself and its functions.
#[derive(Default)]
pub(crate) struct Names {
    pub module: Option<String>,
    pub functions: BTreeMap<u32, String>,
}

/// Reads the name section; what is broken in it is left out, as everyone does.
pub(crate) fn read(wasm: &[u8]) -> Names {
    let mut names = Names::default();
    for payload in Parser::new(0).parse_all(wasm) {
        let Ok(Payload::CustomSection(section)) = payload else {
            if payload.is_err() {
                break;
            }
            continue;
        };
        let KnownCustom::Name(section) = section.as_known() else {
            continue;
        };
        for subsection in section {
            match subsection {
                Ok(Name::Module { name, .. }) => names.module = Some(name.to_owned()),
                Ok(Name::Function(map)) => {
                    for naming in map.into_iter().map_while(Result::ok) {
                        names.functions.insert(naming.index, naming.name.to_owned());
                    }
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    names
}

/// Adds the function's name to an error about a function.
pub(crate) fn add_to(wasm: &[u8], mut error: Error) -> Error {
    if let Some(Place::Function { index, name }) = error.place_mut() {
        let index = *index;
        *name = read(wasm)
            .functions
            .remove(&index)
            .or_else(|| exported_name(wasm, index));
    }
    error
}

fn exported_name(wasm: &[u8], function: u32) -> Option<String> {
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::ExportSection(section) = payload.ok()? {
            return section
                .into_iter()
                .map_while(Result::ok)
                .find(|export| export.kind == ExternalKind::Func && export.index == function)
                .map(|export| export.name.to_owned());
        }
    }
    None
}
