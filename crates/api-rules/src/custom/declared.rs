//! What a structural schema says of the sizes of values, for the estimation of costs (upstream:
//! `apiserver/pkg/cel/common/schemas.go`, `apiserver/pkg/cel/limits.go`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::rule_names::escape;
use crate::look::Look;

/// Bytes of the largest request.
const REQUEST: u64 = 3 * 1024 * 1024;
/// Characters of a name, and of what a name is made of.
const NAME: u64 = 253;
const GENERATE_NAME: u64 = NAME - 1;
/// Bytes of a character, at most.
const CHARACTER: u64 = 4;

/// What a value is.
#[derive(Debug)]
pub(super) enum Shape {
    Dyn,
    Bool,
    Int,
    Double,
    Text,
    Bytes,
    Duration,
    Timestamp,
    List(Box<Declared>),
    Map(Box<Declared>),
    /// By the names that rules use.
    Object(BTreeMap<String, Declared>),
}

/// A declared value.
#[derive(Debug)]
pub(super) struct Declared {
    pub shape: Shape,
    /// Characters, elements or entries, at most; 0 for what has no size.
    pub most: u64,
    /// Bytes of the shortest JSON of it.
    least_bytes: u64,
}

/// The keys of maps, of whose length nothing is known.
pub(super) static KEY: Declared = simple(Shape::Text, 0, 2);

const fn simple(shape: Shape, most: u64, least_bytes: u64) -> Declared {
    Declared { shape, most, least_bytes }
}

fn limit(schema: &Value, name: &str) -> Option<u64> {
    schema.int_opt(name).map(|limit| u64::try_from(limit).unwrap_or(0))
}

impl Declared {
    /// What a schema declares; none when rules may not see the value. `whole`: it is that of a whole object, which has
    /// metadata.
    pub fn of(schema: &Value, whole: bool) -> Option<Self> {
        if schema.flag("x-kubernetes-int-or-string") {
            let most = limit(schema, "maxLength").map_or(REQUEST - 2, |most| most * CHARACTER);
            return Some(simple(Shape::Dyn, most, 1));
        }
        match schema.text("type") {
            "array" => Self::list(schema),
            "object" => Self::object(schema, whole),
            "string" => Some(Self::text(schema)),
            "boolean" => Some(simple(Shape::Bool, 0, 4)),
            "number" => Some(simple(Shape::Double, 0, 1)),
            "integer" => Some(simple(Shape::Int, 0, 1)),
            _ => None,
        }
    }

    fn part(schema: &Value) -> Option<Self> {
        Self::of(schema, schema.flag("x-kubernetes-embedded-resource"))
    }

    fn list(schema: &Value) -> Option<Self> {
        let items = schema.get("items").and_then(Self::part)?;
        let most = limit(schema, "maxItems").unwrap_or((REQUEST - 2) / (items.least_bytes + 1));
        Some(simple(Shape::List(Box::new(items)), most, 2))
    }

    fn object(schema: &Value, whole: bool) -> Option<Self> {
        let more = schema.at("additionalProperties");
        if more.is_object() {
            let values = Self::part(more)?;
            // Two bytes of a key, its quotes, colon and comma.
            let most = limit(schema, "maxProperties").unwrap_or((REQUEST - 2) / (values.least_bytes + 6));
            return Some(simple(Shape::Map(Box::new(values)), most, 2));
        }
        let required: Vec<&str> = schema.texts("required").collect();
        let (mut fields, mut least_bytes) = (BTreeMap::new(), 2);
        for (name, property) in schema.entries("properties") {
            let Some(field) = Self::part(property) else { continue };
            if required.contains(&name) && !property.has("default") {
                least_bytes += name.len() as u64 + field.least_bytes + 4;
            }
            if let Some(name) = escape(name) {
                fields.insert(name, field);
            }
        }
        if whole && !has_metadata(schema) {
            add_metadata(schema, &mut fields);
        }
        Some(simple(Shape::Object(fields), 0, least_bytes))
    }

    fn text(schema: &Value) -> Self {
        let most = limit(schema, "maxLength");
        match schema.text("format") {
            "byte" => simple(Shape::Bytes, most.unwrap_or(REQUEST - 2), 2),
            "duration" => simple(Shape::Duration, 32, 3),
            "date" => simple(Shape::Timestamp, 12, 12),
            "date-time" => simple(Shape::Timestamp, 32, 21),
            _ => {
                let values = schema.texts("enum");
                let longest = match schema.items("enum") {
                    [] => REQUEST - 2,
                    _ => values.map(|text| text.len() as u64).max().unwrap_or(0),
                };
                simple(Shape::Text, most.map_or(longest, |most| most * CHARACTER), 2)
            }
        }
    }

    /// How often the value may stand in an object, if nothing else bounds that.
    pub fn cardinality(&self) -> u64 {
        REQUEST / (self.least_bytes + 1)
    }
}

/// Whether a schema names all of an object's metadata that rules may see.
fn has_metadata(schema: &Value) -> bool {
    let is = |path: &str, wanted: &str| schema.at("properties").text(path) == wanted;
    is("kind.type", "string")
        && is("apiVersion.type", "string")
        && is("metadata.type", "object")
        && is("metadata.properties.name.type", "string")
        && is("metadata.properties.generateName.type", "string")
}

fn add_metadata(schema: &Value, fields: &mut BTreeMap<String, Declared>) {
    let named = |name: &str, most: u64| {
        let own = schema.at("properties.metadata.properties").key(name);
        let most = limit(own, "maxLength").map_or(most, |own| own.min(most));
        (name.to_owned(), simple(Shape::Text, most * CHARACTER, 2))
    };
    let metadata = BTreeMap::from([named("name", NAME), named("generateName", GENERATE_NAME)]);
    for name in ["kind", "apiVersion"] {
        fields.insert(name.to_owned(), simple(Shape::Text, REQUEST - 2, 2));
    }
    fields.insert("metadata".to_owned(), simple(Shape::Object(metadata), 0, 2));
}
