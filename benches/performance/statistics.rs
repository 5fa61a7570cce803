//! Percentiles of one run, and the middle and spread of several.

/// The value that `share` of the samples do not exceed (nearest rank).
pub fn percentile(samples: &[f64], share: f64) -> f64 {
    assert!(!samples.is_empty(), "a run without a sample");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Several runs' results of one figure.
#[derive(Clone, Default)]
pub struct Runs(Vec<f64>);

impl Runs {
    pub fn one(value: f64) -> Self {
        Self(vec![value])
    }

    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn middle(&self) -> f64 {
        percentile(&self.0, 0.5)
    }

    /// The middle, and the lowest and highest when there were several.
    pub fn shown(&self, unit: &str) -> String {
        let middle = number(self.middle());
        match self.0.len() {
            1 => format!("{middle}{unit}"),
            _ => format!("{middle}{unit} ({}–{})", number(percentile(&self.0, 0.0)), number(percentile(&self.0, 1.0))),
        }
    }
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
