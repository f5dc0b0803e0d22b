//! CustomResourceDefinition and APIService: how the API grows.

use super::{Kind, shared::unchanged};
use crate::custom::{costs, rule_types};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, set};
use crate::meta::NameFormat;
use api_types::definition::{APPROVAL, Approval, approval as approval_of};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const SPEC: At<'static> = At::root("spec");
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const SCHEMA_TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// Parts of JSON schema that structural schemas may not have.
const UNSUPPORTED: &[&str] =
    &["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];
const MAX_SELECTABLE: usize = 8;
/// Deepest nesting of schemas that is looked into.
const MAX_DEPTH: usize = 100;

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
    Kind::new("apiregistration.k8s.io", "APIService")
        .names(NameFormat::Own)
        .create(api_service)
        .update(|new, _, errors| api_service(new, errors))
        .status(api_service_status),
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
    if name != wanted {
        errors.invalid(At::root("metadata.name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
    approval(crd, errors);
    definition_spec(crd, None, errors);
}

/// Groups of the Kubernetes project need a word of approval.
fn approval(crd: &Value, errors: &mut Errors) {
    let at = At::root("metadata.annotations");
    match approval_of(crd) {
        Some(found @ Approval::Missing) => errors.required(at.key(APPROVAL), found.text()),
        Some(found @ Approval::Invalid) => {
            let said = crd.at("metadata.annotations").key(APPROVAL).clone();
            errors.invalid(at.key(APPROVAL), said, found.text());
        }
        _ => {}
    }
}

fn definition_spec(crd: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = crd.at("spec");
    group(spec, errors);
    errors.one_of(SPEC.at("scope"), spec.text("scope"), &["Cluster", "Namespaced"]);
    if spec.flag("preserveUnknownFields") {
        let text = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(SPEC.at("preserveUnknownFields"), true, text);
    }
    let list = SPEC.at("versions");
    let versions = spec.items("versions");
    for (i, version) in versions.iter().enumerate() {
        let at = list.index(i);
        let name = version.text("name");
        joined(name, format::dns1035_label(name), at.at("name"), errors);
        let before = old.map_or(&[][..], |old| old.items("spec.versions")).iter();
        let before = before.rev().find(|before| before.text("name") == name);
        definition_version(version, before, at, errors);
    }
    let names = || versions.iter().map(|v| v.text("name"));
    if names().enumerate().any(|(i, name)| names().take(i).any(|other| other == name)) {
        errors.invalid(list, Value::Array(versions.to_vec()), "must contain unique version names");
    }
    if versions.iter().filter(|v| v.flag("storage")).count() != 1 {
        let text = "must have exactly one version marked as storage version";
        errors.invalid(list, Value::Array(versions.to_vec()), text);
    }
    names_of(spec.at("names"), SPEC.at("names"), errors);
    conversion(spec, errors);
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
    for field in ["plural", "singular"] {
        let name = names.text(field);
        joined(name, format::dns1035_label(name), at.at(field), errors);
    }
    for field in ["kind", "listKind"] {
        let name = names.text(field);
        let problems = format::dns1035_label(&name.to_lowercase());
        if !problems.is_empty() {
            let text = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
            errors.invalid(at.at(field), name, text);
        }
    }
    for field in ["shortNames", "categories"] {
        let list = at.at(field);
        for (i, name) in names.items(field).iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            joined(name, format::dns1035_label(name), list.index(i), errors);
        }
    }
    let kind = names.text("kind");
    if !kind.is_empty() && kind == names.text("listKind") {
        errors.invalid(at.at("listKind"), kind, "kind and listKind may not be the same");
    }
}

fn conversion(spec: &Value, errors: &mut Errors) {
    let at = SPEC.at("conversion");
    let strategy = spec.text("conversion.strategy");
    if !spec.has("conversion") {
        return;
    }
    errors.one_of(at.at("strategy"), strategy, &["None", "Webhook"]);
    let client_at = at.at("webhookClientConfig");
    let webhook = spec.at("conversion.webhook");
    let client = webhook.at("clientConfig");
    if strategy != "Webhook" {
        if client.is_object() {
            errors.forbidden(client_at, "should not be set when strategy is not set to Webhook");
        }
        if !webhook.items("conversionReviewVersions").is_empty() {
            let text = "should not be set when strategy is not set to Webhook";
            errors.forbidden(at.at("conversionReviewVersions"), text);
        }
        return;
    }
    if !client.is_object() {
        errors.required(client_at, "required when strategy is set to Webhook");
    } else if client.has("url") == client.has("service") {
        errors.required(client_at, "exactly one of url or service is required");
    }
    let versions = webhook.items("conversionReviewVersions");
    let versions_at = at.at("conversionReviewVersions");
    if versions.is_empty() {
        errors.required(versions_at, "");
    } else if !versions.iter().any(|v| matches!(v.as_str(), Some("v1" | "v1beta1"))) {
        let text = "must include at least one of v1, v1beta1";
        errors.invalid(versions_at, Value::Array(versions.to_vec()), text);
    }
}

/// `before`: the version of that name as it was.
fn definition_version(version: &Value, before: Option<&Value>, at: At<'_>, errors: &mut Errors) {
    let schema = version.at("schema.openAPIV3Schema");
    let schema_at = at.at("schema.openAPIV3Schema");
    if schema.is_object() {
        let mut found = Errors::new();
        root_schema(schema, schema_at, &mut found);
        if found.is_empty() {
            let unchanged = before.is_some_and(|before| before.at("schema.openAPIV3Schema") == schema);
            costs::check(schema, schema_at, unchanged, &mut found);
        }
        errors.extend(found.done());
    } else {
        errors.required(schema_at, "");
    }
    scale(version, at.at("subresources.scale"), errors);
    let list = at.at("additionalPrinterColumns");
    for (i, column) in version.items("additionalPrinterColumns").iter().enumerate() {
        printer_column(column, list.index(i), errors);
    }
    let list = at.at("selectableFields");
    let fields = version.items("selectableFields");
    if fields.len() > MAX_SELECTABLE {
        errors.too_many(list, fields.len(), MAX_SELECTABLE);
    }
    for (i, field) in fields.iter().enumerate() {
        selectable(field, &fields[..i], list.index(i), errors);
    }
}

fn selectable(field: &Value, before: &[Value], at: At<'_>, errors: &mut Errors) {
    let path = field.text("jsonPath");
    let at = at.at("jsonPath");
    if path.is_empty() {
        errors.required(at, "");
    } else if path == ".metadata" || path.starts_with(".metadata.") {
        errors.invalid(at, path, "must not point to fields in metadata");
    } else if before.iter().any(|f| f.text("jsonPath") == path) {
        errors.duplicate(at, path);
    }
}

fn scale(version: &Value, at: At<'_>, errors: &mut Errors) {
    let scale = version.at("subresources.scale");
    if !scale.is_object() {
        return;
    }
    for (field, root) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let path = scale.text(field);
        if path.is_empty() {
            errors.required(at.at(field), "");
        } else if !path.starts_with(&format!("{root}.")) {
            errors.invalid(at.at(field), path, format!("should be a json path under {root}"));
        }
    }
    let labels = scale.text("labelSelectorPath");
    if !labels.is_empty() && !labels.starts_with(".spec.") && !labels.starts_with(".status.") {
        errors.invalid(
            at.at("labelSelectorPath"),
            labels,
            "should be a json path under either .spec or .status",
        );
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
    if column.text("jsonPath").is_empty() {
        errors.required(at.at("JSONPath"), "");
    }
}

fn root_schema(schema: &Value, at: At<'_>, errors: &mut Errors) {
    if schema.flag("nullable") {
        errors.forbidden(at.at("nullable"), "nullable cannot be true at the root");
    }
    match schema.text("type") {
        "" => errors.required(at.at("type"), "must not be empty at the root"),
        "object" => {}
        other => errors.invalid(at.at("type"), other, "must be object at the root"),
    }
    if schema.has("additionalProperties") && schema.at("additionalProperties") != &Value::Bool(false) {
        errors.forbidden(at.at("additionalProperties"), "must not be used at the root");
    }
    structural(schema, at, MAX_DEPTH, errors);
}

/// The rules of structural schemas, at every depth.
fn structural(schema: &Value, at: At<'_>, depth: usize, errors: &mut Errors) {
    if depth == 0 {
        return;
    }
    for field in UNSUPPORTED.iter().filter(|f| schema.get(**f).is_some_and(|v| !crate::look::is_zero(v))) {
        errors.forbidden(at.at(field), format!("{field} is not supported"));
    }
    let kind = schema.text("type");
    if kind == "null" {
        errors.forbidden(at.at("type"), "type cannot be set to null, use nullable as an alternative");
    } else if !kind.is_empty() && !SCHEMA_TYPES.contains(&kind) {
        errors.not_supported(at.at("type"), kind, SCHEMA_TYPES);
    }
    if schema.flag("uniqueItems") {
        let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(at.at("uniqueItems"), text);
    }
    if schema.at("additionalProperties").is_object() && schema.entries("properties").next().is_some() {
        let text = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(at.at("additionalProperties"), text);
    }
    if schema.at("x-kubernetes-preserve-unknown-fields") == &Value::Bool(false) {
        let text = "must be true or undefined";
        errors.invalid(at.at("x-kubernetes-preserve-unknown-fields"), false, text);
    }
    list_type(schema, at, errors);
    validations(schema, at, depth == MAX_DEPTH, errors);
    children(schema, at, depth, errors);
}

fn children(schema: &Value, at: At<'_>, depth: usize, errors: &mut Errors) {
    let typed = |child: &Value| {
        !child.text("type").is_empty()
            || child.flag("x-kubernetes-int-or-string")
            || child.flag("x-kubernetes-preserve-unknown-fields")
    };
    let properties = at.at("properties");
    for (name, child) in schema.entries("properties") {
        let at = properties.key(name);
        if !typed(child) {
            errors.required(at.at("type"), "must not be empty for specified object fields");
        }
        structural(child, at, depth - 1, errors);
    }
    let items = schema.at("items");
    match items {
        Value::Object(_) => {
            if !typed(items) {
                errors.required(at.at("items.type"), "must not be empty for specified array items");
            }
            structural(items, at.at("items"), depth - 1, errors);
        }
        Value::Array(_) => errors.forbidden(at.at("items"), "items must be a schema object and not an array"),
        _ if schema.text("type") == "array" => errors.required(at.at("items"), "must be specified"),
        _ => {}
    }
    let more = schema.at("additionalProperties");
    if more.is_object() {
        if !typed(more) {
            errors.required(
                at.at("additionalProperties.type"),
                "must not be empty for specified object fields",
            );
        }
        structural(more, at.at("additionalProperties"), depth - 1, errors);
    }
}

fn needs_type(schema: &Value, wanted: &str, marker: &str, at: At<'_>, errors: &mut Errors) {
    let text = format!("must be {wanted} if x-kubernetes-{marker}-type is specified");
    match schema.text("type") {
        "" => errors.required(at.at("type"), text),
        other if other != wanted => errors.invalid(at.at("type"), other, text),
        _ => {}
    }
}

fn list_type(schema: &Value, at: At<'_>, errors: &mut Errors) {
    let (list, map) = (schema.text("x-kubernetes-list-type"), schema.text("x-kubernetes-map-type"));
    if !map.is_empty() {
        needs_type(schema, "object", "map", at, errors);
        errors.optional_of(at.at("x-kubernetes-map-type"), map, &["atomic", "granular"]);
    }
    let keys = schema.items("x-kubernetes-list-map-keys");
    let keys_at = at.at("x-kubernetes-list-map-keys");
    if list.is_empty() {
        if !keys.is_empty() {
            let text = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.required(at.at("x-kubernetes-list-type"), text);
        }
        return;
    }
    needs_type(schema, "array", "list", at, errors);
    errors.optional_of(at.at("x-kubernetes-list-type"), list, &["atomic", "map", "set"]);
    if list != "map" {
        return;
    }
    if keys.is_empty() {
        errors.required(keys_at, "must not be empty if x-kubernetes-list-type is map");
    }
    if schema.text("items.type") != "object" && schema.at("items").is_object() {
        let text = "must be object if parent array's x-kubernetes-list-type is map";
        errors.invalid(at.at("items.type"), schema.text("items.type"), text);
    }
    let properties = schema.at("items.properties");
    if keys.iter().any(|key| properties.get(key.as_str().unwrap_or("")).is_none()) {
        errors.invalid(keys_at, Value::Array(keys.to_vec()), "entries must all be names of item properties");
    }
}

fn validations(schema: &Value, at: At<'_>, root: bool, errors: &mut Errors) {
    let list = at.at("x-kubernetes-validations");
    for (i, rule) in schema.items("x-kubernetes-validations").iter().enumerate() {
        let at = list.index(i);
        let (text, message) = (rule.text("rule"), rule.text("message"));
        if text.trim().is_empty() {
            errors.required(at.at("rule"), "rule is not specified");
        } else if let Some(problem) = rule_types::problem(text, schema, root) {
            errors.invalid(at.at("rule"), text, format!("compilation failed: {problem}"));
        }
        if rule.has("message") && message.trim().is_empty() {
            errors.invalid(at.at("message"), message, "must be non-empty if specified");
        } else if message.trim().contains('\n') {
            errors.invalid(at.at("message"), message, "must not contain line breaks");
        } else if text.trim().contains('\n') && message.is_empty() {
            errors.required(at.at("message"), "message must be specified if rule contains line breaks");
        }
        let reasons =
            ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        errors.optional_of(at.at("reason"), rule.text("reason"), &reasons);
    }
}

fn definition_update(new: &Value, old: &Value, errors: &mut Errors) {
    definition_spec(new, Some(old), errors);
    let established = old
        .items("status.conditions")
        .iter()
        .any(|c| c.text("type") == "Established" && c.text("status") == "True");
    if established {
        unchanged(new.at("spec"), old.at("spec"), &["scope", "names.kind"], SPEC, errors);
    }
    unchanged(new.at("spec"), old.at("spec"), &["group", "names.plural"], SPEC, errors);
    definition_status(new, old, errors);
}

fn definition_status(new: &Value, _: &Value, errors: &mut Errors) {
    let at = At::root("status.storedVersions");
    let stored = new.items("status.storedVersions");
    let all = || Value::Array(stored.to_vec());
    if stored.is_empty() {
        errors.invalid(at, all(), "must have at least one stored version");
        return;
    }
    let versions = new.items("spec.versions");
    for (i, version) in stored.iter().enumerate() {
        let name = version.as_str().unwrap_or("");
        if !versions.iter().any(|v| v.text("name") == name) {
            let text = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.invalid(at.index(i), name, text);
        }
    }
    if let Some(current) = versions.iter().find(|v| v.flag("storage")).map(|v| v.text("name"))
        && !stored.iter().any(|v| v == current)
    {
        errors.invalid(at, all(), format!("must have the storage version {current}"));
    }
}

fn api_service(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let (group, version) = (spec.text("group"), spec.text("version"));
    let wanted = format!("{version}.{group}");
    let name = object.text("metadata.name");
    let problems = format::path_segment(name);
    each(name, &problems, At::root("metadata.name"), errors);
    if problems.is_empty() && name != wanted {
        let text = format!("must be `spec.version+\".\"+spec.group`: {}", api_types::field::quote(&wanted));
        errors.invalid(At::root("metadata.name"), name, text);
    }
    if group.is_empty() && version != "v1" {
        errors.required(SPEC.at("group"), "only v1 may have an empty group and it better be legacy kube");
    } else if !group.is_empty() {
        each(group, &format::dns1123_subdomain(group), SPEC.at("group"), errors);
    }
    each(version, &format::dns1035_label(version), SPEC.at("version"), errors);
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let value = spec.int(field);
        if value <= 0 || value > most {
            errors.invalid(SPEC.at(field), value, format!("must be positive and less than {most}"));
        }
    }
    if !spec.has("service") {
        local_service(spec, errors);
        return;
    }
    let at = SPEC.at("service");
    for field in ["namespace", "name"] {
        if spec.at("service").text(field).is_empty() {
            errors.required(at.at(field), "");
        }
    }
    let port = spec.int("service.port");
    let problems = format::port_number(port);
    if !problems.is_empty() {
        errors.invalid(at.at("port"), port, format!("port is not valid: {}", problems.join(", ")));
    }
    if spec.flag("insecureSkipTLSVerify") && !spec.text("caBundle").is_empty() {
        errors.invalid(SPEC.at("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
    }
}

/// An error for each problem.
fn each(value: &str, problems: &[String], at: At<'_>, errors: &mut Errors) {
    problems.iter().for_each(|problem| errors.invalid(at, value, problem.clone()));
}

fn api_service_status(new: &Value, _: &Value, errors: &mut Errors) {
    let at = At::root("status.conditions");
    for (i, condition) in new.items("status.conditions").iter().enumerate() {
        let status = condition.text("status");
        if !["True", "False", "Unknown"].contains(&status) {
            let at = at.index(i);
            errors.not_supported(at.at("status"), status, &["False", "True", "Unknown"]);
        }
    }
}

fn local_service(spec: &Value, errors: &mut Errors) {
    if !spec.text("caBundle").is_empty() {
        let text = "local APIServices may not have a caBundle";
        let bytes = STANDARD.decode(spec.text("caBundle")).map_or(0, |bundle| bundle.len());
        errors.invalid(SPEC.at("caBundle"), format!("{bytes} bytes"), text);
    }
    if spec.flag("insecureSkipTLSVerify") {
        let text = "local APIServices may not have insecureSkipTLSVerify";
        errors.invalid(SPEC.at("insecureSkipTLSVerify"), true, text);
    }
}

#[cfg(test)]
mod tests {
    use crate::look::{Look, set};
    use crate::rules_of;
    use serde_json::{Value, json};

    fn crd(changes: Value) -> Value {
        let mut crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.x.io"},
            "spec": {"group": "x.io", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                    "properties": {"spec": {"type": "object"}}}}}]}});
        for (path, value) in changes.as_object().unwrap() {
            set(&mut crd, path, value.clone());
        }
        let rules = rules_of("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
        (rules.default)(&mut crd);
        (rules.prepare_create)(&mut crd);
        crd
    }

    fn check(changes: Value) -> Vec<String> {
        let rules = rules_of("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
        (rules.validate)(&crd(changes)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn definitions() {
        let good = crd(json!({}));
        assert_eq!(good.at("status.storedVersions"), &json!(["v1"]));
        assert_eq!(good.text("spec.names.singular"), "widget");
        assert!(check(json!({})).is_empty(), "{:?}", check(json!({})));
        assert_eq!(
            check(json!({"metadata.name": "x"})),
            ["metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group"]
        );
        assert_eq!(
            check(json!({"spec.scope": "Odd"})),
            ["spec.scope: Unsupported value: \"Odd\": supported values: \"Cluster\", \"Namespaced\""]
        );
        assert_eq!(
            check(json!({"spec.names.listKind": "Widget"})),
            ["spec.names.listKind: Invalid value: \"Widget\": kind and listKind may not be the same"]
        );
    }

    #[test]
    fn schemas_are_structural() {
        let with = |schema: Value| {
            check(
                json!({"spec.versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}),
            )
        };
        assert_eq!(
            with(json!({"type": "object", "properties": {"a": {}}})),
            [
                "spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields"
            ]
        );
        assert_eq!(
            with(json!({"type": "object", "properties": {"a": {"type": "array"}}})),
            [
                "spec.versions[0].schema.openAPIV3Schema.properties[a].items: Required value: must be specified"
            ]
        );
        assert_eq!(
            with(
                json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}}})
            ),
            [
                "spec.versions[0].schema.openAPIV3Schema.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
            ]
        );
    }

    #[test]
    fn rules_compile() {
        let schema = json!({"type": "object", "properties": {"size": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.size > 0"}, {"rule": "self.size >"}]});
        let found = check(
            json!({"spec.versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}),
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains(
                "x-kubernetes-validations[1].rule: Invalid value: \"self.size >\": compilation failed"
            ),
            "{found:?}"
        );
    }

    #[test]
    fn a_new_storage_version_is_remembered() {
        let rules = rules_of("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
        let old = crd(json!({}));
        let mut new = old.clone();
        let first = new["spec"]["versions"][0].clone();
        let mut second = first.clone();
        second["name"] = json!("v2");
        new["spec"]["versions"] = json!([second, first]);
        new["spec"]["versions"][1]["storage"] = json!(false);
        (rules.prepare_update)(&mut new, &old);
        assert_eq!(new.at("status.storedVersions"), &json!(["v1", "v2"]));
        assert!((rules.validate_update)(&new, &old).is_empty());
        let only = json!([new["spec"]["versions"][0].clone()]);
        set(&mut new, "spec.versions", only);
        let found = (rules.validate_update)(&new, &old);
        assert!(
            found[0].detail.starts_with("missing from spec.versions; v1 was previously a storage version"),
            "{found:?}"
        );
    }

    #[test]
    fn statuses_of_api_services() {
        let rules = rules_of("apiregistration.k8s.io", "v1", "APIService").unwrap();
        let of = |status: &str| {
            let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.a.b", "resourceVersion": "1"},
                "spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100},
                "status": {"conditions": [{"type": "Available", "status": status}]}});
            (rules.validate_status_update)(&service, &service)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert!(of("True").is_empty() && of("Unknown").is_empty());
        assert_eq!(
            of("Maybe"),
            [
                "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\""
            ]
        );
    }

    #[test]
    fn local_api_services_trust_nobody() {
        let rules = rules_of("apiregistration.k8s.io", "v1", "APIService").unwrap();
        let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.a.b"},
            "spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100, "caBundle": "YWJj"}});
        let found: Vec<String> = (rules.validate)(&service).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle"]
        );
    }

    #[test]
    fn api_services() {
        let rules = rules_of("apiregistration.k8s.io", "v1", "APIService").unwrap();
        let of = |name: &str| {
            let mut service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name},
                "spec": {"group": "metrics.k8s.io", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100, "service": {"namespace": "a", "name": "b"}}});
            (rules.default)(&mut service);
            (rules.validate)(&service).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(of("v1.metrics.k8s.io").is_empty());
        assert_eq!(
            of("x"),
            [
                "metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.metrics.k8s.io\""
            ]
        );
    }
}
