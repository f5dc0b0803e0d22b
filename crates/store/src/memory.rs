//! A data folder in memory, for tests and simulations: what `rocks` is on disk. Snapshots are files all the same.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use mvcc::{Batch, Engine, EngineError, MemoryEngine, Table, VisitValue, WriteIndex};
use parking_lot::Mutex;

use crate::storage::{LogBatch, LogEngine, LogMeta, StateEngine, Storage};

/// A folder that outlives the store that is built on it, as files would.
#[derive(Clone)]
pub struct MemoryStorage {
    log: Arc<MemoryLog>,
    state: Arc<Mutex<MemoryState>>,
    snapshots: PathBuf,
}

impl MemoryStorage {
    /// An empty one; snapshots go to `snapshots`.
    pub fn new(snapshots: impl Into<PathBuf>) -> Self {
        Self { log: Arc::default(), state: Arc::default(), snapshots: snapshots.into() }
    }
}

impl Storage for MemoryStorage {
    fn open_log(&self) -> io::Result<Arc<dyn LogEngine>> {
        Ok(self.log.clone())
    }

    fn open_state(&self) -> io::Result<Arc<dyn StateEngine>> {
        Ok(Arc::new(self.state.lock().clone()))
    }

    fn open_checkpoint(&self, folder: &Path) -> io::Result<Arc<dyn StateEngine>> {
        Ok(Arc::new(load(folder)?))
    }

    fn replace_state(&self, checkpoint: &Path) -> io::Result<Arc<dyn StateEngine>> {
        let state = load(checkpoint)?;
        *self.state.lock() = state.clone();
        Ok(Arc::new(state))
    }

    fn snapshots(&self) -> PathBuf {
        self.snapshots.clone()
    }
}

#[derive(Default)]
struct MemoryLog {
    entries: Mutex<BTreeMap<u64, Bytes>>,
    meta: Mutex<BTreeMap<LogMeta, Bytes>>,
}

impl LogEngine for MemoryLog {
    fn meta(&self, key: LogMeta) -> io::Result<Option<Bytes>> {
        Ok(self.meta.lock().get(&key).cloned())
    }

    fn last(&self) -> io::Result<Option<(u64, Bytes)>> {
        Ok(self.entries.lock().last_key_value().map(|(index, bytes)| (*index, bytes.clone())))
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let mut size = 0;
        let entries = self.entries.lock();
        let taken = entries.range(range).take_while(|(_, bytes)| {
            let fits = size < max_bytes;
            size += bytes.len();
            fits
        });
        Ok(taken.map(|(index, bytes)| (*index, bytes.clone())).collect())
    }

    fn write(&self, batch: LogBatch) -> io::Result<()> {
        let mut entries = self.entries.lock();
        if let Some(range) = batch.remove {
            entries.retain(|index, _| !range.contains(index));
        }
        entries.extend(batch.entries);
        self.meta.lock().extend(batch.meta);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Default)]
struct MemoryState(MemoryEngine);

impl Engine for MemoryState {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        self.0.scan(table, from, to, visit)
    }

    fn get_sorted(&self, table: Table, keys: &[&[u8]], visit: VisitValue<'_>) -> Result<(), EngineError> {
        self.0.get_sorted(table, keys, visit)
    }

    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        self.0.write(batch)
    }

    fn save_index(&self, write: WriteIndex<'_>) -> Result<(), EngineError> {
        self.0.save_index(write)
    }

    fn load_index(&self) -> Result<Option<Box<dyn io::Read + '_>>, EngineError> {
        self.0.load_index()
    }
}

const FILE: &str = "state";

impl StateEngine for MemoryState {
    fn checkpoint(&self, into: &Path) -> io::Result<()> {
        std::fs::create_dir_all(into)?;
        let copy = self.0.fork();
        let mut out = Vec::new();
        for (number, table) in (0u8..).zip(Table::ALL) {
            let scanned = copy.scan(table, &[], None, &mut |key, value| {
                out.push(number);
                for part in [key, &value] {
                    out.extend_from_slice(&(part.len() as u32).to_be_bytes());
                    out.extend_from_slice(part);
                }
                ControlFlow::Continue(())
            });
            scanned.map_err(io::Error::other)?;
        }
        std::fs::File::create(into.join(FILE))?.write_all(&out)
    }
}

fn load(folder: &Path) -> io::Result<MemoryState> {
    let mut bytes = Vec::new();
    std::fs::File::open(folder.join(FILE))?.read_to_end(&mut bytes)?;
    let mut rest = Bytes::from(bytes);
    let mut batch = Batch::default();
    while !rest.is_empty() {
        let table = Table::ALL[usize::from(rest.split_to(1)[0])];
        let mut part = || {
            let len = u32::from_be_bytes(rest.split_to(4)[..].try_into().expect("invariant: four bytes"));
            rest.split_to(len as usize)
        };
        let (key, value) = (part(), part());
        batch.put(table, key, value);
    }
    let state = MemoryState::default();
    state.0.write(batch).map_err(io::Error::other)?;
    Ok(state)
}
