//! A namespace that is deleted goes when everything in it is gone.

use std::time::Duration;

use api_types::{ResourceRef, meta};

use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key, served_kinds};
use crate::custom_resources;
use crate::plan::{Action, Plan};

/// What holds a namespace until its contents are gone.
pub(crate) const FINALIZER: &str = "kubernetes";
/// Between looks at what is left.
const RECHECK: Duration = Duration::from_millis(200);

/// See the module.
pub struct Namespaces;

/// Whether a namespace is there and not being deleted.
pub(crate) fn is_alive(listers: &Listers, key: &Key) -> bool {
    listers.object(key).is_some_and(|namespace| !meta::is_being_deleted(&namespace))
}

/// The kinds whose objects a namespace holds: built-in ones, and those of definitions.
pub(crate) fn contents(listers: &Listers) -> Vec<ResourceRef> {
    let all = served_kinds().filter(|resource| resource.namespaced);
    let all = all.filter(|resource| resource.has_verb("deletecollection") && resource.has_verb("list"));
    let custom = custom_resources::kinds(listers).into_iter().filter(|resource| resource.namespaced);
    all.map(ResourceRef::from).chain(custom).collect()
}

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let namespaces =
            Watch { resource: kind("", "v1", "namespaces"), keys: |change, _| own_key("namespaces", change) };
        let definitions = Watch { resource: custom_resources::definitions(), keys: |_, _| Vec::new() };
        vec![namespaces, definitions]
    }

    /// First everything is deleted, whatever the informers show; then the API is asked until nothing is left. Pods go
    /// before what they use (KEP-5080).
    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let Some(namespace) = listers.object(key) else { return Plan::nothing() };
        let finalizers = namespace["spec"]["finalizers"].as_array();
        let held = finalizers.is_some_and(|all| all.iter().any(|finalizer| finalizer == FINALIZER));
        if !meta::is_being_deleted(&namespace) || !held {
            return Plan::nothing();
        }
        let pods = ResourceRef::from(kind("", "v1", "pods"));
        let delete = |resource: ResourceRef| Action::DeleteCollection(resource, key.name.clone());
        let mut actions = vec![delete(pods.clone()), Action::AwaitNone(pods.clone(), namespace.clone())];
        let others =
            contents(listers).into_iter().filter(|resource| resource.qualified() != pods.qualified());
        actions.extend(others.map(delete));
        actions.push(Action::FinalizeNamespace(namespace));
        Plan { actions, recheck_after: Some(RECHECK) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{listers, namespace, show};

    #[test]
    fn only_a_deleted_namespace_is_emptied_and_let_go_last() {
        let plan = |object| {
            let listers = listers(vec![object]);
            show(&Namespaces.reconcile(&listers, &Key::new("namespaces", "", "ns"), Now::at(0)))
        };
        let mut ending = namespace("ns");
        assert!(plan(ending.clone()).is_empty());
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let done = plan(ending.clone());
        assert_eq!(done[..2], ["delete all pods in ns", "await no pods in ns"]);
        assert!(done.contains(&"delete all configmaps in ns".to_owned()), "{done:?}");
        assert_eq!(done.last().map(String::as_str), Some("finalize ns"));
        ending["spec"]["finalizers"] = json!([]);
        assert!(plan(ending).is_empty());
    }
}
