//! etcd's files: its database, which is also its snapshot, and its write-ahead log.
//!
//! Pure formats: what the bytes mean, and nothing of a store. Everything is read in order and in bounded memory, and
//! damage is an error that says where.
//!
//! Read `bolt/` (bbolt's pages: writing in one pass, reading by position), `schema.rs` (what etcd keeps in which bucket),
//! `check.rs` (a snapshot's checksum, and what `etcdutl snapshot status` says), `wal.rs` (the write-ahead log),
//! `request.rs` (what its entries say).

pub mod bolt;
mod check;
mod request;
mod schema;
mod wal;

pub use check::{Checked, FileError, FileStatus, check_trailer, has_trailer, status};
pub use request::{InternalRequest, RequestHeader, RequestV2};
pub use schema::{
    AuthTables, Database, DatabaseMeta, Lease, MemberRecord, SchemaError, Version, VersionKey,
    encode_revision, encode_version,
};
pub use wal::{ConfChange, ConfChangeKind, EntryKind, HardState, LogEntry, WalContents, WalError, read_wal};
