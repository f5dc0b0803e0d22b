//! Changes of the members, at the leader: what is refused, and what is decided.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use protos::peer;

use crate::consensus::{Node, StoredMembership};
use crate::contacts::Voting;
use crate::counters::{self};
use crate::error::StoreError;
use crate::handover;
use crate::inner::Inner;

/// Hundredths of the leader's log that a learner must have before it gets a vote (etcd's `readyPercentThreshold`).
const IN_SYNC_PERCENT: u64 = 90;
/// How long a learner that is to be promoted may take to be so far.
const IN_SYNC_PATIENCE: Duration = Duration::from_millis(500);
/// How often is looked whether it is.
const CATCH_UP_POLL: Duration = Duration::from_millis(10);

impl Inner {
    /// The members as this leader decided last. The metrics tell of it later than whoever asked is answered.
    pub async fn decided(&self) -> Result<StoredMembership, StoreError> {
        let decided = self.raft.with_raft_state(|state| state.membership_state.effective().as_ref().clone());
        decided.await.map_err(|_| StoreError::Stopped)
    }

    fn voting(&self, decided: &StoredMembership) -> Voting {
        let membership = decided.membership();
        let joining = membership.nodes().filter(|(_, node)| node.joining).map(|(id, _)| *id);
        let started = self.shared.view.load();
        Voting {
            members: membership.voter_ids().chain(joining).collect(),
            started: started.members().filter(|known| !known.name.is_empty()).map(|known| known.id).collect(),
        }
    }

    /// Whether a learner has so much of the log that its vote would not hold up the others, as in etcd.
    fn is_in_sync(&self, id: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.iter().flatten().find(|(other, _)| **other == id);
        let matched = matched.and_then(|(_, matched)| *matched).map_or(0, |matched| matched.index);
        matched > 0 && matched * 100 >= metrics.last_log_index.unwrap_or(0) * IN_SYNC_PERCENT
    }

    /// Gives a learner a moment to get in sync: what it has just said of itself is on its way to the leader.
    async fn is_soon_in_sync(&self, id: u64) -> bool {
        let deadline = self.env.clock.monotonic() + IN_SYNC_PATIENCE;
        while !self.is_in_sync(id) {
            if self.env.clock.monotonic() >= deadline {
                return false;
            }
            self.env.clock.sleep(CATCH_UP_POLL).await;
        }
        true
    }

    /// Refuses what could cost the quorum.
    fn check_change(
        &self,
        decided: &StoredMembership,
        change: peer::change_members_request::Change,
        id: u64,
    ) -> Result<(), StoreError> {
        use peer::change_members_request::Change;
        if !self.strict_reconfig_check {
            return Ok(());
        }
        let (voting, now) = (self.voting(decided), self.env.clock.monotonic());
        match change {
            Change::Add => self.contacts.may_add(&voting, false, self.me, now),
            Change::AddLearner => self.contacts.may_add(&voting, true, self.me, now),
            Change::Remove if voting.members.contains(&id) => {
                self.contacts.may_remove(&voting, id, self.me, now)
            }
            _ => Ok(()),
        }
    }

    /// Changes the members as the leader; the index of the last entry of the change.
    pub async fn change_members_here(&self, request: peer::ChangeMembersRequest) -> Result<u64, StoreError> {
        let promotes = request.change() == peer::change_members_request::Change::Promote;
        let changed = self.change_as_leader(request).await;
        match &changed {
            _ if !promotes => {}
            Ok(_) => self.shared.counters.promotions.increment(1),
            Err(error) => counters::promotion_failed(error),
        }
        changed
    }

    async fn change_as_leader(&self, request: peer::ChangeMembersRequest) -> Result<u64, StoreError> {
        use peer::change_members_request::Change;
        let id = request.id;
        let ids = || BTreeSet::from([id]);
        let decided = self.decided().await?;
        let node = decided.membership().get_node(&id);
        let voter = decided.membership().voter_ids().any(|voter| voter == id);
        let (known, joining) = (node.is_some(), node.is_some_and(|node| node.joining));
        let one = |joining| BTreeMap::from([(id, Node { peer_urls: request.peer_urls.clone(), joining })]);
        self.must_lead()?;
        self.check_change(&decided, request.change(), id)?;
        let others = self.voting(&decided).members.len() > 1;
        if request.change() == Change::Remove && id == self.me && others {
            // Whoever leads next removes it.
            handover::to_the_furthest(self).await;
            return Err(StoreError::NotLeader);
        }
        let change = match request.change() {
            Change::Add if !known => ChangeMembers::AddNodes(one(true)),
            Change::AddLearner if !known => ChangeMembers::AddNodes(one(false)),
            Change::Add | Change::AddLearner => {
                return Err(StoreError::Membership("member ID already exist".into()));
            }
            _ if !known => return Err(StoreError::MemberNotFound),
            Change::Promote if voter || joining => {
                return Err(StoreError::Membership("can only promote a learner member".into()));
            }
            Change::Promote if !self.is_soon_in_sync(id).await => {
                return Err(StoreError::Membership(
                    "can only promote a learner member which is in sync with leader".into(),
                ));
            }
            Change::Promote => ChangeMembers::AddVoterIds(ids()),
            Change::Remove if voter => ChangeMembers::RemoveVoters(ids()),
            Change::Remove => ChangeMembers::RemoveNodes(ids()),
            Change::Update => ChangeMembers::SetNodes(one(joining)),
        };
        let done = self.raft.change_membership(change, false).await.map_err(write_error)?;
        Ok(done.log_id.index)
    }
}

fn write_error(
    error: RaftError<crate::consensus::TypeConfig, ClientWriteError<crate::consensus::TypeConfig>>,
) -> StoreError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => StoreError::NotLeader,
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => StoreError::LeaderLost,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            StoreError::Membership(error.to_string())
        }
        RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => {
            StoreError::Membership(error.to_string())
        }
        RaftError::Fatal(_) => StoreError::Stopped,
    }
}
