//! What is counted, under upstream's names (`component-base/metrics/prometheus`).

use std::time::Duration;

use env::{Buckets, Metric};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// Seconds, from 10 ns to 10 s.
const TIMES: Buckets = Buckets::Growing { first: 10e-9, factor: 10.0, count: 10 };

/// The metrics that this crate records.
pub const METRICS: &[Metric] = &[
    Metric::gauge("workqueue_depth", "[BETA] Current depth of workqueue").labelled(),
    Metric::counter("workqueue_adds_total", "[BETA] Total number of adds handled by workqueue").labelled(),
    Metric::histogram_of(
        "workqueue_queue_duration_seconds",
        "[BETA] How long in seconds an item stays in workqueue before being requested.",
        TIMES,
    )
    .labelled(),
    Metric::histogram_of(
        "workqueue_work_duration_seconds",
        "[BETA] How long in seconds processing an item from workqueue takes.",
        TIMES,
    )
    .labelled(),
    Metric::gauge(
        "workqueue_unfinished_work_seconds",
        "[BETA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
    )
    .labelled(),
    Metric::gauge(
        "workqueue_longest_running_processor_seconds",
        "[BETA] How many seconds has the longest running processor for workqueue been running.",
    )
    .labelled(),
    Metric::counter("workqueue_retries_total", "[BETA] Total number of retries handled by workqueue")
        .labelled(),
    Metric::gauge(
        "leader_election_master_status",
        "[ALPHA] Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.",
    )
    .labelled(),
];

/// Of one queue.
pub(crate) struct QueueCounts {
    depth: Gauge,
    adds: Counter,
    waited: Histogram,
    worked: Histogram,
    retries: Counter,
    unfinished: Gauge,
    longest: Gauge,
}

impl QueueCounts {
    /// Of a queue with a name.
    pub fn named(name: &'static str) -> Self {
        Self {
            depth: gauge!("workqueue_depth", "name" => name),
            adds: counter!("workqueue_adds_total", "name" => name),
            waited: histogram!("workqueue_queue_duration_seconds", "name" => name),
            worked: histogram!("workqueue_work_duration_seconds", "name" => name),
            retries: counter!("workqueue_retries_total", "name" => name),
            unfinished: gauge!("workqueue_unfinished_work_seconds", "name" => name),
            longest: gauge!("workqueue_longest_running_processor_seconds", "name" => name),
        }
    }

    /// Of one that is not counted.
    pub fn none() -> Self {
        Self {
            depth: Gauge::noop(),
            adds: Counter::noop(),
            waited: Histogram::noop(),
            worked: Histogram::noop(),
            retries: Counter::noop(),
            unfinished: Gauge::noop(),
            longest: Gauge::noop(),
        }
    }

    /// So many keys could be worked on now.
    pub fn deep(&self, keys: usize) {
        self.depth.set(keys as f64);
    }

    /// A key was added.
    pub fn added(&self) {
        self.adds.increment(1);
    }

    /// A key is worked on that waited so long.
    pub fn taken(&self, waited: Duration) {
        self.waited.record(waited.as_secs_f64());
    }

    /// A key was worked on for so long.
    pub fn done(&self, worked: Duration) {
        self.worked.record(worked.as_secs_f64());
    }

    /// Keys are worked on, each for so long so far.
    pub fn working(&self, so_far: impl Iterator<Item = Duration>) {
        let seconds = so_far.map(|so_far| so_far.as_secs_f64());
        let (all, longest) =
            seconds.fold((0.0, 0.0_f64), |(all, longest), one| (all + one, longest.max(one)));
        self.unfinished.set(all);
        self.longest.set(longest);
    }

    /// A key comes again after a failure.
    pub fn retried(&self) {
        self.retries.increment(1);
    }
}

/// Whether this replica holds a Lease.
pub(crate) fn leads(lease: &str, holds: bool) {
    let status = gauge!("leader_election_master_status", "name" => lease.to_owned());
    status.set(if holds { 1.0 } else { 0.0 });
}
