//! What is counted of the requests of one schema in one priority level (upstream:
//! `apiserver/pkg/util/flowcontrol/metrics`). As many as there are FlowSchemas.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::seats::Share;
use crate::counters::Few;

/// See the module.
pub(super) struct Class {
    level: Arc<str>,
    schema: String,
    dispatched: Counter,
    executing: Gauge,
    executing_seats: Gauge,
    waiting: Gauge,
    waiting_seats: Gauge,
    estimated: Histogram,
    /// Of those that were refused at once, and of all others.
    waited: [Histogram; 2],
    /// Of requests, and of watches until they have begun.
    took: [Histogram; 2],
    refused: Few<&'static str, Counter>,
}

impl fmt::Debug for Class {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.level, self.schema)
    }
}

impl Class {
    pub fn new(level: &Arc<str>, schema: &str) -> Self {
        let labels = [("priority_level", level.to_string()), ("flow_schema", schema.to_owned())];
        let with = |key: &'static str, value: &'static str| {
            let [level, schema] = labels.clone();
            [level, schema, (key, value.to_owned())]
        };
        let waited = |accepted: &'static str| {
            histogram!("apiserver_flowcontrol_request_wait_duration_seconds", &with("execute", accepted))
        };
        let took = |kind: &'static str| {
            histogram!("apiserver_flowcontrol_request_execution_seconds", &with("type", kind))
        };
        Self {
            level: level.clone(),
            schema: schema.to_owned(),
            dispatched: counter!("apiserver_flowcontrol_dispatched_requests_total", &labels),
            executing: gauge!("apiserver_flowcontrol_current_executing_requests", &labels),
            executing_seats: gauge!("apiserver_flowcontrol_current_executing_seats", &labels),
            waiting: gauge!("apiserver_flowcontrol_current_inqueue_requests", &labels),
            waiting_seats: gauge!("apiserver_flowcontrol_current_inqueue_seats", &labels),
            estimated: histogram!("apiserver_flowcontrol_work_estimated_seats", &labels),
            waited: [waited("false"), waited("true")],
            took: [took("regular"), took("watch")],
            refused: Few::default(),
        }
    }

    /// A request came that takes so many seats.
    pub fn arrived(&self, seats: u32) {
        self.estimated.record(f64::from(seats));
    }

    /// A request had so long to wait; `accepted`: unless it was refused at once.
    pub fn waited(&self, accepted: bool, waited: Duration) {
        self.waited[usize::from(accepted)].record(waited.as_secs_f64());
    }

    /// A request is refused.
    pub fn refused(&self, reason: &'static str) {
        let count = || {
            counter!(
                "apiserver_flowcontrol_rejected_requests_total",
                "priority_level" => self.level.to_string(),
                "flow_schema" => self.schema.clone(),
                "reason" => reason
            )
        };
        self.refused.get(reason, count).increment(1);
    }

    /// A request waits in a queue.
    pub fn queued(&self, seats: u32) {
        self.waiting.increment(1.0);
        self.waiting_seats.increment(f64::from(seats));
    }

    /// It does not wait any more.
    pub fn unqueued(&self, seats: u32) {
        self.waiting.decrement(1.0);
        self.waiting_seats.decrement(f64::from(seats));
    }

    /// A request is carried out.
    pub fn begins(&self, seats: u32) {
        self.dispatched.increment(1);
        self.executing.increment(1.0);
        self.executing_seats.increment(f64::from(seats));
    }

    /// It is not any more, after so long.
    pub fn ends(&self, seats: u32, is_watch: bool, took: Duration) {
        self.executing.decrement(1.0);
        self.executing_seats.decrement(f64::from(seats));
        self.took[usize::from(is_watch)].record(took.as_secs_f64());
    }
}

/// Shows what each level has.
pub(super) fn tell_shares(shares: &BTreeMap<Arc<str>, Share>) {
    for (level, share) in shares {
        let kept = share.nominal.saturating_sub(share.lendable);
        for (name, seats) in [
            ("apiserver_flowcontrol_nominal_limit_seats", share.nominal),
            ("apiserver_flowcontrol_lower_limit_seats", kept),
            ("apiserver_flowcontrol_upper_limit_seats", share.most),
        ] {
            gauge!(name, "priority_level" => level.to_string()).set(f64::from(seats));
        }
    }
}
