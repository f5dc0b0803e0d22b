//! How a leader makes another member the leader.

use std::collections::BTreeSet;
use std::time::Duration;

use env::Clock;
use openraft::async_runtime::WatchReceiver as _;
use openraft::type_config::TypeConfigExt as _;
use openraft::type_config::alias::InstantOf;
use tokio::time::Instant;

use crate::consensus::{Metrics, TypeConfig};
use crate::error::StoreError;
use crate::inner::Inner;
use crate::pulse::Verdict;

/// How long a leader that stops, or whose disk is slow, waits for another one.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause before a member is asked again. One that has heard it stands already, and refuses.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Before a leader stops it makes another member the leader: of those that answer it the one that is furthest along. It
/// gives up where nobody is left, or nobody takes over in time.
pub(crate) async fn to_the_furthest(inner: &Inner) {
    let voters: BTreeSet<u64> = {
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().voter_ids();
        voters.filter(|id| *id != inner.me).collect()
    };
    if voters.is_empty() || inner.leader() != Some(inner.me) {
        return;
    }
    let deadline = inner.env.clock.monotonic() + PATIENCE;
    let mut verdict = inner.pulse.verdict();
    let outcome = tokio::select! {
        outcome = to_one_of(inner, &voters, deadline) => outcome,
        // An error is the end of the pulse, which says nothing of the others.
        Ok(_) = verdict.wait_for(|verdict| *verdict == Verdict::Deserted) => Err(StoreError::NoLeader),
    };
    if let Err(error) = outcome {
        tracing::warn!(%error, "the leadership was not taken over");
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
    to_one_of(inner, &[member].into(), deadline).await
}

/// [`to`] the one of some members that is furthest along of those that answer.
async fn to_one_of(inner: &Inner, members: &BTreeSet<u64>, deadline: Instant) -> Result<(), StoreError> {
    match tokio::time::timeout_at(deadline, heard_by(inner, members)).await {
        Ok(Some(member)) => resign(inner, member, deadline).await,
        Ok(None) => Ok(()),
        Err(_) => Err(StoreError::Timeout),
    }
}

/// Asks a member that hears this one to take the leadership over, until this one does not lead any more.
async fn resign(inner: &Inner, member: u64, deadline: Instant) -> Result<(), StoreError> {
    let ask =
        || async move { inner.raft.trigger().transfer_leader(member).await.map_err(|_| StoreError::Stopped) };
    let resigned = async {
        let mut metrics = inner.raft.metrics();
        // A consensus that has stopped does not lead.
        while inner.leader() == Some(inner.me) && metrics.changed().await.is_ok() {}
    };
    ask_until(&inner.env.clock, resigned, ask, (ASK_AGAIN, deadline)).await
}

/// Waits until one of these members has answered a heartbeat that was sent since: the one with the longest log of those that
/// have; nobody where this one does not lead.
async fn heard_by(inner: &Inner, members: &BTreeSet<u64>) -> Option<u64> {
    let (since, mut metrics) = (TypeConfig::now(), inner.raft.metrics());
    while inner.raft.trigger().heartbeat().await.is_ok() {
        let heard = async {
            while metrics.borrow_watched().heartbeat.is_some() {
                if let Some(heard) = furthest(&metrics.borrow_watched(), members, since) {
                    return Some(heard);
                }
                metrics.changed().await.ok()?;
            }
            None
        };
        // A heartbeat that is lost is not waited for.
        if let Ok(heard) = tokio::time::timeout(inner.timing.heartbeat, heard).await {
            return heard;
        }
    }
    None
}

/// Which of the members that have answered a heartbeat since has the longest log.
fn furthest(metrics: &Metrics, members: &BTreeSet<u64>, since: InstantOf<TypeConfig>) -> Option<u64> {
    let (answers, logs) = (metrics.heartbeat.as_ref()?, metrics.replication.as_ref()?);
    let answered = |id: &&u64| answers.get(id).copied().flatten().is_some_and(|sent| *sent >= since);
    let log = |id: &&u64| logs.get(id).copied().flatten().map(|last| last.index);
    members.iter().filter(answered).max_by_key(log).copied()
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
