//! Taints of nodes and the tolerations of pods.

use serde_json::Value;

/// What a node repels pods with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taint<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its value; empty without.
    pub value: &'a str,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: &'a str,
}

impl<'a> Taint<'a> {
    /// A taint of a Node's `spec.taints`.
    pub fn of(taint: &'a Value) -> Self {
        Self { key: text(taint, "key"), value: text(taint, "value"), effect: text(taint, "effect") }
    }
}

/// What a pod bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Toleration<'a> {
    /// The taint's key; empty for any.
    pub key: &'a str,
    /// `Equal` (also when empty), `Exists`, `Lt` or `Gt`.
    pub operator: &'a str,
    /// What the operator compares with.
    pub value: &'a str,
    /// The taint's effect; empty for any.
    pub effect: &'a str,
}

impl<'a> Toleration<'a> {
    /// A toleration of a Pod's `spec.tolerations`.
    pub fn of(toleration: &'a Value) -> Self {
        Self {
            key: text(toleration, "key"),
            operator: text(toleration, "operator"),
            value: text(toleration, "value"),
            effect: text(toleration, "effect"),
        }
    }

    /// Upstream's `Toleration.ToleratesTaint`: an empty effect or key matches all; `Exists` ignores the value; the
    /// numeric operators compare integers (KEP-5471).
    pub fn tolerates(&self, taint: &Taint<'_>) -> bool {
        let same = |own: &str, other: &str| own.is_empty() || own == other;
        if !same(self.effect, taint.effect) || !same(self.key, taint.key) {
            return false;
        }
        match self.operator {
            "" | "Equal" => !self.key.is_empty() && self.value == taint.value,
            "Exists" => true,
            "Lt" => compare(taint.value, self.value).is_some_and(std::cmp::Ordering::is_lt),
            "Gt" => compare(taint.value, self.value).is_some_and(std::cmp::Ordering::is_gt),
            _ => false,
        }
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn compare(left: &str, right: &str) -> Option<std::cmp::Ordering> {
    Some(left.parse::<i64>().ok()?.cmp(&right.parse::<i64>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(toleration: &Value, expected: bool) {
        let taint = Taint { key: "k", value: "5", effect: "NoExecute" };
        assert_eq!(Toleration::of(toleration).tolerates(&taint), expected, "{toleration}");
    }

    #[test]
    fn operators_keys_and_effects() {
        check(&json!({ "operator": "Exists" }), true);
        check(&json!({ "key": "k", "operator": "Exists" }), true);
        check(&json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" }), false);
        check(&json!({ "key": "k", "value": "5" }), true);
        check(&json!({ "key": "k", "value": "6" }), false);
        check(&json!({ "key": "j", "value": "5" }), false);
        check(&json!({ "value": "5" }), false);
        check(&json!({ "key": "k", "operator": "Gt", "value": "4" }), true);
        check(&json!({ "key": "k", "operator": "Lt", "value": "4" }), false);
    }
}
