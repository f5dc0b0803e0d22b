//! The disk as the store sees it. `rocks` implements these traits; [`crate::MemoryStorage`] is their twin for tests.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use mvcc::Engine;

/// Single values beside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogMeta {
    /// The last vote given.
    Vote,
    /// The last entry known to be committed.
    Committed,
    /// The last entry that was purged.
    Purged,
    /// Which cluster and member the folder belongs to.
    Identity,
    /// How often the member was started.
    Boot,
    /// There once the member was removed from its cluster, for good.
    Removed,
    /// There, and not empty, while the state is not to be used; see `integrity/repair.rs`.
    Repair,
}

/// Changes to the log that are made together.
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    /// Entries that are removed, before those below are added.
    pub remove: Option<Range<u64>>,
    /// Entries by index.
    pub entries: Vec<(u64, Bytes)>,
    /// Single values.
    pub meta: Vec<(LogMeta, Bytes)>,
}

/// The raft log on disk. Calls block.
pub trait LogEngine: Send + Sync + 'static {
    /// A single value.
    ///
    /// # Errors
    /// When it cannot be read.
    fn meta(&self, key: LogMeta) -> io::Result<Option<Bytes>>;

    /// The last entry.
    ///
    /// # Errors
    /// When it cannot be read.
    fn last(&self) -> io::Result<Option<(u64, Bytes)>>;

    /// Entries of `range` in order, until about `max_bytes` are gathered; one at least when there is one.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>>;

    /// Makes the changes; they need not be durable yet, but are seen by reads and never lost out of order.
    ///
    /// # Errors
    /// When they cannot be written.
    fn write(&self, batch: LogBatch) -> io::Result<()>;

    /// Makes everything durable that was written before.
    ///
    /// # Errors
    /// When that failed; the log must not be used any more.
    fn sync(&self) -> io::Result<()>;
}

/// The state machine's engine, which can also be copied as files.
pub trait StateEngine: Engine {
    /// Writes a copy of the present state, durable, as files in the new folder `into`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn checkpoint(&self, into: &Path) -> io::Result<()>;
}

/// A data folder.
pub trait Storage: Send + Sync + 'static {
    /// Opens the log.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open_log(&self) -> io::Result<Arc<dyn LogEngine>>;

    /// Opens the state.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open_state(&self) -> io::Result<Arc<dyn StateEngine>>;

    /// Opens a checkpoint for reading.
    ///
    /// # Errors
    /// When it is none.
    fn open_checkpoint(&self, folder: &Path) -> io::Result<Arc<dyn StateEngine>>;

    /// Makes a checkpoint the state, durably, and opens it. The state before may still be read by those who hold it.
    ///
    /// # Errors
    /// When it cannot be done; the state before is then still in place.
    fn replace_state(&self, checkpoint: &Path) -> io::Result<Arc<dyn StateEngine>>;

    /// Where snapshots are kept and received.
    fn snapshots(&self) -> PathBuf;
}
