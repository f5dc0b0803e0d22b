//! The raft log as files: what stands between a client's write and its acknowledgement.
//!
//! A log is a folder of *segments* (`<number>.wal`, in hexadecimal), each a fixed number of bytes that were written
//! before the segment is used, so that a sync writes data and nothing of the file system. Records are appended to the
//! newest segment; the others are only read, and go as a whole when all their entries were purged.
//!
//! Invariants:
//! - when `sync` returns, everything that was written before is on the disk;
//! - a record counts only if its checksum does; it covers the number of the segment and of the record;
//! - a write that was not finished ends the log: one of its sectors is still zeros. A record that is damaged otherwise,
//!   or behind which another says that it had been durable, is something promised that is gone: the log does not open,
//!   nor with a newest segment that is shorter than it was made;
//! - every segment but the newest ends with a record that says so;
//! - every segment begins with all single values, so that older segments are not needed for them; a segment goes only
//!   when that is durable, and the purge too;
//! - after an error of the disk the log refuses everything: nobody knows what is on the disk then.
//!
//! Read `record.rs` (bytes of records), `segment.rs` (files), `replay.rs` (from files to an index), `log.rs`.

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod log;
mod record;
mod replay;
mod segment;

pub use log::Wal;
