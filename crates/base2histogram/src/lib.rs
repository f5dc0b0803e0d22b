//! Stands in for the crate of this name, with which openraft counts the sizes of its batches
//! (docs/adr/0025-a-small-histogram.md): that one makes tables for sixteen scales when the first value is counted, which
//! takes 25 MB of a process that uses one scale. What openraft calls is here, and nothing else.
//!
//! Values below eight have a bucket each; above, every power of two is cut into four.

use std::fmt;

/// Buckets of a power of two.
const PARTS: u64 = 4;
/// Values below this have a bucket each.
const EXACT: u64 = 2 * PARTS;
/// Bits of a value that say which part of its power of two it is in.
const PART_BITS: u32 = PARTS.trailing_zeros();
/// All that a value may be in.
const BUCKETS: usize = bucket(u64::MAX) + 1;

/// Counts values by their size. `T` is for callers that keep something beside the counts; nobody does here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// One a bucket.
    counts: Box<[u64]>,
    total: u64,
    kept: std::marker::PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// One without values.
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS].into(), total: 0, kept: std::marker::PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value so many times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.counts[bucket(value)] += count;
        self.total += count;
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The least value of the bucket in which the smallest part `p` of the values ends, 0 to 1; 0 without values.
    pub fn percentile(&self, p: f64) -> u64 {
        let rank = ((self.total as f64 * p).ceil() as u64).max(1);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        reached.map_or(0, least)
    }

    /// The usual percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        let [p0_1, p1, p5, p10] = [0.001, 0.01, 0.05, 0.1].map(|p| self.percentile(p));
        let [p50, p90, p99, p99_9] = [0.5, 0.9, 0.99, 0.999].map(|p| self.percentile(p));
        PercentileStats { samples: self.total, p0_1, p1, p5, p10, p50, p90, p99, p99_9 }
    }
}

/// Percentiles of what was counted, as [`Histogram::percentile`] gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the percentile of its name")]
pub struct PercentileStats {
    /// How many values were counted.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(
            f,
            "[samples: {samples}, P0.1: {p0_1}, P1: {p1}, P5: {p5}, P10: {p10}, P50: {p50}, P90: {p90}, P99: {p99}, \
             P99.9: {p99_9}]"
        )
    }
}

/// Several histograms as text: a line of percentiles each, and no chart.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

impl AsciiChart {
    /// One without lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram) -> Self {
        self.0.push((name.to_owned(), histogram.percentile_stats()));
        self
    }

    /// What is to be written.
    pub fn detailed(&self) -> &Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

/// The bucket of a value.
const fn bucket(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let shift = value.ilog2() - PART_BITS;
    ((shift as u64) * PARTS + (value >> shift)) as usize
}

/// The least value of a bucket.
fn least(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < EXACT {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    (bucket - shift * PARTS) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_begins_at_or_below_it() {
        for bits in 0..64 {
            for value in [1 << bits, (1 << bits) | (1 << bits >> 1), (1_u64 << bits) - 1, u64::MAX >> bits] {
                let found = bucket(value);
                assert!(found < BUCKETS && least(found) <= value, "{value}");
                assert!(found + 1 == BUCKETS || value < least(found + 1), "{value}");
            }
        }
        assert!((0..BUCKETS).all(|n| bucket(least(n)) == n));
        assert_eq!(BUCKETS, 252);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram: Histogram = Histogram::default();
        assert_eq!((histogram.total(), histogram.percentile(0.5)), (0, 0));
        (1..=100).for_each(|value| histogram.record(value));
        assert_eq!(histogram.total(), 100);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p1, stats.p50, stats.p99_9), (100, 1, 48, 96));
        let chart = AsciiChart::new().add("a", histogram.clone()).detailed().to_string();
        assert_eq!(chart, format!("a: {stats}\n"));
        assert_eq!([0.0, 0.05, 0.5, 0.99, 1.0].map(|p| histogram.percentile(p)), [1, 5, 48, 96, 96]);
    }
}
