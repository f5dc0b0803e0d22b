//! Snapshots as folders of files: made from a checkpoint, kept until the next one, sent file by file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{RaftSnapshotBuilder, Snapshot, SnapshotMeta};
use openraft::type_config::alias as of;

use crate::consensus::{self, TypeConfig};
use crate::storage::{StateEngine, Storage};

pub(crate) type Meta = of::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snap = of::SnapshotOf<TypeConfig, Folder>;

/// The folder of one snapshot. A received one is deleted with its last handle, unless it became the state.
#[derive(Clone, Debug)]
pub(crate) struct Folder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    /// A new, empty folder to receive a snapshot in.
    pub fn receive(storage: &dyn Storage, from: u64, index: u64) -> io::Result<Self> {
        let path = storage.snapshots().join(format!("{RECEIVING}{from:x}-{index}"));
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        Ok(Self(Arc::new(Inner { path, temporary: true })))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
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
        if self.temporary && self.path.exists() {
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

const RECEIVING: &str = "receiving-";
const BUILDING: &str = "building-";
const COMPLETE: &str = "snapshot-";

/// Makes a snapshot beside the writes that go on.
pub(crate) struct Builder {
    pub storage: Arc<dyn Storage>,
    pub engine: Arc<dyn StateEngine>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Folder;

    async fn build_snapshot(&mut self) -> io::Result<Snap> {
        let (storage, engine) = (self.storage.clone(), self.engine.clone());
        let built = tokio::task::spawn_blocking(move || build(&*storage, &*engine)).await;
        built.map_err(io::Error::other)?
    }
}

/// Makes a snapshot of what the engine holds, in place of the one before.
pub(crate) fn build(storage: &dyn Storage, engine: &dyn StateEngine) -> io::Result<Snap> {
    let folder = storage.snapshots();
    fs::create_dir_all(&folder)?;
    let building = folder.join(format!("{BUILDING}{}", std::process::id()));
    if building.exists() {
        fs::remove_dir_all(&building)?;
    }
    engine.checkpoint(&building)?;
    let meta = read_meta(storage, &building)?;
    let index = meta.last_log_id.map_or(0, |id| id.index);
    let complete = folder.join(format!("{COMPLETE}{index:020}"));
    if complete.exists() {
        fs::remove_dir_all(&building)?;
    } else {
        fs::rename(&building, &complete)?;
    }
    fs::File::open(&folder)?.sync_all()?;
    remove_others(&folder, &complete)?;
    Ok(Snapshot { meta, snapshot: Folder(Arc::new(Inner { path: complete, temporary: false })) })
}

/// What a checkpoint covers, from the checkpoint itself: the state may have moved on since it was asked for.
fn read_meta(storage: &dyn Storage, folder: &Path) -> io::Result<Meta> {
    let engine = storage.open_checkpoint(folder)?;
    let (index, term, caller) = mvcc::peek(&*engine).map_err(io::Error::other)?;
    let last_membership = consensus::decode_beside(caller)?.membership;
    let last_log_id = (term > 0 || index > 0).then(|| consensus::log_id(term, index));
    Ok(SnapshotMeta { last_log_id, last_membership })
}

/// Removes every complete snapshot.
pub(crate) fn remove_all(storage: &dyn Storage) -> io::Result<()> {
    let folder = storage.snapshots();
    if folder.exists() { remove_others(&folder, &folder) } else { Ok(()) }
}

fn remove_others(folder: &Path, keep: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path != keep && (name.starts_with(COMPLETE) || name.starts_with(BUILDING)) {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// The last complete snapshot, if there is one.
pub(crate) fn current(storage: &dyn Storage) -> io::Result<Option<Snap>> {
    let folder = storage.snapshots();
    if !folder.exists() {
        return Ok(None);
    }
    let mut complete = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(COMPLETE)) {
            complete.push(path);
        }
    }
    let Some(path) = complete.into_iter().max() else { return Ok(None) };
    let meta = read_meta(storage, &path)?;
    Ok(Some(Snapshot { meta, snapshot: Folder(Arc::new(Inner { path, temporary: false })) }))
}

/// Removes what an interrupted process left half done.
pub(crate) fn clean(storage: &dyn Storage) -> io::Result<()> {
    let folder = storage.snapshots();
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(RECEIVING) || name.starts_with(BUILDING) {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}
