//! `meta/v1 Status`: the API's answer when something went wrong, with upstream's codes, reasons and messages
//! (`k8s.io/apimachinery/pkg/api/errors`).
//!
//! ```
//! use api_types::status::Status;
//! let status = Status::not_found("", "pods", "a");
//! assert_eq!((status.code, status.message.as_str()), (404, "pods \"a\" not found"));
//! assert_eq!(status.to_value()["details"]["kind"], "pods");
//! ```

use crate::field::{FieldError, aggregate, quote};
use crate::table::qualified;
use serde_json::{Map, Value, json};

/// A failure (or, rarely, a success) as the API reports it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason; empty for none.
    pub reason: String,
    pub message: String,
    pub details: Option<Details>,
    /// `Success` instead of `Failure`.
    pub success: bool,
}

/// `status.details`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource or kind concerned.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: i32,
}

/// `status.details.causes[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

fn on(group: &str, kind: &str, name: &str) -> Option<Details> {
    Some(Details { name: name.into(), group: group.into(), kind: kind.into(), ..Details::default() })
}

impl Status {
    /// A failure without details.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), details: None, success: false }
    }

    /// 500 of an error that upstream has no reason for, and no other words than its own.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::failure(500, "", message)
    }

    /// `Success` with details, as delete answers.
    pub fn success(details: Option<Details>) -> Self {
        Self { code: 0, details, success: true, ..Self::default() }
    }

    fn about(mut self, details: Option<Details>) -> Self {
        self.details = details;
        self
    }

    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(resource, group), quote(name));
        Self::failure(404, "NotFound", message).about(on(group, resource, name))
    }

    /// 404 for a path that no resource serves.
    pub fn path_not_found() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource")
            .about(Some(Details::default()))
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(resource, group), quote(name));
        Self::failure(409, "AlreadyExists", message).about(on(group, resource, name))
    }

    /// 409 after `generateName` found no free name.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str) -> Self {
        let message = format!(
            "{} \"{name}\" already exists, the server was not able to generate a unique name for the object",
            qualified(resource, group)
        );
        let mut status = Self::failure(409, "AlreadyExists", message).about(on(group, resource, name));
        status.details.get_or_insert_default().retry_after_seconds = 1;
        status
    }

    /// 409 with the reason why the operation cannot be fulfilled.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(resource, group));
        Self::failure(409, "Conflict", message).about(on(group, resource, name))
    }

    /// 409 of a write against an older resourceVersion.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 422 with every field error as a cause.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.ty.reason().into(), message: e.body(), field: e.field.clone() })
            .collect();
        let message = match errors {
            [] => format!("{} \"{name}\" is invalid", qualified(kind, group)),
            _ => format!("{} \"{name}\" is invalid: {}", qualified(kind, group), aggregate(errors)),
        };
        let details = Details {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            causes,
            ..Details::default()
        };
        Self::failure(422, "Invalid", message).about(Some(details))
    }

    /// 403 for an object, with the reason why.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (_, true) => format!("{} is forbidden: {why}", qualified(resource, group)),
            _ => format!("{} \"{name}\" is forbidden: {why}", qualified(resource, group)),
        };
        Self::failure(403, "Forbidden", message).about(on(group, resource, name))
    }

    pub fn unauthorized(message: &str) -> Self {
        let message = if message.is_empty() { "not authorized" } else { message };
        Self::failure(401, "Unauthorized", message)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 410: the resourceVersion is compacted; also the `ERROR` event of a watch.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message)
    }

    /// 405; `action` is a verb such as `create`.
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let message =
            format!("{action} is not supported on resources of kind \"{}\"", qualified(resource, group));
        Self::failure(405, "MethodNotAllowed", message).about(on(group, resource, ""))
    }

    /// 405 of a path that knows no such HTTP method.
    pub fn method_not_allowed() -> Self {
        Self::failure(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .about(Some(Details::default()))
    }

    /// 415 with the media types that would be read.
    pub fn unsupported_media(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 415 of a path that takes no body of that type.
    pub fn no_such_body() -> Self {
        Self::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type")
            .about(Some(Details::default()))
    }

    /// 406 of a path that has no representation of any type that the client takes.
    pub fn no_representation(offered: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", offered.join(", "));
        Self::failure(406, "NotAcceptable", message).about(Some(Details::default()))
    }

    /// 406 with the media types that could be written.
    pub fn not_acceptable(offered: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", offered.join(", "));
        Self::failure(406, "NotAcceptable", message)
    }

    /// 406 for a form that this answer does not have.
    pub fn unfit(message: impl Into<String>) -> Self {
        Self::failure(406, "NotAcceptable", message)
    }

    /// 429; without a delay (0) there are no details.
    pub fn too_many(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::failure(429, "TooManyRequests", message).about((retry_after_seconds > 0).then_some(details))
    }

    /// 409 of server-side apply; every foreign field is a cause `FieldManagerConflict`.
    pub fn apply_conflict(message: impl Into<String>) -> Self {
        Self::failure(409, "Conflict", message)
    }

    /// 504: the server did not finish in time and does not know the outcome.
    pub fn timeout(message: &str, retry_after_seconds: i32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::failure(504, "Timeout", format!("Timeout: {message}")).about(Some(details))
    }

    /// 500 with reason ServerTimeout: the client should try again.
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after_seconds: i32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(resource, group)
        );
        let mut status = Self::failure(500, "ServerTimeout", message).about(on(group, resource, operation));
        status.details.get_or_insert_default().retry_after_seconds = retry_after_seconds;
        status
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        let cause = Cause { message: message.to_string(), ..Cause::default() };
        let details = Details { causes: vec![cause], ..Details::default() };
        Self::failure(500, "InternalError", format!("Internal error occurred: {message}"))
            .about(Some(details))
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    pub fn request_entity_too_large(message: impl std::fmt::Display) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// Adds a cause (a deletion blocked by a budget, a terminating namespace, …).
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// Whether a cause has this reason.
    pub fn has_cause(&self, reason: &str) -> bool {
        self.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == reason))
    }

    /// Whether the reason is this one.
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }

    /// The object on the wire, `kind` and `apiVersion` included.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("kind", "Status".into());
        put("apiVersion", "v1".into());
        put("metadata", json!({}));
        put("status", if self.success { "Success" } else { "Failure" }.into());
        if !self.message.is_empty() {
            put("message", self.message.as_str().into());
        }
        if !self.reason.is_empty() {
            put("reason", self.reason.as_str().into());
        }
        if let Some(details) = &self.details {
            put("details", details.to_value());
        }
        if self.code != 0 {
            put("code", self.code.into());
        }
        Value::Object(object)
    }

    /// The JSON on the wire, fields in Go's order.
    pub fn to_json(&self) -> Vec<u8> {
        let message = crate::schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.Status");
        let message = message.expect("invariant: the tables hold Status");
        let mut out = Vec::new();
        match crate::codec::encode_json(message, &self.to_value(), &mut out) {
            Ok(()) => out,
            Err(_) => self.to_value().to_string().into_bytes(),
        }
    }

    /// Reads a Status object; none when `value` is something else.
    pub fn from_value(value: &Value) -> Option<Self> {
        if value["kind"] != "Status" {
            return None;
        }
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        Some(Self {
            code: value["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or_default(),
            reason: text(&value["reason"]),
            message: text(&value["message"]),
            details: value["details"].is_object().then(|| Details::from_value(&value["details"])),
            success: value["status"] == "Success",
        })
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut object = Map::new();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                object.insert(key.into(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            object.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds != 0 {
            object.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(object)
    }

    fn from_value(value: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let cause = |v: &Value| Cause {
            reason: text(&v["reason"]),
            message: text(&v["message"]),
            field: text(&v["field"]),
        };
        Self {
            name: text(&value["name"]),
            group: text(&value["group"]),
            kind: text(&value["kind"]),
            uid: text(&value["uid"]),
            causes: value["causes"].as_array().map(|c| c.iter().map(cause).collect()).unwrap_or_default(),
            retry_after_seconds: value["retryAfterSeconds"].as_i64().unwrap_or_default() as i32,
        }
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut object = Map::new();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                object.insert(key.into(), text.as_str().into());
            }
        }
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;

    #[test]
    fn invalid_names_every_field() {
        let errors =
            [FieldError::required(&Path::new("spec"), ""), FieldError::required(&Path::new("kind"), "")];
        let status = Status::invalid("apps", "Deployment", "a", &errors);
        assert_eq!(
            status.message,
            "Deployment.apps \"a\" is invalid: [spec: Required value, kind: Required value]"
        );
        assert_eq!(status.details.unwrap().causes[1].field, "kind");
    }

    #[test]
    fn the_wire_form_reads_back() {
        let status = Status::conflict("", "pods", "a", "why").with_cause("R", "m", "f");
        assert_eq!(Status::from_value(&status.to_value()), Some(status));
        assert_eq!(Status::from_value(&json!({"kind": "Pod"})), None);
    }

    #[test]
    fn json_has_gos_order() {
        let text = String::from_utf8(Status::not_found("apps", "deployments", "a").to_json()).unwrap();
        assert_eq!(
            text,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"a\" not found","reason":"NotFound","details":{"name":"a","group":"apps","kind":"deployments"},"code":404}"#
        );
    }
}
