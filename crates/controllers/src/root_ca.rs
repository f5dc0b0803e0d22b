//! Every namespace has the ConfigMap `kube-root-ca.crt`, by which pods know the API.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::namespace;
use crate::plan::{Action, Plan};

const NAME: &str = "kube-root-ca.crt";
const DATA: &str = "ca.crt";

/// See the module.
pub struct RootCa {
    /// PEM.
    pub certificate: String,
}

impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: kind("", "v1", "namespaces"), keys: |change, _| own_key("namespaces", change) },
            Watch {
                resource: kind("", "v1", "configmaps"),
                keys: |change, _| {
                    let object = change.object();
                    let ours = api_types::meta::name(object) == NAME;
                    let namespace = api_types::meta::namespace(object);
                    ours.then(|| Key::new("namespaces", "", namespace)).into_iter().collect()
                },
            },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        if !namespace::is_alive(listers, key) {
            return Plan::nothing();
        }
        let configmaps = kind("", "v1", "configmaps");
        let found = listers.get("configmaps").and_then(|lister| lister.get(&key.name, NAME));
        match found {
            Some(found) if found["data"] == self.data() => Plan::nothing(),
            Some(found) => Plan::of(Action::Update(configmaps, self.mended(&found))),
            None => Plan::of(Action::Create(configmaps, self.made(&key.name))),
        }
    }
}

impl RootCa {
    fn data(&self) -> Value {
        json!({ DATA: self.certificate })
    }

    fn made(&self, namespace: &str) -> Value {
        let about = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
                     such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
                     distributions of Kubernetes clusters.";
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": NAME,
                "namespace": namespace,
                "annotations": { "kubernetes.io/description": about },
            },
            "data": self.data(),
        })
    }

    fn mended(&self, found: &Arc<Value>) -> Value {
        let mut mended = (**found).clone();
        mended["data"] = self.data();
        mended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, namespace, show};

    #[test]
    fn the_certificate_is_published_and_mended() {
        let publisher = RootCa { certificate: "pem".to_owned() };
        let plan = |objects| {
            show(&publisher.reconcile(&listers(objects), &Key::new("namespaces", "", "ns"), Now::at(0)))
        };
        assert_eq!(plan(vec![namespace("ns")]), ["create configmaps ns/kube-root-ca.crt"]);
        let mut map = publisher.made("ns");
        assert!(plan(vec![namespace("ns"), map.clone()]).is_empty());
        map["data"] = json!({ "ca.crt": "old" });
        assert_eq!(plan(vec![namespace("ns"), map]), ["update configmaps ns/kube-root-ca.crt"]);
    }
}
