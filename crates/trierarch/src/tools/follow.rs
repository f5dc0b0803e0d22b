//! `trierarch import --follow`: a data folder that is kept level with a running store until the clients move.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use ::backup::{Followed, Follower};
use anyhow::Result;
use clap::Args;
use env::{Env, Shutdown, TaskGroup};
use etcd_api::files::{Loaded, stored_auth};
use etcd_files::{Database, FileError, Lease};
use mvcc::StoredLease;
use store::StateLoader;
use tokio::sync::mpsc;

use super::connect::ConnectFlags;
use super::folder::{NewMember, append};
use crate::{logging, signals};

/// Revisions that are read and not yet written.
const QUEUE: usize = 256;
/// How long what was read may take to be written when it is to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(600);
/// Seconds for a lease that keys are attached to and that is gone: it ended behind the last revision that was copied.
const GONE_TTL: i64 = 1;

/// Whether a running store is followed.
#[derive(Args, Clone, Debug)]
pub struct FollowFlags {
    /// Go on with what is written to the running store, until SIGINT or SIGTERM; then copy what there is, and end
    #[arg(long, conflicts_with_all = ["source", "bump_revision"])]
    follow: bool,
    /// Go on until this revision
    #[arg(long, conflicts_with_all = ["source", "bump_revision"])]
    until_revision: Option<i64>,
    #[command(flatten)]
    log: logging::LogOptions,
}

impl FollowFlags {
    pub fn is_wanted(&self) -> bool {
        self.follow || self.until_revision.is_some()
    }
}

/// Copies a store and follows it; the folder that was made.
pub async fn import(
    env: Env,
    connect: &ConnectFlags,
    member: NewMember,
    flags: FollowFlags,
) -> Result<PathBuf> {
    logging::start(&flags.log);
    let copies = member.copies()?;
    let file = copies.path().join("snapshot.db");
    ::backup::save_snapshot(&connect.options().connect().await?, &file).await?;
    let database = ::backup::open_snapshot(&file)?;
    let from = database.revision().map_err(FileError::from)?;
    let auth = database.auth().map_err(FileError::from)?;
    println!("Copied revision {from}, following");
    let tasks = TaskGroup::new("import", Shutdown::new());
    signals::watch(&tasks)?;
    let (tell, told) = mpsc::channel(QUEUE);
    let follower = Follower {
        env,
        connect: connect.options(),
        from,
        until: flags.until_revision,
        auth: (auth.enabled, auth.revision),
        folder: copies.path().to_owned(),
    };
    let stop = tasks.shutdown().clone();
    let write = tokio::task::spawn_blocking(move || write(&database, &member, told));
    let followed = follower.run(&stop, &tell).await;
    // Without the end of the changes no folder is made.
    drop(tell);
    stop.trigger();
    let written = write.await?;
    tasks.join(STOP_DEADLINE).await?;
    // What could not be written is why nobody took the changes.
    match (followed, written) {
        (Err(error @ ::backup::BackupError::Stopped(_)), Ok(_)) => Err(error.into()),
        (Err(::backup::BackupError::Stopped(_)), Err(error)) => Err(error),
        (Err(error), _) => Err(error.into()),
        (Ok(revision), written) => {
            let data_dir = written?;
            println!("Followed to revision {revision}");
            Ok(data_dir)
        }
    }
}

/// Makes the folder. Blocks until the last change has come.
fn write(
    database: &Database<File>,
    member: &NewMember,
    mut told: mpsc::Receiver<Followed>,
) -> Result<PathBuf> {
    let (seed, attributes) = member.seed()?;
    member.write(&seed, |loader| {
        let mut loaded = Loaded::versions(database, loader)?;
        let mut granted = BTreeMap::new();
        let (there, auth) = loop {
            match told.blocking_recv() {
                Some(Followed::Changes(record)) => {
                    append(loader, &mut loaded, &record)?;
                    granted.extend(record.leases.into_iter().map(|lease| (lease.id, lease.ttl)));
                }
                Some(Followed::End { leases, auth }) => break (leases, auth),
                None => return Err(std::io::Error::other("the changes ended before their end")),
            }
        };
        let mut contents = loaded.contents(database, attributes)?;
        for lease in &contents.leases {
            granted.entry(lease.id).or_insert(lease.ttl);
        }
        contents.leases = leases(loader, &granted, &there);
        if let Some(auth) = auth {
            contents.auth = stored_auth(auth);
        }
        Ok(contents)
    })
}

/// The leases that there are, and those that are gone by now and to which keys are attached still: their end takes the keys
/// with it, as it did where they were copied from.
fn leases(loader: &StateLoader<'_>, granted: &BTreeMap<i64, i64>, there: &[Lease]) -> Vec<StoredLease> {
    let mut leases: BTreeMap<i64, i64> = there.iter().map(|lease| (lease.id, lease.ttl)).collect();
    for id in loader.attached() {
        leases.entry(id).or_insert_with(|| granted.get(&id).copied().unwrap_or(GONE_TTL));
    }
    leases.into_iter().map(|(id, ttl)| StoredLease { id, ttl, remaining: 0 }).collect()
}
