//! What every service shares.

use std::path::PathBuf;
use std::sync::Arc;

use env::{Env, Shutdown, TaskGroup};
use mvcc::{Alarm, AlarmAction, AlarmKind, Caller, Command, MvccError};
use protos::etcd::etcdserverpb::ResponseHeader;
use store::{Store, StoreError};
use tokio::sync::Semaphore;
use tonic::Status;

use crate::auth::Tokens;
use crate::budget::Budget;
use crate::counters::Counters;
use crate::error;

#[derive(Clone)]
pub(crate) struct Context {
    pub store: Store,
    pub env: Env,
    pub tasks: TaskGroup,
    pub shutdown: Shutdown,
    pub limits: Limits,
    pub tokens: Arc<Tokens>,
    /// Where files may be made that are gone with the process.
    pub scratch: PathBuf,
    pub counters: Counters,
    /// Snapshots that may be sent besides those that are.
    pub snapshots: Arc<Semaphore>,
    /// What clients may hold.
    pub budget: Budget,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    /// Bytes of keys and values, with the versions that were not compacted, that may be stored.
    pub quota_bytes: Option<u64>,
    /// Leases that may be there.
    pub max_leases: usize,
    pub max_learners: usize,
    pub progress_interval: std::time::Duration,
    /// A read that takes longer is told in the log.
    pub warn_apply: std::time::Duration,
}

/// Bytes of a gRPC message beyond `--max-request-bytes`, as in etcd.
const MESSAGE_OVERHEAD: usize = 512 << 10;

impl Limits {
    /// Bytes that a message from a client may have.
    pub fn max_message(&self) -> usize {
        self.max_request_bytes.saturating_add(MESSAGE_OVERHEAD)
    }
}

impl Context {
    pub fn header(&self, revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.store.cluster_id().0,
            member_id: self.store.member_id(),
            revision,
            raft_term: self.store.leadership().borrow().term,
        })
    }

    /// The version whose form the state has; it follows the cluster's.
    pub fn storage_version(&self) -> Option<String> {
        Some(crate::version::storage_version(&self.store.view()))
    }

    /// Tells in the log, and counts, that a read took long.
    pub fn tell_slow_read(&self, prefix: &str, took: std::time::Duration) {
        let expected = self.limits.warn_apply;
        if took <= expected {
            return;
        }
        self.counters.slow_applies.increment(1);
        tracing::warn!(
            took = format!("{took:?}"),
            "expected-duration" = format!("{expected:?}"),
            prefix,
            "apply request took too long"
        );
    }

    /// A header with this replica's present revision.
    pub fn header_now(&self) -> Option<ResponseHeader> {
        self.header(self.store.view().revision())
    }

    /// An id that no lease has: positive, so that clients in every language can hold it.
    pub fn free_lease(&self) -> i64 {
        let view = self.store.view();
        loop {
            let id = (self.env.rng.u64() >> 1).cast_signed();
            if id != 0 && view.lease(id).is_none() {
                return id;
            }
        }
    }

    /// Replicates a command on a caller's behalf: the revision afterwards and the answer. It is applied only if the
    /// caller may, by what the state says then.
    pub async fn propose(&self, caller: Caller, command: Command) -> Result<(i64, mvcc::Response), Status> {
        self.propose_own(command.by(caller)).await
    }

    /// Replicates a command of the member itself.
    pub async fn propose_own(&self, command: Command) -> Result<(i64, mvcc::Response), Status> {
        let applied = self.store.propose(command).await.map_err(error::status)?;
        let response = applied.response.map_err(|error| error::mvcc_status(&error))?;
        Ok((applied.revision, response))
    }

    /// Refuses a change that is larger than `--max-request-bytes`.
    pub fn check_size(&self, request: &impl prost::Message) -> Result<(), Status> {
        if request.encoded_len() > self.limits.max_request_bytes {
            return Err(error::status(StoreError::TooLarge));
        }
        Ok(())
    }

    /// Refuses what would exceed the quota, and tells everyone: the alarm stays until an operator takes it off.
    pub async fn check_space(&self, cost: usize) -> Result<(), Status> {
        let Some(quota) = self.limits.quota_bytes else { return Ok(()) };
        let view = self.store.view();
        if view.total_bytes() + cost as u64 <= quota {
            return Ok(());
        }
        let alarm = Alarm { member: self.store.member_id(), kind: AlarmKind::NoSpace };
        if !view.alarms().any(|raised| raised.kind == AlarmKind::NoSpace) {
            tracing::warn!(quota, used = view.total_bytes(), "the quota is used up: writes are refused");
            self.propose_own(Command::Alarm { action: AlarmAction::Activate, alarm }).await?;
        }
        Err(error::mvcc_status(&MvccError::NoSpace))
    }

    /// Waits until this replica shows everything that was acknowledged, unless the client wants what there is.
    pub async fn barrier(&self, serializable: bool) -> Result<(), Status> {
        let passed = if serializable { self.store.check_sound() } else { self.store.read_barrier().await };
        passed.map_err(error::status)
    }
}
