//! What is counted, under upstream's names (`kubernetes/pkg/scheduler/metrics`).

use std::time::Duration;

use env::{Buckets, Metric};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::queue::Depth;

/// The profile of all pods: the name that they ask for.
const PROFILE: &str = "default-scheduler";
/// Tries that have a name of their own.
const MAX_ATTEMPTS: u32 = 15;
/// Seconds.
const DOUBLING: Buckets = Buckets::Growing { first: 0.001, factor: 2.0, count: 15 };

/// The metrics that this crate records.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        "scheduler_schedule_attempts_total",
        "[STABLE] Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.",
    )
    .labelled(),
    Metric::histogram_of(
        "scheduler_scheduling_attempt_duration_seconds",
        "[STABLE] Scheduling attempt latency in seconds (scheduling algorithm + binding)",
        DOUBLING,
    )
    .labelled(),
    Metric::histogram_of(
        "scheduler_scheduling_algorithm_duration_seconds",
        "[BETA] Scheduling algorithm latency in seconds",
        DOUBLING,
    ),
    Metric::gauge(
        "scheduler_pending_pods",
        "[STABLE] Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulableEntities that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated; 'incomplete' means number of pods in incompletePodGroupPods; 'pending' means number of pods in pendingPodGroupPods.",
    )
    .labelled(),
    Metric::histogram(
        "scheduler_pod_scheduling_sli_duration_seconds",
        "[BETA] E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
        (0.01, 2.0, 20),
    )
    .labelled(),
    Metric::histogram(
        "scheduler_pod_scheduling_attempts",
        "[STABLE] Number of attempts to successfully schedule a pod.",
        (1.0, 2.0, 5),
    ),
    // There is no preemption: these stay at nothing.
    Metric::counter(
        "scheduler_preemption_attempts_total",
        "[STABLE] Total preemption attempts in the cluster till now",
    ),
    Metric::histogram(
        "scheduler_preemption_victims",
        "[STABLE] Number of selected preemption victims for preemption initiated by a single pod",
        (1.0, 2.0, 7),
    ),
];

/// How often tries end in one way, and how long they take.
struct Attempts {
    all: Counter,
    took: Histogram,
}

impl Attempts {
    fn of(result: &'static str) -> Self {
        Self {
            all: counter!("scheduler_schedule_attempts_total", "result" => result, "profile" => PROFILE),
            took: histogram!(
                "scheduler_scheduling_attempt_duration_seconds",
                "result" => result, "profile" => PROFILE
            ),
        }
    }

    fn note(&self, took: Duration) {
        self.all.increment(1);
        self.took.record(took.as_secs_f64());
    }
}

/// See the module.
pub(crate) struct Counts {
    scheduled: Attempts,
    unschedulable: Attempts,
    failed: Attempts,
    algorithm: Histogram,
    attempts: Histogram,
    active: Gauge,
    backoff: Gauge,
    waiting: Gauge,
    gated: Gauge,
}

impl Counts {
    pub fn new() -> Self {
        let pending = |queue: &'static str| gauge!("scheduler_pending_pods", "queue" => queue);
        Self {
            scheduled: Attempts::of("scheduled"),
            unschedulable: Attempts::of("unschedulable"),
            failed: Attempts::of("error"),
            algorithm: histogram!("scheduler_scheduling_algorithm_duration_seconds"),
            attempts: histogram!("scheduler_pod_scheduling_attempts"),
            active: pending("active"),
            backoff: pending("backoff"),
            waiting: pending("unschedulable"),
            gated: pending("gated"),
        }
    }

    /// So many pods wait.
    pub fn pending(&self, depth: Depth) {
        for (gauge, pods) in [
            (&self.active, depth.active),
            (&self.backoff, depth.backoff),
            (&self.waiting, depth.unschedulable),
            (&self.gated, depth.gated),
        ] {
            gauge.set(pods as f64);
        }
    }

    /// It was decided where a pod goes.
    pub fn decided(&self, took: Duration) {
        self.algorithm.record(took.as_secs_f64());
    }

    /// A pod was bound: this try took so long, and all of them since it came `since_first`.
    pub fn scheduled(&self, took: Duration, since_first: Duration, attempts: u32) {
        self.scheduled.note(took);
        self.attempts.record(f64::from(attempts));
        let word = if attempts >= MAX_ATTEMPTS { format!("{MAX_ATTEMPTS}+") } else { attempts.to_string() };
        histogram!("scheduler_pod_scheduling_sli_duration_seconds", "attempts" => word)
            .record(since_first.as_secs_f64());
    }

    /// No node fits a pod.
    pub fn unschedulable(&self, took: Duration) {
        self.unschedulable.note(took);
    }

    /// A binding was refused.
    pub fn failed(&self, took: Duration) {
        self.failed.note(took);
    }
}
