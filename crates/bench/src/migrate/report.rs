//! The figures of `bench migrate`, for programs and for people.

use crate::harness::Machine;
use crate::report::{Bar, Spread, json_with_bars, mark, rounded, rounded_if_any, table};
use crate::stats::median;
use serde::Serialize;
use std::fmt::{self, Write};
use wire::api::{MoveReport, Strategy};

/// The bars, in milliseconds of standing still, and pages over plain bytes.
const STOP_8_MS: f64 = 10.0;
const PRECOPY_P50_MS: f64 = 20.0;
const PRECOPY_P99_MS: f64 = 50.0;
const LEAST_RATIO: f64 = 0.7;

/// What is moved, and how.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Case {
    pub strategy: Strategy,
    pub memory_mib: u64,
    pub dirty_mib_per_s: u64,
    /// How often it is moved.
    pub moves: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (memory, dirty) = (self.memory_mib, self.dirty_mib_per_s);
        write!(
            f,
            "{:?}, {memory} MiB, {dirty} MiB/s written",
            self.strategy
        )
    }
}

impl Case {
    /// All of them.
    pub fn all(quick: bool) -> Vec<Case> {
        let case = |strategy, memory_mib, dirty_mib_per_s| Case {
            strategy,
            memory_mib,
            dirty_mib_per_s,
            moves: match (quick, memory_mib) {
                (true, ..64) => 20,
                (true, _) => 4,
                (false, ..64) => 100,
                (false, ..1024) => 30,
                (false, _) => 20,
            },
        };
        if quick {
            let small = [case(Strategy::Stop, 8, 0), case(Strategy::Stop, 64, 0)];
            let large = [
                case(Strategy::Precopy, 256, 64),
                case(Strategy::Precopy, 1024, 64),
            ];
            return [small, large].concat();
        }
        let mut cases = Vec::new();
        for memory in [8, 64, 256, 1024] {
            cases.push(case(Strategy::Stop, memory, 0));
            for dirty in [0, 16, 64, 256] {
                cases.push(case(Strategy::Precopy, memory, dirty));
            }
        }
        cases
    }
}

/// How fast pages go.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bulk {
    /// GiB per second.
    #[serde(serialize_with = "rounded_if_any")]
    pub pages_gib_per_s: Option<f64>,
    /// Bytes over the same kind of connection.
    #[serde(serialize_with = "rounded_if_any")]
    pub tls_gib_per_s: Option<f64>,
    /// Why it could not be measured.
    pub skipped: Option<String>,
}

impl Bulk {
    pub fn measured(pages: f64, raw: f64) -> Bulk {
        const GIB: f64 = (1u64 << 30) as f64;
        Bulk {
            pages_gib_per_s: Some(pages / GIB),
            tls_gib_per_s: Some(raw / GIB),
            skipped: None,
        }
    }

    pub fn skipped(reason: String) -> Bulk {
        Bulk {
            pages_gib_per_s: None,
            tls_gib_per_s: None,
            skipped: Some(reason),
        }
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.pages_gib_per_s? / self.tls_gib_per_s?)
    }
}

/// What came out of a case.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub case: Case,
    /// How long it stood still, in milliseconds.
    pub frozen_ms: Spread,
    /// The whole move, in the middle.
    #[serde(serialize_with = "rounded")]
    pub total_ms: f64,
    /// Sent while it stood still, in the middle.
    #[serde(serialize_with = "rounded")]
    pub frozen_mib: f64,
    /// Sent in all over its memory, in the middle.
    #[serde(serialize_with = "rounded")]
    pub sent_over_memory: f64,
    /// In the middle.
    #[serde(serialize_with = "rounded")]
    pub rounds: f64,
    /// Moves whose rounds did not come to what was wanted.
    pub complaints: usize,
}

impl Row {
    pub fn new(case: Case, moves: &[MoveReport]) -> Row {
        let all = |of: fn(&MoveReport) -> f64| moves.iter().map(of).collect::<Vec<_>>();
        let mib = |bytes: f64| bytes / (1u64 << 20) as f64;
        let complaints = moves.iter().filter(|report| report.complaint.is_some());
        Row {
            frozen_ms: Spread::of(&all(|report| report.frozen_ms)),
            total_ms: median(&all(|report| report.total_ms)),
            frozen_mib: mib(median(&all(|report| report.frozen_bytes as f64))),
            sent_over_memory: mib(median(&all(|report| report.bytes as f64)))
                / case.memory_mib as f64,
            rounds: median(&all(|report| report.rounds.len() as f64)),
            complaints: complaints.count(),
            case,
        }
    }
}

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    bulk: Bulk,
    rows: Vec<Row>,
    quick: bool,
    machine: Machine,
}

/// What is promised.
#[derive(Serialize)]
struct Bars {
    stop_8_mib_p50_ms: Option<Bar>,
    precopy_1_gib_64_mib_per_s_p50_ms: Option<Bar>,
    precopy_1_gib_64_mib_per_s_p99_ms: Option<Bar>,
    /// Plain bytes over pages, at most 1 / 0.7.
    tls_over_pages: Option<Bar>,
}

impl Report {
    pub(super) fn new(bulk: Bulk, rows: Vec<Row>, quick: bool, machine: Machine) -> Report {
        Report {
            bulk,
            rows,
            quick,
            machine,
        }
    }

    fn row(&self, strategy: Strategy, memory_mib: u64, dirty: u64) -> Option<&Row> {
        let wanted = (strategy, memory_mib, dirty);
        let key = |row: &Row| {
            (
                row.case.strategy,
                row.case.memory_mib,
                row.case.dirty_mib_per_s,
            )
        };
        self.rows.iter().find(|row| key(row) == wanted)
    }

    fn bars(&self) -> Bars {
        let stop = self.row(Strategy::Stop, 8, 0);
        let precopy = self.row(Strategy::Precopy, 1024, 64);
        let ratio = self.bulk.ratio();
        Bars {
            stop_8_mib_p50_ms: stop.map(|row| Bar::at_most(STOP_8_MS, row.frozen_ms.p50)),
            precopy_1_gib_64_mib_per_s_p50_ms: precopy
                .map(|row| Bar::at_most(PRECOPY_P50_MS, row.frozen_ms.p50)),
            precopy_1_gib_64_mib_per_s_p99_ms: precopy
                .map(|row| Bar::at_most(PRECOPY_P99_MS, row.frozen_ms.p99)),
            tls_over_pages: ratio.map(|ratio| Bar::at_most(1.0 / LEAST_RATIO, 1.0 / ratio)),
        }
    }

    pub fn json(&self) -> Result<String, serde_json::Error> {
        json_with_bars(self, &self.bars())
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut rows = table(&[
            "strategy",
            "memory MiB",
            "MiB/s written",
            "frozen p50 ms",
            "p99",
            "max",
            "total ms",
            "rounds",
            "frozen MiB",
            "sent / memory",
            "stopped short",
        ]);
        for row in &self.rows {
            rows.add_row(vec![
                format!("{:?}", row.case.strategy).to_lowercase(),
                row.case.memory_mib.to_string(),
                row.case.dirty_mib_per_s.to_string(),
                format!("{:.1}", row.frozen_ms.p50),
                format!("{:.1}", row.frozen_ms.p99),
                format!("{:.1}", row.frozen_ms.max),
                format!("{:.0}", row.total_ms),
                format!("{:.0}", row.rounds),
                format!("{:.2}", row.frozen_mib),
                format!("{:.2}", row.sent_over_memory),
                row.complaints.to_string(),
            ]);
        }
        let _ = writeln!(text, "{rows}");
        let bulk = &self.bulk;
        match (bulk.pages_gib_per_s, bulk.tls_gib_per_s, bulk.ratio()) {
            (Some(pages), Some(tls), Some(ratio)) => {
                let _ = writeln!(
                    text,
                    "pages {pages:.2} GiB/s, plain TLS {tls:.2} GiB/s: {ratio:.2} (bar {LEAST_RATIO}) {}",
                    mark(ratio >= LEAST_RATIO)
                );
            }
            _ => {
                let reason = bulk.skipped.as_deref().unwrap_or_default();
                let _ = writeln!(text, "how fast pages go was not measured: {reason}");
            }
        }
        let bars = self.bars();
        for (what, bar) in [
            ("stop, 8 MiB, p50", bars.stop_8_mib_p50_ms),
            (
                "precopy, 1 GiB at 64 MiB/s, p50",
                bars.precopy_1_gib_64_mib_per_s_p50_ms,
            ),
            (
                "precopy, 1 GiB at 64 MiB/s, p99",
                bars.precopy_1_gib_64_mib_per_s_p99_ms,
            ),
        ] {
            if let Some(bar) = bar {
                let _ = writeln!(text, "{what}: {:.1} ms {bar}", bar.value);
            }
        }
        if self.quick {
            text.push_str("quick: fewer moves than the bars are meant for\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(frozen_ms: f64) -> MoveReport {
        MoveReport {
            process: wire::ProcessId(1),
            from: wire::NodeId([1; 32]),
            to: wire::NodeId([2; 32]),
            epoch: wire::Epoch(2),
            bytes: 3 << 20,
            frozen_bytes: 1 << 20,
            rounds: Vec::new(),
            complaint: None,
            frozen_ms,
            total_ms: 50.0,
        }
    }

    #[test]
    fn bars_are_judged_by_the_rows_that_they_are_for() {
        let rows = Case::all(true).into_iter().map(|case| {
            let frozen = if case.memory_mib == 8 { 9.0 } else { 30.0 };
            Row::new(case, &[moved(frozen), moved(frozen)])
        });
        let bulk = Bulk::measured(8e8, 1e9);
        let report = Report::new(bulk, rows.collect(), true, Machine::of_this());
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        let passes = |bar: &str| json["bars"][bar]["pass"].as_bool().unwrap();
        assert!(passes("stop_8_mib_p50_ms") && passes("tls_over_pages"));
        assert!(!passes("precopy_1_gib_64_mib_per_s_p50_ms"));
        assert!(passes("precopy_1_gib_64_mib_per_s_p99_ms"));
        let text = report.text();
        assert!(text.contains("0.80 (bar 0.7) pass"), "{text}");
    }
}
