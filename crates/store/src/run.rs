//! The running store: its tasks, its beginning, and how it ends.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use env::Shutdown;
use mvcc::{Command, MemberAttributes};
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::RaftError;
use tokio::sync::{mpsc, watch};

use crate::barrier::{self, Waiter};
use crate::build;
use crate::config::Checks;
use crate::consensus::Node;
use crate::contacts::{self};
use crate::doors::Doors;
use crate::error::REMOVED;
use crate::handover;
use crate::inner::Inner;
use crate::integrity::repair::{self};
use crate::integrity::{self, Wrong, checks};
use crate::join;
use crate::leadership::{self, Leadership};
use crate::lessor;
use crate::proposals::{self, Submission};
use crate::renewals::{self, Asked};
use crate::storage::LogEngine;
use crate::upkeep;

/// Pause before the member's addresses are told again.
const PUBLISH_RETRY: Duration = Duration::from_millis(250);
/// How often proposals are looked for whose time is over.
const PROPOSAL_TICK: Duration = Duration::from_millis(100);

/// What must run for the handle to work.
pub struct StoreServer {
    pub(crate) inner: Arc<Inner>,
    pub(crate) engine: Arc<dyn LogEngine>,
    pub(crate) doors: Doors,
    pub(crate) attributes: MemberAttributes,
    pub(crate) version: String,
    pub(crate) barrier: mpsc::Receiver<Waiter>,
    pub(crate) renewals: mpsc::Receiver<Asked>,
    pub(crate) proposals: mpsc::Receiver<Submission>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) first_members: BTreeMap<u64, Node>,
    /// Whether the state was just replaced by another member's.
    pub(crate) repaired: bool,
    pub(crate) checks: Checks,
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
            async move {
                let over = async {
                    tokio::select! {
                        () = stopped.wait() => {}
                        _ = shared.fence.wait() => {}
                    }
                };
                shared.hub.dispatch(over).await;
            }
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
            build::note_removal(&*self.engine).map_err(|error| RunError::Consensus(error.to_string()))?;
        }
        if matches!(&ended, Ok(()) | Err(RunError::Repair(_))) {
            handover::to_the_furthest(&inner).await;
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
