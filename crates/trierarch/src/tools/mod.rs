//! Moving in, moving out, and backups: commands beside a running store.

mod backup;
mod connect;
mod folder;
mod follow;
mod print;
mod snapshot;
mod takeover;
mod transfer;

pub use backup::{BackupCommand, RestoreOptions, backup, restore};
pub use snapshot::{SnapshotCommand, snapshot};
pub use takeover::{FAILPOINTS, log_to_be, take_over};
pub use transfer::{ExportOptions, ImportOptions, export, import};
