//! The figures of `bench fairness`, for programs and for people.

use super::answers::Answers;
use super::shares::Share;
use crate::harness::{Machine, Skipped};
use crate::report::{Bar, rounded, table};
use crate::stats::percentile;
use serde::Serialize;
use std::fmt::Write;

/// Milliseconds in which a process answers beside endless loops, at the 99th percentile.
const ANSWER_MS: f64 = 20.0;
/// How far shares may be off weights.
const SHARE_ERROR: f64 = 0.05;

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of a process beside two endless loops per core.
    pub answer_p99_ms: Bar,
    /// The worst of all weights.
    pub share_error: Bar,
    pub rows: Vec<Row>,
    pub shares: Vec<Share>,
    /// Peers that were not there.
    pub skipped: Vec<Skipped>,
    /// On what.
    pub machine: Machine,
}

/// One server beside one kind of load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub server: &'static str,
    pub beside: &'static str,
    #[serde(serialize_with = "rounded")]
    pub p50_ms: f64,
    #[serde(serialize_with = "rounded")]
    pub p99_ms: f64,
    #[serde(serialize_with = "rounded")]
    pub max_ms: f64,
}

impl Row {
    fn of(server: &'static str, beside: &'static str, times: &[f64]) -> Row {
        Row {
            server,
            beside,
            p50_ms: percentile(times, 50.0),
            p99_ms: percentile(times, 99.0),
            max_ms: percentile(times, 100.0),
        }
    }
}

impl Report {
    pub(super) fn new(
        process: Answers,
        native: Option<Answers>,
        shares: Vec<Share>,
        skipped: Vec<Skipped>,
        machine: Machine,
    ) -> Report {
        let both = |server, answers: &Answers| {
            [
                Row::of(server, "nothing", &answers.idle_ms),
                Row::of(server, "two endless loops per core", &answers.loaded_ms),
            ]
        };
        let mut rows = both("process", &process).to_vec();
        rows.extend(native.iter().flat_map(|native| both("native", native)));
        let errors = shares.iter().map(Share::error);
        Report {
            answer_p99_ms: Bar::at_most(ANSWER_MS, percentile(&process.loaded_ms, 99.0)),
            share_error: Bar::at_most(SHARE_ERROR, errors.fold(0.0, f64::max)),
            rows,
            shares,
            skipped,
            machine,
        }
    }

    /// One JSON object.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// Tables, and what they come to.
    pub fn text(&self) -> String {
        let mut answers = table(&["server", "beside", "p50 ms", "p99 ms", "max ms"]);
        for row in &self.rows {
            let time = |ms: f64| format!("{ms:.2}");
            answers.add_row([
                row.server.to_owned(),
                row.beside.to_owned(),
                time(row.p50_ms),
                time(row.p99_ms),
                time(row.max_ms),
            ]);
        }
        let mut shares = table(&["weight", "share expected", "share got"]);
        for share in &self.shares {
            let part = |part: f64| format!("{:.1} %", part * 100.0);
            shares.add_row([
                share.weight.to_string(),
                part(share.expected),
                part(share.got),
            ]);
        }
        let mut text =
            format!("Time to answer\n{answers}\n\nOne core, four endless loops\n{shares}\n\n");
        // Writing to a string does not fail.
        let p99 = self.answer_p99_ms;
        let _ = writeln!(text, "answer beside loops, p99   {:.2} ms {p99}", p99.value);
        let error = self.share_error;
        let _ = writeln!(
            text,
            "shares off their weights   {:.3} {error}",
            error.value
        );
        text += &self.machine.describe();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_promised_fields() {
        let answers = |ms: f64| Answers {
            idle_ms: vec![1.0],
            loaded_ms: vec![ms; 10],
        };
        let share = Share {
            weight: 50,
            expected: 0.5,
            got: 0.53,
        };
        let machine = Machine::of_this();
        let report = Report::new(answers(19.0), None, vec![share], Vec::new(), machine);
        let object: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(object["answer_p99_ms"]["pass"], true);
        assert_eq!(object["share_error"]["pass"], false);
        assert_eq!(object["rows"][1]["p99_ms"], 19.0);
        assert!(report.text().contains("53.0 %"));
    }
}
