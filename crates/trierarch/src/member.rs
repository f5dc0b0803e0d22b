//! A member of the store with its etcd API: what `server` and `etcd` have in common.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::{Env, Lane, TaskGroup};
use etcd_api::{AuthOptions, EtcdApi, EtcdApiConfig, Listen, ServingTls};
use rocks::DataFolder;
use store::storage::Storage;
use store::{PeerTls, Store, StoreConfig, StoreServer, Timing};

/// A member to be.
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    pub initial_cluster: Vec<(String, String)>,
    pub cluster_token: String,
    pub join: bool,
    pub strict_reconfig_check: bool,
    pub listen_peer_url: String,
    pub listen_client_urls: Vec<String>,
    pub advertise_client_urls: Vec<String>,
    pub peer_tls: Option<PeerTls>,
    pub client_tls: Option<ServingTls>,
    pub timing: Timing,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    pub max_request_bytes: usize,
    /// Bytes of values that are kept in memory.
    pub cache_bytes: u64,
    pub max_txn_ops: usize,
    pub max_concurrent_streams: u32,
    pub quota_bytes: Option<u64>,
    pub auth: AuthOptions,
    /// Threads that serve etcd clients.
    pub lanes: usize,
    pub watch_progress_notify_interval: Duration,
    pub warn_unary: Duration,
    pub warn_apply: Duration,
    pub compaction: (usize, Duration),
    pub extensive_metrics: bool,
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
        let listen = self.listen_client_urls.iter().map(|url| listen(url)).collect::<Result<Vec<_>>>()?;
        let config = StoreConfig {
            cluster_token: self.cluster_token,
            join: self.join,
            strict_reconfig_check: self.strict_reconfig_check,
            initial_cluster: self.initial_cluster,
            advertise_client_urls: self.advertise_client_urls,
            peer_tls: self.peer_tls,
            timing: self.timing,
            version: etcd_api::ETCD_VERSION.to_owned(),
            warn_apply: self.warn_apply,
            compaction: self.compaction,
            snapshot_count: self.snapshot_count,
            snapshot_catchup_entries: self.snapshot_catchup_entries,
            max_request_bytes: self.max_request_bytes,
            cache_bytes: self.cache_bytes,
            ..StoreConfig::new(self.name, address_of(&self.listen_peer_url)?)
        };
        let folder = open_folder(&self.data_dir)?;
        let lane = Lane::start("raft").context("cannot start the consensus' thread")?;
        let (store, server) = lane.run(config.build(env.clone(), folder)).await?;
        let api = EtcdApiConfig {
            tls: self.client_tls,
            max_request_bytes: self.max_request_bytes,
            max_txn_ops: self.max_txn_ops,
            max_concurrent_streams: self.max_concurrent_streams,
            quota_bytes: self.quota_bytes,
            auth: self.auth,
            lanes: self.lanes,
            scratch: self.data_dir.clone(),
            watch_progress_notify_interval: self.watch_progress_notify_interval,
            warn_unary: self.warn_unary,
            warn_apply: self.warn_apply,
            extensive_metrics: self.extensive_metrics,
            ..EtcdApiConfig::new(listen, metrics)
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
        tasks.spawn("store", async move { lane.run(self.server.run(stop)).await });
    }
}

fn open_folder(data_dir: &Path) -> Result<Arc<dyn Storage>> {
    let folder: Arc<dyn Storage> = Arc::new(DataFolder::open(data_dir)?);
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

/// Where a URL says to serve clients, and whether with TLS.
fn listen(url: &str) -> Result<Listen> {
    Ok(Listen { address: address_of(url)?, tls: url.starts_with("https://") })
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
