//! Keeps a ResourceQuota's status: its limits, and what is used of them (upstream's `resourcequota` controller).
//!
//! The API server charges a quota for whatever is written, in the same transaction. Here it is counted anew when it is
//! new or changed, when something that it counts goes or ends, and every few minutes. A count must not undo a charge:
//! where an informer may not show yet what the quota was charged for, the API is asked
//! ([`Action::CountQuota`]), and a charge in between makes the write fail. Nor may a charge outlive what it was for: what
//! was counted before the charge was seen is counted once more ([`overtaken`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api_rules::quota;
use api_types::codec::peek::Peek;
use api_types::{Resource, meta};
use client::Change;
use serde_json::Value;

use crate::controller::{Controller, Key, Listers, Now, Watch, kind, served_kinds};
use crate::plan::{Action, Plan};
use crate::template::has_ended;

pub(crate) const NAME: &str = "resourcequota-controller";
const QUOTAS: &str = "resourcequotas";
/// How often everything is counted anew (upstream's `--resource-quota-sync-period`).
const RESYNC: Duration = Duration::from_secs(300);
/// How long a charge that was overtaken waits for more of them: a count looks at everything that the quota tracks.
const OVERTAKEN_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub struct ResourceQuotas;

/// Objects by their kind (`resource.group`), read from the API.
pub(crate) type Read = HashMap<String, Vec<Arc<Value>>>;

pub(crate) fn resource() -> &'static Resource {
    kind("", "v1", QUOTAS)
}

/// Every kind that a quota may count.
pub(crate) fn kinds() -> impl Iterator<Item = &'static Resource> {
    served_kinds().filter(|kind| {
        kind.namespaced
            && kind.resource != "events"
            && ["list", "watch", "create"].iter().all(|verb| kind.has_verb(verb))
    })
}

impl Controller for ResourceQuotas {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> Vec<Watch> {
        kinds().map(|resource| Watch { resource, keys: concerned }).collect()
    }

    fn later(&self) -> Option<(Watch, Duration)> {
        Some((Watch { resource: resource(), keys: overtaken }, OVERTAKEN_PAUSE))
    }

    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan {
        let Some(quota) = listers.object(key) else { return Plan::nothing() };
        let counted = counted(&quota, listers, &Read::new(), now);
        let recheck_after = Some(RESYNC);
        if same_status(&counted["status"], &quota["status"]) {
            return Plan { actions: Vec::new(), recheck_after };
        }
        let behind = behind(&quota, listers);
        let action = match behind.is_empty() {
            true => Action::UpdateStatus(resource(), counted),
            false => Action::CountQuota(quota, behind),
        };
        Plan { actions: vec![action], recheck_after }
    }
}

/// A quota that is new or changed, and those of which something is given back.
fn concerned(change: &Change, listers: &Listers) -> Vec<Key> {
    let object = change.object().peek();
    let found = api_types::table::by_api_version(object.api_version(), object.kind());
    let Some(resource) = found.map(Resource::qualified) else { return Vec::new() };
    let mut keys = BTreeSet::new();
    if resource == QUOTAS {
        let changed = match change {
            Change::Added(_) => true,
            Change::Updated { old, new } => {
                old["spec"] != new["spec"] || !same(&old["status"]["hard"], &new["status"]["hard"])
            }
            Change::Deleted(_) => false,
        };
        keys.extend(changed.then(|| Key::peeked(QUOTAS, &object)));
    }
    if gives_back(&resource, change) {
        let quotas = listers.get(QUOTAS).map(|lister| lister.in_namespace(&object.namespace()));
        let tracking = quotas.into_iter().flatten().filter(|quota| {
            let hard = quota["spec"]["hard"].as_object();
            hard.is_some_and(|hard| hard.keys().any(|name| quota::tracks(&resource, name)))
        });
        keys.extend(tracking.map(|quota| Key::of(QUOTAS, &quota)));
    }
    keys.into_iter().collect()
}

/// A quota that shows a charge after an informer of what it tracks has come further: what was charged for may be gone
/// already, and was counted when nothing of the charge was known.
fn overtaken(change: &Change, listers: &Listers) -> Vec<Key> {
    let Change::Updated { old, new } = change else { return Vec::new() };
    let charged = !same(&old["status"]["used"], &new["status"]["used"]);
    let overtaken = charged && tracked(new, listers).any(|(_, version)| version > version_of(new));
    overtaken.then(|| Key::of(QUOTAS, new)).into_iter().collect()
}

/// Whether an object may use less than before.
fn gives_back(resource: &str, change: &Change) -> bool {
    match change {
        Change::Added(_) => false,
        Change::Deleted(_) => true,
        Change::Updated { old, new } => match resource {
            "pods" => {
                let (before, now) = (old.peek(), new.peek());
                has_ended(&now) && !has_ended(&before)
                    || !old.is_same_in(new, "spec")
                    || has_other_resources(&before, &now)
            }
            "services" | "persistentvolumeclaims" => {
                !old.is_same_in(new, "spec") || !old.is_same_in(new, "status")
            }
            _ => false,
        },
    }
}

/// Whether the resources that a pod's containers have are others.
fn has_other_resources(old: &Peek<'_>, new: &Peek<'_>) -> bool {
    let has = |pod: &Peek<'_>| -> Vec<Value> {
        let statuses = pod.part(&["status", "containerStatuses"]);
        statuses.as_array().into_iter().flatten().map(|status| status["resources"].clone()).collect()
    };
    has(old) != has(new)
}

fn names(quota: &Value) -> impl Iterator<Item = &str> {
    quota["spec"]["hard"].as_object().into_iter().flat_map(|hard| hard.keys().map(String::as_str))
}

/// The quota with its status as it should be, by what was read and, for kinds that were not, by the informers.
pub(crate) fn counted(quota: &Value, listers: &Listers, read: &Read, now: Now) -> Value {
    let known: Vec<String> =
        kinds().map(Resource::qualified).filter(|kind| listers.get(kind).is_some()).collect();
    let namespace = meta::namespace(quota);
    let used = quota::used(quota, &known, now.wall_millis, |kind| match read.get(kind) {
        Some(objects) => objects.clone(),
        None => listers.get(kind).map(|lister| lister.in_namespace(namespace)).unwrap_or_default(),
    });
    let mut counted = quota.clone();
    let status = meta::child_mut(&mut counted, &["status"]);
    status.insert("hard".into(), quota::to_value(&quota::amounts(&quota["spec"]["hard"])));
    status.insert("used".into(), quota::to_value(&used));
    counted
}

/// The kinds that a quota counts and whose informers may not show all that it was charged for.
fn behind(quota: &Value, listers: &Listers) -> Vec<String> {
    let behind = tracked(quota, listers).filter(|(_, version)| *version < version_of(quota));
    let mut found: Vec<String> = behind.map(|(kind, _)| kind).collect();
    found.sort();
    found
}

/// The kinds that a quota counts, and how far their informers have come.
fn tracked(quota: &Value, listers: &Listers) -> impl Iterator<Item = (String, u64)> {
    let tracked =
        kinds().map(Resource::qualified).filter(|kind| names(quota).any(|name| quota::tracks(kind, name)));
    tracked.filter_map(|kind| listers.get(&kind).map(|lister| (kind, lister.version())))
}

fn version_of(quota: &Value) -> u64 {
    meta::resource_version(quota).parse().unwrap_or(u64::MAX)
}

fn same(one: &Value, other: &Value) -> bool {
    quota::amounts(one) == quota::amounts(other)
}

fn same_status(one: &Value, other: &Value) -> bool {
    ["hard", "used"].iter().all(|field| same(&one[*field], &other[*field]))
}

#[cfg(test)]
mod tests {
    use client::Object;
    use serde_json::json;

    use super::*;
    use crate::testing::{listers, show};

    fn quota(version: &str, used: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": { "name": "q", "namespace": "ns", "resourceVersion": version },
            "spec": { "hard": { "pods": "5", "count/deployments.apps": "2" } },
            "status": { "hard": { "pods": "5", "count/deployments.apps": "2" }, "used": used },
        })
    }

    fn object(api_version: &str, kind: &str, name: &str, version: &str) -> Value {
        json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": { "name": name, "namespace": "ns", "resourceVersion": version },
        })
    }

    fn pod(name: &str, version: &str) -> Value {
        object("v1", "Pod", name, version)
    }

    fn plan(objects: Vec<Value>) -> Plan {
        ResourceQuotas.reconcile(&listers(objects), &Key::new(QUOTAS, "ns", "q"), Now::at(0))
    }

    #[test]
    fn a_count_that_the_informers_can_answer_for_is_written() {
        let used = json!({ "pods": "3", "count/deployments.apps": "0" });
        let deployment = object("apps/v1", "Deployment", "d", "8");
        let plan = plan(vec![quota("7", used), pod("a", "7"), pod("b", "9"), deployment]);
        assert_eq!(show(&plan), ["status resourcequotas ns/q"]);
        let Action::UpdateStatus(_, written) = &plan.actions[0] else { panic!("{plan:?}") };
        assert_eq!(written["status"]["used"], json!({ "pods": "2", "count/deployments.apps": "1" }));
    }

    #[test]
    fn a_charge_that_the_informers_do_not_show_yet_is_not_undone() {
        let used = json!({ "pods": "3", "count/deployments.apps": "0" });
        let plan = plan(vec![quota("9", used), pod("a", "7"), pod("b", "8")]);
        assert_eq!(show(&plan), ["count deployments.apps,pods for ns/q"]);
    }

    #[test]
    fn what_is_right_is_left_alone_and_counted_again_later() {
        let used = json!({ "pods": "1", "count/deployments.apps": "0" });
        let plan = plan(vec![quota("9", used), pod("a", "7")]);
        assert!(plan.actions.is_empty());
        assert_eq!(plan.recheck_after, Some(RESYNC));
    }

    #[test]
    fn what_goes_or_ends_is_given_back() {
        let known = listers(vec![quota("1", json!({}))]);
        let keys = |change: Change| concerned(&change, &known);
        let own = vec![Key::new(QUOTAS, "ns", "q")];
        let running = Arc::new(Object::from(pod("a", "2")));
        let mut ended = pod("a", "3");
        ended["status"] = json!({ "phase": "Succeeded" });
        assert_eq!(keys(Change::Deleted(running.clone())), own);
        assert_eq!(keys(Change::Updated { old: running.clone(), new: Arc::new(ended.into()) }), own);
        assert!(keys(Change::Added(running)).is_empty());
        let secret = Arc::new(object("v1", "Secret", "s", "4").into());
        assert!(keys(Change::Deleted(secret)).is_empty(), "not counted");
    }

    #[test]
    fn a_charge_that_is_seen_after_what_it_was_for_has_gone_is_counted_again() {
        let later = ResourceQuotas.later().expect("a kind that is watched patiently").0.keys;
        let (old, new) = (json!({ "pods": "0" }), json!({ "pods": "1" }));
        let charged = |version: &str, used: &Value| Arc::new(quota(version, used.clone()).into());
        let keys = |pods: Vec<Value>, version: &str, used: &Value| {
            let change = Change::Updated { old: charged("5", &old), new: charged(version, used) };
            later(&change, &listers(pods))
        };
        // The informer of pods has come to 9: the pod that was charged for at 7 was deleted since.
        let own = vec![Key::new(QUOTAS, "ns", "q")];
        assert_eq!(keys(vec![pod("other", "9")], "7", &new), own);
        assert!(keys(vec![pod("a", "7")], "7", &new).is_empty(), "its deletion is still to come");
        assert!(keys(vec![pod("other", "9")], "7", &old).is_empty(), "nothing was charged");
        let secret = object("v1", "Secret", "s", "9");
        assert!(keys(vec![secret], "7", &new).is_empty(), "not counted");
        assert!(later(&Change::Added(charged("7", &new)), &listers(vec![pod("other", "9")])).is_empty());
    }

    #[test]
    fn a_charge_is_no_reason_to_count() {
        let known = listers(vec![]);
        let [old, new] =
            [quota("1", json!({})), quota("2", json!({ "pods": "1" }))].map(|quota| Arc::new(quota.into()));
        assert!(concerned(&Change::Updated { old, new: new.clone() }, &known).is_empty());
        assert_eq!(concerned(&Change::Added(new), &known).len(), 1);
    }
}
