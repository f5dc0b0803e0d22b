//! Who set which field: server-side apply, and the record that every other write leaves in `metadata.managedFields`.

use api_rules::patch::apply::{self, Writer};
use api_rules::patch::{Conflict, PatchError};
use api_types::status::Status;
use api_types::{Subresource, Value, codec, meta, schema};
use http::{Response, header};

use super::write::{Written, settle_namespace};
use super::{Target, Update, UpdateKind, check_name};
use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::catalog::Kind;
use crate::decode::{self, Expected};
use crate::options;
use crate::subresources::scale;

/// Bytes of a manager's name that is taken from the user agent.
const MANAGER_BYTES: usize = 128;

/// The `fieldManager` parameter, or the first word of the user agent.
fn manager(call: &Call) -> &str {
    match call.query.get("fieldManager") {
        "" => {
            let agent = call.header(header::USER_AGENT);
            let name = agent.split('/').next().unwrap_or_default();
            let end = name.char_indices().map(|(at, _)| at).nth(MANAGER_BYTES).unwrap_or(name.len());
            &name[..end]
        }
        manager => manager,
    }
}

/// The words and times of a writer, which [`Writer`] borrows.
struct Record {
    api_version: String,
    now: String,
}

impl Record {
    fn new(api: &Api, target: &Target) -> Self {
        Self { api_version: target.resource.api_version(), now: api.now_text() }
    }

    fn writer<'a>(&'a self, call: &'a Call, target: &'a Target) -> Writer<'a> {
        let subresource = call.info.subresource.as_str();
        Writer {
            manager: manager(call),
            api_version: &self.api_version,
            subresource,
            now: &self.now,
            reset: target.resource.reset_fields(subresource),
        }
    }
}

impl Api {
    /// Records what a write other than an apply changes.
    pub(super) fn track(&self, call: &Call, target: &Target, old: Option<&Value>, new: &mut Value) {
        if call.is_apply() {
            return;
        }
        let record = Record::new(self, target);
        apply::update(target.resource.merge_type(), old, new, &record.writer(call, target));
    }

    /// Server-side apply: creates the object, or lays the applied fields over it.
    pub(crate) async fn apply_request(
        &self,
        call: &Call,
        target: &Target,
        kind: UpdateKind,
    ) -> Result<Response<Body>, Status> {
        let (dry_run, force) = (options::of_write(call)?, call.query.flag("force"));
        let api_version = target.resource.api_version();
        let applied = applied_object(call, Expected::of(&target.resource, &api_version))?;
        let record = Record::new(self, target);
        let misfit = misfit(&target.resource, &applied);
        let lay = |live: &Value| -> Result<Value, Status> {
            let ty = target.resource.merge_type();
            let result =
                apply::apply(ty, live, &applied, &record.writer(call, target), force).map_err(refused)?;
            misfit.clone().map_or(Ok(()), Err)?;
            target.resource.normalize(result)
        };
        let update = Update { kind, dry_run };
        let written = match self.update(call, target, update, &mut |old| lay(old)).await {
            Err(status) if status.code == 404 && kind == UpdateKind::Main => {
                if !meta::uid(&applied).is_empty() {
                    return Err(target.conflict(&format!(
                        "uid mismatch: the provided object specified uid {}, and no existing object was found",
                        meta::uid(&applied)
                    )));
                }
                let mut nothing = Value::Object(serde_json::Map::new());
                meta::set_kind(&mut nothing, &record.api_version, &target.resource.kind);
                meta::set_name(&mut nothing, &target.name);
                meta::set_namespace(&mut nothing, &target.namespace);
                let mut made = lay(&nothing)?;
                check_name(&made, target)?;
                settle_namespace(&mut made, target)?;
                self.create(call, target, made, dry_run).await?
            }
            other => other?,
        };
        let code = if written.created { 201 } else { 200 };
        self.respond(call, target, code, written.kv).await
    }

    /// Server-side apply of a scale: the manager owns the object's own field for the replicas, under the subresource
    /// (upstream: `apimachinery/pkg/util/managedfields`, `ScaleHandler`).
    pub(crate) async fn apply_scale(
        &self,
        call: &Call,
        target: &Target,
        sub: &Subresource,
    ) -> Result<Written, Status> {
        let (dry_run, force) = (options::of_write(call)?, call.query.flag("force"));
        let api_version = sub.api_version();
        let scale = applied_object(call, Expected::sub(sub, &api_version))?;
        if !meta::name(&scale).is_empty() {
            check_name(&scale, target)?;
        }
        let record = Record::new(self, target);
        let update = Update { kind: UpdateKind::Scale, dry_run };
        self.update(call, target, update, &mut |old| {
            let applied = scale::applied(target, old, &scale)?;
            let ty = target.resource.merge_type();
            let result =
                apply::apply(ty, old, &applied, &record.writer(call, target), force).map_err(refused)?;
            target.resource.normalize(result)
        })
        .await
    }
}

/// The applied configuration as it was sent: nothing is filled in, since what is there is what the manager owns.
fn applied_object(call: &Call, expected: Expected<'_>) -> Result<Value, Status> {
    let decoded = codec::decode_yaml(&call.body).map_err(|error| {
        let text = error.to_string();
        let text = text.strip_prefix("error converting YAML to JSON: ").unwrap_or(&text);
        Status::bad_request(format!("error encoding patch: {text}"))
    })?;
    let applied = decoded.value.clone();
    if !applied.is_object() && !applied.is_null() {
        return Err(Status::bad_request(format!(
            "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            decode::json_type(&applied)
        )));
    }
    if meta::api_version(&applied) != expected.api_version || meta::kind(&applied) != expected.kind {
        let version = meta::api_version(&applied);
        let group = if version.contains('/') { "" } else { "/" };
        let kind = meta::kind(&applied);
        return Err(Status::bad_request(format!("invalid object type: {group}{version}, Kind={kind}")));
    }
    decode::settle_applied(call, &decoded)?;
    Ok(applied)
}

/// What of an applied configuration does not fit its kind and the merge does not look at: scalars, and what is below
/// values that are owned as a whole.
fn misfit(kind: &Kind, applied: &Value) -> Option<Status> {
    let Kind::BuiltIn(resource) = kind else { return None };
    let report = schema::check(resource.built_in_message(), applied);
    let unknown = report.unknown_fields.first().map(|path| format!(".{path}: field not declared in schema"));
    let fault = report.type_errors.first().cloned().or(unknown)?;
    let version = meta::api_version(applied);
    let slash = if version.contains('/') { "" } else { "/" };
    Some(Status::unknown(format!(
        "failed to create typed patch object ({}/{}; {slash}{version}, Kind={}): {fault}",
        meta::namespace(applied),
        meta::name(applied),
        meta::kind(applied)
    )))
}

/// A failed apply: each conflict is a cause.
fn refused(error: PatchError) -> Status {
    let PatchError::Conflicts(conflicts) = &error else { return super::patch::refused(error) };
    let mut status = Status::failure(409, "Conflict", error.to_string());
    for Conflict { manager, field } in conflicts {
        status = status.with_cause("FieldManagerConflict", &format!("conflict with {manager}"), field);
    }
    status
}
