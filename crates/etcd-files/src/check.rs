//! A snapshot as a file: its checksum, and what there is to say of it.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message as _;
use protos::etcd::mvccpb;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::schema::{Database, SchemaError, VersionKey};

/// Bytes of the checksum behind a snapshot.
const SUM: u64 = 32;
/// Files of bbolt's are a multiple of this, and with a checksum behind them are not.
const SECTOR: u64 = 512;
/// Bytes that are summed at a time.
const BUFFER: usize = 1 << 20;

/// Why a snapshot is refused. The texts are etcd's where it has one.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the snapshot: {0}")]
    Io(#[from] io::Error),
    /// It has no checksum, as a file that was copied out of a data folder.
    #[error("snapshot missing hash but --skip-hash-check=false")]
    NoSum,
    /// It was changed on its way.
    #[error("expected sha256 {expected:?}, got {got:?}")]
    Sum {
        /// What the file says.
        expected: Vec<u8>,
        /// What it is.
        got: Vec<u8>,
    },
    /// It is damaged or no database.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// What [`check_trailer`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// There is a checksum, and it is right.
    Right,
    /// Nobody looked.
    Skipped,
}

/// Whether a file of that size has a checksum behind it.
pub fn has_trailer(size: u64) -> bool {
    size % SECTOR == SUM
}

/// Compares a snapshot with the checksum behind it.
///
/// # Errors
/// When it has none or another, or cannot be read.
pub fn check_trailer(mut file: &File, skip: bool) -> Result<Checked, FileError> {
    let size = file.metadata()?.len();
    if skip {
        return Ok(Checked::Skipped);
    }
    if !has_trailer(size) {
        return Err(FileError::NoSum);
    }
    file.seek(SeekFrom::Start(0))?;
    let (mut hash, mut left, mut buffer) = (Sha256::new(), size - SUM, vec![0; BUFFER]);
    while left > 0 {
        let part = buffer.len().min(usize::try_from(left).unwrap_or(BUFFER));
        file.read_exact(&mut buffer[..part])?;
        hash.update(&buffer[..part]);
        left -= part as u64;
    }
    let mut expected = vec![0; SUM as usize];
    file.read_exact(&mut expected)?;
    let got = hash.finalize().to_vec();
    if expected == got { Ok(Checked::Right) } else { Err(FileError::Sum { expected, got }) }
}

/// What `etcdutl snapshot status` says of a snapshot, by its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileStatus {
    /// CRC-32C of the names of buckets, keys and values.
    pub hash: u32,
    /// The last revision.
    pub revision: i64,
    /// Keys that were not deleted.
    pub total_key: u64,
    /// Bytes of the file.
    pub total_size: u64,
    /// The version of its format; empty before 3.6.
    pub version: String,
}

/// Reads all of a snapshot. Beside what is read, 16 bytes a key are kept in memory: keys are told apart by a hash of 64
/// bits.
///
/// # Errors
/// When it is damaged or cannot be read.
pub fn status(file: &File) -> Result<FileStatus, FileError> {
    let database = Database::open(file.try_clone()?)?;
    let (mut hash, mut revision, mut keys) = (0, 0, HashSet::new());
    for bucket in database.file().buckets().map_err(SchemaError::from)? {
        hash = crc32c::crc32c_append(hash, &bucket);
        let mut fault = None;
        let mut visit = |key: &[u8], value: &[u8]| {
            hash = crc32c::crc32c_append(hash, key);
            hash = crc32c::crc32c_append(hash, value);
            if bucket != b"key" {
                return ControlFlow::Continue(());
            }
            match note(key, value, &mut keys) {
                Ok(main) => revision = main,
                Err(what) => fault = Some((key.escape_ascii().to_string(), what)),
            }
            if fault.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        database.file().visit(&bucket, &mut visit).map_err(SchemaError::from)?;
        if let Some((key, what)) = fault {
            return Err(SchemaError::Value { bucket: "key".into(), key, what }.into());
        }
    }
    let version = database.meta()?.storage_version.unwrap_or_default();
    let total_size = database.file().size();
    Ok(FileStatus { hash, revision, total_key: keys.len() as u64, total_size, version })
}

fn note(key: &[u8], value: &[u8], keys: &mut HashSet<u64>) -> Result<i64, String> {
    let at = VersionKey::decode(key).ok_or("it is no revision")?;
    let kv = mvccpb::KeyValue::decode(Bytes::copy_from_slice(value)).map_err(|error| error.to_string())?;
    let mut hasher = DefaultHasher::new();
    kv.key.hash(&mut hasher);
    match at.tombstone {
        true => keys.remove(&hasher.finish()),
        false => keys.insert(hasher.finish()),
    };
    Ok(at.main)
}
