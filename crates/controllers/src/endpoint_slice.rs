//! EndpointSlices: the addresses of the pods behind a Service.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::codec::peek::Peek;
use api_types::meta;
use api_types::selector::LabelSelector;
use client::{Change, DeleteParams};
use serde_json::{Value, json};

use crate::controller::{Controller, Key, Listers, Now, OWNER_INDEX, Watch, kind, own_key};
use crate::plan::{Action, Plan};
use crate::template::{has_ended, is_over, is_ready, says_ready};

const SLICES: &str = "endpointslices.discovery.k8s.io";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in one slice (upstream's `--max-endpoints-per-slice`).
const MAX_ENDPOINTS: usize = 100;

/// See the module.
pub struct EndpointSlices;

impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: kind("", "v1", "services"), keys: |change, _| own_key("services", change) },
            Watch { resource: kind("", "v1", "pods"), keys: pod_changed },
            Watch { resource: kind("discovery.k8s.io", "v1", "endpointslices"), keys: slice_changed },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let Some(service) = listers.object(key) else { return Plan::nothing() };
        let Some(pods) = selected_pods(listers, &service) else { return Plan::nothing() };
        let wanted = slices(&service, &pods);
        let there = listers.get(SLICES).map(|lister| lister.by_index(OWNER_INDEX, meta::uid(&service)));
        Plan { actions: difference(&service, wanted, there.unwrap_or_default()), recheck_after: None }
    }
}

/// The pods that a Service chooses; `None` for one that chooses none itself.
pub(crate) fn selected_pods(listers: &Listers, service: &Value) -> Option<Vec<Arc<Value>>> {
    let selector = service["spec"]["selector"].as_object().filter(|selector| !selector.is_empty())?;
    if service["spec"]["type"] == "ExternalName" || meta::is_being_deleted(service) {
        return None;
    }
    let selector = LabelSelector::from_map(selector);
    Some(listers.get("pods")?.select(meta::namespace(service), &selector))
}

/// The services that choose a pod, as it is and as it was.
pub(crate) fn pod_changed(change: &Change, listers: &Listers) -> Vec<Key> {
    let Some(services) = listers.get("services") else { return Vec::new() };
    let (pod, before) = (change.object().peek(), change.before().map(|before| before.peek()));
    let chosen = services.in_namespace(&pod.namespace()).into_iter().filter(|service| {
        let selector = service["spec"]["selector"].as_object().filter(|selector| !selector.is_empty());
        selector.is_some_and(|selector| {
            let selector = LabelSelector::from_map(selector);
            selector.matches_peek(&pod) || before.is_some_and(|before| selector.matches_peek(&before))
        })
    });
    let keys: Vec<Key> = chosen.map(|service| Key::of("services", &service)).collect();
    match before {
        Some(before) if !keys.is_empty() && !matters(&before, &pod) => Vec::new(),
        _ => keys,
    }
}

/// Whether a change of a pod can change a slice.
fn matters(old: &Peek<'_>, new: &Peek<'_>) -> bool {
    let is_ready = |pod: &Peek<'_>| says_ready(&pod.part(&["status", "conditions"]));
    old.labels() != new.labels()
        || old.part(&["status", "podIPs"]) != new.part(&["status", "podIPs"])
        || old.scalar(&["spec", "nodeName"]) != new.scalar(&["spec", "nodeName"])
        || is_ready(old) != is_ready(new)
        || has_ended(old) != has_ended(new)
        || old.is_being_deleted() != new.is_being_deleted()
}

fn slice_changed(change: &Change, _: &Listers) -> Vec<Key> {
    let slice = change.object();
    let service =
        meta::label(slice, SERVICE_LABEL).filter(|_| meta::label(slice, MANAGED_LABEL) == Some(MANAGER));
    service.map(|name| Key::new("services", meta::namespace(slice), name)).into_iter().collect()
}

/// The ports and endpoints that the slices shall have, by what they have in common: pods may name a port differently.
fn slices(service: &Value, pods: &[Arc<Value>]) -> Vec<(Value, Vec<Value>)> {
    let publish = service["spec"]["publishNotReadyAddresses"] == true;
    let mut by_ports: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !is_over(pod)) {
        let Some(endpoint) = endpoint(pod, publish) else { continue };
        let ports = ports(service, pod);
        by_ports.entry(ports.to_string()).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    if by_ports.is_empty() {
        return vec![(json!([]), Vec::new())];
    }
    let split = by_ports.into_values().flat_map(|(ports, endpoints)| {
        endpoints.chunks(MAX_ENDPOINTS).map(|chunk| (ports.clone(), chunk.to_vec())).collect::<Vec<_>>()
    });
    split.collect()
}

fn endpoint(pod: &Value, publish: bool) -> Option<Value> {
    let address = pod["status"]["podIP"].as_str().filter(|address| !address.is_empty())?;
    let (ready, ending) = (is_ready(pod), meta::is_being_deleted(pod));
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": { "ready": publish || (ready && !ending), "serving": ready, "terminating": ending },
        "targetRef": {
            "kind": "Pod", "namespace": meta::namespace(pod), "name": meta::name(pod), "uid": meta::uid(pod),
        },
    });
    if let Some(node) = pod["spec"]["nodeName"].as_str() {
        endpoint["nodeName"] = json!(node);
    }
    Some(endpoint)
}

/// The ports of a Service as a pod offers them.
pub(crate) fn ports(service: &Value, pod: &Value) -> Value {
    let mut ports = Vec::new();
    for port in service["spec"]["ports"].as_array().into_iter().flatten() {
        let target = if port["targetPort"].is_null() { &port["port"] } else { &port["targetPort"] };
        let number = match target.as_str() {
            Some(name) => named_port(pod, name, &port["protocol"]),
            None => target.as_i64().filter(|&number| number > 0).or_else(|| port["port"].as_i64()),
        };
        let Some(number) = number else { continue };
        let name = port["name"].as_str().unwrap_or_default();
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let mut made = json!({ "name": name, "protocol": protocol, "port": number });
        if let Some(app) = port.get("appProtocol") {
            made["appProtocol"] = app.clone();
        }
        ports.push(made);
    }
    Value::Array(ports)
}

fn named_port(pod: &Value, name: &str, protocol: &Value) -> Option<i64> {
    let containers = pod["spec"]["containers"].as_array()?.iter();
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let same =
        |port: &Value| port["protocol"] == *protocol || port["protocol"].is_null() || protocol.is_null();
    ports.find(|port| port["name"] == name && same(port))?["containerPort"].as_i64()
}

/// Slices that are there are changed before new ones are made, and what is left over goes.
fn difference(service: &Arc<Value>, wanted: Vec<(Value, Vec<Value>)>, there: Vec<Arc<Value>>) -> Vec<Action> {
    let resource = kind("discovery.k8s.io", "v1", "endpointslices");
    let mut free: Vec<Arc<Value>> =
        there.into_iter().filter(|slice| !meta::is_being_deleted(slice)).collect();
    let mut missing = Vec::new();
    for (ports, endpoints) in wanted {
        let same = |slice: &Arc<Value>| {
            list(&slice["ports"]) == list(&ports) && list(&slice["endpoints"]) == endpoints
        };
        match free.iter().position(same) {
            Some(place) => drop(free.remove(place)),
            None => missing.push((ports, endpoints)),
        }
    }
    let mut actions = Vec::new();
    for (ports, endpoints) in missing {
        match free.pop() {
            Some(slice) => {
                let mut changed = (*slice).clone();
                (changed["ports"], changed["endpoints"]) = (ports, json!(endpoints));
                actions.push(Action::Update(resource, changed));
            }
            None => actions.push(Action::Create(resource, made(service, ports, endpoints))),
        }
    }
    actions.extend(
        free.into_iter().map(|slice| Action::Delete(resource.into(), slice, DeleteParams::default())),
    );
    actions
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn made(service: &Value, ports: Value, endpoints: Vec<Value>) -> Value {
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), json!(meta::name(service)));
    labels.insert(MANAGED_LABEL.to_owned(), json!(MANAGER));
    if service["spec"]["clusterIP"] == "None" {
        labels.insert("service.kubernetes.io/headless".to_owned(), json!(""));
    }
    let family = service["spec"]["ipFamilies"][0].as_str().unwrap_or("IPv4");
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", meta::name(service)),
            "namespace": meta::namespace(service),
            "labels": labels,
            "ownerReferences": [meta::OwnerReference::controller_of(service).to_value()],
        },
        "addressType": family,
        "ports": ports,
        "endpoints": endpoints,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    fn service() -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "s", "namespace": "ns", "uid": "u" },
            "spec": { "selector": { "a": "b" }, "ports": [{ "port": 80, "targetPort": "http", "protocol": "TCP" }] },
        })
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Value {
        let status = if ready { "True" } else { "False" };
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": "ns", "uid": name, "labels": { "a": "b" } },
            "spec": { "nodeName": "n", "containers": [{ "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            "status": { "podIP": ip, "phase": "Running", "conditions": [{ "type": "Ready", "status": status }] },
        })
    }

    fn plan(objects: Vec<Value>) -> Plan {
        EndpointSlices.reconcile(&listers(objects), &Key::new("services", "ns", "s"), Now::at(0))
    }

    #[test]
    fn ready_pods_are_endpoints_by_their_named_port() {
        let done = plan(vec![
            service(),
            pod("p", "10.0.0.1", true),
            pod("q", "10.0.0.2", false),
            pod("r", "", true),
        ]);
        let Some(Action::Create(_, slice)) = done.actions.first() else { panic!("{done:?}") };
        assert_eq!(slice["ports"], json!([{ "name": "", "protocol": "TCP", "port": 8080 }]));
        let ready: Vec<_> =
            list(&slice["endpoints"]).iter().map(|e| e["conditions"]["ready"].clone()).collect();
        assert_eq!(ready, [json!(true), json!(false)]);
    }

    #[test]
    fn a_slice_that_is_right_is_left_alone_and_others_are_changed() {
        let done = plan(vec![service(), pod("p", "10.0.0.1", true)]);
        let Some(Action::Create(_, slice)) = done.actions.first() else { panic!("{done:?}") };
        let mut slice = slice.clone();
        meta::set_name(&mut slice, "s-1");
        assert!(plan(vec![service(), pod("p", "10.0.0.1", true), slice.clone()]).actions.is_empty());
        let changed = plan(vec![service(), pod("p", "10.0.0.9", true), slice]);
        assert_eq!(show(&changed), [format!("update {SLICES} ns/s-1")]);
    }

    #[test]
    fn a_pod_that_ends_serves_but_is_not_ready() {
        let mut ending = pod("p", "10.0.0.1", true);
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let done = plan(vec![service(), ending]);
        let Some(Action::Create(_, slice)) = done.actions.first() else { panic!("{done:?}") };
        let conditions = &slice["endpoints"][0]["conditions"];
        assert_eq!(*conditions, json!({ "ready": false, "serving": true, "terminating": true }));
    }

    #[test]
    fn many_endpoints_are_split() {
        let mut objects = vec![service()];
        objects.extend((0..150).map(|n| pod(&format!("p{n}"), &format!("10.0.0.{n}"), true)));
        assert_eq!(plan(objects).actions.len(), 2);
    }
}
