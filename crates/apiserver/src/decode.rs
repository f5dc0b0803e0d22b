//! Request bodies as trees, with upstream's words for what is wrong with them.

use api_types::codec::Decoded;
use api_types::field::{FieldError, Path};
use api_types::schema::{self, DocumentReport, MessageId};
use api_types::status::Status;
use api_types::{Subresource, Value, codec, meta};
use bytes::Bytes;

use crate::call::{Call, FieldValidation};
use crate::catalog::{CustomKind, Kind};
use crate::info::Query;
use crate::negotiate::{self, Format};

/// Characters of an unreadable body that its error shows.
const SUMMARY: usize = 30;

/// What is known of a body's fields.
#[derive(Clone, Copy)]
pub(crate) enum Form<'a> {
    Message(MessageId),
    Custom(&'a CustomKind),
}

/// The kind that a body must have.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub form: Form<'a>,
    pub api_version: &'a str,
    pub kind: &'a str,
}

impl<'a> Expected<'a> {
    /// An object of a kind; `api_version` is the kind's.
    pub fn of(kind: &'a Kind, api_version: &'a str) -> Self {
        let form = match kind {
            Kind::BuiltIn(resource) => Form::Message(resource.built_in_message()),
            Kind::Custom(custom) => Form::Custom(custom),
        };
        Self { form, api_version, kind: &kind.kind }
    }

    /// The body of a subresource of its own kind; `api_version` is that kind's.
    pub fn sub(sub: &'a Subresource, api_version: &'a str) -> Self {
        Self { form: Form::Message(sub.built_in_message()), api_version, kind: &sub.kind }
    }
}

/// Fields of the metadata of every object.
fn object_meta() -> MessageId {
    schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
        .expect("invariant: the tables hold ObjectMeta")
}

/// Decodes a body of the request's content type.
pub(crate) fn body(call: &Call, expected: Expected<'_>) -> Result<Value, Status> {
    let format = negotiate::content_type(call.header(http::header::CONTENT_TYPE))?;
    let mut decoded = match format {
        Format::Json => codec::decode_json(&call.body)
            .map_err(|error| unrecognized(&call.body, expected.kind, &json_error(&error.to_string())))?,
        Format::Yaml => codec::decode_yaml(&call.body)
            .map_err(|error| unrecognized(&call.body, expected.kind, &json_error(&error.to_string())))?,
        Format::Protobuf => match expected.form {
            Form::Message(message) => {
                Decoded { value: protobuf(&call.body, message, expected)?, duplicates: Vec::new() }
            }
            Form::Custom(_) => return Err(Status::unsupported_media(&[negotiate::JSON, negotiate::YAML])),
        },
    };
    settle_kind(&mut decoded.value, &call.body, expected)?;
    match expected.form {
        Form::Message(message) => {
            let report = schema::check_document(message, &decoded, &call.body);
            let mut value = decoded.value;
            judge(call, report).map_err(|why| cannot_handle(&value, expected, &why))?;
            codec::normalize_in_place(message, &mut value)
                .map_err(|error| cannot_handle(&value, expected, &error.to_string()))?;
            Ok(value)
        }
        Form::Custom(kind) => {
            let refuse = |value: &Value, why: &str| cannot_handle(value, expected, why);
            custom(call, decoded.value, &decoded.duplicates, kind, &refuse)
        }
    }
}

/// A custom object: what its schema does not name is dropped, its metadata has the form that all metadata has.
fn custom(
    call: &Call,
    mut value: Value,
    duplicates: &[String],
    kind: &CustomKind,
    refuse: &dyn Fn(&Value, &str) -> Status,
) -> Result<Value, Status> {
    let mut strict: Vec<String> = duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
    let gone = kind.rules.schema().prune(&mut value);
    strict.extend(gone.iter().map(|path| format!("unknown field {path:?}")));
    let metadata = value.get("metadata").filter(|metadata| !metadata.is_null()).cloned();
    let mut type_errors = Vec::new();
    if let Some(metadata) = &metadata {
        let wrong = schema::check(object_meta(), metadata).type_errors;
        type_errors.extend(wrong);
    }
    judge(call, DocumentReport { strict_errors: strict, type_errors }).map_err(|why| refuse(&value, &why))?;
    let metadata = match metadata {
        Some(metadata) => {
            codec::normalize(object_meta(), &metadata).map_err(|error| refuse(&value, &error.to_string()))?
        }
        None => Value::Object(serde_json::Map::new()),
    };
    if let Some(object) = value.as_object_mut() {
        object.insert("metadata".into(), metadata);
    }
    Ok(value)
}

/// Checks the repeated keys of an applied configuration. What does not fit its schema the merge refuses.
pub(crate) fn settle_applied(call: &Call, decoded: &Decoded) -> Result<(), Status> {
    if decoded.duplicates.is_empty() {
        return Ok(());
    }
    let repeated: Vec<String> = decoded.duplicates.iter().map(|path| already_set(&call.body, path)).collect();
    let text = format!("error converting YAML to JSON: yaml: unmarshal errors:\n{}", repeated.join("\n"));
    match call.field_validation() {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => call.warn(text),
        FieldValidation::Strict => {
            return Err(Status::bad_request(format!("error strict decoding YAML: {text}")));
        }
    }
    Ok(())
}

/// A repeated key in the words of Go's YAML: with the line that repeats it.
fn already_set(body: &[u8], path: &str) -> String {
    let key = path.rsplit('.').next().unwrap_or(path);
    let text = String::from_utf8_lossy(body);
    let has_key = |line: &str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.starts_with(':'));
    let indent = |line: &str| line.len() - line.trim_start().len();
    let found: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, line)| has_key(line)).map(|(at, line)| (at + 1, line)).collect();
    let second = found.windows(2).find(|pair| indent(pair[0].1) == indent(pair[1].1)).map(|pair| pair[1].0);
    format!("  line {}: key {key:?} already set in map", second.unwrap_or(1))
}

fn json_error(text: &str) -> String {
    format!("couldn't get version/kind; json parse error: {text}")
}

fn protobuf(bytes: &Bytes, message: MessageId, expected: Expected<'_>) -> Result<Value, Status> {
    let failed = |error: codec::CodecError| unrecognized(bytes, expected.kind, &error.to_string());
    let unknown = codec::unwrap_unknown(bytes).map_err(failed)?;
    if unknown.kind.is_empty() {
        let mut value = codec::from_proto(message, unknown.raw).map_err(failed)?;
        meta::set_kind(&mut value, expected.api_version, expected.kind);
        return Ok(value);
    }
    codec::from_envelope(bytes).map_err(failed)
}

/// What Go says of a body that is no object.
fn not_an_object(value: &Value) -> Option<String> {
    let text = format!(
        r#"json: cannot unmarshal {} into Go value of type struct {{ APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }}"#,
        json_type(value)
    );
    (!value.is_object()).then(|| json_error(&text))
}

/// Upstream's words for a kind that it does not know.
fn not_registered(api_version: &str, kind: &str) -> String {
    format!(
        "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:111\""
    )
}

/// Why a kind is not the expected one, of a body that names it; none when it is.
fn wrong_kind(value: &Value, expected: Expected<'_>) -> Option<String> {
    let or = |found: &str, expected: &str| if found.is_empty() { expected } else { found }.to_owned();
    let api_version = or(meta::api_version(value), expected.api_version);
    let kind = or(meta::kind(value), expected.kind);
    if api_version == expected.api_version && kind == expected.kind {
        return None;
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
    let is_list =
        kind.strip_suffix("List").is_some_and(|item| schema::lookup(group, version, item).is_some());
    if schema::lookup(group, version, &kind).is_none()
        && !is_list
        && (api_version.as_str(), kind.as_str()) != ("v1", "List")
    {
        return Some(not_registered(&api_version, &kind));
    }
    let internal = expected
        .api_version
        .rsplit_once('/')
        .map_or("core", |(group, _)| group.split('.').next().unwrap_or_default());
    Some(format!("converting ({version}.{kind}) to ({internal}.{}): unknown conversion", expected.kind))
}

/// Fills in a kind that is left out; another one is refused.
fn settle_kind(value: &mut Value, bytes: &[u8], expected: Expected<'_>) -> Result<(), Status> {
    let is_custom = matches!(expected.form, Form::Custom(_));
    if value.is_null() && !is_custom {
        *value = Value::Object(serde_json::Map::new());
    }
    if let (Some(fault), false) = (not_an_object(value), value.is_null()) {
        return Err(unrecognized(bytes, expected.kind, &fault));
    }
    let (found, kind) = (meta::api_version(value).to_owned(), meta::kind(value).to_owned());
    if is_custom && kind.is_empty() {
        let text = String::from_utf8_lossy(bytes);
        return Err(unrecognized(bytes, expected.kind, &format!("Object 'Kind' is missing in '{text}'")));
    }
    let group = |api_version: &str| api_version.rsplit_once('/').map(|(group, _)| group.to_owned());
    let is_other_version = kind == expected.kind && group(&found) == group(expected.api_version);
    let is_known = |api_version: &str| schema::lookup_api_version(api_version, &kind).is_some();
    if !found.is_empty()
        && found != expected.api_version
        && (is_custom || is_other_version && is_known(&found))
    {
        let message = format!(
            "the API version in the data ({found}) does not match the expected API version ({})",
            expected.api_version
        );
        return Err(Status::bad_request(message));
    }
    if is_custom && kind != expected.kind {
        let path = Path::new("kind");
        let error = FieldError::invalid(&path, kind.as_str(), format!("must be {}", expected.kind));
        let group = group(expected.api_version).unwrap_or_default();
        return Err(Status::invalid(&group, &kind, meta::name(value), &[error]));
    }
    if let Some(why) = wrong_kind(value, expected) {
        let api_version = if found.is_empty() { expected.api_version } else { &found };
        let version = api_version.rsplit_once('/').map_or(api_version, |(_, version)| version);
        let kind = if kind.is_empty() { expected.kind } else { &kind };
        return Err(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: {why}",
            expected.kind
        )));
    }
    meta::set_kind(value, expected.api_version, expected.kind);
    Ok(())
}

/// Its type in the words of Go's decoder.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks a tree that no document stands behind (the outcome of a patch), and brings it into its form. What is as it was
/// before is in its form. `strategic`: the patch, if it was a strategic one, which does not touch the kind.
///
/// # Errors
/// 422 that shows the outcome, or the strategic patch.
pub(crate) fn settle(
    call: &Call,
    mut value: Value,
    before: &Value,
    expected: Expected<'_>,
    strategic: Option<&Value>,
) -> Result<Value, Status> {
    let refuse = |value: &Value, why: &str| {
        let shown = strategic.map_or_else(|| value.to_string(), api_rules::patch::go_text);
        let error = FieldError::invalid(&Path::new("patch"), shown, why);
        Status::invalid("", "", "", &[error])
    };
    let message = match expected.form {
        Form::Message(message) => message,
        Form::Custom(kind) => return custom(call, value, &[], kind, &refuse),
    };
    match strategic {
        Some(_) => meta::set_kind(&mut value, expected.api_version, expected.kind),
        None => wrong_kind(&value, expected).map_or(Ok(()), |why| Err(refuse(&value, &why)))?,
    }
    let kept = take_same(&mut value, before);
    let refuse = |value: &Value, why: &str| refuse(&put_back(value.clone(), kept.clone()), why);
    let report = schema::check(message, &value);
    let strict = report.unknown_fields.iter().map(|path| format!("unknown field {path:?}"));
    let report = DocumentReport { strict_errors: strict.collect(), type_errors: report.type_errors };
    judge(call, report).map_err(|why| refuse(&value, &why))?;
    schema::prune_unknown(message, &mut value);
    let settled = codec::normalize(message, &value).map_err(|error| refuse(&value, &error.to_string()))?;
    Ok(put_back(settled, kept))
}

fn put_back(mut value: Value, kept: Vec<(String, Value)>) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.extend(kept);
    }
    value
}

/// Takes the structs at the top that are the same as before.
fn take_same(value: &mut Value, before: &Value) -> Vec<(String, Value)> {
    let Some(fields) = value.as_object_mut() else { return Vec::new() };
    let is_same = |(key, field): &(&String, &Value)| field.is_object() && before.get(*key) == Some(*field);
    let same: Vec<String> = fields.iter().filter(is_same).map(|(key, _)| key.clone()).collect();
    same.into_iter().filter_map(|key| fields.remove_entry(&key)).collect()
}

/// Values of the wrong type are refused; unknown and repeated fields as `fieldValidation` says.
fn judge(call: &Call, report: DocumentReport) -> Result<(), String> {
    if let Some(error) = report.type_errors.first() {
        return Err(error.clone());
    }
    let strict = report.strict_errors;
    match call.field_validation() {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => strict.into_iter().for_each(|text| call.warn(text)),
        FieldValidation::Strict if strict.is_empty() => {}
        FieldValidation::Strict => return Err(format!("strict decoding error: {}", strict.join(", "))),
    }
    Ok(())
}

fn cannot_handle(value: &Value, expected: Expected<'_>, why: &str) -> Status {
    let (_, version) = meta::group_version(value);
    Status::bad_request(format!(
        "{} in version \"{version}\" cannot be handled as a {}: {why}",
        meta::kind(value),
        expected.kind
    ))
}

fn unrecognized(bytes: &[u8], kind: &str, why: &str) -> Status {
    let summary = summarize(bytes);
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {why} ({summary})"
    ))
}

fn summarize(bytes: &[u8]) -> String {
    let (shown, rest) = bytes.split_at(bytes.len().min(SUMMARY));
    let more = if rest.is_empty() { "" } else { " ..." };
    match shown.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => {
            let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// The options of a deletion: the body, or without one the query.
pub(crate) fn delete_options(call: &Call) -> Result<Value, Status> {
    if call.body.is_empty() {
        return queried_delete_options(&call.query);
    }
    let decoded = match negotiate::content_type(call.header(http::header::CONTENT_TYPE))? {
        Format::Json => codec::decode_json(&call.body).map(|decoded| decoded.value),
        Format::Yaml => codec::decode_yaml(&call.body).map(|decoded| decoded.value),
        Format::Protobuf => return proto_options(&call.body),
    };
    let options = decoded.map_err(|error| Status::bad_request(json_error(&error.to_string())))?;
    if options.is_null() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    if let Some(fault) = not_an_object(&options) {
        return Err(Status::bad_request(fault));
    }
    let (version, kind) = (meta::api_version(&options), meta::kind(&options));
    if !matches!(kind, "" | "DeleteOptions") {
        return Err(Status::bad_request(not_registered(version, kind)));
    }
    match schema::check(delete_options_message(), &options).type_errors.first() {
        Some(error) => Err(Status::bad_request(error.clone())),
        None => Ok(options),
    }
}

fn delete_options_message() -> MessageId {
    schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
        .expect("invariant: the tables hold DeleteOptions")
}

fn queried_delete_options(query: &Query) -> Result<Value, Status> {
    let mut options = serde_json::Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            options.insert(name.to_owned(), value);
        }
    };
    set("gracePeriodSeconds", query.number("gracePeriodSeconds")?.map(Value::from));
    set("orphanDependents", query.switch("orphanDependents").map(Value::from));
    let policy = query.has("propagationPolicy").then(|| query.get("propagationPolicy"));
    let unreadable = "ignoreStoreReadErrorWithClusterBreakingPotential";
    set(unreadable, query.switch(unreadable).map(Value::from));
    set("propagationPolicy", policy.map(Value::from));
    set("dryRun", query.has("dryRun").then(|| query.all("dryRun").map(Value::from).collect()));
    let preconditions: serde_json::Map<String, Value> = ["uid", "resourceVersion"]
        .into_iter()
        .filter(|name| !query.get(name).is_empty())
        .map(|name| (name.to_owned(), Value::from(query.get(name))))
        .collect();
    set("preconditions", (!preconditions.is_empty()).then_some(Value::Object(preconditions)));
    Ok(Value::Object(options))
}

/// The options of a deletion in protobuf, whose kind is that of any group.
pub(crate) fn proto_options(bytes: &Bytes) -> Result<Value, Status> {
    let message = delete_options_message();
    let failed = |error: codec::CodecError| Status::bad_request(error.to_string());
    let unknown = codec::unwrap_unknown(bytes).map_err(failed)?;
    codec::from_proto(message, unknown.raw).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::table;
    use http::{HeaderMap, Method};

    fn decode(query: &str, text: &str) -> Result<Value, Status> {
        let resource = table::find("apps", "v1", "deployments").unwrap();
        let call = Call::new(
            Method::POST,
            Default::default(),
            crate::info::Query::parse(query),
            HeaderMap::new(),
            Default::default(),
            Bytes::copy_from_slice(text.as_bytes()),
        );
        body(&call, Expected::of(&Kind::from(resource), "apps/v1"))
    }

    #[test]
    fn a_broken_body_is_shown() {
        let status = decode("", "{\"apiVersion\":\"v1\",").unwrap_err();
        assert_eq!(status.code, 400);
        assert!(status.message.starts_with("the object provided is unrecognized (must be of type Deployment): couldn't get version/kind; json parse error: "), "{status}");
        assert!(status.message.ends_with("({\"apiVersion\":\"v1\",)"), "{status}");
    }

    #[test]
    fn unknown_fields_are_strict_errors() {
        let text = r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replcas":1}}"#;
        let status = decode("fieldValidation=Strict", text).unwrap_err();
        assert_eq!(
            status.message,
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.replcas\""
        );
        assert!(decode("", text).unwrap()["spec"].get("replcas").is_none());
    }

    #[test]
    fn another_version_is_refused() {
        let status = decode("", r#"{"apiVersion":"v1","kind":"Deployment"}"#).unwrap_err();
        assert_eq!(
            status.message,
            "Deployment in version \"v1\" cannot be handled as a Deployment: no kind \"Deployment\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\""
        );
        let status = decode("", r#"{"apiVersion":"v1","kind":"Pod"}"#).unwrap_err();
        assert_eq!(
            status.message,
            "Pod in version \"v1\" cannot be handled as a Deployment: converting (v1.Pod) to (apps.Deployment): unknown conversion"
        );
        assert_eq!(decode("", "{}").unwrap()["kind"], "Deployment");
    }
}
