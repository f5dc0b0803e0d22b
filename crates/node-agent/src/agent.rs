//! Puts the parts of one node's agent together and runs them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, EventRecorder, InformerConfig};
use env::{Env, Shutdown, TaskFailure, TaskGroup};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::context::{Context, core};
use crate::net::Network;
use crate::node::pressure::Thresholds;
use crate::node::{heartbeat, machine};
use crate::pod::config::DnsSettings;
use crate::pod::manager::Manager;
use crate::pod::rotation::{self, LogRotation};
use crate::pod::status_writer::StatusWriter;
use crate::runtime::{CriRuntime, Runtime, SimulatedRuntime};
use crate::server::{self, ServerConfig};

/// Tasks get this long to end after shutdown.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// The runtime is asked for its name this often until it answers.
const RUNTIME_POLL: Duration = Duration::from_millis(500);

/// How one node's agent is set up.
#[derive(Clone)]
pub struct AgentConfig {
    /// The node's name.
    pub node_name: String,
    /// Directory for pods, volumes and logs.
    pub root_dir: PathBuf,
    /// Addresses of the node, primary first.
    pub node_ips: Vec<IpAddr>,
    /// Port of the node's own HTTPS server (upstream: 10250).
    pub port: u16,
    /// `unix://<path>` of a CRI v1 runtime, or `simulated`.
    pub runtime_endpoint: String,
    /// Where the CNI configuration is written once the node has a pod network; none leaves the network to others.
    pub cni_conf_dir: Option<PathBuf>,
    /// Control group below which pods live, starting with `/`; `/` for none.
    pub cgroup_root: String,
    /// Certificate authority of the cluster, PEM.
    pub ca: Vec<u8>,
    /// Certificate chain of the node, PEM.
    pub certificate: Vec<u8>,
    /// Its key, PEM.
    pub key: Vec<u8>,
    /// Cluster DNS servers; empty if there are none.
    pub cluster_dns: Vec<String>,
    /// Usually `cluster.local`.
    pub cluster_domain: String,
    /// Images that the simulated runtime reports.
    pub simulated_images: Vec<String>,
    /// Runs the service proxy and the routes to other nodes (nftables; needs root). Never with the simulated runtime.
    pub network: bool,
    /// How long the node's Lease lasts; it is renewed every quarter of that (upstream: 40).
    pub lease_duration_seconds: u32,
    /// Below these amounts the node reports pressure; nothing is evicted.
    pub eviction_hard: Thresholds,
    /// How large containers' logs become.
    pub log_rotation: LogRotation,
    /// Renders the process' metrics as Prometheus text.
    pub metrics: MetricsText,
}

/// Renders metrics as Prometheus text.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// Why an agent cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A directory cannot be made.
    #[error("{path}: {cause}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The node has no address.
    #[error("the node needs an address")]
    NoAddress,
    /// The certificates cannot be used.
    #[error("the node's certificates cannot be used: {0}")]
    Tls(String),
    /// The runtime's endpoint is not one.
    #[error("{0:?} is no runtime endpoint: unix://<path> or simulated")]
    Endpoint(String),
}

/// One node's agent, ready to run.
pub struct Agent {
    config: AgentConfig,
    env: Env,
    client: Client,
    runtime: Arc<dyn Runtime>,
    simulated: Option<Arc<SimulatedRuntime>>,
    tls: Arc<rustls::ServerConfig>,
}

impl AgentConfig {
    /// The agent, not yet running.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(self, env: Env, client: Client) -> Result<Agent, BuildError> {
        if self.node_ips.is_empty() {
            return Err(BuildError::NoAddress);
        }
        std::fs::create_dir_all(&self.root_dir)
            .map_err(|cause| BuildError::Directory { path: self.root_dir.display().to_string(), cause })?;
        let tls = server::tls(&ServerConfig { ca: &self.ca, certificate: &self.certificate, key: &self.key })
            .map_err(BuildError::Tls)?;
        let mut simulated = None;
        let runtime: Arc<dyn Runtime> = match self.runtime_endpoint.as_str() {
            "simulated" => {
                let runtime =
                    Arc::new(SimulatedRuntime::new(env.clock.clone(), self.simulated_images.clone()));
                simulated = Some(runtime.clone());
                runtime
            }
            path if path.starts_with("unix://") || path.starts_with('/') => Arc::new(CriRuntime::new(path)),
            other => return Err(BuildError::Endpoint(other.to_owned())),
        };
        Ok(Agent { config: self, env, client, runtime, simulated, tls })
    }
}

impl Agent {
    /// Runs until shutdown. Containers go on running afterwards; the next agent adopts them.
    ///
    /// # Errors
    /// The first task that failed.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), TaskFailure> {
        let tasks = TaskGroup::new("agent", shutdown.child());
        let runtime_name = tokio::select! {
            name = self.runtime_name() => name,
            () = shutdown.wait() => return tasks.join(STOP_DEADLINE).await,
        };
        let mut pods = InformerConfig {
            field_selector: format!("spec.nodeName={}", self.config.node_name),
            ..InformerConfig::all(core("pods"))
        }
        .build(self.env.clone(), &self.client);
        let mut services = InformerConfig::all(core("services")).build(self.env.clone(), &self.client);
        let (recorder, events) =
            EventRecorder::new(self.env.clone(), self.client.clone(), "kubelet", &self.config.node_name);
        let statuses = StatusWriter::default();
        let context = Arc::new(Context {
            env: self.env.clone(),
            client: self.client.clone(),
            tasks: tasks.clone(),
            node_name: self.config.node_name.clone(),
            root: self.config.root_dir.clone(),
            cgroup_root: self.config.cgroup_root.clone(),
            metrics: self.config.metrics.clone(),
            lease_duration: Duration::from_secs(self.config.lease_duration_seconds.into()),
            runtime: self.runtime.clone(),
            runtime_name,
            host_ips: self.config.node_ips.clone(),
            dns: self.dns(),
            recorder,
            statuses: statuses.clone(),
            pods: pods.lister(),
            services: services.lister(),
            node: RwLock::default(),
            capacity: machine::capacity(&self.config.root_dir),
            admitted: Mutex::new(HashMap::new()),
        });
        let changed = Arc::new(Notify::new());
        let wake = changed.clone();
        pods.on_change(move |_| wake.notify_one());
        let services_changed = Arc::new(Notify::new());
        let told = services_changed.clone();
        services.on_change(move |_| told.notify_one());
        let stop = tasks.shutdown().clone();
        start(&tasks, "events", events);
        start(&tasks, "statuses", statuses.run(self.env.clone(), self.client.clone(), stop.clone()));
        start(&tasks, "services", services.run(stop.clone()));
        self.start_server(&context, &tasks);
        let registered = tokio::select! {
            node = heartbeat::register(&context, &stop) => node.is_some(),
            () = stop.wait() => false,
        };
        if registered {
            start(&tasks, "lease", heartbeat::renew_lease(context.clone(), stop.clone()));
            let settings =
                heartbeat::Settings { port: self.config.port, thresholds: self.config.eviction_hard };
            start(&tasks, "status", heartbeat::keep_status(context.clone(), settings, stop.clone()));
            let network =
                Network::new(context.clone(), self.config.clone(), self.simulated.clone(), services_changed);
            start(&tasks, "network", network.run(stop.clone()));
            if !self.runtime.is_simulated() {
                let logs = rotation::run(context.clone(), self.config.log_rotation, stop.clone());
                start(&tasks, "logs", logs);
            }
            start(&tasks, "pods", pods.run(stop.clone()));
            start(&tasks, "manager", Manager::new(context.clone()).run(changed, stop.clone()));
        }
        stop.wait().await;
        drop(context);
        tasks.join(STOP_DEADLINE).await
    }

    fn start_server(&self, context: &Arc<Context>, tasks: &TaskGroup) {
        let address = (self.config.node_ips[0], self.config.port).into();
        let server = server::Server { context: context.clone(), tls: self.tls.clone() };
        tasks.spawn("server", server.run(address, tasks.shutdown().clone()));
    }

    /// `containerd://1.6.20` for instance.
    async fn runtime_name(&self) -> String {
        loop {
            match self.runtime.version().await {
                Ok(version) => return format!("{}://{}", version.runtime_name, version.runtime_version),
                Err(error) => tracing::info!(%error, "waiting for the container runtime"),
            }
            self.env.clock.sleep(RUNTIME_POLL).await;
        }
    }

    fn dns(&self) -> DnsSettings {
        let settings = DnsSettings {
            cluster_servers: self.config.cluster_dns.clone(),
            cluster_domain: self.config.cluster_domain.clone(),
            ..DnsSettings::default()
        };
        settings.with_resolv_conf(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }
}

/// Starts a task that ends with the group, also while it waits for an answer that does not come: whatever the agent
/// does can be broken off anywhere, since the next agent looks at what is.
fn start(tasks: &TaskGroup, name: &str, future: impl Future<Output = ()> + Send + 'static) {
    let stop = tasks.shutdown().clone();
    tasks.spawn_detached(name, async move {
        tokio::select! {
            () = future => {}
            () = stop.wait() => {}
        }
    });
}
