//! What is written of a request: `audit.k8s.io/v1 Event`, as JSON and as upstream's line of text. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api_types::field::quote;
use api_types::status::{Details, Status};
use api_types::{Value, codec, time};
use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::policy::{Level, Stage};
use crate::decode;
use crate::info::RequestInfo;
use crate::negotiate::{self, Format};
use crate::user::UserInfo;

/// Bytes of a user agent that are written (upstream's limit).
const MAX_AGENT: usize = 1024;
/// Says of an event that its bodies were left out because of its size.
const TRUNCATED: &str = "audit.k8s.io/truncated";

/// One event. The fields are in Go's order.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    #[serde(serialize_with = "level_name")]
    pub level: Level,
    #[serde(rename = "auditID")]
    pub audit_id: String,
    pub stage: &'static str,
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    pub verb: &'static str,
    pub user: User,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_metadata: Option<Authentication>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_object: Option<Box<RawValue>>,
    pub request_received_timestamp: Micros,
    pub stage_timestamp: Micros,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn level_name<S: Serializer>(level: &Level, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(level.name())
}

/// Microseconds since 1970, written as `metav1.MicroTime`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Micros(pub i64);

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (seconds, rest) = (self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000));
        serializer.serialize_str(&time::micro(seconds, u32::try_from(rest * 1000).unwrap_or_default()))
    }
}

/// `audit.k8s.io/v1 AuthenticationMetadata`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Authentication {
    pub impersonation_constraint: String,
}

/// `authentication.k8s.io/v1 UserInfo`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

impl From<&UserInfo> for User {
    fn from(user: &UserInfo) -> Self {
        Self {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        }
    }
}

/// The object that a request is about.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

impl ObjectRef {
    /// What the path says; none for what is no resource.
    pub fn of(info: &RequestInfo) -> Option<Self> {
        info.is_resource.then(|| Self {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..Self::default()
        })
    }

    /// What the path left open and the object that was sent says.
    fn fill(&mut self, object: &Value) {
        let metadata = &object["metadata"];
        let fields = [
            (&mut self.namespace, "namespace"),
            (&mut self.name, "name"),
            (&mut self.uid, "uid"),
            (&mut self.resource_version, "resourceVersion"),
        ];
        for (field, name) in fields {
            if let (true, Some(text)) = (field.is_empty(), metadata[name].as_str()) {
                text.clone_into(field);
            }
        }
    }
}

/// `responseStatus`: of successes the code only.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    metadata: Empty,
    #[serde(skip_serializing_if = "str::is_empty")]
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
    #[serde(skip_serializing_if = "is_zero")]
    code: u16,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Empty {}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

impl Outcome {
    /// Of an answer with this code, and this Status if it is one.
    pub fn of(code: u16, status: Option<&Status>) -> Self {
        let Some(status) = status else { return Self { code, ..Self::default() } };
        let details = status.details.as_ref().filter(|details| **details != Details::default());
        Self {
            status: if status.success { "Success" } else { "Failure" },
            message: status.message.clone(),
            reason: status.reason.clone(),
            details: details.map(|_| status.to_value()["details"].take()),
            code,
            metadata: Empty {},
        }
    }

    /// Of a request whose caller was gone before there was an answer.
    pub fn closed_early() -> Self {
        let message = "Connection closed early".to_owned();
        Self { status: "Success", message, code: 200, ..Self::default() }
    }

    /// Of a request that made the server panic.
    pub fn panicked() -> Self {
        Self {
            status: "Failure",
            message: "APIServer panic'd".to_owned(),
            reason: "InternalError".to_owned(),
            code: 500,
            ..Self::default()
        }
    }
}

impl Event {
    /// The fields of the event's JSON, without the brace that they begin with.
    fn fields(&self) -> Vec<u8> {
        // Strings, maps of strings and JSON that was read before: nothing that cannot be written.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        if !bytes.is_empty() {
            bytes.remove(0);
        }
        bytes
    }

    /// The event as an item of a list.
    pub fn item(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The event as an object of its own, in one line.
    pub fn json_line(&self) -> Vec<u8> {
        let mut line = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#.to_vec();
        line.extend_from_slice(&self.fields());
        line.push(b'\n');
        line
    }

    /// The event as upstream's `legacy` format has it, in one line.
    pub fn legacy_line(&self) -> Vec<u8> {
        let list = |texts: &[String]| texts.iter().map(|text| quote(text)).collect::<Vec<_>>().join(",");
        let (mut user, mut groups) = ("<none>", "<none>".to_owned());
        if !self.user.username.is_empty() {
            user = &self.user.username;
            if !self.user.groups.is_empty() {
                groups = list(&self.user.groups);
            }
        }
        let (mut acting, mut acting_groups) = ("<self>", "<lookup>".to_owned());
        if let Some(other) = &self.impersonated_user {
            acting = &other.username;
            if !other.groups.is_empty() {
                acting_groups = list(&other.groups);
            }
        }
        let namespace = self.object_ref.as_ref().map_or("", |object| object.namespace.as_str());
        let code = self.response_status.as_ref().map(|status| status.code.to_string());
        let line = format!(
            "{} AUDIT: id={} stage={} ip={} method={} user={} groups={} as={} asgroups={} user-agent={} namespace={} uri={} response=\"{}\"\n",
            nanos_text(self.request_received_timestamp),
            quote(&self.audit_id),
            quote(self.stage),
            quote(self.source_ips.first().map_or("<unknown>", String::as_str)),
            quote(self.verb),
            quote(user),
            quote(&groups),
            quote(acting),
            quote(&acting_groups),
            quote(&self.user_agent),
            quote(if namespace.is_empty() { "<none>" } else { namespace }),
            quote(&self.request_uri),
            code.as_deref().unwrap_or("<deferred>"),
        );
        line.into_bytes()
    }

    /// The event without bodies, marked so.
    pub fn truncated(&self) -> Self {
        let mut small = Self { request_object: None, response_object: None, ..self.clone() };
        small.annotations.insert(TRUNCATED.to_owned(), "true".to_owned());
        small
    }

    /// Takes over what was sent: what the object's metadata says, and the object itself if the level says so.
    pub fn take_request(&mut self, body: &Sent, omit_managed_fields: bool) {
        let wants_object = self.level >= Level::Request;
        if !wants_object && body.is_patch {
            return;
        }
        let whole = wants_object && (omit_managed_fields || body.format != Format::Json);
        let Some(object) = (if whole { body.read() } else { body.named() }) else { return };
        if let (false, Some(reference)) = (body.is_patch, &mut self.object_ref) {
            reference.fill(&object);
        }
        if wants_object {
            self.request_object =
                if whole { raw_of(object, omit_managed_fields) } else { one_line(&body.bytes) };
        }
    }

    /// Takes over an answer that is there as a whole.
    pub fn take_answer(&mut self, code: u16, answer: &Answered<'_>, omit_managed_fields: bool) {
        let object = if answer.may_be_status || omit_managed_fields { answer.read() } else { None };
        let status = object.as_ref().and_then(Status::from_value);
        let is_status = status.is_some();
        self.response_status = Some(Outcome::of(code, status.as_ref()));
        if self.level < Level::RequestResponse || !(answer.is_object || is_status) {
            return;
        }
        self.response_object = match (answer.format, omit_managed_fields) {
            (Some(Format::Json), false) => one_line(answer.bytes),
            _ => object.or_else(|| answer.read()).and_then(|object| raw_of(object, omit_managed_fields)),
        };
    }
}

/// A request's body.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    bytes: Bytes,
    format: Format,
    is_patch: bool,
    is_options: bool,
}

impl Sent {
    /// None of a request without a body, or with one that is not understood.
    pub fn of(bytes: &Bytes, headers: &HeaderMap, info: &RequestInfo) -> Option<Self> {
        let writes = matches!(info.verb, "create" | "update" | "patch" | "delete" | "deletecollection");
        if bytes.is_empty() || !info.is_resource || !writes {
            return None;
        }
        let header = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let header = header.unwrap_or_default();
        let is_patch = info.verb == "patch";
        let format = match (is_patch, negotiate::media_type(header).as_str()) {
            (true, crate::registry::APPLY_PATCH) => Format::Yaml,
            (true, _) => Format::Json,
            (false, _) => negotiate::content_type(header).ok()?,
        };
        let is_options = matches!(info.verb, "delete" | "deletecollection");
        Some(Self { bytes: bytes.clone(), format, is_patch, is_options })
    }

    fn read(&self) -> Option<Value> {
        match self.format {
            Format::Protobuf if self.is_options => decode::proto_options(&self.bytes).ok(),
            format => read(&self.bytes, format),
        }
    }

    /// The object's metadata, at least.
    fn named(&self) -> Option<Value> {
        #[derive(Deserialize, Serialize)]
        struct Named {
            #[serde(default)]
            metadata: Value,
        }
        match (self.format, self.is_patch) {
            // Patches need be no objects.
            (_, true) => Some(Value::Null),
            (Format::Json, false) => serde_json::from_slice::<Named>(&self.bytes)
                .ok()
                .and_then(|named| serde_json::to_value(named).ok()),
            (_, false) => self.read(),
        }
    }
}

/// An answer's body.
pub(crate) struct Answered<'a> {
    pub bytes: &'a [u8],
    /// None of what is no object.
    pub format: Option<Format>,
    /// Whether it may be a Status; then it is read to see.
    pub may_be_status: bool,
    /// Whether it is an object, a Status or not.
    pub is_object: bool,
}

impl Answered<'_> {
    fn read(&self) -> Option<Value> {
        read(self.bytes, self.format?)
    }
}

fn read(bytes: &[u8], format: Format) -> Option<Value> {
    match format {
        Format::Json => codec::decode_json(bytes).ok().map(|decoded| decoded.value),
        Format::Yaml => codec::decode_yaml(bytes).ok().map(|decoded| decoded.value),
        Format::Protobuf => codec::from_envelope(bytes).ok(),
    }
}

fn raw_of(mut object: Value, omit_managed_fields: bool) -> Option<Box<RawValue>> {
    if omit_managed_fields {
        drop_managed_fields(&mut object);
    }
    serde_json::value::to_raw_value(&object).ok()
}

/// Of an object, of the items of a list, of the objects of a table.
fn drop_managed_fields(object: &mut Value) {
    let of = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    of(object);
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        of(item);
    }
    for row in object.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(object) = row.get_mut("object") {
            of(object);
        }
    }
}

/// JSON in one line; none if it is no JSON.
fn one_line(bytes: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let text = match text.contains(['\n', '\r']) {
        true => without_blanks(text),
        false => text.to_owned(),
    };
    RawValue::from_string(text).ok()
}

/// Drops the blanks between JSON's words.
fn without_blanks(text: &str) -> String {
    let (mut out, mut within, mut escaped) = (String::with_capacity(text.len()), false, false);
    for c in text.chars() {
        if within {
            within = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c == '"' {
            within = true;
        } else if c.is_ascii_whitespace() {
            continue;
        }
        out.push(c);
    }
    out
}

/// Go's `RFC3339Nano`: no zeros at the end of the fraction.
fn nanos_text(at: Micros) -> String {
    let text = serde_json::to_value(at).unwrap_or_default();
    let text = text.as_str().unwrap_or_default().trim_end_matches('Z');
    format!("{}Z", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Where a request came from: the proxies that say so, then the peer. All but the last may be made up.
pub(crate) fn source_ips(headers: &HeaderMap, peer: IpAddr) -> Vec<String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parse = |text: &str| text.trim().parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let mut found: Vec<IpAddr> = header("x-forwarded-for").split(',').filter_map(parse).collect();
    if let Some(ip) = parse(header("x-real-ip")).filter(|ip| !found.contains(ip)) {
        found.push(ip);
    }
    let peer = peer.to_canonical();
    if found.last() != Some(&peer) {
        found.push(peer);
    }
    found.iter().map(IpAddr::to_string).collect()
}

/// The caller's program, as far as it is written.
pub(crate) fn user_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    let agent = agent.unwrap_or_default();
    match agent.get(..MAX_AGENT) {
        Some(start) if agent.len() > MAX_AGENT => format!("{start}...TRUNCATED"),
        _ => agent.to_owned(),
    }
}

/// Names an event's stage.
pub(crate) fn at(mut event: Event, stage: Stage, now: Micros) -> Event {
    event.stage = stage.name();
    event.stage_timestamp = match stage {
        Stage::RequestReceived => event.request_received_timestamp,
        _ => now,
    };
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use serde_json::json;

    fn event() -> Event {
        let user = UserInfo::new("jane", &["devs"]);
        Event {
            level: Level::RequestResponse,
            audit_id: "id".into(),
            request_uri: "/api/v1/namespaces/n/pods".into(),
            verb: "create",
            user: User::from(&user),
            source_ips: vec!["127.0.0.1".into()],
            user_agent: "kubectl".into(),
            object_ref: Some(ObjectRef {
                resource: "pods".into(),
                namespace: "n".into(),
                api_version: "v1".into(),
                ..ObjectRef::default()
            }),
            request_received_timestamp: Micros(1_700_000_000_120_000),
            ..Event::default()
        }
    }

    fn text(line: Vec<u8>) -> String {
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn json_is_gos() {
        let received = at(event(), Stage::RequestReceived, Micros(0));
        assert_eq!(
            text(received.json_line()),
            concat!(
                r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"id","#,
                r#""stage":"RequestReceived","requestURI":"/api/v1/namespaces/n/pods","verb":"create","#,
                r#""user":{"username":"jane","groups":["devs","system:authenticated"]},"sourceIPs":["127.0.0.1"],"#,
                r#""userAgent":"kubectl","objectRef":{"resource":"pods","namespace":"n","apiVersion":"v1"},"#,
                r#""requestReceivedTimestamp":"2023-11-14T22:13:20.120000Z","#,
                r#""stageTimestamp":"2023-11-14T22:13:20.120000Z"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn the_legacy_line_is_upstreams() {
        let mut event = at(event(), Stage::ResponseComplete, Micros(0));
        event.response_status = Some(Outcome::of(201, None));
        assert_eq!(
            text(event.legacy_line()),
            "2023-11-14T22:13:20.12Z AUDIT: id=\"id\" stage=\"ResponseComplete\" ip=\"127.0.0.1\" method=\"create\" user=\"jane\" groups=\"\\\"devs\\\",\\\"system:authenticated\\\"\" as=\"<self>\" asgroups=\"<lookup>\" user-agent=\"kubectl\" namespace=\"n\" uri=\"/api/v1/namespaces/n/pods\" response=\"201\"\n"
        );
        let empty = text(Event::default().legacy_line());
        assert!(empty.contains("ip=\"<unknown>\" method=\"\" user=\"<none>\" groups=\"<none>\""), "{empty}");
        assert!(empty.ends_with("namespace=\"<none>\" uri=\"\" response=\"<deferred>\"\n"), "{empty}");
    }

    fn sent(verb: &'static str, content_type: &'static str, body: &'static str) -> Sent {
        let headers =
            HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        let info = RequestInfo { is_resource: true, verb, ..RequestInfo::default() };
        Sent::of(&Bytes::from_static(body.as_bytes()), &headers, &info).unwrap()
    }

    #[test]
    fn what_was_sent_is_written_in_one_line_and_names_the_object() {
        let body = "{\n  \"metadata\": {\"name\": \"p\", \"uid\": \"u\"},\n  \"x\": \"a \\\" \\n b\"\n}\n";
        let mut event = event();
        event.take_request(&sent("create", "application/json", body), false);
        let json: Value = serde_json::from_slice(&event.item()).unwrap();
        assert_eq!(event.item().iter().filter(|byte| **byte == b'\n').count(), 0);
        assert_eq!(json["requestObject"]["x"], "a \" \n b");
        assert_eq!((&json["objectRef"]["name"], &json["objectRef"]["uid"]), (&json!("p"), &json!("u")));
    }

    #[test]
    fn a_level_of_metadata_keeps_bodies_out() {
        let mut event = Event { level: Level::Metadata, ..event() };
        event.take_request(
            &sent("create", "application/yaml", "metadata: {name: p}\ndata: {secret: x}"),
            false,
        );
        let answer = Answered {
            bytes: br#"{"kind":"Status","status":"Failure","message":"m","reason":"NotFound","code":404}"#,
            format: Some(Format::Json),
            may_be_status: true,
            is_object: true,
        };
        event.take_answer(404, &answer, false);
        let json: Value = serde_json::from_slice(&event.item()).unwrap();
        assert_eq!(json["objectRef"]["name"], "p");
        assert!(json["requestObject"].is_null() && json["responseObject"].is_null());
        let expected =
            json!({"metadata": {}, "status": "Failure", "message": "m", "reason": "NotFound", "code": 404});
        assert_eq!(json["responseStatus"], expected);
    }

    #[test]
    fn patches_are_written_as_json_and_name_nothing() {
        let mut event = event();
        event.take_request(&sent("patch", "application/apply-patch+yaml", "metadata: {uid: u}"), false);
        let json: Value = serde_json::from_slice(&event.item()).unwrap();
        assert_eq!(json["requestObject"], json!({"metadata": {"uid": "u"}}));
        assert!(json["objectRef"]["uid"].is_null());
    }

    #[test]
    fn managed_fields_are_left_out() {
        let list =
            r#"{"kind":"List","items":[{"metadata":{"name":"a","managedFields":[{}]}}],"metadata":{}}"#;
        let table =
            r#"{"kind":"Table","rows":[{"object":{"metadata":{"managedFields":[{}]}}},{"object":null}]}"#;
        for text in [list, table] {
            let answer = Answered {
                bytes: text.as_bytes(),
                format: Some(Format::Json),
                may_be_status: false,
                is_object: true,
            };
            let mut event = event();
            event.take_answer(200, &answer, true);
            assert!(!event.response_object.unwrap().get().contains("managedFields"));
            let mut event = super::tests::event();
            event.take_answer(200, &answer, false);
            assert_eq!(event.response_object.unwrap().get(), text);
        }
    }

    #[test]
    fn a_large_event_loses_its_bodies() {
        let mut event = event();
        event.take_request(&sent("create", "application/json", "{\"a\":1}"), false);
        let small = event.truncated();
        assert!(small.request_object.is_none() && small.annotations[TRUNCATED] == "true");
    }

    #[test]
    fn addresses_come_from_proxies_and_the_peer() {
        let peer: IpAddr = "::ffff:10.0.0.9".parse().unwrap();
        let headers = |list: &[(&'static str, &'static str)]| -> HeaderMap {
            list.iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect()
        };
        assert_eq!(source_ips(&HeaderMap::new(), peer), ["10.0.0.9"]);
        let proxied = headers(&[("x-forwarded-for", "1.1.1.1, x, 2.2.2.2"), ("x-real-ip", "1.1.1.1")]);
        assert_eq!(source_ips(&proxied, peer), ["1.1.1.1", "2.2.2.2", "10.0.0.9"]);
        let same = headers(&[("x-forwarded-for", "10.0.0.9"), ("x-real-ip", "3.3.3.3")]);
        assert_eq!(source_ips(&same, peer), ["10.0.0.9", "3.3.3.3", "10.0.0.9"]);
    }

    #[test]
    fn a_long_agent_is_cut() {
        let agent = "a".repeat(MAX_AGENT + 1);
        let headers =
            HeaderMap::from_iter([(http::header::USER_AGENT, HeaderValue::from_str(&agent).unwrap())]);
        assert_eq!(user_agent(&headers), format!("{}...TRUNCATED", "a".repeat(MAX_AGENT)));
    }
}
