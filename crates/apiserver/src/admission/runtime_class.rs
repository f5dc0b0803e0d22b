//! RuntimeClass: a pod names a class that exists, and takes over its overhead and its constraints of scheduling
//! (KEP-585, KEP-688).

use api_types::quantity::Quantity;
use api_types::status::Status;
use api_types::{Value, meta};
use serde_json::json;

use super::lookup::{self, Name};
use super::{Admit, Attributes, Check, Plugin};
use crate::api::Api;

const CLASSES: Name = ("node.k8s.io", "v1", "runtimeclasses");
const OTHER_OVERHEAD: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const NO_OVERHEAD: &str =
    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Waits(|api, attributes, pod| match names_class(attributes, pod) {
        true => Some(Box::pin(admit(api, attributes, pod))),
        false => None,
    }),
    check: Check::Now(check),
};

fn class_name(pod: &Value) -> &str {
    pod["spec"]["runtimeClassName"].as_str().unwrap_or_default()
}

fn names_class(attributes: &Attributes<'_>, pod: &Value) -> bool {
    attributes.creates("", "pods") && !class_name(pod).is_empty()
}

async fn admit(api: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    let name = class_name(pod).to_owned();
    let class = lookup::get_fresh(api, CLASSES, "", &name).await?.ok_or_else(|| {
        let name = api_types::field::quote(&name);
        attributes.target.forbidden(&format!("pod rejected: RuntimeClass {name} not found"))
    })?;
    take_over(&class, pod).map_err(|why| attributes.target.forbidden(&why))
}

fn check(api: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if !attributes.creates("", "pods") {
        return Ok(());
    }
    let class = match class_name(pod) {
        "" => None,
        name => lookup::get(&api.storage.view(), CLASSES, "", name)?,
    };
    let wanted = class.as_ref().map_or(&Value::Null, |class| &class["overhead"]);
    let why = match wanted.is_object() {
        true if !same_amounts(&wanted["podFixed"], &pod["spec"]["overhead"]) => OTHER_OVERHEAD,
        false if pod["spec"]["overhead"].is_object() => NO_OVERHEAD,
        _ => return Ok(()),
    };
    Err(attributes.target.forbidden(why))
}

/// Gives a pod what its class asks for.
fn take_over(class: &Value, pod: &mut Value) -> Result<(), String> {
    if class["overhead"].is_object() {
        let overhead = &class["overhead"]["podFixed"];
        let own = &pod["spec"]["overhead"];
        if own.as_object().is_some_and(|own| !own.is_empty()) && !same_amounts(overhead, own) {
            return Err(OTHER_OVERHEAD.to_owned());
        }
        meta::child_mut(pod, &["spec"]).insert("overhead".into(), overhead.clone());
    }
    let scheduling = &class["scheduling"];
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let wanted = value.as_str().unwrap_or_default();
        let own = pod["spec"]["nodeSelector"][key].as_str();
        if let Some(own) = own.filter(|own| *own != wanted) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}"
            ));
        }
        meta::child_mut(pod, &["spec", "nodeSelector"]).insert(key.clone(), wanted.into());
    }
    if let Some(more) = scheduling["tolerations"].as_array() {
        let own = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        let merged = merge(own.into_iter().chain(more.iter().cloned()).collect());
        meta::child_mut(pod, &["spec"]).insert("tolerations".into(), json!(merged));
    }
    Ok(())
}

fn same_amounts(a: &Value, b: &Value) -> bool {
    let read = |map: &Value| -> Vec<(String, Option<Quantity>)> {
        let entries = map.as_object().into_iter().flatten();
        entries
            .map(|(name, value)| (name.clone(), value.as_str().and_then(|text| Quantity::parse(text).ok())))
            .collect()
    };
    read(a) == read(b)
}

/// Tolerations without those that another one covers; of equal ones the first stays.
pub(super) fn merge(all: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for (at, one) in all.iter().enumerate() {
        let later = all[at + 1..].iter().any(|other| other != one && covers(other, one));
        if !later && !merged.iter().any(|earlier| covers(earlier, one)) {
            merged.push(one.clone());
        }
    }
    merged
}

/// Whether a toleration tolerates all that another one does.
pub(super) fn covers(wide: &Value, narrow: &Value) -> bool {
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
    let (key, effect, operator) = (text(wide, "key"), text(wide, "effect"), text(wide, "operator"));
    if wide == narrow {
        return true;
    }
    if (text(narrow, "key") != key && !(key.is_empty() && operator == "Exists"))
        || (text(narrow, "effect") != effect && !effect.is_empty())
    {
        return false;
    }
    if effect == "NoExecute"
        && let Some(most) = wide["tolerationSeconds"].as_i64()
        && narrow["tolerationSeconds"].as_i64().is_none_or(|own| own > most)
    {
        return false;
    }
    match operator.as_str() {
        "" | "Equal" => text(narrow, "operator") == "Equal" && text(narrow, "value") == text(wide, "value"),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_takes_over_what_its_class_asks_for() {
        let class = json!({"overhead": {"podFixed": {"cpu": "100m"}}, "scheduling": {
            "nodeSelector": {"runtime": "fast"},
            "tolerations": [{"key": "fast", "operator": "Exists"}]}});
        let mut pod = json!({"spec": {"nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "fast", "operator": "Equal", "value": "x"}, {"key": "a", "operator": "Exists"}]}});
        take_over(&class, &mut pod).unwrap();
        assert_eq!(
            pod["spec"],
            json!({"overhead": {"cpu": "100m"}, "nodeSelector": {"disk": "ssd", "runtime": "fast"},
                "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "fast", "operator": "Exists"}]})
        );
        // What stands there already is the same amount.
        pod["spec"]["overhead"] = json!({"cpu": "0.1"});
        take_over(&class, &mut pod).unwrap();
        pod["spec"]["overhead"] = json!({"cpu": "0.2"});
        assert_eq!(take_over(&class, &mut pod).unwrap_err(), OTHER_OVERHEAD);
        let mut other = json!({"spec": {"nodeSelector": {"runtime": "slow"}}});
        assert_eq!(
            take_over(&class, &mut other).unwrap_err(),
            "conflict: runtimeClass.scheduling.nodeSelector[runtime] = fast; pod.spec.nodeSelector[runtime] = slow"
        );
    }

    #[test]
    fn what_another_toleration_covers_goes() {
        let all = json!([
            {"key": "a", "operator": "Equal", "value": "x", "effect": "NoExecute", "tolerationSeconds": 5},
            {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9},
            {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9},
            {"key": "b", "operator": "Equal", "value": "x", "effect": "NoSchedule"},
        ]);
        let merged = merge(all.as_array().unwrap().clone());
        assert_eq!(json!(merged), json!([all[1], all[3]]));
        let everything = json!({"operator": "Exists"});
        assert_eq!(merge(vec![all[0].clone(), everything.clone()]), [everything]);
    }
}
