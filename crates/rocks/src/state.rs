//! The state machine's tables, one column family each.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use mvcc::{Batch, Engine, EngineError, Table};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    ColumnFamilyDescriptor, DB, FlushOptions, IteratorMode, ReadOptions, WriteBatch, WriteOptions,
};
use store::storage::StateEngine;

use crate::options;

pub(crate) struct RocksState {
    db: DB,
    read_only: bool,
}

fn failed(error: rocksdb::Error) -> io::Error {
    io::Error::other(error.into_string())
}

fn engine_error(error: rocksdb::Error) -> EngineError {
    EngineError(error.into_string())
}

impl RocksState {
    pub fn open(path: &Path) -> io::Result<Self> {
        let families = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), options::state()));
        let db = DB::open_cf_descriptors(&options::state(), path, families).map_err(failed)?;
        Ok(Self { db, read_only: false })
    }

    pub fn open_read_only(path: &Path) -> io::Result<Self> {
        let families = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), options::state()));
        let mut options = options::state();
        options.create_if_missing(false);
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false).map_err(failed)?;
        Ok(Self { db, read_only: true })
    }

    fn family(&self, table: Table) -> std::sync::Arc<rocksdb::BoundColumnFamily<'_>> {
        self.db.cf_handle(table.name()).expect("invariant: opened with this family")
    }

    fn flush(&self) -> Result<(), rocksdb::Error> {
        let families = Table::ALL.map(|table| self.family(table));
        let families: Vec<_> = families.iter().collect();
        self.db.flush_cfs_opt(&families, &FlushOptions::default())
    }
}

impl Drop for RocksState {
    /// A clean stop leaves nothing to play again.
    fn drop(&mut self) {
        if !self.read_only
            && let Err(error) = self.flush()
        {
            tracing::warn!(%error, "the state was not flushed; the log will be played again");
        }
    }
}

impl Engine for RocksState {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.db.get_cf(&self.family(table), key).map_err(engine_error)?;
        Ok(value.map(Bytes::from))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_lower_bound(from);
        if let Some(to) = to {
            bounds.set_iterate_upper_bound(to);
        }
        for item in self.db.iterator_cf_opt(&self.family(table), bounds, IteratorMode::Start) {
            let (key, value) = item.map_err(engine_error)?;
            if visit(&key, value.into_vec().into()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let mut writes = WriteBatch::default();
        let families = Table::ALL.map(|table| self.family(table));
        for (table, key, value) in batch.changes() {
            let family = &families[*table as usize];
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(writes, &options).map_err(engine_error)
    }
}

impl StateEngine for RocksState {
    fn checkpoint(&self, into: &Path) -> io::Result<()> {
        // Flushes all families, together: without a write-ahead log a checkpoint holds nothing else.
        self.flush().map_err(failed)?;
        Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(into)).map_err(failed)
    }
}
