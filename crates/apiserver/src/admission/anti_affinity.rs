//! LimitPodHardAntiAffinityTopology: a pod may insist on being alone on a node, and on nothing larger, where it would
//! keep others out of a whole zone.

use api_rules::look::Look;
use api_types::Value;
use api_types::status::Status;

use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;

const HOSTNAME: &str = "kubernetes.io/hostname";
const TERMS: &str = "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution";

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Never, check: Check::Now(check) };

fn check(_: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    let written = matches!(attributes.operation, Operation::Create | Operation::Update);
    match other_key(pod).filter(|_| written && attributes.is("", "pods")) {
        None => Ok(()),
        Some(key) => Err(attributes.target.forbidden(&format!(
            "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed"
        ))),
    }
}

/// The first key that stands for more than a node.
fn other_key(pod: &Value) -> Option<&str> {
    pod.items(TERMS).iter().map(|term| term.text("topologyKey")).find(|key| *key != HOSTNAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_nodes_may_be_kept_free_of_others() {
        let pod = |keys: &[&str], list: &str| {
            let terms: Vec<Value> = keys.iter().map(|key| json!({"topologyKey": key})).collect();
            json!({"spec": {"affinity": {"podAntiAffinity": {list: terms}}}})
        };
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        assert_eq!(other_key(&json!({"spec": {}})), None);
        assert_eq!(other_key(&pod(&[HOSTNAME], required)), None);
        assert_eq!(other_key(&pod(&[HOSTNAME, "zone"], required)), Some("zone"));
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        assert_eq!(other_key(&pod(&["zone"], preferred)), None);
    }
}
