//! What a node's agent may do (upstream's node authorizer, `plugin/pkg/auth/authorizer/node`): read secrets, config maps,
//! claims and the like as far as its pods use them, and its own node, Lease, pods and slices; everything else as role
//! `system:node` says.

use api_types::codec::peek;
use api_types::{Value, codec, table};
use mvcc::{KeyRange, KeyValue};

use super::{Ask, Policy};
use crate::storage::{self, View};

const NODE_ROLE: &str = "system:node";
/// Where the Leases of nodes are.
const LEASES: &str = "kube-node-lease";

/// Whether the agent of `node` may do what is asked.
pub(crate) fn allows(view: &View, policy: &Policy, node: &str, ask: &Ask<'_>) -> bool {
    if node.is_empty() {
        return false;
    }
    let agent = Agent { view, node, ask };
    let reads = matches!(ask.verb, "get" | "list" | "watch") && ask.subresource.is_empty();
    let gets = ask.verb == "get" && ask.subresource.is_empty();
    match (ask.group, ask.resource) {
        _ if ask.path.is_some() => says_role(policy, ask),
        ("", "secrets") => reads && agent.used(uses_secret),
        ("", "configmaps") => reads && agent.used(|pod, name| uses(pod, CONFIG_MAPS, name)),
        ("", "persistentvolumeclaims") => {
            let changes = ask.subresource == "status" && matches!(ask.verb, "update" | "patch");
            (gets || changes) && agent.used(|pod, name| uses(pod, CLAIMS, name))
        }
        ("", "persistentvolumes") => gets && agent.volume(),
        ("", "pods") => agent.pods(),
        ("", "nodes") => agent.nodes(),
        ("", "serviceaccounts") => {
            let token = ask.subresource == "token" && ask.verb == "create";
            (reads || token) && agent.used(|pod, name| pod["spec"]["serviceAccountName"] == name)
        }
        ("resource.k8s.io", "resourceclaims") => gets && agent.used(uses_claim),
        ("resource.k8s.io", "resourceslices") => agent.slices(),
        ("storage.k8s.io", "volumeattachments") => gets && agent.is_its(&["spec", "nodeName"]),
        ("storage.k8s.io", "csinodes") => agent.owns_by_name(),
        ("coordination.k8s.io", "leases") => ask.namespace == LEASES && agent.owns_by_name(),
        ("certificates.k8s.io", "podcertificaterequests") => agent.pod_certificates(),
        _ => says_role(policy, ask),
    }
}

fn says_role(policy: &Policy, ask: &Ask<'_>) -> bool {
    policy.cluster_role(NODE_ROLE).iter().any(|rule| rule.allows(ask))
}

/// What an agent asks for.
struct Agent<'a> {
    view: &'a View,
    node: &'a str,
    ask: &'a Ask<'a>,
}

impl Agent<'_> {
    /// Whether one of the node's pods uses the object.
    fn used(&self, test: impl Fn(&Value, &str) -> bool) -> bool {
        let Ask { namespace, name, .. } = *self.ask;
        !name.is_empty()
            && !namespace.is_empty()
            && pods_of(self.view, namespace, self.node).any(|pod| test(&pod, name))
    }

    /// Whether the volume is bound to a claim that one of the node's pods uses.
    fn volume(&self) -> bool {
        let Some(volume) = self.stored() else { return false };
        let Ok(volume) = codec::from_stored(&volume.value, 0) else { return false };
        let text = |field: &str| volume["spec"]["claimRef"][field].as_str().filter(|text| !text.is_empty());
        let (Some(namespace), Some(claim)) = (text("namespace"), text("name")) else { return false };
        pods_of(self.view, namespace, self.node).any(|pod| uses(&pod, CLAIMS, claim))
    }

    /// The object that is asked for. Who cannot be checked may not.
    fn stored(&self) -> Option<KeyValue> {
        let Ask { group, resource, namespace, name, .. } = *self.ask;
        let kind = table::find(group, "v1", resource).filter(|_| !name.is_empty())?;
        storage::get(self.view, kind.key(namespace, name).as_bytes()).ok().flatten()
    }

    /// Whether a field of the object names the node.
    fn is_its(&self, field: &[&str]) -> bool {
        self.stored().is_some_and(|kv| names_node(&kv, field, self.node))
    }

    /// Whether only what belongs to the node is selected.
    fn selects_its(&self) -> bool {
        let mut fields = self.ask.fields.requirements.iter();
        fields.any(|field| field.field == "spec.nodeName" && !field.negated && field.value == self.node)
    }

    fn pods(&self) -> bool {
        match (self.ask.subresource, self.ask.verb) {
            ("", "list" | "watch") if self.selects_its() => true,
            ("", "get" | "list" | "watch") if self.ask.name.is_empty() => false,
            // One that is not there is told so, where upstream's refuses.
            ("", "get" | "list" | "watch") => match self.stored() {
                Some(kv) => names_node(&kv, &["spec", "nodeName"], self.node),
                None => true,
            },
            // Admission looks at whose pod it is.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => true,
            _ => false,
        }
    }

    fn nodes(&self) -> bool {
        match (self.ask.subresource, self.ask.verb) {
            // Admission looks at whose node it is.
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => true,
            ("", "get" | "list" | "watch") => self.ask.name == self.node,
            _ => false,
        }
    }

    /// Whether the object has the node's name; that of a new one is looked at by admission.
    fn owns_by_name(&self) -> bool {
        let named = self.ask.name == self.node;
        match (self.ask.subresource, self.ask.verb) {
            ("", "create") => true,
            ("", "get" | "update" | "patch" | "delete") => named,
            _ => false,
        }
    }

    fn slices(&self) -> bool {
        match (self.ask.subresource, self.ask.verb) {
            ("", "create") => true,
            ("", "get" | "update" | "patch" | "delete") => self.is_its(&["spec", "nodeName"]),
            ("", "watch" | "list" | "deletecollection") => self.selects_its(),
            _ => false,
        }
    }

    fn pod_certificates(&self) -> bool {
        match (self.ask.subresource, self.ask.verb) {
            ("", "create") => true,
            ("", "get") => self.is_its(&["spec", "nodeName"]),
            ("", "list" | "watch") => self.selects_its(),
            _ => false,
        }
    }
}

fn names_node(kv: &KeyValue, field: &[&str], node: &str) -> bool {
    peek::open(&kv.value).is_ok_and(|object| object.scalar(field).as_deref() == Some(node))
}

/// Whether a pod has a resource claim by this name, its own or one that was made for it.
fn uses_claim(pod: &Value, name: &str) -> bool {
    let lists = [&pod["spec"]["resourceClaims"], &pod["status"]["resourceClaimStatuses"]];
    let mut claims = lists.into_iter().filter_map(Value::as_array).flatten();
    claims.any(|claim| claim["resourceClaimName"] == name)
}

fn pods_of<'a>(view: &'a View, namespace: &str, node: &'a str) -> impl Iterator<Item = Value> + 'a {
    let range = KeyRange::prefix(format!("/registry/pods/{namespace}/"));
    // What cannot be read allows nothing.
    let stored = storage::each(view, &range)
        .map_while(Result::ok)
        .filter(|kv| names_node(kv, &["spec", "nodeName"], node));
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
