//! What structured merge must know of a value's type: which parts are owned as a whole, how list elements are told
//! apart (`x-kubernetes-list-type`, `-list-map-keys`, `-map-type`).

use super::set::Step;
use crate::look::Look;
use api_types::MessageId;
use api_types::field::quote;
use api_types::schema::{self, FieldInfo, ListType, MapType, Shape, Type as Scalar};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Write;

/// The type of a value, looked up lazily.
#[derive(Debug, Clone, Copy)]
pub enum Type<'a> {
    /// Owned as a whole: scalars and atomic parts.
    Leaf,
    /// A struct of the API's tables.
    Message(MessageId),
    /// A map field of a struct.
    Entries(Field),
    /// A list field of a struct.
    List(Field),
    /// An OpenAPI schema, of a part of a custom resource.
    Schema(&'a Value),
    /// That of a whole custom resource: its metadata is what it is, whatever the schema says of it.
    Whole(&'a Value),
    /// Nothing is known: objects are maps, all else is owned as a whole.
    Deduced,
}

/// A field of the tables.
#[derive(Clone, Copy)]
pub struct Field(&'static FieldInfo);

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

/// How a value is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Leaf,
    Map,
    /// A list of scalars, each there once.
    Set,
    /// A list of maps told apart by keys.
    Keyed,
}

/// The fields that tell list elements apart, with the defaults of those that may be left out.
type Keys<'a> = Vec<(&'a str, Fallback<'a>)>;

/// The default of a field.
#[derive(Clone, Copy)]
enum Fallback<'a> {
    /// JSON text, or nothing.
    Text(&'static str),
    Value(Option<&'a Value>),
}

impl Fallback<'_> {
    fn value(self) -> Option<Value> {
        match self {
            Fallback::Text(text) => serde_json::from_str(text).ok(),
            Fallback::Value(value) => value.cloned(),
        }
    }
}

fn of_message(message: MessageId, atomic: bool) -> Type<'static> {
    if atomic || message.map_type == MapType::Atomic || message.special.is_some() {
        Type::Leaf
    } else {
        Type::Message(message)
    }
}

fn of_scalar(scalar: Scalar, atomic: bool) -> Type<'static> {
    match scalar {
        Scalar::Message(message) => of_message(message, atomic),
        _ => Type::Leaf,
    }
}

fn of_field(field: &'static FieldInfo) -> Type<'static> {
    match field.shape {
        Shape::Single => of_scalar(field.ty, field.is_atomic()),
        Shape::Map if field.is_atomic() => Type::Leaf,
        Shape::Map => Type::Entries(Field(field)),
        Shape::List if matches!(field.list_type, ListType::Set | ListType::Map) => Type::List(Field(field)),
        Shape::List => Type::Leaf,
    }
}

impl<'a> Type<'a> {
    /// How `value` of this type is merged.
    pub(super) fn form(&self, value: &Value) -> Form {
        match self {
            Type::Leaf => Form::Leaf,
            Type::Message(_) | Type::Entries(_) => Form::Map,
            Type::List(field) if field.0.list_type == ListType::Set => Form::Set,
            Type::List(_) => Form::Keyed,
            Type::Deduced if value.is_object() => Form::Map,
            Type::Deduced => Form::Leaf,
            Type::Schema(schema) | Type::Whole(schema) => schema_form(schema, value),
        }
    }

    /// The type of a field or entry, and whether it is a named field of a struct; `None` when a struct has no such field.
    pub(super) fn child(&self, name: &str) -> Option<(Type<'a>, bool)> {
        match self {
            Type::Message(message) => match message.field(name) {
                Some(field) => Some((of_field(field), true)),
                None if message.knows(name) => Some((Type::Leaf, true)),
                None => None,
            },
            Type::Entries(field) => Some((of_scalar(field.0.ty, false), false)),
            Type::Whole(schema) => match object_child(name) {
                Some(found) => Some((found, true)),
                None => schema_child(schema, name),
            },
            Type::Schema(schema) => schema_child(schema, name),
            _ => Some((Type::Deduced, false)),
        }
    }

    /// The type of list elements.
    pub(super) fn item(&self) -> Type<'a> {
        match self {
            Type::List(field) => of_scalar(field.0.ty, false),
            Type::Schema(schema) => schema.get("items").map_or(Type::Deduced, Type::Schema),
            _ => Type::Deduced,
        }
    }

    fn keys(&self) -> Keys<'a> {
        match self {
            Type::List(field) => {
                let message = field.0.message();
                let default = |key: &str| message.and_then(|m| m.field(key)).map_or("", |f| f.default);
                field.0.list_map_keys.iter().map(|key| (*key, Fallback::Text(default(key)))).collect()
            }
            Type::Schema(schema) => {
                let properties = schema.at("items.properties");
                let keys = schema.texts("x-kubernetes-list-map-keys");
                keys.map(|key| (key, Fallback::Value(properties.key(key).get("default")))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The step that names a list element: by the keys that it has, or that have a default.
    ///
    /// # Errors
    /// The element has none of the keys; the text is upstream's, without the path.
    pub(super) fn step_of(&self, form: Form, item: &Value) -> Result<Step<'static>, String> {
        if form == Form::Set {
            return Ok(Step::value(item.to_string()));
        }
        let mut found: Vec<(&str, Cow<'_, Value>)> = Vec::new();
        let keys = self.keys();
        let names: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
        for (key, default) in keys {
            let own = item.get(key).filter(|value| !value.is_null()).map(Cow::Borrowed);
            found.extend(own.or_else(|| default.value().map(Cow::Owned)).map(|value| (key, value)));
        }
        if found.is_empty() && !names.is_empty() {
            let names: Vec<String> = names.into_iter().map(quote).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                names.join(" ")
            ));
        }
        found.sort_unstable_by_key(|(key, _)| *key);
        found.dedup_by_key(|(key, _)| *key);
        Ok(Step::key(object_text(&found)))
    }

    /// Follows a step of a path; the flag tells a named field of a struct.
    pub(super) fn follow(self, step: &Step<'_>) -> (bool, Type<'a>) {
        match step.as_field() {
            Some(name) => self.child(name).map_or((false, Type::Deduced), |(ty, named)| (named, ty)),
            None => (false, self.item()),
        }
    }
}

/// The JSON of an object with these fields, which are in order.
fn object_text(fields: &[(&str, Cow<'_, Value>)]) -> String {
    let mut text = String::from("{");
    for (at, (key, value)) in fields.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        write!(text, "{comma}{}:{value}", Value::from(*key)).expect("writing to memory");
    }
    text.push('}');
    text
}

fn schema_form(schema: &Value, value: &Value) -> Form {
    let text = |field: &str| schema.text(field);
    match (text("type"), value) {
        _ if schema.flag("x-kubernetes-int-or-string") => Form::Leaf,
        ("object", _) if text("x-kubernetes-map-type") == "atomic" => Form::Leaf,
        ("object", _) => Form::Map,
        ("array", _) if text("x-kubernetes-list-type") == "set" => Form::Set,
        ("array", _) if text("x-kubernetes-list-type") == "map" => Form::Keyed,
        ("", Value::Object(_)) => Form::Map,
        _ => Form::Leaf,
    }
}

/// The metadata of a whole object is what it is, whatever the schema says of it.
fn object_child(name: &str) -> Option<Type<'static>> {
    match name {
        "apiVersion" | "kind" => Some(Type::Leaf),
        "metadata" => schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").map(Type::Message),
        _ => None,
    }
}

fn schema_child<'a>(schema: &'a Value, name: &str) -> Option<(Type<'a>, bool)> {
    let whole = schema.flag("x-kubernetes-embedded-resource");
    if let Some(found) = object_child(name).filter(|_| whole) {
        return Some((found, true));
    }
    if let Some(property) = schema.at("properties").get(name) {
        return Some((Type::Schema(property), true));
    }
    match schema.get("additionalProperties") {
        Some(inner @ Value::Object(_)) => Some((Type::Schema(inner), false)),
        Some(Value::Bool(true)) => Some((Type::Deduced, false)),
        _ if schema.flag("x-kubernetes-preserve-unknown-fields") => Some((Type::Deduced, false)),
        _ if !schema.has("properties") => Some((Type::Deduced, false)),
        _ => None,
    }
}
