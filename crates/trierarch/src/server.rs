//! A master.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use env::{Env, Shutdown, TaskGroup};
use store::{PeerTls, Timing};

use crate::{logging, member, signals};

/// How long a master may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// `trierarch server`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// This master's name in --initial-cluster
    #[arg(long)]
    pub name: String,
    /// Where the store keeps its data
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Where certificates and keys are: etcd/ca.crt and etcd/peer-<name>.{crt,key}
    #[arg(long)]
    pub pki_dir: Option<PathBuf>,
    /// All masters: name=url,name=url
    #[arg(long)]
    pub initial_cluster: String,
    /// Tells clusters with the same URLs apart
    #[arg(long, default_value = "trierarch")]
    pub initial_cluster_token: String,
    /// Where to listen for the other masters; https with --pki-dir
    #[arg(long)]
    pub listen_peer_url: String,
    /// Where to serve etcd clients
    #[arg(long)]
    pub listen_client_url: String,
    #[command(flatten)]
    pub log: logging::LogOptions,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(env: Env, options: Options) -> Result<()> {
    logging::start(&options.log);
    let tasks = TaskGroup::new("server", Shutdown::new());
    signals::watch(&tasks)?;
    let config = member::Config {
        peer_tls: options.pki_dir.as_deref().map(|dir| peer_tls(dir, &options.name)).transpose()?,
        name: options.name,
        data_dir: options.data_dir,
        initial_cluster: member::parse_initial_cluster(&options.initial_cluster)?,
        cluster_token: options.initial_cluster_token,
        listen_peer_url: options.listen_peer_url,
        advertise_client_urls: vec![options.listen_client_url.clone()],
        listen_client_urls: vec![options.listen_client_url],
        client_tls: None,
        timing: Timing::default(),
        snapshot_count: 10_000,
        snapshot_catchup_entries: 5_000,
        max_request_bytes: 3 << 20,
        max_txn_ops: mvcc::MAX_TXN_OPS,
    };
    config.build(&env).await?.start(&tasks);
    Ok(tasks.join(STOP_DEADLINE).await?)
}

fn peer_tls(dir: &std::path::Path, name: &str) -> Result<PeerTls> {
    let read = |file: String| {
        let path = dir.join(file);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(PeerTls {
        ca: read("etcd/ca.crt".to_owned())?,
        certificate: read(format!("etcd/peer-{name}.crt"))?,
        key: read(format!("etcd/peer-{name}.key"))?,
    })
}
