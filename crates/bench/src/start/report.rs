//! The figures of `bench start`, for programs and for people.

use super::cycles::Count;
use super::plain::Plain;
use super::processes::{FromDisk, Processes};
use crate::harness::{Machine, Skipped};
use crate::report::{Bar, Spread, json_with_bars, rounded, table};
use crate::stats::median;
use serde::Serialize;
use std::fmt::Write;

/// The bars: at most, in microseconds. 20 µs of CPU time are 50,000 starts per second and core.
const USED_US: f64 = 5.0;
const NEW_US: f64 = 25.0;
const CPU_US: f64 = 20.0;
const WARM_RATIO: f64 = 2.0;

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The programs.
    pub rows: Vec<Row>,
    /// Programs that were not there.
    pub skipped: Vec<Skipped>,
    /// Whether less was measured than the bars are meant for.
    pub quick: bool,
    /// On what.
    pub machine: Machine,
}

/// How many starts a core does.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Rate {
    /// CPU time of one, with its end, in microseconds.
    #[serde(serialize_with = "rounded")]
    pub cpu_us: f64,
    /// Starts per second of CPU time.
    #[serde(serialize_with = "rounded")]
    pub per_second: f64,
}

impl Rate {
    fn of(count: Count) -> Rate {
        Rate {
            cpu_us: count.cpu_us(),
            per_second: 1e6 / count.cpu_us(),
        }
    }
}

/// A program in plain Wasmtime.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PlainRow {
    pub start_us: Spread,
    pub new_us: Spread,
    pub end_us: Spread,
    pub one_thread: Rate,
    pub two_threads: Rate,
}

impl PlainRow {
    fn of(plain: &Plain) -> PlainRow {
        PlainRow {
            start_us: Spread::of(&plain.start_us),
            new_us: Spread::of(&plain.new_us),
            end_us: Spread::of(&plain.end_us),
            one_thread: Rate::of(plain.one),
            two_threads: Rate::of(plain.two),
        }
    }
}

/// First starts from disk, the middle of all.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct DiskRow {
    #[serde(serialize_with = "rounded")]
    pub total_ms: f64,
    #[serde(serialize_with = "rounded")]
    pub pass_ms: f64,
    #[serde(serialize_with = "rounded")]
    pub code_ms: f64,
}

/// A program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub name: &'static str,
    pub used_us: Spread,
    pub new_us: Spread,
    /// From a template, if the program ever waits.
    pub warm_us: Option<Spread>,
    pub end_us: Spread,
    pub one_thread: Rate,
    pub two_threads: Rate,
    pub warm: Option<Rate>,
    pub from_disk: DiskRow,
    pub plain: PlainRow,
}

impl Row {
    pub(super) fn new(name: &'static str, processes: Processes, plain: Plain) -> Row {
        let middle = |part: fn(&FromDisk) -> f64| {
            median(&processes.from_disk.iter().map(part).collect::<Vec<_>>())
        };
        Row {
            name,
            used_us: Spread::of(&processes.used_us),
            new_us: Spread::of(&processes.new_us),
            warm_us: processes.warm_us.as_deref().map(Spread::of),
            end_us: Spread::of(&processes.end_us),
            one_thread: Rate::of(processes.one),
            two_threads: Rate::of(processes.two),
            warm: processes.warm.map(Rate::of),
            from_disk: DiskRow {
                total_ms: middle(|load| load.total_ms),
                pass_ms: middle(|load| load.pass_ms),
                code_ms: middle(|load| load.code_ms),
            },
            plain: PlainRow::of(&plain),
        }
    }
}

/// What is promised; each the worst of all programs.
#[derive(Serialize)]
struct Bars {
    used_p50_us: Bar,
    new_p50_us: Bar,
    cpu_us_per_start: Bar,
    warm_over_used: Option<Bar>,
}

impl Report {
    pub(super) fn new(
        rows: Vec<Row>,
        skipped: Vec<Skipped>,
        quick: bool,
        machine: Machine,
    ) -> Report {
        Report {
            rows,
            skipped,
            quick,
            machine,
        }
    }

    fn bars(&self) -> Bars {
        let worst = |value: fn(&Row) -> f64| {
            let values = self.rows.iter().map(value);
            values.max_by(f64::total_cmp).unwrap_or(f64::NAN)
        };
        let warm = self.rows.iter().filter_map(|row| {
            let warm = row.warm_us?;
            Some(warm.p50 / row.used_us.p50)
        });
        let cpu_us = |row: &Row| row.one_thread.cpu_us.max(row.two_threads.cpu_us);
        Bars {
            used_p50_us: Bar::at_most(USED_US, worst(|row| row.used_us.p50)),
            new_p50_us: Bar::at_most(NEW_US, worst(|row| row.new_us.p50)),
            cpu_us_per_start: Bar::at_most(CPU_US, worst(cpu_us)),
            warm_over_used: warm
                .max_by(f64::total_cmp)
                .map(|ratio| Bar::at_most(WARM_RATIO, ratio)),
        }
    }

    /// One JSON object.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        json_with_bars(self, &self.bars())
    }

    /// Tables, and what they come to.
    pub fn text(&self) -> String {
        let time = |us: f64| format!("{us:.1}");
        let rate = |rate: &Rate| format!("{:.0}", rate.per_second);
        let mut starts = table(&[
            "program", "start", "p50 µs", "p99 µs", "end µs", "a second", "on two",
        ]);
        for row in &self.rows {
            let ends = |spread: &Spread| time(spread.p50);
            let mut add = |kind: &str, spread: &Spread, end: String, one: String, two: String| {
                starts.add_row([
                    row.name.to_owned(),
                    kind.to_owned(),
                    time(spread.p50),
                    time(spread.p99),
                    end,
                    one,
                    two,
                ]);
            };
            let (one, two) = (rate(&row.one_thread), rate(&row.two_threads));
            add("used slot", &row.used_us, ends(&row.end_us), one, two);
            let none = String::new;
            add("new slot", &row.new_us, none(), none(), none());
            if let (Some(spread), Some(warm)) = (&row.warm_us, &row.warm) {
                add("warm", spread, none(), rate(warm), none());
            }
            let plain = &row.plain;
            let (one, two) = (rate(&plain.one_thread), rate(&plain.two_threads));
            add("plain", &plain.start_us, ends(&plain.end_us), one, two);
            add("plain, new", &plain.new_us, none(), none(), none());
        }
        let mut text = format!("To the first host call\n{starts}\n\n");
        for row in &self.rows {
            let DiskRow {
                total_ms,
                pass_ms,
                code_ms,
            } = row.from_disk;
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{:<10}first start from disk {total_ms:.1} ms (the pass {pass_ms:.1} ms, its code \
                 {code_ms:.1} ms)",
                row.name
            );
        }
        let bars = self.bars();
        let mut say = |what: &str, bar: Bar| {
            let _ = writeln!(text, "{what:<24}{:>6.2} {bar}", bar.value);
        };
        say("worst used slot, µs", bars.used_p50_us);
        say("worst new slot, µs", bars.new_p50_us);
        say("worst CPU a start, µs", bars.cpu_us_per_start);
        if let Some(bar) = bars.warm_over_used {
            say("worst warm over used", bar);
        }
        text += &self.machine.describe();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn count(us: u64) -> Count {
        Count {
            starts: 10,
            cpu: Duration::from_micros(us * 10),
        }
    }

    fn plain() -> Plain {
        Plain {
            start_us: vec![12.0],
            new_us: vec![30.0],
            end_us: vec![9.0],
            one: count(25),
            two: count(50),
        }
    }

    fn report() -> Report {
        let processes = Processes {
            used_us: vec![3.0, 4.0, 9.0],
            end_us: vec![2.0],
            new_us: vec![20.0],
            warm_us: Some(vec![6.0]),
            one: count(10),
            two: count(16),
            warm: Some(count(12)),
            from_disk: vec![FromDisk {
                total_ms: 9.0,
                pass_ms: 3.0,
                code_ms: 2.0,
            }],
        };
        let rows = vec![Row::new("httpd", processes, plain())];
        Report::new(rows, Vec::new(), false, Machine::of_this())
    }

    #[test]
    fn the_object_has_the_promised_fields() {
        let json: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        let row = &json["rows"][0];
        assert_eq!(row["used_us"]["p50"], 4.0);
        assert_eq!(row["one_thread"]["per_second"], 100_000.0);
        assert_eq!(row["plain"]["two_threads"]["cpu_us"], 50.0);
        assert_eq!(json["bars"]["used_p50_us"]["pass"], true);
        assert_eq!(json["bars"]["cpu_us_per_start"]["value"], 16.0);
        assert_eq!(json["bars"]["warm_over_used"]["value"], 1.5);
    }

    #[test]
    fn the_text_says_what_is_kept_and_what_is_missed() {
        let text = report().text();
        assert!(
            text.contains("worst used slot, µs       4.00 (bar 5.00) pass"),
            "{text}"
        );
        assert!(text.contains("plain"));
    }
}
