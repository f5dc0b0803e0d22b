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
use tokio::sync::oneshot;

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
    waiters: BTreeMap<u64, oneshot::Sender<Applied>>,
}

/// A proposal that is waited for; dropping it settles it.
pub(crate) struct Ticket<'a> {
    outstanding: &'a Outstanding,
    pub origin: Origin,
    pub applied: oneshot::Receiver<Applied>,
}

impl Outstanding {
    pub fn new(member: u64, boot: u64) -> Self {
        Self { member, boot, state: Mutex::default() }
    }

    pub fn register(&self) -> Ticket<'_> {
        let (tell, applied) = oneshot::channel();
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.waiters.insert(number, tell);
        let settled = *state.waiters.keys().next().expect("invariant: just inserted");
        Ticket {
            outstanding: self,
            origin: Origin { member: self.member, boot: self.boot, number, settled },
            applied,
        }
    }

    /// Tells who waits for it that a proposal was applied here; those of others are nobody's business.
    pub fn complete(&self, origin: &Origin, applied: Applied) {
        if origin.member != self.member || origin.boot != self.boot {
            return;
        }
        // Stays listed until the waiter has gone, so that its number is not settled before.
        let waiter = self.state.lock().waiters.get_mut(&origin.number).map(|waiter| {
            let (unused, _) = oneshot::channel();
            std::mem::replace(waiter, unused)
        });
        if let Some(waiter) = waiter {
            drop(waiter.send(applied));
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.outstanding.state.lock().waiters.remove(&self.origin.number);
    }
}

#[cfg(test)]
mod tests {
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
        let (first, second) = (outstanding.register(), outstanding.register());
        assert_eq!((first.origin.settled, second.origin.settled), (0, 0));
        drop(first);
        assert_eq!(outstanding.register().origin.settled, 1);
        drop(second);
        assert_eq!(outstanding.register().origin.settled, 3);
    }

    #[tokio::test]
    async fn only_ones_own_proposals_are_told() {
        let outstanding = Outstanding::new(1, 5);
        let mut ticket = outstanding.register();
        let applied = Applied { revision: 7, response: Ok(mvcc::Response::None), events: Vec::new() };
        outstanding.complete(&Origin { boot: 4, ..ticket.origin }, applied.clone());
        outstanding.complete(&Origin { member: 2, ..ticket.origin }, applied.clone());
        assert!(ticket.applied.try_recv().is_err());
        outstanding.complete(&ticket.origin, applied.clone());
        assert_eq!((&mut ticket.applied).await, Ok(applied));
    }
}
