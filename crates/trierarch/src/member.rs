//! A member of the store with its etcd API: what `server` and `etcd` have in common.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::{Env, Lane, TaskGroup};
use etcd_api::{Access, AuthOptions, EtcdApi, EtcdApiConfig};
use rocks::DataFolder;
use store::storage::Storage;
use store::{Checks, RunError, Store, StoreConfig, StoreServer, Timing};
use transport::{Address, Room, SocketOptions, Tls};

use crate::restart;

/// A member to be.
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// Where the log is kept, if not in the data folder.
    pub wal_dir: Option<PathBuf>,
    pub initial_cluster: Vec<(String, String)>,
    pub cluster_token: String,
    pub join: bool,
    pub strict_reconfig_check: bool,
    /// Whether a data folder that has a member is that member's, whatever the rest says, as in etcd.
    pub trust_folder: bool,
    /// Whether the member goes on as the only one of its cluster.
    pub force_new_cluster: bool,
    /// Whether the log is made durable.
    pub durable: bool,
    pub listen_peers: Vec<Address>,
    pub listen_clients: Vec<Address>,
    pub listen_http: Vec<Address>,
    pub listen_metrics: Vec<Address>,
    /// Places for the connections of clients.
    pub room: Room,
    pub sockets: SocketOptions,
    pub advertise_client_urls: Vec<String>,
    pub local_address: Option<IpAddr>,
    pub peer_tls: Option<Tls>,
    pub client_tls: Option<Tls>,
    pub access: Access,
    pub gateway: bool,
    pub keep_alive: Option<(Duration, Duration)>,
    pub keep_alive_min: Duration,
    pub timing: Timing,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    pub max_request_bytes: usize,
    /// Bytes of values that are kept in memory.
    pub cache_bytes: u64,
    pub max_txn_ops: usize,
    pub max_concurrent_streams: u32,
    pub quota_bytes: Option<u64>,
    /// Bytes that requests and answers of etcd clients may hold.
    pub client_memory_bytes: u64,
    pub max_leases: usize,
    pub max_learners: usize,
    pub auth: AuthOptions,
    /// Threads that serve etcd clients.
    pub lanes: usize,
    pub watch_progress_notify_interval: Duration,
    pub warn_unary: Duration,
    pub warn_apply: Duration,
    pub compaction: (usize, Duration),
    pub extensive_metrics: bool,
    /// etcd's own comparisons of members.
    pub checks: Checks,
}

/// A member, opened and bound.
pub struct Member {
    pub store: Store,
    server: StoreServer,
    /// Where the consensus runs.
    lane: Lane,
    api: EtcdApi,
}

impl Config {
    /// Opens the data folder and binds the addresses.
    pub async fn build(self, env: &Env, metrics: Arc<dyn Fn() -> String + Send + Sync>) -> Result<Member> {
        let config = StoreConfig {
            cluster_token: self.cluster_token,
            join: self.join,
            trust_folder: self.trust_folder,
            force_new_cluster: self.force_new_cluster,
            durable: self.durable,
            strict_reconfig_check: self.strict_reconfig_check,
            initial_cluster: self.initial_cluster,
            advertise_client_urls: self.advertise_client_urls,
            listen_peers: self.listen_peers,
            sockets: self.sockets,
            peer_tls: self.peer_tls,
            local_address: self.local_address,
            timing: self.timing,
            version: etcd_api::ETCD_VERSION.to_owned(),
            warn_apply: self.warn_apply,
            compaction: self.compaction,
            checks: self.checks,
            snapshot_count: self.snapshot_count,
            snapshot_catchup_entries: self.snapshot_catchup_entries,
            max_request_bytes: self.max_request_bytes,
            cache_bytes: self.cache_bytes,
            ..StoreConfig::new(self.name, ([127, 0, 0, 1], 0).into())
        };
        let folder = open_folder(&self.data_dir, self.wal_dir)?;
        let lane = Lane::start("raft").context("cannot start the consensus' thread")?;
        let (store, server) = lane.run(config.build(env.clone(), folder)).await?;
        let api = EtcdApiConfig {
            listen_http: self.listen_http,
            listen_metrics: self.listen_metrics,
            room: self.room,
            tls: self.client_tls,
            sockets: self.sockets,
            access: self.access,
            gateway: self.gateway,
            keep_alive: self.keep_alive,
            keep_alive_min: self.keep_alive_min,
            max_request_bytes: self.max_request_bytes,
            max_txn_ops: self.max_txn_ops,
            max_concurrent_streams: self.max_concurrent_streams,
            quota_bytes: self.quota_bytes,
            client_memory_bytes: self.client_memory_bytes,
            max_leases: self.max_leases,
            max_learners: self.max_learners,
            auth: self.auth,
            lanes: self.lanes,
            scratch: self.data_dir.clone(),
            watch_progress_notify_interval: self.watch_progress_notify_interval,
            warn_unary: self.warn_unary,
            warn_apply: self.warn_apply,
            extensive_metrics: self.extensive_metrics,
            ..EtcdApiConfig::new(self.listen_clients, metrics)
        };
        let api = api.build(env.clone(), store.clone()).await?;
        Ok(Member { store, server, lane, api })
    }
}

impl Member {
    /// Starts the member's tasks.
    pub fn start(self, tasks: &TaskGroup) {
        // The store outlives the API by a moment, so that requests in flight are answered.
        tasks.spawn("etcd-api", self.api.run(tasks.shutdown().clone()));
        let (lane, stop) = (self.lane, tasks.shutdown().clone());
        tasks.spawn("store", async move {
            let ended = lane.run(self.server.run(stop)).await;
            if matches!(ended, Err(RunError::Repair(_))) {
                restart::ask();
            }
            ended
        });
    }
}

fn open_folder(data_dir: &Path, wal_dir: Option<PathBuf>) -> Result<Arc<dyn Storage>> {
    crate::tools::take_over(data_dir, wal_dir.as_deref())?;
    #[cfg(any(test, feature = "failpoints"))]
    let home = crate::wal_mirror::home(data_dir)?;
    #[cfg(not(any(test, feature = "failpoints")))]
    let home = data_dir;
    let folder = DataFolder::open(home)?;
    let folder = match wal_dir {
        Some(wal_dir) => folder.with_log_at(wal_dir),
        None => folder,
    };
    let folder: Arc<dyn Storage> = Arc::new(folder);
    #[cfg(any(test, feature = "failpoints"))]
    let folder = crate::wal_mirror::Mirrored::over(folder, data_dir);
    Ok(folder)
}

/// `name=url,name=url` as in `--initial-cluster`.
pub fn parse_initial_cluster(text: &str) -> Result<Vec<(String, String)>> {
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    let parsed = parts.map(|part| match part.trim().split_once('=') {
        Some((name, url)) if !name.is_empty() && !url.is_empty() => Ok((name.to_owned(), url.to_owned())),
        _ => bail!("--initial-cluster is name=url,name=url; {part:?} is not"),
    });
    let members = parsed.collect::<Result<Vec<_>>>()?;
    if members.is_empty() {
        bail!("--initial-cluster names no member");
    }
    Ok(members)
}

#[cfg(feature = "kubernetes")]
/// A URL to listen on; without a scheme it is plain text.
pub fn listen_address(url: &str) -> Result<Address> {
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    with_scheme.parse().with_context(|| format!("{url:?} is no address to listen on"))
}

/// The socket address of `scheme://host:port`.
pub fn address_of(url: &str) -> Result<SocketAddr> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let mut addresses =
        rest.to_socket_addrs().with_context(|| format!("{url:?} is no address to listen on"))?;
    addresses.next().with_context(|| format!("{url:?} names no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_clusters_are_read_and_refused() {
        let read = parse_initial_cluster("a=http://h:1,b=http://h:2").expect("two members");
        assert_eq!(read, [("a".into(), "http://h:1".into()), ("b".into(), "http://h:2".into())]);
        for wrong in ["", "a", "a=", "=http://h:1", "a=http://h:1,b"] {
            assert!(parse_initial_cluster(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn addresses_are_read_with_and_without_a_scheme() {
        for url in ["http://127.0.0.1:2379", "127.0.0.1:2379", "https://127.0.0.1:2379/"] {
            assert_eq!(address_of(url).expect("address").port(), 2379);
        }
        assert!(address_of("http://127.0.0.1").is_err());
    }
}
