//! When leases end. Every replica keeps the deadlines; only the leader acts on them. One that takes over gives every
//! lease the time that it had at its last checkpoint, or its full time: a lease never ends early because of an election.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use mvcc::{LeaseId, View};
use tokio::time::Instant;

/// A lease with less time left is not remembered: it ends before that is of use.
const MIN_LEFT: Duration = Duration::from_secs(2);
/// A lease's time is remembered that often at least (etcd's `leaseCheckpointInterval`).
const MAX_INTERVAL: Duration = Duration::from_secs(300);

/// How long a lease still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// Seconds it was granted for.
    pub granted_ttl: i64,
    /// Seconds left, rounded down.
    pub ttl: i64,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// There is no such lease.
    Unknown,
    /// Its end is on the way; whether it comes will be known soon.
    Ending,
    /// It has its full time again.
    Done(i64),
    /// It has its full time again once nobody remembers the checkpoint with this number.
    Checkpointed(u64),
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: i64,
    deadline: Instant,
    /// When its time is remembered next.
    checkpoint: Option<Instant>,
    /// The last checkpoint that may be in the state, or on its way there.
    remembered: Option<u64>,
    /// Whether its end was proposed.
    ending: bool,
}

#[derive(Default)]
pub(crate) struct LeaseClock {
    leases: HashMap<LeaseId, Lease>,
    /// Deadlines and checkpoints, some of them outdated: a renewal adds them, and the old ones are dropped when they
    /// come up.
    queue: BinaryHeap<Reverse<(Instant, LeaseId)>>,
    checkpoints: u64,
}

impl LeaseClock {
    /// Begins anew with the leases of a state, each with the time it had left at its last checkpoint.
    pub fn reset(&mut self, view: &View, now: Instant) {
        self.leases.clear();
        self.queue.clear();
        for lease in view.leases() {
            let checkpointed = lease.remaining > 0;
            let left = if checkpointed { lease.remaining } else { lease.ttl };
            self.set(lease.id, lease.ttl, now + seconds(left), now);
            if checkpointed {
                self.checkpointed(lease.id);
            }
        }
    }

    pub fn granted(&mut self, id: LeaseId, ttl: i64, now: Instant) {
        self.set(id, ttl, now + seconds(ttl), now);
    }

    pub fn revoked(&mut self, id: LeaseId) {
        self.leases.remove(&id);
    }

    /// A checkpoint of a lease was applied.
    pub fn checkpointed(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.get_mut(&id)
            && lease.remembered.is_none()
        {
            self.checkpoints += 1;
            lease.remembered = Some(self.checkpoints);
        }
    }

    /// The checkpoint with this number, and those before, are forgotten.
    pub fn forgotten(&mut self, id: LeaseId, checkpoint: u64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.remembered.take_if(|last| *last <= checkpoint);
        }
    }

    /// Gives a lease its full time again.
    pub fn renew(&mut self, id: LeaseId, now: Instant) -> Renewal {
        let Some(&Lease { ttl, remembered, ending, .. }) = self.leases.get(&id) else {
            return Renewal::Unknown;
        };
        if ending {
            return Renewal::Ending;
        }
        self.set(id, ttl, now + seconds(ttl), now);
        remembered.map_or(Renewal::Done(ttl), Renewal::Checkpointed)
    }

    pub fn time(&self, id: LeaseId, now: Instant) -> Option<LeaseTime> {
        let lease = self.leases.get(&id)?;
        let left = lease.deadline.saturating_duration_since(now).as_secs();
        Some(LeaseTime { granted_ttl: lease.ttl, ttl: i64::try_from(left).unwrap_or(i64::MAX) })
    }

    /// At most `max` leases that are over, and as many whose time is to be remembered, with the seconds that are left.
    /// The first are not renewed any more until they are revoked or [`Self::not_ended`].
    pub fn due(&mut self, now: Instant, max: usize) -> (Vec<LeaseId>, Vec<(LeaseId, i64)>) {
        let (mut over, mut remembered) = (Vec::new(), Vec::new());
        while over.len() < max && remembered.len() < max {
            match self.queue.peek() {
                Some(&Reverse((at, _))) if at <= now => {}
                _ => break,
            }
            let Some(Reverse((at, id))) = self.queue.pop() else { break };
            let Some(lease) = self.leases.get_mut(&id).filter(|lease| !lease.ending) else { continue };
            if lease.deadline == at {
                lease.ending = true;
                over.push(id);
            } else if lease.checkpoint == Some(at) && now < lease.deadline {
                self.checkpoints += 1;
                lease.remembered = Some(self.checkpoints);
                // Rounded up: a lease never ends early.
                let left = (lease.deadline - now).as_secs_f64().ceil() as i64;
                lease.checkpoint = next_checkpoint(lease.deadline, now);
                let next = lease.checkpoint;
                self.queue.extend(next.map(|at| Reverse((at, id))));
                remembered.push((id, left));
            }
        }
        (over, remembered)
    }

    /// A lease that is over could not be revoked: it may be tried, or renewed, again.
    pub fn not_ended(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.ending) {
            lease.ending = false;
            self.queue.push(Reverse((lease.deadline, id)));
        }
    }

    fn set(&mut self, id: LeaseId, ttl: i64, deadline: Instant, now: Instant) {
        let remembered = self.leases.get(&id).and_then(|lease| lease.remembered);
        let checkpoint = next_checkpoint(deadline, now);
        self.leases.insert(id, Lease { ttl, deadline, checkpoint, remembered, ending: false });
        self.queue.push(Reverse((deadline, id)));
        self.queue.extend(checkpoint.map(|at| Reverse((at, id))));
        if self.queue.len() > 4 * self.leases.len() + 64 {
            let times = |(&id, lease): (&LeaseId, &Lease)| {
                [Some(lease.deadline), lease.checkpoint]
                    .into_iter()
                    .flatten()
                    .map(move |at| Reverse((at, id)))
            };
            self.queue = self.leases.iter().flat_map(times).collect();
        }
    }
}

/// Half way to the end, so that a lease that is renewed in time, which is at a third of it, costs nothing.
fn next_checkpoint(deadline: Instant, now: Instant) -> Option<Instant> {
    let left = deadline.saturating_duration_since(now);
    (left / 2 >= MIN_LEFT).then(|| now + (left / 2).min(MAX_INTERVAL))
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        env::Env::seeded(1).clock.monotonic()
    }

    fn over(clock: &mut LeaseClock, now: Instant) -> Vec<LeaseId> {
        clock.due(now, 10).0
    }

    #[tokio::test]
    async fn a_lease_ends_once_and_a_renewed_one_later() {
        let start = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = LeaseClock::default();
        (1..=3).for_each(|id| clock.granted(id, 10, start));
        assert_eq!(clock.renew(2, at(5)), Renewal::Done(10));
        assert_eq!(clock.renew(9, at(5)), Renewal::Unknown);
        clock.revoked(3);
        assert_eq!(over(&mut clock, at(9)), Vec::<i64>::new());
        assert_eq!(over(&mut clock, at(10)), [1]);
        assert_eq!(over(&mut clock, at(12)), Vec::<i64>::new(), "it is being revoked");
        clock.not_ended(1);
        assert_eq!(over(&mut clock, at(13)), [1], "until it is revoked");
        assert_eq!(clock.time(2, at(13)), Some(LeaseTime { granted_ttl: 10, ttl: 2 }));
        assert_eq!(over(&mut clock, at(15)), [2]);
    }

    #[tokio::test]
    async fn a_lease_whose_end_is_on_the_way_is_not_renewed() {
        let start = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = LeaseClock::default();
        clock.granted(1, 10, start);
        assert_eq!(over(&mut clock, at(10)), [1]);
        assert_eq!(clock.renew(1, at(11)), Renewal::Ending);
        clock.not_ended(1);
        assert_eq!(clock.renew(1, at(12)), Renewal::Done(10));
        assert_eq!(over(&mut clock, at(21)), Vec::<i64>::new());
        clock.revoked(1);
        assert_eq!(clock.renew(1, at(13)), Renewal::Unknown);
    }

    #[tokio::test]
    async fn time_is_remembered_only_of_leases_that_are_not_renewed() {
        let start = start();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = LeaseClock::default();
        clock.granted(1, 60, start);
        clock.granted(2, 60, start);
        clock.granted(3, 3, start);
        assert_eq!(clock.renew(1, at(20)), Renewal::Done(60));
        clock.revoked(3);
        assert_eq!(clock.due(at(29), 10), (vec![], vec![]));
        assert_eq!(clock.due(at(30), 10), (vec![], vec![(2, 30)]));
        assert_eq!(clock.due(at(45), 10), (vec![], vec![(2, 15)]));
        // What is remembered must be forgotten before a renewal is acknowledged.
        let Renewal::Checkpointed(number) = clock.renew(2, at(46)) else { panic!("it was remembered") };
        clock.forgotten(2, number - 1);
        assert!(matches!(clock.renew(2, at(46)), Renewal::Checkpointed(_)));
        clock.forgotten(2, number);
        assert_eq!(clock.renew(2, at(46)), Renewal::Done(60));
        // One that was proposed before this member led may be applied later.
        clock.checkpointed(2);
        assert!(matches!(clock.renew(2, at(47)), Renewal::Checkpointed(_)));
    }

    #[tokio::test]
    async fn renewals_do_not_pile_up() {
        let now = start();
        let mut clock = LeaseClock::default();
        clock.granted(1, 10, now);
        for _ in 0..10_000 {
            clock.renew(1, now);
        }
        assert!(clock.queue.len() < 100, "{}", clock.queue.len());
    }
}
