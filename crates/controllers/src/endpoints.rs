//! Endpoints: the older form of EndpointSlices, for clients that still read it (upstream's `endpoints-controller`).

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::meta;
use client::{Change, DeleteParams};
use serde_json::{Value, json};

use crate::controller::{Controller, Key, Listers, Now, Watch, kind};
use crate::endpoint_slice::{pod_changed, ports, selected_pods};
use crate::plan::{Action, Plan};
use crate::template::{is_over, is_ready};

const ENDPOINTS: &str = "endpoints";
const SERVICES: &str = "services";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const MANAGED_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object; more are left out, and an annotation says so (upstream's `maxCapacity`).
const MAX_ADDRESSES: usize = 1_000;

/// See the module.
pub struct Endpoints;

impl Controller for Endpoints {
    fn name(&self) -> &'static str {
        "endpoints-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: kind("", "v1", SERVICES), keys: of_service },
            Watch { resource: kind("", "v1", ENDPOINTS), keys: of_service },
            Watch { resource: kind("", "v1", "pods"), keys: pod_changed },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let there = listers.object(&Key::new(ENDPOINTS, &key.namespace, &key.name));
        let Some(service) = listers.object(key) else { return forsaken(there) };
        let Some(pods) = selected_pods(listers, &service) else { return Plan::nothing() };
        let (subsets, over) = subsets(&service, &pods);
        let wanted = wanted(&service, subsets, over, there.as_deref());
        let action = match there {
            Some(there) if same(&there, &wanted) => return Plan::nothing(),
            Some(_) => Action::Update(kind("", "v1", ENDPOINTS), wanted),
            None => Action::Create(kind("", "v1", ENDPOINTS), wanted),
        };
        Plan::of(action)
    }
}

/// Endpoints and their Service have one name.
fn of_service(change: &Change, _: &Listers) -> Vec<Key> {
    vec![Key::of(SERVICES, change.object())]
}

/// Endpoints that this controller made go with their Service.
fn forsaken(there: Option<Arc<Value>>) -> Plan {
    let ours = there.filter(|there| meta::label(there, MANAGED_LABEL) == Some(MANAGER));
    let delete = |there| Action::Delete(kind("", "v1", ENDPOINTS).into(), there, DeleteParams::default());
    ours.map(|there| Plan::of(delete(there))).unwrap_or_default()
}

/// The addresses by the ports that they share, and whether some had to be left out.
fn subsets(service: &Value, pods: &[Arc<Value>]) -> (Value, bool) {
    let publish = service["spec"]["publishNotReadyAddresses"] == true;
    let listed = |pod: &&Arc<Value>| !is_over(pod) && (publish || !meta::is_being_deleted(pod));
    let mut addressed: Vec<(&str, &Arc<Value>)> = pods
        .iter()
        .filter(listed)
        .filter_map(|pod| Some((pod["status"]["podIP"].as_str().filter(|ip| !ip.is_empty())?, pod)))
        .collect();
    // The ready ones stay when there are too many.
    addressed.sort_by_key(|(ip, pod)| (!is_ready(pod), *ip));
    let over = addressed.len() > MAX_ADDRESSES;
    addressed.truncate(MAX_ADDRESSES);
    let mut by_ports: BTreeMap<String, (Value, Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for (ip, pod) in addressed {
        let ports = ports(service, pod);
        let subset = by_ports.entry(ports.to_string()).or_insert_with(|| (ports, Vec::new(), Vec::new()));
        let list = if publish || is_ready(pod) { &mut subset.1 } else { &mut subset.2 };
        list.push(address(ip, pod));
    }
    (by_ports.into_values().map(|(ports, ready, waiting)| subset(ports, ready, waiting)).collect(), over)
}

fn address(ip: &str, pod: &Value) -> Value {
    let mut address = json!({
        "ip": ip,
        "targetRef": {
            "kind": "Pod", "namespace": meta::namespace(pod), "name": meta::name(pod), "uid": meta::uid(pod),
        },
    });
    if let Some(node) = pod["spec"]["nodeName"].as_str() {
        address["nodeName"] = json!(node);
    }
    address
}

fn subset(mut ports: Value, ready: Vec<Value>, waiting: Vec<Value>) -> Value {
    for port in ports.as_array_mut().into_iter().flatten() {
        if port["name"] == "" {
            port.as_object_mut().map(|port| port.remove("name"));
        }
    }
    let mut subset = json!({});
    for (field, list) in
        [("addresses", json!(ready)), ("notReadyAddresses", json!(waiting)), ("ports", ports)]
    {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            subset[field] = list;
        }
    }
    subset
}

/// The object as it shall be; annotations that others put there stay.
fn wanted(service: &Value, subsets: Value, over: bool, there: Option<&Value>) -> Value {
    let fresh = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": { "name": meta::name(service), "namespace": meta::namespace(service) },
    });
    let mut wanted = there.cloned().unwrap_or(fresh);
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(MANAGED_LABEL.to_owned(), json!(MANAGER));
    if service["spec"]["clusterIP"] == "None" {
        labels.insert(HEADLESS_LABEL.to_owned(), json!(""));
    }
    wanted["metadata"]["labels"] = labels.into();
    if over {
        meta::set_annotation(&mut wanted, OVER_CAPACITY, "truncated");
    } else if let Some(annotations) = wanted["metadata"]["annotations"].as_object_mut() {
        annotations.remove(OVER_CAPACITY);
    }
    let object = wanted.as_object_mut().expect("invariant: made or read as an object");
    match subsets.as_array().is_some_and(Vec::is_empty) {
        true => object.remove("subsets"),
        false => object.insert("subsets".to_owned(), subsets),
    };
    wanted
}

fn same(there: &Value, wanted: &Value) -> bool {
    there["subsets"] == wanted["subsets"]
        && meta::labels(there) == meta::labels(wanted)
        && meta::annotations(there) == meta::annotations(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    fn service() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s", "namespace": "ns", "uid": "u" },
            "spec": { "selector": { "a": "b" }, "ports": [{ "port": 80, "targetPort": 8080, "protocol": "TCP" }] },
        })
    }

    fn pod(ip: &str, ready: bool) -> Value {
        let status = if ready { "True" } else { "False" };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": ip, "namespace": "ns", "uid": ip, "labels": { "a": "b" } },
            "spec": { "nodeName": "n" },
            "status": { "podIP": ip, "phase": "Running", "conditions": [{ "type": "Ready", "status": status }] },
        })
    }

    fn plan(objects: Vec<Value>) -> Plan {
        Endpoints.reconcile(&listers(objects), &Key::new(SERVICES, "ns", "s"), Now::at(0))
    }

    fn created(plan: &Plan) -> Value {
        match plan.actions.as_slice() {
            [Action::Create(_, object)] => object.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ready_and_waiting_pods_stand_apart() {
        let made = created(&plan(vec![service(), pod("10.0.0.2", true), pod("10.0.0.3", false)]));
        assert_eq!(made["subsets"][0]["addresses"][0]["ip"], "10.0.0.2");
        assert_eq!(made["subsets"][0]["notReadyAddresses"][0]["targetRef"]["name"], "10.0.0.3");
        assert_eq!(made["subsets"][0]["ports"], json!([{ "port": 8080, "protocol": "TCP" }]));
    }

    #[test]
    fn what_is_right_is_left_alone_and_what_is_not_is_mended() {
        let objects = vec![service(), pod("10.0.0.2", true)];
        let made = created(&plan(objects.clone()));
        assert!(plan([objects.clone(), vec![made.clone()]].concat()).actions.is_empty());
        let more = [objects, vec![made.clone(), pod("10.0.0.4", true)]].concat();
        assert_eq!(show(&plan(more)), ["update endpoints ns/s"]);
        assert_eq!(show(&plan(vec![made])), ["delete endpoints ns/s"], "its Service is gone");
    }

    #[test]
    fn too_many_addresses_are_cut_and_the_object_says_so() {
        let pods = |count: usize| (0..count).map(|n| pod(&format!("10.0.{}.{}", n / 250, n % 250), true));
        let full = created(&plan(pods(MAX_ADDRESSES).chain([service()]).collect()));
        assert_eq!(meta::annotation(&full, OVER_CAPACITY), None);
        let over = created(&plan(pods(MAX_ADDRESSES + 1).chain([service()]).collect()));
        assert_eq!(over["subsets"][0]["addresses"].as_array().map(Vec::len), Some(MAX_ADDRESSES));
        assert_eq!(meta::annotation(&over, OVER_CAPACITY), Some("truncated"));
    }
}
