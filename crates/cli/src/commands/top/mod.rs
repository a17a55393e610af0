//! `limosa top`: what processes and nodes consume, as it goes on.
//!
//! [`sample`] asks the nodes and says what happened between two answers; [`view`] is the screen:
//! state, keys, drawing. Here is the loop around them.

mod sample;
mod view;

use super::Context;
use crate::failure::Failure;
use crate::output;
use clap::Args;
use daemon::client::Client;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use sample::{Row, Sample};
use serde::Serialize;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};
use view::{Next, Sort, View};
use wire::api::{NodeAccounts, ProcessInfo};

/// Show what processes and nodes consume, as it goes on
///
/// CPU time, memory, switches and traffic of every process of the fleet; load averages and
/// thread-level parallelism of every node. Keys: `h` lists them. Where standard output is no
/// terminal, once, as with --once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  limosa top
  limosa top --sort memory
  limosa top --once                over one interval, as a table
  limosa top --json | jq '.nodes[].load'")]
pub struct Top {
    /// Print a table of one interval, and end
    #[arg(long)]
    once: bool,
    /// What to sort by
    #[arg(long, value_enum, default_value_t = Sort::Cpu)]
    sort: Sort,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "say seconds from 0.1 to 3600".to_owned())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    interval_seconds: f64,
    nodes: &'a [NodeAccounts],
    processes: Vec<ShownProcess<'a>>,
}

#[derive(Serialize)]
struct ShownProcess<'a> {
    #[serde(flatten)]
    process: &'a ProcessInfo,
    cpu_percent: f64,
}

impl Top {
    pub async fn perform(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let interval = Duration::from_secs_f64(self.interval);
        let first = Sample::take(&client).await?;
        if self.once || context.json || !io::stdout().is_terminal() {
            tokio::time::sleep(interval).await;
            let second = Sample::take(&client).await?;
            let mut rows = sample::rows(&first, &second);
            self.sort.order(&mut rows);
            return match context.json {
                true => print_json(&first, &second, &rows),
                false => print_table(&second, &rows),
            };
        }
        let mut terminal = ratatui::try_init()?;
        let shown = watch(&client, &mut terminal, first, interval, self.sort).await;
        // Whatever happened, the terminal is as it was.
        ratatui::restore();
        shown
    }
}

/// Shows samples until the user has enough.
async fn watch(
    client: &Client,
    terminal: &mut ratatui::DefaultTerminal,
    mut last: Sample,
    interval: Duration,
    sort: Sort,
) -> Result<(), Failure> {
    let mut view = View::new(sort);
    view.show(&last, sample::rows(&last, &last));
    loop {
        let due = last.at + interval;
        loop {
            terminal.draw(|frame| view.draw(frame))?;
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() || !event::poll(left)? {
                break;
            }
            // A changed size is drawn anew by itself.
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
                && view.press(key) == Next::Leave
            {
                return Ok(());
            }
        }
        match Sample::take(client).await {
            Ok(sample) => {
                view.show(&sample, sample::rows(&last, &sample));
                last = sample;
            }
            Err(error) => {
                // It may be back soon; what is on the screen says how old it is.
                view.say(error.to_string());
                last.at = Instant::now();
            }
        }
    }
}

fn print_json(first: &Sample, second: &Sample, rows: &[Row]) -> Result<(), Failure> {
    let interval = second.at.saturating_duration_since(first.at);
    let processes = rows.iter().map(|row| ShownProcess {
        process: &row.process,
        cpu_percent: row.cpu_percent,
    });
    output::json(&Shown {
        interval_seconds: interval.as_secs_f64(),
        nodes: &second.nodes,
        processes: processes.collect(),
    })
}

fn print_table(sample: &Sample, rows: &[Row]) -> Result<(), Failure> {
    for node in &sample.nodes {
        output::line(&view::node_line(node))?;
    }
    output::table(&view::HEADINGS, rows.iter().map(|row| row.cells().to_vec()))
}
