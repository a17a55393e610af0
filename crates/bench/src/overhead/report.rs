//! The figures of `bench overhead`, for programs and for people.

use crate::harness::{Machine, Skipped};
use crate::report::{Bar, mark, rounded, rounded_list, table};
use serde::Serialize;
use std::fmt::Write;

/// The bars: at most.
const GEOMEAN: f64 = 1.10;
const WORST: f64 = 1.30;
const AFTER_FREEZE_WORST: f64 = 1.30;

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Geometric mean of the rows' ratios.
    #[serde(serialize_with = "rounded")]
    pub geomean: f64,
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
    /// Freezable over plain.
    #[serde(serialize_with = "rounded")]
    pub ratio: f64,
    /// Rest after a freeze over the same rest of a plain run.
    #[serde(serialize_with = "rounded")]
    pub after_freeze: f64,
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
    after_freeze_worst: Bar,
}

impl Report {
    fn bars(&self) -> Bars {
        Bars {
            geomean: Bar::at_most(GEOMEAN, self.geomean),
            worst: Bar::at_most(WORST, self.worst.ratio),
            after_freeze_worst: Bar::at_most(AFTER_FREEZE_WORST, self.after_freeze_worst.ratio),
        }
    }

    /// One JSON object.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct WithBars<'a> {
            #[serde(flatten)]
            report: &'a Report,
            bars: Bars,
        }
        serde_json::to_string_pretty(&WithBars {
            report: self,
            bars: self.bars(),
        })
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
        ]);
        for row in &self.rows {
            let good = row.ratio <= WORST && row.after_freeze <= AFTER_FREEZE_WORST;
            table.add_row([
                row.name.to_owned(),
                format!("{:.1}", row.plain_ms),
                format!("{:.3}", row.ratio),
                span(&row.layouts),
                format!("{:.3}", row.after_freeze),
                mark(good).to_owned(),
            ]);
        }
        table.add_row([
            "noise".to_owned(),
            String::new(),
            format!("{:.3}", self.noise.geomean),
            format!("farthest {:.3}", self.noise.farthest),
            String::new(),
            String::new(),
        ]);
        let bars = self.bars();
        let mut text = format!("{table}\n\n");
        let after = &self.after_freeze_worst;
        let lines = [
            ("geometric mean", "", &bars.geomean),
            ("worst", self.worst.name, &bars.worst),
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
            ratio,
            after_freeze,
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
        assert_eq!(object["worst"]["name"], "slow");
        assert_eq!(object["worst"]["ratio"], 1.44);
        assert_eq!(object["after_freeze_worst"]["name"], "same");
        assert_eq!(object["after_freeze_worst"]["ratio"], 1.2);
        assert_eq!(object["noise"]["farthest"], 0.97);
        assert_eq!(object["bars"]["geomean"]["pass"], false);
        assert_eq!(object["bars"]["worst"]["pass"], false);
        assert_eq!(object["bars"]["after_freeze_worst"]["pass"], true);
        assert_eq!(object["rows"][1]["layouts"][0], 1.0);
        assert!(object["skipped"].is_array() && object["machine"]["cores"].is_number());
    }

    #[test]
    fn people_see_each_bar_with_whose_the_worst_is() {
        let text = report().text();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
        assert!(line("worst  ").ends_with("miss  slow"), "{text}");
        assert!(
            line("worst after a freeze").ends_with("pass  same"),
            "{text}"
        );
        assert!(line(" noise").contains("farthest 0.970"), "{text}");
    }
}
