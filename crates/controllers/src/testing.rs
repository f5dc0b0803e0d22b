//! What the controllers' tests share.

use std::collections::HashMap;

use api_types::{meta, table};
use client::Lister;
use serde_json::{Value, json};

use crate::controller::{Listers, indexes};
use crate::plan::{Action, Plan};

/// Listers of these objects; every kind of the table has one.
pub fn listers(objects: Vec<Value>) -> Listers {
    let mut by_resource: HashMap<String, Vec<Value>> =
        table::resources().iter().map(|resource| (resource.qualified(), Vec::new())).collect();
    for object in objects {
        let resource =
            table::by_api_version(meta::api_version(&object), meta::kind(&object)).expect("a known kind");
        by_resource.entry(resource.qualified()).or_default().push(object);
    }
    let listers = by_resource.into_iter().map(|(name, objects)| (name, Lister::of(indexes(), objects)));
    Listers::new(listers.collect())
}

pub fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "uid": format!("uid-{name}") },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    })
}

/// A plan's actions, a line each.
pub fn show(plan: &Plan) -> Vec<String> {
    let key = |object: &Value| match meta::namespace(object) {
        "" => meta::name(object).to_owned(),
        namespace => format!("{namespace}/{}", meta::name(object)),
    };
    let line = |action: &Action| match action {
        Action::Create(resource, object) => {
            let name =
                if meta::name(object).is_empty() { meta::generate_name(object) } else { meta::name(object) };
            format!("create {} {}/{name}", resource.qualified(), meta::namespace(object))
        }
        Action::CreatePod(owner, pod) => {
            format!("create pod {} for {}", meta::generate_name(pod), key(owner))
        }
        Action::Update(resource, object) => format!("update {} {}", resource.qualified(), key(object)),
        Action::UpdateStatus(resource, object) => format!("status {} {}", resource.qualified(), key(object)),
        Action::Patch(resource, object, _) => format!("patch {} {}", resource.qualified(), key(object)),
        Action::Delete(resource, object, _) => format!("delete {} {}", resource.qualified(), key(object)),
        Action::DeleteCollection(resource, namespace) => {
            format!("delete all {} in {namespace}", resource.qualified())
        }
        Action::Collect(resource, object) => format!("collect {} {}", resource.qualified(), key(object)),
        Action::FinalizeDefinition(resource, _) => format!("empty {}", resource.qualified()),
        Action::AwaitNone(resource, namespace) => {
            format!("await no {} in {}", resource.qualified(), meta::name(namespace))
        }
        Action::FinalizeNamespace(namespace) => format!("finalize {}", meta::name(namespace)),
        Action::CountQuota(quota, kinds) => format!("count {} for {}", kinds.join(","), key(quota)),
        Action::ProbeApiService(service) => format!("probe {}", meta::name(service)),
        Action::Event(_, _, reason, text) => format!("event {reason}: {text}"),
    };
    plan.actions.iter().map(line).collect()
}
