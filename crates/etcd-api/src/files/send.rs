//! Sends a snapshot: the file is written from a copy of the state, so that writes go on meanwhile, to a place on the disk
//! that has no name and goes with the process; then it is sent.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use protos::etcd::etcdserverpb as pb;
use sha2::{Digest as _, Sha256};
use store::{Member, StateCopy};
use tokio::sync::mpsc;
use tonic::Status;

use super::{STORAGE_VERSION, write_snapshot};

/// Bytes that are sent at a time, as in etcd.
const BLOB: usize = 32 << 10;
/// Bytes that are written to the disk at a time.
const BUFFER: usize = 1 << 20;
/// Messages that wait for a slow client.
pub(crate) const QUEUE: usize = 16;

type Out = mpsc::Sender<Result<pb::SnapshotResponse, Status>>;

/// Writes a snapshot into `scratch` and sends it. Blocks.
pub(crate) fn send(copy: &StateCopy, members: &[Member], scratch: &Path, out: &Out) {
    let sent = write(copy, members, scratch).and_then(|(file, size)| send_file(file, size, out));
    if let Err(error) = sent {
        // Nobody is told if the client has gone.
        drop(out.blocking_send(Err(Status::internal(format!("cannot make a snapshot: {error}")))));
    }
}

/// The file, from its beginning, and its size.
fn write(copy: &StateCopy, members: &[Member], scratch: &Path) -> io::Result<(File, u64)> {
    /// Several may be made at a time.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = scratch.join(format!("snapshot-{:x}-{number:x}.tmp", std::process::id()));
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    fs::remove_file(&path)?;
    let out = BufWriter::with_capacity(BUFFER, file.try_clone()?);
    let size = write_snapshot(copy.engine(), members, out)?;
    file.seek(SeekFrom::Start(0))?;
    Ok((file, size))
}

fn send_file(file: File, size: u64, out: &Out) -> io::Result<()> {
    let mut file = BufReader::with_capacity(BUFFER, file);
    let (mut hash, mut left) = (Sha256::new(), size);
    let say = |remaining_bytes, blob: Vec<u8>| {
        let version = STORAGE_VERSION.to_owned();
        let response =
            pb::SnapshotResponse { remaining_bytes, blob: blob.into(), version, ..Default::default() };
        out.blocking_send(Ok(response)).map_err(|_| io::Error::other("the client has gone"))
    };
    while left > 0 {
        let mut blob = vec![0; BLOB.min(usize::try_from(left).unwrap_or(BLOB))];
        file.read_exact(&mut blob)?;
        hash.update(&blob);
        left -= blob.len() as u64;
        say(left, blob)?;
    }
    say(0, hash.finalize().to_vec())
}
