//! A node.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use client::{Client, MastersConfig};
use env::{Env, Shutdown, TaskGroup};
use node_agent::{AgentConfig, LogRotation, Thresholds};

use crate::{logging, observe, signals};

/// How long an agent may take to stop; its pods run on.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const SIMULATED: &str = "simulated";

/// `trierarch agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentOptions {
    /// This node's name
    #[arg(long)]
    pub node_name: String,
    /// The masters: url,url
    #[arg(long, value_delimiter = ',')]
    pub masters: Vec<String>,
    /// Where pods, volumes and logs are kept
    #[arg(long)]
    pub root_dir: PathBuf,
    /// Who signs the cluster's certificates
    #[arg(long)]
    pub ca_file: PathBuf,
    /// This node's certificate
    #[arg(long)]
    pub cert_file: PathBuf,
    /// Its key
    #[arg(long)]
    pub key_file: PathBuf,
    /// This node's addresses, the first one first
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Where the masters ask for logs
    #[arg(long, default_value_t = 10_250)]
    pub port: u16,
    /// unix://<path> of a CRI v1 runtime, or simulated
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    pub runtime_endpoint: String,
    /// Where the configuration of the pod network is written; without it that is left to others
    #[arg(long)]
    pub cni_conf_dir: Option<PathBuf>,
    /// The control group below which pods live
    #[arg(long, default_value = "/")]
    pub cgroup_root: String,
    /// Images that the simulated runtime reports
    #[arg(long, value_delimiter = ',')]
    pub simulated_images: Vec<String>,
    /// Seconds that the node's Lease lasts; it is renewed every quarter of that
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    pub node_lease_duration_seconds: u32,
    /// Below these amounts the node reports pressure: signal<amount,signal<percentage%
    #[arg(
        long,
        default_value = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,pid.available<10%",
        overrides_with = "eviction_hard"
    )]
    pub eviction_hard: Thresholds,
    /// A container's log is rotated when it has so many bytes (a quantity, 10Mi for instance)
    #[arg(long, default_value = "10Mi", value_parser = bytes)]
    pub container_log_max_size: u64,
    /// Log files that are kept of a container
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    pub container_log_max_files: u32,
    #[command(flatten)]
    pub log: logging::LogOptions,
}

fn bytes(text: &str) -> Result<u64, String> {
    LogRotation::parse_size(text).ok_or_else(|| format!("{text:?} is not a number of bytes"))
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(env: Env, options: AgentOptions) -> Result<()> {
    logging::start(&options.log);
    let tasks = TaskGroup::new("agent", Shutdown::new());
    let metrics = observe::install(&[])?;
    signals::watch(&tasks)?;
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (ca, certificate, key) =
        (read(&options.ca_file)?, read(&options.cert_file)?, read(&options.key_file)?);
    let masters = MastersConfig {
        servers: options.masters,
        ca: ca.clone(),
        identity: Some((certificate.clone(), key.clone())),
    };
    let client = Client::new(masters.build(env.clone(), tasks.clone())?, "trierarch-agent");
    let config = AgentConfig {
        network: options.runtime_endpoint != SIMULATED,
        node_name: options.node_name,
        root_dir: options.root_dir,
        node_ips: options.node_ip,
        port: options.port,
        runtime_endpoint: options.runtime_endpoint,
        cni_conf_dir: options.cni_conf_dir,
        cgroup_root: options.cgroup_root,
        ca,
        certificate,
        key,
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".to_owned(),
        simulated_images: options.simulated_images,
        metrics,
        log_rotation: LogRotation {
            max_bytes: options.container_log_max_size,
            max_files: options.container_log_max_files as usize,
            ..LogRotation::default()
        },
        eviction_hard: options.eviction_hard,
        lease_duration_seconds: options.node_lease_duration_seconds,
    };
    let agent = config.build(env, client)?;
    tasks.spawn("node", agent.run(tasks.shutdown().clone()));
    Ok(tasks.join(STOP_DEADLINE).await?)
}
