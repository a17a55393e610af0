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
    assert_unsupported("(module (func) (func $who atomic.fence))", place, "threads");
    assert_unsupported(
        "(module (func) (func (export \"who\") atomic.fence))",
        place,
        "threads",
    );
    assert_unsupported(
        "(module (func) (func atomic.fence))",
        "function 1",
        "threads",
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
fn legacy_exceptions_are_refused_with_advice() {
    for code in ["try catch_all end", "try (rethrow 0) catch_all end"] {
        let text = format!("(module (tag) (func $f {code}))");
        assert_unsupported(&text, "function 0 \"f\"", "-wasm-use-legacy-eh=false");
    }
}

#[test]
fn exceptions_that_cannot_be_taken_apart_are_refused() {
    let keep = |tag: &str| {
        format!(
            "(module (tag (param {tag})) (func $f (param i32) (local exnref)
               (loop $l (br_if $l (local.get 0))) (drop (ref.is_null (local.get 1)))))"
        )
    };
    let text = keep("i32 funcref externref");
    transform(&wat::parse_str(text).unwrap(), &Options::default()).expect("it can be kept");
    assert_unsupported(&keep("exnref"), "function 0 \"f\"", "exception");
    assert_unsupported(
        "(module (global (mut exnref) (ref.null exn)))",
        "global 0",
        "mutable reference to exceptions",
    );
    assert_unsupported(
        "(module (table 3 exnref) (func $f (table.set (i32.const 0) (ref.null exn))))",
        "table 0",
        "a table of exceptions",
    );
}

#[test]
fn garbage_collected_and_typed_references_are_refused() {
    let struct_ = "(module (type (struct (field i32))))";
    assert_unsupported(struct_, "the module", "garbage-collected");
    let typed = "(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))";
    assert_unsupported(typed, "the module", "typed function references");
    let i31 = "(module (func $f (drop (ref.i31 (i32.const 1)))))";
    assert_unsupported(i31, "function 0 \"f\"", "garbage-collected");
}

#[test]
fn stack_switching_is_refused() {
    let text = "(module (type $f (func)) (type $c (cont $f)) (elem declare func 0)
        (func $f (drop (cont.new $c (ref.func 0)))))";
    let error = refusal(text);
    assert!(error.to_string().contains("stack switching"), "{error}");
}

#[test]
fn hosts_may_not_give_references() {
    assert_unsupported(
        "(module (import \"env\" \"thing\" (func (result externref))))",
        "import \"env\" \"thing\"",
        "returns a reference",
    );
}

#[test]
fn imports_other_than_functions_are_refused_by_name() {
    for (kind, word) in [
        ("(memory 1)", "memory"),
        ("(table 1 funcref)", "table"),
        ("(global i32)", "global"),
        ("(tag)", "tag"),
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
