//! What a run of the benchmarks is to do.

use std::time::Duration;

use env::Env;
use tokio::time::Instant;

/// The settings that every row shares.
pub struct Bench {
    /// The outside world.
    pub env: Env,
    /// How long loads last.
    pub length: Duration,
    /// Keys of the rows of many keys.
    pub keys: u64,
    /// GiB of the row of a large store.
    pub gib: u64,
    /// The rows that are wanted; all of those that are not long if none.
    pub rows: Vec<String>,
}

impl Bench {
    /// Now.
    pub fn now(&self) -> Instant {
        self.env.clock.monotonic()
    }

    /// Whether a row is to be run.
    pub fn wants(&self, row: &str) -> bool {
        if self.rows.is_empty() {
            row != "large"
        } else {
            self.rows.iter().any(|wanted| row.starts_with(wanted))
        }
    }

    /// Whether any of some rows is to be run.
    pub fn wants_any(&self, rows: &[&str]) -> bool {
        rows.iter().any(|row| self.wants(row))
    }
}
