//! What all parts of a running store share: who leads, whom to call, and how something is proposed.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use env::{Env, Shutdown, TaskGroup};
use mvcc::{Applied, Command};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::barrier::Waiter;
use crate::config::Timing;
use crate::confirm::{self, Witnesses};
use crate::consensus::{self, Node, Proposal, Raft, StoredMembership};
use crate::contacts::Contacts;
use crate::counters::Kind;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::failpoints::hit;
use crate::leadership::{self, Leadership};
use crate::members::ClusterId;
use crate::peers::{Client, Lane, Peers};
use crate::proposals::{Failure, Submission};
use crate::pulse::Pulse;
use crate::renewals::Asked;
use crate::sessions::Told;
use crate::state::{Core, Shared};
use crate::storage::Storage;
use crate::witness::Witness;

/// Entries that are committed and not yet applied, at most, before new ones are refused (etcd's
/// `maxGapBetweenApplyAndCommitIndex`).
const MAX_APPLY_GAP: u64 = 5000;
/// How many times longer the only member of a cluster pauses between looks at others.
const LONELY: u32 = 10;
/// Pause while no leader is known.
const LEADER_POLL: Duration = Duration::from_millis(10);

/// Bytes that a command's encoding adds to the request it came from, at most.
const MAX_OVERHEAD: usize = 64 << 10;

/// A running store, as its parts see it.
pub(crate) struct Inner {
    pub me: u64,
    pub cluster: ClusterId,
    pub raft: Raft,
    pub shared: Arc<Shared>,
    pub core: Arc<Mutex<Core>>,
    pub peers: Peers,
    pub storage: Arc<dyn Storage>,
    pub env: Env,
    pub timing: Timing,
    pub shutdown: Shutdown,
    pub contacts: Contacts,
    pub pulse: Pulse,
    pub disk: Arc<Disk>,
    pub strict_reconfig_check: bool,
    pub max_request_bytes: usize,
    pub lease_checkpoints: bool,
    pub barrier: mpsc::Sender<Waiter>,
    pub renewals: mpsc::Sender<Asked>,
    pub proposals: mpsc::Sender<Submission>,
    pub witnesses: Witnesses,
    pub tasks: TaskGroup,
    pub leadership: watch::Receiver<Leadership>,
    /// What was committed when a leader was first heard of since the start, as an index; 0 before.
    pub heard: AtomicU64,
}

impl Inner {
    pub fn leads(&self) -> bool {
        self.leadership.borrow().is_leader
    }

    pub fn check_sound(&self) -> Result<(), StoreError> {
        if self.shared.fence.wrong().is_some() { Err(StoreError::Corrupt) } else { Ok(()) }
    }

    pub fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }

    pub fn node(&self, id: u64) -> Option<Node> {
        self.raft.metrics().borrow_watched().membership_config.membership().get_node(&id).cloned()
    }

    pub fn peer(&self, id: u64, lane: Lane) -> Result<Client, StoreError> {
        let node = self.node(id).ok_or(StoreError::NoLeader)?;
        self.peers.client(id, &node, lane).map_err(|_| StoreError::NoLeader)
    }

    /// How many voters other than `leader` have a smaller id than this one.
    pub fn rank_among_followers(&self, leader: Option<u64>) -> u32 {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().voter_ids();
        u32::try_from(voters.filter(|&id| id < self.me && Some(id) != leader).count()).unwrap_or(u32::MAX)
    }

    /// Waits for another member's answer for as long as that one leads.
    pub async fn while_led_by<T>(
        &self,
        leader: u64,
        asked: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        let mut changes = self.raft.server_metrics();
        let deposed = async {
            while changes.borrow_watched().current_leader.is_none_or(|now| now == leader) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            answer = asked => Ok(answer),
            () = deposed => Err(StoreError::NoLeader),
        }
    }

    pub async fn wait_for_leader(&self) {
        self.env.clock.sleep(LEADER_POLL).await;
    }

    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), StoreError> {
        let mut applied = self.shared.applied.subscribe();
        let reached = applied.wait_for(|&applied| applied >= index);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Stopped),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// Proposes to whoever leads, again when the leader is lost, until this replica has applied it.
    pub async fn propose(&self, command: Command) -> Result<Applied, StoreError> {
        let (kind, start) = (Kind::of(&command), self.env.clock.monotonic());
        let proposed = self.propose_encoded(command.encode()).await;
        if proposed.is_err() {
            self.shared.counters.proposals_failed.increment(1);
        }
        let success = proposed.as_ref().is_ok_and(|applied| applied.response.is_ok());
        self.shared.counters.note_request(kind, success, self.env.clock.monotonic() - start);
        proposed
    }

    pub async fn propose_encoded(&self, command: Bytes) -> Result<Applied, StoreError> {
        hit("storeBeforePropose");
        if command.len() > self.max_request_bytes + MAX_OVERHEAD {
            return Err(StoreError::TooLarge);
        }
        let deadline = self.env.clock.monotonic() + self.timing.request_timeout();
        let mut ticket = self.shared.outstanding.register(deadline);
        let proposal = Proposal { origin: ticket.origin, command };
        let mut attempts = Attempts { inner: self, proposal, may_be_in: false };
        tokio::select! {
            biased;
            told = &mut ticket.told => {
                hit("storeBeforeReply");
                match told {
                    Ok(Told::Applied(applied)) => Ok(applied),
                    Ok(Told::Overdue) if attempts.may_be_in => Err(StoreError::Timeout),
                    Ok(Told::Overdue) => Err(StoreError::NoLeader),
                    Err(_) => Err(StoreError::Stopped),
                }
            }
            error = attempts.run() => Err(error),
        }
    }

    pub fn check_apply_gap(&self) -> Result<(), StoreError> {
        let metrics = self.raft.metrics();
        let committed = metrics.borrow_watched().local_committed.map_or(0, |id| id.index);
        let applied = *self.shared.applied.borrow();
        if committed > applied + MAX_APPLY_GAP { Err(StoreError::TooManyRequests) } else { Ok(()) }
    }

    /// The term that this member leads. It has taken over whatever a leader keeps by itself, and was in touch with a
    /// quorum of late.
    pub fn must_lead(&self) -> Result<u64, StoreError> {
        self.check_sound()?;
        let (took_over, now) = (*self.leadership.borrow(), leadership::read(self));
        let leads = took_over.is_leader && now.is_leader && took_over.term == now.term;
        if leads { Ok(now.term) } else { Err(StoreError::NotLeader) }
    }

    /// A pause between looks at what only others can change: the only member of a cluster looks less often.
    pub fn pause(&self, between: Duration) -> Duration {
        let membership = self.shared.membership.load();
        if consensus::is_only_member(&membership, self.me) { LONELY * between } else { between }
    }

    /// Whether this member leads alone, and shows everything that members before it have acknowledged. Then nobody can
    /// acknowledge anything that is not in the view: whoever else would lead needs this member's vote. A learner would be
    /// one who can: it may have applied what its leader is still about to. So there must be none by what was decided
    /// last, and none by what the view shows, which has all that one acknowledged before it was removed.
    pub fn is_alone(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let applied = self.shared.membership.load();
        let only_me = |membership: &StoredMembership| consensus::is_only_member(membership, self.me);
        let view = self.shared.view.load();
        metrics.state == ServerState::Leader
            && view.applied().1 == metrics.vote.leader_id.term
            && only_me(&metrics.membership_config)
            && only_me(&applied)
            && applied.log_id().as_ref().is_some_and(|id| id.index() <= view.applied().0)
    }

    pub async fn read_barrier(&self) -> Result<(), StoreError> {
        self.check_sound()?;
        if self.is_alone() {
            return Ok(());
        }
        let (done, passed) = oneshot::channel();
        self.barrier.send(done).await.map_err(|_| StoreError::Stopped)?;
        passed.await.map_err(|_| StoreError::Stopped)??;
        self.check_sound()
    }

    /// As the leader, that everything acknowledged before another member asked is applied here, and that nobody else led
    /// then.
    pub async fn confirmed_by(self: &Arc<Self>, witness: Witness) -> Result<(), StoreError> {
        let deadline = self.env.clock.monotonic() + self.timing.request_timeout();
        let index = confirm::read_index(self, Some(witness)).await?;
        self.wait_applied(index, deadline).await?;
        self.check_sound()
    }
}

/// The sending of one proposal.
struct Attempts<'a> {
    inner: &'a Inner,
    proposal: Proposal,
    /// Whether a copy may be in a leader's log.
    may_be_in: bool,
}

impl Attempts<'_> {
    /// Submits copies until one is in the log, and then waits to be dropped; returns only what trying again cannot mend.
    async fn run(&mut self) -> StoreError {
        loop {
            let before = std::mem::replace(&mut self.may_be_in, true);
            let (failed, failure) = oneshot::channel();
            let submission = Submission { proposal: self.proposal.clone(), failed };
            if self.inner.proposals.send(submission).await.is_err() {
                return StoreError::Stopped;
            }
            match failure.await {
                Ok(Failure::NotIn) => self.may_be_in = before,
                Ok(Failure::MayBeIn) => {}
                Ok(Failure::Refused(error)) => return error,
                // It is in the log.
                Err(_) => return std::future::pending().await,
            }
            self.inner.wait_for_leader().await;
        }
    }
}
