//! Scale: the number of replicas of whatever has some, in one shape.

use api_types::field::{FieldError, Path};
use api_types::selector::LabelSelector;
use api_types::status::Status;
use api_types::{Subresource, Value, meta};
use http::Response;
use mvcc::KeyValue;
use serde_json::json;

use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::catalog::Kind;
use crate::decode::{self, Expected};
use crate::options;
use crate::registry::{Change, Target, Update, UpdateKind, check_name};

impl Api {
    pub(super) async fn get_scale(
        &self,
        call: &Call,
        target: &Target,
        sub: &Subresource,
    ) -> Result<Response<Body>, Status> {
        let view = self.storage.fresh().await?;
        let object = self.read(&target.resource, &self.find(&view, target)?).await?;
        call.value(200, sub.built_in_message(), &scale_of(&target.resource, &object))
    }

    pub(super) async fn update_scale(
        &self,
        call: &Call,
        target: &Target,
        sub: &Subresource,
    ) -> Result<Response<Body>, Status> {
        let api_version = sub.api_version();
        let scale = decode::body(call, Expected::sub(sub, &api_version))?;
        check_name(&scale, target)?;
        self.change_scale(call, target, sub, &mut |_| Ok(scale.clone())).await
    }

    pub(super) async fn patch_scale(
        &self,
        call: &Call,
        target: &Target,
        sub: &Subresource,
    ) -> Result<Response<Body>, Status> {
        if call.is_apply() {
            let written = self.apply_scale(call, target, sub).await?;
            return self.show_scale(call, target, sub, &written.kv).await;
        }
        let patch = crate::registry::Patch::parse(call, &target.resource)?;
        let api_version = sub.api_version();
        let expected = Expected::sub(sub, &api_version);
        self.change_scale(call, target, sub, &mut |scale| patch.apply(call, expected, scale)).await
    }

    async fn change_scale(
        &self,
        call: &Call,
        target: &Target,
        sub: &Subresource,
        change: &mut Change<'_>,
    ) -> Result<Response<Body>, Status> {
        let update = Update { kind: UpdateKind::Scale, dry_run: options::of_write(call)? };
        let written = self
            .update(call, target, update, &mut |old| {
                let scale = change(&scale_of(&target.resource, old))?;
                apply(target, old, &scale)
            })
            .await?;
        self.show_scale(call, target, sub, &written.kv).await
    }

    async fn show_scale(
        &self,
        call: &Call,
        target: &Target,
        sub: &Subresource,
        kv: &KeyValue,
    ) -> Result<Response<Body>, Status> {
        let object = self.read(&target.resource, kv).await?;
        call.value(200, sub.built_in_message(), &scale_of(&target.resource, &object))
    }
}

/// What a scale shows of an object.
struct Shown {
    replicas: i64,
    ready: i64,
    selector: String,
}

impl Shown {
    fn of(kind: &Kind, object: &Value) -> Self {
        let Some(paths) = kind.custom().and_then(|kind| kind.rules.scale.as_ref()) else {
            return Self {
                replicas: object["spec"]["replicas"].as_i64().unwrap_or(0),
                ready: object["status"]["replicas"].as_i64().unwrap_or(0),
                selector: selector_of(object),
            };
        };
        let find = |path: &[String]| path.iter().try_fold(object, |here, name| here.get(name));
        let number = |path: &[String]| find(path).and_then(Value::as_i64).unwrap_or(0);
        Self {
            replicas: number(&paths.spec_replicas),
            ready: number(&paths.status_replicas),
            selector: match paths.selector.is_empty() {
                true => String::new(),
                false => find(&paths.selector).and_then(Value::as_str).unwrap_or_default().to_owned(),
            },
        }
    }
}

fn selector_of(object: &Value) -> String {
    let selector = &object["spec"]["selector"];
    let selector = match selector.get("matchLabels").or_else(|| selector.get("matchExpressions")) {
        Some(_) => LabelSelector::from_value(selector).unwrap_or_else(|_| LabelSelector::nothing()),
        None => selector.as_object().map(LabelSelector::from_map).unwrap_or_else(LabelSelector::nothing),
    };
    selector.to_string()
}

pub(crate) fn scale_of(kind: &Kind, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let kept = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];
    let kept = kept.iter().filter_map(|field| Some(((*field).to_owned(), metadata.get(field)?.clone())));
    let shown = Shown::of(kind, object);
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": Value::Object(kept.collect()),
        "spec": {"replicas": shown.replicas},
        "status": {"replicas": shown.ready, "selector": shown.selector},
    })
}

/// What a scale wants; an error when it is not that of the object.
fn wanted(target: &Target, object: &Value, scale: &Value) -> Result<i64, Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let path = Path::new("spec").child("replicas");
        let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", &target.name, &[error]));
    }
    target.check_uid(meta::uid(scale), meta::uid(object))?;
    Ok(replicas)
}

/// A scale that is applied to an object, as an applied configuration of the object.
pub(crate) fn applied(target: &Target, object: &Value, scale: &Value) -> Result<Value, Status> {
    let replicas = wanted(target, object, scale)?;
    let mut applied = json!({"metadata": {"name": target.name}});
    meta::set_kind(&mut applied, &target.resource.api_version(), &target.resource.kind);
    meta::set_namespace(&mut applied, &target.namespace);
    let version = meta::resource_version(scale);
    if !version.is_empty() {
        meta::set_resource_version(&mut applied, version);
    }
    if scale["spec"]["replicas"].is_number() {
        set_replicas(target, &mut applied, replicas);
    }
    Ok(applied)
}

pub(crate) fn apply(target: &Target, object: &Value, scale: &Value) -> Result<Value, Status> {
    let replicas = wanted(target, object, scale)?;
    let mut object = object.clone();
    set_replicas(target, &mut object, replicas);
    let version = meta::resource_version(scale);
    if !version.is_empty() {
        meta::set_resource_version(&mut object, version);
    }
    Ok(object)
}

fn set_replicas(target: &Target, object: &mut Value, replicas: i64) {
    match target.resource.custom().and_then(|kind| kind.rules.scale.as_ref()) {
        Some(paths) => {
            let path: Vec<&str> = paths.spec_replicas.iter().map(String::as_str).collect();
            if let Some((last, parents)) = path.split_last() {
                meta::child_mut(object, parents).insert((*last).to_owned(), replicas.into());
            }
        }
        None => {
            meta::child_mut(object, &["spec"]).insert("replicas".into(), replicas.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::table;

    #[test]
    fn a_scale_shows_and_sets_replicas() {
        let deployments = table::find("apps", "v1", "deployments").unwrap();
        let object = json!({"metadata": {"name": "d", "resourceVersion": "4"}, "status": {"replicas": 1},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}}});
        let kind = Kind::from(deployments);
        let mut scale = scale_of(&kind, &object);
        assert_eq!(
            (&scale["spec"]["replicas"], &scale["status"]["selector"]),
            (&json!(2), &json!("app=web"))
        );
        scale["spec"]["replicas"] = json!(5);
        let target = Target::new(deployments, "n", "d");
        assert_eq!(apply(&target, &object, &scale).unwrap()["spec"]["replicas"], 5);
        scale["spec"]["replicas"] = json!(-1);
        assert_eq!(apply(&target, &object, &scale).unwrap_err().code, 422);
    }
}
