//! What is refused, and what the refusal says.

use freeze::{Error, Options, Place, transform};

fn refusal(text: &str) -> Error {
    let wasm = wat::parse_str(text).unwrap();
    transform(&wasm, &Options::default()).expect_err("it should be refused")
}

/// Asserts an `Unsupported` whose place and feature contain these words.
#[track_caller]
fn assert_unsupported(text: &str, place: &str, feature: &str) {
    let error = refusal(text);
    let Error::Unsupported {
        place: found_place,
        feature: found_feature,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert!(found_place.to_string().contains(place), "{error}");
    assert!(found_feature.contains(feature), "{error}");
}

#[test]
fn bytes_that_are_no_module_are_named_as_such() {
    for bytes in [&b""[..], b"\0as", b"#!/bin/sh", b"\x7fELF\x02\x01\x01"] {
        assert_eq!(
            transform(bytes, &Options::default()).unwrap_err(),
            Error::NotWasm
        );
    }
}

#[test]
fn a_component_is_named_as_such() {
    assert_eq!(refusal("(component)"), Error::Component);
}

#[test]
fn an_invalid_module_is_refused_with_the_offset() {
    let error = refusal("(module (func $bad (export \"bad\") (result i32)))");
    let Error::Invalid { place, offset, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(*offset > 8, "{error}");
    let name = Some("bad".to_owned());
    assert_eq!(*place, Place::Function { index: 0, name });

    let wasm = wat::parse_str("(module (func (drop (i32.const 5))))").unwrap();
    let cut = &wasm[..wasm.len() - 2];
    let error = transform(cut, &Options::default()).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[test]
fn a_function_is_named_by_the_name_section_or_its_export() {
    let place = "function 1 \"who\"";
    assert_unsupported(
        "(module (func) (func $who return_call 0))",
        place,
        "tail calls",
    );
    assert_unsupported(
        "(module (func) (func (export \"who\") return_call 0))",
        place,
        "tail calls",
    );
    assert_unsupported(
        "(module (func) (func return_call 0))",
        "function 1",
        "tail calls",
    );
}

#[test]
fn threads_are_refused() {
    assert_unsupported(
        "(module (memory 1) (func $f (drop (i32.atomic.load (i32.const 0)))))",
        "function 0 \"f\"",
        "threads",
    );
    assert_unsupported(
        "(module (memory 1 1 shared))",
        "the module",
        "threads (atomics or shared memory)",
    );
}

#[test]
fn exceptions_are_refused() {
    assert_unsupported("(module (tag))", "the module", "exceptions");
    assert_unsupported(
        "(module (func $f (try_table (nop))))",
        "function 0 \"f\"",
        "exceptions",
    );
}

#[test]
fn garbage_collected_and_typed_references_are_refused() {
    let gc = refusal("(module (type (struct (field i32))))");
    assert!(matches!(gc, Error::Unsupported { .. }), "{gc:?}");
    let host = refusal("(module (func (param externref)))");
    assert!(matches!(host, Error::Unsupported { .. }), "{host:?}");
    let typed =
        refusal("(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))");
    assert!(matches!(typed, Error::Unsupported { .. }), "{typed:?}");
}

#[test]
fn sixty_four_bit_memories_are_refused() {
    assert_unsupported("(module (memory i64 1))", "the module", "64-bit");
}

#[test]
fn relaxed_vectors_are_refused_because_machines_differ() {
    assert_unsupported(
        "(module (func $f (param v128) (result v128)
           (i32x4.relaxed_trunc_f32x4_s (local.get 0))))",
        "function 0 \"f\"",
        "relaxed SIMD",
    );
}

#[test]
fn tables_that_are_written_to_are_refused() {
    for (operator, code) in [
        ("table.set", "(table.set (i32.const 0) (ref.func 0))"),
        (
            "table.grow",
            "(drop (table.grow (ref.null func) (i32.const 1)))",
        ),
        (
            "table.fill",
            "(table.fill (i32.const 0) (ref.null func) (i32.const 1))",
        ),
        (
            "table.copy",
            "(table.copy (i32.const 0) (i32.const 1) (i32.const 1))",
        ),
        (
            "table.init",
            "(table.init 0 (i32.const 0) (i32.const 0) (i32.const 1))",
        ),
        ("elem.drop", "(elem.drop 0)"),
    ] {
        let text = format!("(module (table 3 funcref) (elem func 0) (func $f {code}))");
        assert_unsupported(&text, "function 0 \"f\"", operator);
    }
    assert_unsupported(
        "(module (memory 1) (data \"x\") (func $f (data.drop 0)))",
        "function 0 \"f\"",
        "data.drop",
    );
}

#[test]
fn references_may_be_used_but_not_kept_over_a_freeze() {
    let keep = |between: &str| {
        format!(
            "(module (import \"host\" \"call\" (func $call)) (elem declare func $f)
               (func $f (export \"f\") (local funcref)
                 (local.set 0 (ref.func $f)) {between} (drop (ref.is_null (local.get 0)))))"
        )
    };
    let wasm = wat::parse_str(keep("(nop)")).unwrap();
    transform(&wasm, &Options::default()).expect("used, but never kept");
    let place = "function 1 \"f\"";
    assert_unsupported(&keep("(call $call)"), place, "reference");
    assert_unsupported(
        &keep("(loop $l (br_if $l (i32.const 0)))"),
        place,
        "reference",
    );
    assert_unsupported(
        "(module (global (mut funcref) (ref.null func)))",
        "global 0",
        "mutable reference",
    );
}

#[test]
fn imports_other_than_functions_are_refused_by_name() {
    for (kind, word) in [
        ("(memory 1)", "memory"),
        ("(table 1 funcref)", "table"),
        ("(global i32)", "global"),
    ] {
        let text = format!("(module (import \"env\" \"thing\" {kind}))");
        assert_unsupported(&text, "import \"env\" \"thing\"", word);
    }
}

#[test]
fn a_data_segment_outside_its_memory_is_refused_as_instantiation_would_trap() {
    let error =
        refusal("(module (memory 1) (data (i32.const 3) \"ok\") (data (i32.const 65535) \"no\"))");
    let expected = Error::DataOutOfBounds {
        place: Place::Data(1),
        memory: 0,
        start: 65535,
        end: 65537,
        size: 65536,
    };
    assert_eq!(error, expected);
    // An empty segment just at the end is allowed, behind it is not.
    let at = |offset: u32| {
        let text = format!("(module (memory 1) (data (i32.const {offset}) \"\"))");
        transform(&wat::parse_str(text).unwrap(), &Options::default())
    };
    assert!(at(65536).is_ok());
    assert!(at(65537).is_err());
}

#[test]
fn names_that_the_pass_needs_are_reserved() {
    let export = refusal("(module (memory (export \"limosa:frames\") 1))");
    assert!(matches!(export, Error::ReservedName { .. }), "{export:?}");
    let import = refusal("(module (import \"limosa\" \"flag\" (func)))");
    assert!(matches!(import, Error::ReservedName { .. }), "{import:?}");
}

#[test]
fn frames_that_could_overflow_the_frames_memory_are_refused() {
    // 20,000 i64 locals live across a recursive call.
    let locals = " i64".repeat(20_000);
    let gets: String = (1..=20_000)
        .map(|local| format!("(drop (local.get {local}))"))
        .collect();
    let text =
        format!("(module (func $f (param i32) (local{locals}) (call $f (local.get 0)) {gets}))");
    let error = refusal(&text);
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    assert!(error.to_string().contains("\"f\""), "{error}");
    // With a smaller stack it is fine.
    let options = Options {
        stack_bytes: 64 << 10,
        ..Options::default()
    };
    let artefact = transform(&wat::parse_str(&text).unwrap(), &options).unwrap();
    assert!(artefact.interface.frames_pages > 1000);
}

#[test]
fn what_comes_out_is_bounded() {
    let text = "(module (func (param i32) (loop $l (br_if $l (local.get 0)))))";
    let options = Options {
        max_output_bytes: 100,
        ..Options::default()
    };
    let error = transform(&wat::parse_str(text).unwrap(), &options).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}
