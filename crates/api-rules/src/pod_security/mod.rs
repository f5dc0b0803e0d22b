//! Pod Security Standards: which pods a level of security allows, by the version of the policy, and what a namespace's
//! labels ask for. Checks, versions and texts are upstream's (`k8s.io/pod-security-admission`).

mod checks;

#[cfg(test)]
mod tests;

use std::fmt;

use api_types::field::{FieldError, Path};
use api_types::meta;
use serde_json::Value;

use crate::look::Look;
use checks::{BASELINE, Check, RESTRICTED};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// The minor version of Kubernetes whose policy is the latest.
const LATEST: u32 = 37;
/// Pods of a namespace that a new level is checked against (upstream's `defaultNamespaceMaxPodsToCheck`).
const MAX_PODS: usize = 3000;

/// How much is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// No known ways out of a container.
    Baseline,
    /// What hardened pods need.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => return None,
        })
    }
}

/// A level as of a version of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standard {
    /// The level.
    pub level: Level,
    /// The minor version; none is the latest.
    pub minor: Option<u32>,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            None => write!(f, "{level}:latest"),
            Some(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

impl Default for Standard {
    fn default() -> Self {
        Self { level: Level::Privileged, minor: None }
    }
}

/// What is said of a level that is none, and of a version.
const NO_LEVEL: &str = "must be one of privileged, baseline, restricted";
const NO_VERSION: &str = "must be \"latest\" or \"v1.x\"";

/// What holds for namespaces that do not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// What pods must keep to.
    pub enforce: Standard,
    /// What is written to the audit log.
    pub audit: Standard,
    /// What clients are warned of.
    pub warn: Standard,
}

impl Defaults {
    /// Reads the field `defaults` of a `PodSecurityConfiguration`; what is missing is `privileged`, and `latest`.
    ///
    /// # Errors
    /// Levels and versions that there are not.
    pub fn read(configured: &Value) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut read = |mode: &str| {
            let mut standard = Standard::default();
            let path = |field: &str| Path::new("defaults").child(field);
            match configured.text(mode) {
                "" => {}
                text => match Level::parse(text) {
                    Some(level) => standard.level = level,
                    None => errors.push(FieldError::invalid(&path(mode), text, NO_LEVEL)),
                },
            }
            let field = format!("{mode}-version");
            match configured.text(&field) {
                "" => {}
                text => match version(text) {
                    Some(minor) => standard.minor = minor,
                    None => errors.push(FieldError::invalid(&path(&field), text, NO_VERSION)),
                },
            }
            standard
        };
        let defaults = Self { enforce: read("enforce"), warn: read("warn"), audit: read("audit") };
        if errors.is_empty() { Ok(defaults) } else { Err(errors) }
    }
}

/// What a namespace asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What pods must keep to.
    pub enforce: Standard,
    /// What is written to the audit log.
    pub audit: Standard,
    /// What clients are warned of.
    pub warn: Standard,
    /// Labels that cannot be read.
    pub errors: Vec<FieldError>,
}

fn version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("v1.")?;
    let plain =
        digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    if plain { digits.parse().ok().map(Some) } else { None }
}

impl Policy {
    /// The policy of a namespace. A level that cannot be read is enforced as the strictest, and not warned of.
    pub fn of(namespace: &Value, defaults: &Defaults) -> Self {
        let Defaults { enforce, audit, warn } = *defaults;
        let mut policy = Self { enforce, audit, warn, errors: Vec::new() };
        let label = |name: &str| {
            meta::labels(namespace)
                .and_then(|labels| labels.get(&format!("{PREFIX}{name}")))
                .and_then(Value::as_str)
        };
        let mut errors = Vec::new();
        let mut read = |mode: &str, standard: &mut Standard, unreadable: Level| {
            let path = |name: &str| Path::new("metadata").child("labels").key(&format!("{PREFIX}{name}"));
            let level = label(mode);
            let known = level.and_then(Level::parse);
            if let Some(text) = level {
                standard.level = known.unwrap_or(unreadable);
                if known.is_none() {
                    errors.push(FieldError::invalid(&path(mode), text, NO_LEVEL));
                }
            }
            let name = format!("{mode}-version");
            if let Some(text) = label(&name) {
                let parsed = version(text);
                standard.minor = parsed.flatten();
                if parsed.is_none() {
                    errors.push(FieldError::invalid(&path(&name), text, NO_VERSION));
                }
            }
            known
        };
        let enforced = read("enforce", &mut policy.enforce, Level::Restricted);
        read("audit", &mut policy.audit, Level::Privileged);
        read("warn", &mut policy.warn, Level::Privileged);
        policy.errors = errors;
        if label("warn").is_none() && enforced.is_some_and(|level| level > policy.warn.level) {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.minor = policy.enforce.minor;
            }
        }
        policy
    }

    /// Whether nothing is refused and nothing told.
    pub fn allows_everything(&self) -> bool {
        self.errors.is_empty()
            && [self.enforce, self.audit, self.warn]
                .iter()
                .all(|standard| standard.level == Level::Privileged)
    }
}

/// Why a pod is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In a word or two.
    pub reason: String,
    /// What exactly.
    pub detail: String,
}

/// How a pod (or a pod template: metadata and spec) violates a standard; empty when it does not.
pub fn violations(standard: Standard, pod: &Value) -> Vec<Violation> {
    let minor = standard.minor.unwrap_or(LATEST).min(LATEST);
    let now = |checks: &'static [Check]| checks.iter().filter_map(move |check| check.at(minor));
    let restricted: Vec<_> = match standard.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => Vec::new(),
        Level::Restricted => now(RESTRICTED).collect(),
    };
    let replaced = |id: &str| restricted.iter().any(|version| version.replaces == id);
    let baseline = BASELINE.iter().filter(|check| !replaced(check.id)).filter_map(|check| check.at(minor));
    let all = baseline.chain(restricted.iter().copied());
    all.filter_map(|version| (version.run)(pod)).collect()
}

/// Violations in one line, with their details.
pub fn details(violations: &[Violation]) -> String {
    let each = |violation: &Violation| match violation.detail.as_str() {
        "" => violation.reason.clone(),
        detail => format!("{} ({detail})", violation.reason),
    };
    violations.iter().map(each).collect::<Vec<_>>().join(", ")
}

/// Whether a change of a pod is one that its security may depend on.
pub fn is_significant(new: &Value, old: &Value) -> bool {
    let changed = |list: &str| {
        let (new, old) = (new.items(list), old.items(list));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| new.text("image") != old.text("image"))
    };
    let known = |container: &Value| {
        let all = old.items("spec.ephemeralContainers").iter();
        all.filter(|old| old.text("name") == container.text("name"))
            .any(|old| old.text("image") == container.text("image"))
    };
    changed("spec.containers")
        || changed("spec.initContainers")
        || !new.items("spec.ephemeralContainers").iter().all(known)
}

/// What a namespace's owner is told of when its pods do not keep to what it asks for from now on. `pods`: those that
/// are there.
pub fn warn_of_pods(namespace: &str, standard: Standard, pods: &[Value]) -> Vec<String> {
    let pods_in_order = one_of_each_owner_first(pods);
    let mut found: Vec<(String, &str, usize)> = Vec::new();
    for pod in pods_in_order.iter().take(MAX_PODS) {
        let violations = violations(standard, pod);
        if violations.is_empty() {
            continue;
        }
        let reasons: Vec<&str> = violations.iter().map(|violation| violation.reason.as_str()).collect();
        let (reasons, name) = (reasons.join(", "), meta::name(pod));
        match found.iter_mut().find(|(known, ..)| *known == reasons) {
            Some((_, first, count)) => {
                *first = name.min(first);
                *count += 1;
            }
            None => found.push((reasons, name, 1)),
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > MAX_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut each: Vec<String> = found
        .into_iter()
        .map(|(reasons, name, count)| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            count => format!("{name} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    each.sort();
    warnings.extend(each);
    warnings
}

/// Pods of one owner are alike: the first of each comes before the rest.
fn one_of_each_owner_first(pods: &[Value]) -> Vec<&Value> {
    let mut owners = std::collections::HashSet::new();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for pod in pods {
        let new = meta::controller(pod).is_none_or(|owner| owners.insert(owner.uid));
        if new { first.push(pod) } else { rest.push(pod) }
    }
    first.extend(rest);
    first
}
