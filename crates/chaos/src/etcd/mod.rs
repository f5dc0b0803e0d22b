//! `trierarch etcd` members without Kubernetes, under faults, judged by what their clients saw.
//!
//! Read `scenario.rs`, `members.rs` (processes), `traffic.rs` and `generator.rs` (clients), `watcher.rs`, `wire.rs`
//! (requests and answers as etcd sends them), `sessions.rs` and `rights.rs` (clients with leases, locks and passwords), `fault.rs`, `failpoint.rs`, `disk.rs`, `play.rs` (all of it in order). `outage.rs` and
//! `soak.rs` only measure.

mod disk;
mod failpoint;
mod fault;
mod generator;
mod members;
mod outage;
mod play;
mod rights;
mod scenario;
mod sessions;
mod soak;
mod traffic;
mod watcher;
mod wire;

pub use failpoint::needs_others;
pub use members::Members;
pub use outage::{Outage, measure};
pub use play::play;
pub use scenario::{Fault, Scenario, load};
pub use soak::{Load, soak};
