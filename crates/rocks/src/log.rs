//! The raft log: entries under their index, single values beside them.

use std::io;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{ColumnFamilyDescriptor, DB, IteratorMode, ReadOptions, WriteBatch};
use store::storage::{LogBatch, LogEngine, LogMeta};

use crate::options;

const ENTRIES: &str = "entries";
const META: &str = "meta";

pub(crate) struct RocksLog {
    db: DB,
}

fn failed(error: rocksdb::Error) -> io::Error {
    io::Error::other(error.into_string())
}

fn meta_key(key: LogMeta) -> &'static [u8] {
    match key {
        LogMeta::Vote => b"vote",
        LogMeta::Committed => b"committed",
        LogMeta::Purged => b"purged",
        LogMeta::Identity => b"identity",
        LogMeta::Boot => b"boot",
        LogMeta::Removed => b"removed",
    }
}

impl RocksLog {
    pub fn open(path: &Path) -> io::Result<Self> {
        let families = [ENTRIES, META].map(|name| ColumnFamilyDescriptor::new(name, options::log()));
        let db = DB::open_cf_descriptors(&options::log(), path, families).map_err(failed)?;
        Ok(Self { db })
    }

    fn family(&self, name: &str) -> std::sync::Arc<rocksdb::BoundColumnFamily<'_>> {
        self.db.cf_handle(name).expect("invariant: opened with this family")
    }

    fn first_index(&self) -> io::Result<Option<u64>> {
        let mut entries = self.db.iterator_cf(&self.family(ENTRIES), IteratorMode::Start);
        entries.next().transpose().map_err(failed)?.map(|(key, _)| parse_index(&key)).transpose()
    }

    fn remove(&self, batch: &mut WriteBatch, range: &Range<u64>) -> io::Result<()> {
        let family = self.family(ENTRIES);
        if range.end == u64::MAX {
            // The tail is cut off after a change of leaders: a few keys, one by one.
            let last = self.last()?.map_or(0, |(last, _)| last);
            (range.start..=last).for_each(|index| batch.delete_cf(&family, index.to_be_bytes()));
        } else if let Some(first) = self.first_index()? {
            batch.delete_range_cf(&family, first.max(range.start).to_be_bytes(), range.end.to_be_bytes());
        }
        Ok(())
    }
}

fn parse_index(key: &[u8]) -> io::Result<u64> {
    let key = key
        .try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a log entry's key is damaged"))?;
    Ok(u64::from_be_bytes(key))
}

impl LogEngine for RocksLog {
    fn meta(&self, key: LogMeta) -> io::Result<Option<Bytes>> {
        let value = self.db.get_cf(&self.family(META), meta_key(key)).map_err(failed)?;
        Ok(value.map(Bytes::from))
    }

    fn last(&self) -> io::Result<Option<(u64, Bytes)>> {
        let mut entries = self.db.iterator_cf(&self.family(ENTRIES), IteratorMode::End);
        let Some((key, value)) = entries.next().transpose().map_err(failed)? else { return Ok(None) };
        Ok(Some((parse_index(&key)?, value.into_vec().into())))
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_lower_bound(range.start.to_be_bytes());
        bounds.set_iterate_upper_bound(range.end.to_be_bytes());
        let mut found = Vec::new();
        let mut bytes = 0;
        for entry in self.db.iterator_cf_opt(&self.family(ENTRIES), bounds, IteratorMode::Start) {
            let (key, value) = entry.map_err(failed)?;
            bytes += value.len();
            found.push((parse_index(&key)?, value.into_vec().into()));
            if bytes >= max_bytes {
                break;
            }
        }
        Ok(found)
    }

    fn write(&self, batch: LogBatch) -> io::Result<()> {
        let mut writes = WriteBatch::default();
        if let Some(range) = &batch.remove {
            self.remove(&mut writes, range)?;
        }
        let (entries, meta) = (self.family(ENTRIES), self.family(META));
        batch.entries.iter().for_each(|(index, bytes)| writes.put_cf(&entries, index.to_be_bytes(), bytes));
        batch.meta.iter().for_each(|(key, bytes)| writes.put_cf(&meta, meta_key(*key), bytes));
        self.db.write(writes).map_err(failed)
    }

    fn sync(&self) -> io::Result<()> {
        self.db.flush_wal(true).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(log: &RocksLog, range: Range<u64>) {
        let entries = range.map(|index| (index, Bytes::from(index.to_string()))).collect();
        log.write(LogBatch { entries, ..LogBatch::default() }).expect("write");
    }

    fn remove(log: &RocksLog, range: Range<u64>) {
        log.write(LogBatch { remove: Some(range), ..LogBatch::default() }).expect("remove");
    }

    fn indexes(log: &RocksLog) -> Vec<u64> {
        log.read(0..u64::MAX, usize::MAX).expect("read").into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn entries_are_cut_at_both_ends_and_stay_so() {
        let folder = tempfile::tempdir().expect("folder");
        let log = RocksLog::open(folder.path()).expect("open");
        write(&log, 1..300);
        remove(&log, 0..5);
        remove(&log, 297..u64::MAX);
        assert_eq!(indexes(&log), (5..297).collect::<Vec<_>>());
        assert_eq!(log.last().expect("last"), Some((296, "296".into())));
        log.sync().expect("sync");
        drop(log);
        let log = RocksLog::open(folder.path()).expect("open again");
        assert_eq!(indexes(&log), (5..297).collect::<Vec<_>>());
        remove(&log, 0..297);
        assert_eq!(log.last().expect("last"), None);
    }

    #[test]
    fn a_read_is_bounded_but_never_empty() {
        let folder = tempfile::tempdir().expect("folder");
        let log = RocksLog::open(folder.path()).expect("open");
        write(&log, 100..200);
        assert_eq!(log.read(150..200, 0).expect("read").len(), 1);
        assert_eq!(log.read(150..200, 9).expect("read").len(), 3);
        assert_eq!(log.read(150..153, 1000).expect("read").len(), 3);
    }

    #[test]
    fn values_beside_the_log_are_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let log = RocksLog::open(folder.path()).expect("open");
        assert_eq!(log.meta(LogMeta::Vote).expect("meta"), None);
        let meta = vec![(LogMeta::Vote, "v".into()), (LogMeta::Committed, "c".into())];
        log.write(LogBatch { meta, ..LogBatch::default() }).expect("write");
        assert_eq!(log.meta(LogMeta::Vote).expect("meta"), Some("v".into()));
        assert_eq!(log.meta(LogMeta::Committed).expect("meta"), Some("c".into()));
    }
}
