//! `trierarch snapshot`: what `etcdctl` and `etcdutl` do, with the same words.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use etcd_api::files::{Loaded, Restore};
use etcd_files::{Database, FileError};

use super::connect::ConnectFlags;
use super::folder::NewMember;
use super::print::{self, WriteOut};

/// Snapshots
#[derive(Subcommand)]
pub enum SnapshotCommand {
    /// Save a snapshot of a running member
    Save {
        /// The file to make
        file: PathBuf,
        #[command(flatten)]
        connect: ConnectFlags,
    },
    /// Say what a snapshot holds
    Status {
        /// The snapshot
        file: PathBuf,
        /// How the answer looks
        #[arg(short, long, value_enum, default_value_t)]
        write_out: WriteOut,
    },
    /// Make a data folder of a snapshot: the beginning of a new cluster with the same keys
    Restore {
        /// The snapshot
        file: PathBuf,
        #[command(flatten)]
        member: NewMember,
        #[command(flatten)]
        how: RestoreFlags,
    },
}

/// How a snapshot is restored.
#[derive(Args, Clone, Debug, Default)]
pub struct RestoreFlags {
    /// Raise the revision by so much, so that it is never smaller than one that clients have seen
    #[arg(long, default_value_t = 0, requires = "mark_compacted")]
    pub bump_revision: u64,
    /// Mark everything up to the raised revision as compacted, so that clients read anew
    #[arg(long, requires = "bump_revision")]
    pub mark_compacted: bool,
    /// Take a file without a checksum, as one copied out of a data folder
    #[arg(long)]
    pub skip_hash_check: bool,
}

/// Runs it.
pub async fn snapshot(command: SnapshotCommand) -> Result<()> {
    match command {
        SnapshotCommand::Save { file, connect } => {
            let connection = connect.options().connect().await?;
            let version = ::backup::save_snapshot(&connection, &file).await?;
            println!("Snapshot saved at {}", file.display());
            if !version.is_empty() {
                println!("Server version {version}");
            }
            Ok(())
        }
        SnapshotCommand::Status { file, write_out } => {
            let opened = File::open(&file).with_context(|| format!("cannot read {file:?}"))?;
            println!("{}", print::status(&etcd_files::status(&opened)?, write_out));
            Ok(())
        }
        SnapshotCommand::Restore { file, member, how } => {
            let data_dir = restore(&file, &member, &how)?;
            println!("Snapshot restored to {}", data_dir.display());
            Ok(())
        }
    }
}

/// Makes a data folder of a snapshot.
pub fn restore(path: &Path, member: &NewMember, how: &RestoreFlags) -> Result<PathBuf> {
    let bump_revision = i64::try_from(how.bump_revision).context("--bump-revision is too large")?;
    if how.mark_compacted && bump_revision == 0 {
        bail!("--mark-compacted required if --revision-bump");
    }
    let file = File::open(path).with_context(|| format!("cannot read {path:?}"))?;
    etcd_files::check_trailer(&file, how.skip_hash_check)?;
    let database = Database::open(file).map_err(FileError::from)?;
    let (seed, attributes) = member.seed()?;
    let how = Restore { bump_revision, mark_compacted: how.mark_compacted };
    member.write(&seed, |loader| {
        let loaded = Loaded::versions(&database, loader)?.restored(how);
        Ok(loaded.contents(&database, attributes)?)
    })
}
