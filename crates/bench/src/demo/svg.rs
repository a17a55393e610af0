//! The plot of response times, as an SVG file.

use super::curve::{Curve, FLOOR_MS};
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (1000, 420);
const MEDIAN: RGBColor = RGBColor(23, 108, 164);
const LONGEST: RGBColor = RGBColor(214, 137, 16);
const MOVE: RGBColor = RGBColor(200, 60, 60);

/// Slices of time that are drawn: about one per pixel.
pub const SLICES: usize = 800;

/// The plot could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SvgError {
    /// The drawing itself.
    #[error("cannot draw the plot: {0}")]
    Draw(String),
    /// The file.
    #[error("cannot write `{path}`: {source}; name another file with --svg, or --svg none")]
    Write {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Whether the plot can be written there: better known before the run than after it. What is there
/// stays.
pub fn check(path: &Path) -> Result<(), SvgError> {
    let there = path.exists();
    let opened = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path);
    opened.map_err(|source| SvgError::Write {
        path: path.display().to_string(),
        source,
    })?;
    if !there {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Writes the plot to a file.
pub fn write(curve: &Curve, title: &str, path: &Path) -> Result<(), SvgError> {
    let text = draw(curve, title).map_err(|error| SvgError::Draw(error.to_string()))?;
    std::fs::write(path, text).map_err(|source| SvgError::Write {
        path: path.display().to_string(),
        source,
    })
}

/// Draws the plot as the text of an SVG document.
fn draw(curve: &Curve, title: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = String::new();
    let ceiling = curve.ceiling();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..curve.seconds, (FLOOR_MS..ceiling).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(RGBColor(244, 244, 244))
            .bold_line_style(RGBColor(224, 224, 224))
            .x_desc("seconds")
            .y_desc("response time of the probes, ms")
            .y_label_formatter(&|ms| format!("{ms}"))
            .draw()?;
        for (index, at) in curve.moves.iter().enumerate() {
            let line = [(*at, FLOOR_MS), (*at, ceiling)];
            let series = chart.draw_series(LineSeries::new(line, MOVE.mix(0.35)))?;
            if index == 0 {
                series.label("move").legend(|(x, y)| key(x, y, MOVE));
            }
        }
        let longest = curve.slices.iter().map(|slice| (slice.at, slice.longest));
        chart
            .draw_series(LineSeries::new(longest, LONGEST))?
            .label("longest")
            .legend(|(x, y)| key(x, y, LONGEST));
        let medians = curve.slices.iter().map(|slice| (slice.at, slice.median));
        chart
            .draw_series(LineSeries::new(medians, MEDIAN))?
            .label("median")
            .legend(|(x, y)| key(x, y, MEDIAN));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .draw()?;
        root.present()?;
    }
    Ok(text)
}

/// The sample of a line in the key.
fn key(x: i32, y: i32, colour: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new(vec![(x, y), (x + 16, y)], colour)
}

#[cfg(test)]
mod tests {
    use super::super::curve::Slice;
    use super::*;

    #[test]
    fn the_document_is_whole_and_has_a_line_per_move() {
        let slice = |index: u32| Slice {
            at: f64::from(index) / 10.0,
            median: 0.4,
            longest: 8.0,
        };
        let curve = Curve {
            slices: (0..100).map(slice).collect(),
            moves: vec![1.0, 4.0, 7.0],
            seconds: 10.0,
        };
        let text = draw(&curve, "a title").unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert!(text.contains("a title"));
        // One for each move, one in the key.
        assert_eq!(text.matches("#C83C3C").count(), 4, "{text}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_that_says_what_to_do() {
        let curve = Curve::new(&[], &[], Default::default(), Default::default(), 1);
        let error = write(&curve, "", Path::new("/nonexistent/plot.svg")).unwrap_err();
        assert!(error.to_string().contains("--svg none"), "{error}");
    }
}
