//! The figures of `bench freeze`, for programs and for people.

use super::depth::Depths;
use super::latency::Latencies;
use super::snapshot::{Coding, MIB};
use crate::harness::{Machine, Skipped};
use crate::report::{Bar, Spread, json_with_bars, mark, rounded, table};
use crate::stats::{Line, median};
use serde::Serialize;
use std::fmt::Write;

/// The bars, in microseconds: at most.
const REQUEST_P99_US: f64 = 1000.0;
const CAPTURE_US: f64 = 50.0;
const THAW_US: f64 = 50.0;
/// The stack that the bar of the capture is meant for.
const CAPTURE_FRAMES: f64 = 1000.0;

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Over the freezes of all programs.
    pub request_to_frozen_us: Spread,
    /// Freezing a stack.
    pub capture: Cost,
    /// Thawing a stack.
    pub thaw: Cost,
    /// A snapshot as bytes.
    pub snapshot: SnapshotCost,
    /// The programs.
    pub rows: Vec<Row>,
    /// The recursion by its depth.
    pub depths: Vec<DepthRow>,
    /// Programs that were not there.
    pub skipped: Vec<Skipped>,
    /// On what.
    pub machine: Machine,
}

/// What a stack costs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    /// However small it is, in microseconds.
    #[serde(serialize_with = "rounded")]
    pub base_us: f64,
    /// For each frame, in nanoseconds.
    #[serde(serialize_with = "rounded")]
    pub ns_per_frame: f64,
}

impl Cost {
    fn of(line: Line) -> Cost {
        Cost {
            base_us: line.base,
            ns_per_frame: line.slope * 1e3,
        }
    }
}

/// What a snapshot costs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct SnapshotCost {
    /// Memory in it, in MiB.
    pub memory_mib: usize,
    /// Its length.
    pub bytes: usize,
    #[serde(serialize_with = "rounded")]
    pub encode_ms: f64,
    #[serde(serialize_with = "rounded")]
    pub decode_ms: f64,
}

/// A program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub name: &'static str,
    /// How often it was frozen.
    pub freezes: usize,
    pub request_to_frozen_us: Spread,
    /// Taking its snapshot, the middle of all.
    #[serde(serialize_with = "rounded")]
    pub snapshot_us: f64,
    /// Making a process of that, the middle of all.
    #[serde(serialize_with = "rounded")]
    pub thaw_us: f64,
    /// Linear memory of the process, at most.
    pub memory_bytes: u64,
}

/// The recursion at one depth.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct DepthRow {
    pub frames: usize,
    /// Bytes of all its frames.
    pub bytes: usize,
    #[serde(serialize_with = "rounded")]
    pub capture_us: f64,
    #[serde(serialize_with = "rounded")]
    pub thaw_us: f64,
}

#[derive(Serialize)]
struct Bars {
    /// The worst of all programs.
    request_to_frozen_p99_us: Bar,
    capture_of_1000_frames_us: Bar,
    /// Of the smallest stack.
    thaw_of_a_small_stack_us: Bar,
}

impl Report {
    fn bars(&self) -> Bars {
        let p99s = self.rows.iter().map(|row| row.request_to_frozen_us.p99);
        let capture = self.capture.base_us + CAPTURE_FRAMES * self.capture.ns_per_frame / 1e3;
        Bars {
            request_to_frozen_p99_us: Bar::at_most(REQUEST_P99_US, p99s.fold(0.0, f64::max)),
            capture_of_1000_frames_us: Bar::at_most(CAPTURE_US, capture),
            thaw_of_a_small_stack_us: Bar::at_most(
                THAW_US,
                self.depths.first().map_or(f64::NAN, |row| row.thaw_us),
            ),
        }
    }

    pub(super) fn new(
        latencies: Vec<Latencies>,
        depths: Depths,
        coding: Coding,
        skipped: Vec<Skipped>,
        machine: Machine,
    ) -> Report {
        let all: Vec<f64> = latencies
            .iter()
            .flat_map(|program| program.frozen_us.iter().copied())
            .collect();
        let rows = latencies.iter().map(|program| Row {
            name: program.name,
            freezes: program.frozen_us.len(),
            request_to_frozen_us: Spread::of(&program.frozen_us),
            snapshot_us: median(&program.snapshot_us),
            thaw_us: median(&program.thaw_us),
            memory_bytes: program.memory_bytes,
        });
        let depth_rows = depths.rows.iter().map(|row| DepthRow {
            frames: row.frames,
            bytes: row.frame_bytes,
            capture_us: row.capture_us,
            thaw_us: row.thaw_us,
        });
        Report {
            request_to_frozen_us: Spread::of(&all),
            capture: Cost::of(depths.capture),
            thaw: Cost::of(depths.thaw),
            snapshot: SnapshotCost {
                memory_mib: MIB,
                bytes: coding.bytes,
                encode_ms: coding.encode_ms,
                decode_ms: coding.decode_ms,
            },
            rows: rows.collect(),
            depths: depth_rows.collect(),
            skipped,
            machine,
        }
    }

    /// One JSON object.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        json_with_bars(self, &self.bars())
    }

    /// Tables, and what they come to.
    pub fn text(&self) -> String {
        let time = |us: f64| format!("{us:.1}");
        let times = |spread: &Spread| [spread.p50, spread.p99, spread.max].map(time);
        let headings = [
            "program",
            "freezes",
            "p50 µs",
            "p99 µs",
            "max µs",
            "snapshot µs",
            "thaw µs",
            "memory",
            "",
        ];
        let mut programs = table(&headings);
        for row in &self.rows {
            let [p50, p99, max] = times(&row.request_to_frozen_us);
            programs.add_row([
                row.name.to_owned(),
                row.freezes.to_string(),
                p50,
                p99,
                max,
                time(row.snapshot_us),
                time(row.thaw_us),
                format!("{:.1} MiB", row.memory_bytes as f64 / f64::from(1 << 20)),
                mark(row.request_to_frozen_us.p99 <= REQUEST_P99_US).to_owned(),
            ]);
        }
        let freezes: usize = self.rows.iter().map(|row| row.freezes).sum();
        let [p50, p99, max] = times(&self.request_to_frozen_us);
        programs.add_row(["all".to_owned(), freezes.to_string(), p50, p99, max]);
        let mut depths = table(&["frames", "bytes", "capture µs", "thaw µs"]);
        for row in &self.depths {
            depths.add_row([
                row.frames.to_string(),
                row.bytes.to_string(),
                format!("{:.1}", row.capture_us),
                format!("{:.1}", row.thaw_us),
            ]);
        }
        let mut text = format!("From the request to the frozen process\n{programs}\n\n");
        // Writing to a string does not fail.
        let _ = writeln!(text, "Freezing and thawing a stack\n{depths}\n");
        for (what, cost) in [("capture", self.capture), ("thaw", self.thaw)] {
            let Cost {
                base_us,
                ns_per_frame,
            } = cost;
            let _ = writeln!(
                text,
                "{what:<10}{base_us:.1} µs + {ns_per_frame:.1} ns per frame"
            );
        }
        let SnapshotCost {
            memory_mib,
            encode_ms,
            decode_ms,
            ..
        } = self.snapshot;
        let _ = writeln!(
            text,
            "snapshot  of {memory_mib} MiB: {encode_ms:.2} ms to bytes, {decode_ms:.2} ms back"
        );
        let bars = self.bars();
        let lines = [
            (
                "request to frozen, worst p99",
                bars.request_to_frozen_p99_us,
            ),
            ("capture of 1,000 frames", bars.capture_of_1000_frames_us),
            ("thaw of a small stack", bars.thaw_of_a_small_stack_us),
        ];
        for (what, bar) in lines {
            let _ = writeln!(text, "{what:<30}{:>8.1} µs  {bar}", bar.value);
        }
        text += &self.machine.describe();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::depth::Depth;
    use super::*;

    #[test]
    fn the_object_has_the_promised_fields() {
        let latencies = Latencies {
            name: "fib",
            frozen_us: vec![3.0, 1.0, 2.0],
            snapshot_us: vec![7.0],
            thaw_us: vec![8.0],
            memory_bytes: 1 << 20,
        };
        let line = Line {
            base: 4.0,
            slope: 0.012,
        };
        let smallest = Depth {
            frames: 5,
            frame_bytes: 100,
            capture_us: 4.0,
            thaw_us: 60.0,
        };
        let depths = Depths {
            capture: line,
            thaw: line,
            rows: vec![smallest],
        };
        let coding = Coding {
            bytes: 9,
            encode_ms: 1.0,
            decode_ms: 2.0,
        };
        let machine = Machine::of_this();
        let report = Report::new(vec![latencies], depths, coding, Vec::new(), machine);
        let object: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(object["request_to_frozen_us"]["p50"], 2.0);
        assert_eq!(object["request_to_frozen_us"]["p99"], 3.0);
        assert_eq!(object["capture"]["base_us"], 4.0);
        assert_eq!(object["thaw"]["ns_per_frame"], 12.0);
        assert_eq!(object["rows"][0]["freezes"], 3);
        assert_eq!(object["rows"][0]["snapshot_us"], 7.0);
        let bars = &object["bars"];
        assert_eq!(bars["request_to_frozen_p99_us"]["pass"], true);
        assert_eq!(bars["capture_of_1000_frames_us"]["value"], 16.0);
        assert_eq!(bars["capture_of_1000_frames_us"]["pass"], true);
        assert_eq!(bars["thaw_of_a_small_stack_us"]["pass"], false);
        assert!(report.text().contains("4.0 µs + 12.0 ns per frame"));
    }
}
