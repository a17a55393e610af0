//! What the demo found, as a table for people and as one object for programs.

use super::downtime::Quantiles;
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Moves that were completed under load.
    pub moves: u64,
    /// Requests sent by the clients and the prober.
    pub requests: u64,
    /// Requests that were never answered.
    pub lost: u64,
    /// Answers that were not what they had to be.
    pub wrong: u64,
    /// Connections that broke: a client would have had to connect again.
    pub reconnects: u64,
    /// Downtime of the moves.
    pub downtime_ms: Figures,
    /// Moves that failed.
    pub failed_moves: u64,
    /// The program that was moved.
    pub guest: String,
    /// How it was spoken to: `accounts`, `http` or `echo`.
    pub protocol: &'static str,
    /// Clients, without the prober.
    pub clients: u32,
    /// Probes sent.
    pub probes: u64,
    /// Transfers that were acknowledged and carried out again to check them; accounts only.
    pub transfers: u64,
    /// Length of the part under paced load.
    pub seconds: f64,
    /// Requests per second that the clients can get answered when each waits for its answer.
    pub capacity_per_second: f64,
    /// Requests per second of the paced load, with the probes.
    pub load_per_second: f64,
    /// Response times of the clients under paced load.
    pub response_ms: Figures,
    /// Response times of the prober, moves and all.
    pub probe_ms: Figures,
    /// What went wrong, in words; not complete if it is much.
    pub problems: Vec<String>,
    /// Every move.
    pub each: Vec<Moved>,
    /// Where the plot was written.
    pub svg: Option<String>,
}

/// One move.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    /// The node it left.
    pub from: String,
    /// The node it went to.
    pub to: String,
    /// Seconds from the start of the paced load to the command.
    pub at_seconds: f64,
    /// Longest unanswered probe.
    pub downtime_ms: f64,
    /// From the freeze request to the report that it runs, as the node tells it.
    pub frozen_ms: f64,
    /// From the command to its answer.
    pub total_ms: f64,
    /// Bytes of the snapshot.
    pub bytes: u64,
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

/// Milliseconds, to the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl From<Quantiles> for Figures {
    fn from(quantiles: Quantiles) -> Figures {
        Figures {
            p50: milliseconds(quantiles.p50),
            p99: milliseconds(quantiles.p99),
            max: milliseconds(quantiles.max),
        }
    }
}

impl Report {
    /// Whether the clients noticed nothing and every move succeeded.
    pub fn passed(&self) -> bool {
        self.moves > 0
            && self.failed_moves == 0
            && self.lost == 0
            && self.wrong == 0
            && self.reconnects == 0
            && self.problems.is_empty()
    }

    /// Prints the table.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let failed = match self.failed_moves {
            0 => String::new(),
            failed => format!("and {failed} failed"),
        };
        let share = 100.0 * self.load_per_second / self.capacity_per_second.max(1.0);
        let load = format!(
            "{} a second, {share:.0} % of the {} it can answer",
            grouped(self.load_per_second),
            grouped(self.capacity_per_second)
        );
        let rows = [
            ("moves", grouped(self.moves as f64), failed),
            ("requests", grouped(self.requests as f64), load),
            ("lost", grouped(self.lost as f64), String::new()),
            ("wrong", grouped(self.wrong as f64), self.checked()),
            ("reconnects", grouped(self.reconnects as f64), String::new()),
        ];
        let width = rows.iter().map(|row| row.1.len()).max().unwrap_or(0).max(9);
        writeln!(
            out,
            "{}: {} client{} and a prober at 1 kHz, {:.1} s",
            self.guest,
            self.clients,
            if self.clients == 1 { "" } else { "s" },
            self.seconds
        )?;
        writeln!(out)?;
        for (name, value, note) in rows {
            let line = format!("  {name:<12} {value:>width$}  {note}");
            writeln!(out, "{}", line.trim_end())?;
        }
        writeln!(out)?;
        writeln!(
            out,
            "  {:<12} {:>width$} {:>10} {:>10}",
            "", "p50", "p99", "max"
        )?;
        for (name, figures) in [
            ("downtime", self.downtime_ms),
            ("response", self.response_ms),
            ("probe", self.probe_ms),
        ] {
            let Figures { p50, p99, max } = figures;
            let [p50, p99, max] = [p50, p99, max].map(|value| format!("{value:.2} ms"));
            writeln!(out, "  {name:<12} {p50:>width$} {p99:>10} {max:>10}")?;
        }
        for problem in &self.problems {
            writeln!(out, "\n  problem: {problem}")?;
        }
        Ok(())
    }

    /// What "wrong" was held against.
    fn checked(&self) -> String {
        match self.protocol {
            "accounts" if self.wrong == 0 && self.problems.is_empty() => format!(
                "{} transfers carried out again: every balance, the sum and the checksum agree",
                grouped(self.transfers as f64)
            ),
            "http" => "every answer well-formed, with the same status".to_owned(),
            "echo" => "every byte came back, in order".to_owned(),
            _ => String::new(),
        }
    }
}

/// A whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn report() -> Report {
        let figures = Figures {
            p50: 5.25,
            p99: 9.5,
            max: 12.0,
        };
        Report {
            moves: 24,
            requests: 1_234_567,
            lost: 0,
            wrong: 0,
            reconnects: 0,
            downtime_ms: figures,
            failed_moves: 0,
            guest: "accounts server".into(),
            protocol: "accounts",
            clients: 32,
            probes: 20_000,
            transfers: 1_000_000,
            seconds: 20.0,
            capacity_per_second: 25_000.0,
            load_per_second: 11_000.0,
            response_ms: figures,
            probe_ms: figures,
            problems: vec![],
            each: vec![],
            svg: None,
        }
    }

    #[test]
    fn one_lost_or_wrong_answer_or_failed_move_fails_the_run() {
        assert!(report().passed());
        let spoil: [fn(&mut Report); 6] = [
            |report| report.lost = 1,
            |report| report.wrong = 1,
            |report| report.reconnects = 1,
            |report| report.failed_moves = 1,
            |report| report.moves = 0,
            |report| report.problems.push("gap".into()),
        ];
        for spoil in spoil {
            let mut report = report();
            spoil(&mut report);
            assert!(!report.passed());
        }
    }

    #[test]
    fn the_object_has_the_promised_fields() {
        let object = serde_json::to_value(report()).unwrap();
        for field in ["moves", "requests", "lost", "wrong", "reconnects"] {
            assert!(object[field].is_u64(), "{field}");
        }
        for field in ["p50", "p99", "max"] {
            assert!(object["downtime_ms"][field].is_f64(), "{field}");
        }
    }

    #[test]
    fn the_table_is_aligned_and_has_no_trailing_space() {
        let mut text = Vec::new();
        report().print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.lines().all(|line| line == line.trim_end()), "{text}");
        assert!(
            text.contains("  requests     1,234,567  11,000 a second, 44 %"),
            "{text}"
        );
        assert!(
            text.contains("  downtime       5.25 ms    9.50 ms   12.00 ms"),
            "{text}"
        );
    }

    #[test]
    fn thousands_are_apart() {
        let texts = [0.0, 999.0, 1000.0, 1_234_567.4].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
