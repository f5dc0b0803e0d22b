//! What is counted of admission (upstream: `apiserver/pkg/admission/metrics`).

use std::time::Duration;

use metrics::{Histogram, counter, histogram};

use super::few::Few;
use crate::admission::Operation;

/// A half of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Admit,
    Validate,
}

impl Phase {
    /// What upstream calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        }
    }
}

/// What a step of admission was about, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub phase: Phase,
    pub operation: Operation,
    pub is_refused: bool,
}

/// How long a plugin takes, or all together.
#[derive(Default)]
pub(crate) struct Durations {
    plugin: Option<&'static str>,
    cells: Few<Case, Histogram>,
}

impl Durations {
    pub fn of_plugin(name: &'static str) -> Self {
        Self { plugin: Some(name), cells: Few::default() }
    }

    pub fn note(&self, case: Case, took: Duration) {
        self.cells.get(case, || self.histogram(case)).record(took.as_secs_f64());
    }

    fn histogram(&self, Case { phase, operation, is_refused }: Case) -> Histogram {
        let (phase, operation, rejected) = (phase.name(), operation.name(), truth(is_refused));
        match self.plugin {
            Some(name) => histogram!(
                "apiserver_admission_controller_admission_duration_seconds",
                "name" => name, "type" => phase, "operation" => operation, "rejected" => rejected
            ),
            None => histogram!(
                "apiserver_admission_step_admission_duration_seconds",
                "type" => phase, "operation" => operation, "rejected" => rejected
            ),
        }
    }
}

/// Codes above are counted as this one.
const MAX_CODE: u16 = 600;

fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// How the call of a webhook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    Allowed,
    /// With the code of its refusal.
    Refused(u16),
    /// There was no answer that counts, which refuses the request or not.
    Failed {
        refuses: bool,
    },
    /// What it answered could not be carried out.
    Unusable,
}

/// A webhook was called. `phase`: `admit` or `validating`.
pub(crate) fn called(
    webhook: &str,
    phase: &'static str,
    operation: &'static str,
    how: Called,
    took: Duration,
) {
    // What upstream makes of an answer that does not count.
    const UNAVAILABLE: u16 = 503;
    let (code, fault) = match how {
        Called::Allowed => (200, None),
        Called::Refused(code) => (code.min(MAX_CODE), Some("no_error")),
        Called::Failed { refuses } => (UNAVAILABLE, refuses.then_some("calling_webhook_error")),
        Called::Unusable => (0, Some("apiserver_internal_error")),
    };
    let (name, rejected) = (webhook.to_owned(), truth(fault.is_some()));
    counter!(
        "apiserver_admission_webhook_request_total",
        "name" => name.clone(), "type" => phase, "operation" => operation,
        "code" => code.to_string(), "rejected" => rejected
    )
    .increment(1);
    histogram!(
        "apiserver_admission_webhook_admission_duration_seconds",
        "name" => name.clone(), "type" => phase, "operation" => operation, "rejected" => rejected
    )
    .record(took.as_secs_f64());
    if let Some(fault) = fault {
        counter!(
            "apiserver_admission_webhook_rejection_count",
            "name" => name.clone(), "type" => phase, "operation" => operation,
            "error_type" => fault, "rejection_code" => code.to_string()
        )
        .increment(1);
    }
    if how == (Called::Failed { refuses: false }) {
        counter!("apiserver_admission_webhook_fail_open_count", "name" => name, "type" => phase).increment(1);
    }
}

/// What upstream calls what kept an expression of a policy from being evaluated; nothing did without a text.
fn fault(text: Option<&str>) -> &'static str {
    match text {
        None => "no_error",
        Some(text) if text.starts_with("compilation") => "compile_error",
        Some(text) if text.starts_with("validation failed due to running out of cost budget") => {
            "out_of_budget"
        }
        Some(_) => "invalid_error",
    }
}

/// A validation of a policy did not hold, or failed: with which text. `action`: what its binding does about it.
pub(crate) fn validated(
    policy: &str,
    binding: &str,
    failure: Option<&str>,
    action: &'static str,
    took: Duration,
) {
    let labels = [
        ("policy", policy.to_owned()),
        ("policy_binding", binding.to_owned()),
        ("error_type", fault(failure).to_owned()),
        ("enforcement_action", action.to_owned()),
    ];
    counter!("apiserver_validating_admission_policy_check_total", &labels).increment(1);
    histogram!("apiserver_validating_admission_policy_check_duration_seconds", &labels)
        .record(took.as_secs_f64());
}

/// A mutation of a policy was made, or failed: with which text.
pub(crate) fn mutated(policy: &str, binding: &str, failure: Option<&str>, took: Duration) {
    let labels = [
        ("policy", policy.to_owned()),
        ("policy_binding", binding.to_owned()),
        ("error_type", fault(failure).to_owned()),
    ];
    counter!("apiserver_mutating_admission_policy_check_total", &labels).increment(1);
    histogram!("apiserver_mutating_admission_policy_check_duration_seconds", &labels)
        .record(took.as_secs_f64());
}
