//! RBAC: roles and bindings as they are stored, and what they allow.

use std::collections::HashMap;
use std::sync::Arc;

use api_rules::look::Look;
use api_types::field::quote;
use api_types::selector::LabelSelector;
use api_types::{Value, codec, meta};

use super::Ask;
use crate::user::UserInfo;

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub urls: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

impl Rule {
    /// One that grants everything.
    pub fn everything() -> Self {
        let all = || vec!["*".to_owned()];
        Self { verbs: all(), groups: all(), resources: all(), urls: all(), names: Vec::new() }
    }

    pub fn from_value(value: &Value) -> Self {
        let texts = |field: &str| value.texts(field).map(str::to_owned).collect();
        Self {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            urls: texts("nonResourceURLs"),
        }
    }

    /// The rules of a role object.
    pub fn list(role: &Value) -> Vec<Self> {
        role["rules"].as_array().into_iter().flatten().map(Self::from_value).collect()
    }

    /// How many rules there are in [`Self::parts`].
    pub fn combinations(&self) -> usize {
        let resources = self.groups.len().saturating_mul(self.resources.len());
        let resources = resources.saturating_mul(self.names.len().max(1));
        self.verbs.len().saturating_mul(resources.saturating_add(self.urls.len()))
    }

    /// The same as rules of one verb each, and of one group, one resource and one name at most, or of one URL
    /// (upstream's `BreakdownRule`).
    pub fn parts(&self) -> impl Iterator<Item = Self> {
        let one = |text: &String| vec![text.clone()];
        let names: Vec<Vec<String>> = match self.names.is_empty() {
            true => vec![Vec::new()],
            false => self.names.iter().map(one).collect(),
        };
        let resources = self.groups.iter().flat_map(move |group| {
            let names = names.clone();
            self.resources.iter().flat_map(move |resource| {
                let names = names.clone();
                self.verbs.iter().flat_map(move |verb| {
                    names.clone().into_iter().map(move |names| Self {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        names,
                        urls: Vec::new(),
                    })
                })
            })
        });
        let urls = self.urls.iter().flat_map(move |url| {
            self.verbs.iter().map(move |verb| Self { verbs: one(verb), urls: one(url), ..Self::default() })
        });
        resources.chain(urls)
    }

    /// Whether the rule grants all that one of [`Self::parts`] does (upstream's `ruleCovers`).
    pub fn covers(&self, part: &Self) -> bool {
        let resource = |wanted: &String| {
            let below = wanted.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            has(&self.resources, wanted) || below.is_some_and(|all| self.resources.contains(&all))
        };
        let url = |wanted: &String| {
            self.urls.iter().any(|own| {
                own == wanted || own.ends_with('*') && wanted.starts_with(own.trim_end_matches('*'))
            })
        };
        let names = self.names.is_empty()
            || !part.names.is_empty() && part.names.iter().all(|name| self.names.contains(name));
        part.verbs.iter().all(|verb| has(&self.verbs, verb))
            && part.groups.iter().all(|group| has(&self.groups, group))
            && part.resources.iter().all(resource)
            && part.urls.iter().all(url)
            && names
    }

    /// Whether the rule grants what is asked.
    pub fn allows(&self, ask: &Ask<'_>) -> bool {
        if !has(&self.verbs, ask.verb) {
            return false;
        }
        if let Some(path) = ask.path {
            return self.urls.iter().any(|url| match url.ends_with('*') {
                true => path.starts_with(url.trim_end_matches('*')),
                false => url == path,
            });
        }
        has(&self.groups, ask.group)
            && self.resources.iter().any(|own| resource_matches(own, ask))
            && (self.names.is_empty() || self.names.iter().any(|name| name == ask.name))
    }
}

/// `*` is everything, `*/x` subresource x of everything, `pods` not its subresources.
fn resource_matches(own: &str, ask: &Ask<'_>) -> bool {
    match own.split_once('/') {
        _ if own == "*" => true,
        Some((resource, subresource)) => {
            (resource == "*" || resource == ask.resource)
                && subresource == ask.subresource
                && !subresource.is_empty()
        }
        None => own == ask.resource && ask.subresource.is_empty(),
    }
}

#[derive(Debug)]
struct ClusterRole {
    rules: Vec<Rule>,
    labels: HashMap<String, String>,
    /// Roles with such labels lend their rules to this one.
    aggregates: Vec<LabelSelector>,
}

#[derive(Debug)]
struct Binding {
    role_kind: String,
    role: String,
    subjects: Vec<Subject>,
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    /// The user name of a service account.
    Account(String),
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) | Self::Account(name) => *name == user.name,
            Self::Group(name) => user.is_in(name),
        }
    }

    /// As the audit log says it.
    fn shown(&self) -> String {
        match self {
            Self::User(name) => format!("User {}", quote(name)),
            Self::Group(name) => format!("Group {}", quote(name)),
            Self::Account(user) => {
                let rest = user.strip_prefix(crate::user::SERVICE_ACCOUNT_PREFIX).unwrap_or(user);
                let (namespace, name) = rest.split_once(':').unwrap_or(("", rest));
                format!("ServiceAccount {}", quote(&format!("{name}/{namespace}")))
            }
        }
    }
}

impl Binding {
    fn from_value(value: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = meta::namespace(value);
        let subject = |subject: &Value| {
            let name = text(&subject["name"]);
            Some(match subject["kind"].as_str()? {
                "User" => Subject::User(name),
                "Group" => Subject::Group(name),
                "ServiceAccount" => {
                    let own =
                        subject["namespace"].as_str().filter(|text| !text.is_empty()).unwrap_or(namespace);
                    Subject::Account(format!("{}{own}:{name}", crate::user::SERVICE_ACCOUNT_PREFIX))
                }
                _ => return None,
            })
        };
        Self {
            role_kind: text(&value["roleRef"]["kind"]),
            role: text(&value["roleRef"]["name"]),
            subjects: value["subjects"].as_array().into_iter().flatten().filter_map(subject).collect(),
        }
    }

    fn binds(&self, user: &UserInfo) -> bool {
        self.subjects.iter().any(|subject| subject.is(user))
    }
}

/// All roles and bindings. A clone shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    cluster_roles: HashMap<String, Arc<ClusterRole>>,
    /// By `namespace/name`.
    roles: HashMap<String, Arc<Vec<Rule>>>,
    cluster_bindings: HashMap<String, Arc<Binding>>,
    /// By namespace, then name.
    bindings: HashMap<String, HashMap<String, Arc<Binding>>>,
}

impl Policy {
    /// Takes over a stored object, or its removal.
    pub fn apply(&mut self, key: &[u8], stored: Option<&[u8]>) {
        let Ok(key) = std::str::from_utf8(key) else { return };
        let Some((kind, name)) = key.strip_prefix("/registry/").and_then(|rest| rest.split_once('/')) else {
            return;
        };
        let value = stored.and_then(|bytes| codec::from_stored(bytes, 0).ok());
        match kind {
            "clusterroles" => put(&mut self.cluster_roles, name, value.map(|role| cluster_role(&role))),
            "clusterrolebindings" => {
                put(&mut self.cluster_bindings, name, value.map(|value| Binding::from_value(&value)));
            }
            "roles" => put(&mut self.roles, name, value.map(|role| Rule::list(&role))),
            "rolebindings" => {
                let Some((namespace, name)) = name.split_once('/') else { return };
                let bindings = self.bindings.entry(namespace.to_owned()).or_default();
                put(bindings, name, value.map(|value| Binding::from_value(&value)));
            }
            _ => {}
        }
    }

    /// Rules of a cluster role, those it aggregates included.
    pub fn cluster_role(&self, name: &str) -> Vec<&Rule> {
        let Some(role) = self.cluster_roles.get(name) else { return Vec::new() };
        let mut rules: Vec<&Rule> = role.rules.iter().collect();
        for (other, lent) in &self.cluster_roles {
            let wanted = role
                .aggregates
                .iter()
                .any(|selector| selector.matches(|key| lent.labels.get(key).map(String::as_str)));
            if wanted && other != name {
                // Roles aggregate roles that aggregate (admin ⊃ edit ⊃ view); labels make no cycles deeper than that.
                rules.extend(lent.rules.iter());
                let nested = |selector: &LabelSelector| {
                    let lenders = self.cluster_roles.values();
                    lenders
                        .filter(|role| selector.matches(|key| role.labels.get(key).map(String::as_str)))
                        .collect::<Vec<_>>()
                };
                rules.extend(lent.aggregates.iter().flat_map(nested).flat_map(|role| role.rules.iter()));
            }
        }
        rules
    }

    /// The same; none if there is no such role.
    pub fn known_cluster_role(&self, name: &str) -> Option<Vec<&Rule>> {
        self.cluster_roles.contains_key(name).then(|| self.cluster_role(name))
    }

    /// Rules of a role in a namespace; none if there is no such role.
    pub fn known_role(&self, namespace: &str, name: &str) -> Option<Vec<&Rule>> {
        self.roles.get(&format!("{namespace}/{name}")).map(|rules| rules.iter().collect())
    }

    fn role_rules(&self, binding: &Binding, namespace: &str) -> Vec<&Rule> {
        match binding.role_kind.as_str() {
            "ClusterRole" => self.cluster_role(&binding.role),
            _ => self.known_role(namespace, &binding.role).unwrap_or_default(),
        }
    }

    /// Every rule that holds for a user in a namespace (empty: in the whole cluster).
    pub fn rules_for<'a>(&'a self, user: &UserInfo, namespace: &str) -> Vec<&'a Rule> {
        let mut rules = Vec::new();
        for binding in self.cluster_bindings.values().filter(|binding| binding.binds(user)) {
            rules.extend(self.cluster_role(&binding.role));
        }
        for binding in self.bindings.get(namespace).into_iter().flat_map(HashMap::values) {
            if binding.binds(user) {
                rules.extend(self.role_rules(binding, namespace));
            }
        }
        rules
    }

    pub fn allows(&self, user: &UserInfo, ask: &Ask<'_>) -> bool {
        self.rules_for(user, ask.namespace).iter().any(|rule| rule.allows(ask))
    }

    /// The binding that grants what is asked, in upstream's words; of several the first by name, those of the whole
    /// cluster before those of the namespace.
    pub fn reason(&self, user: &UserInfo, ask: &Ask<'_>) -> Option<String> {
        let grants = |binding: &Binding| {
            binding.binds(user) && self.role_rules(binding, ask.namespace).iter().any(|rule| rule.allows(ask))
        };
        let first = |bindings: &'_ HashMap<String, Arc<Binding>>| {
            let granting = bindings.iter().filter(|(_, binding)| grants(binding));
            granting.min_by_key(|(name, _)| *name).map(|(name, binding)| (name.clone(), binding.clone()))
        };
        let (kind, name, binding) = match first(&self.cluster_bindings) {
            Some((name, binding)) => ("ClusterRoleBinding", name, binding),
            None => {
                let (name, binding) = first(self.bindings.get(ask.namespace)?)?;
                ("RoleBinding", format!("{name}/{}", ask.namespace), binding)
            }
        };
        let subject = binding.subjects.iter().find(|subject| subject.is(user))?;
        let (name, role) = (quote(&name), quote(&binding.role));
        Some(format!("{kind} {name} of {} {role} to {}", binding.role_kind, subject.shown()))
    }
}

fn put<T>(map: &mut HashMap<String, Arc<T>>, name: &str, value: Option<T>) {
    match value {
        Some(value) => map.insert(name.to_owned(), Arc::new(value)),
        None => map.remove(name),
    };
}

fn cluster_role(role: &Value) -> ClusterRole {
    let labels = meta::labels(role).into_iter().flatten();
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten();
    ClusterRole {
        rules: Rule::list(role),
        labels: labels
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        aggregates: selectors.filter_map(|selector| LabelSelector::from_value(selector).ok()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::table;
    use serde_json::json;

    fn policy(objects: &[Value]) -> Policy {
        let mut policy = Policy::default();
        for object in objects {
            let resource = table::by_api_version("rbac.authorization.k8s.io/v1", meta::kind(object)).unwrap();
            let stored = crate::convert::encode(resource, object).unwrap();
            let key = resource.key(meta::namespace(object), meta::name(object));
            policy.apply(key.as_bytes(), Some(&stored));
        }
        policy
    }

    fn object(kind: &str, namespace: &str, name: &str, rest: Value) -> Value {
        let mut object = rest;
        meta::set_kind(&mut object, "rbac.authorization.k8s.io/v1", kind);
        meta::set_name(&mut object, name);
        meta::set_namespace(&mut object, namespace);
        object
    }

    #[test]
    fn bindings_grant_in_their_namespace_only() {
        let policy = policy(&[
            object(
                "Role",
                "n",
                "r",
                json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]}),
            ),
            object(
                "RoleBinding",
                "n",
                "b",
                json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "n"}]}),
            ),
        ]);
        let user = UserInfo::service_account("n", "default", "u");
        let ask = |namespace, verb| Ask { verb, resource: "secrets", namespace, ..Ask::default() };
        assert!(policy.allows(&user, &ask("n", "get")));
        assert!(!policy.allows(&user, &ask("n", "list")));
        assert!(!policy.allows(&user, &ask("m", "get")));
        assert!(!policy.allows(&UserInfo::new("jane", &[]), &ask("n", "get")));
        assert_eq!(
            policy.reason(&user, &ask("n", "get")).unwrap(),
            "RoleBinding \"b/n\" of Role \"r\" to ServiceAccount \"default/n\""
        );
        assert_eq!(policy.reason(&user, &ask("n", "list")), None);
    }

    #[test]
    fn cluster_roles_aggregate_by_label() {
        let lent =
            json!({"rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods", "pods/log"]}]});
        let mut lent = object("ClusterRole", "", "lent", lent);
        meta::set_label(&mut lent, "to-view", "true");
        let view = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}]}, "rules": []});
        let binding = json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "Group", "name": "team", "apiGroup": "rbac.authorization.k8s.io"}]});
        let policy = policy(&[
            lent,
            object("ClusterRole", "", "view", view),
            object("ClusterRoleBinding", "", "b", binding),
        ]);
        let user = UserInfo::new("jane", &["team"]);
        let ask = |subresource| Ask { verb: "list", resource: "pods", subresource, ..Ask::default() };
        assert!(policy.allows(&user, &ask("")) && policy.allows(&user, &ask("log")));
        assert!(!policy.allows(&user, &ask("exec")));
        assert_eq!(
            policy.reason(&user, &ask("log")).unwrap(),
            "ClusterRoleBinding \"b\" of ClusterRole \"view\" to Group \"team\""
        );
    }

    #[test]
    fn paths_match_by_prefix() {
        let rule = Rule {
            verbs: vec!["get".into()],
            urls: vec!["/api/*".into(), "/version".into()],
            ..Rule::default()
        };
        let ask = |path| Ask { verb: "get", path: Some(path), ..Ask::default() };
        assert!(rule.allows(&ask("/api/v1")) && rule.allows(&ask("/version")));
        assert!(!rule.allows(&ask("/apis")) && !rule.allows(&ask("/version/x")));
    }
}
