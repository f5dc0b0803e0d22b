//! How a leader makes another member the leader.

use std::collections::BTreeSet;
use std::time::Duration;

use env::Clock;
use openraft::async_runtime::WatchReceiver as _;
use openraft::type_config::TypeConfigExt as _;
use tokio::time::Instant;

use crate::consensus::{Metrics, TypeConfig};
use crate::error::StoreError;
use crate::inner::Inner;
use crate::members::hex;

/// How long a leader that stops, or whose disk is slow, waits for another one.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause before a member is asked again. One that has heard it stands already, and refuses.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Before a leader stops it makes the member that is furthest along the leader.
pub(crate) async fn to_the_furthest(inner: &Inner) {
    let target = {
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        let replication = metrics.replication.iter().flatten();
        let others = replication.filter(|(id, _)| **id != inner.me && voters.contains(id));
        others.max_by_key(|(_, matched)| matched.map(|matched| matched.index)).map(|(id, _)| *id)
    };
    let Some(target) = target else { return };
    if soon(inner, target).await == Err(StoreError::Timeout) {
        tracing::warn!(to = hex(target), "the leadership was not taken over in time");
    }
}

/// [`to`] within a moment.
pub(crate) async fn soon(inner: &Inner, member: u64) -> Result<(), StoreError> {
    to(inner, member, inner.env.clock.monotonic() + PATIENCE).await
}

/// Asks a member to take the leadership over, until this one does not lead any more, whoever does. It is not asked before it
/// has answered this leader: one that has just been started refuses, while those who are asked with it would stand instead.
///
/// # Errors
/// `Timeout` when this member still leads at the deadline, `Stopped`.
pub(crate) async fn to(inner: &Inner, member: u64, deadline: Instant) -> Result<(), StoreError> {
    if tokio::time::timeout_at(deadline, heard_by(inner, member)).await.is_err() {
        return Err(StoreError::Timeout);
    }
    let ask =
        || async move { inner.raft.trigger().transfer_leader(member).await.map_err(|_| StoreError::Stopped) };
    let resigned = async {
        let mut metrics = inner.raft.metrics();
        // A consensus that has stopped does not lead.
        while inner.leader() == Some(inner.me) && metrics.changed().await.is_ok() {}
    };
    ask_until(&inner.env.clock, resigned, ask, (ASK_AGAIN, deadline)).await
}

/// Waits until a member has answered a heartbeat that was sent since, or this one does not lead.
async fn heard_by(inner: &Inner, member: u64) {
    let (since, mut metrics) = (TypeConfig::now(), inner.raft.metrics());
    let heard = |metrics: &Metrics| match &metrics.heartbeat {
        Some(answers) => answers.get(&member).copied().flatten().is_some_and(|sent| *sent >= since),
        None => true,
    };
    while inner.raft.trigger().heartbeat().await.is_ok() {
        let heard = async { while !heard(&metrics.borrow_watched()) && metrics.changed().await.is_ok() {} };
        // One that is lost is not waited for.
        if tokio::time::timeout(inner.timing.heartbeat, heard).await.is_ok() {
            return;
        }
    }
}

/// Asks until it is `done`, again and again, since who is asked once may not hear it.
async fn ask_until<Ask>(
    clock: &Clock,
    done: impl Future<Output = ()>,
    ask: impl Fn() -> Ask,
    (again, deadline): (Duration, Instant),
) -> Result<(), StoreError>
where
    Ask: Future<Output = Result<(), StoreError>>,
{
    tokio::pin!(done);
    while clock.monotonic() < deadline {
        tokio::select! {
            biased;
            () = &mut done => return Ok(()),
            asked = ask() => asked?,
        }
        let pause = deadline.min(clock.monotonic() + again);
        if tokio::time::timeout_at(pause, &mut done).await.is_ok() {
            return Ok(());
        }
    }
    Err(StoreError::Timeout)
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn who_does_not_hear_it_is_asked_again() {
        let clock = env::Env::real().clock;
        let asked = watch::Sender::new(0);
        let mut heard = asked.subscribe();
        let done = async { drop(heard.wait_for(|asked| *asked == 3).await) };
        let ask = async || {
            asked.send_modify(|asked| *asked += 1);
            Ok(())
        };
        let deadline = clock.monotonic() + LONG;
        let answer = ask_until(&clock, done, ask, (Duration::from_millis(1), deadline)).await;
        assert_eq!((answer, *asked.borrow()), (Ok(()), 3));
    }

    #[tokio::test]
    async fn nobody_is_asked_for_what_is_done_nor_for_ever() {
        let clock = env::Env::real().clock;
        let ask = async || Err(StoreError::Stopped);
        let now = clock.monotonic();
        let done = ask_until(&clock, std::future::ready(()), ask, (LONG, now + LONG)).await;
        assert_eq!(done, Ok(()));
        let stopped = ask_until(&clock, std::future::pending(), ask, (LONG, now + LONG)).await;
        assert_eq!(stopped, Err(StoreError::Stopped));
        let ask = async || Ok(());
        let late = now + Duration::from_millis(20);
        assert_eq!(
            ask_until(&clock, std::future::pending(), ask, (LONG, late)).await,
            Err(StoreError::Timeout)
        );
    }
}
