//! What the leader does for leases: it ends those that are over, and remembers how long others have.

use std::sync::Arc;
use std::time::Duration;

use mvcc::{Command, LeaseId};

use crate::error::StoreError;
use crate::failpoints::hit;
use crate::inner::Inner;
use crate::leases::LeaseTime;

/// How often the leader looks for leases that are over.
const TICK: Duration = Duration::from_millis(250);
/// Leases revoked, or remembered, at a time. Writes of clients go between.
const BATCH: usize = 128;

/// Ends leases and remembers their time for as long as this member leads.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut pause = TICK;
    loop {
        tokio::select! {
            () = inner.env.clock.sleep(pause) => {}
            () = inner.shutdown.wait() => return,
        }
        pause = TICK;
        let Ok(term) = inner.must_lead() else { continue };
        let (over, remaining) = inner.shared.leases.lock().due(inner.env.clock.monotonic(), BATCH);
        if over.len() == BATCH || remaining.len() == BATCH {
            // There are more.
            pause = Duration::ZERO;
        }
        inner.shared.counters.leases_expired.increment(over.len() as u64);
        tokio::join!(revoke(&inner, term, over), remember(&inner, term, remaining));
    }
}

/// The end of a lease holds only in the term in which it was seen: a leader that was replaced meanwhile does not know of
/// renewals.
async fn revoke(inner: &Inner, term: u64, over: Vec<LeaseId>) {
    let revokes = over.into_iter().map(|id| async move {
        hit("leaseBeforeRevoke");
        if let Err(error) = inner.propose(Command::LeaseExpire { id, term }).await {
            tracing::debug!(%error, "a lease that is over could not be revoked yet");
        }
        // A lease that was revoked is not known any more.
        inner.shared.leases.lock().not_ended(id);
    });
    futures::future::join_all(revokes).await;
}

async fn remember(inner: &Inner, term: u64, remaining: Vec<(LeaseId, i64)>) {
    if remaining.is_empty() || !inner.lease_checkpoints {
        return;
    }
    if let Err(error) = inner.propose(Command::LeaseCheckpoint { term, remaining }).await {
        tracing::debug!(%error, "the time of leases could not be remembered");
    }
}

impl Inner {
    /// How long a lease still has, as the leader.
    pub fn lease_time_here(&self, id: LeaseId) -> Result<Option<LeaseTime>, StoreError> {
        self.must_lead()?;
        Ok(self.shared.leases.lock().time(id, self.env.clock.monotonic()))
    }
}
