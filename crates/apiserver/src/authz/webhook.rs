//! A server that decides: it is sent a SubjectAccessReview, and its answers are believed for a while (upstream:
//! `apiserver/plugin/pkg/authorizer/webhook`).

use std::time::Duration;

use api_rules::cel::Rule;
use api_types::selector::Operator;
use env::{Env, TaskGroup};
use serde_json::{Map, Value, json};

use super::config::WebhookSettings;
use super::{Ask, Decision, Verdict};
use crate::cache::Cache;
use crate::remote::Remote;
use crate::user::UserInfo;

/// Answers that are kept, at most (upstream's).
const MAX_KEPT: usize = 8192;
/// Bytes of what a caller chooses of a question, at least, whose answer is not kept (upstream's).
const MAX_CONTROLLED: usize = 10_000;

/// Asks a server what users may do.
pub(super) struct Webhook {
    server: Remote,
    version: String,
    conditions: Vec<Rule>,
    authorized_ttl: Duration,
    unauthorized_ttl: Duration,
    on_failure: Verdict,
    cache: Cache<Answer>,
    /// Before the second try.
    wait: Duration,
    env: Env,
}

/// What the server says.
#[derive(Clone, Default)]
struct Answer {
    allowed: bool,
    denied: bool,
    reason: String,
}

impl Webhook {
    /// # Errors
    /// A kubeconfig that cannot be used.
    pub fn new(
        settings: WebhookSettings,
        wait: Duration,
        env: &Env,
        tasks: &TaskGroup,
    ) -> Result<Self, String> {
        Ok(Self {
            server: Remote::load(&settings.file, settings.timeout, tasks)?,
            version: settings.version,
            conditions: settings.conditions,
            authorized_ttl: settings.authorized_ttl,
            unauthorized_ttl: settings.unauthorized_ttl,
            on_failure: if settings.denies_on_failure { Verdict::Deny } else { Verdict::NoOpinion },
            cache: Cache::new(MAX_KEPT, &env.rng),
            wait,
            env: env.clone(),
        })
    }

    /// What is decided without asking the server: its conditions do not hold, or its answer is known.
    pub fn decide_now(&self, user: &UserInfo, ask: &Ask<'_>) -> Option<Decision> {
        match self.is_meant(user, ask) {
            Err(error) => return Some(self.failure(error)),
            Ok(false) => return Some(Decision::default()),
            Ok(true) => {}
        }
        let key = self.cache.key([self.spec(user, ask).to_string().as_str()]);
        let known = self.cache.get(&key, self.env.clock.monotonic())?;
        Some(known.decision())
    }

    /// What the server decides.
    pub async fn decide(&self, user: &UserInfo, ask: &Ask<'_>) -> Decision {
        if let Some(known) = self.decide_now(user, ask) {
            return known;
        }
        let spec = self.spec(user, ask);
        let key = self.cache.key([spec.to_string().as_str()]);
        let review = json!({
            "kind": "SubjectAccessReview",
            "apiVersion": format!("authorization.k8s.io/{}", self.version),
            "metadata": {},
            "spec": spec,
            "status": {"allowed": false},
        });
        let answer = match self.server.review(&self.env, &review, self.wait).await {
            Ok(answer) => Answer::of(&answer["status"]),
            Err(error) => {
                tracing::error!(error, "failed to make webhook authorizer request");
                return self.failure(error);
            }
        };
        if controlled(ask) < MAX_CONTROLLED {
            let ttl = if answer.allowed { self.authorized_ttl } else { self.unauthorized_ttl };
            self.cache.put(key, answer.clone(), self.env.clock.monotonic(), ttl);
        }
        answer.decision()
    }

    fn failure(&self, error: String) -> Decision {
        Decision { verdict: self.on_failure, error: Some(error), ..Decision::default() }
    }

    /// Whether all conditions hold. One that does not hold counts more than one that fails.
    fn is_meant(&self, user: &UserInfo, ask: &Ask<'_>) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let (request, mut faults) = (shown(user, ask), Vec::new());
        for rule in &self.conditions {
            let source = rule.source();
            match rule.value(&[("request", &request)]) {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(other) => faults.push(format!(
                    "cel evaluation error: expression '{source}' eval result type should be bool but got {other}"
                )),
                Err(error) => faults.push(format!(
                    "cel evaluation error: expression '{source}' resulted in error: {error}"
                )),
            }
        }
        match faults.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// The question, without what is empty.
    fn spec(&self, user: &UserInfo, ask: &Ask<'_>) -> Value {
        let mut spec = Map::new();
        let mut put = |name: &str, value: Value, there: bool| {
            if there {
                spec.insert(name.to_owned(), value);
            }
        };
        let groups = if self.version == "v1beta1" { "group" } else { "groups" };
        put("user", json!(user.name), !user.name.is_empty());
        put(groups, json!(user.groups), !user.groups.is_empty());
        put("uid", json!(user.uid), !user.uid.is_empty());
        put("extra", json!(user.extra), !user.extra.is_empty());
        let mut attributes = shown_attributes(ask);
        attributes.retain(|_, value| *value != "");
        let name = if ask.path.is_some() { "nonResourceAttributes" } else { "resourceAttributes" };
        put(name, Value::Object(attributes), true);
        Value::Object(spec)
    }
}

impl Answer {
    fn of(status: &Value) -> Self {
        Self {
            allowed: status["allowed"] == true,
            denied: status["denied"] == true,
            reason: status["reason"].as_str().unwrap_or_default().to_owned(),
        }
    }

    fn decision(self) -> Decision {
        let error = "webhook subject access review returned both allow and deny response";
        let verdict = match (self.allowed, self.denied) {
            (_, true) => Verdict::Deny,
            (true, false) => Verdict::Allow,
            (false, false) => Verdict::NoOpinion,
        };
        let error = (self.allowed && self.denied).then(|| error.to_owned());
        Decision { verdict, reason: self.reason, error, ..Decision::default() }
    }
}

/// Bytes of a question that the caller chooses.
fn controlled(ask: &Ask<'_>) -> usize {
    let texts = [ask.namespace, ask.verb, ask.group, ask.version, ask.resource, ask.subresource, ask.name];
    texts.iter().map(|text| text.len()).sum::<usize>() + ask.path.map_or(0, str::len)
}

/// The question as expressions see it: every text is there, be it empty.
fn shown(user: &UserInfo, ask: &Ask<'_>) -> Value {
    let name = if ask.path.is_some() { "nonResourceAttributes" } else { "resourceAttributes" };
    json!({
        "user": user.name,
        "groups": user.groups,
        "uid": user.uid,
        "extra": user.extra,
        name: shown_attributes(ask),
    })
}

fn shown_attributes(ask: &Ask<'_>) -> Map<String, Value> {
    let texts: &[(&str, &str)] = match ask.path {
        Some(path) => &[("path", path), ("verb", ask.verb)],
        None => &[
            ("namespace", ask.namespace),
            ("verb", ask.verb),
            ("group", ask.group),
            ("version", ask.version),
            ("resource", ask.resource),
            ("subresource", ask.subresource),
            ("name", ask.name),
        ],
    };
    let mut attributes: Map<String, Value> =
        texts.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
    for (name, requirements) in [("fieldSelector", fields(ask)), ("labelSelector", labels(ask))] {
        if !requirements.is_empty() {
            attributes.insert(name.to_owned(), json!({"requirements": requirements}));
        }
    }
    attributes
}

fn fields(ask: &Ask<'_>) -> Vec<Value> {
    let requirement = |one: &api_types::selector::FieldRequirement| {
        let operator = if one.negated { "NotIn" } else { "In" };
        json!({"key": one.field, "operator": operator, "values": [one.value]})
    };
    ask.fields.requirements.iter().map(requirement).collect()
}

fn labels(ask: &Ask<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    for one in ask.labels.requirements() {
        let operator = match one.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => "In",
            Operator::NotEquals | Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            // What is left out makes the question broader than the request, never narrower.
            Operator::GreaterThan | Operator::LessThan => continue,
        };
        let mut requirement = json!({"key": one.key, "operator": operator});
        if !one.values.is_empty() {
            requirement["values"] = json!(one.values);
        }
        all.push(requirement);
    }
    all
}
