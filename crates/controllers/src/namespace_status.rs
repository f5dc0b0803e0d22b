//! What a namespace says of its end: what is left in it, and who holds it (upstream: `status_condition_utils.go`). Pure.

use std::collections::BTreeMap;

use api_types::{ResourceRef, condition, meta, time};
use serde_json::{Value, json};

/// What a namespace still holds.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Objects, by `resource.group`.
    objects: BTreeMap<String, usize>,
    /// Objects that a finalizer holds, by its name.
    held: BTreeMap<String, usize>,
}

impl Left {
    pub fn add(&mut self, resource: &ResourceRef, objects: &[Value]) {
        if !objects.is_empty() {
            self.objects.insert(format!("{}.{}", resource.resource, resource.group), objects.len());
        }
        for finalizer in objects.iter().flat_map(meta::finalizers) {
            *self.held.entry(finalizer.to_owned()).or_default() += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The conditions, in upstream's words: type, whether it holds, reason and message.
    fn conditions(&self) -> [(&'static str, bool, &'static str, String); 5] {
        let list = |all: &BTreeMap<String, usize>, verb: &str| {
            let texts = all.iter().map(|(name, count)| format!("{name} {verb} {count} resource instances"));
            texts.collect::<Vec<_>>().join(", ")
        };
        let fine = |kind, reason, text: &str| (kind, false, reason, text.to_owned());
        let remaining = match self.objects.is_empty() {
            true => fine("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
            false => {
                let text = format!("Some resources are remaining: {}", list(&self.objects, "has"));
                ("NamespaceContentRemaining", true, "SomeResourcesRemain", text)
            }
        };
        let held = match self.held.is_empty() {
            true => fine(
                "NamespaceFinalizersRemaining",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
            false => {
                let held = list(&self.held, "in");
                let text = format!("Some content in the namespace has finalizers remaining: {held}");
                ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", text)
            }
        };
        [
            fine(
                "NamespaceDeletionDiscoveryFailure",
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
            fine(
                "NamespaceDeletionGroupVersionParsingFailure",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            fine(
                "NamespaceDeletionContentFailure",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            remaining,
            held,
        ]
    }

    /// The namespace as it should be; none if it says all this already.
    pub fn told(&self, namespace: &Value, now_millis: i64) -> Option<Value> {
        let mut changed = namespace.clone();
        let now = time::from_millis(now_millis);
        for (kind, holds, reason, message) in self.conditions() {
            let status = if holds { "True" } else { "False" };
            let made = json!({ "type": kind, "status": status, "reason": reason, "message": message });
            condition::set(&mut changed["status"], made, &now);
        }
        (changed != *namespace).then_some(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::kind;
    use crate::testing::namespace;

    #[test]
    fn a_namespace_says_what_is_left_and_since_when() {
        let pods = ResourceRef::from(kind("", "v1", "pods"));
        let sets = ResourceRef::from(kind("apps", "v1", "replicasets"));
        let mut left = Left::default();
        left.add(&pods, &[json!({"metadata": {"finalizers": ["a.b/c"]}}), json!({"metadata": {}})]);
        left.add(&sets, &[json!({"metadata": {}})]);
        let told = left.told(&namespace("ns"), 0).expect("something new");
        let of = |namespace: &Value, kind: &str| {
            let all = namespace["status"]["conditions"].as_array().expect("conditions");
            all.iter().find(|condition| condition["type"] == kind).expect("the condition").clone()
        };
        let remaining = of(&told, "NamespaceContentRemaining");
        assert_eq!(remaining["status"], "True");
        let text = "Some resources are remaining: pods. has 2 resource instances, replicasets.apps has 1 resource instances";
        assert_eq!(remaining["message"], text);
        let text = "Some content in the namespace has finalizers remaining: a.b/c in 1 resource instances";
        assert_eq!(of(&told, "NamespaceFinalizersRemaining")["message"], text);
        assert_eq!(of(&told, "NamespaceDeletionContentFailure")["status"], "False");
        assert!(left.told(&told, 5000).is_none(), "it is told once");
        let mut fewer = Left::default();
        fewer.add(&pods, &[json!({"metadata": {}})]);
        let again = fewer.told(&told, 5000).expect("something new");
        let since = |kind| of(&again, kind)["lastTransitionTime"].clone();
        assert_eq!(since("NamespaceContentRemaining"), time::from_millis(0));
        assert_eq!(since("NamespaceFinalizersRemaining"), time::from_millis(5000));
    }
}
