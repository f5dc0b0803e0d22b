//! How a leader knows that it still leads: a quorum says that it follows it.
//!
//! A [`Witness`] is a member and its vote at a time after what is asked for began: by then it had granted its vote to
//! nobody of a higher term. When the leader has the same vote still, and such members and the leader are a quorum together,
//! nobody else can have been elected before: an election needs one of them. So all that was acknowledged before is in the
//! leader's log.
//!
//! A member that asks its leader for something sends its own along: with three voters that is a quorum, and the leader has
//! nobody to ask. This is the judgement alone; `confirm.rs` does the asking.

use std::collections::VecDeque;

use protos::peer;

use crate::consensus::{self, Membership, Vote};
use crate::error::StoreError;
use crate::inner::Inner;

/// A member, and its vote when it asked or was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Witness {
    pub member: u64,
    vote: Vote,
}

impl Witness {
    /// This member's own, from now on.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub async fn here(inner: &Inner) -> Result<Self, StoreError> {
        let vote = inner.raft.with_raft_state(|state| *state.vote_ref()).await;
        Ok(Self { member: inner.me, vote: vote.map_err(|_| StoreError::Stopped)? })
    }

    pub fn to_wire(self) -> peer::Witness {
        peer::Witness { member: self.member, vote: Some(consensus::vote_to_wire(&self.vote)) }
    }

    /// That of a message; members of before have none.
    pub fn from_wire(witness: Option<peer::Witness>) -> Option<Self> {
        let peer::Witness { member, vote } = witness?;
        Some(Self { member, vote: consensus::vote_from_wire(vote?) })
    }
}

/// Whether `members` are a quorum of every configuration that is in force.
fn are_quorum(membership: &Membership, members: &[u64]) -> bool {
    membership.get_joint_config().iter().all(|voters| {
        let among = members.iter().filter(|member| voters.contains(member)).count();
        2 * among > voters.len()
    })
}

/// One attempt of a leader to be confirmed.
pub(crate) struct Round<'a> {
    membership: &'a Membership,
    /// Its vote when it began.
    vote: Vote,
    /// Who can still be asked, in that order.
    others: VecDeque<u64>,
    /// Who was asked.
    asked: Vec<u64>,
    /// Who follows it, and itself.
    following: Vec<u64>,
}

impl<'a> Round<'a> {
    /// `None` when `me` does not lead by its own vote.
    pub fn begin(me: u64, vote: Vote, membership: &'a Membership, others: VecDeque<u64>) -> Option<Self> {
        let leads = vote.committed && vote.leader_id.voted_for == me;
        leads.then(|| Self { membership, vote, others, asked: Vec::new(), following: vec![me] })
    }

    pub fn is_confirmed(&self) -> bool {
        are_quorum(self.membership, &self.following)
    }

    /// Whom to ask next, until those who were asked could be enough.
    pub fn next(&mut self) -> Option<u64> {
        let hoped = [&self.following[..], &self.asked[..]].concat();
        if are_quorum(self.membership, &hoped) { None } else { self.next_of_all() }
    }

    pub fn next_of_all(&mut self) -> Option<u64> {
        let member = self.others.pop_front()?;
        self.asked.push(member);
        Some(member)
    }

    /// What a member said, or that it says nothing.
    pub fn hear(&mut self, member: u64, witness: Option<Witness>) {
        self.asked.retain(|&asked| asked != member);
        let follows = witness.is_some_and(|witness| witness.member == member && witness.vote == self.vote);
        if follows && !self.following.contains(&member) {
            self.following.push(member);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::consensus::Node;

    pub(crate) fn membership(configs: &[&[u64]]) -> Membership {
        let configs: Vec<BTreeSet<u64>> = configs.iter().map(|ids| ids.iter().copied().collect()).collect();
        let nodes: BTreeMap<u64, Node> = (1..=9).map(|id| (id, Node::default())).collect();
        Membership::new(configs, nodes).expect("a membership")
    }

    fn vote(term: u64, node: u64, committed: bool) -> Vote {
        Vote { committed, ..Vote::new(term, node) }
    }

    #[test]
    fn a_leader_and_one_more_are_a_quorum_of_up_to_three() {
        assert!(are_quorum(&membership(&[&[1, 2]]), &[1, 2]));
        assert!(are_quorum(&membership(&[&[1, 2, 3]]), &[1, 3]));
        assert!(!are_quorum(&membership(&[&[1, 2, 3, 4]]), &[1, 2]));
        assert!(!are_quorum(&membership(&[&[1, 2, 3, 4, 5]]), &[1, 2]));
        assert!(are_quorum(&membership(&[&[1, 2, 3, 4, 5]]), &[1, 2, 5]));
        assert!(!are_quorum(&membership(&[&[1, 2, 3]]), &[1, 4]), "a learner");
        assert!(!are_quorum(&membership(&[&[1, 2, 3], &[1, 3, 4]]), &[1, 2]), "of one configuration only");
        assert!(are_quorum(&membership(&[&[1, 2, 3], &[1, 3, 4]]), &[1, 3]));
    }

    #[test]
    fn only_who_follows_this_leader_in_this_term_confirms_it() {
        let three = membership(&[&[1, 2, 3]]);
        let leads = vote(5, 1, true);
        let confirms = |asked: u64, member: u64, theirs: Vote| {
            let mut round = Round::begin(1, leads, &three, VecDeque::from([2, 3])).expect("it leads");
            assert!(!round.is_confirmed(), "alone");
            round.hear(asked, Some(Witness { member, vote: theirs }));
            round.is_confirmed()
        };
        assert!(confirms(2, 2, leads));
        assert!(!confirms(1, 1, leads), "itself");
        assert!(!confirms(4, 4, leads), "no voter");
        assert!(!confirms(2, 3, leads), "another's word");
        assert!(!confirms(2, 2, vote(6, 3, false)), "it voted for another since");
        assert!(!confirms(2, 2, vote(4, 1, true)), "it does not know of this term yet");
        assert!(!confirms(2, 2, vote(5, 1, false)), "it voted, and heard of no leader");
        for theirs in [vote(5, 1, false), vote(6, 2, true), vote(6, 3, false)] {
            assert!(Round::begin(1, theirs, &three, VecDeque::new()).is_none(), "it does not lead: {theirs}");
        }
    }

    #[test]
    fn no_more_are_asked_than_are_needed_until_one_does_not_answer() {
        let five = membership(&[&[1, 2, 3, 4, 5]]);
        let leads = vote(5, 1, true);
        let mut round = Round::begin(1, leads, &five, VecDeque::from([4, 2, 3, 5])).expect("it leads");
        assert_eq!((round.next(), round.next(), round.next()), (Some(4), Some(2), None));
        round.hear(4, None);
        assert_eq!((round.next(), round.next()), (Some(3), None));
        round.hear(3, Some(Witness { member: 3, vote: leads }));
        round.hear(3, Some(Witness { member: 3, vote: leads }));
        assert!(!round.is_confirmed(), "twice the same");
        assert_eq!(round.next_of_all(), Some(5));
        round.hear(2, Some(Witness { member: 2, vote: leads }));
        assert!(round.is_confirmed());
    }
}
