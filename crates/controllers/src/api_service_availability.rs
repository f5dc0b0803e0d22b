//! Whether the server of an APIService is available, as a condition of its status (upstream:
//! `kube-aggregator/pkg/controllers/status`). What the stored objects do not tell the server itself is asked, which the
//! runner does with the probe that it was given ([`ApiProbe`]).

use std::sync::Arc;
use std::time::Duration;

use api_types::field::quote;
use api_types::{condition, meta, time};
use client::Change;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::api_service_registration::{API_SERVICES, api_services};
use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::plan::{Action, Plan};

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Between two questions to a server (upstream's).
pub const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Asks the server of an APIService for its discovery; says why it does not show it.
pub type Probe = dyn Fn(Arc<Value>) -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// How servers are asked.
#[derive(Clone)]
pub struct ApiProbe {
    /// Asks.
    pub ask: Arc<Probe>,
    /// Between two times; [`PROBE_INTERVAL`] is upstream's.
    pub interval: Duration,
}

impl std::fmt::Debug for ApiProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiProbe")
    }
}

/// See the module.
pub struct Availability {
    /// Between two questions to a server.
    pub interval: Duration,
}

/// The APIServices that name a service.
fn of_service(listers: &Listers, namespace: &str, name: &str) -> Vec<Key> {
    let all = listers.get(API_SERVICES).map(|lister| lister.all()).unwrap_or_default();
    let names = all.iter().filter(|one| {
        let service = &one["spec"]["service"];
        service["namespace"] == namespace && service["name"] == name
    });
    names.map(|one| Key::of(API_SERVICES, one)).collect()
}

impl Controller for Availability {
    fn name(&self) -> &'static str {
        "apiservice-availability"
    }

    fn watches(&self) -> Vec<Watch> {
        let slice = |change: &Change, listers: &Listers| {
            let object = change.object();
            let service = meta::label(object, SERVICE_LABEL).unwrap_or_default();
            of_service(listers, meta::namespace(object), service)
        };
        vec![
            Watch { resource: api_services(), keys: |change, _| own_key(API_SERVICES, change) },
            Watch {
                resource: kind("", "v1", "services"),
                keys: |change, listers| {
                    let object = change.object();
                    of_service(listers, meta::namespace(object), meta::name(object))
                },
            },
            Watch { resource: kind("discovery.k8s.io", "v1", "endpointslices"), keys: slice },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan {
        let Some(service) = listers.object(key) else { return Plan::nothing() };
        match finding(listers, &service) {
            Some(finding) => told(&service, &finding, now).map_or_else(Plan::nothing, |changed| {
                Plan::of(Action::UpdateStatus(api_services(), changed))
            }),
            None => {
                Plan { actions: vec![Action::ProbeApiService(service)], recheck_after: Some(self.interval) }
            }
        }
    }
}

/// What is to be said of an APIService.
pub(crate) struct Finding {
    is_available: bool,
    reason: &'static str,
    message: String,
}

impl Finding {
    fn missing(reason: &'static str, message: String) -> Self {
        Self { is_available: false, reason, message }
    }

    /// What a probe found.
    pub fn probed(result: &Result<(), String>) -> Self {
        match result {
            Ok(()) => Self { is_available: true, reason: "Passed", message: "all checks passed".to_owned() },
            Err(why) => Self::missing("FailedDiscoveryCheck", why.clone()),
        }
    }
}

/// What the stored objects tell; none: the server has to be asked.
fn finding(listers: &Listers, api_service: &Value) -> Option<Finding> {
    let wanted = &api_service["spec"]["service"];
    if wanted.is_null() {
        let message = "Local APIServices are always available".to_owned();
        return Some(Finding { is_available: true, reason: "Local", message });
    }
    let (namespace, name) =
        (wanted["namespace"].as_str().unwrap_or_default(), wanted["name"].as_str().unwrap_or_default());
    let of = format!("service/{name} in {}", quote(namespace));
    let Some(service) = listers.object(&Key::new(SERVICES, namespace, name)) else {
        return Some(Finding::missing("ServiceNotFound", format!("{of} is not present")));
    };
    if service["spec"]["type"] != "ClusterIP" {
        return None;
    }
    let port = wanted["port"].as_i64().unwrap_or(443);
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let Some(found) = ports.find(|each| each["port"] == port) else {
        return Some(Finding::missing("ServicePortError", format!("{of} is not listening on port {port}")));
    };
    let port = found["name"].as_str().unwrap_or_default();
    let slices = listers.get(SLICES).map(|lister| lister.in_namespace(namespace)).unwrap_or_default();
    let slices: Vec<_> =
        slices.into_iter().filter(|slice| meta::label(slice, SERVICE_LABEL) == Some(name)).collect();
    if slices.is_empty() {
        return Some(Finding::missing("EndpointsNotFound", format!("cannot find endpointslices for {of}")));
    }
    if !slices.iter().any(|slice| has_endpoint(slice, port)) {
        let message = format!("endpointslices for {of} have no addresses with port name {}", quote(port));
        return Some(Finding::missing("MissingEndpoints", message));
    }
    None
}

fn has_endpoint(slice: &Value, port: &str) -> bool {
    let mut endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let mut ports = slice["ports"].as_array().into_iter().flatten();
    endpoints.any(|endpoint| endpoint["conditions"]["ready"] != false)
        && ports.any(|each| each["name"].as_str().unwrap_or_default() == port && each["port"].is_number())
}

/// The APIService with this finding in its status; none when it says so already.
pub(crate) fn told(api_service: &Value, finding: &Finding, now: Now) -> Option<Value> {
    let mut changed = api_service.clone();
    let word = if finding.is_available { "True" } else { "False" };
    let made =
        json!({"type": "Available", "status": word, "reason": finding.reason, "message": finding.message});
    condition::set(&mut changed["status"], made, &time::from_millis(now.wall_millis));
    (changed["status"] != api_service["status"]).then_some(changed)
}

/// Counts an APIService that was available and is not any more (upstream: `kube-aggregator/pkg/controllers/status`).
pub(crate) fn count(before: &Value, after: &Value) {
    let condition = |service: &Value| {
        let mut all = service["status"]["conditions"].as_array().into_iter().flatten();
        all.find(|one| one["type"] == "Available").cloned().unwrap_or_default()
    };
    let now = condition(after);
    if condition(before)["status"] == "True" && now["status"] != "True" {
        let reason = now["reason"].as_str().unwrap_or("UnknownReason").to_owned();
        metrics::counter!(
            "aggregator_unavailable_apiservice_total",
            "name" => meta::name(after).to_owned(), "reason" => reason
        )
        .increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    fn api_service(service: Value) -> Value {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.a.b"},
            "spec": {"group": "a.b", "version": "v1", "service": service}})
    }

    fn remote() -> Value {
        api_service(json!({"namespace": "n", "name": "s", "port": 443}))
    }

    fn service(port: u16) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "n", "name": "s"},
            "spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": port}]}})
    }

    fn slice(ready: bool, port: &str) -> Value {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "n", "name": "s-1", "labels": {SERVICE_LABEL: "s"}},
            "ports": [{"name": port, "port": 8443}],
            "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": ready}}]})
    }

    fn decide(objects: Vec<Value>) -> Plan {
        let controller = Availability { interval: PROBE_INTERVAL };
        controller.reconcile(&listers(objects), &Key::new(API_SERVICES, "", "v1.a.b"), Now::at(0))
    }

    fn said(objects: Vec<Value>) -> [String; 3] {
        let plan = decide(objects);
        let [Action::UpdateStatus(_, written)] = plan.actions.as_slice() else { panic!("{plan:?}") };
        let condition = &written["status"]["conditions"][0];
        ["status", "reason", "message"].map(|field| condition[field].as_str().unwrap_or_default().to_owned())
    }

    #[test]
    fn local_ones_are_always_available() {
        let local = api_service(Value::Null);
        assert_eq!(said(vec![local.clone()]), ["True", "Local", "Local APIServices are always available"]);
        let written = told(&local, &finding(&listers(vec![]), &local).unwrap(), Now::at(0)).unwrap();
        assert!(decide(vec![written]).actions.is_empty());
    }

    #[test]
    fn what_is_missing_is_said_in_upstreams_words() {
        assert_eq!(said(vec![remote()]), ["False", "ServiceNotFound", "service/s in \"n\" is not present"]);
        assert_eq!(
            said(vec![remote(), service(80)]),
            ["False", "ServicePortError", "service/s in \"n\" is not listening on port 443"]
        );
        assert_eq!(
            said(vec![remote(), service(443)]),
            ["False", "EndpointsNotFound", "cannot find endpointslices for service/s in \"n\""]
        );
        for slice in [slice(false, "https"), slice(true, "other")] {
            assert_eq!(
                said(vec![remote(), service(443), slice]),
                [
                    "False",
                    "MissingEndpoints",
                    "endpointslices for service/s in \"n\" have no addresses with port name \"https\""
                ]
            );
        }
    }

    #[test]
    fn a_server_that_may_be_there_is_asked_again_and_again() {
        let plan = decide(vec![remote(), service(443), slice(true, "https")]);
        assert_eq!(show(&plan), ["probe v1.a.b"]);
        assert_eq!(plan.recheck_after, Some(PROBE_INTERVAL));
        let mut external = service(443);
        external["spec"]["type"] = json!("ExternalName");
        assert_eq!(show(&decide(vec![remote(), external])), ["probe v1.a.b"]);
        let passed = told(&remote(), &Finding::probed(&Ok(())), Now::at(1)).unwrap();
        assert!(told(&passed, &Finding::probed(&Ok(())), Now::at(2)).is_none());
        let failed = told(&passed, &Finding::probed(&Err("gone".into())), Now::at(3)).unwrap();
        let condition = &failed["status"]["conditions"][0];
        assert_eq!(
            (&condition["reason"], &condition["message"]),
            (&json!("FailedDiscoveryCheck"), &json!("gone"))
        );
        assert_eq!(condition["lastTransitionTime"], time::from_millis(3).as_str());
    }

    #[test]
    fn changes_of_services_and_slices_concern_who_names_them() {
        let mut local = api_service(Value::Null);
        local["metadata"]["name"] = json!("v1.c.d");
        let all = listers(vec![remote(), local]);
        let watches = Availability { interval: PROBE_INTERVAL }.watches();
        let keys =
            |at: usize, object: Value| (watches[at].keys)(&Change::Added(Arc::new(object.into())), &all);
        let own = vec![Key::new(API_SERVICES, "", "v1.a.b")];
        assert_eq!(keys(1, service(443)), own);
        assert_eq!(keys(2, slice(true, "https")), own);
        let mut other = service(443);
        other["metadata"]["namespace"] = json!("m");
        assert!(keys(1, other).is_empty());
    }
}
