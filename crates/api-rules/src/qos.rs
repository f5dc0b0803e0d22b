//! Quality-of-service class of a pod (KEP-2837 for pod-level resources): decides who goes first when a node is short.

use crate::look::{Look, quantity};
use serde_json::Value;

/// Resources that decide the class.
const COUNTED: &[&str] = &["cpu", "memory"];

/// `Guaranteed`: every container's limits for cpu and memory equal its requests. `BestEffort`: none has any.
/// `Burstable`: everything between. Resources of the pod as a whole, when set, count instead.
pub fn class(pod: &Value) -> &'static str {
    let whole = pod.at("spec.resources");
    let holders: Vec<&Value> = if has_any(whole) {
        vec![whole]
    } else {
        let all = pod.items("spec.containers").iter().chain(pod.items("spec.initContainers"));
        all.map(|c| c.at("resources")).collect()
    };
    if !holders.iter().any(|h| has_any(h)) {
        return "BestEffort";
    }
    if holders.iter().all(|h| guaranteed(h)) { "Guaranteed" } else { "Burstable" }
}

fn amount<'a>(resources: &'a Value, field: &str, name: &str) -> Option<&'a Value> {
    let value = resources.at(field).key(name);
    quantity(value).filter(|q| !q.is_zero()).map(|_| value)
}

fn has_any(resources: &Value) -> bool {
    COUNTED.iter().any(|name| ["limits", "requests"].iter().any(|f| amount(resources, f, name).is_some()))
}

fn guaranteed(resources: &Value) -> bool {
    COUNTED.iter().all(|name| {
        let limit = amount(resources, "limits", name).and_then(quantity);
        let request = amount(resources, "requests", name).and_then(quantity);
        limit.is_some() && (request == limit || request.is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(resources: &[Value]) -> &'static str {
        let containers: Vec<Value> = resources.iter().map(|r| json!({"name": "c", "resources": r})).collect();
        class(&json!({"spec": {"containers": containers}}))
    }

    #[test]
    fn classes() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        let part = json!({"requests": {"cpu": "100m"}});
        assert_eq!(of(&[json!({})]), "BestEffort");
        assert_eq!(of(std::slice::from_ref(&full)), "Guaranteed");
        assert_eq!(of(&[full.clone(), part.clone()]), "Burstable");
        assert_eq!(of(&[part]), "Burstable");
        assert_eq!(of(&[full, json!({})]), "Burstable");
        assert_eq!(of(&[json!({"requests": {"cpu": "0"}})]), "BestEffort");
    }
}
