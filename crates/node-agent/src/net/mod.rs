//! The node's network: CNI configuration first, then the service proxy with the routes to other nodes.

pub(crate) mod cni;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use env::Shutdown;
use ipnet::IpNet;
use tokio::sync::Notify;

use crate::agent::AgentConfig;
use crate::context::{Context, core};
use crate::proxy::Proxy;
use crate::runtime::SimulatedRuntime;

/// The node's pod network is asked for this often until it has one.
const POLL: Duration = Duration::from_millis(500);

/// Everything about the network of one node.
pub(crate) struct Network {
    context: Arc<Context>,
    config: AgentConfig,
    simulated: Option<Arc<SimulatedRuntime>>,
    /// Services changed.
    wake: Arc<Notify>,
}

impl Network {
    pub fn new(
        context: Arc<Context>,
        config: AgentConfig,
        simulated: Option<Arc<SimulatedRuntime>>,
        wake: Arc<Notify>,
    ) -> Self {
        Self { context, config, simulated, wake }
    }

    /// Runs until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        if let Some(runtime) = &self.simulated {
            runtime.set_network(fallback_network(&self.context.node_name));
        }
        let Some(networks) = self.pod_networks(&shutdown).await else { return };
        if let (Some(runtime), Some(IpNet::V4(network))) = (&self.simulated, networks.first()) {
            runtime.set_network(network.network());
            return;
        }
        if self.simulated.is_some() {
            return;
        }
        if let Some(dir) = &self.config.cni_conf_dir
            && let Err(error) = cni::write(dir, &self.config.root_dir, &networks)
        {
            tracing::error!(dir = %dir.display(), %error, "the CNI configuration was not written");
        }
        if self.config.network {
            let proxy = Proxy::new(self.context.clone(), self.wake.clone(), &shutdown);
            proxy.run(shutdown).await;
        }
    }

    /// The pod networks of this node, once somebody gave it some.
    async fn pod_networks(&self, shutdown: &Shutdown) -> Option<Vec<IpNet>> {
        let api = self.context.client.all(core("nodes"));
        while !shutdown.is_triggered() {
            if let Ok(node) = api.get(&self.context.node_name).await {
                let networks = cni::pod_networks(&node);
                if !networks.is_empty() {
                    return Some(networks);
                }
            }
            tokio::select! {
                () = self.context.env.clock.sleep(POLL) => {}
                () = shutdown.wait() => {}
            }
        }
        None
    }
}

/// Addresses of simulated pods before (or without) a pod network: unlikely to be those of another node.
fn fallback_network(name: &str) -> Ipv4Addr {
    let hash = name.bytes().fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let [_, _, high, low] = hash.to_be_bytes();
    Ipv4Addr::new(10, 192 | (high & 0x3f), low, 0)
}
