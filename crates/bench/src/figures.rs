//! Figures of several turns.

/// The value in the middle; not a number when there is none.
pub(super) fn median(values: &[f64]) -> f64 {
    at(values, 0.5)
}

/// The value that so large a share of them does not exceed.
pub(super) fn at(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * share) as usize;
    sorted.get(place).or(sorted.last()).copied().unwrap_or(f64::NAN)
}

/// The ratio turn by turn: its median, and the least and the greatest.
pub(super) fn ratio(values: &[f64], to: &[f64]) -> String {
    let ratios = ratios(values, to);
    format!("{:.2} ({:.2} to {:.2})", median(&ratios), at(&ratios, 0.0), at(&ratios, 1.0))
}

/// The ratio turn by turn.
pub(super) fn ratios(values: &[f64], to: &[f64]) -> Vec<f64> {
    values.iter().zip(to).map(|(value, to)| value / to).collect()
}
