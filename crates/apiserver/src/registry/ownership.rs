//! Who set which field: server-side apply, and the record that every other write leaves in `metadata.managedFields`.

use api_rules::patch::apply::{self, Writer};
use api_rules::patch::{Conflict, PatchError};
use api_types::field::{FieldError, Path};
use api_types::status::Status;
use api_types::{Subresource, Value, codec, meta};
use http::{Response, header};

use super::write::{Written, settle_namespace};
use super::{Target, Update, UpdateKind};
use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::decode::{self, Expected};
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

/// Checks the `fieldManager` parameter.
pub(super) fn check_manager(call: &Call, kind: &str) -> Result<(), Status> {
    let errors = api_rules::meta::check_field_manager(call.query.get("fieldManager"));
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("meta.k8s.io", kind, "", &errors)),
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
        let (force, dry_run) = options(call)?;
        let api_version = target.resource.api_version();
        let applied = applied_object(call, target, Expected::of(&target.resource, &api_version))?;
        let record = Record::new(self, target);
        let lay = |live: &Value| -> Result<Value, Status> {
            let ty = target.resource.merge_type();
            let result =
                apply::apply(ty, live, &applied, &record.writer(call, target), force).map_err(refused)?;
            target.resource.normalize(result)
        };
        let update = Update { kind, dry_run };
        let written = match self.update(call, target, update, &mut |old| lay(old)).await {
            Err(status)
                if status.code == 404 && kind == UpdateKind::Main && meta::uid(&applied).is_empty() =>
            {
                let mut nothing = Value::Object(serde_json::Map::new());
                meta::set_kind(&mut nothing, &record.api_version, &target.resource.kind);
                meta::set_name(&mut nothing, &target.name);
                meta::set_namespace(&mut nothing, &target.namespace);
                self.create(call, target, lay(&nothing)?, dry_run).await?
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
        let (force, dry_run) = options(call)?;
        let api_version = sub.api_version();
        let scale = applied_object(call, target, Expected::sub(sub, &api_version))?;
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

/// Whether an apply is forced, and whether it is a dry run.
fn options(call: &Call) -> Result<(bool, bool), Status> {
    if call.query.get("fieldManager").is_empty() {
        let error = FieldError::required(&Path::new("fieldManager"), "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]));
    }
    check_manager(call, "PatchOptions")?;
    Ok((call.query.flag("force"), call.dry_run(None)?))
}

/// The applied configuration as it was sent: nothing is filled in, since what is there is what the manager owns.
fn applied_object(call: &Call, target: &Target, expected: Expected<'_>) -> Result<Value, Status> {
    let decoded = codec::decode_yaml(&call.body)
        .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    let mut applied = decoded.value.clone();
    let (api_version, kind) = (expected.api_version, expected.kind);
    if meta::api_version(&applied) != api_version || meta::kind(&applied) != kind {
        return Err(Status::bad_request(format!(
            "invalid object type: expected {api_version}, Kind={kind}, got {}, Kind={}",
            meta::api_version(&applied),
            meta::kind(&applied)
        )));
    }
    decode::settle_applied(call, &decoded, &mut applied, expected)?;
    settle_namespace(&mut applied, target)?;
    if meta::name(&applied).is_empty() {
        meta::set_name(&mut applied, &target.name);
    }
    if meta::name(&applied) != target.name {
        return Err(Status::bad_request(format!(
            "name in URL does not match name in the body: {} != {}",
            target.name,
            meta::name(&applied)
        )));
    }
    Ok(applied)
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
