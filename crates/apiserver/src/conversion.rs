//! Objects of definitions with several versions, converted by the webhook that their definition names. Reading becomes
//! two steps where that is so: the stored objects are brought to the version of the request, which may take a call,
//! and then read as those of every other kind (upstream: `apiextensions-apiserver/pkg/apiserver/conversion`).

use std::borrow::Cow;
use std::time::Duration;

use api_rules::look::Look;
use api_types::codec::{self, peek};
use api_types::status::Status;
use api_types::{Value, meta};
use bytes::Bytes;
use http::Response;
use metrics::{counter, histogram};
use mvcc::KeyValue;
use serde_json::json;

use crate::api::Api;
use crate::body::Body;
use crate::call::Call;
use crate::catalog::{CustomKind, Kind};
use crate::convert;
use crate::registry::Target;
use crate::select::Selection;
use crate::webhook::Client;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer, at most.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Stored bytes of the objects of one call, beyond which the others go with the next.
const CALL_BYTES: usize = 4 << 20;

/// What is wrong with an answer.
struct Fault {
    /// As upstream counts it.
    kind: &'static str,
    text: String,
}

/// The webhook of a definition.
pub(crate) struct Converter {
    client: Client,
    /// Version of the reviews: `v1` or `v1beta1`; none if the webhook knows neither.
    version: Option<&'static str>,
    kind: String,
    /// Name of the definition.
    definition: String,
}

impl Converter {
    /// Of a definition whose strategy is `Webhook`.
    pub fn of(definition: &Value) -> Option<Self> {
        let conversion = definition.at("spec.conversion");
        if conversion.text("strategy") != "Webhook" {
            return None;
        }
        let versions = conversion.items("webhook.conversionReviewVersions").iter();
        let version = versions.filter_map(Value::as_str).find_map(|version| match version {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        });
        Some(Self {
            client: Client::new(conversion.at("webhook.clientConfig")),
            version,
            kind: definition.text("spec.names.kind").to_owned(),
            definition: meta::name(definition).to_owned(),
        })
    }

    /// Objects in another version, in their order.
    async fn convert(&self, api: &Api, objects: Vec<Value>, wanted: &str) -> Result<Vec<Value>, Status> {
        let from = objects.first().map_or("", |object| meta::api_version(object)).to_owned();
        let failed = |why: String| {
            let kind = &self.kind;
            Status::internal(format_args!("conversion webhook for {from}, Kind={kind} {why}"))
        };
        let version =
            self.version.ok_or_else(|| failed("failed: no supported conversion review versions".into()))?;
        let uid = api.new_uid();
        let review = json!({
            "kind": "ConversionReview",
            "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
        });
        let body = Bytes::from(review.to_string());
        let clock = &api.storage.env.clock;
        let since = clock.monotonic();
        let answer = self.client.post(api, body, TIMEOUT, MAX_ANSWER_BYTES).await;
        let converted = self.judge(answer, version, &uid, &objects, wanted);
        let took = clock.monotonic().saturating_duration_since(since);
        self.count(&from, wanted, converted.as_ref().err().map(|fault| fault.kind), took);
        converted.map_err(|fault| failed(fault.text))
    }

    /// What the webhook made of the objects.
    fn judge(
        &self,
        answer: Result<Bytes, String>,
        version: &str,
        uid: &str,
        objects: &[Value],
        wanted: &str,
    ) -> Result<Vec<Value>, Fault> {
        let fault = |kind, text| Fault { kind, text };
        let answer =
            answer.map_err(|why| fault("conversion_webhook_call_failure", format!("failed: {why}")))?;
        let converted = read(&answer, version, uid).map_err(|why| {
            fault("conversion_webhook_malformed_response_failure", format!("failed: {why}"))
        })?;
        if converted.len() != objects.len() {
            let (got, expected) = (converted.len(), objects.len());
            let text = format!("returned {got} objects, expected {expected}");
            return Err(fault("conversion_webhook_partial_response_failure", text));
        }
        let pairs = objects.iter().zip(converted).enumerate();
        let settled = pairs.map(|(at, (before, after))| {
            settle(before, after, wanted).map_err(|why| {
                let text = format!("returned invalid converted object at index {at}: {why}");
                fault("conversion_webhook_invalid_converted_object_failure", text)
            })
        });
        settled.collect()
    }

    /// Counts a call (upstream: `apiextensions-apiserver/pkg/apiserver/conversion/metrics.go`).
    fn count(&self, from: &str, wanted: &str, fault: Option<&'static str>, took: Duration) {
        let (result, word) = if fault.is_none() { ("success", "true") } else { ("failure", "false") };
        let labels = [("result", result), ("failure_type", fault.unwrap_or(""))];
        counter!("apiserver_conversion_webhook_request_total", &labels).increment(1);
        histogram!("apiserver_conversion_webhook_duration_seconds", &labels).record(took.as_secs_f64());
        let version = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
        histogram!(
            "apiserver_crd_conversion_webhook_duration_seconds",
            "crd_name" => self.definition.clone(), "from_version" => version(from),
            "to_version" => version(wanted), "succeeded" => word
        )
        .record(took.as_secs_f64());
    }
}

/// The objects in an answer.
fn read(answer: &[u8], version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let mut review: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let (group_version, kind) = (meta::api_version(&review), meta::kind(&review));
    if version == "v1" && (group_version != "apiextensions.k8s.io/v1" || kind != "ConversionReview") {
        return Err(format!(
            "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {group_version}, Kind={kind}"
        ));
    }
    let response = &mut review["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    if version == "v1" && response.text("uid") != uid {
        let quote = api_types::field::quote;
        return Err(format!("expected response.uid={}, got {}", quote(uid), quote(response.text("uid"))));
    }
    match (response.text("result.status"), response.text("result.message")) {
        ("Success", _) => {}
        (status, "") => return Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => return Err(message.to_owned()),
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// A converted object with the metadata that it had: webhooks change labels and annotations only.
fn settle(before: &Value, mut after: Value, wanted: &str) -> Result<Value, String> {
    let found = meta::api_version(&after);
    if found != wanted {
        return Err(format!("invalid groupVersion (expected {wanted}, received {found})"));
    }
    let same = |what: &str, before: &str, after: &str| match before == after {
        true => Ok(()),
        false => Err(format!("must have the same {what}: {before} != {after}")),
    };
    same("kind", meta::kind(before), meta::kind(&after))?;
    same("name", meta::name(before), meta::name(&after))?;
    same("namespace", meta::namespace(before), meta::namespace(&after))?;
    same("UID", meta::uid(before), meta::uid(&after))?;
    if !after["metadata"].is_object() {
        return Err("missing metadata in converted object".to_owned());
    }
    let mut metadata = before["metadata"].clone();
    for field in ["labels", "annotations"] {
        let given = after["metadata"][field].take();
        let Some(map) = metadata.as_object_mut() else { break };
        match given {
            Value::Null => {
                map.remove(field);
            }
            Value::Object(texts) if texts.values().all(Value::is_string) => {
                map.insert(field.to_owned(), Value::Object(texts));
            }
            _ => return Err(format!("metadata.{field} must be a map of strings in converted object")),
        }
    }
    after["metadata"] = metadata;
    Ok(after)
}

/// A kind whose webhook converts, and the webhook.
fn converted(kind: &Kind) -> Option<(&CustomKind, &Converter)> {
    let kind = kind.custom()?;
    Some((kind.as_ref(), kind.converter.as_deref()?))
}

impl Api {
    /// Brings stored objects to the version of a kind, if that takes its webhook; else nothing happens.
    pub(crate) async fn bring_to(&self, kind: &Kind, kvs: &mut [KeyValue]) -> Result<(), Status> {
        let Some((kind, converter)) = converted(kind) else { return Ok(()) };
        let wanted = kind.resource.api_version();
        let (mut places, mut objects, mut bytes) = (Vec::new(), Vec::new(), 0);
        for at in 0..kvs.len() {
            let kv = &kvs[at];
            if peek::open(&kv.value).map_err(convert::unreadable)?.api_version() != wanted {
                let object = codec::from_stored(&kv.value, kv.mod_revision).map_err(convert::unreadable)?;
                bytes += kv.value.len();
                places.push(at);
                objects.push(object);
            }
            if !objects.is_empty() && (bytes > CALL_BYTES || at + 1 == kvs.len()) {
                let batch = std::mem::take(&mut objects);
                let results = converter.convert(self, batch, &wanted).await?;
                for (place, object) in places.drain(..).zip(results) {
                    kvs[place].value = codec::json_to_stored(&object).into();
                }
                bytes = 0;
            }
        }
        Ok(())
    }

    /// A stored object, if a selection wants it: in the version of its kind, where it takes that to know.
    pub(crate) async fn selected<'a>(
        &self,
        selection: &Selection,
        kv: &'a KeyValue,
    ) -> Result<Option<Cow<'a, KeyValue>>, Status> {
        if !selection.matches(kv) {
            return Ok(None);
        }
        if !selection.needs_version() {
            return Ok(Some(Cow::Borrowed(kv)));
        }
        let mut kv = kv.clone();
        self.bring_to(selection.kind(), std::slice::from_mut(&mut kv)).await?;
        Ok(selection.matches(&kv).then_some(Cow::Owned(kv)))
    }

    /// Brings the objects that a selection may want to the version of its kind, and leaves out those that it does not.
    pub(crate) async fn sift(&self, selection: &Selection, kvs: &mut Vec<KeyValue>) -> Result<(), Status> {
        self.bring_to(selection.kind(), kvs).await?;
        if selection.needs_version() {
            kvs.retain(|kv| selection.matches(kv));
        }
        Ok(())
    }

    /// A stored object as a tree of a kind.
    pub(crate) async fn read(&self, kind: &Kind, kv: &KeyValue) -> Result<Value, Status> {
        if converted(kind).is_none() {
            return kind.decode(kv);
        }
        let mut kv = kv.clone();
        self.bring_to(kind, std::slice::from_mut(&mut kv)).await?;
        kind.decode(&kv)
    }

    /// An object of a kind, whatever its version, in the version of that kind.
    pub(crate) async fn in_version(&self, kind: &Kind, object: Value) -> Result<Value, Status> {
        let Some((custom, converter)) = converted(kind) else { return kind.to_version(object) };
        let wanted = custom.resource.api_version();
        if meta::api_version(&object) == wanted {
            return kind.to_version(object);
        }
        let mut results = converter.convert(self, vec![object], &wanted).await?;
        results.pop().ok_or_else(|| Status::internal("the conversion webhook returned no object"))
    }

    /// The stored form of an object.
    pub(crate) async fn to_stored(&self, kind: &Kind, object: &Value) -> Result<Bytes, Status> {
        let Some((custom, converter)) = converted(kind) else { return Ok(kind.encode(object)?.into()) };
        let resource = &custom.resource;
        if resource.is_storage_version() {
            return Ok(kind.encode(object)?.into());
        }
        let stored = api_types::table::api_version(&resource.group, &resource.storage_version);
        let results = converter.convert(self, vec![object.clone()], &stored).await?;
        Ok(kind.encode(results.first().unwrap_or(object))?.into())
    }

    /// Answers with a stored object.
    pub(crate) async fn respond(
        &self,
        call: &Call,
        target: &Target,
        code: u16,
        mut kv: KeyValue,
    ) -> Result<Response<Body>, Status> {
        self.bring_to(&target.resource, std::slice::from_mut(&mut kv)).await?;
        call.object(&target.resource, self.now(), code, &kv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_change_labels_and_annotations_of_the_metadata_only() {
        let before = json!({"apiVersion": "a.b/v1", "kind": "K", "metadata": {"name": "n", "uid": "u", "generation": 2,
            "labels": {"a": "1"}, "annotations": {"b": "1"}}, "spec": {"x": 1}});
        let after = json!({"apiVersion": "a.b/v2", "kind": "K", "metadata": {"name": "n", "uid": "u", "generation": 9,
            "labels": {"a": "2"}, "finalizers": ["z"]}, "spec": {"y": 1}});
        assert_eq!(
            settle(&before, after.clone(), "a.b/v2").unwrap(),
            json!({"apiVersion": "a.b/v2", "kind": "K", "metadata": {"name": "n", "uid": "u", "generation": 2,
                "labels": {"a": "2"}}, "spec": {"y": 1}})
        );
        let wrong = |change: fn(&mut Value)| {
            let mut after = after.clone();
            change(&mut after);
            settle(&before, after, "a.b/v2").unwrap_err()
        };
        assert_eq!(wrong(|after| after["metadata"]["uid"] = "w".into()), "must have the same UID: u != w");
        assert_eq!(
            wrong(|after| after["apiVersion"] = "a.b/v3".into()),
            "invalid groupVersion (expected a.b/v2, received a.b/v3)"
        );
        assert!(wrong(|after| after["metadata"]["labels"] = json!({"a": 1})).contains("metadata.labels"));
    }

    #[test]
    fn answers_that_do_not_count() {
        let of = |response: Value| {
            let review = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
            read(review.to_string().as_bytes(), "v1", "u")
        };
        assert_eq!(of(Value::Null).unwrap_err(), "no response provided");
        assert_eq!(of(json!({"uid": "w"})).unwrap_err(), "expected response.uid=\"u\", got \"w\"");
        let failed = json!({"uid": "u", "result": {"status": "Failed", "message": "no"}});
        assert_eq!(of(failed).unwrap_err(), "no");
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}]});
        assert_eq!(of(good).unwrap().len(), 1);
        assert!(read(b"{}", "v1", "u").unwrap_err().starts_with("expected webhook response of"));
    }
}
