//! Conditions of a status: one of each type, whose time of transition changes with its value only.

use serde_json::{Value, json};

/// Sets a condition (`type`, `status` and whatever else it has). `now` becomes its `lastTransitionTime` unless the
/// condition had this status before.
pub fn set(status: &mut Value, mut condition: Value, now: &str) {
    if !status.is_object() {
        *status = json!({});
    }
    let list = &mut status["conditions"];
    // A status without any may hold null.
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let found = list.iter_mut().find(|known| known["type"] == condition["type"]);
    condition["lastTransitionTime"] = match &found {
        Some(known) if known["status"] == condition["status"] => known["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    match found {
        Some(known) => *known = condition,
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_changes_with_the_value() {
        let of = |status: &str, reason: &str| json!({"type": "Ready", "status": status, "reason": reason});
        let mut status = json!({"conditions": null});
        set(&mut status, of("True", "a"), "1");
        set(&mut status, of("True", "b"), "2");
        assert_eq!(
            status["conditions"],
            json!([{"type": "Ready", "status": "True", "reason": "b", "lastTransitionTime": "1"}])
        );
        set(&mut status, of("False", "b"), "3");
        set(&mut status, json!({"type": "Other", "status": "True"}), "4");
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "3");
        assert_eq!(status["conditions"][1]["lastTransitionTime"], "4");
    }
}
