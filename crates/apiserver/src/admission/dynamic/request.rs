//! A request as webhooks and expressions see it (`admission.k8s.io AdmissionRequest`).

use api_types::status::Status;
use api_types::{Resource, Value, meta};
use serde_json::{Map, json};

use crate::admission::{Attributes, Operation};
use crate::api::Api;
use crate::catalog::Kind;
use crate::decode;

/// The object that a request is about, in the version of a kind that was matched.
pub(super) async fn as_version(api: &Api, object: &Value, matched: &Kind) -> Result<Value, Status> {
    // What is of a kind of its own below an object (Scale, Eviction) is the same in every version.
    match object.is_null() || matched.kind != meta::kind(object) {
        true => Ok(object.clone()),
        false => api.in_version(matched, object.clone()).await,
    }
}

fn kind_of(attributes: &Attributes<'_>, object: &Value) -> Value {
    let shown = if object.is_object() { object } else { attributes.old.unwrap_or(object) };
    let (group, version) = meta::group_version(shown);
    json!({"group": group, "version": version, "kind": meta::kind(shown)})
}

/// The request without its objects.
pub(super) fn request(attributes: &Attributes<'_>, matched: &Resource, object: &Value) -> Map<String, Value> {
    let target = attributes.target;
    let own = &target.resource;
    let mut request = Map::new();
    let request_kind = kind_of(attributes, object);
    let mut kind = request_kind.clone();
    if kind["kind"] == own.kind.as_str() && kind["group"] == own.group.as_str() {
        kind = json!({"group": matched.group, "version": matched.version, "kind": matched.kind});
    }
    let resource = |of: &Resource| json!({"group": of.group, "version": of.version, "resource": of.resource});
    let itself = own.group.is_empty() && own.resource == "namespaces";
    let namespace = if itself { &target.name } else { &target.namespace };
    request.insert("kind".into(), kind);
    request.insert("resource".into(), resource(matched));
    request.insert("requestKind".into(), request_kind);
    request.insert("requestResource".into(), resource(own));
    for (field, value) in [
        ("subResource", attributes.subresource),
        ("requestSubResource", attributes.subresource),
        ("name", target.name.as_str()),
        ("namespace", namespace.as_str()),
    ] {
        if !value.is_empty() {
            request.insert(field.into(), value.into());
        }
    }
    request.insert("operation".into(), attributes.operation.name().into());
    request.insert("userInfo".into(), attributes.user.to_value());
    request.insert("dryRun".into(), attributes.dry_run.into());
    request.insert("options".into(), options(attributes));
    request
}

/// `CreateOptions` and the like, as the request gave them.
fn options(attributes: &Attributes<'_>) -> Value {
    let kind = match attributes.operation {
        Operation::Create => "CreateOptions",
        Operation::Update if attributes.call.method == http::Method::PATCH => "PatchOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = match kind {
        "DeleteOptions" if attributes.call.method == http::Method::DELETE => {
            decode::delete_options(attributes.call).unwrap_or_default()
        }
        _ => Value::Null,
    };
    if !options.is_object() {
        options = json!({});
    }
    meta::set_kind(&mut options, "meta.k8s.io/v1", kind);
    if let Some(options) = options.as_object_mut() {
        let query = &attributes.call.query;
        for field in ["fieldManager", "fieldValidation"] {
            if !query.get(field).is_empty() {
                options.insert(field.into(), query.get(field).into());
            }
        }
        if attributes.dry_run {
            options.insert("dryRun".into(), json!(["All"]));
        }
    }
    options
}
