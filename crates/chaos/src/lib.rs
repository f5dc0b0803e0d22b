//! Plays fault scenarios against real processes and checks what must hold whatever happens.
//!
//! A scenario is a file of `chaos/scenarios/`: how many masters and nodes, which load, which fault, and the times that
//! the report compares with. Invariants decide whether a run passes; times are only reported.
//!
//! Invariants:
//! - every process of a run ends with the runner, however that ends, and so do its network namespaces;
//! - all times come from one clock, so that what was acknowledged before something else began is known;
//! - a scenario that cannot be played on this machine fails and says why: it never passes unplayed.
//!
//! `etcd/` plays members without Kubernetes and records what their clients see; `history/` judges it.
//!
//! Read `scenario.rs`, `network.rs`, `cluster.rs` (processes), `load.rs` and `api_load.rs` (clients), `fault.rs`,
//! `recovery.rs` (what is seen after the fault), `check.rs` (invariants), `play.rs` (all of it in order), `report.rs`.

mod access;
mod api_load;
mod check;
mod clients;
mod cluster;
pub mod etcd;
mod fault;
pub mod history;
mod load;
mod network;
mod play;
mod poll;
mod process;
mod recovery;
mod report;
mod scenario;
mod web;

pub use network::Network;
pub use play::play;
pub use report::machine;
pub use scenario::{Scenario, load as scenarios};
