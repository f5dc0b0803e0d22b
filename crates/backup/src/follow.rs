//! Follows a running store from a copy of it on, so that the writers of the old one stand still for a moment only.

use std::time::Duration;

use env::{Backoff, Env, Shutdown};
use etcd_files::Lease;
use protos::etcd::etcdserverpb as pb;
use tokio::sync::mpsc;

use crate::changes::{Change, Changes, Progress, granted, status};
use crate::connection::{ConnectOptions, Connection};
use crate::error::BackupError;
use crate::segment::Record;

/// Pauses before a store that cannot be reached is tried again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), 2.0, Duration::from_secs(5), 0.5);

/// What is read of a store that is followed.
#[derive(Debug)]
pub enum Followed {
    /// The changes of the next revision.
    Changes(Record),
    /// There are no more. The leases that there are now.
    End(Vec<Lease>),
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
        let mut until = self.until;
        loop {
            let followed = async {
                let connection = self.connect.connect().await?;
                self.session(&connection, &mut progress, &mut until, stop, tell).await?;
                leases(&connection).await
            };
            let error = match followed.await {
                Ok(leases) => {
                    say(tell, Followed::End(leases)).await?;
                    return Ok(progress.covered);
                }
                Err(error) => error,
            };
            if stop.is_triggered() || !is_passing(&error) {
                return Err(error);
            }
            tracing::warn!(%error, revision = progress.covered, "the store cannot be followed, and is asked again");
            tokio::select! {
                () = self.env.clock.sleep(backoff.next(&self.env.rng)) => {}
                () = stop.wait() => {}
            }
        }
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
