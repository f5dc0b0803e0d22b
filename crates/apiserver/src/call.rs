//! One request on its way through the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api_types::Value;
use api_types::status::Status;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, header};
use mvcc::KeyValue;
use parking_lot::Mutex;

use crate::audit::{Level, Trail};
use crate::body::{self, Body};
use crate::catalog::Kind;
use crate::encode::{Include, Writer};
use crate::flow::Held;
use crate::info::{Query, RequestInfo};
use crate::negotiate::{self, Format, Media, Shape};
use crate::storage::Fence;
use crate::user::UserInfo;
use crate::wire::Wire;

/// Carries the condition of [`Fence`].
pub const FENCE_HEADER: &str = "trierarch-fence";
/// Warnings that one answer carries, at most.
const MAX_WARNINGS: usize = 100;
/// Characters that all warnings of an answer may have as they are; if they have more, each is cut, and those that come
/// after so many are left out (upstream: `apiserver/pkg/endpoints/filters/warning.go`).
const ALL_WARNINGS: usize = 4096;
/// Characters that are left of each then.
const CUT_WARNING: usize = 256;

/// A request: what it asks, who asks, its body.
pub(crate) struct Call {
    pub method: Method,
    pub info: RequestInfo,
    pub query: Query,
    pub headers: HeaderMap,
    pub user: UserInfo,
    pub body: Bytes,
    /// What tells it from all others.
    pub audit_id: String,
    /// What is written of it, if it is audited.
    pub trail: Option<Arc<Trail>>,
    /// The connection that it came by.
    pub wire: Wire,
    /// What the answer is to hold until it is sent.
    pub held: Mutex<Held>,
    warnings: Mutex<Vec<String>>,
    /// Nanoseconds that were spent waiting for webhooks.
    waited: AtomicU64,
}

/// What happens to fields that a kind does not have (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

impl Call {
    pub fn new(
        method: Method,
        info: RequestInfo,
        query: Query,
        headers: HeaderMap,
        user: UserInfo,
        body: Bytes,
    ) -> Self {
        Self {
            method,
            info,
            query,
            headers,
            user,
            body,
            audit_id: String::new(),
            trail: None,
            wire: Wire::default(),
            held: Mutex::default(),
            warnings: Mutex::default(),
            waited: AtomicU64::new(0),
        }
    }

    /// A request of the server itself.
    pub fn internal() -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static("kube-apiserver"));
        Self::new(
            Method::POST,
            RequestInfo::default(),
            Query::default(),
            headers,
            UserInfo::loopback(),
            Bytes::new(),
        )
    }

    /// A header's text; empty when it is not there.
    pub fn header(&self, name: impl header::AsHeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The form of the answer. `shapes`: whether tables and bare metadata are offered.
    pub fn media(&self, shapes: bool) -> Result<Media, Status> {
        let mut media = negotiate::accept(self.header(header::ACCEPT), shapes)?;
        let agent = self.header(header::USER_AGENT);
        let browser = ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| agent.starts_with(name));
        media.pretty |= match self.query.has("pretty") {
            true => self.query.flag("pretty"),
            false => browser,
        };
        Ok(media)
    }

    /// The form of an answer with objects. Custom objects have no protobuf: the client's next choice counts.
    fn media_of(&self, resource: &Kind) -> Result<Media, Status> {
        let media = self.media(true)?;
        if resource.message.is_some() || media.format != Format::Protobuf || media.shape == Shape::Metadata {
            return Ok(media);
        }
        let accept = self.header(header::ACCEPT).split(',');
        let others: Vec<&str> =
            accept.filter(|clause| negotiate::media_type(clause) != negotiate::PROTOBUF).collect();
        if others.is_empty() {
            return Err(Status::not_acceptable(&[negotiate::JSON, negotiate::YAML]));
        }
        let second = negotiate::accept(&others.join(","), true)?;
        Ok(Media { pretty: media.pretty || second.pretty, ..second })
    }

    /// How objects of a resource are written.
    pub fn writer(&self, resource: &Kind, now: i64) -> Result<Writer, Status> {
        let include = Include::parse(self.query.get("includeObject"))?;
        let media = self.media_of(resource)?;
        Ok(Writer { resource: resource.clone(), media, include, now })
    }

    pub fn fence(&self) -> Result<Option<Fence>, Status> {
        match self.header(FENCE_HEADER) {
            "" => Ok(None),
            text => Fence::parse(text)
                .map(Some)
                .ok_or_else(|| Status::bad_request(format!("malformed {FENCE_HEADER} header: {text:?}"))),
        }
    }

    /// What happens to unknown fields; [`crate::options::of_write`] has refused what is not known.
    pub fn field_validation(&self) -> FieldValidation {
        FieldValidation::parse(self.query.get("fieldValidation")).unwrap_or(FieldValidation::Warn)
    }

    /// Whether this is a server-side apply.
    pub fn is_apply(&self) -> bool {
        self.method == Method::PATCH
            && negotiate::media_type(self.header(header::CONTENT_TYPE)) == crate::registry::APPLY_PATCH
    }

    /// Adds a `Warning` header to the answer.
    pub fn warn(&self, text: impl Into<String>) {
        let (text, mut warnings) = (text.into(), self.warnings.lock());
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Notes something for the audit log.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        if let Some(trail) = &self.trail {
            trail.annotate(key.into(), value.into());
        }
    }

    /// How much of the request is audited.
    pub fn audit_level(&self) -> Level {
        self.trail.as_ref().map_or(Level::None, |trail| trail.level())
    }

    /// A part of the request's way is behind it: the audit log tells of slow ones.
    pub fn lap(&self, part: &'static str) {
        if let Some(trail) = &self.trail {
            trail.lap(part);
        }
    }

    /// The request waited for a webhook.
    pub fn wait(&self, waited: Duration) {
        let nanoseconds = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// How long it waited for webhooks.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// Puts the warnings into an answer.
    pub fn finish(&self, response: &mut Response<Body>) {
        for text in shown(&self.warnings.lock()) {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
            if let Ok(value) = header::HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
    }

    /// An answer with one stored object.
    pub fn object(
        &self,
        resource: &Kind,
        now: i64,
        code: u16,
        kv: &KeyValue,
    ) -> Result<Response<Body>, Status> {
        let writer = self.writer(resource, now)?;
        Ok(body::response(code, writer.content_type(), writer.object(kv)?))
    }

    /// An answer with an object that is not stored.
    pub fn value(
        &self,
        code: u16,
        message: api_types::MessageId,
        value: &Value,
    ) -> Result<Response<Body>, Status> {
        let media = self.media(false)?;
        let bytes = crate::encode::value(message, media, value)?;
        Ok(body::response(code, media.format.media_type(), bytes))
    }

    /// An answer that reports a failure, or the end of a deletion.
    pub fn status(&self, status: &Status) -> Response<Body> {
        let media = self.media(false).unwrap_or(Media::JSON);
        status_response(status, media)
    }
}

/// What of the warnings is told.
fn shown(all: &[String]) -> Vec<&str> {
    let mut sizes = all.iter().scan(0, |sum, text| {
        *sum += text.chars().count();
        Some(*sum)
    });
    let Some(over) = sizes.position(|sum| sum > ALL_WARNINGS) else {
        return all.iter().map(String::as_str).collect();
    };
    let cut = |text: &'_ str| text.char_indices().nth(CUT_WARNING).map_or(text.len(), |(at, _)| at);
    let (mut written, mut shown) = (0, Vec::new());
    for (index, text) in all.iter().enumerate() {
        if index > over && written >= ALL_WARNINGS {
            break;
        }
        let text = &text[..cut(text)];
        written += text.chars().count();
        shown.push(text);
    }
    shown
}

/// A Status as an answer.
pub(crate) fn status_response(status: &Status, media: Media) -> Response<Body> {
    let message = api_types::schema::lookup("", "v1", "Status")
        .or_else(|| api_types::schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.Status"));
    let encoded = message.and_then(|message| crate::encode::value(message, media, &status.to_value()).ok());
    let code = if status.code == 0 { 200 } else { status.code };
    let mut response = match encoded {
        Some(bytes) => body::response(code, media.format.media_type(), bytes),
        None => body::response(code, negotiate::JSON, status.to_json()),
    };
    let retry = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if retry > 0 {
        body::set_header(&mut response, header::RETRY_AFTER, &retry.to_string());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_cut_when_they_are_too_long_together() {
        let short = vec!["a".repeat(2000), "b".repeat(2096)];
        assert_eq!(shown(&short), short);
        let long = vec!["ü".repeat(1 << 20), "b".to_owned()];
        assert_eq!(shown(&long), ["ü".repeat(256), "b".to_owned()]);
        let many: Vec<String> = (0..100).map(|number| format!("{number:0300}")).collect();
        assert_eq!(shown(&many).len(), 16);
        assert!(shown(&many).iter().all(|text| text.len() == 256));
    }
}
