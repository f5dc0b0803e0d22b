//! DefaultTolerationSeconds: how long a pod stays on a node that is lost.

use api_types::status::Status;
use api_types::{Value, meta};
use serde_json::json;

use super::{Admit, Attributes, Check, Operation, Plugin, Settings};
use crate::api::Api;

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Now(admit), check: Check::Never };

fn admit(api: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if attributes.is("", "pods") && matches!(attributes.operation, Operation::Create | Operation::Update) {
        tolerate(&api.admission, pod);
    }
    Ok(())
}

fn tolerate(settings: &Settings, pod: &mut Value) {
    let list = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let tolerated = |key: &str| {
        list.iter().any(|toleration| {
            let text = |field: &str| toleration[field].as_str().unwrap_or_default();
            (text("key") == key || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
        })
    };
    let defaults = [
        ("node.kubernetes.io/not-ready", settings.not_ready_toleration_seconds),
        ("node.kubernetes.io/unreachable", settings.unreachable_toleration_seconds),
    ];
    let missing: Vec<Value> = defaults
        .into_iter()
        .filter(|(key, _)| !tolerated(key))
        .map(|(key, seconds)| {
            json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})
        })
        .collect();
    if missing.is_empty() {
        return;
    }
    let mut list = list;
    list.extend(missing);
    meta::child_mut(pod, &["spec"]).insert("tolerations".into(), list.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tolerates_a_lost_node_for_a_while() {
        let mut pod = json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]}});
        let settings = Settings { not_ready_toleration_seconds: 60, unreachable_toleration_seconds: 300 };
        tolerate(&settings, &mut pod);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((&list[0]["tolerationSeconds"], &list[1]["tolerationSeconds"]), (&json!(5), &json!(300)));
    }
}
