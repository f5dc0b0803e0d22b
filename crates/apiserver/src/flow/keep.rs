//! Keeps the stored FlowSchemas and priority levels in shape: makes those that are missing, brings those back that are
//! not to be changed, and says of every schema whether its level exists.

use std::sync::Arc;

use api_types::status::Status;
use api_types::{Resource, Value, codec, meta, table};
use serde_json::json;

use super::defaults::{self, AUTO_UPDATE, Preset, SCHEMA};
use super::ranges;
use crate::api::Api;
use crate::call::Call;
use crate::registry::{Target, Update, UpdateKind, gone_is_fine};
use crate::shape;
use crate::storage::{self, View};

const DANGLING: &str = "Dangling";

fn resource(name: &str) -> &'static Resource {
    let found = table::find("flowcontrol.apiserver.k8s.io", "v1", name);
    found.expect("invariant: the table of kinds holds it")
}

fn resource_of(object: &Value) -> &'static Resource {
    resource(if meta::kind(object) == SCHEMA { "flowschemas" } else { "prioritylevelconfigurations" })
}

/// The stored schemas and levels.
pub(super) fn stored(view: &View) -> Result<[Vec<Value>; 2], Status> {
    let mut found = [Vec::new(), Vec::new()];
    for (range, list) in ranges().iter().zip(&mut found) {
        for kv in storage::each(view, range) {
            let kv = kv?;
            list.extend(codec::from_stored(&kv.value, kv.mod_revision));
        }
    }
    Ok(found)
}

/// Keeps the objects in shape until shutdown.
pub(crate) async fn keep(api: Arc<Api>) {
    shape::keep(&api, &ranges(), "to keep priority and fairness in shape", || once(&api)).await;
}

async fn once(api: &Api) -> Result<(), Status> {
    let view = api.storage.fresh().await?;
    let [schemas, levels] = stored(&view)?;
    for default in defaults::all() {
        let all = if meta::kind(&default.object) == SCHEMA { &schemas } else { &levels };
        let found = all.iter().find(|object| meta::name(object) == meta::name(&default.object));
        match found {
            None => create(api, &default).await?,
            Some(found) if shaped(&default, found).is_some() => restore(api, &default).await?,
            Some(_) => {}
        }
    }
    let [schemas, levels] = stored(&*api.storage.fresh().await?)?;
    for schema in &schemas {
        if told(schema, &levels, &api.now_text()).is_some() {
            tell(api, meta::name(schema), &levels).await?;
        }
    }
    Ok(())
}

async fn create(api: &Api, default: &Preset) -> Result<(), Status> {
    let target = Target::new(resource_of(&default.object), "", meta::name(&default.object));
    match api.create(&Call::internal(), &target, default.object.clone(), false).await {
        Err(status) if status.is("AlreadyExists") => Ok(()),
        other => other.map(|_| ()),
    }
}

async fn restore(api: &Api, default: &Preset) -> Result<(), Status> {
    let target = Target::new(resource_of(&default.object), "", meta::name(&default.object));
    let update = Update { kind: UpdateKind::Main, dry_run: false };
    let change = &mut |old: &Value| Ok(shaped(default, old).unwrap_or_else(|| old.clone()));
    gone_is_fine(api.update(&Call::internal(), &target, update, change).await.map(|_| ()))
}

async fn tell(api: &Api, name: &str, levels: &[Value]) -> Result<(), Status> {
    let target = Target::new(resource("flowschemas"), "", name);
    let update = Update { kind: UpdateKind::Status, dry_run: false };
    let now = api.now_text();
    let change = &mut |old: &Value| Ok(told(old, levels, &now).unwrap_or_else(|| old.clone()));
    gone_is_fine(api.update(&Call::internal(), &target, update, change).await.map(|_| ()))
}

/// The stored object as it should be; none when it is so. Suggested ones are their owner's when they say so, or when
/// they say nothing and were changed.
fn shaped(default: &Preset, found: &Value) -> Option<Value> {
    let kept = match meta::annotation(found, AUTO_UPDATE) {
        _ if default.is_mandatory => true,
        Some(said) => said == "true",
        None => meta::generation(found) <= 1,
    };
    let marked = meta::annotation(found, AUTO_UPDATE) == Some("true");
    if !kept || marked && found["spec"] == default.object["spec"] {
        return None;
    }
    let mut object = found.clone();
    meta::set_annotation(&mut object, AUTO_UPDATE, "true");
    object["spec"] = default.object["spec"].clone();
    Some(object)
}

/// A schema that says whether its level exists; none when it does.
fn told(schema: &Value, levels: &[Value], now: &str) -> Option<Value> {
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
    let exists = levels.iter().any(|object| meta::name(object) == level);
    let (status, reason, end) = match exists {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named \"{level}\" {end}");
    let mut conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = conditions.iter().position(|condition| condition["type"] == DANGLING);
    let mut condition = json!({
        "type": DANGLING, "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
    });
    match before {
        Some(index) => {
            let old = &conditions[index];
            if ["status", "reason", "message"].iter().all(|field| old[*field] == condition[*field]) {
                return None;
            }
            if old["status"] == status {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            conditions[index] = condition;
        }
        None => conditions.push(condition),
    }
    let mut schema = schema.clone();
    meta::child_mut(&mut schema, &["status"]).insert("conditions".into(), conditions.into());
    Some(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default(name: &str, kind: &str) -> Preset {
        let is =
            |default: &Preset| meta::name(&default.object) == name && meta::kind(&default.object) == kind;
        defaults::all().into_iter().find(is).expect("a default")
    }

    #[test]
    fn what_must_be_is_brought_back_and_the_rest_is_its_owners() {
        let mandatory = default("catch-all", defaults::LEVEL);
        let mut changed = mandatory.object.clone();
        assert!(shaped(&mandatory, &changed).is_none());
        changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(50);
        meta::set_annotation(&mut changed, AUTO_UPDATE, "false");
        assert_eq!(shaped(&mandatory, &changed), Some(mandatory.object.clone()));
        let suggested = default("workload-low", defaults::LEVEL);
        let mut own = suggested.object.clone();
        own["spec"]["limited"]["nominalConcurrencyShares"] = json!(50);
        assert!(shaped(&suggested, &own).is_some(), "it says that it follows");
        meta::set_annotation(&mut own, AUTO_UPDATE, "false");
        assert!(shaped(&suggested, &own).is_none());
    }

    #[test]
    fn a_schema_says_whether_its_level_exists() {
        let schema = default("probes", SCHEMA).object;
        let missing = told(&schema, &[], "t1").expect("something to say");
        assert_eq!(missing["status"]["conditions"][0]["status"], "True");
        let level = default("exempt", defaults::LEVEL).object;
        let found = told(&missing, std::slice::from_ref(&level), "t2").expect("something to say");
        assert_eq!(found["status"]["conditions"][0]["lastTransitionTime"], "t2");
        assert_eq!(
            found["status"]["conditions"][0]["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"exempt\" and it exists"
        );
        assert!(told(&found, &[level], "t3").is_none());
    }
}
