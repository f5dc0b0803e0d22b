//! What is wrong with an admission policy's expressions, for the kinds that it names, stands in its status.

use serde_json::{Value, json};

use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::plan::{Action, Plan};

const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";

/// See the module.
pub struct PolicyStatus;

impl Controller for PolicyStatus {
    fn name(&self) -> &'static str {
        "validatingadmissionpolicy-status-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch {
            resource: kind(GROUP, "v1", "validatingadmissionpolicies"),
            keys: |change, _| own_key(POLICIES, change),
        }]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let Some(policy) = listers.object(key) else { return Plan::nothing() };
        let generation = api_types::meta::generation(&policy);
        if policy["status"]["observedGeneration"].as_i64().is_some_and(|seen| seen >= generation) {
            return Plan::nothing();
        }
        let warnings: Vec<Value> = api_rules::cel::check_policy(&policy)
            .into_iter()
            .map(|warning| json!({"fieldRef": warning.field, "warning": warning.text}))
            .collect();
        let mut new = Value::clone(&policy);
        let checking = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
        let status = api_types::meta::child_mut(&mut new, &["status"]);
        status.insert("observedGeneration".into(), generation.into());
        status.insert("typeChecking".into(), checking);
        Plan::of(Action::UpdateStatus(kind(GROUP, "v1", "validatingadmissionpolicies"), new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    #[test]
    fn a_policy_is_checked_once() {
        let mut policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "p", "generation": 2}, "spec": {"validations": [{"expression": "true"}]}});
        let plan = |policy: &Value| {
            show(&PolicyStatus.reconcile(
                &listers(vec![policy.clone()]),
                &Key::new(POLICIES, "", "p"),
                Now::at(0),
            ))
        };
        assert_eq!(plan(&policy), [format!("status {POLICIES} p")]);
        policy["status"] = json!({"observedGeneration": 2});
        assert!(plan(&policy).is_empty());
    }
}
