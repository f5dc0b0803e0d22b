//! The read barrier: one question to the leader answers everyone who asked before it was sent.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::confirm;
use crate::error::StoreError;
use crate::inner::Inner;
use crate::peers::Lane;
use crate::server::error_from_status;
use crate::witness::Witness;

/// Readers that wait for one round, at most.
pub(crate) const QUEUE: usize = 8192;
/// A round that takes longer counts as slow (etcd's `readIndexRetryTime`).
const SLOW: std::time::Duration = std::time::Duration::from_millis(500);

pub(crate) type Waiter = oneshot::Sender<Result<(), StoreError>>;

/// Runs rounds, one at a time; whoever comes during a round is part of the next.
pub(crate) async fn run(inner: Arc<Inner>, mut waiters: mpsc::Receiver<Waiter>) {
    let mut group = Vec::new();
    loop {
        tokio::select! {
            _ = waiters.recv_many(&mut group, QUEUE) => {}
            () = inner.shutdown.wait() => return,
        }
        let start = inner.env.clock.monotonic();
        let result = tokio::select! {
            result = round(&inner) => result,
            () = inner.shutdown.wait() => Err(StoreError::Stopped),
        };
        if result.is_err() {
            inner.shared.counters.failed_reads.increment(1);
        }
        if inner.env.clock.monotonic() - start > SLOW {
            inner.shared.counters.slow_reads.increment(1);
        }
        for waiter in group.drain(..) {
            drop(waiter.send(result.clone()));
        }
    }
}

/// Asks until a leader answers, then waits until this replica has applied as far.
async fn round(inner: &Arc<Inner>) -> Result<(), StoreError> {
    let deadline = inner.env.clock.monotonic() + inner.timing.request_timeout();
    let index = loop {
        match ask(inner, deadline).await {
            Ok(index) => break index,
            Err(StoreError::Stopped) => return Err(StoreError::Stopped),
            // A question can be asked again, whatever became of the last one.
            Err(_) if inner.env.clock.monotonic() < deadline => inner.wait_for_leader().await,
            Err(_) => return Err(StoreError::Timeout),
        }
    };
    inner.wait_applied(index, deadline).await
}

async fn ask(inner: &Arc<Inner>, deadline: Instant) -> Result<u64, StoreError> {
    let leader = inner.leader().ok_or(StoreError::NoLeader)?;
    if leader == inner.me {
        let index = tokio::time::timeout_at(deadline, confirm::read_index(inner, None)).await;
        return index.map_err(|_| StoreError::Timeout)?;
    }
    let witness = Some(Witness::here(inner).await?.to_wire());
    let mut client = inner.peer(leader, Lane::Forward)?;
    let asked = client.read_index(protos::peer::ReadIndexRequest { witness });
    let asked = tokio::time::timeout(inner.timing.election_max, asked);
    let answer = inner.while_led_by(leader, asked).await?.map_err(|_| StoreError::Timeout)?;
    answer.map(|answer| answer.into_inner().index).map_err(|status| error_from_status(&status))
}
