//! Patch, in its four forms.

use api_rules::patch::{self, PatchError};
use api_types::status::Status;
use api_types::{Value, codec};
use http::{Response, header};

use super::{Target, Update, UpdateKind};
use crate::api::Api;
use crate::body::Body;
use crate::call::{Call, FieldValidation};
use crate::catalog::Kind;
use crate::decode::{self, Expected, Form};
use crate::options;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY_PATCH: &str = "application/apply-patch+yaml";
/// Custom resources have no strategic merge.
const CUSTOM_ACCEPTED: [&str; 3] = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH];
const ACCEPTED: [&str; 4] = [JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH];

/// A patch that is read and not applied yet.
pub(crate) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads the patch of a request.
    pub fn parse(call: &Call, kind: &Kind) -> Result<Self, Status> {
        let media = call.header(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        match kind.custom() {
            Some(_) if !CUSTOM_ACCEPTED.contains(&media) => {
                return Err(Status::unsupported_media(&CUSTOM_ACCEPTED));
            }
            None if !ACCEPTED.contains(&media) => return Err(Status::no_such_body()),
            _ => {}
        }
        options::of_write(call)?;
        let decoded =
            codec::decode_json(&call.body).map_err(|_| Status::bad_request("invalid JSON patch"))?;
        if call.field_validation() == FieldValidation::Strict && !decoded.duplicates.is_empty() {
            let list: Vec<String> =
                decoded.duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
            return Err(Status::bad_request(format!("strict decoding error: {}", list.join(", "))));
        }
        let value = decoded.value;
        // What Go decodes it into depends on whether unknown fields are looked for.
        let lenient = call.field_validation() == FieldValidation::Ignore;
        let value = match (media, value) {
            (MERGE_PATCH, Value::Null) => return Err(Status::bad_request("Invalid JSON Patch")),
            (JSON_PATCH, Value::Null) => Value::Array(Vec::new()),
            (STRATEGIC_MERGE_PATCH, Value::Null) => Value::Object(serde_json::Map::new()),
            (_, value) => value,
        };
        let (prefix, of_type, fits) = match media {
            JSON_PATCH if lenient => ("", "jsonpatch.Patch", value.is_array()),
            JSON_PATCH => ("error decoding patch: ", "[]handlers.jsonPatchOp", value.is_array()),
            MERGE_PATCH => ("error decoding patch: ", "map[string]interface {}", value.is_object()),
            _ => ("", "map[string]interface {}", value.is_object()),
        };
        if !fits {
            let found = decode::json_type(&value);
            let why = format!("{prefix}json: cannot unmarshal {found} into Go value of type {of_type}");
            return Err(Status::bad_request(why));
        }
        if let (JSON_PATCH, false, Some(fault)) = (media, lenient, odd_operation(&value)) {
            return Err(Status::bad_request(format!("error decoding patch: json: cannot unmarshal {fault}")));
        }
        Ok(match media {
            JSON_PATCH => Self::Json(value),
            MERGE_PATCH => Self::Merge(value),
            _ => Self::Strategic(value),
        })
    }

    /// The object after the patch, checked against its schema. It has no record of who owns which field unless the patch
    /// speaks of it: that of the object holds then.
    pub fn apply(&self, call: &Call, expected: Expected<'_>, object: &Value) -> Result<Value, Status> {
        let before = match self.names_managed_fields() {
            true => {
                let mut shown = object.clone();
                patch::apply::show_fields(&mut shown);
                shown
            }
            false => patch::apply::without_managed(object),
        };
        let patched = match self {
            Self::Json(patch) => patch::json_patch(before, patch),
            Self::Merge(patch) => patch::merge_patch(before, patch),
            Self::Strategic(patch) => match expected.form {
                Form::Message(message) => patch::strategic_merge(message, before, patch),
                Form::Custom(_) => return Err(Status::unsupported_media(&CUSTOM_ACCEPTED)),
            },
        };
        let strategic = match self {
            Self::Strategic(patch) => Some(patch),
            _ => None,
        };
        decode::settle(call, patched.map_err(refused)?, object, expected, strategic)
    }

    /// Whether it reads or changes `metadata.managedFields`, by itself or as a part.
    fn names_managed_fields(&self) -> bool {
        match self {
            Self::Json(steps) => {
                let paths =
                    |step: &Value| ["path", "from"].map(|field| step[field].as_str().map(meets_managed));
                steps.as_array().into_iter().flatten().flat_map(paths).any(|met| met == Some(true))
            }
            Self::Merge(patch) | Self::Strategic(patch) => match patch.get("metadata") {
                None => false,
                Some(Value::Object(metadata)) => {
                    metadata.keys().any(|key| key.contains("managedFields") || key.starts_with('$'))
                }
                Some(_) => true,
            },
        }
    }
}

/// Whether a JSON pointer leads to `managedFields`, through it, or to what it is in.
fn meets_managed(pointer: &str) -> bool {
    const MANAGED: &str = "/metadata/managedFields";
    pointer.starts_with(MANAGED) || MANAGED.starts_with(pointer)
}

/// What of a JSON patch is no operation, in the words of Go's decoder.
fn odd_operation(patch: &Value) -> Option<String> {
    patch.as_array()?.iter().find_map(|operation| {
        let Some(operation) = operation.as_object() else {
            let found = decode::json_type(operation);
            return (!operation.is_null())
                .then(|| format!("{found} into Go value of type handlers.jsonPatchOp"));
        };
        ["op", "path", "from"].iter().find_map(|name| {
            let value = operation.get(*name).filter(|value| !value.is_string() && !value.is_null())?;
            let found = decode::json_type(value);
            Some(format!("{found} into Go struct field jsonPatchOp.{name} of type string"))
        })
    })
}

pub(super) fn refused(error: PatchError) -> Status {
    match error {
        PatchError::BadRequest(text) => Status::bad_request(text),
        PatchError::Unprocessable(_) => {
            let text = "the server rejected our request due to an error in our request";
            let mut status = Status::failure(422, "Invalid", text);
            status.details = Some(Default::default());
            status
        }
        PatchError::TooLarge(text) => Status::request_entity_too_large(text),
        PatchError::Internal(text) => Status::unknown(text),
        PatchError::Conflicts(_) => Status::failure(409, "Conflict", error.to_string()),
    }
}

impl Api {
    pub(crate) async fn patch_request(
        &self,
        call: &Call,
        target: &Target,
        kind: UpdateKind,
    ) -> Result<Response<Body>, Status> {
        if call.is_apply() {
            return self.apply_request(call, target, kind).await;
        }
        let api_version = target.resource.api_version();
        let expected = Expected::of(&target.resource, &api_version);
        let patch = Patch::parse(call, &target.resource)?;
        let update = Update { kind, dry_run: options::of_write(call)? };
        let written = self.update(call, target, update, &mut |old| patch.apply(call, expected, old)).await?;
        self.respond(call, target, 200, written.kv).await
    }
}
