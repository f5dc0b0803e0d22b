//! The store alone, with etcd's flags.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use env::{Env, Shutdown, TaskGroup};
use etcd_api::{ETCD_VERSION, ServingTls};
use store::{PeerTls, Timing};

use crate::{logging, member, observe, signals};

const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// etcd's flags, with etcd's names, defaults and environment variables. Those that are not here yet are refused.
#[derive(Parser, Debug)]
#[command(name = "etcd", disable_version_flag = true)]
struct Options {
    /// Print the version of etcd whose API is served
    #[arg(long)]
    version: bool,
    /// This member's name
    #[arg(long, env = "ETCD_NAME", default_value = "default")]
    name: String,
    /// The data folder; <name>.etcd without
    #[arg(long, env = "ETCD_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where to listen for other members
    #[arg(long, env = "ETCD_LISTEN_PEER_URLS", default_value = "http://localhost:2380")]
    listen_peer_urls: String,
    /// Where to serve clients
    #[arg(
        long,
        env = "ETCD_LISTEN_CLIENT_URLS",
        default_value = "http://localhost:2379",
        value_delimiter = ','
    )]
    listen_client_urls: Vec<String>,
    /// What other members use to reach this one
    #[arg(long, env = "ETCD_INITIAL_ADVERTISE_PEER_URLS", default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: String,
    /// What clients use to reach this member
    #[arg(
        long,
        env = "ETCD_ADVERTISE_CLIENT_URLS",
        default_value = "http://localhost:2379",
        value_delimiter = ','
    )]
    advertise_client_urls: Vec<String>,
    /// All first members; <name>=<initial-advertise-peer-urls> without
    #[arg(long, env = "ETCD_INITIAL_CLUSTER")]
    initial_cluster: Option<String>,
    /// Tells clusters with the same URLs apart
    #[arg(long, env = "ETCD_INITIAL_CLUSTER_TOKEN", default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// new; joining an existing cluster is not possible yet
    #[arg(long, env = "ETCD_INITIAL_CLUSTER_STATE", default_value = "new")]
    initial_cluster_state: String,
    /// Milliseconds between heartbeats
    #[arg(long, env = "ETCD_HEARTBEAT_INTERVAL")]
    heartbeat_interval: Option<u64>,
    /// Milliseconds of silence after which an election begins
    #[arg(long, env = "ETCD_ELECTION_TIMEOUT")]
    election_timeout: Option<u64>,
    /// Entries after which a snapshot is made
    #[arg(long, env = "ETCD_SNAPSHOT_COUNT", default_value_t = 10_000)]
    snapshot_count: u64,
    /// Entries kept for slow followers
    #[arg(long, env = "ETCD_SNAPSHOT_CATCHUP_ENTRIES", default_value_t = 5_000)]
    snapshot_catchup_entries: u64,
    /// Bytes that a request may have
    #[arg(long, env = "ETCD_MAX_REQUEST_BYTES", default_value_t = 3 << 19)]
    max_request_bytes: usize,
    /// Steps that a transaction may have
    #[arg(long, env = "ETCD_MAX_TXN_OPS", default_value_t = mvcc::MAX_TXN_OPS)]
    max_txn_ops: usize,
    /// The certificate shown to clients
    #[arg(long, env = "ETCD_CERT_FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "ETCD_KEY_FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// Who may sign clients' certificates
    #[arg(long, env = "ETCD_TRUSTED_CA_FILE")]
    trusted_ca_file: Option<PathBuf>,
    /// The certificate for other members
    #[arg(long, env = "ETCD_PEER_CERT_FILE", requires = "peer_key_file", requires = "peer_trusted_ca_file")]
    peer_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "ETCD_PEER_KEY_FILE")]
    peer_key_file: Option<PathBuf>,
    /// Who may sign members' certificates
    #[arg(long, env = "ETCD_PEER_TRUSTED_CA_FILE")]
    peer_trusted_ca_file: Option<PathBuf>,
    #[command(flatten)]
    log: logging::LogOptions,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(env: Env, flags: Vec<String>) -> Result<()> {
    let options = match Options::try_parse_from(std::iter::once("etcd".to_owned()).chain(flags)) {
        Ok(options) => options,
        Err(error) => error.exit(),
    };
    if options.version {
        println!("etcd Version: {ETCD_VERSION}\nTrierarch: {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    logging::start(&options.log);
    let tasks = TaskGroup::new("etcd", Shutdown::new());
    signals::watch(&tasks)?;
    let metrics = observe::install()?;
    let member = config(options)?.build(&env, Arc::new(move || observe::text(&metrics))).await?;
    let store = member.store.clone();
    member.start(&tasks);
    let ready = async move { store.read_barrier().await };
    tasks.spawn_detached("ready", async move {
        if ready.await.is_ok() {
            tracing::info!("ready to serve client requests");
        }
    });
    Ok(tasks.join(STOP_DEADLINE).await?)
}

fn config(options: Options) -> Result<member::Config> {
    if options.initial_cluster_state != "new" {
        bail!("--initial-cluster-state={} is not possible yet, only new", options.initial_cluster_state);
    }
    let alone = || format!("{}={}", options.name, options.initial_advertise_peer_urls);
    let initial_cluster = options.initial_cluster.clone().unwrap_or_else(alone);
    let data_dir =
        options.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}.etcd", options.name)));
    Ok(member::Config {
        initial_cluster: member::parse_initial_cluster(&initial_cluster)?,
        data_dir,
        peer_tls: peer_tls(&options)?,
        client_tls: client_tls(&options)?,
        timing: timing(&options)?,
        name: options.name,
        cluster_token: options.initial_cluster_token,
        listen_peer_url: options.listen_peer_urls,
        listen_client_urls: options.listen_client_urls,
        advertise_client_urls: options.advertise_client_urls,
        snapshot_count: options.snapshot_count,
        snapshot_catchup_entries: options.snapshot_catchup_entries,
        max_request_bytes: options.max_request_bytes,
        max_txn_ops: options.max_txn_ops,
    })
}

/// etcd elects after one to two election timeouts of silence.
fn timing(options: &Options) -> Result<Timing> {
    let millis = |value: Option<u64>, default: Duration| value.map_or(default, Duration::from_millis);
    let default = Timing::default();
    let heartbeat = millis(options.heartbeat_interval, default.heartbeat);
    let timing = match options.election_timeout.map(Duration::from_millis) {
        Some(timeout) => Timing { heartbeat, election_min: timeout, election_max: timeout * 2 },
        None => Timing { heartbeat, ..default },
    };
    if heartbeat * 3 > timing.election_min {
        bail!("--election-timeout must be at least three times --heartbeat-interval");
    }
    Ok(timing)
}

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn peer_tls(options: &Options) -> Result<Option<PeerTls>> {
    let files = (&options.peer_trusted_ca_file, &options.peer_cert_file, &options.peer_key_file);
    let (Some(ca), Some(certificate), Some(key)) = files else { return Ok(None) };
    Ok(Some(PeerTls { ca: read(ca)?, certificate: read(certificate)?, key: read(key)? }))
}

fn client_tls(options: &Options) -> Result<Option<ServingTls>> {
    let (Some(certificate), Some(key)) = (&options.cert_file, &options.key_file) else { return Ok(None) };
    let client_ca = options.trusted_ca_file.as_ref().map(read).transpose()?;
    Ok(Some(ServingTls { certificate: read(certificate)?, key: read(key)?, client_ca }))
}

/// Panics when the flags contradict each other.
#[cfg(test)]
pub fn check_flags() {
    use clap::CommandFactory as _;
    Options::command().debug_assert();
}
