//! What upstream says of its types and fields, as `build.rs` packed it.

use std::io::Read as _;
use std::sync::OnceLock;

use api_types::Value;
use flate2::read::GzDecoder;
use serde_json::{Map, json};

/// `{"<schema>": ["<text>", {"<field>": "<text>"}]}`.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.json.gz"));

/// The table, unpacked while a document is made.
pub(super) struct Descriptions(Map<String, Value>);

/// Names the table.
pub(super) fn hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| super::documents::hash(PACKED))
}

impl Descriptions {
    pub fn load() -> Self {
        let mut text = Vec::new();
        GzDecoder::new(PACKED).read_to_end(&mut text).expect("invariant: build.rs packed the table");
        Self(serde_json::from_slice(&text).expect("invariant: build.rs wrote JSON"))
    }

    /// Adds what is said of schemas and their fields where they say nothing of themselves. The schemas are v3's.
    pub fn describe(&self, schemas: &mut Map<String, Value>) {
        for (name, schema) in schemas {
            let Some(schema) = schema.as_object_mut().filter(|schema| !schema.contains_key("description"))
            else {
                continue;
            };
            match self.0.get(name) {
                Some(said) => add(schema, &said[0], &said[1]),
                None => self.describe_list(name, schema),
            }
        }
    }

    /// Lists are said the same of all; the words of their common fields are those of any other list.
    fn describe_list(&self, name: &str, schema: &mut Map<String, Value>) {
        let kind = name.rsplit('.').next().unwrap_or_default();
        let Some(element) = kind.strip_suffix("List") else { return };
        let known =
            &self.0.get("io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList").unwrap_or(&Value::Null)[1];
        let fields = json!({
            "apiVersion": known["apiVersion"],
            "kind": known["kind"],
            "metadata": "Standard list metadata.",
            "items": format!("The objects of kind {element}."),
        });
        add(schema, &format!("{kind} is a list of objects of kind {element}.").into(), &fields);
    }
}

fn add(schema: &mut Map<String, Value>, own: &Value, fields: &Value) {
    if own.is_string() {
        schema.insert("description".into(), own.clone());
    }
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (field, property) in properties.into_iter().flatten() {
        let (Some(text), Some(property)) =
            (fields.get(field).filter(|text| text.is_string()), property.as_object_mut())
        else {
            continue;
        };
        property.insert("description".into(), text.clone());
        // A reference cannot have neighbours in OpenAPI 3.0.
        if let Some(reference) = property.remove("$ref") {
            property.insert("allOf".into(), json!([{"$ref": reference}]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let mut schemas = Map::new();
        for name in ["apps.v1.DeploymentSpec", "apps.v1.DeploymentList", "core.v1.Pod"] {
            let name = format!("io.k8s.api.{name}");
            let message = api_types::schema::by_name(&name).unwrap();
            schemas.insert(name, api_types::openapi::definition(message));
        }
        Descriptions::load().describe(&mut schemas);
        let spec = &schemas["io.k8s.api.apps.v1.DeploymentSpec"];
        assert!(spec["description"].as_str().is_some_and(|text| text.contains("desired behavior")));
        for schema in schemas.values() {
            for (name, property) in schema["properties"].as_object().unwrap() {
                assert!(property["description"].is_string(), "{name}");
                assert!(property.get("$ref").is_none(), "{name}");
            }
        }
        assert!(spec["properties"]["template"]["allOf"][0]["$ref"].is_string());
    }
}
