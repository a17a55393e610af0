//! How results are printed: tables for people, JSON for programs, numbers people can read.

use crate::failure::Failure;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Prints a value as JSON, indented if a person looks at it.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let stdout = io::stdout();
    let text = if stdout.is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    let text = text.map_err(Failure::new)?;
    line(&text)
}

/// Prints a line.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(())
}

/// Says on standard error that something is missing in what is printed.
pub fn incomplete(missing: &Option<String>) {
    if let Some(missing) = missing {
        note(&format!("limosa: this list is incomplete: {missing}"));
    }
}

/// Says something beside the result, on standard error. If that is closed or full, there is no one
/// left to tell.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints columns under headings, as docker does.
pub fn table(
    headings: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Result<(), Failure> {
    line(&columns(headings, rows))
}

fn columns(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(headings.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Whether escape sequences are welcome on standard output.
pub fn colour() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}

/// Columns of the terminal; 100 where there is none.
pub fn width() -> u16 {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 => size.ws_col,
        _ => 100,
    }
}

/// A duration in its two largest units: `42s`, `3m 5s`, `2h 10m`, `4d 1h`.
pub fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |large: u64, l: &str, small: u64, s: &str| match small {
        0 => format!("{large}{l}"),
        _ => format!("{large}{l} {small}{s}"),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => two(minutes, "m", seconds % 60, "s"),
        3600..86400 => two(hours, "h", minutes % 60, "m"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// A number of bytes in the unit that leaves one to four digits: `512 B`, `4.2 MiB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut units = ["KiB", "MiB", "GiB", "TiB"].iter();
    let mut unit = "B";
    while value >= 1024.0
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// Milliseconds with as many digits as are worth reading.
pub fn milliseconds(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.1} ms"),
        10.0..1000.0 => format!("{value:.0} ms"),
        _ => format!("{:.1} s", value / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_space() {
        let rows = vec![
            vec!["a".to_owned(), "running".to_owned(), String::new()],
            vec!["longer".to_owned(), "x".to_owned(), "z".to_owned()],
        ];
        let text = columns(&["NAME", "STATE", "WHERE"], rows);
        assert_eq!(
            text,
            "NAME    STATE    WHERE\na       running\nlonger  x        z"
        );
    }

    #[test]
    fn ages_and_sizes_read_well() {
        let ages = [0, 59, 60, 185, 7800, 86400, 349_200].map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "3m 5s", "2h 10m", "1d", "4d 1h"]);
        let sizes = [0, 1023, 1024, 4_400_000, 900 << 20, u64::MAX].map(bytes);
        assert_eq!(
            sizes,
            [
                "0 B",
                "1023 B",
                "1.0 KiB",
                "4.2 MiB",
                "900 MiB",
                "16777216 TiB"
            ]
        );
        let times = [0.25, 9.94, 10.4, 1500.0].map(milliseconds);
        assert_eq!(times, ["0.2 ms", "9.9 ms", "10 ms", "1.5 s"]);
    }
}
