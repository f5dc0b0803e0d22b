//! Copies of a running store, of ours or of etcd: snapshots once, and continuous backups to a folder or to object storage.
//!
//! A backup is *bases* (snapshots) and *segments* (all changes of keys since, taken from a watch), each a file that is
//! summed and never changed, and a manifest that names them. So the state can be had again as it was at any revision and
//! at any time that the backup covers. Users, roles, members and alarms are as of the base; leases that were granted since
//! are known as far as keys hang on them.
//!
//! Invariants:
//! - the manifest names only what was stored before, and is replaced as a whole;
//! - a segment's revisions lie without a gap behind those of the segment before; where history was lost to compaction
//!   before it was read, a new base begins;
//! - memory holds one segment at most; bases go through a file.
//!
//! Read `connection.rs` (the store that is copied), `snapshot.rs` (once), `segment.rs` and `manifest.rs` (what a backup
//! is), `repository.rs` (where it lies), `changes.rs` (what is watched), `run.rs` (taking it), `history.rs` (reading it),
//! `follow.rs` (a copy that is kept level with the store until the clients move).

mod changes;
mod connection;
mod error;
mod follow;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod history;
mod manifest;
mod repository;
mod run;
mod segment;
mod snapshot;

pub use connection::{ConnectOptions, Connection};
pub use error::BackupError;
pub use follow::{Followed, Follower};
pub use history::{Found, Target, Verified};
pub use manifest::{Manifest, Stored};
pub use repository::{Repository, Retention, S3Options};
pub use run::{Runner, RunnerOptions};
pub use segment::Record;
pub use snapshot::{open_snapshot, save_snapshot};
