//! Snapshots as folders of files: made from a checkpoint, kept until the next one is there and nobody reads this one
//! any more, sent file by file.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use env::Clock;
use openraft::storage::{RaftSnapshotBuilder, Snapshot, SnapshotMeta};
use openraft::type_config::alias as of;
use parking_lot::Mutex;
use protos::peer::{self, snapshot_chunk::Part};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::consensus::{self, TypeConfig};
use crate::failpoints::hit;
use crate::integrity::is_damage;
use crate::state::Shared;
use crate::storage::{StateEngine, Storage};

pub(crate) type Meta = of::SnapshotMetaOf<TypeConfig>;
pub(crate) type Chunks = Streaming<peer::SnapshotChunk>;
pub(crate) type Snap = of::SnapshotOf<TypeConfig, Folder>;

/// The folder of one snapshot. One that was received and did not become the state, or that another took the place of,
/// is deleted with its last handle.
#[derive(Clone, Debug)]
pub(crate) struct Folder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    temporary: AtomicBool,
}

impl Folder {
    /// One that stays when it is not used any more.
    fn kept(path: PathBuf) -> Self {
        Self(Arc::new(Inner { path, temporary: AtomicBool::new(false) }))
    }

    /// A new, empty folder to receive a snapshot in.
    pub fn receive(storage: &dyn Storage, from: u64, index: u64) -> io::Result<Self> {
        let path = storage.snapshots().join(format!("{RECEIVING}{from:x}-{index}"));
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        Ok(Self(Arc::new(Inner { path, temporary: AtomicBool::new(true) })))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Notes that it is whole and is to become the state, whatever happens to this process: [`recover`] goes on from
    /// here. Returns where it is now.
    pub fn seal(&self, storage: &dyn Storage) -> io::Result<PathBuf> {
        fs::File::open(self.path())?.sync_all()?;
        let name = self.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let sealed = storage.snapshots().join(format!("{RECEIVED}{}", name.trim_start_matches(RECEIVING)));
        if sealed.exists() {
            fs::remove_dir_all(&sealed)?;
        }
        fs::rename(self.path(), &sealed)?;
        fs::File::open(storage.snapshots())?.sync_all()?;
        Ok(sealed)
    }

    /// Its files by name, with their sizes.
    pub fn files(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for file in fs::read_dir(self.path())? {
            let file = file?;
            let name = file
                .file_name()
                .into_string()
                .map_err(|name| consensus::damaged("a snapshot", format!("{name:?}")))?;
            files.push((name, file.metadata()?.len()));
        }
        files.sort();
        Ok(files)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if *self.temporary.get_mut() && self.path.exists() {
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

/// How long there is no other snapshot after one that took so long: under load there would be several in a second, each of
/// which has the engine write what it holds in memory.
fn pause(took: Duration) -> Duration {
    /// Snapshots may take this part of the time.
    const SHARE: u32 = 20;
    /// The log grows meanwhile.
    const LONGEST: Duration = Duration::from_secs(2);
    (took * SHARE).min(LONGEST)
}

const RECEIVING: &str = "receiving-";
const RECEIVED: &str = "received-";
const BUILDING: &str = "building-";
const COMPLETE: &str = "snapshot-";
const COPY: &str = "copy-";

/// The last complete snapshot. Whoever asks for it gets a handle: it stays whole although a newer one takes its place.
#[derive(Clone)]
pub(crate) struct Shelf {
    storage: Arc<dyn Storage>,
    current: Arc<Mutex<Option<Snap>>>,
    /// When the next one may be begun.
    rested: Arc<Mutex<Option<Instant>>>,
    clock: Clock,
}

impl Shelf {
    /// Finds the last complete snapshot, and removes older ones and what an interrupted process left half done.
    pub fn open(storage: Arc<dyn Storage>, clock: Clock) -> io::Result<Self> {
        let mut complete = Vec::new();
        for path in entries(&storage.snapshots())? {
            if is_named(&path, COMPLETE) {
                complete.push(path);
            } else if [RECEIVING, BUILDING, COPY].iter().any(|kind| is_named(&path, kind)) {
                fs::remove_dir_all(&path)?;
            }
        }
        complete.sort();
        let last = complete.pop();
        complete.iter().try_for_each(fs::remove_dir_all)?;
        let found = match last.map(|path| read(&*storage, path.clone()).map_err(|error| (path, error))) {
            // Another one is made when it is needed; the state is not made from it.
            Some(Err((path, error))) if is_damage(&error) => {
                tracing::warn!(%error, "a damaged snapshot is discarded");
                fs::remove_dir_all(&path)?;
                None
            }
            Some(Err((_, error))) => return Err(error),
            Some(Ok(found)) => Some(found),
            None => None,
        };
        Ok(Self { storage, current: Arc::new(Mutex::new(found)), rested: Arc::default(), clock })
    }

    /// The last complete snapshot, if there is one.
    pub fn current(&self) -> Option<Snap> {
        self.current.lock().as_ref().map(handle)
    }

    /// Waits until the next one may be made. Whatever is applied meanwhile is in it.
    async fn rest(&self) {
        let rested = *self.rested.lock();
        if let Some(rested) = rested {
            self.clock.sleep_until(rested).await;
        }
    }

    /// Makes a snapshot of what the engine holds, in place of the one before.
    pub fn build(&self, engine: &dyn StateEngine) -> io::Result<Snap> {
        let folder = self.storage.snapshots();
        fs::create_dir_all(&folder)?;
        let building = folder.join(format!("{BUILDING}{}", std::process::id()));
        if building.exists() {
            fs::remove_dir_all(&building)?;
        }
        hit("snapshotBeforeCheckpoint");
        let start = self.clock.monotonic();
        engine.checkpoint(&building)?;
        metrics::histogram!("etcd_debugging_snap_save_marshalling_duration_seconds")
            .record(self.clock.monotonic() - start);
        hit("snapshotAfterCheckpoint");
        let meta = read_meta(&*self.storage, &building)?;
        let index = meta.last_log_id.map_or(0, |id| id.index);
        // One of the same entry may still be read.
        let name = |number: u32| folder.join(format!("{COMPLETE}{index:020}-{number:04}"));
        let complete = (0..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0));
        fs::rename(&building, &complete)?;
        hit("snapshotAfterRename");
        let renamed = self.clock.monotonic();
        fs::File::open(&folder)?.sync_all()?;
        let done = self.clock.monotonic();
        metrics::histogram!("etcd_snap_fsync_duration_seconds").record(done - renamed);
        metrics::histogram!("etcd_debugging_snap_save_total_duration_seconds").record(done - start);
        *self.rested.lock() = Some(done + pause(done - start));
        let built = Snapshot { meta, snapshot: Folder::kept(complete) };
        let shared = handle(&built);
        self.replace(Some(built));
        Ok(shared)
    }

    /// There is no snapshot any more.
    pub fn clear(&self) {
        self.replace(None);
    }

    fn replace(&self, next: Option<Snap>) {
        let before = std::mem::replace(&mut *self.current.lock(), next);
        if let Some(before) = before {
            before.snapshot.0.temporary.store(true, Ordering::Relaxed);
        }
    }
}

fn handle(snap: &Snap) -> Snap {
    Snapshot { meta: snap.meta.clone(), snapshot: snap.snapshot.clone() }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
}

fn read(storage: &dyn Storage, path: PathBuf) -> io::Result<Snap> {
    let meta = read_meta(storage, &path)?;
    Ok(Snapshot { meta, snapshot: Folder::kept(path) })
}

/// What a checkpoint covers, from the checkpoint itself: the state may have moved on since it was asked for.
fn read_meta(storage: &dyn Storage, folder: &Path) -> io::Result<Meta> {
    let engine = storage.open_checkpoint(folder)?;
    let (index, term, caller) = mvcc::peek(&*engine).map_err(io::Error::other)?;
    let last_membership = consensus::decode_beside(caller)?.membership;
    let last_log_id = (term > 0 || index > 0).then(|| consensus::log_id(term, index));
    Ok(SnapshotMeta { last_log_id, last_membership })
}

/// Makes a snapshot beside the writes that go on.
pub(crate) struct Builder {
    pub shelf: Shelf,
    pub engine: Arc<dyn StateEngine>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Folder;

    async fn build_snapshot(&mut self) -> io::Result<Snap> {
        let (shelf, engine) = (self.shelf.clone(), self.engine.clone());
        shelf.rest().await;
        let built = tokio::task::spawn_blocking(move || shelf.build(&*engine)).await;
        built.map_err(io::Error::other)?
    }
}

/// The head of a snapshot that another member sends.
pub(crate) async fn head_of(chunks: &mut Chunks) -> Result<peer::SnapshotHead, Status> {
    match chunks.message().await? {
        Some(peer::SnapshotChunk { part: Some(Part::Head(head)) }) => Ok(head),
        _ => Err(Status::invalid_argument("a snapshot begins with its head")),
    }
}

/// Writes what another member sends into a new folder, and checks it against the sums in the head. `synced` is told how long
/// each file took to be durable.
pub(crate) async fn receive(
    storage: &dyn Storage,
    head: peer::SnapshotHead,
    mut chunks: Chunks,
    (clock, synced): (&Clock, &(dyn Fn(Duration) + Sync)),
) -> Result<(Folder, peer::SnapshotHead), Status> {
    let failed = |error: io::Error| Status::internal(format!("cannot receive a snapshot: {error}"));
    let from = head.vote.as_ref().map_or(0, |vote| vote.node);
    let index = head.last.as_ref().map_or(0, |last| last.index);
    let folder = Folder::receive(storage, from, index).map_err(failed)?;
    let mut left: VecDeque<Bytes> = VecDeque::new();
    for file in &head.files {
        if file.name.contains(['/', '\\']) || file.name.starts_with('.') {
            return Err(Status::invalid_argument("a snapshot's file has a path"));
        }
        let mut out = tokio::fs::File::create(folder.path().join(&file.name)).await.map_err(failed)?;
        let (mut missing, mut sum) = (file.size, 0);
        while missing > 0 {
            let mut data = match left.pop_front() {
                Some(data) => data,
                None => next_data(&mut chunks).await?,
            };
            let take = usize::try_from(missing).unwrap_or(usize::MAX).min(data.len());
            let here = data.split_to(take);
            if !data.is_empty() {
                left.push_front(data);
            }
            sum = crc32c::crc32c_append(sum, &here);
            missing -= here.len() as u64;
            out.write_all(&here).await.map_err(failed)?;
        }
        if sum != file.crc32c {
            return Err(Status::data_loss(format!("{} was damaged on its way", file.name)));
        }
        let start = clock.monotonic();
        out.sync_all().await.map_err(failed)?;
        synced(clock.monotonic() - start);
    }
    Ok((folder, head))
}

async fn next_data(chunks: &mut Chunks) -> Result<Bytes, Status> {
    match chunks.message().await? {
        Some(peer::SnapshotChunk { part: Some(Part::Data(data)) }) => Ok(data),
        _ => Err(Status::invalid_argument("the snapshot ends early")),
    }
}

/// A copy of the state as it is now, gone with its last handle. Blocks.
pub(crate) fn copy(storage: &dyn Storage, shared: &Shared) -> io::Result<Snap> {
    let path = copy_folder(storage, shared.env.rng.u64())?;
    let engine = shared.engine.lock().clone();
    let folder = Folder(Arc::new(Inner { path, temporary: AtomicBool::new(true) }));
    engine.checkpoint(folder.path())?;
    Ok(Snapshot { meta: read_meta(storage, folder.path())?, snapshot: folder })
}

/// Makes a snapshot the state that was received whole before the process ended, if the state is older: nobody needs to
/// send it again.
pub(crate) fn recover(storage: &dyn Storage) -> io::Result<()> {
    let received = entries(&storage.snapshots())?.into_iter().filter(|path| is_named(path, RECEIVED));
    for path in received {
        if is_newer(storage, &path) {
            tracing::info!(folder = %path.display(), "Recovering from snapshot backend");
            drop(storage.replace_state(&path)?);
        } else {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// One that cannot be read, or a state that cannot, is left to those who deal with damage.
fn is_newer(storage: &dyn Storage, path: &Path) -> bool {
    let index =
        |engine: io::Result<Arc<dyn StateEngine>>| mvcc::peek(&*engine.ok()?).ok().map(|peeked| peeked.0);
    let (received, state) = (index(storage.open_checkpoint(path)), index(storage.open_state()));
    received.zip(state).is_some_and(|(received, state)| received > state)
}

/// Removes all snapshots, whole or not.
pub(crate) fn forget(storage: &dyn Storage) -> io::Result<()> {
    let kept = entries(&storage.snapshots())?.into_iter().filter(|path| !is_named(path, RECEIVING));
    kept.into_iter().try_for_each(fs::remove_dir_all)
}

/// Where a copy of the state may be made.
pub(crate) fn copy_folder(storage: &dyn Storage, number: u64) -> io::Result<PathBuf> {
    let folder = storage.snapshots();
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{COPY}{number:016x}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStorage;

    #[test]
    fn snapshots_take_a_small_part_of_the_time_and_come_nevertheless() {
        assert_eq!(pause(Duration::ZERO), Duration::ZERO);
        assert_eq!(pause(Duration::from_millis(10)), Duration::from_millis(200));
        assert_eq!(pause(Duration::from_secs(60)), Duration::from_secs(2));
    }

    #[tokio::test]
    async fn the_next_snapshot_waits_for_its_turn() {
        let folder = tempfile::tempdir().expect("folder");
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(folder.path()));
        let engine = storage.open_state().expect("state");
        let clock = Clock::default();
        let shelf = Shelf::open(storage, clock.clone()).expect("open");
        shelf.rest().await;
        shelf.build(&*engine).expect("build");
        let turn = shelf.rested.lock().expect("a turn");
        shelf.rest().await;
        assert!(clock.monotonic() >= turn);
    }

    #[test]
    fn a_snapshot_stays_whole_while_somebody_reads_it() {
        let folder = tempfile::tempdir().expect("folder");
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(folder.path()));
        let engine = storage.open_state().expect("state");
        let shelf = Shelf::open(storage.clone(), Clock::default()).expect("open");
        assert!(shelf.current().is_none());
        shelf.build(&*engine).expect("build");
        let read = shelf.current().expect("a snapshot");
        shelf.build(&*engine).expect("build");
        assert!(!read.snapshot.files().expect("still there").is_empty());
        let path = read.snapshot.path().to_owned();
        drop(read);
        assert!(!path.exists(), "nobody reads it any more");
        let last = shelf.current().expect("a snapshot").snapshot.path().to_owned();
        fs::create_dir(folder.path().join("building-1")).expect("left half done");
        drop(shelf);
        let shelf = Shelf::open(storage, Clock::default()).expect("open again");
        assert_eq!(shelf.current().expect("kept").snapshot.path(), last);
        assert_eq!(entries(folder.path()).expect("entries"), [last]);
        shelf.clear();
        assert!(entries(folder.path()).expect("entries").is_empty());
    }

    fn at(index: u64) -> (tempfile::TempDir, Arc<dyn Storage>) {
        let folder = tempfile::tempdir().expect("folder");
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(folder.path()));
        let mut mvcc = mvcc::Mvcc::open(storage.open_state().expect("state")).expect("open");
        mvcc.skip(index, 1);
        mvcc.commit(None).expect("commit");
        (folder, storage)
    }

    #[test]
    fn a_snapshot_that_was_received_whole_becomes_the_state_after_a_crash_if_the_state_is_older() {
        let applied =
            |storage: &Arc<dyn Storage>| mvcc::peek(&*storage.open_state().expect("state")).expect("peek").0;
        for (here, sent, then) in [(3, 7, 7), (7, 3, 7)] {
            let ((folder, storage), (_other, source)) = (at(here), at(sent));
            let received = Folder::receive(&*storage, 1, sent).expect("a folder");
            source.open_state().expect("state").checkpoint(received.path()).expect("checkpoint");
            let half = Folder::receive(&*storage, 1, 9).expect("a folder");
            let sealed = received.seal(&*storage).expect("seal");
            drop(received);
            assert!(sealed.exists(), "it stays when its handle goes");
            // The handles of a process that is killed are not dropped.
            std::mem::forget(half);
            recover(&*storage).expect("recover");
            Shelf::open(storage.clone(), Clock::default()).expect("open");
            assert_eq!(applied(&storage), then);
            recover(&*storage).expect("recover");
            assert_eq!((applied(&storage), entries(folder.path()).expect("entries")), (then, Vec::new()));
        }
    }
}
