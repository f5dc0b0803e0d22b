//! Every group and version of a definition that is served has an APIService of its own, which says that it is served
//! here (upstream: `crdregistration` with `autoregister`; those of built-in groups are made when a server starts).

use api_types::{Resource, meta};
use client::DeleteParams;
use serde_json::{Value, json};

use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::custom_resources::{DEFINITIONS, definitions};
use crate::plan::{Action, Plan};

pub(crate) const API_SERVICES: &str = "apiservices.apiregistration.k8s.io";
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// The group's place among others, and the version's in its group (upstream's for definitions).
const PRIORITIES: (i64, i64) = (1000, 100);

/// See the module.
pub struct Registration;

/// The kind of the APIServices.
pub(crate) fn api_services() -> &'static Resource {
    kind("apiregistration.k8s.io", "v1", "apiservices")
}

fn names(definition: &Value) -> Vec<Key> {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let names = versions.filter_map(|version| version["name"].as_str());
    names.map(|version| Key::new(API_SERVICES, "", &format!("{version}.{group}"))).collect()
}

impl Controller for Registration {
    fn name(&self) -> &'static str {
        "crd-autoregister"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch {
                resource: definitions(),
                keys: |change, _| {
                    let mut keys = names(change.object());
                    if let client::Change::Updated { old, .. } = change {
                        keys.extend(names(old));
                    }
                    keys
                },
            },
            Watch { resource: api_services(), keys: |change, _| own_key(API_SERVICES, change) },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let Some((version, group)) = key.name.split_once('.') else { return Plan::nothing() };
        let stored = listers.object(key);
        let Some(wanted) = is_served(listers, group, version).then(|| api_service(group, version)) else {
            return match stored {
                Some(stored) if is_managed(&stored) => {
                    Plan::of(Action::Delete(api_services().into(), stored, DeleteParams::default()))
                }
                _ => Plan::nothing(),
            };
        };
        match stored {
            None => Plan::of(Action::Create(api_services(), wanted)),
            Some(stored) if is_managed(&stored) && stored["spec"] != wanted["spec"] => {
                let mut changed = Value::clone(&stored);
                changed["spec"] = wanted["spec"].clone();
                Plan::of(Action::Update(api_services(), changed))
            }
            Some(_) => Plan::nothing(),
        }
    }
}

fn is_managed(service: &Value) -> bool {
    meta::label(service, MANAGED) == Some("true")
}

fn is_served(listers: &Listers, group: &str, version: &str) -> bool {
    let all = listers.get(DEFINITIONS).map(|lister| lister.all()).unwrap_or_default();
    let mut of_group = all.iter().filter(|definition| definition["spec"]["group"] == group);
    of_group.any(|definition| {
        let mut versions = definition["spec"]["versions"].as_array().into_iter().flatten();
        versions.any(|each| each["name"] == version && each["served"] == true)
    })
}

fn api_service(group: &str, version: &str) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: "true"}},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": PRIORITIES.0,
            "versionPriority": PRIORITIES.1,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    fn definition(versions: &[(&str, bool)]) -> Value {
        let versions: Vec<Value> =
            versions.iter().map(|(name, served)| json!({"name": name, "served": served})).collect();
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.a.b", "uid": "w"}, "spec": {"group": "a.b", "versions": versions}})
    }

    fn decide(objects: Vec<Value>, name: &str) -> Plan {
        Registration.reconcile(&listers(objects), &Key::new(API_SERVICES, "", name), Now::at(0))
    }

    #[test]
    fn what_definitions_serve_is_registered() {
        let definition = definition(&[("v1", true), ("v2", false)]);
        let plan = decide(vec![definition.clone()], "v1.a.b");
        assert_eq!(show(&plan), [format!("create {API_SERVICES} /v1.a.b")]);
        let Action::Create(_, made) = &plan.actions[0] else { panic!("{plan:?}") };
        assert_eq!(
            made["spec"],
            json!({"group": "a.b", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100})
        );
        assert!(decide(vec![definition.clone()], "v2.a.b").actions.is_empty());
        assert!(decide(vec![definition.clone(), made.clone()], "v1.a.b").actions.is_empty());
        let mut changed = made.clone();
        changed["spec"]["versionPriority"] = json!(5);
        let plan = decide(vec![definition.clone(), changed], "v1.a.b");
        assert_eq!(show(&plan), [format!("update {API_SERVICES} v1.a.b")]);
        assert_eq!(show(&decide(vec![made.clone()], "v1.a.b")), [format!("delete {API_SERVICES} v1.a.b")]);
    }

    #[test]
    fn what_others_registered_stays() {
        let mut others = api_service("a.b", "v1");
        others["metadata"]["labels"] = json!({});
        others["spec"]["service"] = json!({"namespace": "n", "name": "s"});
        assert!(decide(vec![others.clone(), definition(&[("v1", true)])], "v1.a.b").actions.is_empty());
        assert!(decide(vec![others.clone()], "v1.a.b").actions.is_empty());
        others["metadata"]["labels"] = json!({MANAGED: "onstart"});
        assert!(decide(vec![others], "v1.a.b").actions.is_empty());
    }
}
