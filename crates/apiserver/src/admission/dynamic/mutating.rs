//! MutatingAdmissionPolicy: apply configurations and JSON patches that expressions make (upstream:
//! `apiserver/pkg/admission/plugin/policy/mutating`).

use std::sync::Arc;

use api_rules::cel::{BUDGET, Evaluation, MATCH_CONDITIONS};
use api_rules::patch::apply::{self, Type};
use api_rules::patch::{self, PatchError};
use api_types::status::Status;
use api_types::{Value, meta, schema};
use tokio::time::Instant;

use super::policy::{self, Binding, Mutation, Policy, Shown};
use super::{Configured, hooks, is_exempt_from_policies};
use crate::admission::{Admit, Attributes, Check, Plugin};
use crate::api::Api;
use crate::catalog::Kind;
use crate::counters::admission;

pub(in crate::admission) const PLUGIN: Plugin = Plugin {
    admit: Admit::Waits(|api, attributes, object| {
        let configured = api.dynamic.configured(&api.storage.view());
        match configured.mutating_policies.is_empty() || is_exempt_from_policies(attributes) {
            true => None,
            false => Some(Box::pin(admit(configured, api, attributes, object))),
        }
    }),
    check: Check::Never,
};

async fn admit(
    configured: Arc<Configured>,
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    let (second, mut round) = {
        let mut rounds = attributes.rounds.lock();
        let second = rounds.second;
        rounds.policies.begin(second, object);
        (second, std::mem::take(&mut rounds.policies))
    };
    let mut errors: Vec<String> = Vec::new();
    for policy in configured.mutating_policies.iter().filter(|policy| !policy.bindings.is_empty()) {
        let mut failed = |binding: Option<&Binding>, error: &str| {
            if policy.fail {
                errors.push(match binding {
                    Some(binding) => format!(
                        "policy '{}' with binding '{}' denied request: {error}",
                        policy.name, binding.name
                    ),
                    None => format!("policy '{}' denied request: {error}", policy.name),
                });
            }
        };
        let matched = match policy.find(api, attributes, object) {
            Ok(None) => continue,
            Ok(Some(matched)) => matched,
            Err(error) => {
                failed(None, &error);
                continue;
            }
        };
        for binding in &policy.bindings {
            let params = match policy.bound(api, binding, attributes, object) {
                Ok(params) => params,
                Err(error) => {
                    failed(Some(binding), &error);
                    continue;
                }
            };
            for params in params {
                let params = params.as_ref();
                let id = format!("{}/{}/{}", policy.name, binding.name, policy::param_id(params));
                let shown = Shown::new(api, attributes, &matched, object).await?;
                let hold = shown.evaluate(&policy.variables, params, MATCH_CONDITIONS, |evaluation| {
                    policy::hold(&policy.conditions, evaluation)
                });
                match hold {
                    Ok(true) if !round.skips(second, &id) => {}
                    Ok(_) => continue,
                    Err(error) => {
                        failed(Some(binding), &error);
                        continue;
                    }
                }
                let before = object.clone();
                for mutation in &policy.mutations {
                    if object.is_null() {
                        break;
                    }
                    let since = api.storage.env.clock.monotonic();
                    let done = mutate(api, attributes, policy, &matched, params, mutation, object).await;
                    count(api, policy, binding, done.as_ref().err(), since);
                    if let Err(error) = done {
                        failed(Some(binding), &error);
                    }
                }
                if before != *object {
                    round.changed();
                    attributes.rounds.lock().again = true;
                }
                if policy.again {
                    round.called.push(id);
                }
            }
        }
    }
    round.left = Some(object.clone());
    attributes.rounds.lock().policies = round;
    let Some(first) = errors.first() else { return Ok(()) };
    let mut status = attributes.target.forbidden(first);
    status.message.clone_from(first);
    "Invalid".clone_into(&mut status.reason);
    Err(errors.iter().fold(status, |status, error| status.with_cause("", error, "")))
}

/// Counts a change that was to be made since then.
fn count(api: &Api, policy: &Policy, binding: &Binding, failure: Option<&String>, since: Instant) {
    let took = api.storage.env.clock.monotonic().saturating_duration_since(since);
    admission::mutated(&policy.name, &binding.name, failure.map(String::as_str), took);
}

/// Makes one change.
async fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    policy: &Policy,
    matched: &Kind,
    params: Option<&Value>,
    mutation: &Mutation,
    object: &mut Value,
) -> Result<(), String> {
    let shown = Shown::new(api, attributes, matched, object).await.map_err(|error| error.message)?;
    let run = |expression: &Result<_, String>| -> Result<Value, String> {
        let expression = expression.as_ref().map_err(Clone::clone)?;
        let value = |evaluation: &Evaluation<'_>| evaluation.value(expression);
        shown.evaluate(&policy.variables, params, BUDGET, value)
    };
    let result = match mutation {
        Mutation::Apply(expression) => {
            let mut overlay = run(expression)?;
            let (api_version, kind) = (meta::api_version(&shown.object), meta::kind(&shown.object));
            let ty = match matched.kind == kind {
                true => matched.merge_type(),
                false => schema::lookup_api_version(api_version, kind).map_or(Type::Deduced, Type::Message),
            };
            meta::set_kind(&mut overlay, api_version, kind);
            apply::overlay(ty, &shown.object, &overlay)
                .map_err(|error| format!("error applying patch: {error}"))?
        }
        Mutation::Patch(expression) => {
            let steps = run(expression)?;
            match patch::json_patch(shown.object.clone(), &steps) {
                Ok(result) => result,
                // A test that fails means that nothing is to be changed.
                Err(PatchError::Unprocessable(error)) if error.ends_with("test failed") => return Ok(()),
                Err(error) => return Err(format!("JSONPath: {error}")),
            }
        }
    };
    *object = hooks::settle(api, attributes, result).await.map_err(|error| error.message)?;
    Ok(())
}
