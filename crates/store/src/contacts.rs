//! Since when this member has been in touch with each other one, and what changes of members are safe by that (etcd's
//! `--strict-reconfig-check`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use env::{Shutdown, TaskGroup};
use parking_lot::Mutex;
use protos::peer;
use tokio::time::Instant;

use crate::error::StoreError;
use crate::inner::Inner;
use crate::members::quorum;
use crate::peers::Lane;
use crate::server::ALIVE_INTERVAL;

/// How long members must have been in touch before they count as healthy, unless configured. etcd's `HealthInterval` is
/// 5 s; its members are in touch before they say that they serve, and whoever waits those 5 s from then on is to be let
/// in here as well.
pub(crate) const HEALTH_INTERVAL: Duration = Duration::from_millis(4_500);
/// Pause before a member that cannot be reached is tried again, and between looks at who the members are.
const PAUSE: Duration = Duration::from_millis(100);
const STOP: Duration = Duration::from_secs(1);

/// When the present contact with each member began.
#[derive(Debug)]
pub(crate) struct Contacts {
    since: Mutex<BTreeMap<u64, Instant>>,
    health_interval: Duration,
}

/// Keeps a contact with every other member.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let tasks = TaskGroup::new("contacts", inner.shutdown.child());
    let mut followed: BTreeMap<u64, Shutdown> = BTreeMap::new();
    while !inner.shutdown.is_triggered() {
        let members: BTreeSet<u64> = {
            let stored = inner.shared.membership.load();
            stored.membership().nodes().map(|(id, _)| *id).filter(|id| *id != inner.me).collect()
        };
        followed.retain(|id, stop| {
            members.contains(id) || {
                stop.trigger();
                false
            }
        });
        for id in members {
            followed.entry(id).or_insert_with(|| {
                let stop = tasks.shutdown().child();
                tasks.spawn_detached(format!("contact-{id:x}"), follow(inner.clone(), id, stop.clone()));
                stop
            });
        }
        tokio::select! {
            () = inner.env.clock.sleep(PAUSE) => {}
            () = inner.shutdown.wait() => {}
        }
    }
    // Late ones are named by the group.
    drop(tasks.join(STOP).await);
}

async fn follow(inner: Arc<Inner>, id: u64, stop: Shutdown) {
    while !stop.is_triggered() {
        tokio::select! {
            () = contact(&inner, id) => {}
            () = stop.wait() => {}
        }
        inner.contacts.since.lock().remove(&id);
        tokio::select! {
            () = inner.env.clock.sleep(PAUSE) => {}
            () = stop.wait() => {}
        }
    }
}

/// One contact, until it breaks or goes silent.
async fn contact(inner: &Inner, id: u64) {
    let Ok(mut client) = inner.peer(id, Lane::Control) else { return };
    let Ok(answer) = client.alive(peer::AliveRequest { from: inner.me }).await else { return };
    inner.contacts.since.lock().insert(id, inner.env.clock.monotonic());
    let mut beats = answer.into_inner();
    while let Ok(Ok(Some(_))) = tokio::time::timeout(3 * ALIVE_INTERVAL, beats.message()).await {}
}

/// The members that vote, for the checks below.
pub(crate) struct Voting {
    /// Those that vote, or will when they have caught up.
    pub members: BTreeSet<u64>,
    /// Those that have started once.
    pub started: BTreeSet<u64>,
}

impl Contacts {
    /// None yet. Members in touch for longer than `health_interval` count as healthy.
    pub fn new(health_interval: Duration) -> Self {
        Self { since: Mutex::default(), health_interval }
    }

    /// Those that this member is in touch with.
    pub fn reached(&self) -> BTreeSet<u64> {
        self.since.lock().keys().copied().collect()
    }

    fn lasting(&self, voting: &Voting, me: u64, now: Instant) -> usize {
        let contacts = self.since.lock();
        let lasts = |id: &&u64| contacts.get(id).is_some_and(|since| now - *since > self.health_interval);
        voting.members.iter().filter(|id| **id == me || lasts(id)).count()
    }

    /// Whether a member may be added: a voter must leave a quorum of started members, and a quorum must be in touch.
    ///
    /// # Errors
    /// `NotEnoughStarted`, `Unhealthy`.
    pub fn may_add(&self, voting: &Voting, learner: bool, me: u64, now: Instant) -> Result<(), StoreError> {
        let size = voting.members.len();
        let started = voting.members.intersection(&voting.started).count();
        let first = started == 1 && size == 1;
        if !learner && !first && started < quorum(size + 1) {
            return Err(StoreError::NotEnoughStarted);
        }
        if size > 1 && self.lasting(voting, me, now) < quorum(size + 1) {
            return Err(StoreError::Unhealthy);
        }
        Ok(())
    }

    /// Whether a voter may be removed: a quorum of started members must be left, and one that is alive must not be
    /// needed by those that are in touch.
    ///
    /// # Errors
    /// `NotEnoughStarted`, `Unhealthy`.
    pub fn may_remove(&self, voting: &Voting, id: u64, me: u64, now: Instant) -> Result<(), StoreError> {
        let left: BTreeSet<u64> = voting.members.iter().copied().filter(|other| *other != id).collect();
        if left.intersection(&voting.started).count() < quorum(left.len()) {
            return Err(StoreError::NotEnoughStarted);
        }
        if id != me && !self.since.lock().contains_key(&id) {
            return Ok(());
        }
        if self.lasting(voting, me, now) < quorum(voting.members.len() - 1) + 1 {
            return Err(StoreError::Unhealthy);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contacts(now: Instant, seconds: &[(u64, u64)]) -> Contacts {
        let since = |age: u64| now.checked_sub(Duration::from_secs(age)).expect("the clock is older");
        let since = seconds.iter().map(|(id, age)| (*id, since(*age))).collect();
        Contacts { since: Mutex::new(since), health_interval: HEALTH_INTERVAL }
    }

    fn voting(members: &[u64], started: &[u64]) -> Voting {
        Voting { members: members.iter().copied().collect(), started: started.iter().copied().collect() }
    }

    /// A moment from which one can look back.
    fn now() -> Instant {
        env::Env::real().clock.monotonic() + Duration::from_secs(100)
    }

    #[test]
    fn members_are_added_only_to_a_healthy_cluster() {
        let (now, three) = (now(), voting(&[1, 2, 3], &[1, 2, 3]));
        assert_eq!(contacts(now, &[]).may_add(&voting(&[1], &[1]), false, 1, now), Ok(()));
        assert_eq!(contacts(now, &[(2, 6), (3, 6)]).may_add(&three, false, 1, now), Ok(()));
        assert_eq!(
            contacts(now, &[(2, 6), (3, 4)]).may_add(&three, false, 1, now),
            Err(StoreError::Unhealthy)
        );
        assert_eq!(contacts(now, &[(2, 6)]).may_add(&three, true, 1, now), Err(StoreError::Unhealthy));
        let waiting = voting(&[1, 2], &[1]);
        assert_eq!(contacts(now, &[]).may_add(&waiting, false, 1, now), Err(StoreError::NotEnoughStarted));
    }

    #[test]
    fn a_quorum_must_be_left_when_one_is_removed() {
        let (now, three) = (now(), voting(&[1, 2, 3], &[1, 2, 3]));
        assert_eq!(contacts(now, &[(2, 6), (3, 6)]).may_remove(&three, 2, 1, now), Ok(()));
        assert_eq!(contacts(now, &[(2, 6)]).may_remove(&three, 3, 1, now), Ok(()), "it is down anyway");
        assert_eq!(contacts(now, &[(2, 6)]).may_remove(&three, 2, 1, now), Err(StoreError::Unhealthy));
        let alone = voting(&[1], &[1]);
        assert_eq!(contacts(now, &[]).may_remove(&alone, 1, 1, now), Err(StoreError::NotEnoughStarted));
    }
}
