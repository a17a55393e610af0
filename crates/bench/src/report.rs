//! What the reports of all benches share: bars, spreads, tables, rounding.

use crate::stats::percentile;
use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use serde::{Serialize, Serializer};
use std::fmt;

/// A promise in numbers, and what came out.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Bar {
    /// The highest value that keeps it.
    pub at_most: f64,
    /// What was measured.
    #[serde(serialize_with = "rounded")]
    pub value: f64,
    /// Whether it is kept.
    pub pass: bool,
}

impl Bar {
    /// The value must not exceed the bar; one that is not a number does not pass.
    pub fn at_most(at_most: f64, value: f64) -> Bar {
        Bar {
            at_most,
            value,
            pass: value <= at_most,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(bar {:.2}) {}", self.at_most, mark(self.pass))
    }
}

/// How times are spread, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    /// As many were shorter as longer.
    #[serde(serialize_with = "rounded")]
    pub p50: f64,
    /// One in a hundred was longer.
    #[serde(serialize_with = "rounded")]
    pub p99: f64,
    /// The longest.
    #[serde(serialize_with = "rounded")]
    pub max: f64,
}

impl Spread {
    /// Of these times.
    pub fn of(microseconds: &[f64]) -> Spread {
        Spread {
            p50: percentile(microseconds, 50.0),
            p99: percentile(microseconds, 99.0),
            max: percentile(microseconds, 100.0),
        }
    }
}

/// How people see whether a bar is kept.
pub(crate) fn mark(pass: bool) -> &'static str {
    if pass { "pass" } else { "miss" }
}

/// A table with these headings.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(headings);
    table
}

/// A report and its bars, as one JSON object.
pub(crate) fn json_with_bars(
    report: &impl Serialize,
    bars: &impl Serialize,
) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct WithBars<R, B> {
        #[serde(flatten)]
        report: R,
        bars: B,
    }
    serde_json::to_string_pretty(&WithBars { report, bars })
}

fn four_digits(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// For serde: four digits after the point.
pub(crate) fn rounded<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(four_digits(*value))
}

/// For serde: four digits after the point, or null.
pub(crate) fn rounded_if_any<S: Serializer>(
    value: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.map(four_digits).serialize(serializer)
}

/// For serde: four digits after the point, each.
pub(crate) fn rounded_list<S: Serializer>(
    values: &[f64],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|value| four_digits(*value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_kept_up_to_its_value_and_never_by_what_is_no_number() {
        assert!(Bar::at_most(1.3, 1.3).pass);
        assert!(!Bar::at_most(1.3, 1.3001).pass);
        assert!(!Bar::at_most(1.3, f64::NAN).pass);
        assert_eq!(Bar::at_most(1.3, 1.2).to_string(), "(bar 1.30) pass");
    }
}
