//! The table: a figure a row, its target, what was measured, and whether that reaches it.

use std::fmt;

use crate::statistics::Runs;

pub struct Table {
    rows: Vec<Row>,
}

struct Row {
    figure: String,
    target: String,
    measured: String,
    verdict: &'static str,
}

/// What a figure must reach.
#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Table {
    pub const fn new() -> Self {
        Self { rows: Vec::new() }
    }

    /// A figure with a target; its middle run is compared.
    pub fn figure(&mut self, figure: &str, target: Target, unit: &str, runs: &Runs) {
        let (sign, bound, reached) = match target {
            Target::AtMost(bound) => ('≤', bound, runs.middle() <= bound),
            Target::AtLeast(bound) => ('≥', bound, runs.middle() >= bound),
        };
        let verdict = if reached { "reached" } else { "**missed**" };
        self.row(figure, &format!("{sign} {bound}{unit}"), runs.shown(unit), verdict);
    }

    /// A figure that is only told.
    pub fn told(&mut self, figure: &str, measured: impl Into<String>) {
        self.row(figure, "", measured.into(), "");
    }

    fn row(&mut self, figure: &str, target: &str, measured: String, verdict: &'static str) {
        eprintln!("{figure}: {measured} {target} {verdict}");
        self.rows.push(Row { figure: figure.to_owned(), target: target.to_owned(), measured, verdict });
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | to reach | measured | |\n| --- | --- | --- | --- |")?;
        for Row { figure, target, measured, verdict } in &self.rows {
            writeln!(f, "| {figure} | {target} | {measured} | {verdict} |")?;
        }
        Ok(())
    }
}
