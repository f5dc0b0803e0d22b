//! The Kubernetes API from the caller's side: requests, informers, queues, events, leader election.
//!
//! Objects are [`serde_json::Value`]s, kinds are rows of [`api_types::table`]. A [`Client`] works over any tower
//! service: the API server's own, in the same process, or HTTPS to every master at once.
//!
//! Invariants:
//! - a request is sent twice only when the first surely had no effect, or when it only reads;
//! - an [`Informer`] shows every object as it was at one of its versions, in the order of the versions, and tells its
//!   handlers of every change of what it shows;
//! - a [`WorkQueue`] never hands out a key that is being worked on;
//! - what a [`LeaderElector`] starts is stopped before another may start it, and all it wrote carries the fence.
//!
//! Read `client.rs`, `api.rs` (requests), `masters.rs` (connections), `informer.rs`, `object.rs`, `cache.rs`,
//! `queue.rs`, `events.rs`, `election.rs`, `counters.rs` (what is counted).

mod api;
mod cache;
mod client;
mod counters;
mod election;
mod error;
mod events;
mod informer;
mod masters;
mod object;
mod queue;
mod stored;
mod watch;

pub use api::{Api, DeleteParams, List, ListParams, Patch, Propagation};
pub use cache::{Change, Index, Lister};
pub use client::{Body, BoxError, Client, Fence, Service};
pub use counters::METRICS;
pub use election::{ElectionConfig, LeaderElector};
pub use error::ClientError;
pub use events::{EventRecorder, EventType};
pub use informer::{Informer, InformerConfig};
pub use masters::{MastersConfig, MastersError};
pub use object::Object;
pub use queue::WorkQueue;
pub use watch::{WatchEvent, WatchStream};
