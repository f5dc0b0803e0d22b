//! One pod on this node: what should be, what is, what to do, what to report.
//!
//! Pure: [`plan`] (what next), [`status`], [`config`] (what the runtime is asked for), [`env_vars`], [`resources`],
//! [`image`], [`admission`], [`lifecycle`] (questions that planning and status share), [`observed`].
//! Drivers: `worker` (one task a pod) with `actions` and `stop`, `manager` (which pods have a worker), `prober`, `hooks`,
//! `http_get`, `grpc_health`, `message`, `rotation` (logs), `sources`, `status_writer`.

mod actions;
pub mod admission;
pub mod config;
pub mod env_vars;
mod grpc_health;
mod hooks;
mod http_get;
pub mod image;
pub mod lifecycle;
pub(crate) mod manager;
mod message;
pub mod observed;
pub mod paths;
pub mod plan;
mod prober;
pub(crate) mod quantity;
pub mod resources;
pub(crate) mod rotation;
mod sources;
pub mod status;
pub(crate) mod status_writer;
mod stop;
mod worker;

use k8s_openapi::api::core::v1::Container;

/// Hash of what makes a running container obsolete when it changes: upstream lets only the image change in place.
pub fn spec_hash(container: &Container) -> String {
    let parts = [container.name.as_str(), container.image.as_deref().unwrap_or_default()];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.join("\0").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:x}")
}
