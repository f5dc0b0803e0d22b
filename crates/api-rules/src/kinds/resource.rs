//! DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice, DeviceTaintRule: devices, who offers them and who
//! asks for them (upstream: `pkg/apis/resource/validation`, `pkg/registry/resource`; KEP-4381).
//!
//! What stands behind alpha gates (attributes that are lists or derived, compatibility groups, node allocatable
//! resources, types of partitions, operations that are skipped) is dropped from what is new, as upstream does with its
//! defaults; where it was stored it stays, and is not looked at.

mod capacity;
mod claim;
mod names;
mod slice;
mod status;
mod taint;

use super::shared::repeated;
use super::{Kind, declared};
use crate::cel;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, same};
use crate::meta::NameFormat;
use serde_json::Value;
use std::collections::HashSet;

pub use claim::{admin_access, admin_access_granted};
pub use status::{changed_drivers, changes_binding, node_of};
pub use taint::note_taint_times;

const GROUP: &str = "resource.k8s.io";
const SPEC: At<'static> = At::root("spec");
/// Selectors of a class or a request.
const MAX_SELECTORS: usize = 32;
/// Configurations of a class or a claim.
const MAX_CONFIGS: usize = 32;
/// Bytes of an expression.
const MAX_EXPRESSION: usize = 10 * 1024;
/// Bytes of parameters that a driver reads, and of data that it writes.
const MAX_RAW: usize = 10 * 1024;

pub(super) static KINDS: &[Kind] = &[
    Kind::new(GROUP, "DeviceClass")
        .names(NameFormat::Own)
        .create(|object, errors| class(object, None, errors))
        .update(|new, old, errors| class(new, Some(old), errors)),
    Kind {
        prepare_create: |claim| claim::drop_disabled(claim, None, "spec"),
        prepare_update: |new, old| claim::drop_disabled(new, Some(old), "spec"),
        prepare_status_update: status::prepare,
        ..Kind::new(GROUP, "ResourceClaim")
            .create(|claim, errors| claim::spec(claim.at("spec"), SPEC, errors))
            .update(|new, old, errors| declared::unchanged(new, old, &["spec"], At::root(""), errors))
            .status(status::update)
    },
    Kind {
        prepare_create: |template| claim::drop_disabled(template, None, "spec.spec"),
        prepare_update: |new, old| claim::drop_disabled(new, Some(old), "spec.spec"),
        ..Kind::new(GROUP, "ResourceClaimTemplate").create(template).update(|new, old, errors| {
            template(new, errors);
            super::shared::unchanged(new, old, &["spec"], At::root(""), errors);
        })
    },
    Kind {
        prepare_create: |slice| slice::drop_disabled(slice, None),
        prepare_update: |new, old| slice::drop_disabled(new, Some(old)),
        ..Kind::new(GROUP, "ResourceSlice")
            .create(|slice, errors| slice::slice(slice, None, errors))
            .update(|new, old, errors| slice::slice(new, Some(old), errors))
    },
    Kind::new(GROUP, "DeviceTaintRule")
        .create(|rule, errors| taint::rule(rule, None, errors))
        .update(|new, old, errors| taint::rule(new, Some(old), errors))
        .status(taint::rule_status),
];

fn class(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let name = object.text("metadata.name");
    if !name.is_empty() {
        declared::format(name, format::long_name(name), At::root("metadata.name"), errors);
    }
    let spec = object.at("spec");
    let kept = |field: &str| old.is_some_and(|old| same(spec.at(field), old.at("spec").at(field)));
    selectors(spec.items("selectors"), kept("selectors"), SPEC.at("selectors"), errors);
    let at = SPEC.at("config");
    let configs = spec.items("config");
    if declared::at_most_items(configs, MAX_CONFIGS, at, errors) {
        for (i, config) in configs.iter().enumerate() {
            configuration(config, kept("config"), at.index(i), errors);
        }
    }
    if let Some(name) = spec.at("extendedResourceName").as_str() {
        names::extended_resource(name, SPEC.at("extendedResourceName"), errors);
    }
}

fn template(object: &Value, errors: &mut Errors) {
    let metadata = object.at("spec.metadata");
    let at = SPEC.at("metadata");
    crate::meta::validate_annotations(metadata.at("annotations"), at.at("annotations"), errors);
    crate::meta::validate_labels(metadata.at("labels"), at.at("labels"), errors);
    claim::spec(object.at("spec.spec"), SPEC.at("spec"), errors);
}

/// Selectors of devices; expressions that were there before (`kept`) were good then.
fn selectors(list: &[Value], kept: bool, at: At<'_>, errors: &mut Errors) {
    if !declared::at_most_items(list, MAX_SELECTORS, at, errors) {
        return;
    }
    for (i, selector) in list.iter().enumerate() {
        let at = at.index(i);
        match selector.at("cel.expression").as_str() {
            _ if !selector.has("cel") => errors.required(at.at("cel"), ""),
            _ if kept => {}
            text => expression(text.unwrap_or(""), at.at("cel.expression"), errors),
        }
    }
}

/// An expression over a device that says yes or no. What it may cost is not estimated.
fn expression(text: &str, at: At<'_>, errors: &mut Errors) {
    if text.len() > MAX_EXPRESSION {
        return errors.too_long(at, MAX_EXPRESSION);
    }
    let scope = cel::Scope { device: true, ..cel::Scope::default() };
    match cel::Expression::compile(text, &scope) {
        Err(problem) => errors.invalid(at, text, problem),
        Ok(compiled) => match compiled.kind() {
            cel::Kind::Bool | cel::Kind::Dyn | cel::Kind::Unknown => {}
            other => {
                errors.invalid(at, text, format!("must evaluate to bool or the unknown type, not {other}"));
            }
        },
    }
}

/// What a driver is told of a device.
fn configuration(config: &Value, kept: bool, at: At<'_>, errors: &mut Errors) {
    let opaque = config.at("opaque");
    let at = at.at("opaque");
    if opaque.is_null() {
        return errors.required(at, "");
    }
    declared::driver_name(opaque.at("driver"), at.at("driver"), errors);
    raw(opaque.at("parameters"), kept, at.at("parameters"), errors);
}

/// A JSON object that only a driver reads.
fn raw(value: &Value, kept: bool, at: At<'_>, errors: &mut Errors) {
    match value {
        Value::Null => errors.required(at, ""),
        value if !kept && value.to_string().len() > MAX_RAW => errors.too_long(at, MAX_RAW),
        Value::Object(_) => {}
        _ => errors.invalid(at, "<value omitted>", "must be a valid JSON object"),
    }
}

/// Text of a list of choices, as upstream shows those that were made.
fn chosen(fields: &[&str]) -> String {
    let quoted: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
    format!("{{{}}}", quoted.join(", "))
}

/// Conditions that a device waits for before it is bound, and those by which binding fails.
fn binding_conditions(object: &Value, at: At<'_>, errors: &mut Errors) {
    let fields = ["bindingConditions", "bindingFailureConditions"];
    let [wanted, failing] = fields.map(|field| object.items(field));
    for (field, list) in [(fields[0], wanted), (fields[1], failing)] {
        let at = at.at(field);
        if declared::at_most_items(list, MAX_BINDING_CONDITIONS, at, errors) {
            for (i, kind) in list.iter().enumerate() {
                let kind = kind.as_str().unwrap_or("");
                errors.format(at.index(i), kind, format::qualified_name(kind));
            }
        }
    }
    let known: HashSet<Option<&str>> = wanted.iter().map(Value::as_str).collect();
    for (field, list) in [(fields[0], wanted), (fields[1], failing)] {
        let list_at = at.at(field);
        let again = repeated(list.iter().map(Value::as_str));
        for (i, kind) in list.iter().enumerate() {
            if again[i] {
                errors.duplicate(list_at.index(i), kind.clone());
            }
            if field == fields[1] && known.contains(&kind.as_str()) {
                let text = "bindingFailureConditions must not overlap with bindingConditions";
                errors.invalid(list_at.index(i), kind.clone(), text);
            }
        }
    }
    match (wanted.is_empty(), failing.is_empty()) {
        (true, false) => {
            let text = "bindingConditions are required to use bindingFailureConditions";
            errors.invalid(at.at(fields[0]), Value::Null, text);
        }
        (false, true) => {
            let text = "bindingFailureConditions are required to use bindingConditions";
            errors.invalid(at.at(fields[1]), Value::Null, text);
        }
        _ => {}
    }
}

/// Binding conditions of a device.
const MAX_BINDING_CONDITIONS: usize = 4;

#[cfg(test)]
mod tests;
