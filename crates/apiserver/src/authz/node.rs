//! What a node's agent may do: what role `system:node` says, with secrets, config maps and claims only as far as its
//! pods use them, and pods only its own (upstream's node authorizer).

use api_types::codec::peek;
use api_types::{Value, codec, table};
use mvcc::{KeyRange, KeyValue};

use super::{Ask, Policy};
use crate::storage::{self, View};

const NODE_ROLE: &str = "system:node";

/// Whether the agent of `node` may do what is asked.
pub(crate) fn allows(view: &View, policy: &Policy, node: &str, ask: &Ask<'_>) -> bool {
    if !policy.cluster_role(NODE_ROLE).iter().any(|rule| rule.allows(ask)) {
        return false;
    }
    match (ask.group, ask.resource) {
        ("", "secrets") => used(view, node, ask, uses_secret),
        ("", "configmaps") => used(view, node, ask, |pod, name| uses(pod, CONFIG_MAPS, name)),
        ("", "persistentvolumeclaims") => used(view, node, ask, |pod, name| uses(pod, CLAIMS, name)),
        ("", "pods") => own_pods(view, node, ask),
        ("", "serviceaccounts") => {
            used(view, node, ask, |pod, name| pod["spec"]["serviceAccountName"] == name)
        }
        _ => true,
    }
}

fn used(view: &View, node: &str, ask: &Ask<'_>, test: impl Fn(&Value, &str) -> bool) -> bool {
    if ask.name.is_empty() || ask.namespace.is_empty() {
        return false;
    }
    pods_of(view, ask.namespace, node).any(|pod| test(&pod, ask.name))
}

fn own_pods(view: &View, node: &str, ask: &Ask<'_>) -> bool {
    match ask.verb {
        "list" | "watch" if ask.name.is_empty() => ask.fields.exact("spec.nodeName") == Some(node),
        "get" | "list" | "watch" => {
            let Some(pods) = table::find("", "v1", "pods") else { return false };
            match storage::get(view, pods.key(ask.namespace, ask.name).as_bytes()) {
                Ok(Some(kv)) => is_on(&kv, node),
                Ok(None) => true,
                // Who cannot be checked may not.
                Err(_) => false,
            }
        }
        _ => true,
    }
}

fn is_on(kv: &KeyValue, node: &str) -> bool {
    peek::open(&kv.value).is_ok_and(|pod| pod.scalar(&["spec", "nodeName"]).as_deref() == Some(node))
}

fn pods_of<'a>(view: &'a View, namespace: &str, node: &'a str) -> impl Iterator<Item = Value> + 'a {
    let range = KeyRange::prefix(format!("/registry/pods/{namespace}/"));
    // What cannot be read allows nothing.
    let stored = storage::each(view, &range).map_while(Result::ok).filter(|kv| is_on(kv, node));
    let stored: Vec<KeyValue> = stored.collect();
    stored.into_iter().filter_map(|kv| codec::from_stored(&kv.value, 0).ok())
}

/// Field and name within it that refer to an object, wherever they stand in a pod.
type References = &'static [(&'static str, &'static str)];
const CONFIG_MAPS: References =
    &[("configMapKeyRef", "name"), ("configMapRef", "name"), ("configMap", "name")];
const SECRETS: References = &[
    ("secretKeyRef", "name"),
    ("secretRef", "name"),
    ("secret", "secretName"),
    ("secret", "name"),
    ("nodePublishSecretRef", "name"),
];
const CLAIMS: References = &[("persistentVolumeClaim", "claimName")];

fn uses_secret(pod: &Value, name: &str) -> bool {
    let pulls = pod["spec"]["imagePullSecrets"].as_array().into_iter().flatten();
    pulls.into_iter().any(|secret| secret["name"] == name) || uses(pod, SECRETS, name)
}

fn uses(value: &Value, references: References, name: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, child)| {
            references.iter().any(|(field, inner)| key == field && child[*inner] == name)
                || uses(child, references, name)
        }),
        Value::Array(list) => list.iter().any(|child| uses(child, references, name)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_at_any_depth() {
        let pod = json!({"spec": {"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}],
            "volumes": [{"projected": {"sources": [{"configMap": {"name": "c"}}]}}, {"secret": {"secretName": "t"}}],
            "imagePullSecrets": [{"name": "pull"}]}});
        assert!(["s", "t", "pull"].iter().all(|name| uses_secret(&pod, name)));
        assert!(uses(&pod, CONFIG_MAPS, "c"));
        assert!(!uses_secret(&pod, "c") && !uses(&pod, CONFIG_MAPS, "s"));
    }
}
