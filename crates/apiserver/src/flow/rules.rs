//! Whose request is whose: what a FlowSchema matches, and what tells flows of one schema apart. Pure.

use std::sync::{Arc, OnceLock};

use api_types::{Value, meta};
use sha2::{Digest, Sha256};

use super::class::Class;
use crate::info::RequestInfo;
use crate::user::{SERVICE_ACCOUNT_PREFIX, UserInfo};

/// What tells flows of one schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    None,
    ByUser,
    ByNamespace,
}

/// A FlowSchema.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    pub name: String,
    pub uid: String,
    /// The priority level that its requests go to.
    pub level: Arc<str>,
    /// Schemas are asked in the order of this number, then of their names.
    pub precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
    class: OnceLock<Arc<Class>>,
}

#[derive(Clone, Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Clone, Debug)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

#[derive(Clone, Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

#[derive(Clone, Debug)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

fn words(value: &Value, field: &str) -> Vec<String> {
    items(value, field).filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Whether a list has a word; a list of nothing but `*` has all.
fn has(list: &[String], word: &str) -> bool {
    matches!(list, [all] if all == "*") || list.iter().any(|own| own == word)
}

impl Schema {
    pub fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let distinguisher = match spec["distinguisherMethod"]["type"].as_str() {
            Some("ByUser") => Distinguisher::ByUser,
            Some("ByNamespace") => Distinguisher::ByNamespace,
            _ => Distinguisher::None,
        };
        Self {
            name: meta::name(object).to_owned(),
            uid: meta::uid(object).to_owned(),
            level: spec["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default().into(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(0),
            distinguisher,
            rules: items(spec, "rules").map(Rule::of).collect(),
            class: OnceLock::new(),
        }
    }

    /// What is counted of its requests.
    pub fn class(&self) -> &Arc<Class> {
        self.class.get_or_init(|| Arc::new(Class::new(&self.level, &self.name)))
    }

    pub fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|subject| subject.is(user))
                && match info.is_resource {
                    true => rule.resources.iter().any(|rule| rule.matches(info)),
                    false => rule.paths.iter().any(|rule| rule.matches(info)),
                }
        })
    }

    /// A number that is the same for all requests of a flow.
    pub fn flow(&self, info: &RequestInfo, user: &UserInfo) -> u64 {
        let distinguisher = match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::ByUser => &user.name,
            Distinguisher::ByNamespace => &info.namespace,
        };
        let mut hash = Sha256::new();
        hash.update(self.name.as_bytes());
        hash.update([0]);
        hash.update(distinguisher.as_bytes());
        let sum = hash.finalize();
        sum.iter().take(8).rev().fold(0_u64, |number, byte| (number << 8) | u64::from(*byte))
    }
}

impl Rule {
    fn of(rule: &Value) -> Self {
        Self {
            subjects: items(rule, "subjects").filter_map(Subject::of).collect(),
            resources: items(rule, "resourceRules")
                .map(|rule| ResourceRule {
                    verbs: words(rule, "verbs"),
                    groups: words(rule, "apiGroups"),
                    resources: words(rule, "resources"),
                    namespaces: words(rule, "namespaces"),
                    cluster_scope: rule["clusterScope"].as_bool().unwrap_or(false),
                })
                .collect(),
            paths: items(rule, "nonResourceRules")
                .map(|rule| PathRule { verbs: words(rule, "verbs"), paths: words(rule, "nonResourceURLs") })
                .collect(),
        }
    }
}

impl Subject {
    fn of(subject: &Value) -> Option<Self> {
        Some(match subject["kind"].as_str()? {
            "User" => Self::User(text(&subject["user"]["name"])),
            "Group" => Self::Group(text(&subject["group"]["name"])),
            "ServiceAccount" => Self::ServiceAccount {
                namespace: text(&subject["serviceAccount"]["namespace"]),
                name: text(&subject["serviceAccount"]["name"]),
            },
            _ => return None,
        })
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.is_in(name),
            Self::ServiceAccount { namespace, name } => {
                let account =
                    user.name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(place, own)| place == namespace && (name == "*" || own == name))
            }
        }
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let resource = match info.subresource.as_str() {
            "" => info.resource.clone(),
            subresource => format!("{}/{subresource}", info.resource),
        };
        let place = match info.namespace.as_str() {
            "" => self.cluster_scope,
            namespace => has(&self.namespaces, namespace),
        };
        place
            && has(&self.verbs, info.verb)
            && has(&self.groups, &info.group)
            && has(&self.resources, &resource)
    }
}

impl PathRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let covers = |path: &String| {
            let start = path.trim_end_matches('*');
            let folder = if start.ends_with('/') { start.to_owned() } else { format!("{start}/") };
            path == "*" || *path == info.path || info.path.starts_with(&folder)
        };
        has(&self.verbs, info.verb) && self.paths.iter().any(covers)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(rule: Value) -> Schema {
        Schema::of(&json!({
            "metadata": {"name": "s", "uid": "u"},
            "spec": {"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 7,
                "distinguisherMethod": {"type": "ByNamespace"}, "rules": [rule]},
        }))
    }

    fn pods(namespace: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: "get",
            resource: "pods".into(),
            namespace: namespace.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn a_schema_matches_subject_and_resource() {
        let rule = json!({
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": "*"}}, {"kind": "User", "user": {"name": "jane"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"], "namespaces": ["*"]}],
        });
        let schema = schema(rule);
        let robot = UserInfo::service_account("a", "r", "");
        assert!(schema.matches(&pods("x"), &robot));
        assert!(schema.matches(&pods("x"), &UserInfo::new("jane", &[])));
        assert!(!schema.matches(&pods("x"), &UserInfo::service_account("ab", "r", "")));
        assert!(!schema.matches(&pods(""), &robot), "not of the cluster's scope");
        assert!(!schema.matches(&RequestInfo { verb: "list", ..pods("x") }, &robot));
        assert!(schema.matches(&RequestInfo { subresource: "log".into(), ..pods("x") }, &robot));
        assert!(!schema.matches(&RequestInfo { subresource: "status".into(), ..pods("x") }, &robot));
        assert!(!schema.matches(&RequestInfo { group: "apps".into(), ..pods("x") }, &robot));
    }

    #[test]
    fn paths_match_whole_or_by_folder() {
        let rule = json!({
            "subjects": [{"kind": "Group", "group": {"name": "*"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/healthz", "/metrics/*"]}],
        });
        let schema = schema(rule);
        let at = |path: &str| {
            let info = RequestInfo { path: path.into(), verb: "get", ..RequestInfo::default() };
            schema.matches(&info, &UserInfo::anonymous())
        };
        assert!(at("/healthz") && at("/healthz/ping") && at("/metrics/x"));
        assert!(!at("/healthzz") && !at("/version"));
    }

    #[test]
    fn a_flow_is_a_schema_and_what_distinguishes() {
        let one = schema(json!({}));
        let user = UserInfo::anonymous();
        assert_eq!(one.flow(&pods("a"), &user), one.flow(&pods("a"), &UserInfo::new("x", &[])));
        assert_ne!(one.flow(&pods("a"), &user), one.flow(&pods("b"), &user));
    }
}
