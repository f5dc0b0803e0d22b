//! ExtendedResourceToleration: a pod that asks for a device tolerates the taint of that name, which keeps others off the
//! nodes that have such devices.

use std::collections::BTreeSet;

use api_rules::is_extended_resource;
use api_rules::look::Look;
use api_types::status::Status;
use api_types::{Value, meta};
use serde_json::json;

use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Now(admit), check: Check::Never };

fn admit(_: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if attributes.is("", "pods") && matches!(attributes.operation, Operation::Create | Operation::Update) {
        extended(pod).iter().for_each(|resource| tolerate(pod, resource));
    }
    Ok(())
}

/// The extended resources that containers ask for.
fn extended(pod: &Value) -> BTreeSet<String> {
    let containers = pod.items("spec.containers").iter().chain(pod.items("spec.initContainers"));
    let names = containers.flat_map(|container| container.entries("resources.requests"));
    names.map(|(name, _)| name).filter(|name| is_extended_resource(name)).map(str::to_owned).collect()
}

/// Adds a toleration, or puts it in the place of those that are about the same taint.
fn tolerate(pod: &mut Value, resource: &str) {
    let wanted = json!({"key": resource, "operator": "Exists", "effect": "NoSchedule"});
    let same = |toleration: &Value| {
        let fields = ["key", "operator", "value", "effect"];
        fields.iter().all(|field| toleration.text(field) == wanted.text(field))
    };
    let mut list = pod.items("spec.tolerations").to_vec();
    match list.iter().any(same) {
        true => list.iter_mut().filter(|one| same(one)).for_each(|one| *one = wanted.clone()),
        false => list.push(wanted),
    }
    meta::child_mut(pod, &["spec"]).insert("tolerations".to_owned(), list.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tolerates_the_taints_of_its_devices() {
        let container = |requests: Value| json!({"resources": {"requests": requests}});
        let mut pod = json!({"spec": {
            "containers": [container(json!({"cpu": "1", "b.example/gpu": "1", "requests.x/y": "1"})), {}],
            "initContainers": [container(json!({"a.example/nic": "1", "scheduling.kubernetes.io/x": "1"}))],
            "tolerations": [{"key": "b.example/gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}]}});
        let names: Vec<String> = extended(&pod).into_iter().collect();
        assert_eq!(names, ["a.example/nic", "b.example/gpu"]);
        names.iter().for_each(|name| tolerate(&mut pod, name));
        let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoSchedule"});
        assert_eq!(
            pod["spec"]["tolerations"],
            json!([toleration("b.example/gpu"), toleration("a.example/nic")])
        );
    }
}
