//! The plot of response times, in characters.

use super::curve::{Curve, FLOOR_MS};
use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Widget};
use std::io::{self, Write};

/// Rows of the plot, with its axes.
const ROWS: u16 = 16;

/// How the terminal is to be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Columns.
    pub width: u16,
    /// Whether colours are wanted.
    pub colour: bool,
}

/// Points per column: braille has two.
pub fn slices(width: u16) -> usize {
    usize::from(width.max(40)) * 2
}

/// Prints the plot: the median and the longest response of each moment, and the moves below.
pub fn print(curve: &Curve, style: Screen, out: &mut dyn Write) -> io::Result<()> {
    let log = |ms: f64| ms.max(FLOOR_MS).log10();
    let points = |of: fn(&super::curve::Slice) -> f64| -> Vec<(f64, f64)> {
        let point = |slice| (slice_at(slice), log(of(slice)));
        curve.slices.iter().map(point).collect()
    };
    let medians = points(|slice| slice.median);
    let longest = points(|slice| slice.longest);
    // The lowest decade leaves room for the marks of the moves.
    let (low, high) = (-2.0, log(curve.ceiling()));
    let moves: Vec<(f64, f64)> = curve.moves.iter().map(|at| (*at, low)).collect();
    let series = |points, marker, colour| {
        Dataset::default()
            .data(points)
            .marker(marker)
            .graph_type(GraphType::Scatter)
            .style(Style::new().fg(colour))
    };
    let datasets = vec![
        series(&medians, Marker::Braille, Color::Cyan),
        series(&longest, Marker::Braille, Color::Yellow),
        series(&moves, Marker::Custom('▲'), Color::Red),
    ];
    let decades = (low as i32 + 1)..=(high.round() as i32);
    let mut levels = vec![String::new()];
    levels.extend(decades.map(|decade| match decade {
        ..0 => format!(
            "{:.*} ms",
            decade.unsigned_abs() as usize,
            10f64.powi(decade)
        ),
        _ => format!("{} ms", 10f64.powi(decade)),
    }));
    let times = (0..=4).map(|quarter| format!("{:.1} s", curve.seconds * f64::from(quarter) / 4.0));
    let chart = Chart::new(datasets)
        .x_axis(
            Axis::default()
                .bounds([0.0, curve.seconds])
                .labels(times.collect::<Vec<_>>()),
        )
        .y_axis(Axis::default().bounds([low, high]).labels(levels))
        .legend_position(None);
    let area = Rect::new(0, 0, style.width.clamp(40, 160), ROWS);
    let mut buffer = Buffer::empty(area);
    chart.render(area, &mut buffer);
    writeln!(out, "response time of the probes (1 kHz)")?;
    for row in buffer.content.chunks(usize::from(area.width)) {
        writeln!(out, "{}", line(row, style.colour).trim_end())?;
    }
    let paint = |text: &str, colour| paint(text, Some(colour).filter(|_| style.colour));
    writeln!(
        out,
        "{} median  {} longest  {} move",
        paint("⠒", Color::Cyan),
        paint("⠒", Color::Yellow),
        paint("▲", Color::Red)
    )
}

fn slice_at(slice: &super::curve::Slice) -> f64 {
    slice.at
}

/// One row of cells as text; runs of one colour share an escape sequence.
fn line(cells: &[Cell], colour: bool) -> String {
    let mut text = String::new();
    let run = |left: &Cell, right: &Cell| left.fg == right.fg;
    let end = cells.iter().rposition(|cell| cell.symbol() != " ");
    let cells = cells
        .get(..end.map_or(0, |end| end + 1))
        .unwrap_or_default();
    for cells in cells.chunk_by(run) {
        let symbols: String = cells.iter().map(Cell::symbol).collect();
        let foreground = cells.first().map(|cell| cell.fg).filter(|_| colour);
        text.push_str(&paint(&symbols, foreground));
    }
    text
}

fn paint(text: &str, colour: Option<Color>) -> String {
    let code = match colour {
        Some(Color::Red) => 31,
        Some(Color::Yellow) => 33,
        Some(Color::Cyan) => 36,
        _ => return text.to_owned(),
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::super::curve::Slice;
    use super::*;

    fn printed(colour: bool) -> String {
        let slice = |index: u32| Slice {
            at: f64::from(index) / 20.0,
            median: 0.3,
            longest: if index == 100 { 42.0 } else { 1.0 },
        };
        let curve = Curve {
            slices: (0..200).map(slice).collect(),
            moves: vec![2.5, 5.0],
            seconds: 10.0,
        };
        let mut text = Vec::new();
        let style = Screen { width: 80, colour };
        print(&curve, style, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_plot_has_a_scale_marks_of_the_moves_and_the_spike() {
        let text = printed(false);
        for expected in ["0.1 ms", "1 ms", "10 ms", "100 ms", "0.0 s", "10.0 s"] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
        let marks = text
            .lines()
            .rev()
            .skip(1)
            .map(|line| line.matches('▲').count());
        assert_eq!(marks.sum::<usize>(), 2, "{text}");
        let spike = text
            .lines()
            .filter(|line| line.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)));
        assert!(spike.count() >= 3, "{text}");
    }

    #[test]
    fn escape_sequences_are_written_only_where_colour_is_wanted() {
        assert!(!printed(false).contains('\x1b'));
        let coloured = printed(true);
        assert!(coloured.contains("\x1b[33m") && coloured.contains("\x1b[31m▲\x1b[0m"));
    }
}
