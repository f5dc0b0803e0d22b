//! The Kubernetes API over the replicated store: HTTP, authentication, authorization, admission, one registry for
//! every kind, watches, discovery, OpenAPI.
//!
//! Invariants:
//! - objects lie under upstream's keys in upstream's encoding; `metadata.resourceVersion` is the store's revision of
//!   the last change, never stored;
//! - every write is one conditional transaction on the revision that it was decided on, with whatever belongs to it
//!   (addresses, a lease's fence) in the same transaction: a replica that is behind, or a leader that was deposed, can
//!   lose a race and never overwrite;
//! - a read without a resourceVersion shows everything acknowledged before it, on every replica;
//! - a watch delivers every change after its revision once, in order, or ends with 410;
//! - in-process callers pass the same authorization, admission and audit as anyone;
//! - a failure is an answer: no request ends a task.
//!
//! Reading order: [`ApiServerConfig`], `server.rs` (connections), `handler.rs` (the way of a request), `info.rs`,
//! `negotiate.rs`, `call.rs`, `authn/`, `audit/` (what is written of it), `flow/` (whose turn it is), `authz/`, `remote.rs` (servers that know tokens or decide), `admission/`, `registry/` (the writes and reads), `storage.rs` (the
//! store in the API's terms), `encode.rs`, `watch.rs`, `subresources/` (streams and proxies go out through `dial.rs`), `reach.rs` (what answers for a Service), `aggregation/` (servers of other groups), `discovery/`, `bootstrap/`,
//! `counters/` (what is counted), `zpages.rs`.

mod admission;
mod aggregation;
mod api;
mod audit;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod cache;
mod call;
mod catalog;
mod compact;
mod compress;
mod config;
mod config_file;
mod connection;
mod conversion;
mod convert;
mod counters;
mod decode;
mod derived;
mod dial;
mod discovery;
mod encode;
mod encryption;
mod families;
mod flow;
mod forward;
mod handler;
mod health;
mod impersonate;
mod info;
mod initial;
mod messages;
mod negotiate;
mod newest;
mod node_client;
mod options;
mod reach;
mod registry;
mod remote;
mod reviews;
mod select;
mod server;
mod services;
mod shape;
mod storage;
mod stored;
mod subresources;
mod tls;
mod user;
mod watch;
mod webhook;
mod wire;
mod zpages;

pub use admission::AdmissionConfig;
pub use audit::{
    AuditBatchConfig, AuditConfig, AuditFormat, AuditLogConfig, AuditMode, AuditTruncateConfig,
    AuditWebhookConfig,
};
pub use authn::{OidcConfig, RequestHeaderConfig, TokenWebhookConfig};
pub use authz::AuthorizationConfig;
pub use body::{Body, BoxError, MAX_BODY_BYTES, full};
pub use call::FENCE_HEADER;
pub use config::{
    AggregationConfig, ApiServerConfig, BuildError, KubeletClient, MetricsText, ProxyClient, RunError,
    ServerTls, ServerTlsFiles, ServiceAccountKeys,
};
pub use counters::METRICS;
pub use server::{ApiServer, ApiService};
pub use user::UserInfo;
