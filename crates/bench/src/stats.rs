//! The few statistics that the figures are made of.

/// The middle of the values (the mean of the two middle ones if their number is even); NaN if
/// there are none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match (sorted.get(sorted.len() / 2), sorted.len() % 2) {
        (None, _) => f64::NAN,
        (Some(middle), 1) => *middle,
        (Some(above), _) => (sorted[sorted.len() / 2 - 1] + above) / 2.0,
    }
}

/// The smallest value that at least `percent` % of the values do not exceed (nearest rank); NaN if
/// there are none.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let sorted = sorted(values);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    let index = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// The geometric mean of positive values: what a typical ratio is; NaN if there are none.
pub fn geometric_mean(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().map(|value| value.ln()).sum();
    (sum / values.len() as f64).exp()
}

/// A straight line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Its value at 0.
    pub base: f64,
    /// What it rises by per unit.
    pub slope: f64,
}

/// The line through points (x, y) that makes the squares of the *relative* errors least, so that a
/// point ten times as high does not count a hundred times as much. All y must be positive; without
/// two different x the slope is 0.
pub fn fit_line(points: &[(f64, f64)]) -> Line {
    let weighted = points.iter().map(|&(x, y)| (x, y, 1.0 / (y * y)));
    let (mut w, mut wx, mut wy, mut wxx, mut wxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (x, y, weight) in weighted {
        w += weight;
        wx += weight * x;
        wy += weight * y;
        wxx += weight * x * x;
        wxy += weight * x * y;
    }
    let spread = w * wxx - wx * wx;
    let slope = if spread > 0.0 {
        (w * wxy - wx * wy) / spread
    } else {
        0.0
    };
    Line {
        base: (wy - slope * wx) / w,
        slope,
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn the_median_is_the_middle_in_any_order() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[7.0]), 7.0);
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[9.0, 1.0, 5.0, 4.0]), 4.5);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), 100.0);
        assert_eq!(percentile(&values, 99.0), 198.0);
        assert_eq!(percentile(&values, 100.0), 200.0);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&[3.0], 99.0), 3.0);
        assert!(percentile(&[], 50.0).is_nan());
    }

    #[test]
    fn the_geometric_mean_of_a_ratio_and_its_inverse_is_one() {
        assert!(close(geometric_mean(&[2.0, 0.5]), 1.0));
        assert!(close(geometric_mean(&[1.1, 1.1, 1.1]), 1.1));
        assert!(geometric_mean(&[]).is_nan());
    }

    #[test]
    fn a_line_is_found_again() {
        let points: Vec<_> = [1.0, 16.0, 256.0, 4096.0]
            .map(|x| (x, 5.0 + 0.25 * x))
            .into();
        let line = fit_line(&points);
        assert!(close(line.base, 5.0) && close(line.slope, 0.25), "{line:?}");
        let flat = fit_line(&[(3.0, 2.0), (3.0, 2.0)]);
        assert_eq!((flat.base, flat.slope), (2.0, 0.0));
    }

    #[test]
    fn a_far_point_that_is_a_little_off_does_not_move_the_base() {
        let line = fit_line(&[
            (1.0, 10.0),
            (10.0, 19.0),
            (100.0, 109.0),
            (10000.0, 12000.0),
        ]);
        assert!((line.base - 9.0).abs() < 1.5, "{line:?}");
    }
}
