//! What a PodDisruptionBudget's status says of itself: condition `DisruptionAllowed` follows the number of disruptions
//! that are allowed. Who writes that number, the controller or an eviction, writes the condition with it.

use api_types::condition;
use serde_json::{Value, json};

use crate::look::Look;

const CONDITION: &str = "DisruptionAllowed";

/// Makes the condition follow the number. `now`: `metav1.Time`.
pub fn tell(status: &mut Value, now: &str) {
    let (value, reason) = match status.int("disruptionsAllowed") {
        0 => ("False", "InsufficientPods"),
        _ => ("True", "SufficientPods"),
    };
    let generation = status.at("observedGeneration").clone();
    set_condition(status, value, reason, "", &generation, now);
}

/// Sets the condition; its time changes with its value only.
pub fn set_condition(
    status: &mut Value,
    value: &str,
    reason: &str,
    message: &str,
    generation: &Value,
    now: &str,
) {
    let mut condition = json!({"type": CONDITION, "status": value, "reason": reason, "message": message});
    if !generation.is_null() {
        condition["observedGeneration"] = generation.clone();
    }
    condition::set(status, condition, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_follows_the_number() {
        let mut status = json!({"disruptionsAllowed": 1, "observedGeneration": 2});
        tell(&mut status, "t1");
        tell(&mut status, "t2");
        assert_eq!(status.items("conditions").len(), 1);
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "t1");
        status["disruptionsAllowed"] = json!(0);
        tell(&mut status, "t3");
        let condition = &status["conditions"][0];
        assert_eq!(
            (condition.text("reason"), condition.text("lastTransitionTime")),
            ("InsufficientPods", "t3")
        );
    }
}
