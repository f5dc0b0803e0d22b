//! Controllers: each brings what is a step closer to what was asked for, over and over.
//!
//! Invariants:
//! - deciding is pure: [`Controller::reconcile`] reads listers and returns a [`Plan`]; the one runner carries it out;
//! - a key is not decided on again before the informers show what was written for it;
//! - every write carries the leader's fence; informers and queues are warm on every replica.
//!
//! Read `plan.rs` and `controller.rs` (the shape), `runner.rs`, then one file a controller.

mod api_service_availability;
mod api_service_registration;
mod claim;
mod cluster_role;
mod controller;
mod custom_informers;
mod custom_resources;
mod deployment;
mod disruption;
mod endpoint_slice;
mod endpoints;
mod garbage_collector;
mod namespace;
mod namespace_status;
mod node_ipam;
mod node_lifecycle;
mod plan;
mod pod_gc;
mod policy_status;
mod replica_set;
mod resource_quota;
mod root_ca;
mod runner;
mod service_account;
mod service_account_tokens;
mod storage_protection;
mod taint_eviction;
mod template;

#[cfg(test)]
mod testing;

use env::Metric;

/// The metrics that this crate records besides those of its queues.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        "aggregator_unavailable_apiservice_total",
        "[ALPHA] Counter of APIServices which are marked as unavailable broken down by APIService name and reason.",
    )
    .labelled(),
    Metric::counter(
        "trierarch_controller_errors_total",
        "Plans of a controller that could not be carried out and are made again later.",
    )
    .labelled(),
];

pub use api_service_availability::{ApiProbe, PROBE_INTERVAL, Probe};
pub use controller::{Controller, Key, Listers, Now, Watch};
pub use node_ipam::Ipv4Range;
pub use plan::{Action, Plan};
pub use runner::{Controllers, ControllersConfig};
pub use service_account_tokens::{Sign, TokenSigner};
