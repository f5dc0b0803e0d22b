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
use super::{Configured, Round, hooks, is_exempt_from_policies};
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
    let mut walk = Walk::begin(api, attributes, object);
    for policy in configured.mutating_policies.iter().filter(|policy| !policy.bindings.is_empty()) {
        walk.policy(policy, object).await?;
    }
    walk.end(object)
}

/// The policies' turn, one after another.
struct Walk<'a> {
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    second: bool,
    round: Round,
    errors: Vec<String>,
}

impl<'a> Walk<'a> {
    fn begin(api: &'a Api, attributes: &'a Attributes<'a>, object: &Value) -> Self {
        let mut rounds = attributes.rounds.lock();
        let second = rounds.second;
        rounds.policies.begin(second, object);
        let round = std::mem::take(&mut rounds.policies);
        Self { api, attributes, second, round, errors: Vec::new() }
    }

    fn end(mut self, object: &Value) -> Result<(), Status> {
        self.round.left = Some(object.clone());
        self.attributes.rounds.lock().policies = self.round;
        let Some(first) = self.errors.first() else { return Ok(()) };
        let mut status = self.attributes.target.forbidden(first);
        status.message.clone_from(first);
        "Invalid".clone_into(&mut status.reason);
        Err(self.errors.iter().fold(status, |status, error| status.with_cause("", error, "")))
    }

    fn failed(&mut self, policy: &Policy, binding: Option<&Binding>, error: &str) {
        if policy.fail {
            let binding =
                binding.map_or_else(String::new, |binding| format!(" with binding '{}'", binding.name));
            self.errors.push(format!("policy '{}'{binding} denied request: {error}", policy.name));
        }
    }

    async fn policy(&mut self, policy: &Policy, object: &mut Value) -> Result<(), Status> {
        let matched = match policy.find(self.api, self.attributes, object) {
            Ok(Some(matched)) => matched,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.failed(policy, None, &error);
                return Ok(());
            }
        };
        for binding in &policy.bindings {
            match policy.bound(self.api, binding, self.attributes, object) {
                Ok(all) => {
                    for params in all {
                        self.bound(policy, binding, &matched, params.as_ref(), object).await?;
                    }
                }
                Err(error) => self.failed(policy, Some(binding), &error),
            }
        }
        Ok(())
    }

    /// Makes the changes of a policy with one of its binding's parameters.
    async fn bound(
        &mut self,
        policy: &Policy,
        binding: &Binding,
        matched: &Kind,
        params: Option<&Value>,
        object: &mut Value,
    ) -> Result<(), Status> {
        let id = format!("{}/{}/{}", policy.name, binding.name, policy::param_id(params));
        let shown = Shown::new(self.api, self.attributes, matched, object).await?;
        let hold = shown.evaluate(&policy.variables, params, MATCH_CONDITIONS, |evaluation| {
            policy::hold(&policy.conditions, evaluation)
        });
        match hold {
            Ok(true) if !self.round.skips(self.second, &id) => {}
            Ok(_) => return Ok(()),
            Err(error) => {
                self.failed(policy, Some(binding), &error);
                return Ok(());
            }
        }
        let before = object.clone();
        for mutation in &policy.mutations {
            if object.is_null() {
                break;
            }
            let since = self.api.storage.env.clock.monotonic();
            let done = mutate(self.api, self.attributes, policy, matched, params, mutation, object).await;
            count(self.api, policy, binding, done.as_ref().err(), since);
            if let Err(error) = done {
                self.failed(policy, Some(binding), &error);
            }
        }
        if before != *object {
            self.round.changed();
            self.attributes.rounds.lock().again = true;
        }
        if policy.again {
            self.round.called.push(id);
        }
        Ok(())
    }
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
