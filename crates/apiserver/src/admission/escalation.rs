//! RBAC's own guard: nobody grants what they do not have, unless they may `escalate` or `bind`.

use api_types::Value;
use api_types::status::Status;

use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;
use crate::authz::{Ask, Policy, Rule};
use crate::user::{MASTERS, UserInfo};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Never, check: Check::Now(check) };

fn check(api: &Api, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let target = attributes.target;
    if target.resource.group != GROUP
        || attributes.operation == Operation::Delete
        || attributes.user.is_in(MASTERS)
    {
        return Ok(());
    }
    let view = api.storage.view();
    let policy = api.authorizer.policy(&view);
    let ask = |verb, resource, name| Ask {
        verb,
        group: GROUP,
        resource,
        namespace: &target.namespace,
        name,
        ..Ask::default()
    };
    let owned: Vec<Rule>;
    let granted: Vec<&Rule> = match target.resource.resource.as_str() {
        "roles" | "clusterroles" => {
            let unchanged = attributes.old.is_some_and(|old| old["rules"] == object["rules"]);
            if unchanged
                || api.authorizer.allows(
                    &view,
                    attributes.user,
                    &ask("escalate", &target.resource.resource, &target.name),
                )
            {
                return Ok(());
            }
            owned = Rule::list(object);
            owned.iter().collect()
        }
        "rolebindings" | "clusterrolebindings" => {
            let unchanged = attributes.operation == Operation::Update
                && attributes.old.is_some_and(|old| {
                    old["roleRef"] == object["roleRef"] && old["subjects"] == object["subjects"]
                });
            let name = object["roleRef"]["name"].as_str().unwrap_or_default();
            let cluster = object["roleRef"]["kind"] == "ClusterRole";
            let resource = if cluster { "clusterroles" } else { "roles" };
            if unchanged || api.authorizer.allows(&view, attributes.user, &ask("bind", resource, name)) {
                return Ok(());
            }
            if cluster { policy.cluster_role(name) } else { policy.named_role(&target.namespace, name) }
        }
        _ => return Ok(()),
    };
    let missing: Vec<String> = granted
        .into_iter()
        .flat_map(|rule| uncovered(&policy, attributes.user, &target.namespace, rule))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        api_types::field::quote(&attributes.user.name),
        go_list(&attributes.user.groups),
        missing.join("\n")
    );
    Err(target.forbidden(&why))
}

fn go_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| api_types::field::quote(text)).collect();
    format!("[{}]", quoted.join(" "))
}

/// The parts of a rule that the user does not have.
fn uncovered(policy: &Policy, user: &UserInfo, namespace: &str, rule: &Rule) -> Vec<String> {
    let own = policy.rules_for(user, namespace);
    let mut missing = Vec::new();
    for verb in &rule.verbs {
        for url in &rule.urls {
            let ask = Ask { verb, path: Some(url), ..Ask::default() };
            if !own.iter().any(|rule| rule.allows(&ask)) {
                missing.push(format!("{{NonResourceURLs:[{url:?}], Verbs:[{verb:?}]}}"));
            }
        }
        for group in &rule.groups {
            for resource in &rule.resources {
                let (base, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                let names: Vec<&str> = match rule.names.is_empty() {
                    true => vec![""],
                    false => rule.names.iter().map(String::as_str).collect(),
                };
                for name in names {
                    let ask =
                        Ask { verb, group, resource: base, subresource, namespace, name, ..Ask::default() };
                    if !own.iter().any(|rule| rule.allows(&ask)) {
                        missing.push(format!(
                            "{{APIGroups:[{group:?}], Resources:[{resource:?}], Verbs:[{verb:?}]}}"
                        ));
                    }
                }
            }
        }
    }
    missing.dedup();
    missing
}
