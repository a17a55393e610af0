//! The screen of `limosa top`: its state, what keys do to it, and how it is drawn.

use super::sample::{Row, Sample};
use clap::ValueEnum;
use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Clear, Paragraph, Row as TableRow, Table};
use wire::api::NodeAccounts;

/// Over the columns.
pub const HEADINGS: [&str; 11] = [
    "NAME",
    "NODE",
    "STATE",
    "CPU%",
    "TIME",
    "WEIGHT",
    "MEMORY",
    "SWITCHES/S",
    "TRAFFIC",
    "CONNS",
    "MOVES",
];
const WIDTHS: [Constraint; 11] = [
    Constraint::Fill(2),
    Constraint::Fill(1),
    Constraint::Length(8),
    Constraint::Length(6),
    Constraint::Length(7),
    Constraint::Length(6),
    Constraint::Length(9),
    Constraint::Length(12),
    Constraint::Length(11),
    Constraint::Length(5),
    Constraint::Length(5),
];
const HELP: &str = "\
c  sort by CPU          m  sort by memory
t  sort by CPU time     d  sort by traffic of devices
n  sort by name         r  the other way round
↑ ↓ PgUp PgDn Home End  scroll
h or ?  this help       q or Esc  leave

TIME is CPU time since the process was born. SWITCHES/S: how often per
second it waited + was interrupted. TRAFFIC: bytes of standard streams,
files and connections. A node's TLP is how many of its processes run at
once while any does; CORES is how many that advises.";

/// What to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Part of a core over the interval
    Cpu,
    /// CPU time since birth
    Time,
    /// Linear memory
    Memory,
    /// Bytes of all devices over the interval
    Traffic,
    /// Name
    Name,
}

impl Sort {
    /// The largest first; names from A to Z. What is equal is ordered by name.
    pub fn order(self, rows: &mut [Row]) {
        rows.sort_by(|a, b| {
            let order = match self {
                Sort::Cpu => b.cpu_percent.total_cmp(&a.cpu_percent),
                Sort::Time => b.cpu_ns().cmp(&a.cpu_ns()),
                Sort::Memory => b.process.memory_bytes.cmp(&a.process.memory_bytes),
                Sort::Traffic => b.bytes_per_second.total_cmp(&a.bytes_per_second),
                Sort::Name => std::cmp::Ordering::Equal,
            };
            let name = |row: &Row| (row.process.name.clone(), row.process.id);
            order.then_with(|| name(a).cmp(&name(b)))
        });
    }

    /// The column that shows it.
    fn column(self) -> usize {
        match self {
            Sort::Name => 0,
            Sort::Cpu => 3,
            Sort::Time => 4,
            Sort::Memory => 6,
            Sort::Traffic => 8,
        }
    }
}

/// What follows from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Stay,
    Leave,
}

/// See the module's documentation.
pub struct View {
    sort: Sort,
    reverse: bool,
    help: bool,
    /// The first row shown, and how many there is room for.
    first: usize,
    page: usize,
    nodes: Vec<NodeAccounts>,
    rows: Vec<Row>,
    /// Why there was no answer at the last look.
    trouble: Option<String>,
}

impl View {
    /// Nothing to show yet.
    pub fn new(sort: Sort) -> View {
        View {
            sort,
            reverse: false,
            help: false,
            first: 0,
            page: 1,
            nodes: Vec::new(),
            rows: Vec::new(),
            trouble: None,
        }
    }

    /// Shows this from now on.
    pub fn show(&mut self, sample: &Sample, rows: Vec<Row>) {
        self.nodes.clone_from(&sample.nodes);
        self.rows = rows;
        self.trouble = None;
        self.arrange();
    }

    /// Says why there is nothing newer.
    pub fn say(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    fn arrange(&mut self) {
        self.sort.order(&mut self.rows);
        if self.reverse {
            self.rows.reverse();
        }
    }

    /// What a key does.
    pub fn press(&mut self, key: KeyEvent) -> Next {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let page = self.page.max(1);
        match key.code {
            KeyCode::Char('c') if control => return Next::Leave,
            KeyCode::Char('q') => return Next::Leave,
            KeyCode::Esc if !self.help => return Next::Leave,
            KeyCode::Char('h' | '?') => self.help = !self.help,
            KeyCode::Esc => self.help = false,
            KeyCode::Char('c') => self.sort = Sort::Cpu,
            KeyCode::Char('t') => self.sort = Sort::Time,
            KeyCode::Char('m') => self.sort = Sort::Memory,
            KeyCode::Char('d') => self.sort = Sort::Traffic,
            KeyCode::Char('n') => self.sort = Sort::Name,
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::Down => self.first += 1,
            KeyCode::PageUp => self.first = self.first.saturating_sub(page),
            KeyCode::PageDown => self.first += page,
            KeyCode::Home => self.first = 0,
            KeyCode::End => self.first = self.rows.len(),
            _ => {}
        }
        self.arrange();
        Next::Stay
    }

    /// Draws it at whatever size the screen has.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let head = u16::try_from(self.nodes.len()).unwrap_or(u16::MAX);
        let areas = Layout::vertical([
            Constraint::Max(head.saturating_add(1)),
            Constraint::Min(2),
            Constraint::Length(1),
        ]);
        let [nodes, processes, foot] = areas.areas(frame.area());
        let lines: Vec<Line<'_>> = self
            .nodes
            .iter()
            .map(|node| node_line(node).into())
            .collect();
        frame.render_widget(Paragraph::new(lines), nodes);

        self.page = usize::from(processes.height.saturating_sub(1));
        self.first = self.first.min(self.rows.len().saturating_sub(self.page));
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let headings = HEADINGS.iter().enumerate().map(|(column, heading)| {
            let sorted = column == self.sort.column();
            let style = if sorted {
                bold.add_modifier(Modifier::REVERSED)
            } else {
                bold
            };
            Cell::new(*heading).style(style)
        });
        let shown = self.rows.iter().skip(self.first).take(self.page);
        let rows = shown.map(|row| TableRow::new(row.cells()));
        let table = Table::new(rows, WIDTHS).header(TableRow::new(headings));
        frame.render_widget(table, processes);

        let last = (self.first + self.page).min(self.rows.len());
        let foot_text = match &self.trouble {
            Some(trouble) => format!("no answer: {trouble}"),
            None => format!(
                "{}–{last} of {} processes   h help   q leave",
                (self.first + 1).min(last),
                self.rows.len()
            ),
        };
        frame.render_widget(Paragraph::new(foot_text), foot);
        if self.help {
            let [_, middle, _] = Layout::vertical([
                Constraint::Fill(1),
                Constraint::Max(11),
                Constraint::Fill(1),
            ])
            .areas(frame.area());
            frame.render_widget(Clear, middle);
            frame.render_widget(Paragraph::new(HELP), middle);
        }
    }
}

/// A node in a line.
pub fn node_line(node: &NodeAccounts) -> String {
    let [one, five, fifteen] = node.load;
    format!(
        "{}: load {one:.2} {five:.2} {fifteen:.2}, TLP {:.2}, cores {} (advised {}), processes {}, \
         running {}, detached {}",
        node.name,
        node.parallelism,
        node.cores,
        node.advised_cores,
        node.processes,
        node.running,
        node.detached
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::top::sample;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::{Duration, Instant};
    use wire::api::{ProcessAccounts, ProcessInfo, ProcessState};
    use wire::{Epoch, ImageId, NodeId, ProcessId};

    fn process(name: &str, cpu_ms: u64, memory_bytes: u64) -> ProcessInfo {
        ProcessInfo {
            id: ProcessId(name.bytes().fold(0, |id, byte| id << 8 | u64::from(byte))),
            name: name.to_owned(),
            image: ImageId([0; 32]),
            node: NodeId([1; 32]),
            node_name: "ant".to_owned(),
            epoch: Epoch(1),
            state: ProcessState::Running,
            exit_code: None,
            reason: None,
            age_seconds: 3,
            memory_bytes,
            freezes: 0,
            moves: 2,
            listeners: Vec::new(),
            connections: 5,
            folded: false,
            moving: None,
            volumes: Vec::new(),
            allow_net: Vec::new(),
            outgoing: Vec::new(),
            accounts: ProcessAccounts {
                cpu_user_ns: cpu_ms * 1_000_000,
                voluntary_switches: cpu_ms,
                ..ProcessAccounts::default()
            },
        }
    }

    fn sample(at: Instant, processes: Vec<ProcessInfo>) -> Sample {
        let nodes = vec![NodeAccounts {
            name: "ant".to_owned(),
            load: [1.5, 0.7, 0.1],
            ..NodeAccounts::default()
        }];
        Sample {
            at,
            nodes,
            processes,
        }
    }

    fn view() -> View {
        let start = Instant::now();
        let before = [("idle", 100, 9), ("greedy", 0, 2), ("some", 10, 5)];
        let after = [("idle", 100, 9), ("greedy", 900, 2), ("some", 60, 5)];
        let of = |rows: [(&str, u64, u64); 3]| rows.map(|(n, cpu, memory)| process(n, cpu, memory));
        let before = sample(start, of(before).into());
        let after = sample(start + Duration::from_secs(1), of(after).into());
        let mut view = View::new(Sort::Cpu);
        view.show(&after, sample::rows(&before, &after));
        view
    }

    fn screen(view: &mut View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn names(view: &View) -> Vec<&str> {
        view.rows
            .iter()
            .map(|row| row.process.name.as_str())
            .collect()
    }

    #[test]
    fn rates_are_of_the_interval_and_shown_by_share() {
        let mut view = view();
        assert_eq!(names(&view), ["greedy", "some", "idle"]);
        let screen = screen(&mut view, 120, 10);
        let greedy = screen.lines().find(|line| line.contains("greedy")).unwrap();
        assert!(
            greedy.contains("90.0") && greedy.contains("900+0"),
            "{screen}"
        );
        assert!(screen.contains("load 1.50 0.70 0.10"), "{screen}");
    }

    #[test]
    fn keys_sort_scroll_help_and_leave() {
        let mut view = view();
        let press = |view: &mut View, code| view.press(KeyEvent::from(code));
        assert_eq!(press(&mut view, KeyCode::Char('m')), Next::Stay);
        assert_eq!(names(&view), ["idle", "some", "greedy"]);
        press(&mut view, KeyCode::Char('r'));
        assert_eq!(names(&view), ["greedy", "some", "idle"]);
        press(&mut view, KeyCode::Char('n'));
        assert_eq!(names(&view), ["some", "idle", "greedy"]);
        press(&mut view, KeyCode::End);
        // Room for one process only: the last.
        let last = screen(&mut view, 100, 5);
        assert!(last.contains("greedy") && !last.contains("some"), "{last}");
        press(&mut view, KeyCode::Char('h'));
        assert!(screen(&mut view, 100, 20).contains("sort by memory"));
        assert_eq!(press(&mut view, KeyCode::Esc), Next::Stay);
        assert_eq!(press(&mut view, KeyCode::Esc), Next::Leave);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(view.press(interrupt), Next::Leave);
    }

    #[test]
    fn no_size_of_the_screen_is_too_small() {
        let mut view = view();
        for (width, height) in [(0, 0), (1, 1), (3, 2), (20, 3), (400, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| view.draw(frame)).unwrap();
            view.press(KeyEvent::from(KeyCode::Char('h')));
        }
    }
}
