//! The etcd v3 API over a store handle: gRPC services and etcd's HTTP endpoints, on one port or apart.
//!
//! Invariants:
//! - every answer's header carries the revision at which it is true;
//! - a request that was refused changed nothing, and is refused with etcd's code and text;
//! - a watch stream delivers each revision of each watch once, whole and in order.
//!
//! Read `server.rs` (what is built from what), `serving.rs` (connections), `deadline.rs` (how long calls take), `convert.rs` (requests into the store's terms), then a service each:
//! `kv.rs`, `watch/`, `lease.rs`, `cluster.rs`, `maintenance.rs`, `version.rs`, `auth/` (who asks, and may they?),
//! `lock.rs` and `election.rs` (both over `queue.rs`); `doors.rs` has the addresses, `access.rs` who may
//! use pages, `path.rs` how their paths are read, `discovery.rs` how first members find each other; `http.rs` and `health.rs` have /metrics,
//! /health and their like, `counters.rs` and `calls/` what is counted, `inflate.rs` takes compressed messages (`remade.rs`: bodies that become others), `gateway/` the
//! calls as JSON, `proxy/` one address in front of a cluster; `files/` writes and reads
//! etcd's own files.

mod access;
mod auth;
mod budget;
mod calls;
mod cluster;
mod compactor;
mod context;
mod convert;
mod counters;
mod deadline;
mod discovery;
mod doors;
mod election;
mod error;
pub mod files;
mod framing;
mod front;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod gateway;
mod health;
mod http;
mod inflate;
mod kv;
mod lazy;
mod lease;
mod lock;
mod maintenance;
mod path;
mod proxy;
mod queue;
mod remade;
mod server;
mod serving;
mod version;
mod watch;

pub use access::Access;
pub use auth::{AuthOptions, AuthOptionsError};
pub use compactor::{Retention, auto_compact};
pub use counters::METRICS;
pub use discovery::{Discovery, DiscoveryError};
pub use proxy::ProxyConfig;
pub use server::{BuildError, EtcdApi, EtcdApiConfig, MAX_LEARNERS, MAX_LEASES, RunError};

/// Steps at which a test may have a member end or wait, by etcd's names; see `env::failpoints`.
pub const FAILPOINTS: &[&str] = &[
    "beforeSendWatchResponse",
    "defragBeforeCopy",
    "defragOpenFileError",
    "defragdbFail",
    "defragBeforeRename",
];

/// The version of etcd whose API this is. Clients decide by it what they may use.
pub const ETCD_VERSION: &str = "3.7.1";
