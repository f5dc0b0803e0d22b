//! `PodSecurityConfiguration`: what holds for namespaces that say nothing of pod security, and who and what is exempt
//! (upstream: `k8s.io/pod-security-admission/admission/api`). Pure.

use std::collections::HashSet;

use api_rules::format;
use api_rules::look::Look;
use api_rules::pod_security::{Defaults, Level, Policy};
use api_types::field::{self, FieldError, Path, quote};
use api_types::{Value, meta};

use crate::config_file;

const GROUP: &str = "pod-security.admission.config.k8s.io";
const KIND: &str = "PodSecurityConfiguration";
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
/// The fields that there are: of the document, and of its two parts.
const FIELDS: [(&str, &[&str]); 3] = [
    ("", &["apiVersion", "kind", "defaults", "exemptions"]),
    ("defaults", &["enforce", "enforce-version", "audit", "audit-version", "warn", "warn-version"]),
    ("exemptions", &["usernames", "namespaces", "runtimeClasses"]),
];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PodSecurity {
    pub defaults: Defaults,
    usernames: HashSet<String>,
    namespaces: HashSet<String>,
    runtime_classes: HashSet<String>,
}

impl PodSecurity {
    /// Reads the plugin's configuration.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn read(document: Option<&Value>) -> Result<Self, String> {
        let Some(document) = document else { return Ok(Self::default()) };
        config_file::check_kind(document, GROUP, KIND, &VERSIONS)?;
        check_fields(document)?;
        let mut errors = Vec::new();
        let defaults = Defaults::read(document.at("defaults"));
        let defaults = defaults.unwrap_or_else(|faults| {
            errors.extend(faults);
            Defaults::default()
        });
        let mut names = |field: &str, check: fn(&str) -> Vec<String>| {
            let path = Path::new("exemptions").child(field);
            let names = document.at("exemptions").texts(field).map(str::to_owned).collect();
            unique(&path, names, check, &mut errors)
        };
        let found = Self {
            defaults,
            namespaces: names("namespaces", format::dns1123_label),
            runtime_classes: names("runtimeClasses", format::dns1123_subdomain),
            usernames: names("usernames", |_| Vec::new()),
        };
        if errors.is_empty() { Ok(found) } else { Err(field::aggregate(&errors)) }
    }

    /// What of a namespace, of a user or of a pod is exempt, as the audit log says it; none if nothing is.
    pub fn exempt(&self, namespace: &str, user: &str) -> Option<&'static str> {
        if self.namespaces.contains(namespace) {
            return Some("namespace");
        }
        self.usernames.contains(user).then_some("user")
    }

    /// The same for a pod or a template of pods.
    pub fn exempt_pod(&self, pod: &Value) -> Option<&'static str> {
        let class = pod.text("spec.runtimeClassName");
        (!class.is_empty() && self.runtime_classes.contains(class)).then_some("runtimeClass")
    }

    /// What somebody reads who labels an exempt namespace.
    pub fn warning(&self, namespace: &Value, policy: &Policy) -> Option<String> {
        let own = Defaults { enforce: policy.enforce, audit: policy.audit, warn: policy.warn };
        if policy.allows_everything() || own == self.defaults {
            return None;
        }
        let has = |label: &str| {
            let label = format!("pod-security.kubernetes.io/{label}");
            meta::labels(namespace).is_some_and(|labels| labels.contains_key(&label))
        };
        let modes = [("enforce", own.enforce), ("audit", own.audit), ("warn", own.warn)];
        let told = modes.into_iter().filter(|(mode, standard)| {
            standard.level != Level::Privileged && (has(mode) || has(&format!("{mode}-version")))
        });
        let told: Vec<String> = told.map(|(mode, standard)| format!("{mode}={standard}")).collect();
        Some(format!(
            "namespace {} is exempt from Pod Security, and the policy ({}) will be ignored",
            quote(meta::name(namespace)),
            told.join(", ")
        ))
    }
}

/// Names that are good, each once.
fn unique(
    path: &Path,
    names: Vec<String>,
    check: fn(&str) -> Vec<String>,
    errors: &mut Vec<FieldError>,
) -> HashSet<String> {
    let mut seen = HashSet::new();
    for (index, name) in names.into_iter().enumerate() {
        let (path, problems) = (path.index(index), check(&name));
        if !problems.is_empty() {
            errors.push(FieldError::invalid(&path, name, problems.join(", ")));
        } else if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(&path, name));
        } else {
            seen.insert(name);
        }
    }
    seen
}

/// Unknown fields are mistakes.
fn check_fields(document: &Value) -> Result<(), String> {
    let mut unknown = Vec::new();
    for (part, known) in FIELDS {
        let own = document.entries(part).map(|(field, _)| field);
        let path = |field: &str| if part.is_empty() { field.to_owned() } else { format!("{part}.{field}") };
        unknown.extend(own.filter(|field| !known.contains(field)).map(path));
    }
    config_file::unknown(&unknown)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(parts: Value) -> Result<PodSecurity, String> {
        let mut document = parts;
        document["apiVersion"] = json!(format!("{GROUP}/v1"));
        document["kind"] = json!(KIND);
        PodSecurity::read(Some(&document))
    }

    #[test]
    fn defaults_and_exemptions_are_read() {
        let found = read(json!({
            "defaults": {"enforce": "baseline", "enforce-version": "v1.30", "warn": "restricted"},
            "exemptions": {"usernames": ["jane"], "namespaces": ["kube-system"], "runtimeClasses": ["gvisor"]},
        }));
        let found = found.expect("good");
        let Defaults { enforce, audit, warn } = found.defaults;
        assert_eq!(
            [enforce, audit, warn].map(|one| one.to_string()),
            ["baseline:v1.30", "privileged:latest", "restricted:latest"]
        );
        assert_eq!(found.exempt("kube-system", "jane"), Some("namespace"));
        assert_eq!(found.exempt("default", "jane"), Some("user"));
        assert_eq!(found.exempt("default", "bob"), None);
        assert_eq!(found.exempt_pod(&json!({"spec": {"runtimeClassName": "gvisor"}})), Some("runtimeClass"));
        assert_eq!(found.exempt_pod(&json!({"spec": {}})), None);
    }

    #[test]
    fn mistakes_are_told_in_upstreams_words() {
        let fault = |parts| read(parts).expect_err("a fault");
        assert_eq!(
            fault(json!({"defaults": {"enforce": "strict", "warn-version": "2"}})),
            "[defaults.enforce: Invalid value: \"strict\": must be one of privileged, baseline, restricted, defaults.warn-version: Invalid value: \"2\": must be \"latest\" or \"v1.x\"]"
        );
        let twice = json!({"exemptions": {"namespaces": ["a", "a"], "usernames": [""]}});
        assert_eq!(
            fault(twice),
            "[exemptions.namespaces[1]: Duplicate value: \"a\", exemptions.usernames[0]: Required value]"
        );
        assert!(
            fault(json!({"exemptions": {"runtimeClasses": ["A b"]}}))
                .starts_with("exemptions.runtimeClasses[0]: Invalid value: \"A b\": ")
        );
        assert_eq!(fault(json!({"default": {}})), "strict decoding error: unknown field \"default\"");
        assert!(PodSecurity::read(Some(&json!({"kind": KIND}))).is_err());
    }

    #[test]
    fn who_labels_an_exempt_namespace_is_told() {
        let found = PodSecurity::default();
        let namespace =
            json!({"metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
        let policy = Policy::of(&namespace, &found.defaults);
        assert_eq!(
            found.warning(&namespace, &policy).as_deref(),
            Some(
                "namespace \"n\" is exempt from Pod Security, and the policy (enforce=baseline:latest) will be ignored"
            )
        );
        let plain = json!({"metadata": {"name": "n"}});
        assert_eq!(found.warning(&plain, &Policy::of(&plain, &found.defaults)), None);
    }
}
