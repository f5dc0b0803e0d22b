//! The replicated store: openraft and the state machine of `mvcc` as one handle.
//!
//! Invariants:
//! - a command takes effect at most once, however often it had to be sent;
//! - a command is acknowledged only after a quorum has it on disk and this replica has applied it;
//! - what a [`View`](mvcc::View) shows was applied from the log, in its order, and is also in the engine's hands;
//! - all events of a revision reach a watcher in one batch, none twice, none out of order;
//! - a member that does not hear a quorum does not lead: [`Leadership::is_leader`] falls within an election timeout;
//! - membership has one home, the raft configuration; names and client addresses are replicated state.
//!
//! Reading order: `config.rs` (what it is built from), `build.rs` and `run.rs` (how it begins and ends), `handle.rs` (what
//! callers do with it), `inner.rs` (what all parts share), `changes.rs` (of members), `consensus.rs` (openraft's types and
//! their bytes), `log.rs` and `state.rs` (openraft's storage over the traits in `storage.rs`), `peers.rs` and
//! `server.rs` (both ends of the wire between members), `sessions.rs` (exactly once), `barrier.rs`, `watch/`, `leases.rs`,
//! `renewals.rs`, `lessor.rs`, `pulse/` (who is in touch with whom), `disk.rs`, `leadership.rs`, `counters.rs`,
//! `integrity/` (a state that is wrong), `seed.rs` (folders that begin with a state from elsewhere).

mod barrier;
mod behind;
mod build;
mod changes;
mod config;
mod confirm;
mod consensus;
mod contacts;
mod copy;
mod counters;
mod disk;
mod doors;
mod error;
mod failpoints;
mod forced;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod handle;
mod handover;
mod inner;
mod integrity;
mod join;
mod leadership;
mod leases;
mod lessor;
mod log;
mod members;
mod memory;
mod peers;
mod proposals;
mod pulse;
mod renewals;
mod run;
mod seed;
mod server;
mod sessions;
mod snapshot;
mod state;
pub mod storage;
mod upkeep;
mod watch;
mod witness;

pub use config::{Checks, StoreConfig, Timing};
pub use copy::StateCopy;
pub use counters::METRICS;
pub use error::{BuildError, StoreError};
pub use failpoints::FAILPOINTS;
pub use handle::{Status, Store};
pub use leadership::Leadership;
pub use leases::LeaseTime;
pub use members::{ClusterId, Member, cluster_id, hex, member_id};
pub use memory::MemoryStorage;
pub use run::{RunError, StoreServer};
pub use seed::{Seed, SeedEntry, StateLoader, Stopped};
pub use watch::{
    Delivery, Ended, Member as WatchMember, SharedEvent, WatchBatch, WatchError, WatchRequest, WatchSet,
    Watcher,
};
