//! Renewals of leases: whoever comes while one question is with the leader is part of the next.

use std::sync::Arc;
use std::time::Duration;

use mvcc::{Command, LeaseId};
use protos::peer;
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;
use crate::failpoints::hit;
use crate::handle::{Again, Store};
use crate::inner::Inner;
use crate::leases::Renewal;
use crate::witness::Witness;

/// Renewals that wait to be asked for.
pub(crate) const QUEUE: usize = 8192;
/// Leases in one question.
const MAX_BATCH: usize = 4096;
/// The time to live of a lease that is not known, between members.
const UNKNOWN: i64 = -1;

/// Pause of a renewal while the lease's end is on the way.
const ENDING: Duration = Duration::from_millis(10);

/// A lease to renew, and whom to tell its time to live; `None` when it is not known.
pub(crate) struct Asked {
    pub id: LeaseId,
    pub done: oneshot::Sender<Result<Option<i64>, StoreError>>,
}

/// Asks until the store stops.
pub(crate) async fn run(inner: Arc<Inner>, mut waiting: mpsc::Receiver<Asked>) {
    let store = Store::of(inner.clone());
    let mut group = Vec::new();
    loop {
        tokio::select! {
            _ = waiting.recv_many(&mut group, MAX_BATCH) => {}
            () = inner.shutdown.wait() => return,
        }
        let ids: Vec<LeaseId> = group.iter().map(|asked| asked.id).collect();
        let result = tokio::select! {
            result = ask(&store, &inner, &ids) => result,
            () = inner.shutdown.wait() => Err(StoreError::Stopped),
        };
        for (place, asked) in group.drain(..).enumerate() {
            let answer = result.as_ref().map(|ttls| ttls.get(place).copied().filter(|&ttl| ttl != UNKNOWN));
            drop(asked.done.send(answer.map_err(Clone::clone)));
        }
    }
}

async fn ask(store: &Store, inner: &Arc<Inner>, ids: &[LeaseId]) -> Result<Vec<i64>, StoreError> {
    store
        .ask_leader(
            Again::Always,
            || here(inner, ids, None),
            |mut client| async move {
                let witness = Witness::here(inner).await.ok().map(Witness::to_wire);
                let request = peer::LeaseKeepAliveRequest { ids: ids.to_vec(), witness };
                Ok(client.lease_keep_alive(request).await?.into_inner().ttls)
            },
        )
        .await
}

/// Renews leases as the leader. A leader that was replaced must not renew: a quorum is asked first, unless a witness
/// confirms it.
pub(crate) async fn here(
    inner: &Arc<Inner>,
    ids: &[LeaseId],
    witness: Option<Witness>,
) -> Result<Vec<i64>, StoreError> {
    inner.must_lead()?;
    match witness {
        Some(witness) => inner.confirmed_by(witness).await?,
        None => inner.read_barrier().await?,
    }
    let mut ttls = vec![UNKNOWN; ids.len()];
    let mut waiting: Vec<usize> = (0..ids.len()).collect();
    while !waiting.is_empty() {
        let term = inner.must_lead()?;
        let pass = renew(inner, ids, &mut waiting, &mut ttls);
        forget(inner, term, pass.remembered).await?;
        if pass.ending {
            inner.env.clock.sleep(ENDING).await;
        }
    }
    Ok(ttls)
}

/// Renews one lease on a member that leads alone: nobody has to be asked, unless its time was remembered.
pub(crate) async fn alone(inner: &Arc<Inner>, id: LeaseId) -> Result<Option<i64>, StoreError> {
    let (mut ttls, mut waiting) = ([UNKNOWN], vec![0]);
    renew(inner, &[id], &mut waiting, &mut ttls);
    let ttl = if waiting.is_empty() { ttls[0] } else { here(inner, &[id], None).await?[0] };
    Ok((ttl != UNKNOWN).then_some(ttl))
}

/// What is left to do for leases that could not be renewed yet.
#[derive(Default)]
struct Pass {
    /// Leases whose time is remembered, with the number of the checkpoint.
    remembered: Vec<(LeaseId, u64)>,
    /// The end of one is on the way.
    ending: bool,
}

/// Renews those of `ids` that are `waiting`; those that are done leave it.
fn renew(inner: &Inner, ids: &[LeaseId], waiting: &mut Vec<usize>, ttls: &mut [i64]) -> Pass {
    hit("beforeCheckpointInLeaseRenew");
    let (mut leases, now) = (inner.shared.leases.lock(), inner.env.clock.monotonic());
    let mut pass = Pass::default();
    waiting.retain(|&place| {
        match leases.renew(ids[place], now) {
            Renewal::Unknown => ttls[place] = UNKNOWN,
            Renewal::Done(ttl) => {
                inner.shared.counters.leases_renewed.increment(1);
                ttls[place] = ttl;
            }
            Renewal::Ending => {
                pass.ending = true;
                return true;
            }
            Renewal::Checkpointed(checkpoint) => {
                pass.remembered.push((ids[place], checkpoint));
                return true;
            }
        }
        false
    });
    pass
}

/// A leader that takes over must not give a lease that is renewed the time that it had before.
async fn forget(inner: &Inner, term: u64, remembered: Vec<(LeaseId, u64)>) -> Result<(), StoreError> {
    if remembered.is_empty() {
        return Ok(());
    }
    let remaining = remembered.iter().map(|&(id, _)| (id, 0)).collect();
    inner.propose(Command::LeaseCheckpoint { term, remaining }).await?;
    inner.must_lead()?;
    let mut leases = inner.shared.leases.lock();
    remembered.into_iter().for_each(|(id, checkpoint)| leases.forgotten(id, checkpoint));
    Ok(())
}
