//! The figures of `bench density`, for programs and for people.

use super::Measured;
use super::usage::Usage;
use crate::harness::{Machine, Skipped};
use crate::report::{Bar, json_with_bars, rounded, table};
use serde::Serialize;
use std::fmt::Write;

/// The bars: at most, in KiB for each process.
const FIBER_KIB: f64 = 48.0;
/// Of its own pages what differs from the image is in it.
const FOLDED_KIB: f64 = 2.0;

/// All figures; of memory, in KiB for each process.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// How many waited in a fiber at a time.
    pub fibers: usize,
    /// All that one takes in a fiber, less the pages that its program has written.
    #[serde(serialize_with = "rounded")]
    pub fiber_kib: f64,
    /// What it is made of.
    pub fiber: Parts,
    /// The pages that its program has written.
    #[serde(serialize_with = "rounded")]
    pub own_kib: f64,
    /// How many were folded at a time.
    pub folded: usize,
    /// All that one takes folded.
    #[serde(serialize_with = "rounded")]
    pub folded_kib: f64,
    /// What it is made of.
    pub fold: Parts,
    /// Nothing: the server is always there.
    pub skipped: Vec<Skipped>,
    /// Whether less was measured than the bars are meant for.
    pub quick: bool,
    /// On what.
    pub machine: Machine,
}

/// What a process takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Parts {
    #[serde(serialize_with = "rounded")]
    pub private_kib: f64,
    #[serde(serialize_with = "rounded")]
    pub page_tables_kib: f64,
    #[serde(serialize_with = "rounded")]
    pub mapping_records_kib: f64,
    /// Mappings.
    #[serde(serialize_with = "rounded")]
    pub mappings: f64,
    /// Descriptors.
    #[serde(serialize_with = "rounded")]
    pub descriptors: f64,
}

impl Parts {
    fn of(added: Usage, processes: usize) -> Parts {
        let each = |sum: u64| sum as f64 / processes as f64;
        Parts {
            private_kib: each(added.private) / 1024.0,
            page_tables_kib: each(added.page_tables) / 1024.0,
            mapping_records_kib: each(added.mapping_records) / 1024.0,
            mappings: each(added.mappings),
            descriptors: each(added.descriptors),
        }
    }

    fn sum_kib(&self) -> f64 {
        self.private_kib + self.page_tables_kib + self.mapping_records_kib
    }
}

#[derive(Serialize)]
struct Bars {
    fiber_kib: Bar,
    folded_kib: Bar,
}

impl Report {
    pub(super) fn new(measured: Measured, quick: bool, machine: Machine) -> Report {
        let fiber = Parts::of(measured.in_fibers, measured.fibers);
        let fold = Parts::of(measured.in_folds, measured.folded);
        let own_kib = measured.own as f64 / measured.fibers as f64 / 1024.0;
        Report {
            fibers: measured.fibers,
            fiber_kib: fiber.sum_kib() - own_kib,
            fiber,
            own_kib,
            folded: measured.folded,
            folded_kib: fold.sum_kib(),
            fold,
            skipped: Vec::new(),
            quick,
            machine,
        }
    }

    fn bars(&self) -> Bars {
        Bars {
            fiber_kib: Bar::at_most(FIBER_KIB, self.fiber_kib),
            folded_kib: Bar::at_most(FOLDED_KIB, self.folded_kib),
        }
    }

    /// One JSON object.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        json_with_bars(self, &self.bars())
    }

    /// A table, and what it comes to.
    pub fn text(&self) -> String {
        let (in_fiber, folded) = (
            format!("{} in fibers", self.fibers),
            format!("{} folded", self.folded),
        );
        let mut rows = table(&["of each idle HTTP server, KiB", &in_fiber, &folded]);
        let mut add = |what: &str, part: fn(&Parts) -> f64| {
            let [fiber, fold] =
                [&self.fiber, &self.fold].map(|parts| format!("{:.1}", part(parts)));
            rows.add_row([what.to_owned(), fiber, fold]);
        };
        add("private pages", |parts| parts.private_kib);
        add("page tables", |parts| parts.page_tables_kib);
        add("records of mappings", |parts| parts.mapping_records_kib);
        add("mappings", |parts| parts.mappings);
        add("descriptors", |parts| parts.descriptors);
        let mut text = format!("{rows}\n\n");
        let bars = self.bars();
        let own = format!("in a fiber, without {:.1} of its own", self.own_kib);
        for (what, bar) in [(own.as_str(), bars.fiber_kib), ("folded", bars.folded_kib)] {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{what:<36}{:>7.2} KiB {bar}", bar.value);
        }
        text += &self.machine.describe();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_s_own_pages_are_not_held_against_it_in_a_fiber() {
        let usage = Usage {
            private: 100 << 10,
            page_tables: 40 << 10,
            mappings: 12,
            mapping_records: 4 << 10,
            descriptors: 0,
        };
        let measured = Measured {
            fibers: 2,
            in_fibers: usage,
            own: 64 << 10,
            folded: 100,
            in_folds: usage,
        };
        let report = Report::new(measured, false, Machine::of_this());
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["fiber_kib"], 40.0);
        assert_eq!(json["fiber"]["mappings"], 6.0);
        assert_eq!(json["folded_kib"], 1.44);
        assert_eq!(json["bars"]["folded_kib"]["pass"], true);
        assert!(report.text().contains("40.00 KiB (bar 48.00) pass"));
    }
}
