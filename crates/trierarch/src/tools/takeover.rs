//! A data folder that etcd left is taken over where it lies: what is new is written beside, takes its place when it is
//! durable, and etcd's own files stay under another name.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use etcd_api::files::Takeover;

use super::folder::{build, remove_if_there, sync_folder};

/// Where the new files are written first.
const BUILDING: &str = "takeover.tmp";
/// What etcd's folder is called afterwards.
const KEPT: &str = "member.etcd";
/// What a data folder of ours holds, the log last: where it is, the folder is ours.
const PARTS: [&str; 4] = ["state", "STATE", "snapshots", "wal"];

/// Takes over a data folder that etcd, or `etcdutl snapshot restore`, has written; others are left alone.
pub fn take_over(data_dir: &Path, log_elsewhere: bool) -> Result<()> {
    let database = data_dir.join("member/snap/db");
    if !database.exists() {
        return Ok(());
    }
    if data_dir.join("wal").exists() {
        // Interrupted between the last two renames.
        return keep(data_dir);
    }
    if log_elsewhere {
        bail!(
            "the data folder {data_dir:?} is etcd's and --wal-dir is given: move the log to member/wal and start once \
             without --wal-dir"
        );
    }
    let _lock = lock(data_dir)?;
    let takeover = Takeover::read(data_dir, &data_dir.join("member/wal"))?;
    let building = data_dir.join(BUILDING);
    remove_if_there(&building)?;
    build(&building, &takeover.seed, None, |loader| Ok(takeover.fill(loader)?))?;
    for part in PARTS {
        let (from, to) = (building.join(part), data_dir.join(part));
        // Left over from an interrupted attempt, without a log.
        match to.is_dir() {
            true => remove_if_there(&to)?,
            false => drop(fs::remove_file(&to)),
        }
        if from.exists() {
            sync_folder(Some(data_dir))?;
            fs::rename(&from, &to).with_context(|| format!("cannot make {to:?}"))?;
        }
    }
    sync_folder(Some(data_dir))?;
    remove_if_there(&building)?;
    keep(data_dir)?;
    let seed = &takeover.seed;
    let last = seed.committed.last().map_or(seed.applied.0, |entry| entry.index);
    tracing::info!(
        cluster = %seed.cluster,
        member = format!("{:x}", seed.member),
        members = seed.members.len(),
        applied_index = last,
        replayed_entries = seed.committed.len(),
        kept = %data_dir.join(KEPT).display(),
        "took over etcd's data folder"
    );
    Ok(())
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
    fs::rename(data_dir.join("member"), &kept).with_context(|| format!("cannot make {kept:?}"))?;
    sync_folder(Some(data_dir))
}
