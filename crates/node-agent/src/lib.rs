//! The node agent: makes one machine run the pods that are bound to it, and tells the API what became of them.
//!
//! A pod's way: informer event (desired) and runtime lists, probes, memory (observed) -> [`pod::plan::plan`] ->
//! actions carried out by the pod's worker -> [`pod::status::pod_status`] -> the one status writer -> API.
//! Services go the same way: [`proxy::ruleset::ruleset`] -> [`proxy::ruleset::script`] -> one nftables transaction.
//!
//! Invariants:
//! - deciding is pure and level-triggered; only files named in a module's "drivers" touch socket, disk or clock;
//! - one worker per pod uid, one writer of pod statuses, so that a pod's status is never written out of order;
//! - everything the agent must know after its own restart is in the runtime's labels and annotations;
//! - the process runs inside the node's network and mount namespaces: it never switches namespace itself.
//!
//! Read `pod/plan.rs`, `pod/status.rs`, `pod/worker.rs`, then `agent.rs`, which wires them.

mod agent;
mod cgroups;
mod context;
mod net;
mod node;
pub mod pod;
pub mod proxy;
pub mod runtime;
mod server;
pub mod stream;
pub mod volumes;

pub use agent::{Agent, AgentConfig, BuildError, MetricsText};
pub use node::pressure::Thresholds;
pub use pod::rotation::LogRotation;
