//! The figures of `bench io`, for programs and for people.

use crate::harness::{Machine, Skipped};
use crate::report::{mark, rounded, table};
use crate::stats::median;
use serde::Serialize;
use std::fmt::Write;

/// Requests per second of a process over those of the native peer, at least.
const RATIO: f64 = 0.5;

/// What a thread of a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Group {
    /// Runs the program and its kernel.
    Process,
    /// Carries bytes between clients and the process.
    AnchorAndSwitch,
    /// Watches slices and deadlines.
    Monitor,
    /// All of the native peer; nothing much of a node.
    Rest,
}

impl Group {
    pub const ALL: [Group; 4] = [
        Group::Process,
        Group::AnchorAndSwitch,
        Group::Monitor,
        Group::Rest,
    ];

    pub fn of_thread(name: &str) -> Group {
        match name {
            "limosa-worker" => Group::Process,
            "limosa-monitor" => Group::Monitor,
            name if name.starts_with("tokio") => Group::AnchorAndSwitch,
            _ => Group::Rest,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Group::Process => "process and its kernel",
            Group::AnchorAndSwitch => "anchor and switch",
            Group::Monitor => "monitor",
            Group::Rest => "rest",
        }
    }
}

/// A server for a while.
pub(super) struct Turn {
    pub requests: u64,
    pub seconds: f64,
    /// CPU seconds, in user mode and in the kernel.
    pub spent: Vec<(Group, [f64; 2])>,
}

impl Turn {
    fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub ratio: Option<Ratio>,
    #[serde(serialize_with = "rounded")]
    pub process_requests_per_second: f64,
    pub native_requests_per_second: Option<f64>,
    /// CPU microseconds per request.
    pub process: Vec<Cost>,
    pub native: Vec<Cost>,
    /// Peers that were not there.
    pub skipped: Vec<Skipped>,
    /// On what.
    pub machine: Machine,
}

/// The middle of the ratios of neighbouring turns.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ratio {
    pub at_least: f64,
    #[serde(serialize_with = "rounded")]
    pub value: f64,
    pub pass: bool,
}

/// What one kind of thread spends on a request.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    pub threads: Group,
    #[serde(serialize_with = "rounded")]
    pub user_us: f64,
    #[serde(serialize_with = "rounded")]
    pub kernel_us: f64,
}

fn costs(turns: &[Turn]) -> Vec<Cost> {
    let requests: u64 = turns.iter().map(|turn| turn.requests).sum();
    let cost = |threads| {
        let all = turns.iter().flat_map(|turn| &turn.spent);
        let of_these = all.filter(|(group, _)| *group == threads);
        let (user, kernel) = of_these.fold((0.0, 0.0), |(u, k), (_, [user, kernel])| {
            (u + user, k + kernel)
        });
        Cost {
            threads,
            user_us: user * 1e6 / requests as f64,
            kernel_us: kernel * 1e6 / requests as f64,
        }
    };
    let costs = Group::ALL.map(cost).into_iter();
    costs
        .filter(|cost| cost.user_us + cost.kernel_us > 0.0)
        .collect()
}

impl Report {
    pub(super) fn new(
        processes: &[Turn],
        natives: &[Turn],
        skipped: Vec<Skipped>,
        machine: Machine,
    ) -> Report {
        let rates = |turns: &[Turn]| turns.iter().map(Turn::rate).collect::<Vec<f64>>();
        let (process, native) = (rates(processes), rates(natives));
        let ratios: Vec<f64> = process.iter().zip(&native).map(|(p, n)| p / n).collect();
        let ratio = (!ratios.is_empty()).then(|| {
            let value = median(&ratios);
            Ratio {
                at_least: RATIO,
                value,
                pass: value >= RATIO,
            }
        });
        Report {
            ratio,
            process_requests_per_second: median(&process),
            native_requests_per_second: (!native.is_empty()).then(|| median(&native)),
            process: costs(processes),
            native: costs(natives),
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
        let mut costs = table(&["server", "threads", "user µs", "kernel µs", "sum µs"]);
        for (server, rows) in [("process", &self.process), ("native", &self.native)] {
            for row in rows {
                costs.add_row([
                    server.to_owned(),
                    row.threads.name().to_owned(),
                    format!("{:.1}", row.user_us),
                    format!("{:.1}", row.kernel_us),
                    format!("{:.1}", row.user_us + row.kernel_us),
                ]);
            }
        }
        let mut text = format!("CPU time per request\n{costs}\n\n");
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "process  {:.0} requests/s",
            self.process_requests_per_second
        );
        if let Some(native) = self.native_requests_per_second {
            let _ = writeln!(text, "native   {native:.0} requests/s");
        }
        if let Some(ratio) = self.ratio {
            let _ = writeln!(
                text,
                "ratio    {:.3} (bar at least {:.2}) {}",
                ratio.value,
                ratio.at_least,
                mark(ratio.pass)
            );
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
    fn the_object_has_the_promised_fields() {
        let turn = |requests, group| Turn {
            requests,
            seconds: 2.0,
            spent: vec![(group, [0.5, 0.25])],
        };
        let processes = [turn(100_000, Group::Process), turn(120_000, Group::Process)];
        let natives = [turn(200_000, Group::Rest), turn(200_000, Group::Rest)];
        let machine = Machine::of_this();
        let report = Report::new(&processes, &natives, Vec::new(), machine);
        let object: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(object["ratio"]["value"], 0.55);
        assert_eq!(object["ratio"]["pass"], true);
        assert_eq!(object["process_requests_per_second"], 55_000.0);
        assert_eq!(object["process"][0]["threads"], "process");
        assert_eq!(object["native"][0]["user_us"], 2.5);
        assert!(report.text().contains("0.550 (bar at least 0.50) pass"));
    }

    #[test]
    fn threads_are_told_apart_by_what_they_do() {
        assert_eq!(Group::of_thread("limosa-worker"), Group::Process);
        assert_eq!(Group::of_thread("tokio-rt-worker"), Group::AnchorAndSwitch);
        assert_eq!(Group::of_thread("httpd"), Group::Rest);
    }
}
