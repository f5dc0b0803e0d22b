//! Priority, DefaultTolerationSeconds, StorageObjectInUseProtection.

use api_types::status::Status;
use api_types::{Value, codec, meta, table};
use mvcc::{KeyRange, View};
use serde_json::json;

use super::{Attributes, Settings};
use crate::storage;

const PREEMPT: &str = "PreemptLowerPriority";

/// Priority: the number of a pod's class.
pub(super) fn admit_priority(
    view: &View,
    attributes: &Attributes<'_>,
    pod: &mut Value,
) -> Result<(), Status> {
    if !attributes.creates("", "pods") {
        return Ok(());
    }
    let Some(classes) = table::find("scheduling.k8s.io", "v1", "priorityclasses") else { return Ok(()) };
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
    let class = match name {
        "" => default_class(view, &classes.storage_prefix)?,
        name => {
            let found = storage::get(view, classes.key("", name).as_bytes())?;
            let found = found.and_then(|kv| codec::from_stored(&kv.value, 0).ok());
            let why = || format!("no PriorityClass with name {name} was found");
            Some(found.ok_or_else(|| attributes.target.forbidden(&why()))?)
        }
    };
    let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let policy =
        class.as_ref().and_then(|class| class["preemptionPolicy"].as_str()).unwrap_or(PREEMPT).to_owned();
    if pod["spec"]["priority"].as_i64().is_some_and(|given| given != value) {
        let given = &pod["spec"]["priority"];
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(attributes.target.forbidden(&why));
    }
    let spec = meta::child_mut(pod, &["spec"]);
    if let Some(class) = &class {
        spec.insert("priorityClassName".into(), meta::name(class).into());
    }
    spec.insert("priority".into(), value.into());
    spec.entry("preemptionPolicy").or_insert_with(|| policy.into());
    Ok(())
}

fn default_class(view: &View, prefix: &'static str) -> Result<Option<Value>, Status> {
    let stored: Vec<_> = storage::each(view, &KeyRange::prefix(prefix)).collect::<Result<_, _>>()?;
    let classes = stored.iter().filter_map(|kv| codec::from_stored(&kv.value, 0).ok());
    Ok(classes.filter(|class| class["globalDefault"] == true).min_by_key(|class| class["value"].as_i64()))
}

/// DefaultTolerationSeconds: how long a pod stays on a node that is lost.
pub(super) fn admit_tolerations(settings: &Settings, attributes: &Attributes<'_>, pod: &mut Value) {
    if !attributes.is("", "pods") || pod.is_null() {
        return;
    }
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

/// StorageObjectInUseProtection: volumes and claims outlive their use.
pub(super) fn admit_storage_protection(attributes: &Attributes<'_>, object: &mut Value) {
    let finalizer = if attributes.creates("", "persistentvolumeclaims") {
        "kubernetes.io/pvc-protection"
    } else if attributes.creates("", "persistentvolumes") {
        "kubernetes.io/pv-protection"
    } else {
        return;
    };
    if !meta::has_finalizer(object, finalizer) {
        let list = meta::finalizers(object).map(str::to_owned).chain([finalizer.to_owned()]).collect();
        meta::set_finalizers(object, list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Operation;
    use crate::call::Call;
    use crate::registry::Target;

    #[test]
    fn a_pod_tolerates_a_lost_node_for_a_while() {
        let (target, call) =
            (Target::new(table::find("", "v1", "pods").unwrap(), "n", "p"), Call::internal());
        let attributes = Attributes::new(Operation::Create, &target, &call);
        let mut pod = json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]}});
        let settings = Settings { not_ready_toleration_seconds: 60, unreachable_toleration_seconds: 300 };
        admit_tolerations(&settings, &attributes, &mut pod);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((&list[0]["tolerationSeconds"], &list[1]["tolerationSeconds"]), (&json!(5), &json!(300)));
    }
}
