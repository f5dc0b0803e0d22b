//! When leases end. Every replica keeps the deadlines; only the leader acts on them, and gives every lease its full
//! time again when it takes over (etcd's rule: a lease never ends early because of an election).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use mvcc::{LeaseId, View};
use tokio::time::Instant;

/// How long a lease still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// Seconds it was granted for.
    pub granted_ttl: i64,
    /// Seconds left, rounded down.
    pub ttl: i64,
}

#[derive(Default)]
pub(crate) struct LeaseClock {
    leases: HashMap<LeaseId, (Instant, i64)>,
    /// Deadlines, some of them outdated: a renewal adds one, and the old one is dropped when it comes up.
    queue: BinaryHeap<Reverse<(Instant, LeaseId)>>,
}

impl LeaseClock {
    /// Begins anew with the leases of a state, each with the time it had left at its last checkpoint.
    pub fn reset(&mut self, view: &View, now: Instant) {
        self.leases.clear();
        self.queue.clear();
        for lease in view.leases() {
            let left = if lease.remaining > 0 { lease.remaining } else { lease.ttl };
            self.set(lease.id, lease.ttl, now + seconds(left));
        }
    }

    pub fn granted(&mut self, id: LeaseId, ttl: i64, now: Instant) {
        self.set(id, ttl, now + seconds(ttl));
    }

    pub fn revoked(&mut self, id: LeaseId) {
        self.leases.remove(&id);
    }

    /// Gives a lease its full time again; the time, or `None` for an unknown one.
    pub fn renew(&mut self, id: LeaseId, now: Instant) -> Option<i64> {
        let ttl = self.leases.get(&id)?.1;
        self.set(id, ttl, now + seconds(ttl));
        Some(ttl)
    }

    pub fn time(&self, id: LeaseId, now: Instant) -> Option<LeaseTime> {
        let &(deadline, granted_ttl) = self.leases.get(&id)?;
        let left = deadline.saturating_duration_since(now).as_secs();
        Some(LeaseTime { granted_ttl, ttl: i64::try_from(left).unwrap_or(i64::MAX) })
    }

    /// At most `max` leases that are over. They stay known until they are revoked, and come up again after `retry`.
    pub fn expired(&mut self, now: Instant, max: usize, retry: Duration) -> Vec<LeaseId> {
        let mut over = Vec::new();
        while over.len() < max {
            match self.queue.peek() {
                Some(&Reverse((deadline, _))) if deadline <= now => {}
                _ => break,
            }
            let Some(Reverse((deadline, id))) = self.queue.pop() else { break };
            if self.leases.get(&id).is_some_and(|lease| lease.0 == deadline) {
                let ttl = self.leases[&id].1;
                self.set(id, ttl, now + retry);
                over.push(id);
            }
        }
        over
    }

    fn set(&mut self, id: LeaseId, ttl: i64, deadline: Instant) {
        self.leases.insert(id, (deadline, ttl));
        self.queue.push(Reverse((deadline, id)));
        if self.queue.len() > 2 * self.leases.len() + 64 {
            self.queue = self.leases.iter().map(|(&id, &(deadline, _))| Reverse((deadline, id))).collect();
        }
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_ends_once_and_a_renewed_one_later() {
        let start = env::Env::seeded(1).clock.monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = LeaseClock::default();
        (1..=3).for_each(|id| clock.granted(id, 10, start));
        assert_eq!(clock.renew(2, at(5)), Some(10));
        assert_eq!(clock.renew(9, at(5)), None);
        clock.revoked(3);
        assert_eq!(clock.expired(at(9), 10, Duration::from_secs(3)), Vec::<i64>::new());
        assert_eq!(clock.expired(at(10), 10, Duration::from_secs(3)), [1]);
        assert_eq!(clock.expired(at(12), 10, Duration::from_secs(3)), Vec::<i64>::new());
        assert_eq!(clock.expired(at(13), 10, Duration::from_secs(3)), [1], "until it is revoked");
        assert_eq!(clock.time(2, at(13)), Some(LeaseTime { granted_ttl: 10, ttl: 2 }));
        assert_eq!(clock.expired(at(15), 10, Duration::from_secs(3)), [2]);
    }

    #[tokio::test]
    async fn renewals_do_not_pile_up() {
        let now = env::Env::seeded(1).clock.monotonic();
        let mut clock = LeaseClock::default();
        clock.granted(1, 10, now);
        for _ in 0..10_000 {
            clock.renew(1, now);
        }
        assert!(clock.queue.len() < 100, "{}", clock.queue.len());
    }
}
