//! CustomResourceDefinition and APIService: how the API grows (upstream:
//! `apiextensions-apiserver/pkg/apis/apiextensions/validation`).

mod defaults;
mod field_path;
mod schema;
mod service;
mod structural;

use std::sync::LazyLock;

use super::{Kind, client_config, shared::unchanged};
use crate::custom::schemas;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, same, set};
use crate::meta::NameFormat;
use api_types::definition::{APPROVAL, Approval, approval as approval_of, has_condition};
use regex::Regex;
use schema::Demands;
use serde_json::{Value, json};

const SPEC: At<'static> = At::root("spec");
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MAX_SELECTABLE: usize = 8;
/// Bytes of what is said of a deprecated version, at most.
const MAX_WARNING: usize = 256;

pub(super) static KINDS: &[Kind] = &[
    Kind {
        prepare_create: |crd| stored_versions(crd, &Value::Null),
        prepare_update: keep_stored_versions,
        ..Kind::new("apiextensions.k8s.io", "CustomResourceDefinition")
            .names(NameFormat::Own)
            .create(definition)
            .update(definition_update)
            .status(definition_status)
    },
    service::KIND,
];

/// The version that new objects are stored in is among the stored versions.
fn stored_versions(crd: &mut Value, old: &Value) {
    let mut stored = old.items("status.storedVersions").to_vec();
    let name = crd.items("spec.versions").iter().find(|v| v.flag("storage")).map(|v| v.at("name").clone());
    stored.extend(name.filter(|n| n.is_string() && !stored.contains(n)));
    set(crd, "status.storedVersions", Value::Array(stored));
}

/// The stored status stays, with the version that this update makes the stored one.
fn keep_stored_versions(new: &mut Value, old: &Value) {
    let versions = new.at("spec.versions").clone();
    let mut probe = json!({"spec": {"versions": versions}});
    stored_versions(&mut probe, old);
    set(new, "status", old.at("status").clone());
    set(new, "status.storedVersions", probe.at("status.storedVersions").clone());
}

fn definition(crd: &Value, errors: &mut Errors) {
    let wanted = format!("{}.{}", crd.text("spec.names.plural"), crd.text("spec.group"));
    let name = crd.text("metadata.name");
    errors.format(At::root("metadata.name"), name, format::dns1123_subdomain(name));
    if name != wanted {
        errors.invalid(At::root("metadata.name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
    definition_spec(crd, None, errors);
    stored(crd, errors);
    approval(crd, None, errors);
    keeps_no_unknown(crd, None, errors);
}

fn definition_update(new: &Value, old: &Value, errors: &mut Errors) {
    definition_spec(new, Some(old), errors);
    if has_condition(old, "Established") {
        unchanged(new.at("spec"), old.at("spec"), &["scope", "names.kind"], SPEC, errors);
    }
    unchanged(new.at("spec"), old.at("spec"), &["group", "names.plural"], SPEC, errors);
    definition_status(new, old, errors);
    stored(new, errors);
    approval(new, Some(old), errors);
    keeps_no_unknown(new, Some(old), errors);
}

fn definition_status(new: &Value, _: &Value, errors: &mut Errors) {
    forms_of_names(new.at("status.acceptedNames"), At::root("status.acceptedNames"), errors);
}

/// Groups of the Kubernetes project need a word of approval, unless it was missing or wrong in the same way before.
fn approval(crd: &Value, old: Option<&Value>, errors: &mut Errors) {
    let at = At::root("metadata.annotations");
    let said = |crd: &Value| approval_of(crd).map(|found| found.reason());
    if old.is_some_and(|old| said(old) == said(crd)) {
        return;
    }
    match approval_of(crd) {
        Some(found @ Approval::Missing) => errors.required(at.key(APPROVAL), found.text()),
        Some(found @ Approval::Invalid) => {
            let said = crd.at("metadata.annotations").key(APPROVAL).clone();
            errors.invalid(at.key(APPROVAL), said, found.text());
        }
        _ => {}
    }
}

fn keeps_no_unknown(crd: &Value, old: Option<&Value>, errors: &mut Errors) {
    let kept = |crd: &Value| crd.flag("spec.preserveUnknownFields");
    if kept(crd) && !old.is_some_and(kept) {
        let text = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(SPEC.at("preserveUnknownFields"), true, text);
    }
}

/// Parts of versions that are the same in all of them: upstream has them, and their errors, in one place for all.
struct Shared<'a> {
    schema: Option<&'a Value>,
    subresources: Option<&'a Value>,
    columns: Option<&'a [Value]>,
    fields: Option<&'a [Value]>,
}

impl<'a> Shared<'a> {
    fn of(versions: &'a [Value]) -> Self {
        let alike = |name: &str| {
            let first = versions.first()?.at(name);
            versions.iter().all(|version| same(version.at(name), first)).then_some(first)
        };
        Self {
            schema: alike("schema"),
            subresources: alike("subresources"),
            columns: alike("additionalPrinterColumns").map(|list| list.items("")),
            fields: alike("selectableFields").map(|list| list.items("")),
        }
    }
}

fn definition_spec(crd: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = crd.at("spec");
    group(spec, errors);
    errors.one_of(SPEC.at("scope"), spec.text("scope"), &["Cluster", "Namespaced"]);
    let (list, versions) = (SPEC.at("versions"), spec.items("versions"));
    let shared = Shared::of(versions);
    schemas_are_there(spec, old, errors);
    let has_default = |part: &Value| part.has("default");
    if spec.flag("preserveUnknownFields") && schemas::of_definition(crd, has_default) {
        let text = "must be false in order to use defaults in the schema";
        errors.invalid(SPEC.at("preserveUnknownFields"), true, text);
    }
    let demands = old.map_or(Demands::ALL, Demands::after);
    for (i, version) in versions.iter().enumerate() {
        let (at, name) = (list.index(i), version.text("name"));
        joined(name, format::dns1035_label(name), at.at("name"), errors);
        definition_version(version, before(old, name), &shared, demands, at, errors);
    }
    let all = || Value::Array(versions.to_vec());
    let names = || versions.iter().map(|v| v.text("name"));
    if names().enumerate().any(|(i, name)| names().take(i).any(|other| other == name)) {
        errors.invalid(list, all(), "must contain unique version names");
    }
    if versions.iter().filter(|v| v.flag("storage")).count() != 1 {
        errors.invalid(list, all(), "must have exactly one version marked as storage version");
    }
    // Upstream has the name of the first version once more.
    if let Some(name) = names().next().filter(|name| !name.is_empty()) {
        joined(name, format::dns1035_label(name), SPEC.at("version"), errors);
    }
    names_of(spec.at("names"), SPEC.at("names"), errors);
    shared_parts(versions, &shared, old, demands, errors);
    conversion(spec, old, errors);
}

/// A version of a definition as it was.
fn before<'a>(old: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    let versions = old.map_or(&[][..], |old| old.items("spec.versions"));
    versions.iter().rev().find(|version| version.text("name") == name)
}

/// Every version has a schema; where some had none before, those that are served.
fn schemas_are_there(spec: &Value, old: Option<&Value>, errors: &mut Errors) {
    let has_schema = |version: &Value| version.at("schema.openAPIV3Schema").is_object();
    let had_all = old.is_none_or(|old| old.items("spec.versions").iter().all(has_schema));
    let list = SPEC.at("versions");
    for (i, version) in spec.items("versions").iter().enumerate().filter(|(_, version)| !has_schema(version))
    {
        let at = list.index(i);
        let at = at.at("schema.openAPIV3Schema");
        if had_all {
            errors.required(at, "");
        } else if version.flag("served") && !spec.flag("preserveUnknownFields") {
            errors.required(at, "because otherwise all fields are pruned");
        }
    }
}

/// `before`: the version of that name as it was.
fn definition_version(
    version: &Value,
    before: Option<&Value>,
    shared: &Shared<'_>,
    demands: Demands,
    at: At<'_>,
    errors: &mut Errors,
) {
    deprecation_warning(version, at.at("deprecationWarning"), errors);
    let schema = version.at("schema.openAPIV3Schema");
    if schema.is_object() && shared.schema.is_none() {
        let unchanged = before.is_some_and(|before| same(before.at("schema"), version.at("schema")));
        let has_status = version.has("subresources.status");
        schema::check(schema, has_status, demands, unchanged, at.at("schema.openAPIV3Schema"), errors);
    }
    if shared.subresources.is_none() {
        scale(version.at("subresources"), at.at("subresources"), errors);
    }
    if shared.columns.is_none() {
        columns(version.items("additionalPrinterColumns"), at.at("additionalPrinterColumns"), errors);
    }
    let fields = version.items("selectableFields");
    if shared.fields.is_some() || fields.is_empty() {
        return;
    }
    let list = at.at("selectableFields");
    if shared.schema.is_some() || !schema.is_object() {
        let text = "may only be set when `version.schema.openAPIV3Schema` is not included";
        errors.invalid(list, "", text);
    } else {
        selectable(
            fields,
            schema,
            before.map_or(&[], |before| before.items("selectableFields")),
            list,
            errors,
        );
    }
}

/// What all versions have alike.
fn shared_parts(
    versions: &[Value],
    shared: &Shared<'_>,
    old: Option<&Value>,
    demands: Demands,
    errors: &mut Errors,
) {
    let schema = shared.schema.map(|part| part.at("openAPIV3Schema")).filter(|schema| schema.is_object());
    if let Some(schema) = schema {
        let has_status = versions.iter().any(|version| version.has("subresources.status"));
        let unchanged = versions.first().is_some_and(|first| {
            before(old, first.text("name"))
                .is_some_and(|before| same(before.at("schema.openAPIV3Schema"), schema))
        });
        schema::check(schema, has_status, demands, unchanged, SPEC.at("validation.openAPIV3Schema"), errors);
    }
    scale(shared.subresources.unwrap_or(&Value::Null), SPEC.at("subresources"), errors);
    columns(shared.columns.unwrap_or_default(), SPEC.at("additionalPrinterColumns"), errors);
    let (fields, list) = (shared.fields.unwrap_or_default(), SPEC.at("selectableFields"));
    match schema {
        _ if fields.is_empty() => {}
        Some(schema) => {
            let old = old.map_or(&[][..], |old| old.items("spec.versions"));
            let before = Shared::of(old).fields.unwrap_or_default();
            selectable(fields, schema, before, list, errors);
        }
        None => errors.invalid(list, "", "may only be set when validations.schema is included"),
    }
}

fn joined(value: &str, problems: format::Problems, at: At<'_>, errors: &mut Errors) {
    if !problems.is_empty() {
        errors.invalid(at, value, problems.join(","));
    }
}

fn group(spec: &Value, errors: &mut Errors) {
    let (group, at) = (spec.text("group"), SPEC.at("group"));
    let problems = format::dns1123_subdomain(group);
    if group.is_empty() {
        errors.required(at, "");
    } else if !problems.is_empty() {
        errors.invalid(at, group, problems.join(","));
    } else if !group.contains('.') {
        errors.invalid(at, group, "should be a domain with at least one dot");
    }
}

fn names_of(names: &Value, at: At<'_>, errors: &mut Errors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        if names.text(field).is_empty() {
            errors.required(at.at(field), "");
        }
    }
    forms_of_names(names, at, errors);
}

fn forms_of_names(names: &Value, at: At<'_>, errors: &mut Errors) {
    for field in ["plural", "singular"] {
        let name = names.text(field);
        if !name.is_empty() {
            joined(name, format::dns1035_label(name), at.at(field), errors);
        }
    }
    for field in ["kind", "listKind"] {
        let name = names.text(field);
        let problems = format::dns1035_label(&name.to_lowercase());
        if !name.is_empty() && !problems.is_empty() {
            let text = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
            errors.invalid(at.at(field), name, text);
        }
    }
    let each = |field: &str, errors: &mut Errors| {
        let list = at.at(field);
        for (i, name) in names.items(field).iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            joined(name, format::dns1035_label(name), list.index(i), errors);
        }
    };
    each("shortNames", errors);
    let kind = names.text("kind");
    if !kind.is_empty() && kind == names.text("listKind") {
        errors.invalid(at.at("listKind"), kind, "kind and listKind may not be the same");
    }
    each("categories", errors);
}

fn conversion(spec: &Value, old: Option<&Value>, errors: &mut Errors) {
    let at = SPEC.at("conversion");
    let strategy = spec.text("conversion.strategy");
    if !spec.has("conversion") {
        return;
    }
    if spec.flag("preserveUnknownFields") && strategy != "None" {
        let text = "must be None if spec.preserveUnknownFields is true";
        errors.invalid(at.at("strategy"), strategy, text);
    }
    errors.one_of(at.at("strategy"), strategy, &["None", "Webhook"]);
    let client_at = at.at("webhookClientConfig");
    let webhook = spec.at("conversion.webhook");
    let client = webhook.at("clientConfig");
    if strategy != "Webhook" {
        let text = "should not be set when strategy is not set to Webhook";
        if client.is_object() {
            errors.forbidden(client_at, text);
        }
        if !webhook.items("conversionReviewVersions").is_empty() {
            errors.forbidden(at.at("conversionReviewVersions"), text);
        }
        return;
    }
    if client.is_object() {
        client_config::validate(client, client_at, errors);
        let bundle = client.text("caBundle");
        if let Some(text) = client_config::bundle_problem(bundle).filter(|_| needs_bundle(old)) {
            errors.invalid(client_at.at("caBundle"), bundle, text);
        }
    } else {
        errors.required(client_at, "required when strategy is set to Webhook");
    }
    review_versions(webhook.items("conversionReviewVersions"), old, at, errors);
}

/// Whether certificates have to be sound: once the definition is established, if they were so before.
fn needs_bundle(old: Option<&Value>) -> bool {
    let bundle = |old: &Value| old.text("spec.conversion.webhook.clientConfig.caBundle").to_owned();
    old.is_some_and(|old| {
        has_condition(old, "Established") && client_config::bundle_problem(&bundle(old)).is_none()
    })
}

fn review_versions(versions: &[Value], old: Option<&Value>, at: At<'_>, errors: &mut Errors) {
    let at = at.at("conversionReviewVersions");
    if versions.is_empty() {
        return errors.required(at, "");
    }
    for (i, version) in versions.iter().enumerate() {
        let name = version.as_str().unwrap_or("");
        if versions[..i].contains(version) {
            errors.invalid(at.index(i), name, "duplicate version");
        } else {
            errors.format(at.index(i), name, format::dns1035_label(name));
        }
    }
    let is_known = |versions: &[Value]| versions.iter().any(|v| matches!(v.as_str(), Some("v1" | "v1beta1")));
    let was_known = old.is_none_or(|old| {
        let before = old.items("spec.conversion.webhook.conversionReviewVersions");
        before.is_empty() || is_known(before)
    });
    if was_known && !is_known(versions) {
        errors.invalid(at, Value::Array(versions.to_vec()), "must include at least one of v1, v1beta1");
    }
}

fn deprecation_warning(version: &Value, at: At<'_>, errors: &mut Errors) {
    let Some(text) = version.at("deprecationWarning").as_str() else { return };
    if !version.flag("deprecated") {
        return errors.invalid(at, text, "can only be set for deprecated versions");
    }
    if text.len() > MAX_WARNING {
        errors.invalid(at, text, format!("must be <= {MAX_WARNING} characters long"));
    }
    if text.is_empty() {
        errors.invalid(at, text, "must not be an empty string");
    }
    let printed: usize = text.chars().take_while(|letter| is_printable(*letter)).map(char::len_utf8).sum();
    if printed < text.len() {
        let text_of = "must only contain printable UTF-8 characters; non-printable character found at index";
        errors.invalid(at, text, format!("{text_of} {printed}"));
    }
}

/// Letters, marks, numbers, punctuation, symbols and the plain space.
fn is_printable(letter: char) -> bool {
    static KNOWN: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^[\p{L}\p{M}\p{N}\p{P}\p{S} ]$").expect("invariant: a regular expression")
    });
    KNOWN.is_match(letter.encode_utf8(&mut [0; 4]))
}

/// Fields that objects are selected by. `before`: those that there were.
fn selectable(fields: &[Value], schema: &Value, before: &[Value], list: At<'_>, errors: &mut Errors) {
    let mut known: Vec<Vec<String>> = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let path = field.text("jsonPath");
        let at = list.index(i);
        let at = at.at("jsonPath");
        if path.is_empty() {
            errors.required(at, "");
            continue;
        }
        let target = match field_path::follow(path, schema, false) {
            Ok(target) => target,
            Err(why) => {
                errors.invalid(at, path, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if target.steps.first().is_some_and(|first| first == "metadata") {
            errors.invalid(at, path, "must not point to fields in metadata");
        }
        let kind = target.schema.map_or("", |schema| schema.text("type"));
        if !["string", "boolean", "integer"].contains(&kind) {
            let text = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(at, path, text);
        }
        if known.contains(&target.steps) {
            errors.duplicate(at, path);
        } else {
            known.push(target.steps);
        }
    }
    let were_too_many = before.len() > MAX_SELECTABLE && before == fields;
    if known.len() > MAX_SELECTABLE && !were_too_many {
        errors.too_many(list, known.len(), MAX_SELECTABLE);
    }
}

fn scale(subresources: &Value, at: At<'_>, errors: &mut Errors) {
    let (scale, at) = (subresources.at("scale"), at.at("scale"));
    if !scale.is_object() {
        return;
    }
    for (field, root) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let path = scale.text(field);
        if path.is_empty() {
            errors.required(at.at(field), "");
        } else if simple_path(path, at.at(field), errors) && !path.starts_with(&format!("{root}.")) {
            errors.invalid(at.at(field), path, format!("should be a json path under {root}"));
        }
    }
    let (labels, at) = (scale.text("labelSelectorPath"), at.at("labelSelectorPath"));
    if !labels.is_empty()
        && simple_path(labels, at, errors)
        && !labels.starts_with(".spec.")
        && !labels.starts_with(".status.")
    {
        errors.invalid(at, labels, "should be a json path under either .spec or .status");
    }
}

fn simple_path(path: &str, at: At<'_>, errors: &mut Errors) -> bool {
    let is_good = path.starts_with('.');
    if !is_good {
        errors.invalid(at, path, "must be a simple json path starting with .");
    }
    is_good
}

fn columns(columns: &[Value], list: At<'_>, errors: &mut Errors) {
    for (i, column) in columns.iter().enumerate() {
        printer_column(column, list.index(i), errors);
    }
}

fn printer_column(column: &Value, at: At<'_>, errors: &mut Errors) {
    if column.text("name").is_empty() {
        errors.required(at.at("name"), "");
    }
    let kind = column.text("type");
    let known = format!("must be one of {}", COLUMN_TYPES.join(","));
    if kind.is_empty() {
        errors.required(at.at("type"), known);
    } else if !COLUMN_TYPES.contains(&kind) {
        errors.invalid(at.at("type"), kind, known);
    }
    let form = column.text("format");
    if !form.is_empty() && !COLUMN_FORMATS.contains(&form) {
        errors.invalid(at.at("format"), form, format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    let path = column.text("jsonPath");
    if path.is_empty() {
        errors.required(at.at("JSONPath"), "");
    } else {
        simple_path(path, at.at("JSONPath"), errors);
    }
}

/// Versions that objects are stored in are still there.
fn stored(crd: &Value, errors: &mut Errors) {
    let at = At::root("status.storedVersions");
    let list = crd.items("status.storedVersions");
    if list.is_empty() {
        return errors.invalid(at, Value::Null, "must have at least one stored version");
    }
    let mut left: Vec<(usize, &str)> =
        list.iter().map(|name| name.as_str().unwrap_or("")).enumerate().collect();
    for version in crd.items("spec.versions") {
        let name = version.text("name");
        let count = left.len();
        left.retain(|(_, other)| *other != name);
        if version.flag("storage") && left.len() == count {
            errors.invalid(at, Value::Array(list.to_vec()), format!("must have the storage version {name}"));
        }
    }
    for (i, name) in left {
        let text = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        errors.invalid(at.index(i), name, text);
    }
}

#[cfg(test)]
mod tests;
