//! Every namespace has the ServiceAccount `default`.

use client::Change;
use serde_json::json;

use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::namespace;
use crate::plan::{Action, Plan};

const NAME: &str = "default";

/// See the module.
pub struct ServiceAccounts;

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: kind("", "v1", "namespaces"), keys: |change, _| own_key("namespaces", change) },
            Watch { resource: kind("", "v1", "serviceaccounts"), keys: |change, _| lost(change, NAME) },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let there =
            listers.get("serviceaccounts").is_some_and(|lister| lister.get(&key.name, NAME).is_some());
        if there || !namespace::is_alive(listers, key) {
            return Plan::nothing();
        }
        let account = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": NAME, "namespace": key.name },
        });
        Plan::of(Action::Create(kind("", "v1", "serviceaccounts"), account))
    }
}

/// The namespace of an object by this name that was deleted.
pub(crate) fn lost(change: &Change, name: &str) -> Vec<Key> {
    match change {
        Change::Deleted(object) if api_types::meta::name(object) == name => {
            vec![Key::new("namespaces", "", api_types::meta::namespace(object))]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, namespace, show};

    fn plan(objects: Vec<serde_json::Value>) -> Vec<String> {
        let listers = listers(objects);
        show(&ServiceAccounts.reconcile(&listers, &Key::new("namespaces", "", "ns"), Now::at(0)))
    }

    #[test]
    fn a_living_namespace_gets_its_account_once() {
        assert_eq!(plan(vec![namespace("ns")]), ["create serviceaccounts ns/default"]);
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": "ns" } });
        assert!(plan(vec![namespace("ns"), account]).is_empty());
        let mut ending = namespace("ns");
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(plan(vec![ending]).is_empty());
        assert!(plan(vec![]).is_empty());
    }
}
