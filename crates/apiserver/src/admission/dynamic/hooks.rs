//! Webhooks: whom they are asked about, what they answer (upstream: `apiserver/pkg/admission/plugin/webhook`).
//! Mutating ones come one after the other, in the order of their configurations' names; validating ones all at once.

use std::sync::Arc;
use std::time::Duration;

use api_rules::cel::{MATCH_CONDITIONS, Scope, Variables};
use api_rules::look::Look;
use api_rules::patch;
use api_types::status::Status;
use api_types::{Value, codec, meta, schema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;

use super::matching::Matching;
use super::policy::{self, Condition, Shown};
use super::{Configured, is_exempt, name_of, text, texts};
use crate::admission::{Admit, Attributes, Check, Plugin};
use crate::api::Api;
use crate::audit::Level;
use crate::counters::admission::{self, Called};
use crate::webhook::Client;

/// MutatingAdmissionWebhook.
pub(in crate::admission) const MUTATING: Plugin = Plugin {
    admit: Admit::Waits(|api, attributes, object| {
        let configured = api.dynamic.configured(&api.storage.view());
        match configured.mutating_hooks.is_empty() || is_exempt(attributes) {
            true => None,
            false => Some(Box::pin(mutate(configured, api, attributes, object))),
        }
    }),
    check: Check::Never,
};

/// ValidatingAdmissionWebhook.
pub(in crate::admission) const VALIDATING: Plugin = Plugin {
    admit: Admit::Never,
    check: Check::Waits(|api, attributes, object| {
        let configured = api.dynamic.configured(&api.storage.view());
        match configured.validating_hooks.is_empty() || is_exempt(attributes) {
            true => None,
            false => Some(Box::pin(validate(configured, api, attributes, object))),
        }
    }),
};

/// Bytes of an answer, at most.
const MAX_ANSWER_BYTES: usize = 3 << 20;
/// Seconds that a webhook may take which does not say.
const DEFAULT_SECONDS: u64 = 10;

/// One webhook of a configuration.
pub(super) struct Hook {
    /// Unique among the configured ones.
    id: String,
    name: String,
    matching: Matching,
    conditions: Vec<Condition>,
    /// Whether a failed call refuses the request.
    fail: bool,
    timeout: Duration,
    /// Whether it may be asked about a dry run.
    harmless: bool,
    /// The version of the review: `v1` or `v1beta1`.
    version: &'static str,
    /// Whether it is called again when others changed the object after it.
    again: bool,
    client: Arc<Client>,
}

/// How a call ended that did not allow the request.
enum Refusal {
    /// There is no answer that counts.
    Failed(String),
    /// The webhook, or a rule about it, refuses.
    Refused(Status),
}

/// An answer that allows the request.
struct Answer {
    patch: Option<Value>,
}

impl Hook {
    /// The webhooks of a configuration; connections of `known` ones are kept.
    pub fn list(configuration: &Value, known: &[Arc<Self>]) -> Vec<Arc<Self>> {
        let owner = name_of(configuration);
        let hooks = configuration.items("webhooks").iter().enumerate();
        hooks
            .map(|(at, hook)| {
                Arc::new(Self::new(format!("{owner}/{}/{at}", text(hook, "name")), hook, known))
            })
            .collect()
    }

    fn new(id: String, hook: &Value, known: &[Arc<Self>]) -> Self {
        let config = &hook["clientConfig"];
        let kept = known.iter().find(|other| other.id == id && other.client.config == *config);
        let scope = Scope { authorizer: true, ..Scope::default() };
        let versions = texts(hook, "admissionReviewVersions");
        let first = versions.iter().find_map(|version| match version.as_str() {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        });
        Self {
            id,
            name: text(hook, "name"),
            matching: Matching::of_hook(hook),
            conditions: hook.items("matchConditions").iter().map(|one| Condition::new(one, &scope)).collect(),
            fail: hook["failurePolicy"] != "Ignore",
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(DEFAULT_SECONDS)),
            harmless: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            version: first.unwrap_or("v1"),
            again: hook["reinvocationPolicy"] == "IfNeeded",
            client: kept.map_or_else(|| Arc::new(Client::new(config)), |other| other.client.clone()),
        }
    }

    /// What is shown to this webhook; none when it is not asked.
    async fn applies(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<Option<Shown>, Status> {
        let Some(matched) = self.matching.find(api, attributes, object)? else { return Ok(None) };
        let shown = Shown::new(api, attributes, &matched, object).await?;
        if self.conditions.is_empty() {
            return Ok(Some(shown));
        }
        let hold = shown.evaluate(&Variables::default(), None, MATCH_CONDITIONS, |evaluation| {
            policy::hold(&self.conditions, evaluation)
        });
        match hold {
            Ok(true) => Ok(Some(shown)),
            Ok(false) => Ok(None),
            Err(error) if self.fail => Err(attributes.target.forbidden(&error)),
            Err(_) => Ok(None),
        }
    }

    /// Asks the webhook.
    async fn ask(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        shown: &Shown,
        mutating: bool,
    ) -> Result<Answer, Refusal> {
        if attributes.dry_run && !self.harmless {
            let text = format!("admission webhook {} does not support dry run", quote(&self.name));
            return Err(Refusal::Refused(Status::bad_request(text)));
        }
        let uid = api.new_uid();
        let review = self.review(&uid, shown);
        let answer = self
            .client
            .post(api, review, self.timeout, MAX_ANSWER_BYTES)
            .await
            .map_err(|error| Refusal::Failed(format!("failed to call webhook: {error}")))?;
        let response = self.read(&answer, &uid, mutating)?;
        for (key, value) in response["auditAnnotations"].as_object().into_iter().flatten() {
            attributes.call.annotate(format!("{}/{key}", self.name), value.as_str().unwrap_or_default());
        }
        texts(&response, "warnings").into_iter().for_each(|text| attributes.call.warn(text));
        if response["allowed"] != true {
            return Err(Refusal::Refused(denied(&self.name, &response["status"])));
        }
        let patch = self.patch(&response, mutating)?;
        Ok(Answer { patch })
    }

    fn review(&self, uid: &str, shown: &Shown) -> Bytes {
        let mut request = shown.request.clone();
        request["uid"] = uid.into();
        request["object"] = shown.object.clone();
        request["oldObject"] = shown.old.clone();
        let version = format!("admission.k8s.io/{}", self.version);
        json!({"kind": "AdmissionReview", "apiVersion": version, "request": request}).to_string().into()
    }

    /// The response in an answer, with upstream's words for what is wrong with it.
    fn read(&self, answer: &[u8], uid: &str, mutating: bool) -> Result<Value, Refusal> {
        let invalid = |why: String| Refusal::Failed(format!("received invalid webhook response: {why}"));
        let review: Value = serde_json::from_slice(answer).map_err(|error| {
            Refusal::Failed(format!(
                "failed to call webhook: couldn't get version/kind; json parse error: {error}"
            ))
        })?;
        let response = review["response"].clone();
        if !response.is_object() {
            return Err(invalid("webhook response was absent".to_owned()));
        }
        if self.version == "v1" {
            let found = text(&response, "uid");
            if found != uid {
                return Err(invalid(format!("expected response.uid={}, got {}", quote(uid), quote(&found))));
            }
            let (version, kind) = (text(&review, "apiVersion"), text(&review, "kind"));
            if version != "admission.k8s.io/v1" || kind != "AdmissionReview" {
                let found = if version.contains('/') { version } else { format!("/{version}") };
                return Err(invalid(format!(
                    "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {found}, Kind={kind}"
                )));
            }
            let (patch, patch_type) =
                (!text(&response, "patch").is_empty(), response["patchType"].is_string());
            let fault = match (mutating, patch, patch_type) {
                (true, true, false) => {
                    Some("webhook returned response.patch but not response.patchType".to_owned())
                }
                (true, false, true) => {
                    Some("webhook returned response.patchType but not response.patch".to_owned())
                }
                (true, true, true) if text(&response, "patchType").is_empty() => {
                    Some("webhook returned invalid response.patchType of \"\"".to_owned())
                }
                (false, true, _) | (false, _, true) => {
                    Some("validating webhook may not return response.patch or response.patchType".to_owned())
                }
                _ => None,
            };
            if let Some(fault) = fault {
                return Err(invalid(fault));
            }
        }
        Ok(response)
    }

    fn patch(&self, response: &Value, mutating: bool) -> Result<Option<Value>, Refusal> {
        let encoded = text(response, "patch");
        if !mutating || encoded.is_empty() {
            return Ok(None);
        }
        let undecodable =
            |why: String| Refusal::Failed(format!("received undecodable patch in webhook response: {why}"));
        if self.version == "v1" && response["patchType"] != "JSONPatch" {
            let kind = quote(&text(response, "patchType"));
            return Err(Refusal::Failed(format!("unsupported patch type {kind}")));
        }
        let bytes = STANDARD.decode(encoded).map_err(|error| undecodable(error.to_string()))?;
        let patch: Value = serde_json::from_slice(&bytes).map_err(|error| undecodable(error.to_string()))?;
        match patch.as_array() {
            Some(steps) => Ok((!steps.is_empty()).then_some(patch)),
            None => Err(undecodable("it is no list of operations".to_owned())),
        }
    }

    /// Tells the audit log what a mutating webhook did. `turn`: which call of the request it was.
    fn note(&self, attributes: &Attributes<'_>, turn: &str, changed: bool, patch: Option<&Value>) {
        let level = attributes.call.audit_level();
        if level == Level::None {
            return;
        }
        let configuration = self.id.split('/').next().unwrap_or_default();
        let whose = format!("{{\"configuration\":{},\"webhook\":{}", quote(configuration), quote(&self.name));
        let key = format!("mutation.webhook.admission.k8s.io/{turn}");
        attributes.call.annotate(key, format!("{whose},\"mutated\":{changed}}}"));
        if let (Some(patch), true) = (patch, level >= Level::Request) {
            let key = format!("patch.webhook.admission.k8s.io/{turn}");
            attributes.call.annotate(key, format!("{whose},\"patch\":{patch},\"patchType\":\"JSONPatch\"}}"));
        }
    }

    /// How a call that did not allow the request is counted.
    fn ended(&self, refusal: &Refusal) -> Called {
        match refusal {
            Refusal::Failed(_) => Called::Failed { refuses: self.fail },
            Refusal::Refused(status) => Called::Refused(status.code),
        }
    }

    /// What becomes of the request when this webhook does not allow it; nothing when the failure does not count. `turn`:
    /// what the audit log calls this call.
    fn refuse(&self, refusal: Refusal, attributes: &Attributes<'_>, turn: &str) -> Result<(), Status> {
        match refusal {
            Refusal::Refused(status) => Err(status),
            Refusal::Failed(why) => {
                let text = format!("failed calling webhook {}: {why}", quote(&self.name));
                if self.fail {
                    return Err(Status::internal(text));
                }
                tracing::warn!(webhook = self.name, "{text}; the request goes on");
                attributes.call.annotate(format!("failed-open.{turn}"), &self.name);
                Ok(())
            }
        }
    }
}

fn quote(text: &str) -> String {
    api_types::field::quote(text)
}

/// The Status of a refusal, with whose it is.
fn denied(webhook: &str, result: &Value) -> Status {
    let mut given = result.clone();
    if !given.is_object() {
        given = json!({});
    }
    meta::set_kind(&mut given, "v1", "Status");
    let mut status = Status::from_value(&given).unwrap_or_default();
    let by = format!("admission webhook {} denied the request", quote(webhook));
    status.message = match (status.message.as_str(), status.reason.as_str()) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    status.code = status.code.clamp(400, 599);
    status.success = false;
    status
}

async fn mutate(
    configured: Arc<Configured>,
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    let second = {
        let mut rounds = attributes.rounds.lock();
        let second = rounds.second;
        rounds.hooks.begin(second, object);
        second
    };
    for (at, hook) in configured.mutating_hooks.iter().enumerate() {
        let Some(shown) = hook.applies(api, attributes, object).await? else { continue };
        if attributes.rounds.lock().hooks.skips(second, &hook.id) {
            continue;
        }
        let turn = format!("round_{}_index_{at}", u8::from(second));
        let (clock, operation) = (&api.storage.env.clock, attributes.operation.name());
        let since = clock.monotonic();
        let answer = hook.ask(api, attributes, &shown, true).await;
        let took = clock.monotonic().saturating_duration_since(since);
        attributes.call.wait(took);
        let count = |how| admission::called(&hook.name, "admit", operation, how, took);
        let changed = match answer {
            Ok(Answer { patch: None }) => {
                count(Called::Allowed);
                hook.note(attributes, &turn, false, None);
                false
            }
            Ok(Answer { patch: Some(patch) }) => {
                let before = object.clone();
                let made = patched(api, &hook.name, attributes, &shown.object, &patch).await;
                count(if made.is_ok() { Called::Allowed } else { Called::Unusable });
                *object = made?;
                let changed = before != *object;
                hook.note(attributes, &turn, changed, Some(&patch));
                changed
            }
            Err(refusal) => {
                count(hook.ended(&refusal));
                hook.note(attributes, &turn, false, None);
                hook.refuse(refusal, attributes, &format!("mutation.webhook.admission.k8s.io/{turn}"))?;
                false
            }
        };
        let mut rounds = attributes.rounds.lock();
        if changed {
            rounds.hooks.changed();
            rounds.again = true;
        }
        if hook.again {
            rounds.hooks.called.push(hook.id.clone());
        }
    }
    attributes.rounds.lock().hooks.left = Some(object.clone());
    Ok(())
}

/// The object after a webhook's patch, in the request's version, without what its kind does not have, with defaults.
async fn patched(
    api: &Api,
    webhook: &str,
    attributes: &Attributes<'_>,
    object: &Value,
    patch: &Value,
) -> Result<Value, Status> {
    if object.is_null() {
        return Err(Status::internal(format_args!(
            "admission webhook {} attempted to modify the object, which is not supported for this operation",
            quote(webhook)
        )));
    }
    let result =
        patch::json_patch(object.clone(), patch).map_err(|error| Status::internal(error.to_string()))?;
    settle(api, attributes, result).await
}

/// An object that admission changed: pruned, normal, defaulted, in the request's version.
pub(super) async fn settle(
    api: &Api,
    attributes: &Attributes<'_>,
    mut object: Value,
) -> Result<Value, Status> {
    let own = &attributes.target.resource;
    if let Some(message) = schema::lookup_api_version(meta::api_version(&object), meta::kind(&object)) {
        schema::prune_unknown(message, &mut object);
        object = codec::normalize(message, &object).map_err(|error| Status::internal(error.to_string()))?;
    }
    if own.kind == meta::kind(&object) {
        object = api.in_version(own, object).await?;
        own.default(&mut object);
    }
    if own.custom().is_none() {
        patch::apply::hide_fields(&mut object);
    }
    Ok(object)
}

async fn validate(
    configured: Arc<Configured>,
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<(), Status> {
    let (mut asked, clock) = (Vec::new(), &api.storage.env.clock);
    let since = clock.monotonic();
    for (at, hook) in configured.validating_hooks.iter().enumerate() {
        if let Some(shown) = hook.applies(api, attributes, object).await? {
            asked.push(async move {
                let began = clock.monotonic();
                let answer = hook.ask(api, attributes, &shown, false).await;
                let took = clock.monotonic().saturating_duration_since(began);
                let how = answer.as_ref().map_or_else(|refusal| hook.ended(refusal), |_| Called::Allowed);
                admission::called(&hook.name, "validating", attributes.operation.name(), how, took);
                let turn = format!("validating.webhook.admission.k8s.io/round_0_index_{at}");
                answer.map(|_| ()).or_else(|refusal| hook.refuse(refusal, attributes, &turn))
            });
        }
    }
    let answers = futures::future::join_all(asked).await;
    attributes.call.wait(clock.monotonic().saturating_duration_since(since));
    answers.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whose_it_is() {
        let of = |value: Value| denied("a.b.c", &value);
        assert_eq!(
            of(json!({})).message,
            "admission webhook \"a.b.c\" denied the request without explanation"
        );
        assert_eq!(of(Value::Null).code, 400);
        let status = of(json!({"message": "no", "code": 418}));
        assert_eq!(
            (status.code, status.message.as_str()),
            (418, "admission webhook \"a.b.c\" denied the request: no")
        );
        assert_eq!(
            of(json!({"code": 200, "status": "Success", "reason": "R"})).message,
            "admission webhook \"a.b.c\" denied the request: R"
        );
    }

    fn failure(answer: &str, mutating: bool) -> String {
        let hook =
            Hook::new("c/a/0".into(), &json!({"name": "a.b.c", "admissionReviewVersions": ["v1"]}), &[]);
        match hook.read(answer.as_bytes(), "u", mutating) {
            Err(Refusal::Failed(why)) => why,
            _ => String::new(),
        }
    }

    #[test]
    fn answers_that_do_not_count() {
        let answer = |response: Value| {
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
                .to_string()
        };
        assert!(failure("not json", true).starts_with("failed to call webhook: "));
        assert_eq!(failure("{}", true), "received invalid webhook response: webhook response was absent");
        assert_eq!(
            failure(&answer(json!({"uid": "x"})), true),
            "received invalid webhook response: expected response.uid=\"u\", got \"x\""
        );
        let with_patch = answer(json!({"uid": "u", "allowed": true, "patch": "W10="}));
        assert_eq!(
            failure(&with_patch, true),
            "received invalid webhook response: webhook returned response.patch but not response.patchType"
        );
        assert!(failure(&with_patch, false).contains("validating webhook may not return"));
        assert_eq!(failure(&answer(json!({"uid": "u", "allowed": true})), true), "");
    }
}
