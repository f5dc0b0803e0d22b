//! The service proxy: Services and EndpointSlices as nftables maps, changed by difference.

mod driver;
pub mod ruleset;

pub(crate) use driver::Proxy;
