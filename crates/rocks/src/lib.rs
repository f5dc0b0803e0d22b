//! RocksDB behind the store's storage traits: the only crate that links it, and the only home of column families.
//!
//! A data folder holds `wal/` (the log: files of crate `wal`), `state/<n>/`
//! (the state machine: a database without a write-ahead log, whose column families are flushed together), `STATE` (which
//! `n` is current), `snapshots/` and `LOCK`.
//!
//! Invariants:
//! - the state on disk is always that after some whole batch: a crash loses the newest batches and nothing else, and
//!   the log still has their entries, because it is purged only behind a snapshot, which flushes;
//! - a received state takes the place of the old one by one rename.
//!
//! Read `folder.rs`, `state.rs`.

mod folder;
mod options;
mod state;

pub use folder::{DataFolder, OpenError};
