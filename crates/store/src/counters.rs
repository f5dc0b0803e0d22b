//! What this store counts, under etcd's names: dashboards and alerts that know etcd know it.
//!
//! Handles are made once and kept, so that counting is one atomic operation. What can be read off the state
//! (revisions, sizes, who leads) is not counted here: whoever renders the metrics asks for it then.

use std::sync::OnceLock;
use std::time::Duration;

use env::Metric;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use mvcc::{AlarmAction, Applied, AuthCommand, Command, EventKind, Op, OpResponse, Response, TxnResponse};

use crate::members::hex;

const MILLIS: (f64, f64, u16) = (0.001, 2.0, 14);
const TENTHS_OF_MILLIS: (f64, f64, u16) = (0.0001, 2.0, 20);
const TRANSFERS: (f64, f64, u16) = (0.1, 2.0, 10);

/// The metrics of this crate.
pub const METRICS: &[Metric] = &[
    Metric::histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "How long making the log durable took.",
        MILLIS,
    ),
    Metric::histogram("etcd_disk_wal_write_duration_seconds", "How long writing to the log took.", MILLIS),
    Metric::gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log."),
    Metric::histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "How long writing applied changes to the engine took.",
        MILLIS,
    ),
    Metric::counter("trierarch_log_syncs_total", "Times the log was made durable."),
    Metric::counter("trierarch_log_synced_appends_total", "Appends that were made durable."),
    Metric::counter("etcd_mvcc_range_total", "Ranges read, in transactions too."),
    Metric::counter("etcd_mvcc_put_total", "Puts applied."),
    Metric::counter("etcd_mvcc_delete_total", "Deletes of ranges applied."),
    Metric::counter("etcd_mvcc_txn_total", "Transactions of more than one step."),
    Metric::gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values that were put."),
    Metric::counter("etcd_debugging_lease_granted_total", "Leases granted."),
    Metric::counter("etcd_debugging_lease_revoked_total", "Leases revoked, those that were over too."),
    Metric::counter("etcd_debugging_lease_renewed_total", "Renewals that this member decided as the leader."),
    Metric::histogram(
        "etcd_debugging_lease_ttl_total",
        "Seconds that leases were granted for.",
        (1.0, 2.0, 24),
    ),
    Metric::counter("etcd_debugging_server_lease_expired_total", "Leases that were over."),
    Metric::counter("etcd_server_leader_changes_seen_total", "Times that another member came to lead."),
    Metric::counter("etcd_server_proposals_failed_total", "Proposals that failed."),
    Metric::counter(
        "etcd_server_heartbeat_send_failures_total",
        "Heartbeats that the leader was late to send.",
    ),
    Metric::counter(
        "etcd_server_slow_read_indexes_total",
        "Questions for the leader's index that took long.",
    ),
    Metric::counter("etcd_server_read_indexes_failed_total", "Questions for the leader's index that failed."),
    Metric::counter("etcd_server_slow_apply_total", "Requests that took long to apply or to read."),
    Metric::counter("etcd_server_learner_promote_successes", "Learners promoted while this member led."),
    Metric::counter("etcd_server_learner_promote_failures", "Promotions refused while this member led.")
        .labelled(),
    Metric::gauge("etcd_server_snapshot_apply_in_progress_total", "1 while a snapshot is being installed."),
    Metric::histogram(
        "etcd_server_apply_duration_seconds",
        "How long applying a request took.",
        TENTHS_OF_MILLIS,
    )
    .labelled(),
    Metric::histogram(
        "etcd_server_request_duration_seconds",
        "How long a request took from its proposal to its answer.",
        MILLIS,
    )
    .labelled(),
    Metric::gauge(
        "trierarch_store_same_state_index",
        "The entry up to which the leader last found all members to hold the same.",
    ),
    Metric::gauge("etcd_debugging_server_alarms", "Alarms that are raised.").labelled(),
    Metric::histogram(
        "etcd_snap_db_fsync_duration_seconds",
        "How long syncing a received file took.",
        MILLIS,
    ),
    Metric::histogram(
        "etcd_snap_db_save_total_duration_seconds",
        "How long receiving a snapshot took.",
        TRANSFERS,
    ),
    Metric::histogram(
        "etcd_snap_fsync_duration_seconds",
        "How long syncing a snapshot's folder took.",
        MILLIS,
    ),
    Metric::histogram("etcd_debugging_snap_save_total_duration_seconds", "How long a snapshot took.", MILLIS),
    Metric::histogram(
        "etcd_debugging_snap_save_marshalling_duration_seconds",
        "How long the engine's part of a snapshot took.",
        MILLIS,
    ),
    Metric::counter("etcd_network_peer_sent_bytes_total", "Bytes sent to a member.").labelled(),
    Metric::counter("etcd_network_peer_received_bytes_total", "Bytes received from a member.").labelled(),
    Metric::counter("etcd_network_peer_sent_failures_total", "Calls of a member that failed.").labelled(),
    Metric::counter("etcd_network_disconnected_peers_total", "Times that a member was lost.").labelled(),
    Metric::histogram(
        "etcd_network_peer_round_trip_time_seconds",
        "From a beat to a member to its answer.",
        (0.0001, 2.0, 16),
    )
    .labelled(),
    Metric::counter("etcd_network_snapshot_send_success", "Snapshots sent.").labelled(),
    Metric::counter("etcd_network_snapshot_send_failures", "Snapshots that could not be sent.").labelled(),
    Metric::gauge("etcd_network_snapshot_send_inflights_total", "Snapshots being sent.").labelled(),
    Metric::histogram(
        "etcd_network_snapshot_send_total_duration_seconds",
        "How long sending took.",
        TRANSFERS,
    )
    .labelled(),
    Metric::counter("etcd_network_snapshot_receive_success", "Snapshots received.").labelled(),
    Metric::counter("etcd_network_snapshot_receive_failures", "Snapshots not received whole.").labelled(),
    Metric::gauge("etcd_network_snapshot_receive_inflights_total", "Snapshots being received.").labelled(),
    Metric::histogram(
        "etcd_network_snapshot_receive_total_duration_seconds",
        "How long receiving took.",
        TRANSFERS,
    )
    .labelled(),
];

/// What a command is, in etcd's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    ClusterMemberAttrSet,
    ClusterVersionSet,
    DowngradeInfoSet,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserRevokeRole,
    AuthRoleAdd,
    AuthRoleDelete,
    AuthRoleGrantPermission,
    AuthRoleRevokePermission,
    Unknown,
}

const KINDS: [&str; 25] = [
    "Range",
    "Put",
    "DeleteRange",
    "Txn",
    "Compaction",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseCheckpoint",
    "Alarm",
    "ClusterMemberAttrSet",
    "ClusterVersionSet",
    "DowngradeInfoSet",
    "Authenticate",
    "AuthEnable",
    "AuthDisable",
    "AuthUserAdd",
    "AuthUserDelete",
    "AuthUserChangePassword",
    "AuthUserGrantRole",
    "AuthUserRevokeRole",
    "AuthRoleAdd",
    "AuthRoleDelete",
    "AuthRoleGrantPermission",
    "AuthRoleRevokePermission",
    "unknown",
];

impl Kind {
    pub fn of(command: &Command) -> Self {
        match command.plain() {
            Command::Txn(txn) if txn.compare.is_empty() && txn.failure.is_empty() => {
                match txn.success.as_slice() {
                    [Op::Put(_)] => Self::Put,
                    [Op::Delete(_)] => Self::DeleteRange,
                    [Op::Range(_)] => Self::Range,
                    _ => Self::Txn,
                }
            }
            Command::Txn(_) => Self::Txn,
            Command::Compact { .. } => Self::Compaction,
            Command::LeaseGrant { .. } => Self::LeaseGrant,
            Command::LeaseRevoke { .. } | Command::LeaseExpire { .. } => Self::LeaseRevoke,
            Command::LeaseCheckpoint { .. } => Self::LeaseCheckpoint,
            Command::Alarm { .. } => Self::Alarm,
            Command::MemberAttributes(_) | Command::MemberForget { .. } | Command::MemberVersion { .. } => {
                Self::ClusterMemberAttrSet
            }
            Command::ClusterVersion { .. } => Self::ClusterVersionSet,
            Command::Downgrade { .. } => Self::DowngradeInfoSet,
            Command::Auth(command) => Self::of_auth(command),
            _ => Self::Unknown,
        }
    }

    fn of_auth(command: &AuthCommand) -> Self {
        match command {
            AuthCommand::Enable => Self::AuthEnable,
            AuthCommand::Disable => Self::AuthDisable,
            AuthCommand::UserAdd { .. } => Self::AuthUserAdd,
            AuthCommand::UserDelete { .. } => Self::AuthUserDelete,
            AuthCommand::UserChangePassword { .. } => Self::AuthUserChangePassword,
            AuthCommand::UserGrantRole { .. } => Self::AuthUserGrantRole,
            AuthCommand::UserRevokeRole { .. } => Self::AuthUserRevokeRole,
            AuthCommand::RoleAdd { .. } => Self::AuthRoleAdd,
            AuthCommand::RoleDelete { .. } => Self::AuthRoleDelete,
            AuthCommand::RoleGrantPermission { .. } => Self::AuthRoleGrantPermission,
            AuthCommand::RoleRevokePermission { .. } => Self::AuthRoleRevokePermission,
            AuthCommand::TokenAssign { .. } => Self::Authenticate,
            AuthCommand::TokensUsed { .. } | AuthCommand::TokensForget { .. } => Self::Unknown,
        }
    }

    pub fn name(self) -> &'static str {
        KINDS[self as usize]
    }
}

/// A histogram for each kind of command and outcome, made when it is first needed.
#[derive(Default)]
pub(crate) struct Durations([[OnceLock<Histogram>; 2]; KINDS.len()]);

impl Durations {
    fn cell(&self, kind: Kind, success: bool, make: impl FnOnce() -> Histogram) -> &Histogram {
        self.0[kind as usize][usize::from(success)].get_or_init(make)
    }
}

fn success_label(success: bool) -> &'static str {
    if success { "true" } else { "false" }
}

/// The handles.
pub(crate) struct Counters {
    pub commit: Histogram,
    /// Milliseconds for which writes waited for a step of deleting what was compacted.
    pub sweep_held: Histogram,
    /// Milliseconds that deleting everything took that a compaction let go.
    pub sweep_took: Histogram,
    pub swept: Counter,
    pub swept_last: Gauge,
    pub ranges: Counter,
    pub puts: Counter,
    pub deletes: Counter,
    pub txns: Counter,
    pub put_bytes: Gauge,
    pub leases_granted: Counter,
    pub leases_revoked: Counter,
    pub leases_renewed: Counter,
    pub leases_expired: Counter,
    pub lease_ttl: Histogram,
    pub leader_changes: Counter,
    pub proposals_failed: Counter,
    pub slow_reads: Counter,
    pub failed_reads: Counter,
    pub slow_applies: Counter,
    pub promotions: Counter,
    pub installing: Gauge,
    pub snapshot_fsync: Histogram,
    pub snapshot_saved: Histogram,
    applied: Durations,
    requests: Durations,
}

impl Counters {
    pub fn new() -> Self {
        Self {
            commit: histogram!("etcd_disk_backend_commit_duration_seconds"),
            sweep_held: histogram!("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds"),
            sweep_took: histogram!("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds"),
            swept: counter!("etcd_debugging_mvcc_db_compaction_keys_total"),
            swept_last: gauge!("etcd_debugging_mvcc_db_compaction_last"),
            ranges: counter!("etcd_mvcc_range_total"),
            puts: counter!("etcd_mvcc_put_total"),
            deletes: counter!("etcd_mvcc_delete_total"),
            txns: counter!("etcd_mvcc_txn_total"),
            put_bytes: gauge!("etcd_debugging_mvcc_total_put_size_in_bytes"),
            leases_granted: counter!("etcd_debugging_lease_granted_total"),
            leases_revoked: counter!("etcd_debugging_lease_revoked_total"),
            leases_renewed: counter!("etcd_debugging_lease_renewed_total"),
            leases_expired: counter!("etcd_debugging_server_lease_expired_total"),
            lease_ttl: histogram!("etcd_debugging_lease_ttl_total"),
            leader_changes: counter!("etcd_server_leader_changes_seen_total"),
            proposals_failed: counter!("etcd_server_proposals_failed_total"),
            slow_reads: counter!("etcd_server_slow_read_indexes_total"),
            failed_reads: counter!("etcd_server_read_indexes_failed_total"),
            slow_applies: counter!("etcd_server_slow_apply_total"),
            promotions: counter!("etcd_server_learner_promote_successes"),
            installing: gauge!("etcd_server_snapshot_apply_in_progress_total"),
            snapshot_fsync: histogram!("etcd_snap_db_fsync_duration_seconds"),
            snapshot_saved: histogram!("etcd_snap_db_save_total_duration_seconds"),
            applied: Durations::default(),
            requests: Durations::default(),
        }
    }

    /// Notes what a command did when it was applied.
    pub fn note(&self, command: &Command, applied: &Applied, took: Duration) {
        let success = matches!(&applied.response, Ok(_) | Err(mvcc::MvccError::Compacted { .. }));
        self.note_applied(Kind::of(command), success, took);
        match (command.plain(), &applied.response) {
            (Command::Txn(_), Ok(Response::Txn(txn))) => self.note_txn(txn),
            (Command::LeaseGrant { ttl, .. }, Ok(_)) => {
                self.leases_granted.increment(1);
                self.lease_ttl.record(*ttl as f64);
            }
            (Command::LeaseRevoke { .. } | Command::LeaseExpire { .. }, Ok(_)) => {
                self.leases_revoked.increment(1);
                self.deletes.increment(applied.events.len() as u64);
            }
            (Command::Alarm { action, alarm }, Ok(Response::Alarms(changed))) if !changed.is_empty() => {
                let raised = gauge!("etcd_debugging_server_alarms", "server_id" => hex(alarm.member), "alarm_type" => alarm.kind.name());
                raised.set(if *action == AlarmAction::Activate { 1.0 } else { 0.0 });
            }
            _ => {}
        }
        let puts = applied.events.iter().filter(|event| event.kind == EventKind::Put);
        let bytes: usize = puts.map(|event| event.kv.key.len() + event.kv.value.len()).sum();
        if bytes > 0 {
            self.put_bytes.increment(bytes as f64);
        }
    }

    /// Tells in the log, and counts, that a command took long to apply.
    pub fn tell_slow(&self, command: &Command, took: Duration, expected: Duration) {
        self.slow_applies.increment(1);
        tracing::warn!(
            took = format!("{took:?}"),
            "expected-duration" = format!("{expected:?}"),
            prefix = "",
            request = Kind::of(command).name(),
            "apply request took too long"
        );
    }

    /// Counts the steps of a transaction that was carried out, here or in a read.
    pub fn note_txn(&self, txn: &TxnResponse) {
        let mut steps = Steps::default();
        steps.add(txn);
        for (counter, steps) in
            [(&self.ranges, steps.ranges), (&self.puts, steps.puts), (&self.deletes, steps.deletes)]
        {
            if steps > 0 {
                counter.increment(steps);
            }
        }
        if steps.ranges + steps.puts + steps.deletes > 1 {
            self.txns.increment(1);
        }
    }

    fn note_applied(&self, kind: Kind, success: bool, took: Duration) {
        let cell = self.applied.cell(kind, success, || {
            let success = success_label(success);
            histogram!("etcd_server_apply_duration_seconds", "version" => "v3", "op" => kind.name(), "success" => success)
        });
        cell.record(took.as_secs_f64());
    }

    pub fn note_request(&self, kind: Kind, success: bool, took: Duration) {
        let cell = self.requests.cell(kind, success, || {
            let success = success_label(success);
            histogram!("etcd_server_request_duration_seconds", "type" => kind.name(), "success" => success)
        });
        cell.record(took.as_secs_f64());
    }
}

#[derive(Default)]
struct Steps {
    ranges: u64,
    puts: u64,
    deletes: u64,
}

impl Steps {
    fn add(&mut self, txn: &TxnResponse) {
        for response in &txn.responses {
            match response {
                OpResponse::Range(_) => self.ranges += 1,
                OpResponse::Put { .. } => self.puts += 1,
                OpResponse::Delete { .. } => self.deletes += 1,
                OpResponse::Txn(txn) => self.add(txn),
            }
        }
    }
}

/// Counts a promotion that was refused.
pub(crate) fn promotion_failed(error: &crate::StoreError) {
    counter!("etcd_server_learner_promote_failures", "Reason" => error.to_string()).increment(1);
}

/// What is counted of the traffic with one member.
#[derive(Clone)]
pub(crate) struct Traffic {
    pub sent: Counter,
    pub received: Counter,
    pub failed: Counter,
    pub round_trip: Histogram,
}

impl Traffic {
    pub fn with(member: u64) -> Self {
        let id = hex(member);
        Self {
            sent: counter!("etcd_network_peer_sent_bytes_total", "To" => id.clone()),
            received: counter!("etcd_network_peer_received_bytes_total", "From" => id.clone()),
            failed: counter!("etcd_network_peer_sent_failures_total", "To" => id.clone()),
            round_trip: histogram!("etcd_network_peer_round_trip_time_seconds", "To" => id),
        }
    }
}

/// A snapshot on its way, counted until it is dropped.
pub(crate) struct Transfer {
    way: &'static str,
    label: &'static str,
    member: String,
    in_flight: Gauge,
    done: bool,
}

impl Transfer {
    pub fn to(member: u64) -> Self {
        let member = hex(member);
        let in_flight = gauge!("etcd_network_snapshot_send_inflights_total", "To" => member.clone());
        in_flight.increment(1.0);
        Self { way: "send", label: "To", member, in_flight, done: false }
    }

    pub fn from(member: u64) -> Self {
        let member = hex(member);
        let in_flight = gauge!("etcd_network_snapshot_receive_inflights_total", "From" => member.clone());
        in_flight.increment(1.0);
        Self { way: "receive", label: "From", member, in_flight, done: false }
    }

    /// It arrived.
    pub fn done(mut self, took: Duration) {
        self.done = true;
        let name = format!("etcd_network_snapshot_{}_total_duration_seconds", self.way);
        histogram!(name, self.label => self.member.clone()).record(took.as_secs_f64());
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.in_flight.decrement(1.0);
        let outcome = if self.done { "success" } else { "failures" };
        let name = format!("etcd_network_snapshot_{}_{outcome}", self.way);
        counter!(name, self.label => self.member.clone()).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_transaction_counts() {
        let put = || OpResponse::Put { prev: None };
        let inner = TxnResponse { succeeded: true, responses: vec![put(), put()] };
        let txn = TxnResponse { succeeded: true, responses: vec![OpResponse::Txn(inner), put()] };
        let mut steps = Steps::default();
        steps.add(&txn);
        assert_eq!((steps.ranges, steps.puts, steps.deletes), (0, 3, 0));
    }

    #[test]
    fn a_command_has_etcds_name() {
        let of = |command: Command| Kind::of(&command).name();
        assert_eq!(of(Command::Compact { revision: 1 }), "Compaction");
        assert_eq!(of(Command::Noop), "unknown");
        assert_eq!(of(Command::Auth(AuthCommand::Enable)), "AuthEnable");
        let (role, key) = ("r".to_owned(), bytes::Bytes::new());
        let revoke = AuthCommand::RoleRevokePermission { role, range_end: key.clone(), key };
        assert_eq!(of(Command::Auth(revoke)), "AuthRoleRevokePermission");
        let delete = mvcc::DeleteRequest { range: mvcc::KeyRange::all(), prev_kv: false };
        assert_eq!(of(Command::Txn(mvcc::Txn::of(Op::Delete(delete)))), "DeleteRange");
    }
}
