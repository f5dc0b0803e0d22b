//! What every part of the agent shares: identity, doors to the outside, what the node offers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_types::{Resource, table};
use client::{Client, EventRecorder, EventType, Lister};
use env::{Env, TaskGroup};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use crate::agent::MetricsText;
use crate::pod::config::DnsSettings;
use crate::pod::status::HostFacts;
use crate::pod::status_writer::StatusWriter;
use crate::runtime::Runtime;

/// Shared by all tasks of one agent.
pub(crate) struct Context {
    pub env: Env,
    pub client: Client,
    pub tasks: TaskGroup,
    pub node_name: String,
    pub root: PathBuf,
    pub cgroup_root: String,
    /// A Lease that is not renewed for so long is expired.
    pub lease_duration: Duration,
    /// Renders what the process has recorded.
    pub metrics: MetricsText,
    pub runtime: Arc<dyn Runtime>,
    /// Name and version, as `nodeInfo.containerRuntimeVersion` has it; the part before `://` prefixes container ids.
    pub runtime_name: String,
    pub host_ips: Vec<IpAddr>,
    pub dns: DnsSettings,
    pub recorder: EventRecorder,
    pub statuses: StatusWriter,
    /// Pods of this node.
    pub pods: Lister,
    pub services: Lister,
    /// The node as the API last showed it.
    pub node: RwLock<Option<Arc<Value>>>,
    /// Capacity of the node, read once.
    pub capacity: Capacity,
    /// Pods that were let in, by uid.
    pub admitted: Mutex<HashMap<String, Arc<Pod>>>,
}

/// What the machine has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Capacity {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub pods: i64,
}

impl Context {
    /// What statuses say of the node.
    pub fn facts(&self) -> HostFacts {
        let runtime = self.runtime_name.split("://").next().unwrap_or_default();
        HostFacts { ips: self.host_ips.clone(), runtime: runtime.to_owned() }
    }

    /// The node as a typed object, for admission.
    pub fn typed_node(&self) -> Node {
        let node = self.node.read().clone();
        node.and_then(|node| serde_json::from_value((*node).clone()).ok()).unwrap_or_default()
    }

    /// An event about a container of a pod.
    pub fn tell(&self, pod: &Value, container: &str, kind: EventType, reason: &str, text: impl Into<String>) {
        self.recorder.record_part(pod, &container_path(pod, container), kind, reason, text);
    }

    /// A warning about a pod.
    pub fn warn(&self, pod: &Value, reason: &str, text: impl Into<String>) {
        self.recorder.record(pod, EventType::Warning, reason, text);
    }
}

/// An event's `fieldPath` for a container of a pod; empty if the pod has none of that name.
fn container_path(pod: &Value, container: &str) -> String {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let has =
        |list: &str| pod["spec"][list].as_array().into_iter().flatten().any(|each| each["name"] == container);
    lists
        .into_iter()
        .find(|list| has(list))
        .map(|list| format!("spec.{list}{{{container}}}"))
        .unwrap_or_default()
}

/// A kind that this build surely has.
pub(crate) fn kind(group: &str, version: &str, resource: &str) -> &'static Resource {
    table::find(group, version, resource)
        .expect("invariant: the table of kinds has every kind that the agent uses")
}

/// A core kind.
pub(crate) fn core(resource: &str) -> &'static Resource {
    kind("", "v1", resource)
}
