//! What can go wrong; each is one line for the command line.

use std::io;
use std::path::PathBuf;

/// Why a copy was not taken, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// No endpoint answers.
    #[error("cannot connect to {endpoint}: {why}")]
    Connect {
        /// The last endpoint that was tried.
        endpoint: String,
        /// Why not.
        why: String,
    },
    /// The store refused a request.
    #[error("{}", .0.message())]
    Refused(#[from] tonic::Status),
    /// A file of this machine.
    #[error("{path}: {cause}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What happened.
        cause: io::Error,
    },
    /// The storage that holds the backup.
    #[error("the backup's storage: {0}")]
    Storage(#[from] object_store::Error),
    /// It is not a place for backups.
    #[error("{0:?} is no place for a backup: {1}")]
    Place(String, String),
    /// Something in it was changed.
    #[error("{object} is damaged: {what}")]
    Damaged {
        /// Which object.
        object: String,
        /// What is wrong.
        what: String,
    },
    /// A snapshot is damaged.
    #[error(transparent)]
    Snapshot(#[from] etcd_files::FileError),
    /// What was asked for is not in it.
    #[error("{0}")]
    NotCovered(String),
    /// Whoever reads the history gave up.
    #[error("{0}")]
    Stopped(String),
}

impl BackupError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { path, cause }
    }

    pub(crate) fn damaged(object: &str, what: impl ToString) -> Self {
        Self::Damaged { object: object.to_owned(), what: what.to_string() }
    }
}
