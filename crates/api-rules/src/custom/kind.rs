//! The rules of one served version of a CustomResourceDefinition (upstream:
//! `apiextensions-apiserver/pkg/registry/customresource`).

use super::json_path::JsonPath;
use super::{CustomSchema, default};
use crate::columns::{FALLBACK, duration};
use crate::errors::Errors;
use crate::look::{Look, remove, set};
use crate::meta::{self, NameFormat};
use crate::patch::apply::Type;
use api_types::field::FieldError;
use serde_json::{Map, Value, json};

/// What a status update leaves alone; nobody owns it through the status.
const STATUS_RESETS: &[&str] = &["apiVersion", "kind", "metadata", "spec"];

/// Where the replicas of a kind stand.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    /// Names on the way to the wanted number, below the root.
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    /// Where the selector stands as text; empty when there is none.
    pub selector: Vec<String>,
}

/// A column of the kind's table.
#[derive(Debug)]
struct Column {
    definition: Value,
    kind: String,
    path: Option<JsonPath>,
}

/// See the module.
#[derive(Debug)]
pub struct CustomRules {
    namespaced: bool,
    schema: CustomSchema,
    /// Whether the status is changed by its subresource alone.
    pub has_status: bool,
    pub scale: Option<ScalePaths>,
    columns: Vec<Column>,
    selectable: Vec<String>,
}

fn names(path: &str) -> Vec<String> {
    path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

impl CustomRules {
    /// The rules of a version (an element of `spec.versions`) of a definition.
    pub fn new(definition: &Value, version: &Value) -> CustomRules {
        let scale = version.at("subresources.scale");
        let scale = scale.is_object().then(|| ScalePaths {
            spec_replicas: names(scale.text("specReplicasPath")),
            status_replicas: names(scale.text("statusReplicasPath")),
            selector: names(scale.text("labelSelectorPath")),
        });
        let selectable = version.items("selectableFields").iter();
        CustomRules {
            namespaced: definition.text("spec.scope") == "Namespaced",
            schema: CustomSchema::new(version.at("schema.openAPIV3Schema").clone()),
            has_status: version.at("subresources").has("status"),
            scale,
            columns: columns(version),
            selectable: selectable
                .map(|field| field.text("jsonPath").trim_start_matches('.').to_owned())
                .collect(),
        }
    }

    /// The schema of the version.
    pub fn schema(&self) -> &CustomSchema {
        &self.schema
    }

    /// How the parts of an object are merged and owned.
    pub fn merge_type(&self) -> Type<'_> {
        Type::Whole(self.schema.schema())
    }

    /// Dotted paths that an endpoint resets whoever sends them.
    pub fn reset_fields(&self, subresource: &str) -> &'static [&'static str] {
        match subresource {
            "status" => STATUS_RESETS,
            _ if self.has_status => &["status"],
            _ => &[],
        }
    }

    /// Drops what the schema does not name and nulls that it does not allow, and fills defaults. Gives the paths of
    /// what was not named.
    pub fn settle(&self, object: &mut Value) -> Vec<String> {
        let gone = self.schema.prune(object);
        default(self.schema.schema(), object);
        gone
    }

    /// Fills defaults.
    pub fn default(&self, object: &mut Value) {
        default(self.schema.schema(), object);
    }

    /// Resets what a client may not set on a new object.
    pub fn prepare_create(&self, object: &mut Value) {
        meta::prepare_create(object);
        if self.has_status {
            remove(object, "status");
        }
        set(object, "metadata.generation", json!(1));
    }

    /// Keeps what an update may not change; any change outside metadata (and the status, if it is on its own) raises
    /// the generation.
    pub fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::prepare_update(new, old);
        if self.has_status {
            match old.get("status") {
                Some(status) => set(new, "status", status.clone()),
                None => drop(remove(new, "status")),
            }
        }
        if without_metadata(new) != without_metadata(old) {
            set(new, "metadata.generation", json!(old.int("metadata.generation") + 1));
        }
    }

    /// The stored object with the new status.
    pub fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        let status = new.get("status").cloned();
        let managed = new.at("metadata").get("managedFields").cloned();
        let version = new.at("metadata").get("resourceVersion").cloned();
        *new = old.clone();
        for (path, value) in
            [("status", status), ("metadata.managedFields", managed), ("metadata.resourceVersion", version)]
        {
            match value {
                Some(value) => set(new, path, value),
                None => drop(remove(new, path)),
            }
        }
    }

    /// Errors of a new object.
    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        meta::validate(object, self.namespaced, NameFormat::Subdomain, &mut errors);
        errors.extend(self.schema.validate(object, None));
        errors.done()
    }

    /// Errors of an update, and of one of the status.
    pub fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        meta::validate_update(new, old, true, &mut errors);
        meta::validate(new, self.namespaced, NameFormat::PathSegment, &mut errors);
        errors.extend(self.schema.validate(new, Some(old)));
        errors.done()
    }

    /// `columnDefinitions` of the kind's table.
    pub fn columns(&self) -> Value {
        let name = &FALLBACK[0];
        let first = json!({"name": name.name, "type": name.type_, "format": name.format,
            "description": name.description, "priority": name.priority});
        let rest = self.columns.iter().map(|column| column.definition.clone());
        std::iter::once(first).chain(rest).collect()
    }

    /// Cells of a row; `now` in milliseconds since the epoch.
    pub fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let name = Value::from(object.text("metadata.name"));
        std::iter::once(name).chain(self.columns.iter().map(|column| column.cell(object, now))).collect()
    }

    /// Labels that a field selector may name, besides name and namespace.
    pub fn selectable(&self) -> impl Iterator<Item = &str> {
        self.selectable.iter().map(String::as_str)
    }
}

fn without_metadata(object: &Value) -> Option<Map<String, Value>> {
    let mut map = object.as_object()?.clone();
    map.remove("metadata");
    Some(map)
}

fn columns(version: &Value) -> Vec<Column> {
    let own = version.items("additionalPrinterColumns");
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": CREATION_TIMESTAMP});
    let list = if own.is_empty() { std::slice::from_ref(&age) } else { own };
    list.iter()
        .map(|column| {
            let description = match column.text("description") {
                "" => format!("Custom resource definition column (in JSONPath format): {}", column.text("jsonPath")),
                text => text.to_owned(),
            };
            Column {
                definition: json!({"name": column.text("name"), "type": column.text("type"), "format": column.text("format"),
                    "description": description, "priority": column.int("priority")}),
                kind: column.text("type").to_owned(),
                path: JsonPath::parse(column.text("jsonPath")),
            }
        })
        .collect()
}

/// What metav1 says of `creationTimestamp`.
pub const CREATION_TIMESTAMP: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

impl Column {
    fn cell(&self, object: &Value, now: i64) -> Value {
        let Some(value) = self.path.as_ref().and_then(|path| path.first(object)) else { return Value::Null };
        match (self.kind.as_str(), value) {
            ("string", Value::String(_)) => value.clone(),
            ("string", Value::Null) => Value::Null,
            ("string", other) => other.to_string().into(),
            ("integer", Value::Number(number)) => {
                number.as_i64().or_else(|| number.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from)
            }
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
            ("date", Value::String(text)) => duration::since(text, now, "<unknown>").into(),
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> CustomRules {
        let version = json!({"name": "v1", "subresources": {"status": {}}, "selectableFields": [{"jsonPath": ".spec.color"}],
            "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"color": {"type": "string"}, "size": {"type": "integer", "default": 1}}},
                "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}});
        CustomRules::new(&json!({"spec": {"scope": "Namespaced"}}), &version)
    }

    #[test]
    fn the_status_is_changed_by_its_subresource_alone() {
        let rules = rules();
        let old = json!({"metadata": {"name": "a", "generation": 3}, "spec": {"color": "red"}, "status": {"size": 1}});
        let mut new = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"color": "red"}, "status": {"size": 9}});
        rules.prepare_update(&mut new, &old);
        assert_eq!((&new["status"]["size"], &new["metadata"]["generation"]), (&json!(1), &json!(3)));
        let mut painted = json!({"metadata": {"name": "a"}, "spec": {"color": "blue"}});
        rules.prepare_update(&mut painted, &old);
        assert_eq!((&painted["status"]["size"], &painted["metadata"]["generation"]), (&json!(1), &json!(4)));
        let mut status = json!({"metadata": {"name": "a"}, "spec": {"color": "blue"}, "status": {"size": 7}});
        rules.prepare_status_update(&mut status, &old);
        assert_eq!((&status["spec"]["color"], &status["status"]["size"]), (&json!("red"), &json!(7)));
        let mut fresh = status.clone();
        rules.prepare_create(&mut fresh);
        assert!(fresh.get("status").is_none() && fresh["metadata"]["generation"] == 1);
    }

    #[test]
    fn columns_read_their_paths() {
        let rules = rules();
        let object = json!({"metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z"}, "spec": {"color": "red"}});
        assert_eq!(rules.cells(&object, 5000), [json!("a"), json!("red"), json!("5s")]);
        assert_eq!(rules.columns()[1]["name"], "Color");
        assert_eq!(rules.selectable().collect::<Vec<_>>(), ["spec.color"]);
    }

    #[test]
    fn settling_prunes_and_defaults() {
        let mut object = json!({"metadata": {"name": "a", "odd": 1}, "spec": {"color": null, "gone": 1}});
        assert_eq!(rules().settle(&mut object), ["metadata.odd", "spec.gone"]);
        assert_eq!(object, json!({"metadata": {"name": "a"}, "spec": {"size": 1}}));
    }
}
