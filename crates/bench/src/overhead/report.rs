//! The figures of `bench overhead`, for programs and for people.

use crate::harness::{Machine, Skipped};
use crate::report::{Bar, json_with_bars, mark, rounded, rounded_if_any, rounded_list, table};
use crate::stats::geometric_mean;
use serde::Serialize;
use std::fmt::Write;

/// The bars: at most.
const GEOMEAN: f64 = 1.05;
const WORST: f64 = 1.15;

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Geometric means over all rows.
    #[serde(flatten)]
    pub all: Means,
    /// The same over the kernels, small loops each.
    pub kernels: Means,
    /// The same over the programs.
    pub programs: Means,
    /// The worst ratio.
    pub worst: Named,
    /// The worst ratio after a freeze.
    pub after_freeze_worst: Named,
    /// Plain runs over plain runs.
    pub noise: Noise,
    /// The programs.
    pub rows: Vec<Row>,
    /// Programs that were not there.
    pub skipped: Vec<Skipped>,
    /// Whether less was measured than the bars are meant for.
    pub quick: bool,
    /// On what.
    pub machine: Machine,
}

/// Geometric means of ratios.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Means {
    /// Freezable over plain.
    #[serde(serialize_with = "rounded")]
    pub geomean: f64,
    /// The rest after a freeze over the same rest of a plain run.
    #[serde(serialize_with = "rounded")]
    pub after_freeze_geomean: f64,
    /// With epoch interruption over plain.
    #[serde(serialize_with = "rounded")]
    pub epoch_geomean: f64,
    /// With Asyncify over plain, of the rows that have it.
    #[serde(serialize_with = "rounded_if_any")]
    pub asyncify_geomean: Option<f64>,
}

impl Means {
    fn of<'a>(rows: impl Iterator<Item = &'a Row>) -> Means {
        let rows: Vec<&Row> = rows.collect();
        let mean = |column: fn(&Row) -> Option<f64>| {
            let ratios: Vec<f64> = rows.iter().filter_map(|row| column(row)).collect();
            (!ratios.is_empty()).then(|| geometric_mean(&ratios))
        };
        let whole = |column| mean(column).unwrap_or(f64::NAN);
        Means {
            geomean: whole(|row| Some(row.ratio)),
            after_freeze_geomean: whole(|row| Some(row.after_freeze)),
            epoch_geomean: whole(|row| Some(row.epoch)),
            asyncify_geomean: mean(|row| row.asyncify),
        }
    }
}

/// A ratio and whose it is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Named {
    pub name: &'static str,
    #[serde(serialize_with = "rounded")]
    pub ratio: f64,
}

impl Named {
    /// The highest of a column.
    pub fn worst(rows: &[Row], column: fn(&Row) -> f64) -> Named {
        let named = rows.iter().map(|row| Named {
            name: row.name,
            ratio: column(row),
        });
        named
            .max_by(|a, b| a.ratio.total_cmp(&b.ratio))
            .unwrap_or(Named {
                name: "none",
                ratio: f64::NAN,
            })
    }
}

/// Plain runs over plain runs: what the machine adds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Noise {
    /// Geometric mean.
    #[serde(serialize_with = "rounded")]
    pub geomean: f64,
    /// The row that is farthest from 1.
    #[serde(serialize_with = "rounded")]
    pub farthest: f64,
}

/// A program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub name: &'static str,
    /// Whether it is a kernel.
    pub kernel: bool,
    /// Freezable over plain.
    #[serde(serialize_with = "rounded")]
    pub ratio: f64,
    /// Rest after a freeze over the same rest of a plain run.
    #[serde(serialize_with = "rounded")]
    pub after_freeze: f64,
    /// With epoch interruption over plain.
    #[serde(serialize_with = "rounded")]
    pub epoch: f64,
    /// With Asyncify over plain.
    #[serde(serialize_with = "rounded_if_any")]
    pub asyncify: Option<f64>,
    /// CPU time of the plain run, in milliseconds.
    #[serde(serialize_with = "rounded")]
    pub plain_ms: f64,
    /// Plain over plain.
    #[serde(serialize_with = "rounded")]
    pub noise: f64,
    /// The ratio in each layout.
    #[serde(serialize_with = "rounded_list")]
    pub layouts: Vec<f64>,
    /// The ratio after a freeze in each layout.
    #[serde(serialize_with = "rounded_list")]
    pub after_freeze_layouts: Vec<f64>,
}

#[derive(Serialize)]
struct Bars {
    geomean: Bar,
    worst: Bar,
    after_freeze_geomean: Bar,
    after_freeze_worst: Bar,
}

impl Report {
    pub(super) fn new(
        rows: Vec<Row>,
        skipped: Vec<Skipped>,
        machine: Machine,
        quick: bool,
    ) -> Report {
        let noises: Vec<f64> = rows.iter().map(|row| row.noise).collect();
        let farthest = |most: f64, noise: &f64| {
            if (noise - 1.0).abs() > (most - 1.0).abs() {
                *noise
            } else {
                most
            }
        };
        Report {
            all: Means::of(rows.iter()),
            kernels: Means::of(rows.iter().filter(|row| row.kernel)),
            programs: Means::of(rows.iter().filter(|row| !row.kernel)),
            worst: Named::worst(&rows, |row| row.ratio),
            after_freeze_worst: Named::worst(&rows, |row| row.after_freeze),
            noise: Noise {
                geomean: geometric_mean(&noises),
                farthest: noises.iter().fold(1.0, farthest),
            },
            rows,
            skipped,
            machine,
            quick,
        }
    }

    fn bars(&self) -> Bars {
        Bars {
            geomean: Bar::at_most(GEOMEAN, self.all.geomean),
            worst: Bar::at_most(WORST, self.worst.ratio),
            after_freeze_geomean: Bar::at_most(GEOMEAN, self.all.after_freeze_geomean),
            after_freeze_worst: Bar::at_most(WORST, self.after_freeze_worst.ratio),
        }
    }

    /// One JSON object.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        json_with_bars(self, &self.bars())
    }

    /// A table, and what it comes to.
    pub fn text(&self) -> String {
        let mut table = table(&[
            "program",
            "plain ms",
            "ratio",
            "layouts",
            "after a freeze",
            "",
            "epoch",
            "asyncify",
        ]);
        for row in &self.rows {
            let good = row.ratio <= WORST && row.after_freeze <= WORST;
            table.add_row([
                row.name.to_owned(),
                format!("{:.1}", row.plain_ms),
                format!("{:.3}", row.ratio),
                span(&row.layouts),
                format!("{:.3}", row.after_freeze),
                mark(good).to_owned(),
                format!("{:.3}", row.epoch),
                or_none(row.asyncify),
            ]);
        }
        let means = [("kernels", self.kernels), ("programs", self.programs)];
        for (name, means) in means.into_iter().chain([("all", self.all)]) {
            table.add_row([
                name.to_owned(),
                "geomean".to_owned(),
                format!("{:.3}", means.geomean),
                String::new(),
                format!("{:.3}", means.after_freeze_geomean),
                String::new(),
                format!("{:.3}", means.epoch_geomean),
                or_none(means.asyncify_geomean),
            ]);
        }
        table.add_row([
            "noise".to_owned(),
            "geomean".to_owned(),
            format!("{:.3}", self.noise.geomean),
            format!("farthest {:.3}", self.noise.farthest),
        ]);
        let bars = self.bars();
        let mut text = format!("{table}\n\n");
        let after = &self.after_freeze_worst;
        let lines = [
            ("geometric mean", "", &bars.geomean),
            ("worst", self.worst.name, &bars.worst),
            ("mean after a freeze", "", &bars.after_freeze_geomean),
            ("worst after a freeze", after.name, &bars.after_freeze_worst),
        ];
        for (what, whose, bar) in lines {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{what:<22}{:.3}  {bar}  {whose}", bar.value);
        }
        if self.quick {
            text += "A quick run: fewer layouts and rounds than the bars are meant for.\n";
        }
        text += &self.machine.describe();
        text.push('\n');
        text
    }
}

fn or_none(ratio: Option<f64>) -> String {
    ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.3}"))
}

fn span(ratios: &[f64]) -> String {
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{least:.3} – {most:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, ratio: f64, after_freeze: f64, noise: f64) -> Row {
        Row {
            name,
            kernel: name == "slow",
            ratio,
            after_freeze,
            epoch: 1.21,
            asyncify: (name == "same").then_some(2.0),
            plain_ms: 40.0,
            noise,
            layouts: vec![ratio],
            after_freeze_layouts: vec![after_freeze],
        }
    }

    fn report() -> Report {
        let rows = vec![row("slow", 1.44, 1.1, 0.97), row("same", 1.0, 1.2, 1.01)];
        Report::new(rows, Vec::new(), Machine::of_this(), false)
    }

    #[test]
    fn the_object_has_the_promised_fields_and_says_which_bars_are_kept() {
        let object: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        assert_eq!(object["geomean"], 1.2);
        assert_eq!(object["kernels"]["geomean"], 1.44);
        assert_eq!(object["programs"]["geomean"], 1.0);
        assert_eq!(object["epoch_geomean"], 1.21);
        assert_eq!(
            object["kernels"]["asyncify_geomean"],
            serde_json::Value::Null
        );
        assert_eq!(object["asyncify_geomean"], 2.0);
        assert_eq!(object["worst"]["name"], "slow");
        assert_eq!(object["worst"]["ratio"], 1.44);
        assert_eq!(object["after_freeze_worst"]["name"], "same");
        assert_eq!(object["after_freeze_worst"]["ratio"], 1.2);
        assert_eq!(object["noise"]["farthest"], 0.97);
        assert_eq!(object["bars"]["geomean"]["pass"], false);
        assert_eq!(object["bars"]["worst"]["pass"], false);
        assert_eq!(object["bars"]["after_freeze_geomean"]["pass"], false);
        assert_eq!(object["bars"]["after_freeze_worst"]["pass"], false);
        assert_eq!(object["rows"][1]["layouts"][0], 1.0);
        assert!(object["skipped"].is_array() && object["machine"]["cores"].is_number());
    }

    #[test]
    fn people_see_each_bar_with_whose_the_worst_is() {
        let text = report().text();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
        assert!(line("worst  ").ends_with("miss  slow"), "{text}");
        assert!(
            line("worst after a freeze").ends_with("miss  same"),
            "{text}"
        );
        assert!(line(" noise").contains("farthest 0.970"), "{text}");
    }
}
