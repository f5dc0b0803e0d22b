//! A data folder that etcd left is taken over where it lies: what is new is written beside, takes its place when it is
//! durable, and etcd's own files stay under another name.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use env::failpoints::hit;
use etcd_api::files::Takeover;
use store::hex;

use super::folder::{build, remove_if_there, sync_folder};

/// Where the new files are written first, in the data folder and in the log's.
const BUILDING: &str = "takeover.tmp";
/// What etcd's folder is called afterwards, and in a folder of its own for the log what its files are put into.
const KEPT: &str = "member.etcd";
/// What a data folder of ours holds beside the log, each with the failpoint before it comes to its place.
const PARTS: [(&str, &str); 3] = [
    ("state", "takeoverBeforeState"),
    ("STATE", "takeoverBeforeStateNumber"),
    ("snapshots", "takeoverBeforeSnapshots"),
];
/// Where the process may end while it takes a folder over, in order. The folder is ours behind `takeoverBeforeKeep`.
pub const FAILPOINTS: &[&str] = &[
    "takeoverBeforeBuild",
    "takeoverBeforeState",
    "takeoverBeforeStateNumber",
    "takeoverBeforeSnapshots",
    "takeoverBeforeLog",
    "takeoverBeforeKeep",
    "takeoverAfterKeep",
];

/// Takes over a data folder that etcd, or `etcdutl snapshot restore`, has written; others are left alone. `wal_dir` is
/// where etcd kept its log, and ours is to be.
///
/// One rename settles it: as long as `member` has its name the folder is etcd's, which can go on with it, and an attempt
/// that was interrupted is begun again.
pub fn take_over(data_dir: &Path, wal_dir: Option<&Path>) -> Result<()> {
    if !data_dir.join("member/snap/db").exists() {
        return finish(data_dir, wal_dir);
    }
    if wal_dir.is_none() && data_dir.join("wal").exists() {
        // Somebody has put it back: what was written since is in our log.
        return keep(data_dir);
    }
    if wal_dir.is_some_and(|wal_dir| wal_dir.starts_with(data_dir.join("member"))) {
        bail!("--wal-dir lies in {:?}, which is put aside: start once without it", data_dir.join("member"));
    }
    let _lock = lock(data_dir)?;
    let inside = data_dir.join("member/wal");
    let takeover = Takeover::read(data_dir, wal_dir.unwrap_or(&inside))?;
    let seed = &takeover.seed;
    let (building, log) = (data_dir.join(BUILDING), wal_dir.map(|wal_dir| wal_dir.join(BUILDING)));
    hit("takeoverBeforeBuild");
    remove_if_there(&building)?;
    log.as_deref().map_or(Ok(()), remove_if_there)?;
    build(&building, seed, log.as_deref(), |loader| Ok(takeover.fill(loader)?))?;
    move_in(data_dir)?;
    hit("takeoverBeforeLog");
    wal_dir.map_or(Ok(()), move_log)?;
    hit("takeoverBeforeKeep");
    keep(data_dir)?;
    hit("takeoverAfterKeep");
    finish(data_dir, wal_dir)?;
    let last = seed.committed.last().map_or(seed.applied.0, |entry| entry.index);
    tracing::info!(
        cluster = %seed.cluster,
        member = hex(seed.member),
        members = seed.members.len(),
        applied_index = last,
        replayed_entries = seed.committed.len(),
        kept = %data_dir.join(KEPT).display(),
        "took over etcd's data folder"
    );
    Ok(())
}

/// Where the log is until the folder is ours.
pub fn log_to_be(data_dir: &Path) -> PathBuf {
    data_dir.join(BUILDING).join("wal")
}

/// Brings all but the log to its place. What is there already is left over from an attempt that was interrupted.
fn move_in(data_dir: &Path) -> Result<()> {
    for (part, point) in PARTS {
        hit(point);
        let (from, to) = (data_dir.join(BUILDING).join(part), data_dir.join(part));
        match to.is_dir() {
            true => remove_if_there(&to)?,
            false => drop(fs::remove_file(&to)),
        }
        if from.exists() {
            rename(&from, &to)?;
        }
    }
    sync_folder(Some(data_dir))
}

/// What is left to do when the folder is ours.
fn finish(data_dir: &Path, wal_dir: Option<&Path>) -> Result<()> {
    if !data_dir.join(KEPT).exists() {
        return Ok(());
    }
    let log = log_to_be(data_dir);
    match wal_dir {
        Some(wal_dir) => keep_log(wal_dir)?,
        None if log.exists() => {
            rename(&log, &data_dir.join("wal"))?;
            sync_folder(Some(data_dir))?;
        }
        None => {}
    }
    remove_if_there(&data_dir.join(BUILDING))
}

/// Puts our log beside etcd's, whose files have names of another form.
fn move_log(wal_dir: &Path) -> Result<()> {
    for path in files(wal_dir)?.into_iter().filter(|path| !is_of_etcd(path)) {
        fs::remove_file(&path).with_context(|| format!("cannot remove {path:?}"))?;
    }
    let building = wal_dir.join(BUILDING);
    for from in files(&building)? {
        rename(&from, &wal_dir.join(from.file_name().unwrap_or_default()))?;
    }
    remove_if_there(&building)?;
    sync_folder(Some(wal_dir))
}

/// Puts etcd's log aside.
fn keep_log(wal_dir: &Path) -> Result<()> {
    let theirs: Vec<PathBuf> = files(wal_dir)?.into_iter().filter(|path| is_of_etcd(path)).collect();
    if theirs.is_empty() {
        return Ok(());
    }
    let kept = wal_dir.join(KEPT);
    fs::create_dir_all(&kept).with_context(|| format!("cannot make {kept:?}"))?;
    for from in theirs {
        rename(&from, &kept.join(from.file_name().unwrap_or_default()))?;
    }
    sync_folder(Some(&kept))?;
    sync_folder(Some(wal_dir))
}

/// `<number>-<index>.wal`, and the files that etcd makes in advance (`<number>.tmp`) or gives up (`….wal.broken`).
fn is_of_etcd(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.split_once('.') {
        Some((stem, "wal" | "wal.broken")) => stem.contains('-'),
        Some((_, ending)) => ending == "tmp",
        None => false,
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("cannot read {folder:?}");
    let paths = fs::read_dir(folder).with_context(failed)?.map(|entry| entry.map(|entry| entry.path()));
    let paths = paths.collect::<io::Result<Vec<PathBuf>>>().with_context(failed)?;
    Ok(paths.into_iter().filter(|path| path.is_file()).collect())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot make {to:?}"))
}

/// Takes the lock that etcd holds while it runs.
pub fn lock(data_dir: &Path) -> Result<File> {
    let database = data_dir.join("member/snap/db");
    let file = File::open(&database).with_context(|| format!("cannot read {database:?}"))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            bail!("etcd still runs on the data folder {data_dir:?}: stop it first")
        }
        // A file system without locks: etcd could not have taken it either.
        _ => Ok(file),
    }
}

/// Puts etcd's files aside.
fn keep(data_dir: &Path) -> Result<()> {
    let mut kept = data_dir.join(KEPT);
    let mut number = 1;
    while kept.exists() {
        kept = data_dir.join(format!("{KEPT}.{number}"));
        number += 1;
    }
    rename(&data_dir.join("member"), &kept)?;
    sync_folder(Some(data_dir))
}
