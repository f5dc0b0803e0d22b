//! Figures for people: medians, and what they are to the peer's.

use std::fmt::Write as _;

use crate::load::{Run, Work};

/// All runs of one load on one program.
pub struct Row {
    /// The load.
    pub work: Work,
    /// Whose server.
    pub program: &'static str,
    /// The runs.
    pub runs: Vec<Run>,
}

impl Row {
    /// A row without runs.
    pub fn new(work: Work, program: &'static str) -> Self {
        Self { work, program, runs: Vec::new() }
    }

    fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(of).collect())
    }
}

/// The median; 0 of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Rows as a Markdown table.
pub fn show(rows: &[Row]) -> String {
    let mut text = String::from(
        "| load | server | requests/s | p50 ms | p99 ms | server CPU µs | log syncs | peak MiB | rate to etcd's |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let rate = row.median(|run| run.rate);
        let peer = rows.iter().find(|other| other.work == row.work && other.program == "etcd");
        let ratio = match peer {
            Some(peer) if row.program != "etcd" => format!("{:.2}", rate / peer.median(|run| run.rate)),
            _ => String::new(),
        };
        let synced: Vec<f64> = row.runs.iter().filter_map(|run| run.syncs).collect();
        let syncs = if synced.is_empty() { String::new() } else { format!("{:.2}", median(synced)) };
        writeln!(
            text,
            "| {} | {} | {rate:.0} | {:.2} | {:.2} | {:.0} | {syncs} | {:.0} | {ratio} |",
            row.work.name(),
            row.program,
            row.median(|run| run.p50.as_secs_f64() * 1e3),
            row.median(|run| run.p99.as_secs_f64() * 1e3),
            row.median(|run| run.cpu.as_secs_f64() * 1e6),
            row.median(|run| run.peak_kib as f64 / 1024.0),
        )
        .expect("invariant: a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
