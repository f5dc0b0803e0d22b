//! `trierarch import` and `trierarch export`: moving in and moving out, one command each way.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use env::Env;
use etcd_api::files::{Takeover, write_snapshot};
use mvcc::Command;
use rocks::DataFolder;
use sha2::{Digest as _, Sha256};
use store::Stopped;
use store::storage::Storage;

use super::connect::ConnectFlags;
use super::folder::{NewMember, sync_folder};
use super::follow::{self, FollowFlags};
use super::snapshot::{RestoreFlags, restore};
use super::takeover;

/// Bytes that are handled at a time.
const BUFFER: usize = 1 << 20;

/// Make a data folder of what etcd holds
#[derive(Args)]
pub struct ImportOptions {
    /// A snapshot, or the data folder of an etcd that was stopped; without it a running etcd is read, at --endpoints
    source: Option<PathBuf>,
    /// Where the log of that folder lies, if its etcd had --wal-dir
    #[arg(long, requires = "source")]
    source_wal_dir: Option<PathBuf>,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    member: NewMember,
    #[command(flatten)]
    how: RestoreFlags,
    #[command(flatten)]
    follow: FollowFlags,
}

/// Make an etcd snapshot of what Trierarch holds
#[derive(Args)]
pub struct ExportOptions {
    /// The file to make
    file: PathBuf,
    /// The data folder of a member that was stopped; without it a running member is read, at --endpoints
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Where the log of that folder lies, if its member had --wal-dir
    #[arg(long, requires = "data_dir")]
    wal_dir: Option<PathBuf>,
    #[command(flatten)]
    connect: ConnectFlags,
}

/// Runs `import`.
pub async fn import(env: Env, options: ImportOptions) -> Result<()> {
    let ImportOptions { source, source_wal_dir, connect, member, how, follow } = options;
    let data_dir = match source {
        None if follow.is_wanted() => follow::import(env, &connect, member, follow).await?,
        Some(source) if source.is_dir() => import_folder(&source, source_wal_dir, &member)?,
        Some(source) => restore(&source, &member, &how)?,
        None => import_live(&connect, &member, &how).await?,
    };
    println!("Imported to {}", data_dir.display());
    Ok(())
}

/// A snapshot of a running store. What is written there afterwards is not in it.
async fn import_live(connect: &ConnectFlags, member: &NewMember, how: &RestoreFlags) -> Result<PathBuf> {
    let connection = connect.options().connect().await?;
    let copies = member.copies()?;
    let file = copies.path().join("snapshot.db");
    ::backup::save_snapshot(&connection, &file).await?;
    restore(&file, member, how)
}

/// The data folder of a stopped etcd, as the beginning of a new cluster: with the entries of its log that are committed.
fn import_folder(source: &Path, log: Option<PathBuf>, member: &NewMember) -> Result<PathBuf> {
    if !source.join("member/snap/db").exists() {
        bail!("{source:?} is no data folder of etcd's: it has no member/snap/db");
    }
    let _lock = takeover::lock(source)?;
    let takeover = Takeover::read(source, &log.unwrap_or_else(|| source.join("member/wal")))?;
    let (mut seed, attributes) = member.seed()?;
    seed.applied = takeover.seed.applied;
    seed.vote = (takeover.seed.vote.0, seed.member);
    seed.committed = takeover.seed.committed.clone();
    for entry in &mut seed.committed {
        // The members of before do not belong to the new cluster.
        if matches!(entry.command.as_ref().map(Command::plain), Some(Command::MemberAttributes(_))) {
            entry.command = None;
        }
    }
    member.write(&seed, |loader| {
        let mut contents = takeover.fill(loader)?;
        contents.members = attributes;
        Ok(contents)
    })
}

/// Runs `export`.
pub async fn export(env: Env, options: ExportOptions) -> Result<()> {
    let ExportOptions { file, data_dir, wal_dir, connect } = options;
    match data_dir {
        Some(data_dir) => export_folder(env, &data_dir, wal_dir, &file)?,
        None => {
            let connection = connect.options().connect().await?;
            ::backup::save_snapshot(&connection, &file).await?;
        }
    }
    println!("Exported to {}", file.display());
    Ok(())
}

/// Writes a stopped member's state as a snapshot; `wal_dir` is where its log lies, if not in the folder.
pub fn export_folder(env: Env, data_dir: &Path, wal_dir: Option<PathBuf>, path: &Path) -> Result<()> {
    let log = wal_dir.unwrap_or_else(|| data_dir.join("wal"));
    if !log.exists() || !data_dir.join("state").exists() {
        bail!("{data_dir:?} is no data folder of Trierarch's, or its log is not in {log:?}");
    }
    let storage: Arc<dyn Storage> = Arc::new(DataFolder::open(data_dir)?.with_log_at(log));
    let stopped = Stopped::open(&storage, env).with_context(|| format!("cannot read {data_dir:?}"))?;
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let written = write_part(&stopped, &part).with_context(|| format!("cannot write {part:?}"));
    if written.is_err() {
        drop(fs::remove_file(&part));
    }
    written?;
    fs::rename(&part, path).with_context(|| format!("cannot make {path:?}"))?;
    sync_folder(path.parent())
}

fn write_part(stopped: &Stopped, part: &Path) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(part)?;
    let mut left = write_snapshot(
        &stopped.engine,
        &stopped.members,
        BufWriter::with_capacity(BUFFER, file.try_clone()?),
    )?;
    file.seek(SeekFrom::Start(0))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
    while left > 0 {
        let size = buffer.len().min(usize::try_from(left).unwrap_or(BUFFER));
        file.read_exact(&mut buffer[..size])?;
        hash.update(&buffer[..size]);
        left -= size as u64;
    }
    file.write_all(&hash.finalize())?;
    file.sync_all()
}
