//! What a frame costs, at capture and at thaw.

use crate::harness::{
    End, Error, Freezable, Instance, Observer, Requester, Work, engine_error, freezable_engine,
};
use crate::progress::Progress;
use crate::stats::{Line, fit_line, median};
use std::time::Instant;

/// Depths of the recursion.
pub(super) const DEPTHS: [u32; 7] = [4, 16, 64, 256, 1024, 4096, 16384];

/// A recursion with three values live across its call, of three types, and a host call at its
/// bottom.
const RECURSION: &str = r#"(module
    (import "bench" "pause" (func $pause))
    (memory (export "memory") 1)
    (func $down (param $n i32) (param $sum i64) (param $x f64) (result i64)
        (if (i32.eqz (local.get $n))
            (then (call $pause) (return (local.get $sum))))
        (i64.add
            (call $down
                (i32.sub (local.get $n) (i32.const 1))
                (i64.add (local.get $sum) (i64.extend_i32_u (local.get $n)))
                (f64.mul (local.get $x) (f64.const 0.5)))
            (i64.add
                (i64.extend_i32_u (local.get $n))
                (i64.trunc_sat_f64_s (local.get $x)))))
    (func (export "down") (param $n i32) (result i32)
        (i32.wrap_i64 (call $down (local.get $n) (i64.const 1) (f64.const 1000)))))"#;

/// What was measured at one depth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Depth {
    pub frames: usize,
    pub frame_bytes: usize,
    pub capture_us: f64,
    pub thaw_us: f64,
}

/// The costs over the number of frames: base in microseconds, slope in microseconds per frame.
pub(super) struct Depths {
    pub capture: Line,
    pub thaw: Line,
    pub rows: Vec<Depth>,
}

/// Freezes and thaws at every depth, so many times.
pub(super) fn measure(repeats: usize, progress: &Progress) -> Result<Depths, Error> {
    let engine = freezable_engine()?;
    let wasm = wat::parse_str(RECURSION)
        .map_err(|error| engine_error("the recursion")(wasmtime::format_err!("{error}")))?;
    let freezable = Freezable::new(&engine, "recursion", &wasm)?;
    let mut rows = Vec::new();
    for depth in DEPTHS {
        progress.say(format!("{depth} frames"));
        rows.push(at(&freezable, depth, repeats)?);
        progress.step();
    }
    let line = |of: fn(&Depth) -> f64| {
        let points: Vec<_> = rows
            .iter()
            .map(|row| (row.frames as f64, of(row)))
            .collect();
        fit_line(&points)
    };
    Ok(Depths {
        capture: line(|row| row.capture_us),
        thaw: line(|row| row.thaw_us),
        rows,
    })
}

fn at(freezable: &Freezable, depth: u32, repeats: usize) -> Result<Depth, Error> {
    let work = Work::Export {
        function: "down",
        size: depth,
    };
    let differs = |what, got: &End| Error::Differs {
        program: "recursion".into(),
        what,
        expected: expected(depth).to_string(),
        got: format!("{got:?}"),
    };
    let mut requester = Requester::new(freezable.run.module.engine(), &freezable.flag)?;
    let (mut captures, mut thaws) = (Vec::new(), Vec::new());
    let (mut frames, mut frame_bytes) = (0, 0);
    for _ in 0..repeats {
        let mut instance = Instance::birth(&freezable.run, &work)?;
        instance.observer().freeze = true;
        let end = instance.run()?.end;
        let returned = Instant::now();
        if let End::Done(_) = &end {
            return Err(differs("run that was to freeze", &end));
        }
        let called = *instance.observer();
        captures.push(microseconds(called.called, Some(returned)));
        // The module has asked for what the host call did unasked.
        requester.set(false)?;
        let mut frozen = instance.freeze();
        frozen.observer().freeze = false;
        frame_bytes = frozen.frames.len();
        frames = freezable
            .run
            .artefact
            .as_ref()
            .and_then(|artefact| artefact.sites.frames(&frozen.frames).ok())
            .map_or(0, |frames| frames.len());
        let mut thawed = Instance::thaw(&freezable.thaw, frozen)?;
        let start = Instant::now();
        let end = thawed.run()?.end;
        match &end {
            End::Done(outcome) if outcome.result == Some(expected(depth)) => {}
            _ => return Err(differs("thawed run", &end)),
        }
        let Observer { called, .. } = *thawed.observer();
        thaws.push(microseconds(Some(start), called));
    }
    Ok(Depth {
        frames,
        frame_bytes,
        capture_us: median(&captures),
        thaw_us: median(&thaws),
    })
}

/// NaN if one of them did not happen.
fn microseconds(from: Option<Instant>, to: Option<Instant>) -> f64 {
    match (from, to) {
        (Some(from), Some(to)) => to.duration_since(from).as_secs_f64() * 1e6,
        _ => f64::NAN,
    }
}

/// What the recursion returns.
fn expected(depth: u32) -> i32 {
    let (mut sum, mut halves, mut x) = (1u64, 0u64, 1000.0f64);
    for n in (1..=depth).rev() {
        sum += u64::from(n);
        halves += u64::from(n) + x as u64;
        x *= 0.5;
    }
    (sum + halves) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::with_stack;

    #[test]
    fn a_deep_stack_comes_back_and_costs_more_than_a_shallow_one() {
        let depths = with_stack(|| measure(3, &Progress::new(7))).unwrap();
        let (first, last) = (depths.rows[0], depths.rows[6]);
        assert!(
            first.frames >= 5 && last.frames > 16384,
            "{first:?} {last:?}"
        );
        assert!(last.frame_bytes > first.frame_bytes);
        assert!(last.capture_us > first.capture_us && last.thaw_us > first.thaw_us);
        assert!(depths.capture.slope > 0.0 && depths.thaw.slope > 0.0);
    }
}
