//! What the scheduler knows of the nodes at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::resources::{Resources, requests, requests_for_scoring};

/// A port of a node that a pod takes for itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port.
    pub port: i32,
    /// The address; `0.0.0.0` is all.
    pub ip: String,
}

/// The address that stands for all.
pub const ANY_ADDRESS: &str = "0.0.0.0";

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let same_address = self.ip == other.ip || self.ip == ANY_ADDRESS || other.ip == ANY_ADDRESS;
        same_address && self.port == other.port && self.protocol == other.protocol
    }
}

/// The host ports that a pod takes.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter(|port| port.host_port.is_some_and(|port| port > 0));
    taken
        .map(|port| HostPort {
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.host_port.unwrap_or_default(),
            ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| ANY_ADDRESS.to_owned()),
        })
        .collect()
}

/// A pod as the scheduler counts it: computed once, used at every add and remove.
#[derive(Clone, Debug)]
pub struct PodCost {
    /// What it asks for.
    pub requests: Resources,
    /// The same, with defaults.
    pub scored: Resources,
    /// Host ports.
    pub ports: Vec<HostPort>,
}

impl PodCost {
    /// Of a pod.
    pub fn of(pod: &Pod) -> Self {
        Self { requests: requests(pod), scored: requests_for_scoring(pod), ports: host_ports(pod) }
    }
}

/// A node and what its pods take of it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node's name.
    pub name: String,
    /// The object. A pod may be known on a node that is not (yet, or any more): then it is `None`.
    pub node: Option<Arc<Node>>,
    /// What pods may take.
    pub allocatable: Resources,
    /// What they asked for.
    pub requested: Resources,
    /// The same, with defaults for what was not asked.
    pub scored: Resources,
    /// Ports taken, with how many pods take each.
    pub ports: BTreeMap<HostPort, usize>,
}

impl NodeInfo {
    /// A node without pods.
    pub fn empty(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: None,
            allocatable: Resources::default(),
            requested: Resources::default(),
            scored: Resources::default(),
            ports: BTreeMap::new(),
        }
    }

    /// Takes the node's own description.
    pub fn set_node(&mut self, node: Option<Arc<Node>>) {
        let status = node.as_ref().and_then(|node| node.status.as_ref());
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        self.allocatable = allocatable.map(Resources::from_list).unwrap_or_default();
        self.node = node;
    }

    /// Counts a pod.
    pub fn add(&mut self, cost: &PodCost) {
        self.requested.add(&cost.requests);
        self.scored.add(&cost.scored);
        for port in &cost.ports {
            *self.ports.entry(port.clone()).or_default() += 1;
        }
    }

    /// Counts a pod no more.
    pub fn remove(&mut self, cost: &PodCost) {
        self.requested.subtract(&cost.requests);
        self.scored.subtract(&cost.scored);
        for port in &cost.ports {
            if let Some(count) = self.ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.ports.remove(port);
                }
            }
        }
    }

    /// The node's labels.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.as_ref()?.metadata.labels.as_ref()
    }
}

/// All nodes at one moment, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Only nodes that exist.
    pub nodes: Vec<Arc<NodeInfo>>,
}
