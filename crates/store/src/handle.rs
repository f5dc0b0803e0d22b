//! The handle that callers use.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mvcc::{Applied, Command, LeaseId, View};
use openraft::async_runtime::WatchReceiver as _;
use protos::peer;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::config::Timing;
use crate::copy::StateCopy;
use crate::disk::{self};
use crate::error::StoreError;
use crate::handover;
use crate::inner::Inner;
use crate::integrity::keys;
use crate::leadership::{self, Leadership};
use crate::leases::LeaseTime;
use crate::members::{self, ClusterId, Member};
use crate::peers::{Client, Lane};
use crate::renewals::{self, Asked};
use crate::server;
use crate::watch::{WatchRequest, WatchSet, Watcher};

/// The store, for as many callers as like.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What a member knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who leads; 0 when nobody is known to.
    pub leader: u64,
    /// The raft term.
    pub term: u64,
    /// The last entry known to be committed.
    pub committed_index: u64,
    /// The last entry that is in the view.
    pub applied_index: u64,
    /// Whether this member has no vote.
    pub is_learner: bool,
}

/// When a question to a leader may be asked again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Whatever became of it.
    Always,
    /// If it surely was not heard.
    IfNotHeard,
}

/// How long a member that starts tries to ask a leader before it goes by what it is told.
const LONELY: Duration = Duration::from_secs(5);
const LONELY_POLL: Duration = Duration::from_millis(50);

impl Store {
    pub(crate) fn of(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// The newest state that this replica has applied.
    pub fn view(&self) -> Arc<View> {
        self.inner.shared.view.load_full()
    }

    /// Returns when the cluster knows this member, and it shows everything that was acknowledged before it was started:
    /// whoever asks it earlier gets a past that nobody else has any more. Returns too when the store stops.
    pub async fn caught_up(&self) {
        let inner = &self.inner;
        tokio::select! {
            () = self.confirmed() => {}
            // One whose connections to the others fail, but who is reached by them, is told by the leader what there is.
            () = async {
                inner.env.clock.sleep(LONELY).await;
                self.told().await;
            } => {}
        }
    }

    async fn confirmed(&self) {
        let (inner, me) = (&self.inner, self.inner.me);
        let known = |_: &u64| inner.shared.view.load().members().any(|member| member.id == me);
        drop(inner.shared.applied.subscribe().wait_for(known).await);
        while inner.read_barrier().await.is_err() && !inner.shutdown.is_triggered() {
            inner.wait_for_leader().await;
        }
    }

    /// Returns when everything is applied that was committed when a leader was first heard of.
    async fn told(&self) {
        let inner = &self.inner;
        let is_told = || {
            let heard = inner.heard.load(Ordering::Relaxed);
            heard > 0 && inner.shared.view.load().applied_index() >= heard
        };
        while !is_told() && !inner.shutdown.is_triggered() {
            inner.env.clock.sleep(LONELY_POLL).await;
        }
    }

    /// Returns when [`Self::view`] shows everything that was acknowledged, by whichever member, before the call.
    ///
    /// # Errors
    /// `Timeout` without a leader, `Stopped`.
    pub async fn read_barrier(&self) -> Result<(), StoreError> {
        self.inner.read_barrier().await
    }

    /// Replicates a command; it is durable and applied here when this returns. A member that does not lead forwards
    /// it, and sends it again when the leader is lost: it takes effect once. The answer has no events; watchers see them.
    ///
    /// # Errors
    /// `NoLeader`, `TooLarge`, `TooManyRequests`: it has no effect. `Timeout`, `Stopped`: whether it has is not known.
    /// What the state machine refuses is in the answer.
    pub async fn propose(&self, command: Command) -> Result<Applied, StoreError> {
        self.inner.check_sound()?;
        let applied = self.inner.propose(command).await?;
        self.inner.check_sound()?;
        Ok(applied)
    }

    /// Whether [`Self::view`] may be shown to anyone.
    ///
    /// # Errors
    /// `Corrupt` when this member's state is wrong.
    pub fn check_sound(&self) -> Result<(), StoreError> {
        self.inner.check_sound()
    }

    /// The hash of the keys at a revision, or now if that is 0, for members to compare. All are read for it.
    ///
    /// # Errors
    /// `Mvcc` when the revision is compacted or not reached, or a key cannot be read; `Timeout` when compactions kept
    /// coming between.
    pub async fn hash_kv(&self, revision: mvcc::Revision) -> Result<mvcc::StateHash, StoreError> {
        keys::hash(&self.inner.shared, revision).await
    }

    /// Returns when what the compaction of this revision let go is deleted here.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn swept(&self, revision: mvcc::Revision) -> Result<(), StoreError> {
        let mut swept = self.inner.shared.swept.subscribe();
        tokio::select! {
            found = swept.wait_for(|swept| *swept >= revision) => match found {
                Ok(_) => Ok(()),
                Err(_) => Err(StoreError::Stopped),
            },
            () = self.inner.shutdown.wait() => Err(StoreError::Stopped),
        }
    }

    /// A copy of the state as it is now, of which every version can be read. Blocks while it is made.
    ///
    /// # Errors
    /// When the disk cannot hold it.
    pub fn copy_state(&self) -> io::Result<StateCopy> {
        StateCopy::make(&*self.inner.storage, &self.inner.shared)
    }

    /// Watches a range of keys.
    pub fn watch(&self, request: WatchRequest) -> Watcher {
        Watcher::new(self.inner.shared.clone(), request)
    }

    /// An empty set of watches.
    pub fn watches(&self) -> WatchSet {
        WatchSet::new(self.inner.shared.clone())
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Whether this member leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        leadership::read(&self.inner).is_leader
    }

    /// This member's id.
    pub fn member_id(&self) -> u64 {
        self.inner.me
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> ClusterId {
        self.inner.cluster
    }

    /// The consensus' times.
    pub fn timing(&self) -> Timing {
        self.inner.timing
    }

    /// All members by id, as this replica knows them.
    pub fn members(&self) -> Vec<Member> {
        members::list(&self.inner.shared.membership.load_full(), &self.view())
    }

    /// What this member knows of itself.
    pub fn status(&self) -> Status {
        let leadership = leadership::read(&self.inner);
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        Status {
            leader: leadership.leader.unwrap_or(0),
            term: leadership.term,
            committed_index: metrics.local_committed.map_or(0, |id| id.index),
            applied_index: *self.inner.shared.applied.borrow(),
            is_learner: !voters.contains(&self.inner.me),
        }
    }

    /// Proposals of this member that wait for their answer.
    pub fn pending_proposals(&self) -> usize {
        self.inner.shared.outstanding.pending()
    }

    /// The members that this one is in touch with.
    pub fn reached_members(&self) -> BTreeSet<u64> {
        self.inner.contacts.reached()
    }

    /// Whether a write to the engine has begun and is not over. It takes less than a moment, unless the disk hangs.
    pub fn is_writing(&self) -> bool {
        let shared = &self.inner.shared;
        shared.publishing.load(Ordering::Relaxed) || shared.engine.lock().is_writing()
    }

    /// Whether the log has been waiting for its disk for so long that this is no ordinary sync.
    pub fn is_log_waiting(&self) -> bool {
        self.inner.disk.stuck() > disk::SLOW
    }

    /// Returns when this member and a quorum have heard each other since the call, each over the connections that it
    /// opened. A read needs less: this is for those who ask how the member is.
    ///
    /// # Errors
    /// `Timeout`, `Stopped`.
    pub async fn meet_quorum(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let voters = inner.shared.membership.load().voter_ids().collect();
        tokio::select! {
            () = inner.pulse.meet(&inner.env.clock, &voters) => Ok(()),
            () = inner.env.clock.sleep(inner.timing.request_timeout()) => Err(StoreError::Timeout),
            () = inner.shutdown.wait() => Err(StoreError::Stopped),
        }
    }

    /// Renews a lease, wherever the leader is: its time to live in seconds, `None` for an unknown lease.
    ///
    /// # Errors
    /// `NoLeader`, `Timeout`, `Stopped`.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Option<i64>, StoreError> {
        if self.inner.is_alone() {
            return renewals::alone(&self.inner, id).await;
        }
        let (done, renewed) = oneshot::channel();
        self.inner.renewals.send(Asked { id, done }).await.map_err(|_| StoreError::Stopped)?;
        renewed.await.map_err(|_| StoreError::Stopped)?
    }

    /// How long a lease still has, `None` for an unknown lease.
    ///
    /// # Errors
    /// `NoLeader`, `Timeout`, `Stopped`.
    pub async fn lease_time_to_live(&self, id: LeaseId) -> Result<Option<LeaseTime>, StoreError> {
        self.ask_leader(
            Again::Always,
            || async { self.inner.lease_time_here(id) },
            |mut client| async move {
                let answer = client.lease_time_to_live(peer::LeaseRequest { id }).await?.into_inner();
                Ok(answer.found.then_some(LeaseTime { granted_ttl: answer.granted_ttl, ttl: answer.ttl }))
            },
        )
        .await
    }

    /// Makes another member the leader. Only the leader can.
    ///
    /// # Errors
    /// `NotLeader`, `BadTransferee`, `Timeout`.
    pub async fn transfer_leadership(&self, to: u64) -> Result<(), StoreError> {
        let inner = &self.inner;
        if inner.leader() != Some(inner.me) {
            return Err(StoreError::NotLeader);
        }
        // As it was decided last: a leader that is new may not have applied the first members yet.
        if !inner.decided().await?.membership().voter_ids().any(|id| id == to) {
            return Err(StoreError::BadTransferee);
        }
        if to == inner.me {
            return Ok(());
        }
        let deadline = self.deadline();
        handover::to(inner, to, deadline).await?;
        let mut leadership = inner.leadership.clone();
        let moved = leadership.wait_for(|now| now.leader == Some(to));
        match tokio::time::timeout_at(deadline, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Stopped),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// Adds a member; it has to be started afterwards.
    ///
    /// # Errors
    /// `Membership`, and those of [`Self::propose`].
    pub async fn member_add(&self, peer_urls: Vec<String>, learner: bool, id: u64) -> Result<(), StoreError> {
        use peer::change_members_request::Change;
        let change = if learner { Change::AddLearner } else { Change::Add };
        self.change_members(change, id, peer_urls).await
    }

    /// Removes a member and what is known of it.
    ///
    /// # Errors
    /// `MemberNotFound`, `Membership`, and those of [`Self::propose`].
    pub async fn member_remove(&self, id: u64) -> Result<(), StoreError> {
        self.change_members(peer::change_members_request::Change::Remove, id, Vec::new()).await?;
        self.propose(Command::MemberForget { id }).await.map(drop)
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// As [`Self::member_remove`].
    pub async fn member_promote(&self, id: u64) -> Result<(), StoreError> {
        self.change_members(peer::change_members_request::Change::Promote, id, Vec::new()).await
    }

    /// Gives a member other peer URLs.
    ///
    /// # Errors
    /// As [`Self::member_remove`].
    pub async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<(), StoreError> {
        self.change_members(peer::change_members_request::Change::Update, id, peer_urls).await
    }

    async fn change_members(
        &self,
        change: peer::change_members_request::Change,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<(), StoreError> {
        let request = peer::ChangeMembersRequest { change: change.into(), id, peer_urls };
        let there = request.clone();
        let index = self
            .ask_leader(
                Again::IfNotHeard,
                || self.inner.change_members_here(request.clone()),
                |mut client| {
                    let request = there.clone();
                    async move { Ok(client.change_members(request).await?.into_inner().index) }
                },
            )
            .await?;
        self.inner.wait_applied(index, self.deadline()).await
    }

    fn deadline(&self) -> Instant {
        self.inner.env.clock.monotonic() + self.inner.timing.request_timeout()
    }

    /// Asks whoever leads, until there is an answer from one who does.
    pub(crate) async fn ask_leader<T, Here, There>(
        &self,
        again: Again,
        here: impl Fn() -> Here,
        there: impl Fn(Client) -> There,
    ) -> Result<T, StoreError>
    where
        Here: Future<Output = Result<T, StoreError>>,
        There: Future<Output = Result<T, tonic::Status>>,
    {
        let (inner, deadline) = (&self.inner, self.deadline());
        loop {
            let result = match inner.leader() {
                Some(leader) if leader == inner.me => here().await,
                Some(leader) => {
                    let asked = tokio::time::timeout_at(deadline, there(inner.peer(leader, Lane::Forward)?));
                    let answer = match again {
                        Again::Always => inner.while_led_by(leader, asked).await,
                        Again::IfNotHeard => Ok(asked.await),
                    };
                    match answer {
                        Ok(Ok(answer)) => answer.map_err(|status| server::error_from_status(&status)),
                        Ok(Err(_)) => Err(StoreError::Timeout),
                        Err(lost) => Err(lost),
                    }
                }
                None => Err(StoreError::NoLeader),
            };
            let lost = matches!(result, Err(StoreError::NoLeader | StoreError::NotLeader));
            if !lost || inner.shutdown.is_triggered() || inner.env.clock.monotonic() >= deadline {
                return result;
            }
            inner.wait_for_leader().await;
        }
    }
}
