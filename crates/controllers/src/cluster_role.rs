//! Fills in the rules of a ClusterRole that is made of others (upstream's `clusterrole-aggregation` controller): the
//! rules of every ClusterRole that one of its selectors fits, by name, each rule once.

use api_types::meta;
use api_types::selector::LabelSelector;
use client::Change;
use serde_json::Value;

use crate::controller::{Controller, Key, Listers, Now, Watch, kind};
use crate::plan::{Action, Plan};

const ROLES: &str = "clusterroles.rbac.authorization.k8s.io";

/// See the module.
pub struct ClusterRoles;

fn resource() -> &'static api_types::Resource {
    kind("rbac.authorization.k8s.io", "v1", "clusterroles")
}

impl Controller for ClusterRoles {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch { resource: resource(), keys: aggregated }]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let Some(role) = listers.object(key) else { return Plan::nothing() };
        let Some(selectors) = role["aggregationRule"]["clusterRoleSelectors"].as_array() else {
            return Plan::nothing();
        };
        let Some(lister) = listers.get(ROLES) else { return Plan::nothing() };
        let mut rules: Vec<Value> = Vec::new();
        for selector in selectors {
            let Ok(selector) = LabelSelector::from_value(selector) else { return Plan::nothing() };
            for part in lister.select("", &selector) {
                if meta::name(&part) == meta::name(&role) {
                    continue;
                }
                for rule in part["rules"].as_array().into_iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
        if role["rules"].as_array().map_or(&[][..], Vec::as_slice) == rules {
            return Plan::nothing();
        }
        let mut role = Value::clone(&role);
        role["rules"] = rules.into();
        Plan::of(Action::Update(resource(), role))
    }
}

/// Every role that is made of others: the changed one may be, or may no longer be, a part of any.
fn aggregated(_: &Change, listers: &Listers) -> Vec<Key> {
    let roles = listers.get(ROLES).map(client::Lister::all).unwrap_or_default();
    let aggregated = roles.iter().filter(|role| role["aggregationRule"].is_object());
    aggregated.map(|role| Key::of(ROLES, role)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{listers, show};

    fn role(name: &str, label: &str, resources: &[&str]) -> Value {
        let rule = |resource: &&str| json!({ "verbs": ["get"], "apiGroups": [""], "resources": [resource] });
        let rules: Vec<Value> = resources.iter().map(rule).collect();
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": name, "labels": { "to": label } }, "rules": rules,
        })
    }

    fn sum(rules: &[&str]) -> Value {
        let mut sum = role("sum", "all", rules);
        sum["aggregationRule"] = json!({ "clusterRoleSelectors": [
            { "matchLabels": { "to": "sum" } }, { "matchLabels": { "to": "all" } },
        ] });
        sum
    }

    fn plan(objects: Vec<Value>) -> Plan {
        ClusterRoles.reconcile(&listers(objects), &Key::new(ROLES, "", "sum"), Now::at(0))
    }

    #[test]
    fn rules_come_from_the_roles_that_fit_by_selector_and_name() {
        let parts = || {
            vec![
                role("b", "sum", &["y", "x"]),
                role("a", "sum", &["x"]),
                role("c", "all", &["z"]),
                role("d", "no", &["n"]),
            ]
        };
        let with = |sum: Value| parts().into_iter().chain([sum]).collect();
        let changed = plan(with(sum(&["old"])));
        assert_eq!(show(&changed), [format!("update {ROLES} sum")]);
        let Action::Update(_, written) = &changed.actions[0] else { panic!("{changed:?}") };
        assert_eq!(written["rules"], sum(&["x", "y", "z"])["rules"]);
        assert!(plan(with(sum(&["x", "y", "z"]))).actions.is_empty());
    }

    #[test]
    fn a_role_that_no_other_fits_has_no_rules() {
        assert_eq!(show(&plan(vec![sum(&["old"])])).len(), 1);
        assert!(plan(vec![role("sum", "sum", &["own"])]).actions.is_empty(), "not made of others");
    }

    #[test]
    fn any_change_of_a_role_concerns_those_that_are_made_of_others() {
        let known = listers(vec![sum(&[]), role("a", "sum", &[])]);
        let change = Change::Deleted(std::sync::Arc::new(role("a", "sum", &[]).into()));
        assert_eq!(aggregated(&change, &known), [Key::new(ROLES, "", "sum")]);
    }
}
