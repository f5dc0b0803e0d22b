//! LimitRanger: defaults and bounds of what containers, pods and claims may ask for (`plugin/pkg/admission/limitranger`).

use api_types::quantity::Quantity;
use api_types::status::Status;
use api_types::{Value, codec, meta};
use mvcc::KeyRange;
use serde_json::{Map, json};

use super::{Admit, Attributes, Check, Plugin};
use crate::api::Api;
use crate::storage::{self, View};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
const LISTS: [(&str, &str); 2] = [("containers", "container"), ("initContainers", "init container")];

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Now(admit), check: Check::Now(check) };

/// The limits of a namespace, each of one type.
fn limits(view: &View, namespace: &str) -> Result<Vec<Value>, Status> {
    let range = KeyRange::prefix(format!("/registry/limitranges/{namespace}/"));
    let stored: Vec<_> = storage::each(view, &range).collect::<Result<_, _>>()?;
    let ranges = stored.iter().filter_map(|kv| codec::from_stored(&kv.value, 0).ok());
    Ok(ranges.flat_map(|range| range["spec"]["limits"].as_array().cloned().unwrap_or_default()).collect())
}

/// Fills in what containers leave open.
fn admit(api: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !attributes.creates("", "pods") {
        return Ok(());
    }
    let limits = limits(&api.storage.view(), &attributes.target.namespace)?;
    let mut set = Vec::new();
    for limit in limits.iter().filter(|limit| limit["type"] == "Container") {
        for (list, what) in LISTS {
            let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
            containers.iter_mut().for_each(|container| fill(container, what, limit, &mut set));
        }
    }
    if !set.is_empty() {
        meta::set_annotation(pod, ANNOTATION, &format!("LimitRanger plugin set: {}", set.join("; ")));
    }
    Ok(())
}

fn fill(container: &mut Value, what: &str, limit: &Value, set: &mut Vec<String>) {
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    for (field, from, word) in [("requests", "defaultRequest", "request"), ("limits", "default", "limit")] {
        let Some(defaults) = limit[from].as_object() else { continue };
        let mut names = Vec::new();
        let own = meta::child_mut(container, &["resources", field]);
        for (resource, value) in defaults {
            if !own.contains_key(resource) {
                own.insert(resource.clone(), value.clone());
                names.push(resource.as_str());
            }
        }
        if !names.is_empty() {
            set.push(format!("{} {word} for {what} {name}", names.join(", ")));
        }
    }
}

/// Refuses what lies outside the bounds.
fn check(api: &Api, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let mut problems = Vec::new();
    if attributes.creates("", "pods") {
        for limit in limits(&api.storage.view(), &attributes.target.namespace)? {
            check_pod(&limit, object, &mut problems);
        }
    } else if attributes.is("", "persistentvolumeclaims") {
        for limit in limits(&api.storage.view(), &attributes.target.namespace)? {
            if limit["type"] == "PersistentVolumeClaim" {
                let asked = &object["spec"]["resources"]["requests"];
                bounds(&limit, "PersistentVolumeClaim", asked, &json!({}), &mut problems);
            }
        }
    }
    let why = match problems.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Err(attributes.target.forbidden(&why))
}

fn check_pod(limit: &Value, pod: &Value, problems: &mut Vec<String>) {
    let containers: Vec<&Value> =
        LISTS.iter().flat_map(|(list, _)| pod["spec"][*list].as_array().into_iter().flatten()).collect();
    match limit["type"].as_str() {
        Some("Container") => {
            for container in containers {
                let resources = &container["resources"];
                bounds(limit, "Container", &resources["requests"], &resources["limits"], problems);
            }
        }
        Some("Pod") => {
            let sum = |field: &str| {
                let mut total: Map<String, Value> = Map::new();
                for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
                    for (name, value) in container["resources"][field].as_object().into_iter().flatten() {
                        let before = total.get(name).and_then(quantity);
                        let Some(value) = quantity(value) else { continue };
                        let value = before.map_or(value, |before| before + value);
                        total.insert(name.clone(), value.to_string().into());
                    }
                }
                Value::Object(total)
            };
            bounds(limit, "Pod", &sum("requests"), &sum("limits"), problems);
        }
        _ => {}
    }
}

fn quantity(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?).ok()
}

fn bounds(limit: &Value, what: &str, requests: &Value, limits: &Value, problems: &mut Vec<String>) {
    let of = |bound: &str| -> Vec<(String, Quantity)> {
        let map = limit[bound].as_object().into_iter().flatten();
        map.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
    };
    let claim = what == "PersistentVolumeClaim";
    for (name, least) in of("min") {
        let (request, most) = (quantity(&requests[&name]), quantity(&limits[&name]));
        let text = format!("minimum {name} usage per {what} is {least}");
        match request {
            None => problems.push(format!("{text}.  No request is specified")),
            Some(request) if request < least => problems.push(format!("{text}, but request is {request}")),
            Some(_) => {}
        }
        if let Some(most) = most
            && most < least
        {
            problems.push(format!("{text}, but limit is {most}"));
        }
    }
    for (name, largest) in of("max") {
        let (request, most) = (quantity(&requests[&name]), quantity(&limits[&name]));
        let text = format!("maximum {name} usage per {what} is {largest}");
        match most {
            None if !claim => problems.push(format!("{text}.  No limit is specified")),
            Some(most) if most > largest => problems.push(format!("{text}, but limit is {most}")),
            _ => {}
        }
        if let Some(request) = request
            && request > largest
        {
            problems.push(format!("{text}, but request is {request}"));
        }
    }
    for (name, ratio) in of("maxLimitRequestRatio") {
        let milli = |value: &Value| quantity(value).map_or(0, |quantity| quantity.milli_value());
        let (request, most) = (milli(&requests[&name]), milli(&limits[&name]));
        let text = format!("{name} max limit to request ratio per {what} is {ratio}, but");
        if request == 0 {
            problems.push(format!("{text} no request is specified or request is 0"));
        } else if most == 0 {
            problems.push(format!("{text} no limit is specified or limit is 0"));
        } else {
            let found = most as f64 / request as f64;
            if found > ratio.milli_value() as f64 / 1000.0 {
                problems.push(format!("{text} provided ratio is {found:.6}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_get_defaults_once() {
        let limit =
            json!({"type": "Container", "default": {"memory": "64Mi"}, "defaultRequest": {"memory": "32Mi"}});
        let mut container = json!({"name": "c", "resources": {"requests": {"memory": "16Mi"}}});
        let mut set = Vec::new();
        fill(&mut container, "container", &limit, &mut set);
        assert_eq!(
            container["resources"],
            json!({"requests": {"memory": "16Mi"}, "limits": {"memory": "64Mi"}})
        );
        assert_eq!(set, ["memory limit for container c"]);
    }

    #[test]
    fn bounds_are_named() {
        let limit = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"memory": "1Gi"}, "maxLimitRequestRatio": {"cpu": "2"}});
        let mut problems = Vec::new();
        let (requests, limits) = (json!({"cpu": "50m"}), json!({"memory": "2Gi", "cpu": "200m"}));
        bounds(&limit, "Container", &requests, &limits, &mut problems);
        assert_eq!(
            problems,
            [
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
                "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000"
            ]
        );
    }
}
