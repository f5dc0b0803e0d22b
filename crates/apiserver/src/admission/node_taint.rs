//! TaintNodesByCondition: nothing is placed on a new node until its agent and the node controller say that it is ready.

use api_types::status::Status;
use api_types::{Value, meta};
use serde_json::json;

use super::{Admit, Attributes, Check, Plugin};
use crate::api::Api;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Now(admit), check: Check::Never };

fn admit(_: &Api, attributes: &Attributes<'_>, node: &mut Value) -> Result<(), Status> {
    if attributes.creates("", "nodes") {
        taint(node);
    }
    Ok(())
}

fn taint(node: &mut Value) {
    let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        meta::child_mut(node, &["spec"]).insert("taints".into(), taints.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_node_is_tainted_once() {
        let mut node = json!({"metadata": {"name": "a"}});
        taint(&mut node);
        taint(&mut node);
        assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
    }
}
