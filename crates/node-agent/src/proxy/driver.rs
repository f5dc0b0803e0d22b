//! Keeps the proxy's table and the routes to other nodes true. Driver: runs `nft` and `ip` in the node's namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use api_types::meta;
use client::{InformerConfig, Lister};
use env::Shutdown;
use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Notify;

use super::ruleset::{self, Ruleset, ruleset};
use crate::context::{Context, core, kind};
use crate::net::cni;

/// Changes within this are applied together.
const SETTLE: Duration = Duration::from_millis(20);
/// After a failure the whole table is written anew.
const RETRY: Duration = Duration::from_secs(1);
/// Everything is compared again after this.
const RESYNC: Duration = Duration::from_secs(60);

/// The service proxy and the routes of one node.
pub(crate) struct Proxy {
    context: Arc<Context>,
    nodes: Lister,
    slices: Lister,
    wake: Arc<Notify>,
    /// What the kernel has; none before the table is made.
    applied: Option<Ruleset>,
    routes: BTreeMap<IpNet, String>,
}

impl Proxy {
    /// With informers of its own; `changed` also tells of services.
    pub fn new(context: Arc<Context>, wake: Arc<Notify>, shutdown: &Shutdown) -> Self {
        let follow = |resource| {
            let mut informer = InformerConfig::all(resource).build(context.env.clone(), &context.client);
            let told = wake.clone();
            informer.on_change(move |_| told.notify_one());
            let lister = informer.lister();
            context.tasks.spawn_detached("proxy-informer", informer.run(shutdown.clone()));
            lister
        };
        let nodes = follow(core("nodes"));
        let slices = follow(kind("discovery.k8s.io", "v1", "endpointslices"));
        Self { context, nodes, slices, wake, applied: None, routes: BTreeMap::new() }
    }

    /// Follows services, endpoints and nodes until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) {
        if let Err(error) = std::fs::write("/proc/sys/net/ipv4/ip_forward", "1") {
            tracing::warn!(%error, "forwarding was not switched on");
        }
        let (services, nodes, slices) =
            (self.context.services.clone(), self.nodes.clone(), self.slices.clone());
        let synced = async { services.synced().await && nodes.synced().await && slices.synced().await };
        tokio::select! {
            true = synced => {}
            () = shutdown.wait() => return,
        }
        while !shutdown.is_triggered() {
            let routed = self.follow_routes().await;
            let pause = match self.apply().await {
                Ok(()) if routed => RESYNC,
                Ok(()) => RETRY,
                Err(error) => {
                    tracing::warn!(%error, "the service proxy's rules were not applied");
                    self.applied = None;
                    RETRY
                }
            };
            let clock = &self.context.env.clock;
            tokio::select! {
                () = self.wake.notified() => clock.sleep(SETTLE).await,
                () = clock.sleep(pause) => {}
                () = shutdown.wait() => {}
            }
        }
    }

    async fn apply(&mut self) -> Result<(), String> {
        let (services, slices) = (self.context.services.all(), self.slices.all());
        let services: Vec<&Value> = services.iter().map(AsRef::as_ref).collect();
        let slices: Vec<&Value> = slices.iter().map(AsRef::as_ref).collect();
        let new = ruleset(&services, &slices, self.pod_networks());
        let script = ruleset::script(self.applied.as_ref(), &new);
        if !script.is_empty() {
            nft(&script).await?;
        }
        self.applied = Some(new);
        Ok(())
    }

    fn pod_networks(&self) -> BTreeSet<Ipv4Net> {
        let nodes = self.nodes.all();
        let networks = nodes.iter().flat_map(|node| cni::pod_networks(node));
        networks
            .filter_map(|network| if let IpNet::V4(network) = network { Some(network) } else { None })
            .collect()
    }

    /// Routes by difference; false if one failed.
    async fn follow_routes(&mut self) -> bool {
        let wanted = routes(&self.nodes.all(), &self.context.node_name);
        let mut all_well = true;
        let gone: Vec<IpNet> =
            self.routes.keys().filter(|network| !wanted.contains_key(*network)).copied().collect();
        for network in gone {
            // A route that is gone already is as it should be.
            let _ = ip(&["route", "del", &network.to_string()]).await;
            self.routes.remove(&network);
        }
        for (network, via) in wanted {
            if self.routes.get(&network) == Some(&via) {
                continue;
            }
            match ip(&["route", "replace", &network.to_string(), "via", &via]).await {
                Ok(()) => {
                    self.routes.insert(network, via);
                }
                Err(error) => {
                    tracing::debug!(%network, via, error, "a route was not set");
                    all_well = false;
                }
            }
        }
        all_well
    }
}

/// Pod networks of the other nodes, and the address that leads there.
fn routes(nodes: &[Arc<Value>], own: &str) -> BTreeMap<IpNet, String> {
    let mut found = BTreeMap::new();
    for node in nodes.iter().filter(|node| meta::name(node) != own) {
        let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        let internal: Vec<&str> = addresses
            .filter(|address| address["type"] == "InternalIP")
            .filter_map(|address| address["address"].as_str())
            .collect();
        for network in cni::pod_networks(node) {
            let v4 = network.addr().is_ipv4();
            if let Some(via) = internal.iter().find(|ip| ip.contains(':') != v4) {
                found.insert(network, (*via).to_owned());
            }
        }
    }
    found
}

async fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().await.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// One atomic batch.
async fn nft(script: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("nft: {error}");
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await.map_err(failed)?;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn routes_lead_to_the_other_nodes() {
        let node = |name: &str, ip: &str, network: &str| {
            let addresses =
                json!([{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]);
            Arc::new(
                json!({"metadata": {"name": name}, "spec": {"podCIDR": network}, "status": {"addresses": addresses}}),
            )
        };
        let nodes = [node("a", "10.0.0.1", "10.1.0.0/24"), node("b", "10.0.0.2", "10.1.1.0/24")];
        let expected = BTreeMap::from([("10.1.1.0/24".parse().expect("a network"), "10.0.0.2".to_owned())]);
        assert_eq!(routes(&nodes, "a"), expected);
    }
}
