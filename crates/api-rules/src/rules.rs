//! The rules of a kind as one value, and the table of them.

use crate::columns::{self, Column};
use crate::errors::Errors;
use crate::index::Index;
use crate::meta::{self, NameFormat};
use crate::strategy::{self, DefaultDeletion};
use crate::{defaults, fields, kinds, warnings};
use api_types::field::FieldError;
use api_types::{Resource, table};
use serde_json::Value;
use std::sync::LazyLock;

/// Everything about a kind that needs no store. The functions dispatch on the object's own `apiVersion` and `kind`.
#[derive(Debug)]
pub struct Rules {
    /// Fills version defaults; idempotent.
    pub default: fn(&mut Value),
    /// Resets what a client may not set on a new object. Name, uid and creation time are filled before it.
    pub prepare_create: fn(&mut Value),
    /// (new, old): keeps what an update may not change, raises the generation.
    pub prepare_update: fn(&mut Value, &Value),
    /// (new, old): the same for the status subresource.
    pub prepare_status_update: fn(&mut Value, &Value),
    /// Errors of a new object, metadata included.
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// (new, old): errors of an update, metadata included.
    pub validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// (new, old): errors of a status update, metadata included.
    pub validate_status_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// Columns of the kind's table.
    pub columns: &'static [Column],
    /// Cells of one row; `now` in milliseconds since the epoch.
    pub cells: fn(&Value, i64) -> Vec<Value>,
    /// Conditions of one row (`metav1.TableRowCondition`).
    pub row_conditions: fn(&Value) -> Vec<Value>,
    /// The value that a field selector compares, `None` for a label the kind does not have.
    pub field_label: fn(&Value, &str) -> Option<String>,
    /// Labels a field selector may name.
    pub supported_field_labels: &'static [&'static str],
    /// PUT of a missing object creates it.
    pub allow_create_on_update: bool,
    /// Updates may come without a resourceVersion.
    pub allow_unconditional_update: bool,
    /// What happens to dependents when a deletion names no policy.
    pub default_deletion: DefaultDeletion,
    /// For kinds that end gracefully: (object, asked seconds) gives the grace period in seconds, 0 = at once.
    pub graceful_delete: Option<fn(&Value, Option<i64>) -> i64>,
    /// (new, old): texts of `Warning` headers.
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
}

static TABLE: LazyLock<Index<3, Rules>> = LazyLock::new(|| {
    table::resources()
        .iter()
        .map(|r| ([r.group.as_str(), r.version.as_str(), r.kind.as_str()], build(r)))
        .collect()
});

static CUSTOM_NAMESPACED: LazyLock<Rules> = LazyLock::new(|| custom(true));
static CUSTOM_CLUSTER: LazyLock<Rules> = LazyLock::new(|| custom(false));

/// The rules of a built-in resource.
pub fn rules(resource: &Resource) -> &'static Rules {
    rules_of(&resource.group, &resource.version, &resource.kind)
        .unwrap_or_else(|| custom_rules(resource.namespaced))
}

/// The rules of a built-in kind.
pub fn rules_of(group: &str, version: &str, kind: &str) -> Option<&'static Rules> {
    TABLE.get([group, version, kind])
}

/// The rules of custom resources: metadata only; their schema is the API server's to check.
pub fn custom_rules(namespaced: bool) -> &'static Rules {
    if namespaced { &CUSTOM_NAMESPACED } else { &CUSTOM_CLUSTER }
}

fn build(resource: &'static Resource) -> Rules {
    let strategy = strategy::strategy(&resource.group, &resource.kind);
    Rules {
        columns: columns::columns(&resource.group, &resource.kind),
        supported_field_labels: fields::labels(&resource.group, &resource.kind),
        allow_create_on_update: strategy.create_on_update,
        allow_unconditional_update: strategy.unconditional_update,
        default_deletion: strategy.deletion,
        graceful_delete: (resource.group.is_empty() && resource.kind == "Pod")
            .then_some(kinds::pod::grace_period),
        ..custom(resource.namespaced)
    }
}

fn custom(namespaced: bool) -> Rules {
    Rules {
        default: defaults::apply,
        prepare_create,
        prepare_update,
        prepare_status_update,
        validate: if namespaced { |o| validate(o, true) } else { |o| validate(o, false) },
        validate_update: if namespaced { |n, o| update(n, o, true) } else { |n, o| update(n, o, false) },
        validate_status_update: if namespaced {
            |n, o| status(n, o, true)
        } else {
            |n, o| status(n, o, false)
        },
        columns: columns::FALLBACK,
        cells: |object, now| {
            columns::cells(columns::columns(strategy::group_of(object), kind(object)), object, now)
        },
        row_conditions: columns::row_conditions,
        field_label: fields::value,
        supported_field_labels: fields::METADATA,
        allow_create_on_update: false,
        allow_unconditional_update: false,
        default_deletion: DefaultDeletion::Background,
        graceful_delete: None,
        warnings: warnings::of,
    }
}

fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or("")
}

fn kind_rules(object: &Value) -> &'static kinds::Kind {
    kinds::find(strategy::group_of(object), kind(object))
}

fn prepare_create(object: &mut Value) {
    strategy::prepare_create(object);
    (kind_rules(object).prepare_create)(object);
}

fn prepare_update(new: &mut Value, old: &Value) {
    strategy::prepare_update(new, old);
    (kind_rules(new).prepare_update)(new, old);
}

fn prepare_status_update(new: &mut Value, old: &Value) {
    strategy::prepare_status_update(new, old);
    (kind_rules(new).prepare_status_update)(new, old);
}

fn validate(object: &Value, namespaced: bool) -> Vec<FieldError> {
    let rules = kind_rules(object);
    let mut errors = Errors::new();
    meta::validate(object, namespaced, rules.names, &mut errors);
    finalizers(object, &mut errors);
    (rules.validate)(object, &mut errors);
    errors.done()
}

fn update(new: &Value, old: &Value, namespaced: bool) -> Vec<FieldError> {
    let rules = kind_rules(new);
    let mut errors = update_of_metadata(new, old, namespaced, rules.names);
    (rules.validate_update)(new, old, &mut errors);
    errors.done()
}

fn status(new: &Value, old: &Value, namespaced: bool) -> Vec<FieldError> {
    let rules = kind_rules(new);
    let mut errors = update_of_metadata(new, old, namespaced, rules.names);
    (rules.validate_status)(new, old, &mut errors);
    errors.done()
}

/// Metadata of an update. Whether a version must be given is the API server's question (it fills one in for
/// unconditional updates), so it is not asked here.
fn update_of_metadata(new: &Value, old: &Value, namespaced: bool, names: NameFormat) -> Errors {
    let mut errors = Errors::new();
    meta::validate_update(new, old, true, &mut errors);
    // A name that was good once stays good: formats are checked on create only.
    let names = if names == NameFormat::Own { names } else { NameFormat::PathSegment };
    meta::validate(new, namespaced, names, &mut errors);
    finalizers(new, &mut errors);
    errors
}

/// Groups whose kinds take finalizers of any form, as custom resources do.
const FREE_FINALIZERS: &[&str] =
    &["apiextensions.k8s.io", "apiregistration.k8s.io", "admissionregistration.k8s.io"];

fn finalizers(object: &Value, errors: &mut Errors) {
    let (group, version) = meta::group_version(object);
    if rules_of(group, version, kind(object)).is_some() && !FREE_FINALIZERS.contains(&group) {
        meta::validate_qualified_finalizers(object, errors);
    }
}

#[cfg(test)]
mod tests;
