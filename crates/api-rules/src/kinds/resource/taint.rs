//! Taints of devices, rules that put them on, and what tolerates them.

use super::names;
use crate::errors::{At, Errors};
use crate::format;
use crate::kinds::{declared, pod, shared};
use crate::look::{Look, at_mut, items_mut, set};
use serde_json::Value;

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];
/// Conditions in the status of a rule.
const MAX_CONDITIONS: usize = 8;

/// A rule: which devices get which taint.
pub(super) fn rule(rule: &Value, old: Option<&Value>, errors: &mut Errors) {
    let selector = rule.at("spec.deviceSelector");
    let at = At::root("spec.deviceSelector");
    if let Some(name) = selector.at("driver").as_str() {
        pod::driver_name(name, at.at("driver"), errors);
    }
    if let Some(name) = selector.at("pool").as_str() {
        names::pool(name, at.at("pool"), errors);
    }
    if let Some(name) = selector.at("device").as_str() {
        errors.format(at.at("device"), name, format::dns1123_label(name));
    }
    taint(rule.at("spec.taint"), old.map(|old| old.at("spec.taint")), At::root("spec.taint"), errors);
}

pub(super) fn rule_status(new: &Value, _: &Value, errors: &mut Errors) {
    let at = At::root("status.conditions");
    let all = new.items("status.conditions");
    shared::conditions(all, at, errors);
    if all.len() > MAX_CONDITIONS {
        errors.too_many(at, all.len(), MAX_CONDITIONS);
    }
}

pub(super) fn taint(taint: &Value, old: Option<&Value>, at: At<'_>, errors: &mut Errors) {
    let (key, value) = (taint.text("key"), taint.text("value"));
    errors.format(at.at("key"), key, format::qualified_name(key));
    errors.format(at.at("value"), value, format::label_value(value));
    let effect = taint.at("effect");
    let kept = old.is_some_and(|old| old.text("effect") == taint.text("effect"));
    if !kept && declared::required(effect, at.at("effect"), errors) {
        declared::one_of(taint.text("effect"), EFFECTS, at.at("effect"), errors);
    }
}

pub(super) fn toleration(toleration: &Value, at: At<'_>, errors: &mut Errors) {
    let (key, value) = (toleration.text("key"), toleration.text("value"));
    if !key.is_empty() {
        declared::format(key, format::qualified_name(key), at.at("key"), errors);
    }
    match toleration.text("operator") {
        "Exists" if !value.is_empty() => {
            errors.invalid(at.at("value"), value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => errors.format(at.at("value"), value, format::label_value(value)),
        "" => {
            declared::required(&Value::Null, at.at("operator"), errors);
        }
        other => declared::one_of(other, &["Equal", "Exists"], at.at("operator"), errors),
    }
    let effect = toleration.text("effect");
    if !effect.is_empty() {
        declared::one_of(effect, EFFECTS, at.at("effect"), errors);
    }
}

/// Notes when taints were added (`now`, RFC 3339 in seconds): of those that do not say it, and of a rule whose effect
/// is another one than before, unless it says when (upstream: `SetDefaults_DeviceTaint`, `deviceTaintRuleStrategy`).
pub fn note_taint_times(object: &mut Value, old: Option<&Value>, now: &str) {
    let noted = |taint: &mut Value| {
        if !taint.has("timeAdded") {
            set(taint, "timeAdded", Value::from(now));
        }
    };
    match object.text("kind") {
        "ResourceSlice" => {
            for device in items_mut(object, "spec.devices").into_iter().flatten() {
                items_mut(device, "taints").into_iter().flatten().for_each(noted);
            }
        }
        "DeviceTaintRule" => {
            let Some(taint) = at_mut(object, "spec.taint") else { return };
            noted(taint);
            let before = old.map_or(&Value::Null, |old| old.at("spec.taint"));
            let same_time = taint.at("timeAdded") == before.at("timeAdded");
            if old.is_some() && same_time && taint.text("effect") != before.text("effect") {
                set(taint, "timeAdded", Value::from(now));
            }
        }
        _ => {}
    }
}
