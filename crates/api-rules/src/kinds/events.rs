//! Events, in both groups. Through the core group only the old rules hold, so that old reporters go on working.

use super::Kind;
use super::shared::unchanged;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, is_zero};
use crate::meta::NameFormat;
use serde_json::Value;

const GROUP: &str = "events.k8s.io";
const MAX_NAME: usize = 128;
const MAX_NOTE: usize = 1024;
/// Fields of the newer form that stay, with the names that messages give them.
const FIXED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("reason", "reason"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

pub(super) static KINDS: &[Kind] = &[
    Kind::new("", "Event")
        .names(NameFormat::PathSegment)
        .create(core)
        .update(|new, _, errors| core(new, errors)),
    Kind::new(GROUP, "Event").create(modern).update(modern_update),
];

/// The fields that differ between the groups.
struct Names {
    object: &'static str,
    component: &'static str,
    note: &'static str,
}

fn core(event: &Value, errors: &mut Errors) {
    legacy(
        event,
        &Names { object: "involvedObject", component: "reportingComponent", note: "message" },
        errors,
    );
}

fn legacy(event: &Value, names: &Names, errors: &mut Errors) {
    let own = event.text("metadata.namespace");
    let about = event.at(names.object).text("namespace");
    let modern = event.has("eventTime");
    let homes: &[&str] = if modern { &["default", "kube-system"] } else { &["default", ""] };
    let at = At::root("involvedObject");
    let mismatch = if about.is_empty() { !homes.contains(&own) } else { !modern && about != own };
    if mismatch {
        errors.invalid(at.at("namespace"), about, "does not match event.namespace");
    }
    if modern {
        reported(event, names, errors);
    }
}

fn reported(event: &Value, names: &Names, errors: &mut Errors) {
    let component = event.text(names.component);
    let at = At::root(names.component);
    if component.is_empty() {
        errors.required(at, "");
    }
    errors.format(at, component, format::qualified_name(component));
    for field in ["reportingInstance", "action", "reason"] {
        let value = event.text(field);
        if value.is_empty() {
            errors.required(At::root(field), "");
        }
        if value.len() > MAX_NAME {
            errors.invalid(At::root(field), "", format!("can have at most {MAX_NAME} characters"));
        }
    }
    if event.text(names.note).len() > MAX_NOTE {
        errors.invalid(At::root("message"), "", format!("can have at most {MAX_NOTE} characters"));
    }
}

fn modern(event: &Value, errors: &mut Errors) {
    legacy(event, &Names { object: "regarding", component: "reportingController", note: "note" }, errors);
    if !event.has("eventTime") {
        errors.required(At::root("eventTime"), "");
    }
    let kind = event.text("type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid(At::root("type"), "", format!("has invalid value: {kind}"));
    }
    for (field, shown) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("deprecatedSource", "source"),
    ] {
        let value = event.at(field);
        if !is_zero(value) && value != &Value::from(0) {
            errors.invalid(At::root(shown), "", "needs to be unset");
        }
    }
    series(event, errors);
}

fn series(event: &Value, errors: &mut Errors) {
    if !event.has("series") {
        return;
    }
    let at = At::root("series");
    if event.int("series.count") < 2 {
        errors.invalid(at.at("count"), "", "should be at least 2");
    }
    if !event.has("series.lastObservedTime") {
        errors.required(at.at("lastObservedTime"), "");
    }
}

fn modern_update(new: &Value, old: &Value, errors: &mut Errors) {
    series(new, errors);
    for (field, shown) in FIXED {
        if field == shown {
            unchanged(new, old, &[field], At::root(""), errors);
        } else {
            errors.immutable(At::root(shown), new.at(field), old.at(field));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::rules_of;
    use serde_json::json;

    #[test]
    fn namespaces_must_agree() {
        let rules = rules_of("", "v1", "Event").unwrap();
        let mut event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a.1", "namespace": "b"},
            "involvedObject": {"namespace": "b"}});
        assert!((rules.validate)(&event).is_empty());
        event["involvedObject"]["namespace"] = json!("c");
        let found: Vec<String> = (rules.validate)(&event).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["involvedObject.namespace: Invalid value: \"c\": does not match event.namespace"]);
        event["involvedObject"]["namespace"] = json!("");
        event["metadata"]["namespace"] = json!("default");
        assert!((rules.validate)(&event).is_empty());
    }

    #[test]
    fn the_newer_form_asks_for_more() {
        let rules = rules_of("events.k8s.io", "v1", "Event").unwrap();
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a", "namespace": "default"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Odd", "reason": "r", "action": "a", "reportingController": "x/y",
            "reportingInstance": "i", "series": {"count": 1}});
        let found: Vec<String> = (rules.validate)(&event).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "type: Invalid value: \"\": has invalid value: Odd",
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value"
            ]
        );
    }
}
