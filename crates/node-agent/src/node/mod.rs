//! The node itself: its object, its Lease, its status.

pub(crate) mod heartbeat;
pub(crate) mod machine;
pub(crate) mod pressure;
pub(crate) mod status;
