//! Places pods on nodes.
//!
//! The shape is upstream's scheduling framework (kube-scheduler, "Scheduling Framework"): a pod is popped from the
//! queue, every node is filtered by plugins, the feasible ones are scored, the best is assumed in the cache, and the
//! binding is written while the next pod is already being placed.
//!
//! Invariants:
//! - deciding is pure: [`decide::decide`] sees one immutable [`snapshot::Snapshot`] and one pod, and waits for nothing;
//! - a pod is in exactly one place: one of the three queues, in flight, or bound;
//! - what was assumed is taken back unless the API confirms the binding;
//! - every write carries the leader's fence, so that a deposed scheduler binds nothing.
//!
//! Read `resources.rs`, `snapshot.rs`, `plugins/mod.rs` (one file a plugin), `decide.rs`, `queue.rs`, `cache.rs`,
//! `counters.rs` (what is counted), and last `run.rs`, the only file that knows the API.

pub mod cache;
mod counters;
pub mod decide;
pub mod plugins;
pub mod queue;
pub mod resources;
mod run;
pub mod snapshot;

pub use counters::METRICS;
pub use run::{Config, Scheduler};
