//! The figures of `bench switch`, for programs and for people.

use super::Turns;
use crate::harness::{Machine, Skipped};
use crate::report::{rounded, table};
use serde::Serialize;
use std::fmt::Write;

/// What takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Process,
    Thread,
    OsProcess,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Process => "processes",
            Kind::Thread => "threads",
            Kind::OsProcess => "OS processes",
        }
    }
}

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub rows: Vec<Row>,
    /// Peers that were not there.
    pub skipped: Vec<Skipped>,
    /// On what.
    pub machine: Machine,
}

/// One kind with one working set.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Row {
    pub kind: Kind,
    pub working_set_bytes: usize,
    /// A turn with nobody to switch to: touching, and the call that lets others run.
    #[serde(serialize_with = "rounded")]
    pub alone_us: f64,
    /// A turn of two.
    #[serde(serialize_with = "rounded")]
    pub turn_us: f64,
    /// A switch without a working set.
    #[serde(serialize_with = "rounded")]
    pub direct_us: f64,
    /// What the working set adds to that.
    #[serde(serialize_with = "rounded")]
    pub indirect_us: f64,
}

impl Report {
    pub(super) fn new(turns: &[Turns], skipped: Vec<Skipped>, machine: Machine) -> Report {
        let switch = |turns: &Turns| (turns.two_ns - turns.alone_ns) / 1e3;
        let row = |turn: &Turns| {
            let bare = |other: &&Turns| other.kind == turn.kind && other.working_set == 0;
            let direct_us = turns.iter().find(bare).map_or(f64::NAN, switch);
            Row {
                kind: turn.kind,
                working_set_bytes: turn.working_set,
                alone_us: turn.alone_ns / 1e3,
                turn_us: turn.two_ns / 1e3,
                direct_us,
                indirect_us: switch(turn) - direct_us,
            }
        };
        Report {
            rows: turns.iter().map(row).collect(),
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
        let headings = [
            "of",
            "working set",
            "alone µs",
            "turn of two µs",
            "direct µs",
            "indirect µs",
        ];
        let mut rows = table(&headings);
        for row in &self.rows {
            rows.add_row([
                row.kind.name().to_owned(),
                format!("{} KiB", row.working_set_bytes >> 10),
                format!("{:.2}", row.alone_us),
                format!("{:.2}", row.turn_us),
                format!("{:.2}", row.direct_us),
                format!("{:.2}", row.indirect_us),
            ]);
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(text, "A switch from one to another\n{rows}\n");
        text += &self.machine.describe();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_working_set_adds_is_told_from_the_switch_itself() {
        let turns = |working_set, alone_ns, two_ns| Turns {
            kind: Kind::Thread,
            working_set,
            alone_ns,
            two_ns,
        };
        let turns = [turns(0, 500.0, 2000.0), turns(4096, 700.0, 2900.0)];
        let report = Report::new(&turns, Vec::new(), Machine::of_this());
        let object: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(object["rows"][0]["direct_us"], 1.5);
        assert_eq!(object["rows"][0]["indirect_us"], 0.0);
        assert_eq!(object["rows"][1]["indirect_us"], 0.7);
        assert_eq!(object["rows"][1]["kind"], "thread");
        assert!(report.text().contains("threads"));
    }
}
