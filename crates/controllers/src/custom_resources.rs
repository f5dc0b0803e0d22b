//! What becomes of a CustomResourceDefinition: its names are accepted, it is established, and before it goes its
//! objects go (upstream: `apiextensions-apiserver/pkg/controller/status`, `establish` and `finalizer`).

use std::sync::Arc;
use std::time::Duration;

use api_types::{Resource, ResourceRef, condition, definition, meta, time};
use client::{Client, ClientError, DeleteParams, ListParams, Patch};
use serde_json::{Value, json};

use crate::controller::{Controller, Key, Listers, Now, Watch, kind};
use crate::plan::{Action, Plan};

pub(crate) const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// Holds a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Between looks at what is left of a kind.
const RECHECK: Duration = Duration::from_millis(200);

/// See the module.
pub struct Definitions;

/// The kind of the definitions.
pub(crate) fn definitions() -> &'static Resource {
    kind("apiextensions.k8s.io", "v1", "customresourcedefinitions")
}

/// The kinds of established definitions, each in its preferred version.
pub(crate) fn kinds(listers: &Listers) -> Vec<ResourceRef> {
    let all = listers.get(DEFINITIONS).map(|lister| lister.all()).unwrap_or_default();
    all.iter().filter_map(|definition| kind_of(definition)).collect()
}

/// The first kind of the established definitions that `fits`. Many are asked of for each change of an object, so nothing
/// is made of the others.
pub(crate) fn find(listers: &Listers, fits: impl Fn(&Value) -> bool) -> Option<ResourceRef> {
    let all = listers.get(DEFINITIONS).map(|lister| lister.all()).unwrap_or_default();
    all.iter().filter(|definition| fits(definition)).find_map(|definition| kind_of(definition))
}

fn kind_of(definition: &Value) -> Option<ResourceRef> {
    if !definition::has_condition(definition, "Established") {
        return None;
    }
    let version = *definition::served(definition).first()?;
    Some(Arc::new(definition::resource(definition, version)).into())
}

impl Controller for Definitions {
    fn name(&self) -> &'static str {
        "customresourcedefinition-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch {
            resource: definitions(),
            // Names that one definition lets go another of its group may take.
            keys: |change, listers| {
                let group = &change.object()["spec"]["group"];
                let own = Key::of(DEFINITIONS, change.object());
                let all = listers.get(DEFINITIONS).map(|lister| lister.all()).unwrap_or_default();
                let waiting = all.into_iter().filter(|other| {
                    other["spec"]["group"] == *group && !definition::has_condition(other, "NamesAccepted")
                });
                std::iter::once(own).chain(waiting.map(|other| Key::of(DEFINITIONS, &other))).collect()
            },
        }]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan {
        let Some(definition) = listers.object(key) else { return Plan::nothing() };
        if meta::is_being_deleted(&definition) {
            return ending(&definition, now);
        }
        let status = status(listers, &definition, now);
        if definition["status"] == status {
            return Plan::nothing();
        }
        let mut changed = Value::clone(&definition);
        changed["status"] = status;
        Plan::of(Action::UpdateStatus(definitions(), changed))
    }
}

/// Deletes the objects of a definition that is being deleted.
fn ending(definition: &Arc<Value>, now: Now) -> Plan {
    if !meta::has_finalizer(definition, CLEANUP) {
        return Plan::nothing();
    }
    let Some(resource) = kind_of(definition) else {
        // It never was served: there is nothing of it.
        return Plan::of(without_finalizer(definition));
    };
    let mut changed = Value::clone(definition);
    let text = "CustomResource deletion is in progress";
    set_condition(&mut changed["status"], "Terminating", true, "InstanceDeletionInProgress", text, now);
    let mut actions = Vec::new();
    if changed["status"] != definition["status"] {
        actions.push(Action::UpdateStatus(definitions(), changed));
    } else {
        actions.push(Action::FinalizeDefinition(resource, definition.clone()));
    }
    Plan { actions, recheck_after: Some(RECHECK) }
}

fn without_finalizer(definition: &Arc<Value>) -> Action {
    Action::Patch(definitions().into(), definition.clone(), Patch::Merge(released(definition)))
}

/// The definition without the finalizer, at its version: finalizers that others add meanwhile must not be lost.
fn released(definition: &Value) -> Value {
    let kept: Vec<&str> = meta::finalizers(definition).filter(|found| *found != CLEANUP).collect();
    let metadata = json!({
        "uid": meta::uid(definition),
        "resourceVersion": meta::resource_version(definition),
        "finalizers": kept,
    });
    json!({ "metadata": metadata })
}

/// Deletes all objects of a kind, and lets its definition go when there are none.
///
/// # Errors
/// The API refuses, or some objects are left: to be tried again.
pub(crate) async fn finalize(
    client: &Client,
    resource: &ResourceRef,
    definition: &Value,
) -> Result<(), ClientError> {
    let all = client.all(resource);
    let found = match all.list(&ListParams { limit: PAGE, ..ListParams::default() }).await {
        Ok(found) => found.items,
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut namespaces: Vec<&str> = found.iter().map(meta::namespace).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    for namespace in namespaces {
        let api = client.namespaced(resource, namespace);
        api.delete_collection(&ListParams::default(), &DeleteParams::default()).await?;
    }
    if !found.is_empty() {
        let left = all.list(&ListParams { limit: 1, ..ListParams::default() }).await?;
        if !left.items.is_empty() {
            return Err(ClientError::Decode(format!("{} are left", resource.qualified())));
        }
    }
    let patch = Patch::Merge(released(definition));
    match client.all(definitions()).patch(meta::name(definition), "", &patch).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Objects that are looked at at a time.
const PAGE: u64 = 500;

/// What the definition's status is to be.
fn status(listers: &Listers, definition: &Value, now: Now) -> Value {
    let mut status = definition["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    let (accepted, conflict) = accepted_names(listers, definition);
    status["acceptedNames"] = accepted;
    match &conflict {
        None => set_condition(&mut status, "NamesAccepted", true, "NoConflicts", "no conflicts found", now),
        Some((reason, text)) => set_condition(&mut status, "NamesAccepted", false, reason, text, now),
    }
    // Once established it stays so.
    if !definition::has_condition(definition, "Established") {
        match conflict {
            None => {
                let text = "the initial names have been accepted";
                set_condition(&mut status, "Established", true, "InitialNamesAccepted", text, now);
            }
            Some(_) => {
                let text = "not all names are accepted";
                set_condition(&mut status, "Established", false, "NotAccepted", text, now);
            }
        }
    }
    if let Some(approval) = definition::approval(definition) {
        let (holds, reason) = (approval.is_given(), approval.reason());
        set_condition(
            &mut status,
            "KubernetesAPIApprovalPolicyConformant",
            holds,
            reason,
            &approval.text(),
            now,
        );
    }
    status
}

fn set_condition(status: &mut Value, name: &str, holds: bool, reason: &str, message: &str, now: Now) {
    let word = if holds { "True" } else { "False" };
    let made = json!({"type": name, "status": word, "reason": reason, "message": message});
    condition::set(status, made, &time::from_millis(now.wall_millis));
}

/// Names that other definitions of the group go by.
struct Taken {
    resources: Vec<String>,
    kinds: Vec<String>,
}

fn taken(listers: &Listers, definition: &Value) -> Taken {
    let all = listers.get(DEFINITIONS).map(|lister| lister.all()).unwrap_or_default();
    let mut taken = Taken { resources: Vec::new(), kinds: Vec::new() };
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    for other in all {
        if other["spec"]["group"] != definition["spec"]["group"]
            || meta::name(&other) == meta::name(definition)
        {
            continue;
        }
        let names = &other["status"]["acceptedNames"];
        taken.resources.extend(text(&names["plural"]));
        taken.resources.extend(text(&names["singular"]));
        taken.resources.extend(names["shortNames"].as_array().into_iter().flatten().filter_map(text));
        taken.kinds.extend(text(&names["kind"]));
        taken.kinds.extend(text(&names["listKind"]));
    }
    taken
}

/// The names that are accepted, and why the others are not: the reason and text of the last conflict.
fn accepted_names(listers: &Listers, definition: &Value) -> (Value, Option<(&'static str, String)>) {
    let (wanted, before) = (&definition["spec"]["names"], &definition["status"]["acceptedNames"]);
    let taken = taken(listers, definition);
    let mut accepted = json!({});
    let mut conflict = None;
    let fields = [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("shortNames", "ShortNamesConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ];
    for (field, reason, others) in fields {
        let names: Vec<&str> = match &wanted[field] {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().into_iter().collect(),
        };
        let clashes: Vec<String> = names
            .iter()
            .filter(|name| others.iter().any(|other| other == *name))
            .map(|name| format!("{name:?} is already in use"))
            .collect();
        let names = if clashes.is_empty() { &wanted[field] } else { &before[field] };
        if !names.is_null() {
            accepted[field] = names.clone();
        }
        match clashes.as_slice() {
            [] => {}
            [one] => conflict = Some((reason, one.clone())),
            many => conflict = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    if !wanted["categories"].is_null() {
        accepted["categories"] = wanted["categories"].clone();
    }
    // The form that the API keeps them in: what must be there is, even if it is empty.
    for field in ["plural", "kind"] {
        if accepted[field].is_null() {
            accepted[field] = "".into();
        }
    }
    (accepted, conflict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    fn definition(name: &str, kind: &str, short: &str) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{name}.example.com"), "uid": name, "resourceVersion": "1"},
            "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": name, "singular": name, "kind": kind, "listKind": format!("{kind}List"), "shortNames": [short]},
                "versions": [{"name": "v1", "served": true, "storage": true}]},
        })
    }

    fn decide(objects: Vec<Value>, name: &str) -> Plan {
        let key = Key::new(DEFINITIONS, "", &format!("{name}.example.com"));
        Definitions.reconcile(&listers(objects), &key, Now::at(0))
    }

    fn written(plan: &Plan) -> Value {
        match plan.actions.as_slice() {
            [Action::UpdateStatus(_, written)] => written.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_that_nobody_has_are_accepted_once() {
        let mut new = definition("widgets", "Widget", "w");
        // So the API server stores a new one.
        new["status"] = json!({"conditions": null, "acceptedNames": {}, "storedVersions": ["v1"]});
        let done = written(&decide(vec![new], "widgets"));
        assert_eq!(done["status"]["acceptedNames"]["kind"], "Widget");
        assert!(definition::has_condition(&done, "NamesAccepted"));
        assert_eq!(done["status"]["conditions"][1]["reason"], "InitialNamesAccepted");
        assert!(decide(vec![done], "widgets").actions.is_empty());
    }

    #[test]
    fn groups_of_the_project_show_who_approved() {
        let mut new = definition("widgets", "Widget", "w");
        new["spec"]["group"] = json!("widgets.k8s.io");
        let conformant = |definition: &Value| {
            let done = written(&decide(vec![definition.clone()], "widgets"));
            let list = done["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = list.into_iter().find(|one| one["type"] == "KubernetesAPIApprovalPolicyConformant");
            found.map(|found| (found["status"].clone(), found["reason"].clone()))
        };
        assert_eq!(conformant(&definition("widgets", "Widget", "w")), None);
        assert_eq!(conformant(&new), Some((json!("False"), json!("MissingAnnotation"))));
        for (annotation, status, reason) in [
            ("https://github.com/a/b/pull/1", "True", "ApprovedAnnotation"),
            ("unapproved, an experiment", "False", "UnapprovedAnnotation"),
            ("yes", "False", "InvalidAnnotation"),
        ] {
            new["metadata"]["annotations"] = json!({definition::APPROVAL: annotation});
            assert_eq!(conformant(&new), Some((json!(status), json!(reason))), "{annotation}");
        }
    }

    #[test]
    fn a_name_that_another_has_is_refused() {
        let first = written(&decide(vec![definition("widgets", "Widget", "w")], "widgets"));
        let second = written(&decide(vec![first, definition("wodgets", "Wodget", "w")], "wodgets"));
        let conditions = &second["status"]["conditions"];
        assert_eq!(conditions[0]["reason"], "ShortNamesConflict");
        assert_eq!(conditions[0]["message"], "\"w\" is already in use");
        assert_eq!(
            (&conditions[1]["status"], &conditions[1]["reason"]),
            (&json!("False"), &json!("NotAccepted"))
        );
        assert!(second["status"]["acceptedNames"]["shortNames"].is_null());
    }

    #[test]
    fn a_definition_goes_after_its_objects() {
        let mut known = written(&decide(vec![definition("widgets", "Widget", "w")], "widgets"));
        known["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        known["metadata"]["finalizers"] = json!([CLEANUP]);
        let marked = written(&decide(vec![known], "widgets"));
        assert_eq!(marked["status"]["conditions"][2]["reason"], "InstanceDeletionInProgress");
        assert_eq!(show(&decide(vec![marked], "widgets")), ["empty widgets.example.com"]);
        let mut never = definition("widgets", "Widget", "w");
        never["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        never["metadata"]["finalizers"] = json!([CLEANUP]);
        assert_eq!(
            show(&decide(vec![never], "widgets")),
            ["patch customresourcedefinitions.apiextensions.k8s.io widgets.example.com"]
        );
    }
}
