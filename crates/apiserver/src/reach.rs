//! What answers for a Service, and connections to it. An endpoint that is a pod is reached through the agent of its node
//! (`dial.rs`): masters have no service proxy and need no route to pods. Other endpoints are dialled as they are.

use std::sync::Arc;

use api_rules::look::Look;
use api_types::field::quote;
use api_types::status::Status;
use api_types::{Resource, Value, meta, table};
use mvcc::KeyRange;

use crate::api::Api;
use crate::body::BoxError;
use crate::convert;
use crate::dial::{self, Connection};
use crate::node_client::{Endpoint, NodeClient};
use crate::registry::Target;
use crate::storage::{self, View};

/// One place where a Service's port is answered.
pub(crate) struct Answerer {
    pub at: Endpoint,
    pod: Option<Pod>,
}

/// A pod, and who leads to it.
struct Pod {
    namespace: String,
    name: String,
    agent: Endpoint,
    client: Arc<NodeClient>,
}

impl Answerer {
    /// Whoever listens at an address or a name.
    pub fn direct(host: String, port: u16) -> Self {
        Self { at: Endpoint { host, port }, pod: None }
    }

    /// # Errors
    /// In Go's words, or in the agent's.
    pub async fn connect(&self) -> Result<Connection, BoxError> {
        match &self.pod {
            Some(Pod { namespace, name, agent, client }) => {
                client.connect_pod(agent, (namespace, name), self.at.port).await
            }
            None => Ok(Box::new(dial::tcp(&self.at.host, self.at.port, false).await?)),
        }
    }
}

/// Where a Service's port is answered: its external name, or its ready endpoints in the order of their slices.
///
/// # Errors
/// Upstream's text for why there is none.
pub(crate) fn answerers(
    api: &Api,
    view: &View,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<Vec<Answerer>, String> {
    let service = find(view, kind("", "services"), namespace, name);
    let service = service.ok_or_else(|| format!("service {} not found", quote(name)))?;
    if service["spec"]["type"] == "ExternalName" {
        return Ok(vec![Answerer::direct(service.text("spec.externalName").to_owned(), port)]);
    }
    let ports = service.items("spec.ports");
    let Some(wanted) = ports.iter().find(|own| own["port"] == port) else {
        return Err(format!("no service port {port} found for service {}", quote(name)));
    };
    let found = ready(view, namespace, name, wanted.text("name")).map_err(|status| status.message)?;
    let found: Vec<Answerer> = found
        .iter()
        .flat_map(|(endpoint, port)| {
            let addresses = endpoint.texts("addresses");
            addresses.map(|address| answerer(api, view, (namespace, endpoint), address, *port))
        })
        .collect();
    match found.is_empty() {
        true => Err(format!("no endpoints available for service {}", quote(name))),
        false => Ok(found),
    }
}

fn answerer(
    api: &Api,
    view: &View,
    (namespace, endpoint): (&str, &Value),
    address: &str,
    port: u16,
) -> Answerer {
    let way = || {
        let client = api.nodes.clone()?;
        let pod = pod_of(view, namespace, endpoint, address)?;
        let node = find(view, kind("", "nodes"), "", pod.text("spec.nodeName"))?;
        let (namespace, name) = (namespace.to_owned(), meta::name(&pod).to_owned());
        Some(Pod { namespace, name, agent: Endpoint::of(&node).ok()?, client })
    };
    Answerer { at: Endpoint { host: address.to_owned(), port }, pod: way() }
}

/// Ready endpoints of a Service, each with the number that the port of this name has there.
pub(crate) fn ready(
    view: &View,
    namespace: &str,
    service: &str,
    port: &str,
) -> Result<Vec<(Value, u16)>, Status> {
    let slices = kind("discovery.k8s.io", "endpointslices");
    let mut found = Vec::new();
    for kv in storage::each(view, &KeyRange::prefix(Target::new(slices, namespace, "").prefix())) {
        let slice = convert::decode(slices, &kv?)?;
        if meta::label(&slice, "kubernetes.io/service-name") != Some(service) {
            continue;
        }
        let own = slice.items("ports").iter().find(|own| own.text("name") == port);
        let number = own.and_then(|own| u16::try_from(own["port"].as_u64()?).ok());
        let Some(number) = number else { continue };
        let is_ready = |endpoint: &&Value| endpoint["conditions"]["ready"] != false;
        found.extend(slice.items("endpoints").iter().filter(is_ready).map(|one| (one.clone(), number)));
    }
    Ok(found)
}

/// The pod that an endpoint says it is. Whoever writes slices may write anything: it counts if the pod is of their
/// namespace and has the address.
pub(crate) fn pod_of(view: &View, namespace: &str, endpoint: &Value, address: &str) -> Option<Value> {
    let is_own = endpoint["targetRef"]["kind"] == "Pod" && endpoint["targetRef"]["namespace"] == namespace;
    let name = endpoint["targetRef"]["name"].as_str().filter(|name| is_own && !name.is_empty())?;
    let pod = find(view, kind("", "pods"), namespace, name)?;
    pod.items("status.podIPs").iter().any(|own| own["ip"] == address).then_some(pod)
}

fn kind(group: &str, resource: &str) -> &'static Resource {
    table::find(group, "v1", resource).expect("invariant: the table of kinds holds what Services need")
}

fn find(view: &View, kind: &'static Resource, namespace: &str, name: &str) -> Option<Value> {
    let stored = storage::get(view, &Target::new(kind, namespace, name).key()).ok()??;
    convert::decode(kind, &stored).ok()
}
