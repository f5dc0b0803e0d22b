//! Follows a running store from a copy of it on, so that the writers of the old one stand still for a moment only.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use env::{Backoff, Env, Shutdown};
use etcd_files::{AuthTables, FileError, Lease};
use protos::etcd::etcdserverpb as pb;
use tokio::sync::mpsc;

use crate::changes::{Change, Changes, Progress, granted, status};
use crate::connection::{ConnectOptions, Connection};
use crate::error::BackupError;
use crate::segment::Record;
use crate::snapshot::{open_snapshot, save_snapshot};

/// Pauses before a store that cannot be reached is tried again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), 2.0, Duration::from_secs(5), 0.5);

/// What is read of a store that is followed.
#[derive(Debug)]
pub enum Followed {
    /// The changes of the next revision.
    Changes(Record),
    /// There are no more.
    End {
        /// The leases that there are now.
        leases: Vec<Lease>,
        /// Users and roles, if they may be others than the copy's.
        auth: Option<AuthTables>,
    },
}

/// Follows a store.
pub struct Follower {
    /// Clock and randomness.
    pub env: Env,
    /// The store.
    pub connect: ConnectOptions,
    /// The revision of the copy.
    pub from: i64,
    /// The last revision that is wanted. Without it: all that there is when it is told to stop.
    pub until: Option<i64>,
    /// Whether the copy's users and roles matter, and how often they were changed.
    pub auth: (bool, u64),
    /// Where another copy may lie for a while: no call tells passwords.
    pub folder: PathBuf,
}

impl Follower {
    /// Tells every change behind the copy until `stop` or the last revision that is wanted. What the store had when it was
    /// told to stop is told before it returns; the last revision that was told.
    ///
    /// # Errors
    /// When changes were compacted before they were read, the store refuses, or nobody takes what is told; a store that
    /// cannot be reached is tried again, unless it is to stop.
    pub async fn run(&self, stop: &Shutdown, tell: &mpsc::Sender<Followed>) -> Result<i64, BackupError> {
        let (mut progress, mut backoff) = (Progress::behind(self.from), RETRY);
        let (mut until, mut renewed_at) = (self.until, None);
        loop {
            let followed = async {
                let connection = self.connect.connect().await?;
                self.session(&connection, &mut progress, &mut until, stop, tell).await?;
                let leases = leases(&connection).await?;
                Ok(Followed::End { leases, auth: self.new_auth(&connection).await? })
            };
            let error = match followed.await {
                Ok(end) => {
                    say(tell, end).await?;
                    return Ok(progress.covered);
                }
                Err(error) => error,
            };
            // Once at a revision: a store that takes no token at all is not asked for ever.
            let renews =
                is_of_token(&error) && renewed_at.replace(progress.covered) != Some(progress.covered);
            if !renews && (stop.is_triggered() || !is_passing(&error)) {
                return Err(error);
            }
            tracing::warn!(%error, revision = progress.covered, "the store cannot be followed, and is asked again");
            tokio::select! {
                () = self.env.clock.sleep(backoff.next(&self.env.rng)) => {}
                () = stop.wait(), if !renews => {}
            }
        }
    }

    /// Users and roles, unless they are the copy's still.
    async fn new_auth(&self, connection: &Connection) -> Result<Option<AuthTables>, BackupError> {
        if auth_status(connection).await? == Some(self.auth) {
            return Ok(None);
        }
        let path = self.folder.join("users.db");
        save_snapshot(connection, &path).await?;
        let auth = open_snapshot(&path)?.auth().map_err(FileError::from)?;
        fs::remove_file(&path).map_err(BackupError::file(&path))?;
        Ok(Some(auth))
    }

    /// Over one connection.
    async fn session(
        &self,
        connection: &Connection,
        progress: &mut Progress,
        until: &mut Option<i64>,
        stop: &Shutdown,
        tell: &mpsc::Sender<Followed>,
    ) -> Result<(), BackupError> {
        let mut changes = Changes::open(connection, progress.covered + 1).await?;
        let mut stopping = false;
        while until.is_none_or(|until| progress.covered < until) {
            let change = tokio::select! {
                change = changes.next() => change?,
                () = stop.wait(), if !stopping => {
                    stopping = true;
                    let (_, level) = status(connection).await?;
                    *until = Some(until.map_or(level, |until| until.min(level)));
                    continue;
                }
            };
            let events = match change {
                Change::Events(events) => events,
                Change::Compacted(revision) => {
                    let covered = progress.covered;
                    return Err(BackupError::NotCovered(format!(
                        "revision {revision} was compacted before it was read, and {covered} was the last: import again"
                    )));
                }
            };
            for record in progress.records(connection, events, self.env.clock.now().millis()).await? {
                if until.is_some_and(|until| record.revision > until) {
                    progress.covered = until.unwrap_or_default();
                    return Ok(());
                }
                say(tell, Followed::Changes(record)).await?;
            }
        }
        Ok(())
    }
}

/// Whether users and roles matter, and how often they were changed; an etcd before 3.5 does not tell.
async fn auth_status(connection: &Connection) -> Result<Option<(bool, u64)>, BackupError> {
    match connection.auth().auth_status(pb::AuthStatusRequest {}).await {
        Ok(answer) => Ok(Some((answer.get_ref().enabled, answer.get_ref().auth_revision))),
        Err(status) if status.code() == tonic::Code::Unimplemented => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// Whether an error is of a connection or a member, and passes.
fn is_passing(error: &BackupError) -> bool {
    match error {
        BackupError::Connect { .. } => true,
        BackupError::Refused(status) => {
            matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled)
        }
        _ => false,
    }
}

/// Whether another token may help: an old one is given up, and with the user's password or, if it says when it was made,
/// with every change of users and roles.
fn is_of_token(error: &BackupError) -> bool {
    match error {
        BackupError::Refused(status) => {
            status.code() == tonic::Code::Unauthenticated
                || status.message() == "etcdserver: revision of auth store is old"
        }
        _ => false,
    }
}

async fn say(tell: &mpsc::Sender<Followed>, what: Followed) -> Result<(), BackupError> {
    let gone = |_| BackupError::Stopped("the copy could not be written".into());
    tell.send(what).await.map_err(gone)
}

/// All leases.
async fn leases(connection: &Connection) -> Result<Vec<Lease>, BackupError> {
    let listed = connection.lease().lease_leases(pb::LeaseLeasesRequest {}).await?.into_inner().leases;
    let mut leases = Vec::with_capacity(listed.len());
    for lease in listed {
        leases.extend(granted(connection, lease.id).await?);
    }
    Ok(leases)
}
