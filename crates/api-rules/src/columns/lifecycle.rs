//! Columns of evictions and requests for them.

use super::{AGE, Cell, Column, KindColumns, NAME, condition, duration, first_few, text, wide};
use crate::look::Look;
use serde_json::Value;

const GROUP: &str = "lifecycle.k8s.io";
const UNSET: &str = "<unset>";
const TARGET: Column = text("Target", Cell::Text("spec.target.pod.name", UNSET));
const TARGET_TYPE: Column =
    text("Target Type", Cell::Of(|o, _| if o.has("spec.target.pod") { "Pod" } else { UNSET }.into()));
const STATUS: Column = text("Status", Cell::Of(status));

pub(super) static KINDS: &[KindColumns] = &[
    (
        GROUP,
        "EvictionRequest",
        &[
            NAME,
            TARGET,
            TARGET_TYPE,
            STATUS,
            text("Requester", Cell::Text("spec.requester", "")),
            text("Intent", Cell::Text("spec.intent", "")),
            AGE,
        ],
    ),
    (
        GROUP,
        "Eviction",
        &[
            NAME,
            TARGET,
            TARGET_TYPE,
            STATUS,
            text("Active Responder", Cell::Of(active_responder)),
            text("Responder Status", Cell::Of(responder_status)),
            text("Responder Expected Finish", Cell::Of(expected_finish)),
            text("Requesters", Cell::Of(requesters)),
            AGE,
            wide("Responder Heartbeat", Cell::Of(heartbeat)),
            wide("Responder Status Message", Cell::Of(message)),
        ],
    ),
];

fn status(object: &Value, _: i64) -> Value {
    let held = |kind: &str| {
        condition(object, "status.conditions", kind)
            .filter(|c| c.text("status") == "True")
            .map(|c| format!("{kind} ({})", c.text("reason")))
    };
    let base = if object.int("status.observedGeneration") > 0 { "Progressing" } else { "Pending" };
    held("TargetEvicted").or_else(|| held("Failed")).unwrap_or_else(|| base.to_owned()).into()
}

/// The responder that acts, else the last one that did.
fn responder(eviction: &Value) -> Option<(usize, &Value)> {
    let all = eviction.items("status.targetResponders");
    let last =
        |states: &[&str]| all.iter().enumerate().rev().find(|(_, r)| states.contains(&r.text("state")));
    last(&["Active"]).or_else(|| last(&["Canceled", "Interrupted", "Completed"]))
}

/// What the responder says of itself.
fn report<'a>(eviction: &'a Value, target: &Value) -> &'a Value {
    static NOTHING: Value = Value::Null;
    let all = eviction.items("status.responders");
    all.iter().find(|r| r.text("name") == target.text("name")).unwrap_or(&NOTHING)
}

fn active_responder(eviction: &Value, _: i64) -> Value {
    let total = eviction.items("status.targetResponders").len();
    match responder(eviction) {
        Some((i, target)) => format!("{} ({}/{total})", target.text("name"), i + 1).into(),
        None => UNSET.into(),
    }
}

fn responder_status(eviction: &Value, now: i64) -> Value {
    let Some((_, target)) = responder(eviction) else { return UNSET.into() };
    let own = report(eviction, target);
    let ago = |field: &str| duration::millis(own.text(field)).map(|at| duration::human(now - at));
    match target.text("state") {
        "Active" if own.has("startTime") => {
            format!("Started ({} ago)", ago("startTime").unwrap_or_default()).into()
        }
        "Completed" if own.has("completionTime") => {
            format!("Completed ({} ago)", ago("completionTime").unwrap_or_default()).into()
        }
        state => state.into(),
    }
}

fn expected_finish(eviction: &Value, now: i64) -> Value {
    let Some((_, target)) = responder(eviction) else { return "<unknown>".into() };
    if target.text("state") != "Active" {
        return "-".into();
    }
    match duration::millis(report(eviction, target).text("expectedCompletionTime")) {
        Some(at) if at > now => format!("in {}", duration::human(at - now)).into(),
        Some(at) => format!("{} ago", duration::human(now - at)).into(),
        None => "<unknown>".into(),
    }
}

fn requesters(eviction: &Value, _: i64) -> Value {
    let all = eviction.items("status.requesters");
    let mut names: Vec<String> =
        all.iter().filter(|r| r.text("intent") != "Withdrawn").map(|r| r.text("name").to_owned()).collect();
    names.sort_unstable();
    match (all.is_empty(), names.is_empty()) {
        (true, _) => "<none>".into(),
        (false, true) => "<withdrawn>".into(),
        (false, false) => first_few(&names, 1, ",").into(),
    }
}

fn heartbeat(eviction: &Value, now: i64) -> Value {
    let at = responder(eviction)
        .and_then(|(_, target)| duration::millis(report(eviction, target).text("heartbeatTime")));
    at.map_or_else(|| UNSET.into(), |at| format!("{} ago", duration::human(now - at))).into()
}

fn message(eviction: &Value, _: i64) -> Value {
    let text =
        responder(eviction).map(|(_, target)| report(eviction, target).text("message").trim()).unwrap_or("");
    if text.is_empty() { UNSET } else { text }.into()
}
