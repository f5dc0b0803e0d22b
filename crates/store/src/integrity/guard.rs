//! The state's engine, watched: damage that a read or a write meets raises the fence.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mvcc::{Batch, Engine, EngineError, Table, VisitValue, WriteIndex};

use super::{Fence, Wrong, says_damage};
use crate::storage::StateEngine;

/// An engine whose errors are heeded.
pub(crate) struct Guarded {
    engine: Arc<dyn StateEngine>,
    fence: Arc<Fence>,
}

impl Guarded {
    pub fn over(engine: Arc<dyn StateEngine>, fence: Arc<Fence>) -> Arc<dyn StateEngine> {
        Arc::new(Self { engine, fence })
    }

    fn heed<T>(&self, done: Result<T, EngineError>) -> Result<T, EngineError> {
        if let Err(EngineError(why)) = &done
            && says_damage(why)
        {
            self.fence.raise(Wrong::Damaged(why.clone()));
        }
        done
    }
}

impl Engine for Guarded {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.heed(self.engine.get(table, key))
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        self.heed(self.engine.scan(table, from, to, visit))
    }

    fn get_sorted(&self, table: Table, keys: &[&[u8]], visit: VisitValue<'_>) -> Result<(), EngineError> {
        self.heed(self.engine.get_sorted(table, keys, visit))
    }

    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        self.heed(self.engine.write(batch))
    }

    fn save_index(&self, write: WriteIndex<'_>) -> Result<(), EngineError> {
        self.heed(self.engine.save_index(write))
    }

    /// A saved index that is damaged is no damage of the state, which is opened without it.
    fn load_index(&self) -> Result<Option<Box<dyn io::Read + '_>>, EngineError> {
        self.engine.load_index()
    }
}

impl StateEngine for Guarded {
    fn checkpoint(&self, into: &Path) -> io::Result<()> {
        let done = self.engine.checkpoint(into);
        if let Err(error) = &done
            && super::is_damage(error)
        {
            self.fence.raise(Wrong::Damaged(error.to_string()));
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStorage;
    use crate::storage::Storage as _;

    #[test]
    fn a_saved_index_comes_through() {
        let folder = tempfile::tempdir().expect("folder");
        let state = MemoryStorage::new(folder.path()).open_state().expect("state");
        let guarded = Guarded::over(state.clone(), Arc::new(Fence::default()));
        guarded.save_index(&mut |out| out.write_all(b"an index")).expect("save");
        for engine in [&guarded, &state] {
            let mut kept = Vec::new();
            let mut saved = engine.load_index().expect("load").expect("an index");
            saved.read_to_end(&mut kept).expect("read");
            assert_eq!(kept, b"an index");
        }
    }
}
