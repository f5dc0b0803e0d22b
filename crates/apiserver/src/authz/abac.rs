//! Policies in a file, one a line (ABAC; upstream: `pkg/auth/authorizer/abac`). Whoever one of them matches may.

use std::path::Path;

use api_rules::look::Look;
use api_types::Value;

use super::{Ask, Rule};
use crate::user::{AUTHENTICATED, UserInfo};

const GROUP: &str = "abac.authorization.kubernetes.io/";

/// The policies of a file, as they were at the start.
pub(super) struct Policies(Vec<Policy>);

#[derive(Debug)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    path: String,
}

impl Policies {
    /// # Errors
    /// The file cannot be read, or which of its lines is none.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path);
        Self::read(&text.map_err(|error| format!("open {}: {error}", path.display()))?, path)
    }

    fn read(text: &str, path: &Path) -> Result<Self, String> {
        let mut policies = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let policy = Policy::read(trimmed).map_err(|error| {
                format!("error reading policy file {}, line {}: {line}: {error}", path.display(), index + 1)
            });
            policies.push(policy?);
        }
        Ok(Self(policies))
    }

    pub fn allows(&self, user: &UserInfo, ask: &Ask<'_>) -> bool {
        self.0.iter().any(|policy| policy.is_of(user) && policy.allows(ask))
    }

    /// Everything that a user may do in a namespace.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let here = |policy: &&Policy| {
            policy.is_of(user) && (policy.namespace == "*" || policy.namespace == namespace)
        };
        let mut rules = Vec::new();
        for policy in self.0.iter().filter(here) {
            let verbs: &[&str] = if policy.readonly { &["get", "list", "watch"] } else { &["*"] };
            let verbs: Vec<String> = verbs.iter().map(|verb| (*verb).to_owned()).collect();
            if !policy.resource.is_empty() {
                rules.push(Rule {
                    verbs: verbs.clone(),
                    groups: vec![policy.api_group.clone()],
                    resources: vec![policy.resource.clone()],
                    ..Rule::default()
                });
            }
            if !policy.path.is_empty() {
                rules.push(Rule { verbs, urls: vec![policy.path.clone()], ..Rule::default() });
            }
        }
        rules
    }
}

impl Policy {
    fn read(line: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let (version, kind) = (value.text("apiVersion"), value.text("kind"));
        if !value.is_object() {
            return Err("it is no object".to_owned());
        }
        match (version.strip_prefix(GROUP), kind) {
            (Some("v1beta1"), "Policy") => {}
            (Some("v0"), "Policy") => return Ok(Self::unversioned(&value)),
            _ if version.is_empty() && kind.is_empty() => return Ok(Self::unversioned(&value)),
            _ => return Err(format!("no kind {kind:?} is registered for version {version:?}")),
        }
        let mut policy = Self::of(value.at("spec"));
        policy.everyone();
        Ok(policy)
    }

    fn of(spec: &Value) -> Self {
        let text = |field: &str| spec.text(field).to_owned();
        Self {
            user: text("user"),
            group: text("group"),
            readonly: spec.flag("readonly"),
            api_group: text("apiGroup"),
            resource: text("resource"),
            namespace: text("namespace"),
            path: text("nonResourcePath"),
        }
    }

    /// As policies were once: what is not said is everything.
    fn unversioned(value: &Value) -> Self {
        let mut policy = Self { api_group: "*".to_owned(), path: String::new(), ..Self::of(value) };
        if policy.user.is_empty() && policy.group.is_empty() {
            AUTHENTICATED.clone_into(&mut policy.group);
        }
        policy.everyone();
        if policy.namespace.is_empty() && policy.resource.is_empty() {
            "*".clone_into(&mut policy.path);
        }
        for field in [&mut policy.namespace, &mut policy.resource] {
            if field.is_empty() {
                "*".clone_into(field);
            }
        }
        policy
    }

    /// Everyone is everyone who is known.
    fn everyone(&mut self) {
        if self.user == "*" || self.group == "*" {
            AUTHENTICATED.clone_into(&mut self.group);
            self.user.clear();
        }
    }

    fn is_of(&self, user: &UserInfo) -> bool {
        let (named, grouped) = (!self.user.is_empty(), !self.group.is_empty());
        (named || grouped) && (!named || self.user == user.name) && (!grouped || user.is_in(&self.group))
    }

    fn allows(&self, ask: &Ask<'_>) -> bool {
        let reads = matches!(ask.verb, "get" | "list" | "watch");
        if self.readonly && !reads {
            return false;
        }
        let fits = |own: &str, wanted: &str| own == "*" || own == wanted;
        match ask.path {
            None => {
                fits(&self.namespace, ask.namespace)
                    && fits(&self.resource, ask.resource)
                    && fits(&self.api_group, ask.group)
            }
            Some(path) => {
                let below = self.path.ends_with('*') && path.starts_with(self.path.trim_end_matches('*'));
                self.path == path || below
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Policies, String> {
        Policies::read(text, Path::new("policies"))
    }

    fn spec(spec: &str) -> Policies {
        let head =
            "{\"apiVersion\": \"abac.authorization.kubernetes.io/v1beta1\", \"kind\": \"Policy\", \"spec\": ";
        read(&format!("# comment\n\n{head}{spec}}}\n")).unwrap()
    }

    #[test]
    fn a_policy_is_of_somebody_and_for_something() {
        let pods = Ask { verb: "list", resource: "pods", namespace: "a", ..Ask::default() };
        let make = Ask { verb: "create", ..pods.clone() };
        let elsewhere = Ask { namespace: "b", ..pods.clone() };
        let path = |path| Ask { verb: "get", path: Some(path), ..Ask::default() };
        let (ann, joe) = (UserInfo::new("ann", &["x"]), UserInfo::new("joe", &[]));
        let policies = spec(r#"{"user": "ann", "namespace": "a", "resource": "pods", "readonly": true}"#);
        assert!(policies.allows(&ann, &pods) && !policies.allows(&joe, &pods));
        assert!(!policies.allows(&ann, &make) && !policies.allows(&ann, &elsewhere));
        assert!(!policies.allows(&ann, &path("/x")));
        let both =
            spec(r#"{"user": "ann", "group": "y", "namespace": "*", "resource": "*", "apiGroup": "*"}"#);
        assert!(!both.allows(&ann, &pods), "it must be both");
        let all = spec(r#"{"user": "*", "namespace": "*", "resource": "*", "apiGroup": "*"}"#);
        assert!(all.allows(&joe, &make) && !all.allows(&UserInfo::anonymous(), &pods));
        assert!(!spec(r#"{"namespace": "*", "resource": "*"}"#).allows(&ann, &pods), "it is nobody's");
        let paths = spec(r#"{"group": "x", "nonResourcePath": "/logs/*"}"#);
        assert!(paths.allows(&ann, &path("/logs/a")) && !paths.allows(&ann, &path("/log")));
        assert!(!paths.allows(&ann, &pods));
        assert_eq!(policies.rules(&ann, "a")[0].verbs, ["get", "list", "watch"]);
        assert!(policies.rules(&ann, "b").is_empty());
    }

    #[test]
    fn old_policies_mean_everything_that_they_do_not_say() {
        let old = read(r#"{"user": "ann", "readonly": true}"#).unwrap();
        let ask =
            Ask { verb: "get", group: "apps", resource: "deployments", namespace: "n", ..Ask::default() };
        assert!(old.allows(&UserInfo::new("ann", &[]), &ask));
        let path = Ask { verb: "get", path: Some("/metrics"), ..Ask::default() };
        assert!(old.allows(&UserInfo::new("ann", &[]), &path));
        assert!(!old.allows(&UserInfo::new("joe", &[]), &ask));
        assert!(read("{}").unwrap().allows(&UserInfo::new("joe", &[]), &ask));
    }

    #[test]
    fn what_cannot_be_read_names_its_line() {
        assert!(read("\nno").err().unwrap().starts_with("error reading policy file policies, line 2: no: "));
        let unknown = r#"{"apiVersion": "abac.authorization.kubernetes.io/v2", "kind": "Policy"}"#;
        assert!(read(unknown).err().unwrap().contains("no kind \"Policy\" is registered"));
    }
}
