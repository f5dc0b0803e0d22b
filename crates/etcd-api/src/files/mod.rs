//! The state as etcd's own files, in both directions: its snapshots are written and sent, its snapshots and data folders
//! are read. What the files' bytes mean is in crate `etcd-files`.

mod load;
mod request;
mod send;
mod takeover;
mod write;

pub use load::{LoadError, Loaded, Restore, stored_auth, stored_version};
pub use takeover::{Takeover, TakeoverError};
pub use write::write_snapshot;

pub(crate) use send::{QUEUE, send};

/// The storage format of the files that are written.
pub(crate) const STORAGE_VERSION: &str = "3.7.0";
