//! The disk as the state machine sees it: ordered tables, batches that are atomic, and nothing else.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

/// A table of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Every readable version of every key, by revision.
    Revisions,
    /// Leases by id.
    Leases,
    /// Single values: applied index, compaction, alarms, members.
    Meta,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Revisions, Self::Leases, Self::Meta];

    /// The table's name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Revisions => "revisions",
            Self::Leases => "leases",
            Self::Meta => "meta",
        }
    }
}

/// Changes that are made together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    changes: Vec<(Table, Bytes, Option<Bytes>)>,
}

impl Batch {
    /// Makes room for so many more changes.
    pub fn reserve(&mut self, changes: usize) {
        self.changes.reserve(changes);
    }

    /// Writes a key.
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push((table, key.into(), Some(value.into())));
    }

    /// Deletes a key; one that is not there is no error.
    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.changes.push((table, key.into(), None));
    }

    /// The changes, in order; later ones win. `None` deletes.
    pub fn changes(&self) -> &[(Table, Bytes, Option<Bytes>)] {
        &self.changes
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// The engine failed; the text is its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("storage engine: {0}")]
pub struct EngineError(pub String);

/// An ordered store. Reads see whole batches. No method has a default: an engine around another one hands on every one.
///
/// A write need not be durable when it returns: the raft log is what makes commands durable, and a batch that is lost
/// is applied again. But batches must be lost from the end only, never out of the middle.
pub trait Engine: Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// When the engine cannot read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Calls `visit` for every key in `from..to` (to the end of the table without `to`), in order, until it breaks.
    ///
    /// # Errors
    /// When the engine cannot read.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), EngineError>;

    /// Calls `visit` with the number and the value of every key, in order, until it breaks; `None` for one that is not
    /// there. The keys are sorted.
    ///
    /// # Errors
    /// When the engine cannot read.
    fn get_sorted(&self, table: Table, keys: &[&[u8]], visit: VisitValue<'_>) -> Result<(), EngineError>;

    /// Makes all changes of a batch.
    ///
    /// # Errors
    /// When the engine cannot write; then none is made.
    fn write(&self, batch: Batch) -> Result<(), EngineError>;

    /// Makes durable what was written so far, then keeps beside it what `write` writes, in place of what was kept
    /// before. An engine that keeps nothing needs to do nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    fn save_index(&self, write: WriteIndex<'_>) -> Result<(), EngineError>;

    /// What [`Self::save_index`] last kept.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load_index(&self) -> Result<Option<Box<dyn Read + '_>>, EngineError>;
}

/// Sees a key's number and its value, if it is there.
pub type VisitValue<'a> = &'a mut dyn FnMut(usize, Option<&[u8]>) -> ControlFlow<()>;

/// Writes an index.
pub type WriteIndex<'a> = &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>;

impl<E: Engine + ?Sized> Engine for Arc<E> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        (**self).get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        (**self).scan(table, from, to, visit)
    }

    fn get_sorted(&self, table: Table, keys: &[&[u8]], visit: VisitValue<'_>) -> Result<(), EngineError> {
        (**self).get_sorted(table, keys, visit)
    }

    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        (**self).write(batch)
    }

    fn save_index(&self, write: WriteIndex<'_>) -> Result<(), EngineError> {
        (**self).save_index(write)
    }

    fn load_index(&self) -> Result<Option<Box<dyn Read + '_>>, EngineError> {
        (**self).load_index()
    }
}

type Tables = BTreeMap<(Table, Bytes), Bytes>;

/// An engine in memory, for tests and simulations. Clones share the data, as reopened files would.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine {
    tables: Arc<RwLock<Tables>>,
    index: Arc<RwLock<Option<Bytes>>>,
}

impl MemoryEngine {
    /// A copy that does not share the data: what a snapshot file would be.
    pub fn fork(&self) -> Self {
        Self {
            tables: Arc::new(RwLock::new(self.tables.read().clone())),
            index: Arc::new(RwLock::new(self.index.read().clone())),
        }
    }

    /// Replaces the saved index, as damage would.
    pub fn set_index(&self, bytes: Option<Bytes>) {
        *self.index.write() = bytes;
    }

    /// The saved index.
    pub fn index(&self) -> Option<Bytes> {
        self.index.read().clone()
    }
}

impl Engine for MemoryEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.tables.read().get(&(table, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let start = Bound::Included((table, Bytes::copy_from_slice(from)));
        let tables = self.tables.read();
        for ((found, key), value) in tables.range((start, Bound::Unbounded)) {
            let behind = *found != table || to.is_some_and(|to| key.as_ref() >= to);
            if behind || visit(key, value.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn get_sorted(&self, table: Table, keys: &[&[u8]], visit: VisitValue<'_>) -> Result<(), EngineError> {
        for (number, key) in keys.iter().enumerate() {
            if visit(number, self.get(table, key)?.as_deref()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        let mut tables = self.tables.write();
        for (table, key, value) in batch.changes() {
            match value {
                Some(value) => drop(tables.insert((*table, key.clone()), value.clone())),
                None => drop(tables.remove(&(*table, key.clone()))),
            }
        }
        Ok(())
    }

    fn save_index(&self, write: WriteIndex<'_>) -> Result<(), EngineError> {
        let mut bytes = Vec::new();
        write(&mut bytes).map_err(|error| EngineError(error.to_string()))?;
        self.set_index(Some(bytes.into()));
        Ok(())
    }

    fn load_index(&self) -> Result<Option<Box<dyn Read + '_>>, EngineError> {
        Ok(self.index().map(|bytes| Box::new(io::Cursor::new(bytes)) as Box<dyn Read>))
    }
}
