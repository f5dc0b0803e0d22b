//! RBAC's own guard: nobody grants what they do not have, unless they may `escalate` or `bind` (upstream:
//! `pkg/registry/rbac`, the `policybased` storages).

use std::collections::BTreeSet;

use api_types::field::quote;
use api_types::status::Status;
use api_types::{Value, meta};

use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;
use crate::authz::{Ask, Policy, Rule};
use crate::storage::View;
use crate::user::{MASTERS, UserInfo};

const GROUP: &str = "rbac.authorization.k8s.io";
/// Combinations of verb, group, resource and name that the rules of one object are looked at in, at most.
const MAX_COMBINATIONS: usize = 1_000_000;
/// Combinations that are missing and told of, at most.
const MAX_MISSING: usize = 1000;

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Never, check: Check::Now(check) };

fn check(api: &Api, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let target = attributes.target;
    if target.resource.group != GROUP
        || attributes.operation == Operation::Delete
        || attributes.user.is_in(MASTERS)
        || attributes.old.is_some_and(|old| is_for_deletion(object, old))
    {
        return Ok(());
    }
    let view = api.storage.view();
    let policy = api.authorizer.policy(&view);
    let guard = Guard { api, view: &view, attributes, policy: &policy };
    match target.resource.resource.as_str() {
        kind @ ("roles" | "clusterroles") => guard.role(kind, object),
        "rolebindings" | "clusterrolebindings" => guard.binding(object),
        _ => Ok(()),
    }
}

/// Whether nothing changes but what the garbage collector changes.
fn is_for_deletion(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        let metadata = meta::metadata_mut(&mut object);
        for field in ["ownerReferences", "finalizers", "selfLink", "managedFields", "resourceVersion"] {
            metadata.remove(field);
        }
        object
    };
    rest(new) == rest(old)
}

struct Guard<'a> {
    api: &'a Api,
    view: &'a View,
    attributes: &'a Attributes<'a>,
    policy: &'a Policy,
}

impl Guard<'_> {
    fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let namespace = &self.attributes.target.namespace;
        let ask = Ask { verb, group: GROUP, resource, namespace, name, ..Ask::default() };
        self.api.authorizer.allows(self.view, self.attributes.user, &ask)
    }

    fn role(&self, kind: &str, role: &Value) -> Result<(), Status> {
        // The name in the path: a new role has none there.
        if self.may("escalate", kind, &self.attributes.call.info.name) {
            return Ok(());
        }
        let rules = Rule::list(role);
        self.covers(&rules.iter().collect::<Vec<_>>())?;
        if aggregates(role) || self.attributes.old.is_some_and(aggregates) {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            self.covers(&[&Rule::everything()]).map_err(|_| self.attributes.target.forbidden(why))?;
        }
        Ok(())
    }

    fn binding(&self, binding: &Value) -> Result<(), Status> {
        let name = binding["roleRef"]["name"].as_str().unwrap_or_default();
        let cluster = binding["roleRef"]["kind"] == "ClusterRole";
        let resource = if cluster { "clusterroles" } else { "roles" };
        if self.may("bind", resource, name) {
            return Ok(());
        }
        let namespace = if cluster { "" } else { self.attributes.target.namespace.as_str() };
        let rules = match cluster {
            true => self.policy.known_cluster_role(name),
            false => self.policy.known_role(namespace, name),
        };
        // Whoever binds what is not there would get whatever will be there.
        let missing = || Status::not_found(GROUP, &self.attributes.target.resource.resource, name);
        self.covers(&rules.ok_or_else(missing)?)
    }

    /// Whether the user has all that the rules grant.
    fn covers(&self, rules: &[&Rule]) -> Result<(), Status> {
        let Attributes { target, user, .. } = self.attributes;
        let own = self.policy.rules_for(user, &target.namespace);
        match missing(&own, rules) {
            Ok(missing) if missing.is_empty() => Ok(()),
            Ok(missing) => Err(target.forbidden(&refusal(user, &compact(&missing)))),
            Err(TooMany) => {
                let why = format!(
                    "the rules have more than {MAX_COMBINATIONS} combinations of verbs, groups, resources and names"
                );
                Err(target.forbidden(&why))
            }
        }
    }
}

fn aggregates(role: &Value) -> bool {
    role["aggregationRule"]["clusterRoleSelectors"].as_array().is_some_and(|list| !list.is_empty())
}

fn refusal(user: &UserInfo, missing: &BTreeSet<String>) -> String {
    let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
    format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        quote(&user.name),
        go_list(&user.groups),
        missing.join("\n")
    )
}

fn go_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| quote(text)).collect();
    format!("[{}]", quoted.join(" "))
}

/// The rules are too large to be looked at.
struct TooMany;

/// The parts of the rules that nobody of `own` covers: each has one verb and one URL, or one group, one resource and at
/// most one name. The first of them, if they are very many.
fn missing(own: &[&Rule], rules: &[&Rule]) -> Result<Vec<Rule>, TooMany> {
    let all: usize = rules.iter().map(|rule| rule.combinations()).fold(0, usize::saturating_add);
    if all > MAX_COMBINATIONS {
        return Err(TooMany);
    }
    let mut missing = Vec::new();
    for rule in rules {
        for part in rule.parts() {
            if !own.iter().any(|own| own.covers(&part)) {
                missing.push(part);
            }
            if missing.len() == MAX_MISSING {
                return Ok(missing);
            }
        }
    }
    Ok(missing)
}

/// As upstream shows them: the verbs of one resource together.
fn compact(parts: &[Rule]) -> BTreeSet<String> {
    let mut joined: Vec<Rule> = Vec::new();
    for part in parts {
        let simple = part.urls.is_empty() && part.names.is_empty();
        let fits = |other: &&mut Rule| {
            simple
                && other.names.is_empty()
                && other.urls.is_empty()
                && other.resources == part.resources
                && other.groups == part.groups
        };
        match joined.iter_mut().find(fits) {
            Some(other) => other.verbs.extend(part.verbs.iter().cloned()),
            None => joined.push(part.clone()),
        }
    }
    joined.iter().map(shown).collect()
}

fn shown(rule: &Rule) -> String {
    let fields = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.urls),
        ("ResourceNames", &rule.names),
        ("Verbs", &rule.verbs),
    ];
    let fields = fields.iter().filter(|(_, list)| !list.is_empty());
    let fields: Vec<String> = fields.map(|(name, list)| format!("{name}:{}", go_list(list))).collect();
    format!("{{{}}}", fields.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(value: Value) -> Rule {
        Rule::from_value(&value)
    }

    #[test]
    fn what_is_missing_is_told_as_upstream_tells_it() {
        let own = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/status"]}));
        let granted = [
            rule(json!({"verbs": ["list", "get", "delete"], "apiGroups": [""], "resources": ["pods"]})),
            rule(
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["nodes/status", "secrets"], "resourceNames": ["a"]}),
            ),
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]})),
        ];
        let Ok(missing) = missing(&[&own], &granted.iter().collect::<Vec<_>>()) else { panic!("too many") };
        let told: Vec<String> = compact(&missing).into_iter().collect();
        assert_eq!(
            told,
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "delete"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["a"], Verbs:["get"]}"#,
                r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#,
            ]
        );
    }

    #[test]
    fn one_name_is_not_all_names() {
        let own = rule(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["", "a"]}),
        );
        let all = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}));
        assert!(missing(&[&own], &[&all]).is_ok_and(|missing| missing.len() == 1));
        let one = rule(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}),
        );
        assert!(missing(&[&own], &[&one]).is_ok_and(|missing| missing.is_empty()));
    }

    #[test]
    fn rules_without_end_are_refused() {
        let many = |what: &str| (0..500).map(|number| format!("{what}{number}")).collect::<Vec<_>>();
        let rule = rule(json!({"verbs": many("v"), "apiGroups": many("g"), "resources": many("r")}));
        assert!(missing(&[], &[&rule]).is_err());
        let rule = Rule { groups: vec![String::new()], ..rule };
        assert!(missing(&[], &[&rule]).is_ok_and(|missing| missing.len() == MAX_MISSING));
    }
}
