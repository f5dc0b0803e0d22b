//! What the cluster's users add to admission: webhooks and CEL policies, compiled when they change.
//!
//! Reading order: [`Dynamic`] (what is configured), `matching.rs` (which requests one is about), `request.rs` (the
//! request as they see it), `hooks.rs`, `policy.rs` with `validating.rs` and `mutating.rs`.

pub(super) mod hooks;
mod matching;
pub(super) mod mutating;
mod policy;
mod request;
pub(super) mod validating;

use std::sync::Arc;

use api_rules::look::Look;
use api_types::{Value, codec, meta};
use bytes::Bytes;
use mvcc::KeyRange;

use self::hooks::Hook;
use self::policy::Policy;
use super::Attributes;
use crate::derived::Derived;
use crate::storage::{self, Storage, View};

/// Where webhook configurations, policies and their bindings lie: two neighbourhoods of keys.
const RANGES: [(&str, &str); 2] = [
    ("/registry/mutatingadmissionpolicies/", "/registry/mutatingwebhookconfigurations0"),
    ("/registry/validatingadmissionpolicies/", "/registry/validatingwebhookconfigurations0"),
];
const MUTATING_HOOKS: &str = "/registry/mutatingwebhookconfigurations/";
const VALIDATING_HOOKS: &str = "/registry/validatingwebhookconfigurations/";
const MUTATING_POLICIES: &str = "/registry/mutatingadmissionpolicies/";
const MUTATING_BINDINGS: &str = "/registry/mutatingadmissionpolicybindings/";
const VALIDATING_POLICIES: &str = "/registry/validatingadmissionpolicies/";
const VALIDATING_BINDINGS: &str = "/registry/validatingadmissionpolicybindings/";

/// Everything that is configured, compiled. Each list is in the order of the objects' names.
#[derive(Default)]
struct Configured {
    mutating_hooks: Vec<Arc<Hook>>,
    validating_hooks: Vec<Arc<Hook>>,
    mutating_policies: Vec<Policy>,
    validating_policies: Vec<Policy>,
}

/// What is configured: compiled again when one of the objects changed.
pub(crate) struct Dynamic {
    configured: Derived<Configured>,
}

fn ranges() -> impl Iterator<Item = KeyRange> {
    RANGES.into_iter().map(|(start, end)| KeyRange::Interval {
        start: Bytes::from_static(start.as_bytes()),
        end: Bytes::from_static(end.as_bytes()),
    })
}

impl Dynamic {
    pub fn new(storage: &Storage) -> Self {
        Self { configured: Derived::new(storage, ranges(), Configured::read) }
    }

    /// What is configured at the view's revision or newer.
    fn configured(&self, view: &View) -> Arc<Configured> {
        self.configured.at(view)
    }
}

impl Configured {
    fn read(view: &View, old: &Self) -> Option<Self> {
        let all = |prefix: &'static str| -> Option<Vec<Value>> {
            let stored: Vec<_> =
                storage::each(view, &KeyRange::prefix(prefix)).collect::<Result<_, _>>().ok()?;
            Some(stored.iter().filter_map(|kv| codec::from_stored(&kv.value, kv.mod_revision).ok()).collect())
        };
        let bindings = all(MUTATING_BINDINGS)?;
        let mutating_policies =
            all(MUTATING_POLICIES)?.iter().map(|one| Policy::new(one, &bindings)).collect();
        let bindings = all(VALIDATING_BINDINGS)?;
        let validating_policies =
            all(VALIDATING_POLICIES)?.iter().map(|one| Policy::new(one, &bindings)).collect();
        let hooks = |prefix, known: &[Arc<Hook>]| -> Option<Vec<Arc<Hook>>> {
            Some(all(prefix)?.iter().flat_map(|one| Hook::list(one, known)).collect())
        };
        Some(Self {
            mutating_hooks: hooks(MUTATING_HOOKS, &old.mutating_hooks)?,
            validating_hooks: hooks(VALIDATING_HOOKS, &old.validating_hooks)?,
            mutating_policies,
            validating_policies,
        })
    }
}

/// Whether webhooks and policies are never asked about this kind: they could lock out whoever mends them.
fn is_exempt(attributes: &Attributes<'_>) -> bool {
    let resource = &attributes.target.resource;
    resource.group == "admissionregistration.k8s.io"
        && RANGES.iter().any(|(start, end)| (*start..*end).contains(&resource.storage_prefix.as_str()))
}

/// Kinds about which policies are not asked besides (upstream: `pkg/kubeapiserver/admission/exclusion`).
fn is_exempt_from_policies(attributes: &Attributes<'_>) -> bool {
    let resource = &attributes.target.resource;
    is_exempt(attributes)
        || matches!(
            (resource.group.as_str(), resource.resource.as_str()),
            ("authentication.k8s.io", "selfsubjectreviews" | "tokenreviews")
                | (
                    "authorization.k8s.io",
                    "localsubjectaccessreviews"
                        | "selfsubjectaccessreviews"
                        | "selfsubjectrulesreviews"
                        | "subjectaccessreviews"
                )
        )
}

/// What mutating admission remembers from its first round to the second (upstream: `admission.ReinvocationContext`).
#[derive(Default)]
pub(crate) struct Rounds {
    /// Whether this is the second round.
    pub second: bool,
    /// Whether a second round is wanted.
    pub again: bool,
    hooks: Round,
    policies: Round,
}

/// The same for one plugin.
#[derive(Default)]
struct Round {
    /// Who was called, changed or not, and would be called again.
    called: Vec<String>,
    /// Who is to be called again.
    again: Vec<String>,
    /// What the plugin left.
    left: Option<Value>,
}

impl Round {
    /// Something changed: all who were called before want to see it.
    fn changed(&mut self) {
        self.again.append(&mut self.called);
    }

    /// At the second round's start.
    fn begin(&mut self, second: bool, object: &Value) {
        if second && self.left.as_ref() != Some(object) {
            self.changed();
        }
    }

    fn skips(&self, second: bool, name: &str) -> bool {
        second && !self.again.iter().any(|own| own == name)
    }
}

/// The text of a field.
fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    value.texts(field).map(str::to_owned).collect()
}

/// The name of an object.
fn name_of(object: &Value) -> String {
    meta::name(object).to_owned()
}
