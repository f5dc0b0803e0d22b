//! PodResizeValidator: a running pod asks for no more than its node has (KEP-1287).

use api_rules::quota::pod_requests;
use api_types::quantity::Quantity;
use api_types::status::Status;
use api_types::{Value, meta};

use super::{Admit, Attributes, Check, Operation, Plugin, lookup};
use crate::api::Api;

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Never, check: Check::Now(check) };

fn check(api: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    let own = &attributes.target.resource;
    let resize = own.group.is_empty() && own.resource == "pods" && attributes.subresource == "resize";
    let (true, Operation::Update, Some(old)) = (resize, attributes.operation, attributes.old) else {
        return Ok(());
    };
    let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if name.is_empty() || meta::generation(old) == meta::generation(pod) {
        return Ok(());
    }
    let target = attributes.target;
    let quoted = api_types::field::quote(name);
    let Some(node) = lookup::get(&api.storage.view(), lookup::NODES, "", name)? else {
        return Err(target.forbidden(&format!("node {quoted} not found")));
    };
    let system = meta::label(&node, "kubernetes.io/os").unwrap_or("linux");
    if system != "linux" {
        let system = api_types::field::quote(system);
        let why = format!("pod resize is only supported on linux nodes, node {quoted} is {system}");
        return Err(target.forbidden(&why).with_cause("UnsupportedPlatform", "", ""));
    }
    let missing = missing(pod, &node);
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("node didn't have enough allocatable resources: {}", missing.join("; "));
    Err(target.forbidden(&why).with_cause("NodeCapacity", "", ""))
}

/// A quantity in the unit that messages show.
type Amount = fn(&Quantity) -> i64;

/// What a pod asks for beyond what its node has for pods.
fn missing(pod: &Value, node: &Value) -> Vec<String> {
    let requests = pod_requests(pod);
    let mut missing = Vec::new();
    let units: [(&str, Amount); 2] = [("cpu", Quantity::milli_value), ("memory", Quantity::value)];
    for (name, amount) in units {
        let has = node["status"]["allocatable"][name].as_str().and_then(|text| Quantity::parse(text).ok());
        let asked = requests.get(name).map_or(0, amount);
        let has = has.as_ref().map_or(0, amount);
        if asked > has {
            missing.push(format!("{name}, requested: {asked}, allocatable: {has}"));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_asks_for_what_its_node_has() {
        let pod = |cpu: &str, memory: &str| json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}});
        let node = json!({"status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
        assert!(missing(&pod("2", "1Gi"), &node).is_empty());
        assert_eq!(
            missing(&pod("2001m", "1025Mi"), &node),
            [
                "cpu, requested: 2001, allocatable: 2000",
                "memory, requested: 1074790400, allocatable: 1073741824"
            ]
        );
    }
}
