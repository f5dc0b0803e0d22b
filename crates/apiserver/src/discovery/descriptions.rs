//! What schemas of built-in types say in words.

use api_types::Value;
use serde_json::{Map, json};

/// Adds what is known of schemas, in the form of v3: the age of objects is all so far.
pub(super) fn describe(schemas: &mut Map<String, Value>) {
    let metadata = schemas.get_mut("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let age = metadata.and_then(|metadata| metadata.pointer_mut("/properties/creationTimestamp"));
    if let Some(age) = age.and_then(Value::as_object_mut) {
        if let Some(reference) = age.remove("$ref") {
            age.insert("allOf".into(), json!([{"$ref": reference}]));
        }
        age.insert("description".into(), api_rules::CREATION_TIMESTAMP.into());
    }
}
