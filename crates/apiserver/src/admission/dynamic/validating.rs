//! ValidatingAdmissionPolicy: what its bindings do about a request that it does not hold for (upstream:
//! `apiserver/pkg/admission/plugin/policy/validating`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_rules::cel::{BUDGET, Evaluation, MATCH_CONDITIONS, OUT_OF_BUDGET};
use api_types::Value;
use api_types::status::Status;
use serde_json::json;

use super::policy::{self, Binding, Policy, Shown, Validation};
use super::{Configured, is_exempt_from_policies};
use crate::admission::{Admit, Attributes, Check, Plugin};
use crate::api::Api;
use crate::counters::admission;

pub(in crate::admission) const PLUGIN: Plugin = Plugin {
    admit: Admit::Never,
    check: Check::Waits(|api, attributes, object| {
        let configured = api.dynamic.configured(&api.storage.view());
        match configured.validating_policies.is_empty() || is_exempt_from_policies(attributes) {
            true => None,
            false => Some(Box::pin(check(configured, api, attributes, object))),
        }
    }),
};

/// Bytes of a message that an expression makes, at most (upstream: `MaxEvaluatedMessageExpressionSizeBytes`).
const MAX_MESSAGE_BYTES: usize = 5 * 1024;
/// Bytes of an audit annotation's value, at most.
const MAX_ANNOTATION_BYTES: usize = 10 * 1024;

/// Why a request is refused.
struct Denial {
    message: String,
    reason: String,
    /// The validation could not be made.
    is_failure: bool,
}

/// What a policy says of one parameter.
#[derive(Default)]
struct Outcome {
    /// Failed validations by their place in the policy.
    denials: Vec<(usize, Denial)>,
    annotations: Vec<(String, String)>,
    /// Annotations that could not be made and refuse the request.
    broken: Vec<String>,
}

async fn check(
    configured: Arc<Configured>,
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<(), Status> {
    let mut denied = Denied::default();
    for policy in configured.validating_policies.iter().filter(|policy| !policy.bindings.is_empty()) {
        check_policy(policy, api, attributes, object, &mut denied).await?;
    }
    match denied.0 {
        None => Ok(()),
        Some((message, reason)) => Err(refusal(attributes, &message, &reason)),
    }
}

/// What the request is refused with, and its reason: what was said first.
#[derive(Default)]
struct Denied(Option<(String, String)>);

impl Denied {
    fn add(&mut self, policy: &Policy, binding: Option<&Binding>, denial: Denial) {
        let binding = binding.map_or_else(String::new, |binding| format!(" with binding '{}'", binding.name));
        let name = &policy.name;
        let text = format!("ValidatingAdmissionPolicy '{name}'{binding} denied request: {}", denial.message);
        self.0.get_or_insert((text, denial.reason));
    }

    /// Notes that it could not be asked, where that counts.
    fn failed(&mut self, policy: &Policy, binding: Option<&Binding>, error: String) {
        if policy.fail {
            self.add(policy, binding, Denial::plain(error));
        }
    }
}

/// Values of audit annotations by their keys, each once.
type Annotations = BTreeMap<String, Vec<String>>;

async fn check_policy(
    policy: &Policy,
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    denied: &mut Denied,
) -> Result<(), Status> {
    let matched = match policy.find(api, attributes, object) {
        Ok(Some(matched)) => matched,
        Ok(None) => return Ok(()),
        Err(error) => {
            denied.failed(policy, None, error);
            return Ok(());
        }
    };
    let (mut shown, mut annotations, clock) = (None, Annotations::new(), &api.storage.env.clock);
    for binding in &policy.bindings {
        let all = match policy.bound(api, binding, attributes, object) {
            Ok(all) => all,
            Err(error) => {
                denied.failed(policy, Some(binding), error);
                continue;
            }
        };
        for params in all {
            if shown.is_none() {
                shown = Some(Shown::new(api, attributes, &matched, object).await?);
            }
            let Some(shown) = &shown else { continue };
            let since = clock.monotonic();
            let outcome =
                shown.evaluate(&policy.variables, params.as_ref(), MATCH_CONDITIONS, |evaluation| {
                    judge(policy, evaluation)
                });
            let took = clock.monotonic().saturating_duration_since(since);
            conclude(attributes, policy, binding, outcome, took, (&mut annotations, denied));
        }
    }
    for (key, values) in annotations {
        attributes.call.annotate(format!("{}/{key}", policy.name), values.join(", "));
    }
    Ok(())
}

/// Does what is to be done about what a policy said of one parameter.
fn conclude(
    attributes: &Attributes<'_>,
    policy: &Policy,
    binding: &Binding,
    outcome: Outcome,
    took: Duration,
    (annotations, denied): (&mut Annotations, &mut Denied),
) {
    for (at, denial) in outcome.denials {
        count(policy, binding, &denial, took);
        act(attributes, policy, binding, at, denial, denied);
    }
    for (key, value) in outcome.annotations {
        let values = annotations.entry(key).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }
    for message in outcome.broken {
        admission::validated(&policy.name, &binding.name, Some(&message), "deny", took);
        denied.add(policy, Some(binding), Denial::plain(message));
    }
}

impl Denial {
    /// Without a reason of its own.
    fn plain(message: String) -> Self {
        Self { message, reason: String::new(), is_failure: true }
    }
}

/// Counts a failed validation by what its binding does about it.
fn count(policy: &Policy, binding: &Binding, denial: &Denial, took: Duration) {
    let failure = denial.is_failure.then_some(denial.message.as_str());
    for action in &binding.actions {
        let action = match action.as_str() {
            "Deny" => "deny",
            "Audit" => "audit",
            "Warn" => "warn",
            _ => continue,
        };
        admission::validated(&policy.name, &binding.name, failure, action, took);
    }
}

/// Does what a binding says about a failed validation.
fn act(
    attributes: &Attributes<'_>,
    policy: &Policy,
    binding: &Binding,
    at: usize,
    denial: Denial,
    denied: &mut Denied,
) {
    let has = |action: &str| binding.actions.iter().any(|own| own == action);
    if has("Audit") {
        let failure = json!([{"message": denial.message, "policy": policy.name, "binding": binding.name,
            "expressionIndex": at, "validationActions": binding.actions}]);
        let key = "validation.policy.admission.k8s.io/validation_failure";
        attributes.call.annotate(key, failure.to_string());
    }
    if has("Warn") {
        attributes.call.warn(format!(
            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
            policy.name, binding.name, denial.message
        ));
    }
    if has("Deny") {
        denied.add(policy, Some(binding), denial);
    }
}

fn judge(policy: &Policy, evaluation: &Evaluation<'_>) -> Outcome {
    match policy::hold(&policy.conditions, evaluation) {
        Ok(true) => {}
        Ok(false) => return Outcome::default(),
        Err(message) => return Outcome { denials: failure(policy, 0, message), ..Outcome::default() },
    }
    evaluation.renew(BUDGET);
    let denials = validate(policy, evaluation);
    // They have a budget of their own.
    evaluation.renew(BUDGET);
    let mut outcome = Outcome { denials, ..Outcome::default() };
    annotate(policy, evaluation, &mut outcome);
    outcome
}

/// What an expression that cannot be run says, where that counts.
fn failure(policy: &Policy, at: usize, message: String) -> Vec<(usize, Denial)> {
    match policy.fail {
        true => vec![(at, Denial::plain(message))],
        false => Vec::new(),
    }
}

/// What validations say. All of them run before the messages of those that do not hold are made; when the budget is
/// spent before, nothing else is said.
fn validate(policy: &Policy, evaluation: &Evaluation<'_>) -> Vec<(usize, Denial)> {
    let mut results = Vec::with_capacity(policy.validations.len());
    for validation in &policy.validations {
        let result = validation.expression.as_ref().map_err(Clone::clone);
        let result = result.and_then(|expression| evaluation.holds(expression));
        if evaluation.is_spent() {
            return result.err().map_or_else(Vec::new, |message| failure(policy, 0, message));
        }
        results.push(result);
    }
    let mut denials = Vec::new();
    for (at, (validation, result)) in policy.validations.iter().zip(results).enumerate() {
        match result {
            Ok(true) => {}
            Ok(false) => denials.extend(denial(policy, at, validation, evaluation)),
            Err(message) => denials.extend(failure(policy, at, message)),
        }
    }
    denials
}

fn denial(
    policy: &Policy,
    at: usize,
    validation: &Validation,
    evaluation: &Evaluation<'_>,
) -> Vec<(usize, Denial)> {
    let message = message(validation, evaluation);
    if evaluation.is_spent() {
        return failure(policy, at, format!("failed messageExpression: {OUT_OF_BUDGET}"));
    }
    vec![(at, Denial { message, reason: validation.reason.clone(), is_failure: false })]
}

/// What is written into the audit log.
fn annotate(policy: &Policy, evaluation: &Evaluation<'_>, outcome: &mut Outcome) {
    for annotation in &policy.annotations {
        let result = annotation.expression.as_ref().map_err(Clone::clone);
        match result.and_then(|expression| evaluation.value(expression)) {
            Ok(Value::String(text)) if !text.trim().is_empty() => {
                let mut text = text.trim().to_owned();
                text.truncate(text.floor_char_boundary(MAX_ANNOTATION_BYTES));
                outcome.annotations.push((annotation.key.clone(), text));
            }
            Ok(Value::String(_) | Value::Null) => {}
            Ok(_) => outcome.broken.push(format!(
                "valueExpression of '{}' resulted in unsupported return type. Return type must be either string or null.",
                annotation.key
            )),
            Err(error) if policy.fail => outcome.broken.push(error),
            Err(_) => {}
        }
        if evaluation.is_spent() {
            return;
        }
    }
}

/// What a failed validation says: what its expression makes, its text, or what failed.
fn message(validation: &Validation, evaluation: &Evaluation<'_>) -> String {
    let made = validation.message_expression.as_ref().and_then(|expression| {
        let Value::String(text) = evaluation.value(expression.as_ref().ok()?).ok()? else { return None };
        let text = text.trim().to_owned();
        (!text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n')).then_some(text)
    });
    match made {
        Some(text) => text,
        None if !validation.message.is_empty() => validation.message.clone(),
        None => format!("failed expression: {}", validation.source),
    }
}

fn refusal(attributes: &Attributes<'_>, message: &str, reason: &str) -> Status {
    let reason = if reason.is_empty() { "Invalid" } else { reason };
    let mut status = attributes.target.forbidden(message).with_cause("", message, "");
    reason.clone_into(&mut status.reason);
    status.code = match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    status
}
