//! The state machine's tables, one column family each.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mvcc::{Batch, Engine, EngineError, Table, VisitValue, WriteIndex};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    ColumnFamilyDescriptor, DB, FlushOptions, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
    properties,
};
use store::storage::StateEngine;

use crate::options;

/// The saved index, beside the database's own files: the database leaves alone what it does not know.
const INDEX: &str = "INDEX";
/// Bytes that are read and written at a time.
const INDEX_BUFFER: usize = 256 << 10;
/// Keys that are read beyond the one before before a search is quicker.
const NEAR: usize = 8;
/// So many keys in a row that lie near each other are read in one go.
const RUN: usize = 4;
/// Reads of more keys than this go through many blocks.
const LONG_READ: usize = 256;
/// Bytes that are read ahead of a long read.
const READ_AHEAD: usize = 256 << 10;
/// Files that one which is only looked into has open at a time.
const READ_ONLY_FILES: i32 = 64;
/// So many changes are soon played again from the log: a stop leaves them to it, and creates no file.
const SOON_PLAYED: u64 = 2_000;

pub(crate) struct RocksState {
    db: DB,
    path: PathBuf,
    read_only: bool,
}

/// How the database and its families are set up.
fn setup() -> (Options, [ColumnFamilyDescriptor; Table::ALL.len()]) {
    let cache = options::block_cache();
    let families = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), options::state(&cache)));
    (options::state(&cache), families)
}

fn failed(error: rocksdb::Error) -> io::Error {
    io::Error::other(error.into_string())
}

fn engine_error(error: rocksdb::Error) -> EngineError {
    EngineError(error.into_string())
}

impl RocksState {
    pub fn open(path: &Path) -> io::Result<Self> {
        let (options, families) = setup();
        let db = DB::open_cf_descriptors(&options, path, families).map_err(failed)?;
        Ok(Self { db, path: path.to_owned(), read_only: false })
    }

    pub fn open_read_only(path: &Path) -> io::Result<Self> {
        let (mut options, families) = setup();
        options.create_if_missing(false);
        // Little is read of one that is looked into, and not all of its files need be opened for that, by many threads.
        options.set_max_open_files(READ_ONLY_FILES);
        options.set_max_file_opening_threads(1);
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false).map_err(failed)?;
        Ok(Self { db, path: path.to_owned(), read_only: true })
    }

    fn family(&self, table: Table) -> std::sync::Arc<rocksdb::BoundColumnFamily<'_>> {
        self.db.cf_handle(table.name()).expect("invariant: opened with this family")
    }

    fn get_each(&self, table: Table, keys: &[&[u8]], visit: VisitValue<'_>) -> Result<(), EngineError> {
        let family = self.family(table);
        for (number, key) in keys.iter().enumerate() {
            let value = self.db.get_pinned_cf(&family, key).map_err(engine_error)?;
            if visit(number, value.as_deref()).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// How many changes are in memory alone.
    fn unflushed(&self) -> u64 {
        let count = |table: &Table, name| {
            self.db.property_int_value_cf(&self.family(*table), name).ok().flatten().unwrap_or_default()
        };
        let names = [properties::NUM_ENTRIES_ACTIVE_MEM_TABLE, properties::NUM_ENTRIES_IMM_MEM_TABLES];
        Table::ALL.iter().flat_map(|table| names.map(|name| count(table, name))).sum()
    }

    fn flush(&self) -> Result<(), rocksdb::Error> {
        let families = Table::ALL.map(|table| self.family(table));
        let families: Vec<_> = families.iter().collect();
        self.db.flush_cfs_opt(&families, &FlushOptions::default())
    }
}

impl Drop for RocksState {
    /// A clean stop leaves little to play again.
    fn drop(&mut self) {
        if !self.read_only
            && self.unflushed() > SOON_PLAYED
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

    fn get_sorted(&self, table: Table, keys: &[&[u8]], visit: VisitValue<'_>) -> Result<(), EngineError> {
        if keys.len() < RUN {
            return self.get_each(table, keys, visit);
        }
        let family = self.family(table);
        let mut bounds = ReadOptions::default();
        if keys.len() > LONG_READ {
            // Others' blocks stay in the cache.
            bounds.set_readahead_size(READ_AHEAD);
            bounds.fill_cache(false);
        }
        let mut found = self.db.raw_iterator_cf_opt(&family, bounds);
        for (number, key) in keys.iter().enumerate() {
            let mut steps = 0;
            while found.valid() && steps < NEAR && found.key().is_some_and(|at| at < *key) {
                found.next();
                steps += 1;
            }
            if !found.valid() || steps == NEAR || found.key().is_some_and(|at| at > *key) {
                found.seek(key);
            }
            found.status().map_err(engine_error)?;
            let value = found.item().filter(|(at, _)| at == key).map(|(_, value)| value);
            if visit(number, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn save_index(&self, write: WriteIndex<'_>) -> Result<(), EngineError> {
        // First what it is an index of.
        self.flush().map_err(engine_error)?;
        let new = self.path.join(format!("{INDEX}.new"));
        let mut save = || {
            let mut out = BufWriter::with_capacity(INDEX_BUFFER, File::create(&new)?);
            write(&mut out)?;
            out.flush()?;
            out.get_ref().sync_all()?;
            fs::rename(&new, self.path.join(INDEX))?;
            File::open(&self.path)?.sync_all()
        };
        save().map_err(|error: io::Error| EngineError(error.to_string()))
    }

    fn load_index(&self) -> Result<Option<Box<dyn Read + '_>>, EngineError> {
        match File::open(self.path.join(INDEX)) {
            Ok(file) => Ok(Some(Box::new(BufReader::with_capacity(INDEX_BUFFER, file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EngineError(error.to_string())),
        }
    }

    fn write(&self, batch: Batch) -> Result<(), EngineError> {
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
