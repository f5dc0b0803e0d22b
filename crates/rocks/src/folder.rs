//! The data folder: what lies where, and who may use it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use store::storage::{LogEngine, StateEngine, Storage};

use crate::state::RocksState;
use wal::Wal;

/// Why a data folder cannot be used. Each is one line for the command line.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("the data folder {0} is in use by another process")]
    InUse(PathBuf),
    /// The operating system refuses it.
    #[error("cannot use the data folder {path}: {cause}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// A data folder that this process has to itself.
pub struct DataFolder {
    path: PathBuf,
    /// Where the log is.
    log: PathBuf,
    /// Held for as long as the folder is used; the system releases it when the process dies.
    _lock: File,
}

impl DataFolder {
    /// Takes a folder, making it if need be.
    ///
    /// # Errors
    /// When it is in use or cannot be made.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = path.into();
        let failed = |cause| OpenError::Io { path: path.clone(), cause };
        fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::create(path.join("LOCK")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path)),
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        Ok(Self { log: path.join("wal"), path, _lock: lock })
    }

    /// Keeps the log in a folder of its own, on another disk for instance. It belongs to this data folder alone, and the
    /// one is of no use without the other.
    pub fn with_log_at(mut self, log: impl Into<PathBuf>) -> Self {
        self.log = log.into();
        self
    }

    fn states(&self) -> PathBuf {
        self.path.join("state")
    }

    /// The number of the current state; the first is 1.
    fn current(&self) -> io::Result<u64> {
        match fs::read_to_string(self.path.join("STATE")) {
            Ok(text) => text.trim().parse().map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is damaged", self.path.join("STATE").display()),
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(1),
            Err(error) => Err(error),
        }
    }

    /// The largest number that a state has or is to have.
    fn last_state(&self) -> io::Result<u64> {
        let mut last = self.current().unwrap_or(1);
        for entry in fs::read_dir(self.states())? {
            let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            last = last.max(number.unwrap_or(0));
        }
        Ok(last)
    }

    fn set_current(&self, number: u64) -> io::Result<()> {
        let new = self.path.join("STATE.new");
        let mut file = File::create(&new)?;
        writeln!(file, "{number}")?;
        file.sync_all()?;
        fs::rename(&new, self.path.join("STATE"))?;
        File::open(&self.path)?.sync_all()
    }

    fn state_folder(&self, number: u64) -> PathBuf {
        self.states().join(number.to_string())
    }

    /// Removes states that were replaced.
    fn remove_old_states(&self, current: u64) -> io::Result<()> {
        for entry in fs::read_dir(self.states())? {
            let path = entry?.path();
            if path != self.state_folder(current) {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }
}

impl Storage for DataFolder {
    fn open_log(&self) -> io::Result<Arc<dyn LogEngine>> {
        Ok(Arc::new(Wal::open(&self.log)?))
    }

    fn open_state(&self) -> io::Result<Arc<dyn StateEngine>> {
        let current = self.current()?;
        fs::create_dir_all(self.state_folder(current))?;
        self.remove_old_states(current)?;
        Ok(Arc::new(RocksState::open(&self.state_folder(current))?))
    }

    fn open_checkpoint(&self, folder: &Path) -> io::Result<Arc<dyn StateEngine>> {
        Ok(Arc::new(RocksState::open_read_only(folder)?))
    }

    fn replace_state(&self, checkpoint: &Path) -> io::Result<Arc<dyn StateEngine>> {
        fs::create_dir_all(self.states())?;
        // Whatever was there may be damaged, this note of it too.
        let next = self.last_state()? + 1;
        let folder = self.state_folder(next);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::rename(checkpoint, &folder)?;
        File::open(self.states())?.sync_all()?;
        let state = RocksState::open(&folder)?;
        self.set_current(next)?;
        Ok(Arc::new(state))
    }

    fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}
