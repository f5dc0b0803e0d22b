//! Exactly once: which proposals of each member have been applied.
//!
//! A member sends a proposal again when the leader is lost before it was applied, and does not know whether the first
//! copy will still be. Each carries its origin, and every replica applies the first copy and skips the others. What is
//! remembered is part of the replicated state, and small: a member says with each proposal below which number
//! everything is settled, so that only what is outstanding is kept.

use std::collections::{BTreeMap, BTreeSet};

use mvcc::Applied;
use parking_lot::Mutex;
use protos::peer;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Where a proposal comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub member: u64,
    /// How often the member had been started.
    pub boot: u64,
    /// Counts the proposals since.
    pub number: u64,
    /// The member waits for no proposal with a smaller number.
    pub settled: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    boot: u64,
    settled: u64,
    /// Numbers from `settled` on that were applied.
    applied: BTreeSet<u64>,
}

/// The replicated side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions(BTreeMap<u64, Session>);

impl Sessions {
    /// Whether no member has proposed anything yet. What another store had in its log is nobody's: member 0's.
    pub fn is_fresh(&self) -> bool {
        self.0.keys().all(|member| *member == 0)
    }

    /// Whether a proposal is to be applied, which is then remembered.
    pub fn admit(&mut self, origin: &Origin) -> bool {
        let session = self.0.entry(origin.member).or_default();
        if origin.boot < session.boot {
            return false;
        }
        if origin.boot > session.boot {
            *session = Session { boot: origin.boot, ..Session::default() };
        }
        if origin.number < session.settled || !session.applied.insert(origin.number) {
            return false;
        }
        if origin.settled > session.settled {
            session.settled = origin.settled;
            session.applied = session.applied.split_off(&origin.settled);
        }
        true
    }

    pub fn to_wire(&self) -> Vec<peer::Session> {
        let session = |(&member, session): (&u64, &Session)| peer::Session {
            member,
            boot: session.boot,
            settled: session.settled,
            applied: session.applied.iter().copied().collect(),
        };
        self.0.iter().map(session).collect()
    }

    pub fn from_wire(sessions: Vec<peer::Session>) -> Self {
        let session = |wire: peer::Session| {
            let applied = wire.applied.into_iter().collect();
            (wire.member, Session { boot: wire.boot, settled: wire.settled, applied })
        };
        Self(sessions.into_iter().map(session).collect())
    }
}

/// The proposing side: who waits for which proposal.
pub(crate) struct Outstanding {
    member: u64,
    boot: u64,
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    waiters: BTreeMap<u64, Waiter>,
    stopped: bool,
}

/// Stays listed until its ticket is dropped, so that its number is not settled before.
struct Waiter {
    /// None when there is nothing to tell any more.
    tell: Option<oneshot::Sender<Told>>,
    /// Where it waits.
    runtime: Option<Handle>,
    deadline: Instant,
}

/// What is to be told to those who wait on one runtime.
struct Letters {
    runtime: Option<Handle>,
    answers: Vec<(oneshot::Sender<Told>, Applied)>,
}

impl Letters {
    fn are_for(&self, runtime: Option<&Handle>) -> bool {
        self.runtime.as_ref().map(Handle::id) == runtime.map(Handle::id)
    }

    /// Tells them, by one task of their own when they are many: each that is woken from elsewhere costs a call of the
    /// system, and would write his answer to his client before the next one has his.
    fn deliver(self) {
        let tell = |answers: Vec<(oneshot::Sender<Told>, Applied)>| {
            for (tell, applied) in answers {
                drop(tell.send(Told::Applied(applied)));
            }
        };
        match self.runtime {
            Some(runtime) if self.answers.len() > 1 => {
                runtime.spawn(async move { tell(self.answers) });
            }
            _ => tell(self.answers),
        }
    }
}

/// What becomes of a proposal.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    /// It was applied here.
    Applied(Applied),
    /// It was not, for too long.
    Overdue,
}

/// A proposal that is waited for; dropping it settles it.
pub(crate) struct Ticket<'a> {
    outstanding: &'a Outstanding,
    pub origin: Origin,
    /// An error once the store has stopped.
    pub told: oneshot::Receiver<Told>,
}

impl Outstanding {
    pub fn new(member: u64, boot: u64) -> Self {
        Self { member, boot, state: Mutex::default() }
    }

    pub fn register(&self, deadline: Instant) -> Ticket<'_> {
        let (tell, told) = oneshot::channel();
        let runtime = Handle::try_current().ok();
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let tell = (!state.stopped).then_some(tell);
        state.waiters.insert(number, Waiter { tell, runtime, deadline });
        let settled = *state.waiters.keys().next().expect("invariant: just inserted");
        Ticket {
            outstanding: self,
            origin: Origin { member: self.member, boot: self.boot, number, settled },
            told,
        }
    }

    /// How many are waited for.
    pub fn pending(&self) -> usize {
        self.state.lock().waiters.len()
    }

    /// Tells those who wait that their proposals were applied here; those of others are nobody's business.
    pub fn complete(&self, applied: impl IntoIterator<Item = (Origin, Applied)>) {
        let own = applied.into_iter().filter(|(by, _)| by.member == self.member && by.boot == self.boot);
        let mut letters: Vec<Letters> = Vec::new();
        {
            let mut state = self.state.lock();
            for (origin, applied) in own {
                let Some(waiter) = state.waiters.get_mut(&origin.number) else { continue };
                let Some(tell) = waiter.tell.take() else { continue };
                let runtime = waiter.runtime.take();
                match letters.iter_mut().find(|letters| letters.are_for(runtime.as_ref())) {
                    Some(letters) => letters.answers.push((tell, applied)),
                    None => letters.push(Letters { runtime, answers: vec![(tell, applied)] }),
                }
            }
        }
        // Whoever is told drops his ticket at once, which needs the lock.
        letters.into_iter().for_each(Letters::deliver);
    }

    /// Tells those who have waited for too long.
    pub fn expire(&self, now: Instant) {
        for waiter in self.state.lock().waiters.values_mut().filter(|waiter| waiter.deadline <= now) {
            if let Some(tell) = waiter.tell.take() {
                drop(tell.send(Told::Overdue));
            }
        }
    }

    /// Ends all waiting: nothing will be applied any more.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        state.waiters.values_mut().for_each(|waiter| waiter.tell = None);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.outstanding.state.lock().waiters.remove(&self.origin.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn origin(boot: u64, number: u64, settled: u64) -> Origin {
        Origin { member: 1, boot, number, settled }
    }

    #[test]
    fn a_proposal_is_applied_once_whenever_its_copies_come() {
        let mut sessions = Sessions::default();
        assert!(sessions.admit(&origin(1, 0, 0)));
        assert!(!sessions.admit(&origin(1, 0, 0)));
        assert!(sessions.admit(&origin(1, 2, 0)), "out of order");
        assert!(sessions.admit(&origin(1, 1, 0)));
        assert!(sessions.admit(&origin(1, 3, 3)));
        assert!(!sessions.admit(&origin(1, 2, 0)), "settled, and forgotten");
        assert_eq!(sessions.0[&1].applied, BTreeSet::from([3]));
        assert!(sessions.admit(&origin(2, 0, 0)), "another boot counts anew");
        assert!(!sessions.admit(&origin(1, 9, 9)), "a copy of a boot before that comes late");
        assert_eq!(Sessions::from_wire(sessions.to_wire()), sessions);
    }

    #[test]
    fn what_is_settled_is_the_smallest_number_that_is_waited_for() {
        let outstanding = Outstanding::new(1, 1);
        let later = Instant::now();
        let (first, second) = (outstanding.register(later), outstanding.register(later));
        assert_eq!((first.origin.settled, second.origin.settled), (0, 0));
        drop(first);
        assert_eq!(outstanding.register(later).origin.settled, 1);
        drop(second);
        assert_eq!(outstanding.register(later).origin.settled, 3);
    }

    #[tokio::test]
    async fn only_ones_own_proposals_are_told() {
        let outstanding = Outstanding::new(1, 5);
        let mut ticket = outstanding.register(Instant::now());
        let applied = Applied { revision: 7, response: Ok(mvcc::Response::None), events: Vec::new() };
        let others = [Origin { boot: 4, ..ticket.origin }, Origin { member: 2, ..ticket.origin }];
        outstanding.complete(others.map(|origin| (origin, applied.clone())));
        assert!(ticket.told.try_recv().is_err());
        outstanding.complete([(ticket.origin, applied.clone())]);
        assert_eq!((&mut ticket.told).await, Ok(Told::Applied(applied)));
    }

    #[tokio::test]
    async fn nobody_waits_beyond_the_deadline_or_the_end() {
        let outstanding = Outstanding::new(1, 1);
        let now = Instant::now();
        let (mut early, mut late) =
            (outstanding.register(now), outstanding.register(now + Duration::from_secs(1)));
        outstanding.expire(now);
        assert_eq!((&mut early.told).await, Ok(Told::Overdue));
        assert!(late.told.try_recv().is_err());
        assert_eq!(outstanding.register(now).origin.settled, 0, "what is overdue may still be applied");
        outstanding.stop();
        assert!((&mut late.told).await.is_err());
        assert!((&mut outstanding.register(now).told).await.is_err());
    }
}
