//! Schemas of custom kinds as they are published (upstream: `apiextensions-apiserver/pkg/controller/openapi/builder`).

use super::definitions::reference;
use crate::table::Resource;
use serde_json::{Map, Value, json};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const EMBEDDED_API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
/// Marks that say nothing when they are false.
const FLAGS: [&str; 7] =
    ["nullable", "uniqueItems", "exclusiveMaximum", "exclusiveMinimum", PRESERVE, EMBEDDED, INT_OR_STRING];

/// What a definition says of one served version.
#[derive(Clone, Copy, Debug)]
pub struct CustomSchema<'a> {
    pub resource: &'a Resource,
    /// `openAPIV3Schema`; null when there is none.
    pub schema: &'a Value,
    /// `selectableFields` of the version.
    pub selectable: &'a Value,
    /// `spec.preserveUnknownFields`.
    pub preserves_unknown: bool,
}

impl CustomSchema<'_> {
    /// The schemas of the kind and of its list, by name, in the form of OpenAPI v3. `v2`: only what OpenAPI v2 can say
    /// and kubectl reads from it; the form is still v3's.
    pub fn published(&self, v2: bool) -> Map<String, Value> {
        let mut object = self.object(v2);
        let mut list = self.list();
        for (schema, kind) in [(&mut object, &self.resource.kind), (&mut list, &self.resource.list_kind)] {
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": self.resource.group, "version": self.resource.version, "kind": kind}]);
            if let Some(fields) = self.selectable_fields() {
                schema["x-kubernetes-selectable-fields"] = fields;
            }
        }
        let names = (super::schema_name(self.resource), super::list_schema_name(self.resource));
        Map::from_iter([(names.1, list), (names.0, object)])
    }

    fn selectable_fields(&self) -> Option<Value> {
        let fields = self.selectable.as_array().filter(|fields| !fields.is_empty())?;
        let path = |field: &Value| {
            let path = field["jsonPath"].as_str().unwrap_or_default();
            json!({"fieldPath": path.strip_prefix('.').unwrap_or(path)})
        };
        Some(fields.iter().map(path).collect())
    }

    fn object(&self, v2: bool) -> Value {
        let open = self.preserves_unknown || self.schema[PRESERVE] == true;
        // kubectl would complain of every field that is not named here.
        if !self.schema.is_object() || (v2 && open) {
            return json!({"type": "object"});
        }
        let mut schema = self.schema.clone();
        tidy(&mut schema);
        if v2 {
            simplify(&mut schema);
        }
        embed(&mut schema, v2);
        whole_object(&mut schema, API_VERSION, KIND);
        schema
    }

    fn list(&self) -> Value {
        let resource = self.resource;
        json!({
            "type": "object",
            "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
            "required": ["items"],
            "properties": {
                "apiVersion": text(API_VERSION),
                "kind": text(KIND),
                "metadata": described(LIST_META, LIST_METADATA),
                "items": {
                    "type": "array",
                    "description": format!(
                        "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
                        resource.resource
                    ),
                    "items": reference(&super::schema_name(resource)),
                },
            },
        })
    }
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn described(name: &str, description: &str) -> Value {
    json!({"description": description, "allOf": [reference(name)]})
}

/// Gives a schema the fields that every object has.
fn whole_object(schema: &mut Value, api_version: &str, kind: &str) {
    let Some(map) = schema.as_object_mut() else { return };
    let properties = map.entry("properties").or_insert_with(|| json!({}));
    properties["apiVersion"] = text(api_version);
    properties["kind"] = text(kind);
    properties["metadata"] = described(OBJECT_META, METADATA);
}

fn is(map: &Map<String, Value>, flag: &str) -> bool {
    map.get(flag) == Some(&Value::Bool(true))
}

/// The schemas directly in this one that describe parts of the object.
fn parts(map: &mut Map<String, Value>) -> Vec<&mut Value> {
    let mut found = Vec::new();
    for (key, value) in map {
        match (key.as_str(), value) {
            ("items" | "additionalProperties", part) => found.push(part),
            ("properties", Value::Object(properties)) => found.extend(properties.values_mut()),
            _ => {}
        }
    }
    found
}

/// Leaves out what says nothing, and says in words of the schema what `x-kubernetes-int-or-string` means.
fn tidy(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for flag in FLAGS {
        if map.get(flag) == Some(&Value::Bool(false)) {
            map.remove(flag);
        }
    }
    if is(map, INT_OR_STRING) {
        unfold(map);
    }
    parts(map).into_iter().for_each(tidy);
}

/// Either type, unless the schema says so already, alone or first of all that must hold.
fn unfold(map: &mut Map<String, Value>) {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    if map.get("anyOf") == Some(&either) || map.get("allOf").is_some_and(|all| all[0]["anyOf"] == either) {
        return;
    }
    if !map.contains_key("anyOf") {
        map.insert("anyOf".into(), either);
        return;
    }
    let all = map.entry("allOf").or_insert_with(|| json!([]));
    if let Some(all) = all.as_array_mut() {
        all.insert(0, json!({"anyOf": either}));
    }
}

/// Objects within objects have the fields of an object too. Not where v2 lets everything through: kubectl would take
/// them for the only ones.
fn embed(schema: &mut Value, v2: bool) {
    let Some(map) = schema.as_object_mut() else { return };
    parts(map).into_iter().for_each(|part| embed(part, v2));
    if !is(map, EMBEDDED) || (v2 && is(map, PRESERVE)) {
        return;
    }
    let required = map.entry("required").or_insert_with(|| json!([]));
    for name in ["kind", "apiVersion"] {
        if let Some(names) = required.as_array_mut()
            && !names.iter().any(|known| known == name)
        {
            names.push(name.into());
        }
    }
    whole_object(schema, EMBEDDED_API_VERSION, EMBEDDED_KIND);
}

/// Leaves out what v2 has no words for, or kubectl would misread (upstream: `ToStructuralOpenAPIV2`).
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for field in ["allOf", "anyOf", "oneOf", "not"] {
        map.remove(field);
    }
    let (nullable, open) = (map.remove("nullable") == Some(Value::Bool(true)), is(map, PRESERVE));
    if nullable || open {
        map.remove("items");
        map.remove("properties");
    }
    let ty = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if nullable || (open && ty == "object") || (ty == "array" && !map.contains_key("items")) {
        map.remove("type");
    }
    simplify_required(map);
    parts(map).into_iter().for_each(simplify);
}

/// What may be null is not required.
fn simplify_required(map: &mut Map<String, Value>) {
    let Some(Value::Array(mut required)) = map.remove("required") else { return };
    let nullable = |schema: Option<&Value>| schema.is_some_and(|schema| schema["nullable"] == true);
    if nullable(map.get("additionalProperties")) {
        return;
    }
    let properties = map.get("properties");
    required.retain(|name| {
        let property = name.as_str().and_then(|name| properties.and_then(|all| all.get(name)));
        !nullable(property)
    });
    if !required.is_empty() {
        map.insert("required".into(), required.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition;

    fn published(schema: &Value, v2: bool) -> Map<String, Value> {
        let definition = json!({"spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "listKind": "WidgetItems"},
            "versions": [{"name": "v1", "served": true, "storage": true}]}});
        let resource = definition::resource(&definition, &definition["spec"]["versions"][0]);
        let selectable = json!([{"jsonPath": ".spec.color"}]);
        CustomSchema { resource: &resource, schema, selectable: &selectable, preserves_unknown: false }
            .published(v2)
    }

    #[test]
    fn a_kind_and_its_list_get_what_every_object_has() {
        let schema =
            json!({"type": "object", "description": "A widget.", "properties": {"spec": {"type": "string"}}});
        let all = published(&schema, false);
        let widget = &all["com.example.v1.Widget"];
        assert_eq!(widget["description"], "A widget.");
        assert_eq!(widget["properties"]["metadata"]["allOf"][0], reference(OBJECT_META));
        assert_eq!(widget["properties"]["spec"], json!({"type": "string"}));
        assert_eq!(
            widget["x-kubernetes-group-version-kind"],
            json!([{"group": "example.com", "version": "v1", "kind": "Widget"}])
        );
        assert_eq!(widget["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.color"}]));
        let list = &all["com.example.v1.WidgetItems"];
        assert_eq!(list["properties"]["items"]["items"], reference("com.example.v1.Widget"));
        assert_eq!(list["x-kubernetes-group-version-kind"][0]["kind"], "WidgetItems");
    }

    #[test]
    fn v2_says_nothing_of_what_preserves_all_fields() {
        let schema = json!({"type": "object", "description": "d", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"spec": {"type": "string"}}});
        let names = |schema: &Value| {
            schema.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        let extensions = ["type", "x-kubernetes-group-version-kind", "x-kubernetes-selectable-fields"];
        assert_eq!(names(&published(&schema, true)["com.example.v1.Widget"]), extensions);
        assert_eq!(names(&published(&Value::Null, false)["com.example.v1.Widget"]), extensions);
        let v3 = &published(&schema, false)["com.example.v1.Widget"];
        assert!(v3["properties"]["spec"].is_object() && v3["properties"]["kind"].is_object());
    }

    #[test]
    fn v2_gets_what_kubectl_can_read() {
        let mut schema = json!({"type": "object", "required": ["port", "maybe"], "properties": {
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}]},
            "maybe": {"type": "object", "nullable": true, "properties": {"a": {"type": "string"}}},
            "list": {"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": {"type": "string"}},
            "map": {"type": "object", "required": ["a"], "additionalProperties": {"type": "string", "nullable": true}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}}}});
        simplify(&mut schema);
        assert_eq!(
            schema,
            json!({"type": "object", "required": ["port"], "properties": {
                "port": {"x-kubernetes-int-or-string": true},
                "maybe": {},
                "list": {"x-kubernetes-preserve-unknown-fields": true},
                "map": {"type": "object", "additionalProperties": {}},
                "free": {"x-kubernetes-preserve-unknown-fields": true}}})
        );
    }

    #[test]
    fn marks_that_are_false_are_left_out() {
        let mut schema = json!({"type": "object", "nullable": false, "properties": {
            "nullable": {"type": "boolean", "x-kubernetes-preserve-unknown-fields": false},
            "port": {"x-kubernetes-int-or-string": true},
            "own": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}}});
        tidy(&mut schema);
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        assert_eq!(
            schema,
            json!({"type": "object", "properties": {
                "nullable": {"type": "boolean"},
                "port": {"x-kubernetes-int-or-string": true, "anyOf": either},
                "own": {"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": either}],
                    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}}})
        );
    }

    #[test]
    fn objects_within_objects_have_their_fields_too() {
        let mut schema = json!({"type": "object", "properties": {
            "template": {"type": "object", "x-kubernetes-embedded-resource": true, "required": ["spec"]},
            "any": {"x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}});
        let mut v2 = schema.clone();
        embed(&mut schema, false);
        let template = &schema["properties"]["template"];
        assert_eq!(template["required"], json!(["spec", "kind", "apiVersion"]));
        assert_eq!(template["properties"]["kind"]["description"], EMBEDDED_KIND);
        assert!(schema["properties"]["any"]["properties"]["metadata"].is_object());
        embed(&mut v2, true);
        assert!(v2["properties"]["any"].get("properties").is_none());
        assert!(v2["properties"]["template"]["properties"]["metadata"].is_object());
    }
}
