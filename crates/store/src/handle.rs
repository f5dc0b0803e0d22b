//! The handle that callers use, and the server behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use env::{Env, Shutdown, TaskGroup};
use mvcc::{Applied, Command, LeaseId, MemberAttributes, View};
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, ServerState};
use parking_lot::Mutex;
use protos::peer;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use transport::Dialer;

use crate::barrier::{self, Waiter};
use crate::config::{Checks, Identity, StoreConfig, Timing};
use crate::consensus::{self, Node, Proposal, Raft, StoredMembership};
use crate::contacts::{self, Contacts, Voting};
use crate::copy::StateCopy;
use crate::counters::{self, Kind};
use crate::disk::{self, Disk};
use crate::doors::{self, Doors};
use crate::error::{BuildError, REMOVED, StoreError};
use crate::failpoints::hit;
use crate::forced;
use crate::integrity::repair::{self, Repair};
use crate::integrity::{self, Wrong, checks, keys};
use crate::join;
use crate::leadership::{self, Leadership};
use crate::leases::LeaseTime;
use crate::lessor;
use crate::log::Log;
use crate::members::{self, ClusterId, Member, hex};
use crate::peers::{Client, Lane, Peers};
use crate::proposals::{self, Failure, Submission};
use crate::pulse::Pulse;
use crate::renewals::{self, Asked};
use crate::server;
use crate::sessions::{Outstanding, Told};
use crate::state::{Core, Pace, Shared, StateMachine};
use crate::storage::{LogBatch, LogEngine, LogMeta, Storage};
use crate::upkeep;
use crate::watch::{WatchRequest, WatchSet, Watcher};

/// Entries that are committed and not yet applied, at most, before new ones are refused (etcd's
/// `maxGapBetweenApplyAndCommitIndex`).
const MAX_APPLY_GAP: u64 = 5000;
/// Hundredths of the leader's log that a learner must have before it gets a vote (etcd's `readyPercentThreshold`).
const IN_SYNC_PERCENT: u64 = 90;
/// Pause before the member's addresses are told again.
const PUBLISH_RETRY: Duration = Duration::from_millis(250);
/// How long a learner that is to be promoted may take to be so far.
const IN_SYNC_PATIENCE: Duration = Duration::from_millis(500);
/// How often proposals are looked for whose time is over.
const PROPOSAL_TICK: Duration = Duration::from_millis(100);
/// How long a leader that stops waits for another one.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause while no leader is known.
const LEADER_POLL: Duration = Duration::from_millis(10);

pub(crate) struct Inner {
    pub me: u64,
    pub cluster: ClusterId,
    pub raft: Raft,
    pub shared: Arc<Shared>,
    core: Arc<Mutex<Core>>,
    pub peers: Peers,
    pub storage: Arc<dyn Storage>,
    pub env: Env,
    pub timing: Timing,
    pub shutdown: Shutdown,
    pub contacts: Contacts,
    pub pulse: Pulse,
    pub disk: Arc<Disk>,
    strict_reconfig_check: bool,
    max_request_bytes: usize,
    pub lease_checkpoints: bool,
    barrier: mpsc::Sender<Waiter>,
    renewals: mpsc::Sender<Asked>,
    proposals: mpsc::Sender<Submission>,
    pub tasks: TaskGroup,
    leadership: watch::Receiver<Leadership>,
}

/// The store, for as many callers as like.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What must run for the handle to work.
pub struct StoreServer {
    inner: Arc<Inner>,
    engine: Arc<dyn LogEngine>,
    doors: Doors,
    attributes: MemberAttributes,
    version: String,
    barrier: mpsc::Receiver<Waiter>,
    renewals: mpsc::Receiver<Asked>,
    proposals: mpsc::Receiver<Submission>,
    leadership: watch::Sender<Leadership>,
    first_members: BTreeMap<u64, Node>,
    /// Whether the state was just replaced by another member's.
    repaired: bool,
    checks: Checks,
}

/// Why a running store ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The consensus stopped, in most cases because the disk failed.
    #[error("the store failed: {0}")]
    Consensus(String),
    /// The address for peers failed.
    #[error("serving peers failed: {0}")]
    Serve(String),
    /// Another member removed this one.
    #[error("{REMOVED}")]
    Removed,
    /// The state is wrong; it is replaced when the member is started again.
    #[error("{0}; it takes another member's when it is started again")]
    Repair(String),
    /// The state is wrong, and this member is alone.
    #[error("{0}; there is no other member whose state could be taken")]
    Damaged(String),
    /// A task failed.
    #[error(transparent)]
    Task(#[from] env::TaskFailure),
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

impl StoreConfig {
    /// Opens the data folder and binds the address for peers. Nothing runs before [`StoreServer::run`].
    ///
    /// # Errors
    /// See [`BuildError`].
    pub async fn build(
        self,
        env: Env,
        storage: Arc<dyn Storage>,
    ) -> Result<(Store, StoreServer), BuildError> {
        let mut engine = storage.open_log().map_err(BuildError::Storage)?;
        if !self.durable {
            engine = Arc::new(forced::Unsynced(engine));
        }
        let dialer = doors::dialer(&self);
        let identity = self.who(&*engine, &dialer, &env.clock).await?;
        check_identity(&*engine, &identity)?;
        if engine.meta(LogMeta::Removed).map_err(BuildError::Storage)?.is_some() {
            return Err(BuildError::Removed);
        }
        let doors = Doors::open(&self).await?;
        if self.force_new_cluster {
            forced::alone(&*engine, identity.me, self.own_urls()).map_err(BuildError::Storage)?;
        }
        let peers = Peers::new(identity.cluster.0, dialer, env.clock.clone());
        let (state, repaired) = self.open_state(&*engine, &storage, &env, &identity, &peers).await?;
        let (shared, core) = (state.shared(), state.core());
        let disk = Arc::new(Disk::new(env.clock.clone()));
        let log = Log::open(engine.clone(), env.clock.clone(), disk.clone()).map_err(BuildError::Storage)?;
        let raft = Raft::build(identity.me, self.raft_config()?, peers.clone(), log, state)
            .await
            .map_err(|error| BuildError::Consensus(error.to_string()))?;
        let (barrier, waiters) = mpsc::channel(barrier::QUEUE);
        let (renewals, to_renew) = mpsc::channel(renewals::QUEUE);
        let (proposals, submitted) = mpsc::channel(proposals::QUEUE);
        let shutdown = Shutdown::new();
        let (leadership, leadership_seen) = watch::channel(Leadership::default());
        let inner = Arc::new(Inner {
            me: identity.me,
            cluster: identity.cluster,
            raft,
            shared,
            core,
            peers,
            storage,
            env,
            timing: self.timing,
            tasks: TaskGroup::new("store", shutdown.clone()),
            shutdown,
            contacts: Contacts::new(self.health_interval),
            pulse: Pulse::new(identity.me, &self.timing, disk.clone()),
            disk,
            strict_reconfig_check: self.strict_reconfig_check,
            max_request_bytes: self.max_request_bytes,
            lease_checkpoints: self.lease_checkpoints,
            barrier,
            renewals,
            proposals,
            leadership: leadership_seen,
        });
        let node = |peer_urls| Node { peer_urls, joining: false };
        let nodes = identity.members.into_iter().map(|(id, peer_urls)| (id, node(peer_urls)));
        let server = StoreServer {
            inner: inner.clone(),
            engine,
            doors,
            attributes: MemberAttributes {
                id: identity.me,
                name: self.name,
                client_urls: self.advertise_client_urls,
            },
            version: self.version,
            barrier: waiters,
            renewals: to_renew,
            proposals: submitted,
            leadership,
            first_members: nodes.collect(),
            repaired,
            checks: self.checks,
        };
        Ok((Store { inner }, server))
    }

    /// Opens the state; one that is wrong is replaced by another member's first. Whether it was.
    async fn open_state(
        &self,
        engine: &dyn LogEngine,
        storage: &Arc<dyn Storage>,
        env: &Env,
        identity: &Identity,
        peers: &Peers,
    ) -> Result<(StateMachine, bool), BuildError> {
        let noted = repair::noted(engine).map_err(BuildError::Storage)?;
        let first_boot = engine.meta(LogMeta::Boot).map_err(BuildError::Storage)?.is_none();
        let boot = count_boot(engine).map_err(BuildError::Storage)?;
        let pace = || Pace::new(self.compaction, self.warn_apply);
        let outstanding = || Outstanding::new(identity.me, boot);
        let open = || open_state(storage, (env, pace(), self.cache_bytes), outstanding(), first_boot);
        let opened = match &noted {
            Some(repair) => Err(io::Error::other(repair.why.clone())),
            None => open(),
        };
        let mut contradicted = false;
        let error = match opened {
            Ok(state) if self.checks.initial && !first_boot => {
                match self.first_check(&state, identity.me, peers).await? {
                    None => return Ok((state, false)),
                    Some(why) => {
                        contradicted = true;
                        io::Error::other(why)
                    }
                }
            }
            Ok(state) => return Ok((state, false)),
            Err(error) => error,
        };
        let mut others = BTreeMap::new();
        if contradicted || noted.is_some() || integrity::is_damage(&error) && !first_boot {
            others = repair::others(engine, noted.as_ref(), identity).map_err(BuildError::Storage)?;
            if others.is_empty() {
                others = join::others(self, identity.me, peers, &env.clock).await;
            }
        }
        if others.is_empty() {
            return Err(BuildError::Storage(error));
        }
        let repair = Repair { engine, storage, peers, clock: &env.clock, others };
        repair.run(&error.to_string()).await?;
        Ok((open().map_err(BuildError::Storage)?, true))
    }

    /// Compares the state with the others' before anything is served; why it is to be replaced, if it is.
    async fn first_check(
        &self,
        state: &StateMachine,
        me: u64,
        peers: &Peers,
    ) -> Result<Option<String>, BuildError> {
        let checked = checks::first(me, peers, &state.shared(), self.timing.request_timeout()).await;
        let error = match checked {
            Ok(checks::First::Passed) => return Ok(None),
            Ok(checks::First::Contradicted(why)) => return Ok(Some(why)),
            Ok(checks::First::Inconsistent) => checks::inconsistent(me),
            Err(error) => format!("{me:x} failed to fetch hash ({error})"),
        };
        tracing::error!(error, "checkInitialHashKV failed");
        Err(BuildError::Inconsistent(error))
    }
}

impl StoreConfig {
    /// Who this member is: by its folder where that is to be trusted, or by the rest of the configuration.
    async fn who(
        &self,
        engine: &dyn LogEngine,
        dialer: &Dialer,
        clock: &env::Clock,
    ) -> Result<Identity, BuildError> {
        let trusted = self.trust_folder || self.join || join::is_seeded(engine)?;
        let known = if trusted { join::known(engine)? } else { None };
        match known {
            Some(known) if self.join => Ok(known),
            // A member that never got to write the first membership still needs it.
            Some(known) => Ok(self.identity().ok().filter(|same| same.is(&known)).unwrap_or(known)),
            None if self.join => join::identity(self, dialer.clone(), clock).await,
            None => {
                let identity = self.identity()?;
                if self.trust_folder {
                    join::refuse_second_start(self, &identity, dialer.clone(), clock).await?;
                }
                Ok(identity)
            }
        }
    }
}

/// A data folder is one member's for ever: taken by another it could vote twice.
fn check_identity(engine: &dyn LogEngine, identity: &Identity) -> Result<(), BuildError> {
    let expected = join::spell(identity.me, identity.cluster);
    match engine.meta(LogMeta::Identity).map_err(BuildError::Storage)? {
        Some(found)
            if join::read(&String::from_utf8_lossy(&found)) != Some((identity.me, identity.cluster)) =>
        {
            Err(BuildError::Identity { found: String::from_utf8_lossy(&found).into_owned(), expected })
        }
        Some(_) => Ok(()),
        None => {
            let meta = vec![(LogMeta::Identity, Bytes::from(expected))];
            let batch = LogBatch { meta, ..LogBatch::default() };
            engine.write(batch).and_then(|()| engine.sync()).map_err(BuildError::Storage)
        }
    }
}

/// A removed member never comes back on its folder: what it knows may have been undone by those who stayed.
fn note_removal(engine: &dyn LogEngine) -> io::Result<()> {
    let meta = vec![(LogMeta::Removed, Bytes::from_static(b"removed"))];
    engine.write(LogBatch { meta, ..LogBatch::default() })?;
    engine.sync()
}

/// Opens the state. A folder that has a state and was never booted has lost its log, and its votes with it: it could vote
/// twice.
fn open_state(
    storage: &Arc<dyn Storage>,
    (env, pace, cache_bytes): (&Env, Pace, u64),
    outstanding: Outstanding,
    first_boot: bool,
) -> io::Result<StateMachine> {
    let state = StateMachine::open(storage.clone(), env.clone(), outstanding, (pace, cache_bytes))?;
    if first_boot && *state.shared().applied.borrow() > 0 {
        return Err(consensus::damaged("the data folder", "it holds a state and no log"));
    }
    Ok(state)
}

/// How often this folder was opened, this time included: what tells this process' proposals from those before.
fn count_boot(engine: &dyn LogEngine) -> io::Result<u64> {
    let last = match engine.meta(LogMeta::Boot)? {
        Some(bytes) => {
            let bytes =
                bytes[..].try_into().map_err(|_| consensus::damaged("the boot count", "its length"))?;
            u64::from_be_bytes(bytes)
        }
        None => 0,
    };
    let boot = Bytes::copy_from_slice(&(last + 1).to_be_bytes());
    engine.write(LogBatch { meta: vec![(LogMeta::Boot, boot)], ..LogBatch::default() })?;
    engine.sync()?;
    Ok(last + 1)
}

impl StoreServer {
    /// The first address for peers.
    ///
    /// # Errors
    /// When the socket has none.
    pub fn peer_address(&self) -> io::Result<std::net::SocketAddr> {
        self.doors.address()
    }

    /// Runs until `shutdown`, then hands leadership over and stops.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self, shutdown: Shutdown) -> Result<(), RunError> {
        let inner = self.inner.clone();
        let tasks = inner.tasks.clone();
        self.doors.serve(&tasks, inner.clone()).map_err(|error| RunError::Serve(error.to_string()))?;
        inner.raft.run();
        tasks.spawn_detached("read-barrier", barrier::run(inner.clone(), self.barrier));
        tasks.spawn_detached("renewals", renewals::run(inner.clone(), self.renewals));
        tasks.spawn_detached("leadership", leadership::follow(inner.clone(), self.leadership));
        tasks.spawn_detached(
            "leader-process",
            leadership::watch_leader(inner.clone(), inner.leadership.clone()),
        );
        tasks.spawn_detached("leader-pulse", leadership::watch_pulse(inner.clone()));
        tasks.spawn_detached("leader-disk", leadership::leave_slow_disk(inner.clone()));
        if env::failpoints::ENABLED {
            tasks.spawn_detached("failpoints", leadership::pass_points(inner.clone()));
        }
        tasks.spawn_detached("proposals", proposals::run(inner.clone(), self.proposals));
        tasks.spawn_detached("overdue-proposals", expire_proposals(inner.clone()));
        tasks.spawn_detached("watches", {
            let (shared, stopped) = (inner.shared.clone(), inner.shutdown.clone());
            async move { shared.hub.dispatch(stopped).await }
        });
        tasks.spawn_detached("leases", lessor::keep(inner.clone()));
        tasks.spawn_detached("contacts", contacts::keep(inner.clone()));
        tasks.spawn_detached("joining", join::promote(inner.clone()));
        let upkeep = (inner.core.clone(), inner.shared.clone(), inner.raft.clone(), inner.shutdown.clone());
        tasks.spawn("upkeep", upkeep::run(upkeep.0, upkeep.1, upkeep.2, upkeep.3));
        tasks.spawn_detached("publish", publish_attributes(inner.clone(), self.attributes, self.version));
        tasks.spawn_detached("integrity", integrity::watch::run(inner.clone()));
        checks::spawn(&inner, self.checks);
        if self.repaired {
            tasks.spawn_detached("all-clear", integrity::watch::all_clear(inner.clone()));
        }
        begin(&inner, self.first_members).await?;
        let ended = tokio::select! {
            () = shutdown.wait() => Ok(()),
            () = inner.shutdown.wait() => Ok(()),
            error = failure(&inner) => Err(error),
            () = inner.peers.removed().wait() => Err(RunError::Removed),
            _ = inner.shared.fence.wait() => Ok(()),
        };
        // Whatever else ended, a state that is wrong is the reason.
        let ended = match inner.shared.fence.wrong() {
            Some(wrong) => Err(fenced(&inner, &*self.engine, wrong).await),
            None => ended,
        };
        if let Err(RunError::Removed) = &ended {
            note_removal(&*self.engine).map_err(|error| RunError::Consensus(error.to_string()))?;
        }
        if matches!(&ended, Ok(()) | Err(RunError::Repair(_))) {
            hand_over(&inner).await;
        }
        inner.shutdown.trigger();
        drop(inner.raft.shutdown().await);
        if ended.is_ok() && inner.core.lock().mvcc().is_index_outdated() {
            upkeep::save_index(&inner.core).await;
        }
        upkeep::settle(&inner.shared).await;
        tasks.join(inner.timing.election_max).await?;
        ended
    }
}

/// Writes the first membership, once. Every first member writes the same, so none needs to be the first; one that
/// joins waits for the leader.
async fn begin(inner: &Inner, members: BTreeMap<u64, Node>) -> Result<(), RunError> {
    let failed = |error: String| RunError::Consensus(error);
    if members.is_empty() || inner.raft.is_initialized().await.map_err(|error| failed(error.to_string()))? {
        if inner.shared.membership.load().voter_ids().eq([inner.me]) {
            // Nobody else could lead: there is nothing to wait for.
            inner.raft.trigger().elect(false).await.map_err(|error| failed(error.to_string()))?;
        }
        return Ok(());
    }
    match inner.raft.initialize(members).await {
        Ok(()) | Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// What a member does whose fence was raised: it notes that its state is to be replaced, and tells the others.
async fn fenced(inner: &Inner, engine: &dyn LogEngine, wrong: &Wrong) -> RunError {
    let others: BTreeMap<u64, Node> = {
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.filter(|(id, _)| **id != inner.me).map(|(id, node)| (*id, node.clone())).collect()
    };
    if others.is_empty() {
        return RunError::Damaged(wrong.to_string());
    }
    if let Err(error) = repair::note(engine, &wrong.to_string(), &others) {
        return RunError::Consensus(error.to_string());
    }
    integrity::watch::alarm(inner, inner.me, mvcc::AlarmAction::Activate).await;
    RunError::Repair(wrong.to_string())
}

/// Waits for what a store cannot live with.
async fn failure(inner: &Inner) -> RunError {
    let mut changes = inner.raft.server_metrics();
    let mut belonged = false;
    loop {
        {
            let now = changes.borrow_watched();
            let belongs = now.membership_config.membership().get_node(&inner.me).is_some();
            if belonged && !belongs {
                return RunError::Removed;
            }
            belonged |= belongs;
        }
        if changes.changed().await.is_err() {
            return RunError::Consensus(match &inner.raft.metrics().borrow_watched().running_state {
                Ok(()) => "it ended unexpectedly".to_owned(),
                Err(error) => error.to_string(),
            });
        }
    }
}

/// Ends the waiting for proposals whose time is over.
async fn expire_proposals(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.env.clock.sleep(PROPOSAL_TICK) => {}
            () = inner.shutdown.wait() => break,
        }
        inner.shared.outstanding.expire(inner.env.clock.monotonic());
    }
    inner.shared.outstanding.stop();
}

/// Before a leader stops it makes the member that is furthest along the leader.
async fn hand_over(inner: &Inner) {
    let target = {
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        let replication = metrics.replication.iter().flatten();
        let others = replication.filter(|(id, _)| **id != inner.me && voters.contains(id));
        others.max_by_key(|(_, matched)| matched.map(|matched| matched.index)).map(|(id, _)| *id)
    };
    let Some(target) = target else { return };
    if inner.raft.trigger().transfer_leader(target).await.is_err() {
        return;
    }
    let mut metrics = inner.raft.metrics();
    let moved = async {
        while metrics.borrow_watched().current_leader == Some(inner.me) {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(TRANSFER_TIMEOUT, moved).await.is_err() {
        tracing::warn!(to = hex(target), "the leadership was not taken over in time");
    }
}

/// Tells the cluster this member's name and addresses and its version, until it is told.
async fn publish_attributes(inner: Arc<Inner>, attributes: MemberAttributes, version: String) {
    while !inner.shutdown.is_triggered() {
        let view = inner.shared.view.load_full();
        let told = if view.members().all(|known| **known != attributes) {
            inner.propose(Command::MemberAttributes(attributes.clone())).await
        } else if view.member_version(inner.me) != Some(&version) {
            inner.propose(Command::MemberVersion { id: inner.me, version: version.clone() }).await
        } else {
            return;
        };
        if let Err(error) = told {
            tracing::debug!(%error, "cannot publish the member's addresses yet");
            tokio::select! {
                () = inner.env.clock.sleep(PUBLISH_RETRY) => {}
                () = inner.shutdown.wait() => return,
            }
        }
    }
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

    async fn propose_encoded(&self, command: Bytes) -> Result<Applied, StoreError> {
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

    /// Whether this member leads alone, and shows everything that members before it have acknowledged. Then nobody can
    /// acknowledge anything that is not in the view: whoever else would lead needs this member's vote. A learner would be
    /// one who can: it may have applied what its leader is still about to. So there must be none by what was decided
    /// last, and none by what the view shows, which has all that one acknowledged before it was removed.
    fn is_alone(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let applied = self.shared.membership.load();
        let only_me = |membership: &StoredMembership| {
            let mut nodes = membership.membership().nodes();
            nodes.next().is_some_and(|(id, _)| *id == self.me) && nodes.next().is_none()
        };
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

    /// The members as this leader decided last. The metrics tell of it later than whoever asked is answered.
    async fn decided(&self) -> Result<StoredMembership, StoreError> {
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
            self.env.clock.sleep(LEADER_POLL).await;
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
            hand_over(self).await;
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

/// When a question to a leader may be asked again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Whatever became of it.
    Always,
    /// If it surely was not heard.
    IfNotHeard,
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

/// Bytes that a command's encoding adds to the request it came from, at most.
const MAX_OVERHEAD: usize = 64 << 10;

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

impl Store {
    pub(crate) fn of(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// The newest state that this replica has applied.
    pub fn view(&self) -> Arc<View> {
        self.inner.shared.view.load_full()
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
        Watcher::new(self.inner.shared.clone(), request, self.inner.shutdown.clone())
    }

    /// An empty set of watches.
    pub fn watches(&self) -> WatchSet {
        WatchSet::new(self.inner.shared.clone(), self.inner.shutdown.clone())
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
        let leader = leadership::read(&self.inner).leader;
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        Status {
            leader: leader.unwrap_or(0),
            term: metrics.current_term,
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
        inner.raft.trigger().transfer_leader(to).await.map_err(|_| StoreError::Stopped)?;
        let mut leadership = inner.leadership.clone();
        let moved = leadership.wait_for(|now| now.leader == Some(to));
        match tokio::time::timeout(inner.timing.request_timeout(), moved).await {
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
