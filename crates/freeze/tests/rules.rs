//! The rules that a pass like this must obey, each with the module that breaks it.

mod common;

use common::{
    Backend, Bits, Freezable, Process, Progress, Step, assert_same, check, plain, steps_of,
};
use freeze::{Imports, Options, Poll, SiteKind, Slot, transform};

/// Compares plain, unfrozen and frozen runs, at every poll and host call.
fn check_text(text: &str) -> common::Tally {
    let wasm = wat::parse_str(text).unwrap();
    let artefact = transform(&wasm, &Options::default()).unwrap();
    let tally = check(&wasm, &steps_of(&artefact), 400, 1);
    assert!(tally.freezes > 0, "nothing was frozen: {tally:?}");
    tally
}

fn run_step(args: Vec<Bits>) -> [Step; 1] {
    let export = "run".to_owned();
    [Step { export, args }]
}

#[test]
fn nested_loops_freeze_at_every_poll_and_call() {
    check_text(include_str!("wat/nested.wat"));
}

#[test]
fn block_and_loop_parameters_survive() {
    check_text(include_str!("wat/parameters.wat"));
}

#[test]
fn a_switch_is_resumed_in_every_case() {
    check_text(include_str!("wat/switch.wat"));
}

#[test]
fn an_import_called_through_a_table_is_issued_again_with_its_arguments() {
    let tally = check_text(include_str!("wat/import_in_table.wat"));
    assert!(tally.calls >= 12, "{tally:?}");
}

#[test]
fn the_start_function_runs_once_and_can_be_frozen() {
    let tally = check_text(include_str!("wat/start.wat"));
    assert_eq!(tally.calls, 8);
}

#[test]
fn vectors_live_across_calls_are_saved() {
    check_text(include_str!("wat/vectors.wat"));
}

#[test]
fn several_memories_and_extended_constants_travel() {
    check_text(include_str!("wat/memories.wat"));
}

#[test]
fn memory_init_reads_passive_segments_after_a_thaw() {
    check_text(include_str!("wat/passive.wat"));
}

#[test]
fn exceptions_are_caught_and_kept_over_a_freeze_and_no_handler_sees_it() {
    let wasm = wat::parse_str(include_str!("wat/exceptions.wat")).unwrap();
    let artefact = transform(&wasm, &Options::default()).unwrap();
    let (mut kept, steps) = (0, steps_of(&artefact));
    for function in &artefact.sites.functions {
        for site in &function.sites {
            let is_exception = |slot: &&Slot| matches!(slot, Slot::Exception { bytes: 24, .. });
            kept += site.slots.iter().filter(is_exception).count();
        }
    }
    assert!(kept > 3, "references to exceptions are kept");
    let plainly = plain(&wasm, &steps, Backend::Native).unwrap();
    assert!(plainly.steps.iter().any(Result::is_err), "one is uncaught");
    let ended = plainly.steps.iter().filter(|step| step.is_ok()).count();
    assert!(ended >= 6, "{plainly:?}");
    let tally = check(&wasm, &steps, 1000, 1);
    assert!(tally.polls > 10 && tally.calls > 10, "{tally:?}");
}

#[test]
fn references_to_functions_survive_wherever_they_are() {
    let tally = check_text(include_str!("wat/references.wat"));
    assert!(tally.polls > 3 && tally.calls > 10, "{tally:?}");
}

#[test]
fn written_tables_and_dropped_segments_are_state() {
    let text = include_str!("wat/tables.wat");
    let tally = check_text(text);
    assert!(tally.polls > 10 && tally.calls > 20, "{tally:?}");
    // The last two steps trap, and only the first of them is run above.
    let wasm = wat::parse_str(text).unwrap();
    let artefact = transform(&wasm, &Options::default()).unwrap();
    let mut steps = steps_of(&artefact);
    steps.retain(|step| !step.export.starts_with('y'));
    assert!(
        plain(&wasm, &steps, Backend::Native)
            .unwrap()
            .steps
            .last()
            .unwrap()
            .is_err()
    );
    check(&wasm, &steps, 400, 2);
}

#[test]
fn calls_in_place_of_a_return_leave_no_frame_and_poll() {
    let tally = check_text(include_str!("wat/tail.wat"));
    assert!(tally.polls > 15 && tally.calls > 1, "{tally:?}");
}

#[test]
fn an_endless_chain_of_tail_calls_is_frozen_with_one_frame() {
    let text = r#"(module
        (table 2 funcref) (elem (i32.const 0) func $a $b)
        (func $run (export "run") (return_call $a (i32.const 0)))
        (func $a (param i32) (return_call_indirect (param i32)
          (i32.add (local.get 0) (i32.const 1)) (i32.const 1)))
        (func $b (param i32) (return_call $a (i32.add (local.get 0) (i32.const 1)))))"#;
    let freezable = Freezable::new(&wat::parse_str(text).unwrap()).unwrap();
    let mut process = Process::start(&freezable, Backend::Native);
    for hop in 0..6 {
        process.freeze_at_poll(5000);
        assert_eq!(process.run(&run_step(Vec::new())), Progress::Frozen);
        let snapshot = process.snapshot();
        let frames = freezable.artefact.sites.frames(&snapshot.frames).unwrap();
        assert_eq!(frames.len(), 1);
        let to = [Backend::Pulley, Backend::Native][hop % 2];
        process = Process::thaw(&freezable, to, &snapshot);
    }
}

#[test]
fn memories_and_tables_of_64_bits_are_like_others() {
    check_text(include_str!("wat/wide.wat"));
}

#[test]
fn relaxed_vectors_are_the_same_on_every_engine() {
    check_text(include_str!("wat/relaxed.wat"));
}

#[test]
fn long_ranges_of_memory_are_worked_through_in_pieces() {
    let wasm = wat::parse_str(include_str!("wat/bulk.wat")).unwrap();
    let artefact = transform(&wasm, &Options::default()).unwrap();
    let tally = check(&wasm, &steps_of(&artefact), 60, 1);
    assert!(tally.polls > 20 && tally.freezes > 30, "{tally:?}");
}

#[test]
fn only_ranges_that_may_be_long_can_be_frozen_within() {
    let kinds = |text: &str| {
        let artefact = transform(&wat::parse_str(text).unwrap(), &Options::default()).unwrap();
        let functions = artefact.sites.functions.iter();
        let sites = functions.flat_map(|function| &function.sites);
        let kinds: Vec<_> = sites.map(|site| site.kind).collect();
        kinds
    };
    let fill = |memory: &str, length: &str| {
        kinds(&format!(
            "(module (memory {memory}) (func (param i32) (memory.fill (i32.const 0) (i32.const 0) {length})))"
        ))
    };
    // In the function itself, and in the one that works through long ranges.
    let long = [SiteKind::Call, SiteKind::Bulk];
    assert_eq!(fill("100", "(local.get 0)"), long);
    assert_eq!(fill("100", "(i32.const 300000)"), long);
    assert_eq!(fill("100", "(i32.const 5000)"), []);
    assert_eq!(fill("1 3", "(local.get 0)"), []);
}

#[test]
fn traps_are_the_same_frozen_and_unfrozen() {
    let wasm = wat::parse_str(include_str!("wat/traps.wat")).unwrap();
    let artefact = transform(&wasm, &Options::default()).unwrap();
    for step in steps_of(&artefact) {
        let seen = plain(&wasm, std::slice::from_ref(&step), Backend::Native).unwrap();
        assert!(seen.steps[0].is_err(), "{} does not trap", step.export);
        let tally = check(&wasm, &[step], 400, 1);
        assert!(tally.freezes >= 10, "{tally:?}");
    }
}

#[test]
fn unreachable_code_is_left_out() {
    check_text(include_str!("wat/unreachable.wat"));
}

#[test]
fn unrolled_loops_with_parameters_and_results_compute_the_same() {
    check_text(include_str!("wat/unrolled.wat"));
}

#[test]
fn mutual_recursion_freezes_at_entries_and_keeps_its_operands() {
    check_text(include_str!("wat/recursion.wat"));
}

#[test]
fn a_poll_behind_early_exits_and_calls_is_resumed_where_it_stands() {
    check_text(include_str!("wat/sunk.wat"));
}

#[test]
fn a_recursive_function_polls_after_its_first_call_back_or_as_late_as_can_be_before_all() {
    // Kind and number of saved values of every site of the function `$f` alone.
    let sites = |body: &str| -> Vec<(SiteKind, usize)> {
        let text = format!("(module (func $f (param $n i32) (result i32) (local $k i32) {body}))");
        let artefact = transform(&wat::parse_str(text).unwrap(), &Options::default()).unwrap();
        let sites = artefact.sites.functions[0].sites.iter();
        sites.map(|site| (site.kind, site.slots.len())).collect()
    };
    let call = "(call $f (i32.sub (local.get $n) (i32.const 1)))";
    // Behind the call what it returned is saved too.
    let set = "(local.set $k (i32.mul (local.get $n) (i32.const 3)))";
    let again = format!("(i32.add (local.get $k) (i32.add {call} (local.get $n)))");
    let (entry, call_site) = (SiteKind::Entry, SiteKind::Call);

    let straight = sites(&format!("{set} (local.set $k {again}) (local.get $k)"));
    assert_eq!(straight, [(call_site, 2), (entry, 3)]);

    let leaf = "(if (i32.lt_s (local.get $n) (i32.const 2)) (then (return (i32.const 1))))";
    let exits = sites(&format!(
        "{leaf} {set} (local.set $k {again}) (local.get $k)"
    ));
    assert_eq!(exits, [(call_site, 2), (entry, 3)], "leaves do not poll");

    let arm = format!("(if (local.get $n) (then {set} (local.set $k {again}))) (local.get $k)");
    assert_eq!(
        sites(&arm),
        [(call_site, 2), (entry, 3)],
        "in the arm that calls"
    );
    let arms = format!(
        "(if (local.get $n) (then {set} (local.set $k {again})) (else (local.set $k {call})))
        (local.get $k)"
    );
    let kinds: Vec<_> = sites(&arms).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [call_site, entry, call_site, entry], "in both arms");
    let twice = format!("{set} (i32.add (i32.add (local.get $k) {call}) {call})");
    assert_eq!(
        sites(&twice),
        [(call_site, 2), (entry, 3), (call_site, 1)],
        "not after the second"
    );
    let many = format!(
        "{leaf} {set} (if (local.get $n)
            (then (if (local.get $k) (then (local.set $k {again})) (else (local.set $k {call}))))
            (else (local.set $k {call})))
        (local.get $k)"
    );
    let saved = sites(&many);
    assert_eq!(saved[0], (entry, 2), "before them if there are many");
    let kinds: Vec<_> = saved.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [entry, call_site, call_site, call_site]);

    let turns = format!("(loop $l (local.set $k {call}) (br_if $l (local.get $k))) (local.get $k)");
    let kinds: Vec<_> = sites(&turns).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [call_site, entry], "the loop polls in time");

    let around = format!("(block $b (br_if $b (local.get $n)) {turns} (drop)) {call}");
    let kinds: Vec<_> = sites(&around).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(
        kinds,
        [call_site, entry, call_site, entry],
        "a way around the loop needs a poll"
    );
}

#[test]
fn a_loop_that_makes_calls_polls_after_them_if_every_turn_does_and_they_are_few() {
    let kinds = |body: &str| -> Vec<SiteKind> {
        let text = format!(
            "(module (import \"a\" \"b\" (func $import))
            (func $callee (call $import))
            (func (export \"f\") (param $n i32) (loop $l {body}
                (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"
        );
        let artefact = transform(&wat::parse_str(text).unwrap(), &Options::default()).unwrap();
        let sites = artefact.sites.functions[1].sites.iter();
        sites.map(|site| site.kind).collect()
    };
    let (head, entry, call) = (SiteKind::Head, SiteKind::Entry, SiteKind::Call);
    let arms = |then: &str, els: &str| format!("(if (local.get $n) (then {then}) (else {els}))");
    assert_eq!(kinds("(call $callee)"), [call, entry]);
    assert_eq!(
        kinds("(call $callee) (call $callee)"),
        [call, entry, call],
        "after the first"
    );
    let both = arms("(call $callee)", "(call $callee)");
    assert_eq!(kinds(&both), [call, entry, call, entry]);
    let one = arms("(call $callee)", "");
    assert_eq!(kinds(&one), [head, call], "not every turn");
    let many = arms("(call $callee)", &both);
    assert_eq!(kinds(&many), [head, call, call, call], "too many");
    assert_eq!(kinds("(call $import)"), [head, SiteKind::Host]);
    let inner = "(loop $m (br_if $m (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))";
    assert_eq!(
        kinds(&format!("(call $callee) {inner}")),
        [call, head],
        "the inner loop polls anyway"
    );
}

#[test]
fn requests_reach_polls_after_calls_and_so_do_host_calls_that_freeze_unasked() {
    let text = r#"(module
        (import "a" "b" (func $import (param i32) (result i32)))
        (func $tree (param $n i32) (result i32)
          (if (result i32) (i32.lt_s (local.get $n) (i32.const 2))
            (then (call $import (local.get $n)))
            (else (i32.add
              (call $tree (i32.sub (local.get $n) (i32.const 1)))
              (i32.mul (i32.const 3) (call $tree (i32.sub (local.get $n) (i32.const 2))))))))
        (func (export "run") (param $n i32) (result i32) (local $sum i32)
          (loop $l
            (local.set $sum (i32.add (call $tree (i32.const 5)) (local.get $sum)))
            (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
          (local.get $sum)))"#;
    let wasm = wat::parse_str(text).unwrap();
    let options = Options {
        poll: Poll::Plain,
        stack_bytes: 1 << 20,
        ..Options::default()
    };
    let freezable = Freezable::with(&wasm, &options).unwrap();
    let steps = steps_of(&freezable.artefact);
    let expected = plain(&wasm, &steps, Backend::Native).unwrap();
    for call in 0..expected.calls.len() {
        for asked in [true, false] {
            let (from, to) = match call % 2 {
                0 => (Backend::Native, Backend::Pulley),
                _ => (Backend::Pulley, Backend::Native),
            };
            let mut process = Process::start(&freezable, from);
            if asked {
                process.ask_at_call(call);
            } else {
                process.freeze_at_call(Some(call));
            }
            // Asked for in the last call, it may be over before the next poll.
            if process.run(&steps) == Progress::Frozen {
                assert_eq!(process.calls(), call + usize::from(asked));
                let snapshot = process.snapshot();
                process = Process::thaw(&freezable, to, &snapshot);
                assert_eq!(process.run(&steps), Progress::Finished);
            } else {
                assert!(asked && call + 1 == expected.calls.len());
            }
            assert_same(&process.seen(), &expected, &format!("call {call}"));
        }
    }
}

#[test]
fn a_deep_stack_is_frozen_and_thawed_whole() {
    let text = r#"(module
        (func $deep (export "run") (param i32) (result i64)
          (if (result i64) (local.get 0)
            (then (i64.add (i64.extend_i32_u (local.get 0))
                           (call $deep (i32.sub (local.get 0) (i32.const 1)))))
            (else (i64.const 7)))))"#;
    let wasm = wat::parse_str(text).unwrap();
    let freezable = Freezable::new(&wasm).unwrap();
    let levels = 4000;
    let steps = run_step(vec![Bits(Slot::I32, levels as u128)]);
    let expected = plain(&wasm, &steps, Backend::Native).unwrap();
    for (from, to) in [
        (Backend::Native, Backend::Pulley),
        (Backend::Pulley, Backend::Native),
    ] {
        let mut process = Process::start(&freezable, from);
        // The first poll is behind the deepest call.
        process.freeze_at_poll(1);
        assert_eq!(process.run(&steps), Progress::Frozen);
        let snapshot = process.snapshot();
        let frames = freezable.artefact.sites.frames(&snapshot.frames).unwrap();
        assert_eq!(frames.len(), levels as usize);
        let mut process = Process::thaw(&freezable, to, &snapshot);
        assert_eq!(process.run(&steps), Progress::Finished);
        common::assert_same(&process.seen(), &expected, "deep");
    }
}

#[test]
fn snapshots_of_the_same_moment_are_equal_on_both_engines() {
    let wasm = wat::parse_str(include_str!("wat/parameters.wat")).unwrap();
    let freezable = Freezable::new(&wasm).unwrap();
    let steps = steps_of(&freezable.artefact);
    for poll in 1..40 {
        let [native, pulley] = [Backend::Native, Backend::Pulley].map(|backend| {
            let mut process = Process::start(&freezable, backend);
            process.freeze_at_poll(poll);
            let progress = process.run(&steps);
            (progress == Progress::Frozen).then(|| process.snapshot())
        });
        let (Some(native), Some(pulley)) = (native, pulley) else {
            assert!(poll > 5, "it has more polls than that");
            return;
        };
        assert_eq!(native.frames, pulley.frames);
        assert_eq!(native.memories, pulley.memories);
        assert_eq!(native.globals, pulley.globals);
    }
}

#[test]
fn the_artefact_is_the_same_for_every_kind_of_poll() {
    let wasm = wat::parse_str(include_str!("wat/recursion.wat")).unwrap();
    let [atomic, plain, countdown] = [Poll::Atomic, Poll::Plain, Poll::Countdown].map(|poll| {
        let options = Options {
            poll,
            ..Options::default()
        };
        let again = transform(&wasm, &options).unwrap();
        let artefact = transform(&wasm, &options).unwrap();
        assert_eq!(again.run, artefact.run, "the pass is deterministic");
        assert_eq!(again.thaw, artefact.thaw);
        artefact
    });
    assert_eq!(atomic.sites, plain.sites);
    assert_eq!(atomic.sites, countdown.sites);
    assert_eq!(atomic.id(), plain.id());
    assert_eq!(atomic.id(), countdown.id());
    assert_ne!(atomic.run, plain.run);
}

#[test]
fn other_modules_and_other_sites_have_other_ids() {
    let wasm = wat::parse_str(include_str!("wat/nested.wat")).unwrap();
    let all = transform(&wasm, &Options::default()).unwrap();
    let none = Options {
        freezing_imports: Imports::Only(Vec::new()),
        ..Options::default()
    };
    assert_ne!(all.id(), transform(&wasm, &none).unwrap().id());
    let other = wat::parse_str(include_str!("wat/switch.wat")).unwrap();
    assert_ne!(
        all.id(),
        transform(&other, &Options::default()).unwrap().id()
    );
}

#[test]
fn only_the_imports_that_may_freeze_have_sites() {
    let wasm = wat::parse_str(include_str!("wat/nested.wat")).unwrap();
    let hosts = |imports: Imports| {
        let options = Options {
            freezing_imports: imports,
            ..Options::default()
        };
        let artefact = transform(&wasm, &options).unwrap();
        let functions = artefact.sites.functions.iter();
        let sites = functions.flat_map(|function| &function.sites);
        sites.filter(|site| site.kind == SiteKind::Host).count()
    };
    assert_eq!(hosts(Imports::All), 1);
    assert_eq!(hosts(Imports::Only(Vec::new())), 0);
    let emit = ("host".to_owned(), "emit".to_owned());
    assert_eq!(hosts(Imports::Only(vec![emit])), 1);
}

#[test]
fn a_call_through_a_table_reaches_only_functions_of_its_type_in_that_table() {
    // Of the callers, only `b` can reach a function that loops.
    let text = r#"(module
        (type $v (func)) (type $i (func (result i32)))
        (table $calm 1 funcref) (table $busy 2 funcref)
        (elem (table $calm) (i32.const 0) func $leaf)
        (elem (table $busy) (i32.const 0) func $loop $one)
        (func $leaf) (func $one (result i32) (i32.const 1))
        (func $loop (loop $l (br $l)))
        (func (export "a") (call_indirect $calm (type $v) (i32.const 0)))
        (func (export "b") (call_indirect $busy (type $v) (i32.const 0)))
        (func (export "c") (drop (call_indirect $busy (type $i) (i32.const 1)))))"#;
    let artefact = transform(&wat::parse_str(text).unwrap(), &Options::default()).unwrap();
    let functions = artefact.sites.functions.iter();
    let instrumented: Vec<u32> = functions.map(|function| function.function).collect();
    assert_eq!(instrumented, [2, 4], "the loop and `b`");
}

#[test]
fn a_loop_polls_only_if_some_turn_could_pass_without() {
    let heads = |text: &str| {
        let artefact = transform(&wat::parse_str(text).unwrap(), &Options::default()).unwrap();
        let functions = artefact.sites.functions.iter();
        let sites = functions.flat_map(|function| &function.sites);
        sites.filter(|site| site.kind == SiteKind::Head).count()
    };
    let inner = "(loop $m (br_if $m (local.get 1)))";
    let outer = |body: &str| {
        heads(&format!(
            "(module (func (param i32 i32) (loop $l {body} (br_if $l (local.get 0)))))"
        ))
    };
    assert_eq!(outer(""), 1);
    assert_eq!(outer(inner), 1, "every turn passes the inner loop");
    let skipping = format!("(if (local.get 1) (then {inner}))");
    assert_eq!(outer(&skipping), 2, "a turn can skip the inner loop");
    let both = format!("(if (local.get 1) (then {inner}) (else {inner}))");
    assert_eq!(outer(&both), 2, "both branches poll");
    let leaving = format!("(block $b (br_if $b (local.get 1)) {inner})");
    assert_eq!(outer(&leaving), 2, "a branch leads around the inner loop");
    let early = format!("(br_if $l (local.get 1)) {inner}");
    assert_eq!(outer(&early), 2, "a turn can end before the inner loop");
    assert_eq!(heads("(module (func (loop)))"), 0, "it never repeats");
}

#[test]
fn names_are_kept_for_the_traces_of_traps() {
    let text = r#"(module $story
        (func $spin (export "run") (loop $l (br_if $l (i32.const 0)) (unreachable))))"#;
    let wasm = wat::parse_str(text).unwrap();
    let artefact = transform(&wasm, &Options::default()).unwrap();
    let named = |wasm: &[u8]| {
        let needle = b"spin";
        wasm.windows(needle.len()).filter(|w| w == needle).count()
    };
    assert_eq!(named(&artefact.run), 1);
    assert_eq!(named(&artefact.thaw), 2, "the function and its clone");
}
