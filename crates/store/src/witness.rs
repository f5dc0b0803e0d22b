//! How a leader knows that it still leads: it asks a quorum, or who asks it is the quorum's other half.
//!
//! A member that asks its leader says whom it follows, by its vote at a time after what is asked for began. It had granted
//! its vote to nobody of a higher term by then. When the leader, which has the same vote still as the question arrives, and
//! that member are a quorum together, nobody else can have been elected before: an election needs one of the two. So all
//! that was acknowledged before the question is in the leader's log, and no round of heartbeats has to tell it so. With
//! three voters that is every question of a follower; with more, and for those of learners, the leader asks.

use openraft::ReadPolicy;

use crate::consensus::{self, Membership, Vote};
use crate::error::StoreError;
use crate::inner::Inner;
use protos::peer;

/// A member, and its vote when it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Witness {
    member: u64,
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

    /// That of a question; members of before ask without.
    pub fn from_wire(witness: Option<peer::Witness>) -> Option<Self> {
        let peer::Witness { member, vote } = witness?;
        Some(Self { member, vote: consensus::vote_from_wire(vote?) })
    }

    /// Whether a leader that has this `vote` is confirmed by it.
    fn confirms(&self, leader: u64, vote: &Vote, membership: &Membership) -> bool {
        let follows = vote.committed && vote.leader_id.voted_for == leader && self.vote == *vote;
        follows && self.member != leader && are_quorum(membership, [leader, self.member])
    }
}

/// Whether `members` are a quorum of every configuration that is in force.
fn are_quorum(membership: &Membership, members: [u64; 2]) -> bool {
    membership.get_joint_config().iter().all(|voters| {
        let among = members.iter().filter(|member| voters.contains(member)).count();
        2 * among > voters.len()
    })
}

/// The index up to which a read must see the log, as the leader. Without a witness that confirms it, a quorum is asked.
///
/// # Errors
/// [`StoreError::NotLeader`], also when a quorum does not answer, and [`StoreError::Stopped`].
pub(crate) async fn read_index(inner: &Inner, witness: Option<Witness>) -> Result<u64, StoreError> {
    if let Some(witness) = witness
        && is_confirmed(inner, witness).await?
        // By the lease: only whether this member was confirmed at any time since it was elected, so that the index is
        // known. That it leads now is the witness' word.
        && let Ok(index) = ask(inner, ReadPolicy::LeaseRead).await
    {
        return Ok(index);
    }
    ask(inner, ReadPolicy::ReadIndex).await
}

async fn is_confirmed(inner: &Inner, witness: Witness) -> Result<bool, StoreError> {
    let me = inner.me;
    let confirmed = inner.raft.with_raft_state(move |state| {
        witness.confirms(me, state.vote_ref(), state.membership_state.effective().membership())
    });
    confirmed.await.map_err(|_| StoreError::Stopped)
}

async fn ask(inner: &Inner, policy: ReadPolicy) -> Result<u64, StoreError> {
    let linearizer = inner.raft.get_read_linearizer(policy).await.map_err(|error| match error {
        openraft::errors::RaftError::Fatal(_) => StoreError::Stopped,
        openraft::errors::RaftError::APIError(_) => StoreError::NotLeader,
    })?;
    Ok(linearizer.read_log_id().index())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::consensus::Node;

    fn membership(configs: &[&[u64]]) -> Membership {
        let configs: Vec<BTreeSet<u64>> = configs.iter().map(|ids| ids.iter().copied().collect()).collect();
        let nodes: BTreeMap<u64, Node> = (1..=9).map(|id| (id, Node::default())).collect();
        Membership::new(configs, nodes).expect("a membership")
    }

    #[test]
    fn a_leader_and_one_more_are_a_quorum_of_up_to_three() {
        assert!(are_quorum(&membership(&[&[1, 2]]), [1, 2]));
        assert!(are_quorum(&membership(&[&[1, 2, 3]]), [1, 3]));
        assert!(!are_quorum(&membership(&[&[1, 2, 3, 4]]), [1, 2]));
        assert!(!are_quorum(&membership(&[&[1, 2, 3, 4, 5]]), [1, 2]));
        assert!(!are_quorum(&membership(&[&[1, 2, 3]]), [1, 4]), "a learner");
        assert!(!are_quorum(&membership(&[&[1, 2, 3], &[1, 3, 4]]), [1, 2]), "of one configuration only");
        assert!(are_quorum(&membership(&[&[1, 2, 3], &[1, 3, 4]]), [1, 3]));
    }

    #[test]
    fn only_who_follows_this_leader_in_this_term_confirms_it() {
        let three = membership(&[&[1, 2, 3]]);
        let vote = |term, node, committed| {
            let mut vote = Vote::new(term, node);
            vote.committed = committed;
            vote
        };
        let confirms =
            |member, theirs: Vote, ours: Vote| Witness { member, vote: theirs }.confirms(1, &ours, &three);
        let leads = vote(5, 1, true);
        assert!(confirms(2, leads, leads));
        assert!(!confirms(1, leads, leads), "itself");
        assert!(!confirms(4, leads, leads), "no voter");
        assert!(!confirms(2, vote(6, 3, false), leads), "it voted for another since");
        assert!(!confirms(2, vote(4, 1, true), leads), "it does not know of this term yet");
        assert!(!confirms(2, vote(5, 1, false), leads), "it voted, and heard of no leader");
        assert!(!confirms(2, vote(5, 1, false), vote(5, 1, false)), "a candidate");
        assert!(!confirms(2, vote(6, 2, true), vote(6, 2, true)), "another leads");
        assert!(!confirms(2, leads, vote(6, 3, false)), "it voted for another itself");
    }
}
