//! What a store is built from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use openraft::SnapshotPolicy;
use transport::{Address, Scheme, SocketOptions, Tls};

use crate::consensus::Node;
use crate::contacts::HEALTH_INTERVAL;
use crate::error::BuildError;
use crate::members::{self, ClusterId};

/// Times of the consensus. They are a promise between members: all must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader shows that it lives.
    pub heartbeat: Duration,
    /// The shortest silence after which a follower stands for election.
    pub election_min: Duration,
    /// The longest; votes are refused for so long after a heartbeat.
    pub election_max: Duration,
}

impl Default for Timing {
    /// For a leader that goes silent. A leader whose process dies is noticed at once, by its closed connections.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(700),
        }
    }
}

impl Timing {
    /// How long a request waits for its answer: etcd's 5 s and two election timeouts.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_max
    }
}

/// etcd's own comparisons of members, beside the one that is always on; all keys are read for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// At a start with data, before anything is served (gate `InitialCorruptCheck`).
    pub initial: bool,
    /// How often the leader compares everyone's keys (`--corrupt-check-time`).
    pub periodic: Option<Duration>,
    /// How often the leader compares what compactions left (gate `CompactHashCheck`, `--compact-hash-check-time`).
    pub compactions: Option<Duration>,
}

/// A store to be.
pub struct StoreConfig {
    /// This member's name in `initial_cluster`.
    pub name: String,
    /// Tells clusters with the same URLs apart (`--initial-cluster-token`).
    pub cluster_token: String,
    /// Names and peer URLs of all first members.
    pub initial_cluster: Vec<(String, String)>,
    /// Whether the cluster exists already and has this member's URLs (`--initial-cluster-state existing`).
    pub join: bool,
    /// Whether a data folder that has a member is that member's, whatever the rest of this says, and a member that has
    /// served may not begin with an empty one (as in etcd). Otherwise folder and configuration must agree.
    pub trust_folder: bool,
    /// Whether this member goes on as the only one of its cluster, with its data (`--force-new-cluster`).
    pub force_new_cluster: bool,
    /// Whether the log is made durable before anything is acknowledged. Without it a power failure loses what was
    /// acknowledged (`--unsafe-no-fsync`).
    pub durable: bool,
    /// Whether changes of members that could cost the quorum are refused (`--strict-reconfig-check`).
    pub strict_reconfig_check: bool,
    /// How long other members are asked whether this one has served before, when it begins with an empty folder (etcd's
    /// `BootstrapTimeout`).
    pub bootstrap_timeout: Duration,
    /// How long members must have been in touch before that check counts them as healthy.
    pub health_interval: Duration,
    /// Where to listen for other members.
    pub listen_peers: Vec<Address>,
    /// Past versions that are deleted at a time after a compaction (`--compaction-batch-limit`), and the pause between
    /// (`--compaction-sleep-interval`).
    pub compaction: (usize, Duration),
    /// Which of etcd's comparisons of members are made.
    pub checks: Checks,
    /// A request that takes longer to apply is told in the log (`--warning-apply-duration`).
    pub warn_apply: Duration,
    /// The version of etcd that this member is, told to the others.
    pub version: String,
    /// What this member tells clients about where it serves them.
    pub advertise_client_urls: Vec<String>,
    /// TLS between members, for addresses that want it.
    pub peer_tls: Option<Tls>,
    /// The address that other members are called from; the system's choice without.
    pub local_address: Option<IpAddr>,
    /// How sockets are listened on.
    pub sockets: SocketOptions,
    /// Times of the consensus.
    pub timing: Timing,
    /// Entries after which a snapshot is made (`--snapshot-count`).
    pub snapshot_count: u64,
    /// Entries kept behind a snapshot for slow followers (`--snapshot-catchup-entries`).
    pub snapshot_catchup_entries: u64,
    /// Whether a new leader knows how long leases had (etcd's feature `LeaseCheckpoint`).
    pub lease_checkpoints: bool,
    /// Bytes that a request may have (`--max-request-bytes`).
    pub max_request_bytes: usize,
    /// Bytes of values that are kept in memory; others are read from disk.
    pub cache_bytes: u64,
}

impl StoreConfig {
    /// A member with etcd's defaults, in plain text.
    pub fn new(name: impl Into<String>, listen_peer: SocketAddr) -> Self {
        Self {
            name: name.into(),
            cluster_token: "etcd-cluster".to_owned(),
            initial_cluster: Vec::new(),
            join: false,
            trust_folder: false,
            force_new_cluster: false,
            durable: true,
            strict_reconfig_check: true,
            bootstrap_timeout: Duration::from_secs(1),
            health_interval: HEALTH_INTERVAL,
            listen_peers: vec![Address { scheme: Scheme::Http, place: listen_peer.to_string() }],
            compaction: (1000, Duration::from_millis(10)),
            checks: Checks::default(),
            warn_apply: Duration::from_millis(100),
            version: "3.7.0".to_owned(),
            advertise_client_urls: Vec::new(),
            peer_tls: None,
            local_address: None,
            sockets: SocketOptions::default(),
            timing: Timing::default(),
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            lease_checkpoints: true,
            max_request_bytes: 3 << 19,
            cache_bytes: mvcc::DEFAULT_CACHE_BYTES,
        }
    }

    /// Ids of the first members with their peer URLs, this member's id and the cluster's.
    pub(crate) fn identity(&self) -> Result<Identity, BuildError> {
        let mut members: Vec<(String, Vec<String>)> = Vec::new();
        for (name, url) in &self.initial_cluster {
            match members.iter_mut().find(|(known, _)| known == name) {
                Some((_, urls)) => urls.push(url.clone()),
                None => members.push((name.clone(), vec![url.clone()])),
            }
        }
        let ids: Vec<(u64, String, Vec<String>)> = members
            .into_iter()
            .map(|(name, urls)| (members::member_id(&urls, &self.cluster_token, None), name, urls))
            .collect();
        let Some((me, ..)) = ids.iter().find(|(_, name, _)| *name == self.name) else {
            let text =
                format!("couldn't find local name {:?} in the initial cluster configuration", self.name);
            return Err(BuildError::InitialCluster(text));
        };
        let cluster = members::cluster_id(&ids.iter().map(|(id, ..)| *id).collect::<Vec<_>>());
        Ok(Identity { me: *me, cluster, members: ids.into_iter().map(|(id, _, urls)| (id, urls)).collect() })
    }

    /// Where the other members find this one.
    pub(crate) fn own_urls(&self) -> Vec<String> {
        let own = self.initial_cluster.iter().filter(|(name, _)| *name == self.name);
        own.map(|(_, url)| url.clone()).collect()
    }

    pub(crate) fn raft_config(&self) -> Result<Arc<openraft::Config>, BuildError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: self.cluster_token.clone(),
            heartbeat_interval: millis(self.timing.heartbeat),
            election_timeout_min: millis(self.timing.election_min),
            election_timeout_max: millis(self.timing.election_max),
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            quorum_loss_probe_interval: Some(2 * millis(self.timing.election_max)),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_count),
            max_in_snapshot_log_to_keep: self.snapshot_catchup_entries,
            replication_lag_threshold: 2 * (self.snapshot_count + self.snapshot_catchup_entries),
            max_payload_entries: 1024,
            ..openraft::Config::default()
        };
        let config = config.validate().map_err(|error| BuildError::Consensus(error.to_string()))?;
        Ok(Arc::new(config))
    }
}

/// Who this member is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub me: u64,
    pub cluster: ClusterId,
    pub members: Vec<(u64, Vec<String>)>,
}

impl Identity {
    /// Whether both are the same member of the same cluster.
    pub fn is(&self, other: &Self) -> bool {
        (self.me, self.cluster) == (other.me, other.cluster)
    }

    /// The first members, as the consensus knows members.
    pub fn nodes(self) -> BTreeMap<u64, Node> {
        let node = |peer_urls| Node { peer_urls, joining: false };
        self.members.into_iter().map(|(id, peer_urls)| (id, node(peer_urls))).collect()
    }
}
