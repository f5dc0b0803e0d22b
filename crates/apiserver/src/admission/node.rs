//! NodeRestriction and TaintNodesByCondition: an agent changes its own node and its own pods only.

use api_types::codec::peek;
use api_types::status::Status;
use api_types::{Value, meta, table};
use mvcc::View;
use serde_json::json;

use super::{Attributes, Operation};
use crate::storage;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// A new node is not ready until its agent and the node controller say so.
pub(super) fn taint(attributes: &Attributes<'_>, node: &mut Value) {
    if !attributes.creates("", "nodes") {
        return;
    }
    let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        meta::child_mut(node, &["spec"]).insert("taints".into(), taints.into());
    }
}

/// Refuses what an agent does to others' objects.
pub(super) fn restrict(view: &View, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let Some(node) = attributes.user.node() else { return Ok(()) };
    let target = attributes.target;
    match (target.resource.group.as_str(), target.resource.resource.as_str()) {
        ("", "nodes") if target.name != node => {
            let what = match attributes.operation {
                Operation::Create => "create",
                _ => "modify",
            };
            Err(target.forbidden(&format!(
                "node {} is not allowed to {what} node {}",
                quote(node),
                quote(&target.name)
            )))
        }
        ("", "nodes") if attributes.operation == Operation::Delete => {
            Err(target.forbidden(&format!("node {} cannot delete nodes", quote(node))))
        }
        ("", "pods") => restrict_pod(view, attributes, object, node),
        ("coordination.k8s.io", "leases") if target.namespace != "kube-node-lease" || target.name != node => {
            let why = "can only access node lease with the same name as the requesting node";
            Err(target.forbidden(why))
        }
        ("storage.k8s.io", "csinodes") if target.name != node => {
            Err(target.forbidden("can only access CSINode with the same name as the requesting node"))
        }
        _ => Ok(()),
    }
}

fn quote(text: &str) -> String {
    api_types::field::quote(text)
}

fn restrict_pod(view: &View, attributes: &Attributes<'_>, object: &Value, node: &str) -> Result<(), Status> {
    let target = attributes.target;
    if attributes.operation == Operation::Create {
        let mirror = meta::annotation(object, "kubernetes.io/config.mirror").is_some();
        return match mirror && object["spec"]["nodeName"] == node {
            true => Ok(()),
            false => Err(target.forbidden(&format!("pod does not have \"kubernetes.io/config.mirror\" annotation, node {} can only create mirror pods", quote(node)))),
        };
    }
    let Some(pods) = table::find("", "v1", "pods") else { return Ok(()) };
    let found = storage::get(view, pods.key(&target.namespace, &target.name).as_bytes())?;
    let Some(kv) = found else { return Ok(()) };
    let own =
        peek::open(&kv.value).is_ok_and(|pod| pod.scalar(&["spec", "nodeName"]).as_deref() == Some(node));
    match own {
        true => Ok(()),
        false => {
            let what = if attributes.operation == Operation::Delete {
                "delete pods"
            } else {
                "update status for pods"
            };
            Err(target
                .forbidden(&format!("node {} can only {what} with spec.nodeName set to itself", quote(node))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Call;
    use crate::registry::Target;

    #[test]
    fn a_new_node_is_tainted_once() {
        let (target, call) =
            (Target::new(table::find("", "v1", "nodes").unwrap(), "", "a"), Call::internal());
        let attributes = Attributes::new(Operation::Create, &target, &call);
        let mut node = json!({"metadata": {"name": "a"}});
        taint(&attributes, &mut node);
        taint(&attributes, &mut node);
        assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
    }
}
