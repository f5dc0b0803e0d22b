//! An agent's own node: not its taints, and only labels that say what the machine is.

use std::collections::BTreeSet;

use api_types::status::Status;
use api_types::{Value, meta};

use super::{Agent, quote};
use crate::admission::Operation;

/// Keys of labels that agents may set (`k8s.io/kubelet/pkg/apis`, `well_known_labels.go`).
const ALLOWED: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// Domains of keys that agents may set.
const ALLOWED_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Domains that belong to Kubernetes.
const OWN_DOMAINS: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// The domain of labels that agents never set.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

impl Agent<'_> {
    pub(super) fn node(&self, new: &Value) -> Result<(), Status> {
        let (target, own) = (self.attributes.target, self.quoted());
        if target.name != self.node {
            let name = quote(&target.name);
            return self.forbidden(format!("node {own} is not allowed to modify node {name}"));
        }
        match (self.attributes.operation, self.attributes.old) {
            (Operation::Create, _) => self.new_node(new),
            (Operation::Update, Some(old)) => self.changed_node(new, old),
            _ => Ok(()),
        }
    }

    fn new_node(&self, node: &Value) -> Result<(), Status> {
        let own = self.quoted();
        if node["spec"]["configSource"].is_object() {
            let why = format!("node {own} is not allowed to create pods with a non-nil configSource");
            return self.forbidden(why);
        }
        match forbidden(node, &Value::Null) {
            found if found.is_empty() => Ok(()),
            found => {
                self.forbidden(format!("node {own} is not allowed to set the following labels: {found}"))
            }
        }
    }

    fn changed_node(&self, new: &Value, old: &Value) -> Result<(), Status> {
        let own = self.quoted();
        let differs = |part: &str, field: &str| new[part][field] != old[part][field];
        if new["spec"]["configSource"].is_object() && differs("spec", "configSource") {
            let why =
                format!("node {own} is not allowed to update configSource to a new non-nil configSource");
            return self.forbidden(why);
        }
        if differs("spec", "taints") {
            return self.forbidden(format!("node {own} is not allowed to modify taints"));
        }
        if differs("metadata", "ownerReferences") {
            return self.forbidden(format!("node {own} is not allowed to modify ownerReferences"));
        }
        match forbidden(new, old) {
            found if found.is_empty() => Ok(()),
            found => self.forbidden(format!("is not allowed to modify labels: {found}")),
        }
    }
}

/// Keys of labels that differ and are not the agent's to set.
fn forbidden(new: &Value, old: &Value) -> String {
    let differs = |key: &&str| meta::label(new, key) != meta::label(old, key);
    let keys = |object| meta::labels(object).into_iter().flatten().map(|(key, _)| key.as_str());
    let all: BTreeSet<&str> = keys(new).chain(keys(old)).collect();
    let found = all.into_iter().filter(differs).filter(|key| !is_allowed(key));
    found.collect::<Vec<_>>().join(", ")
}

fn is_allowed(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |of: &str| meta::is_within(domain, of);
    if within(RESTRICTED) {
        return false;
    }
    !OWN_DOMAINS.iter().any(|of| within(of))
        || ALLOWED.contains(&key)
        || ALLOWED_DOMAINS.iter().any(|of| within(of))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn agents_set_labels_that_say_what_the_machine_is() {
        for key in
            ["kubernetes.io/hostname", "a.node.kubernetes.io/b", "example.com/a", "plain", "notk8s.io/a"]
        {
            assert!(is_allowed(key), "{key}");
        }
        for key in [
            "kubernetes.io/role",
            "a.k8s.io/b",
            "node-restriction.kubernetes.io/a",
            "x.node-restriction.kubernetes.io/a",
        ] {
            assert!(!is_allowed(key), "{key}");
        }
        let node = |labels: Value| json!({"metadata": {"labels": labels}});
        let old = node(json!({"k8s.io/a": "1", "k8s.io/b": "1", "plain": "1"}));
        assert_eq!(
            forbidden(&node(json!({"k8s.io/b": "2", "k8s.io/c": "1"})), &old),
            "k8s.io/a, k8s.io/b, k8s.io/c"
        );
        assert_eq!(forbidden(&old, &old), "");
    }
}
