//! The rules that a pass like this must obey, each with the module that breaks it.

mod common;

use common::{check, steps_of};
use freeze::{Options, transform};

fn check_text(text: &str) -> common::Tally {
    let wasm = wat::parse_str(text).unwrap();
    let artefact = transform(&wasm, &Options::default()).unwrap();
    check(&wasm, &steps_of(&artefact), 400, 1)
}

#[test]
fn nested_loops_freeze_at_every_poll_and_call() {
    let tally = check_text(include_str!("wat/nested.wat"));
    assert!(tally.freezes > 20, "{tally:?}");
}
