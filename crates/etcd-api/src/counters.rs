//! What this crate counts, and what is read off the state when somebody asks for the metrics, under etcd's names.

use std::collections::BTreeSet;
use std::sync::Arc;

use env::Metric;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use mvcc::View;
use parking_lot::Mutex;
use store::hex;

use crate::ETCD_VERSION;
use crate::context::Context;
use crate::maintenance;

const MILLIS: (f64, f64, u16) = (0.001, 2.0, 14);
const HASHES: (f64, f64, u16) = (0.01, 2.0, 15);
/// Shown as the quota where there is none: how full a store is must not look like more than it can hold.
const NO_QUOTA: f64 = i64::MAX as f64;

/// The metrics of this crate but those of calls.
pub(crate) const OWN: &[Metric] = &[
    // Read off the state.
    Metric::gauge("etcd_cluster_version", "1 for the version that all members understand.").labelled(),
    Metric::gauge("etcd_debugging_auth_revision", "The revision of users and roles."),
    Metric::gauge("etcd_debugging_mvcc_compact_revision", "What was before this revision is gone."),
    Metric::gauge("etcd_debugging_mvcc_current_revision", "The revision."),
    Metric::gauge("etcd_debugging_mvcc_keys_total", "Keys."),
    Metric::gauge("etcd_mvcc_db_open_read_transactions", "Reads of the engine that are open."),
    Metric::gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes stored, versions that were not compacted too."),
    Metric::gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes stored of keys as they are now."),
    Metric::gauge("etcd_network_active_peers", "1 for a member that this one is in touch with.").labelled(),
    Metric::gauge("etcd_network_known_peers", "1 for each member.").labelled(),
    Metric::gauge("etcd_server_go_version", "1 for what the program was made with.").labelled(),
    Metric::gauge("etcd_server_has_leader", "Whether a leader is known."),
    Metric::gauge("etcd_server_id", "1 for this member's id.").labelled(),
    Metric::gauge("etcd_server_is_leader", "Whether this member leads and hears a quorum."),
    Metric::gauge("etcd_server_is_learner", "Whether this member has no vote."),
    Metric::gauge("etcd_server_proposals_applied_total", "The last entry of the log that was applied."),
    Metric::gauge("etcd_server_proposals_committed_total", "The last entry of the log that is committed."),
    Metric::gauge("etcd_server_proposals_pending", "Proposals that wait for their answer."),
    Metric::gauge("etcd_server_quota_backend_bytes", "Bytes that may be stored."),
    Metric::gauge("etcd_server_version", "1 for the version of etcd that this is.").labelled(),
    Metric::gauge("trierarch_client_memory_bytes", "Bytes that requests and answers of clients hold."),
    // Counted.
    Metric::counter("etcd_debugging_mvcc_events_total", "Events sent to watchers."),
    Metric::gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent."),
    Metric::gauge("etcd_debugging_mvcc_slow_watcher_total", "Watches that are behind."),
    Metric::gauge("etcd_debugging_mvcc_watch_stream_total", "Streams of watches."),
    Metric::gauge("etcd_debugging_mvcc_watcher_total", "Watches."),
    Metric::counter("etcd_network_server_stream_failures_total", "Streams that broke.").labelled(),
    Metric::counter("etcd_server_health_failures", "Answers of /health that it is not well."),
    Metric::counter("etcd_server_health_success", "Answers of /health that it is well."),
    Metric::gauge("etcd_server_healthcheck", "The last outcome of a check.").labelled(),
    Metric::counter("etcd_server_healthchecks_total", "Outcomes of checks.").labelled(),
    Metric::histogram("etcd_server_range_duration_seconds", "How long ranges took.", (0.0001, 2.0, 20))
        .labelled(),
    Metric::histogram("etcd_mvcc_hash_duration_seconds", "How long hashes of the whole state took.", HASHES),
    Metric::histogram("etcd_mvcc_hash_rev_duration_seconds", "How long hashes of a revision took.", HASHES),
    Metric::histogram(
        "etcd_disk_backend_snapshot_duration_seconds",
        "How long sending a copy took.",
        (0.01, 2.0, 17),
    ),
    Metric::histogram(
        "etcd_disk_backend_defrag_duration_seconds",
        "How long defragmenting took.",
        (0.1, 2.0, 13),
    ),
    Metric::gauge("etcd_disk_defrag_inflight", "Whether this member is being defragmented."),
    Metric::gauge(
        "promhttp_metric_handler_requests_in_flight",
        "Requests for the metrics that are being answered.",
    ),
    Metric::counter("promhttp_metric_handler_requests_total", "Requests for the metrics, by code.")
        .labelled(),
    // Of parts of etcd that this store does not have: there for those who ask for the name.
    Metric::histogram(
        "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
        "Always empty: nothing is rebalanced here.",
        MILLIS,
    ),
    Metric::histogram(
        "etcd_debugging_disk_backend_commit_spill_duration_seconds",
        "Always empty: nothing is spilled here.",
        MILLIS,
    ),
    Metric::histogram(
        "etcd_debugging_disk_backend_commit_write_duration_seconds",
        "Always empty: a commit here is one write.",
        MILLIS,
    ),
    Metric::histogram(
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "Always empty: compaction does not pause.",
        (0.5, 2.0, 14),
    ),
    Metric::histogram(
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "For how long writes waited for a step of deleting what was compacted.",
        (1.0, 2.0, 13),
    ),
    Metric::histogram(
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "How long deleting what a compaction let go took, beside the writes.",
        (100.0, 2.0, 14),
    ),
    Metric::counter(
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "Versions of keys that were deleted since they were compacted.",
    ),
    Metric::gauge(
        "etcd_debugging_mvcc_db_compaction_last",
        "When what was compacted was deleted last, in seconds since 1970.",
    ),
    Metric::counter("etcd_debugging_store_expires_total", "Always 0: there is no store of version 2."),
    Metric::counter("etcd_debugging_store_watch_requests_total", "Always 0."),
    Metric::gauge("etcd_debugging_store_watchers", "Always 0."),
    Metric::histogram(
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
        "How long sending events took.",
        MILLIS,
    ),
    Metric::histogram(
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
        "Always empty.",
        MILLIS,
    ),
    Metric::histogram(
        "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
        "Always empty.",
        MILLIS,
    ),
    Metric::histogram(
        "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
        "Always empty.",
        MILLIS,
    ),
    Metric::counter("etcd_grpc_proxy_cache_hits_total", "Always 0: this is no proxy."),
    Metric::gauge("etcd_grpc_proxy_cache_keys_total", "Always 0."),
    Metric::counter("etcd_grpc_proxy_cache_misses_total", "Always 0."),
    Metric::counter("etcd_grpc_proxy_events_coalescing_total", "Always 0."),
    Metric::gauge("etcd_grpc_proxy_watchers_coalescing_total", "Always 0."),
];

/// The metrics of this crate.
pub const METRICS: &[Metric] = &join();

const fn join() -> [Metric; OWN.len() + crate::calls::METRICS.len()] {
    let mut all = [Metric::gauge("", ""); OWN.len() + crate::calls::METRICS.len()];
    let mut place = 0;
    while place < all.len() {
        all[place] = if place < OWN.len() { OWN[place] } else { crate::calls::METRICS[place - OWN.len()] };
        place += 1;
    }
    all
}

/// The handles that services count with.
#[derive(Clone)]
pub(crate) struct Counters {
    pub ranges: Counter,
    pub txns: Counter,
    pub range_took: [Histogram; 2],
    pub read_took: [Histogram; 2],
    pub read_txn_took: [Histogram; 2],
    pub slow_applies: Counter,
    pub events: Counter,
    pub streams: Gauge,
    pub watches: Gauge,
    pub hash: Histogram,
    pub hash_at: Histogram,
    pub snapshot: Histogram,
    pub defragment: Histogram,
}

impl Counters {
    pub fn new() -> Self {
        let outcomes = ["false", "true"];
        let requests = |kind: &'static str| {
            outcomes
                .map(|ok| histogram!("etcd_server_request_duration_seconds", "type" => kind, "success" => ok))
        };
        Self {
            ranges: counter!("etcd_mvcc_range_total"),
            txns: counter!("etcd_mvcc_txn_total"),
            range_took: outcomes.map(|ok| histogram!("etcd_server_range_duration_seconds", "success" => ok)),
            read_took: requests("Range"),
            read_txn_took: requests("ReadonlyTxn"),
            slow_applies: counter!("etcd_server_slow_apply_total"),
            events: counter!("etcd_debugging_mvcc_events_total"),
            streams: gauge!("etcd_debugging_mvcc_watch_stream_total"),
            watches: gauge!("etcd_debugging_mvcc_watcher_total"),
            hash: histogram!("etcd_mvcc_hash_duration_seconds"),
            hash_at: histogram!("etcd_mvcc_hash_rev_duration_seconds"),
            snapshot: histogram!("etcd_disk_backend_snapshot_duration_seconds"),
            defragment: histogram!("etcd_disk_backend_defrag_duration_seconds"),
        }
    }
}

/// One more, until it is dropped.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// What is read off the state.
#[derive(Clone)]
pub(crate) struct Collector {
    context: Context,
    seen: Arc<Mutex<Seen>>,
}

/// What was shown before, and has to be taken back when it is no longer so.
#[derive(Default)]
struct Seen {
    members: BTreeSet<u64>,
    cluster_version: Option<String>,
}

impl Collector {
    pub fn new(context: Context) -> Self {
        Self { context, seen: Arc::default() }
    }

    /// Sets the gauges to what is so now.
    pub fn collect(&self) {
        let store = &self.context.store;
        let (view, status) = (store.view(), store.status());
        let flag = |is: bool| if is { 1.0 } else { 0.0 };
        let (total, in_use) = maintenance::sizes(&view);
        let quota = self.context.limits.quota_bytes.map_or(NO_QUOTA, |quota| quota as f64);
        for (name, value) in [
            ("etcd_debugging_auth_revision", view.auth().revision() as f64),
            ("etcd_debugging_mvcc_compact_revision", view.compact_revision() as f64),
            ("etcd_debugging_mvcc_current_revision", view.revision() as f64),
            ("etcd_debugging_mvcc_keys_total", view.live_keys() as f64),
            ("etcd_mvcc_db_total_size_in_bytes", total as f64),
            ("etcd_mvcc_db_total_size_in_use_in_bytes", in_use as f64),
            ("etcd_server_has_leader", flag(status.leader != 0)),
            ("etcd_server_is_leader", flag(store.is_leader())),
            ("etcd_server_is_learner", flag(status.is_learner)),
            ("etcd_server_proposals_applied_total", status.applied_index as f64),
            ("etcd_server_proposals_committed_total", status.committed_index as f64),
            ("etcd_server_proposals_pending", store.pending_proposals() as f64),
            ("etcd_server_quota_backend_bytes", quota),
            ("trierarch_client_memory_bytes", self.context.budget.used() as f64),
        ] {
            gauge!(name).set(value);
        }
        let made_with = concat!("trierarch-", env!("CARGO_PKG_VERSION"));
        gauge!("etcd_server_go_version", "server_go_version" => made_with).set(1.0);
        gauge!("etcd_server_version", "server_version" => ETCD_VERSION).set(1.0);
        gauge!("etcd_server_id", "server_id" => hex(store.member_id())).set(1.0);
        let mut seen = self.seen.lock();
        self.collect_members(&mut seen);
        collect_version(&view, &mut seen);
    }

    fn collect_members(&self, seen: &mut Seen) {
        let store = &self.context.store;
        let local = hex(store.member_id());
        let members: BTreeSet<u64> = store.members().into_iter().map(|member| member.id).collect();
        let reached = store.reached_members();
        for id in seen.members.union(&members) {
            let labels = [("Local", local.clone()), ("Remote", hex(*id))];
            let flag = |is: bool| if is { 1.0 } else { 0.0 };
            gauge!("etcd_network_known_peers", &labels).set(flag(members.contains(id)));
            if *id != store.member_id() {
                gauge!("etcd_network_active_peers", &labels).set(flag(reached.contains(id)));
            }
        }
        seen.members.extend(members);
    }
}

fn collect_version(view: &View, seen: &mut Seen) {
    let short = |version: &str| version.rsplit_once('.').map_or(version, |(short, _)| short).to_owned();
    let now = view.cluster_version().map(short);
    if seen.cluster_version == now {
        return;
    }
    let set = |version: Option<String>, value: f64| {
        if let Some(version) = version {
            gauge!("etcd_cluster_version", "cluster_version" => version).set(value);
        }
    };
    set(seen.cluster_version.take(), 0.0);
    set(now.clone(), 1.0);
    seen.cluster_version = now;
}
