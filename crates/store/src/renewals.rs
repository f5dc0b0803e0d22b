//! Renewals of leases: whoever comes while one question is with the leader is part of the next.

use std::sync::Arc;

use mvcc::LeaseId;
use protos::peer;
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;
use crate::failpoints::hit;
use crate::handle::{Inner, Store};

/// Renewals that wait to be asked for.
pub(crate) const QUEUE: usize = 8192;
/// Leases in one question.
const MAX_BATCH: usize = 4096;
/// The time to live of a lease that is not known, between members.
const UNKNOWN: i64 = -1;

/// A lease to renew, and whom to tell its time to live; `None` when it is not known.
pub(crate) struct Renewal {
    pub id: LeaseId,
    pub done: oneshot::Sender<Result<Option<i64>, StoreError>>,
}

/// Asks until the store stops.
pub(crate) async fn run(inner: Arc<Inner>, mut waiting: mpsc::Receiver<Renewal>) {
    let store = Store::of(inner.clone());
    let mut group = Vec::new();
    loop {
        tokio::select! {
            _ = waiting.recv_many(&mut group, MAX_BATCH) => {}
            () = inner.shutdown.wait() => return,
        }
        let ids: Vec<LeaseId> = group.iter().map(|renewal| renewal.id).collect();
        let result = tokio::select! {
            result = ask(&store, &inner, &ids) => result,
            () = inner.shutdown.wait() => Err(StoreError::Stopped),
        };
        for (place, renewal) in group.drain(..).enumerate() {
            let answer = result.as_ref().map(|ttls| ttls.get(place).copied().filter(|&ttl| ttl != UNKNOWN));
            drop(renewal.done.send(answer.map_err(Clone::clone)));
        }
    }
}

async fn ask(store: &Store, inner: &Arc<Inner>, ids: &[LeaseId]) -> Result<Vec<i64>, StoreError> {
    store
        .ask_leader(
            || here(inner, ids),
            |mut client| async move {
                let request = peer::LeaseKeepAliveRequest { ids: ids.to_vec() };
                Ok(client.lease_keep_alive(request).await?.into_inner().ttls)
            },
        )
        .await
}

/// Renews leases as the leader. A leader that was replaced must not renew: a quorum is asked first.
pub(crate) async fn here(inner: &Inner, ids: &[LeaseId]) -> Result<Vec<i64>, StoreError> {
    inner.must_lead()?;
    inner.read_barrier().await?;
    inner.must_lead()?;
    Ok(renew(inner, ids.iter().copied()).map(|ttl| ttl.unwrap_or(UNKNOWN)).collect())
}

/// Renews one lease on a member that leads alone: nobody has to be asked.
pub(crate) fn alone(inner: &Inner, id: LeaseId) -> Option<i64> {
    renew(inner, [id].into_iter()).next().flatten()
}

fn renew(inner: &Inner, ids: impl Iterator<Item = LeaseId>) -> impl Iterator<Item = Option<i64>> {
    hit("beforeCheckpointInLeaseRenew");
    let (mut leases, now) = (inner.shared.leases.lock(), inner.env.clock.monotonic());
    ids.map(move |id| leases.renew(id, now)).inspect(|renewed| {
        if renewed.is_some() {
            inner.shared.counters.leases_renewed.increment(1);
        }
    })
}
