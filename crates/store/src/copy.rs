//! Copies of the state for others: as it is at one moment, while writes go on.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::snapshot::copy_folder;
use crate::state::Shared;
use crate::storage::{StateEngine, Storage};

/// A copy of the state on disk, which shares its files; gone when it is dropped.
pub struct StateCopy {
    engine: Option<Arc<dyn StateEngine>>,
    folder: PathBuf,
}

impl StateCopy {
    /// Makes a copy. Blocks while what is in memory is written.
    pub(crate) fn make(storage: &dyn Storage, shared: &Shared) -> io::Result<Self> {
        let folder = copy_folder(storage, shared.env.rng.u64())?;
        let mut copy = Self { engine: None, folder };
        let engine = shared.engine.lock().clone();
        engine.checkpoint(&copy.folder)?;
        copy.engine = Some(storage.open_checkpoint(&copy.folder)?);
        Ok(copy)
    }

    /// What it holds.
    pub fn engine(&self) -> &Arc<dyn StateEngine> {
        self.engine.as_ref().expect("invariant: a copy that was made has its engine")
    }
}

impl Drop for StateCopy {
    fn drop(&mut self) {
        self.engine = None;
        // What is left over goes at the next start.
        drop(fs::remove_dir_all(&self.folder));
    }
}
