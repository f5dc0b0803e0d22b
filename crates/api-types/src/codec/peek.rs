//! Cheap reads of stored bytes: metadata and single fields without decoding the object. Who asks may not care whether it
//! is a tree already: [`of_tree`].
//!
//! ```
//! # use api_types::{codec, table};
//! # let pods = table::find("", "v1", "pods").unwrap();
//! # let pod = serde_json::json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"nodeName": "n"}});
//! # let stored = codec::to_stored(pods.built_in_message(), "v1", "Pod", &pod).unwrap();
//! let peek = codec::peek::open(&stored).unwrap();
//! assert_eq!(peek.name(), "a");
//! assert_eq!(peek.label("x").as_deref(), Some("y"));
//! assert_eq!(peek.scalar(&["spec", "nodeName"]).as_deref(), Some("n"));
//! ```

use super::envelope::{is_proto, unwrap_unknown, without_managed_fields};
use super::sink::NoSink;
use super::stored_json::member;
use super::walk::{self, Fill};
use super::wire::{Reader, Wire, first_bytes};
use super::{CodecError, from_proto};
use crate::meta::{self, OwnerReference};
use crate::schema::{FieldInfo, MessageId, Shape, Special, Type, lookup_api_version};
use serde_json::Value;
use std::borrow::Cow;
use std::ops::Range;

/// A stored object, opened for reading.
#[derive(Clone, Copy)]
pub struct Peek<'a> {
    form: Form<'a>,
    api_version: &'a str,
    kind: &'a str,
}

#[derive(Clone, Copy)]
enum Form<'a> {
    Proto { message: MessageId, raw: &'a [u8], metadata: &'a [u8] },
    Json(&'a [u8]),
    Tree(&'a Value),
}

/// Field numbers of ObjectMeta.
mod number {
    pub const NAME: u32 = 1;
    pub const GENERATE_NAME: u32 = 2;
    pub const NAMESPACE: u32 = 3;
    pub const UID: u32 = 5;
    pub const DELETION_TIMESTAMP: u32 = 9;
    pub const LABELS: u32 = 11;
    pub const ANNOTATIONS: u32 = 12;
    pub const OWNER_REFERENCES: u32 = 13;
    pub const FINALIZERS: u32 = 14;
}

/// Opens stored bytes.
///
/// # Errors
/// Bytes that are not a stored object.
pub fn open(stored: &[u8]) -> Result<Peek<'_>, CodecError> {
    if !is_proto(stored) {
        let text = |name: &str| -> Result<&str, CodecError> {
            let found = member(stored, 0, |key| key == name.as_bytes())?;
            Ok(found.and_then(|m| plain_string(&stored[m.value..m.end])).unwrap_or_default())
        };
        return Ok(Peek { form: Form::Json(stored), api_version: text("apiVersion")?, kind: text("kind")? });
    }
    let unknown = unwrap_unknown(stored)?;
    let message = lookup_api_version(unknown.api_version, unknown.kind).ok_or_else(|| unknown.not_known())?;
    open_message(message, unknown.raw).map(|p| Peek {
        api_version: unknown.api_version,
        kind: unknown.kind,
        ..p
    })
}

/// Where in the bytes of an object in protobuf its parts are, for who opens the same bytes many times.
#[derive(Clone, Debug)]
pub struct Places {
    message: MessageId,
    raw: Range<usize>,
    metadata: Range<usize>,
    api_version: Range<usize>,
    kind: Range<usize>,
}

impl Places {
    /// Opens the bytes that the places are of.
    ///
    /// # Panics
    /// For shorter ones.
    pub fn open<'a>(&self, stored: &'a [u8]) -> Peek<'a> {
        let bytes = |place: &Range<usize>| &stored[place.clone()];
        let text = |place| std::str::from_utf8(bytes(place)).unwrap_or_default();
        Peek {
            form: Form::Proto {
                message: self.message,
                raw: bytes(&self.raw),
                metadata: bytes(&self.metadata),
            },
            api_version: text(&self.api_version),
            kind: text(&self.kind),
        }
    }
}

/// An object that is a tree.
pub fn of_tree(tree: &Value) -> Peek<'_> {
    Peek { form: Form::Tree(tree), api_version: meta::api_version(tree), kind: meta::kind(tree) }
}

/// Whether bytes are an object in protobuf that can be read as a tree; `false` for those in JSON.
///
/// # Errors
/// Bytes of protobuf that no tree can be read from.
pub fn check(bytes: &[u8]) -> Result<bool, CodecError> {
    if !is_proto(bytes) {
        return Ok(false);
    }
    let unknown = unwrap_unknown(bytes)?;
    if unknown.content_type.contains("json") {
        return Ok(false);
    }
    let bare = without_managed_fields(unknown.raw)?;
    walk::object(&mut NoSink::default(), unknown.message()?, &bare, None, Fill::Nowhere)?;
    Ok(true)
}

/// Opens a bare message (an item of a protobuf list, or an envelope's content whose kind is known).
///
/// # Errors
/// Bytes that are not such a message.
pub fn open_message(message: MessageId, raw: &[u8]) -> Result<Peek<'_>, CodecError> {
    let metadata = first_bytes(raw, 1)?.unwrap_or_default();
    Ok(Peek { form: Form::Proto { message, raw, metadata }, api_version: "", kind: "" })
}

/// The content of a JSON string without escapes.
fn plain_string(json: &[u8]) -> Option<&str> {
    let inner = json.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') { None } else { std::str::from_utf8(inner).ok() }
}

impl<'a> Peek<'a> {
    /// Where in the bytes that were opened everything is; none for those that are not protobuf.
    pub fn places(&self, stored: &'a [u8]) -> Option<Places> {
        let Form::Proto { message, raw, metadata } = self.form else { return None };
        let place = |part: &[u8]| {
            let start = (part.as_ptr() as usize).wrapping_sub(stored.as_ptr() as usize);
            if part.is_empty() { 0..0 } else { start..start + part.len() }
        };
        Some(Places {
            message,
            raw: place(raw),
            metadata: place(metadata),
            api_version: place(self.api_version.as_bytes()),
            kind: place(self.kind.as_bytes()),
        })
    }

    /// Empty for a bare message.
    pub fn api_version(&self) -> &'a str {
        self.api_version
    }

    /// Empty for a bare message.
    pub fn kind(&self) -> &'a str {
        self.kind
    }

    pub fn name(&self) -> Cow<'a, str> {
        self.text(number::NAME, "name")
    }

    pub fn generate_name(&self) -> Cow<'a, str> {
        self.text(number::GENERATE_NAME, "generateName")
    }

    pub fn namespace(&self) -> Cow<'a, str> {
        self.text(number::NAMESPACE, "namespace")
    }

    /// `namespace/name`, or `name` for cluster-scoped objects: [`meta::key`].
    pub fn key(&self) -> String {
        match self.namespace() {
            namespace if namespace.is_empty() => self.name().into_owned(),
            namespace => format!("{namespace}/{}", self.name()),
        }
    }

    pub fn uid(&self) -> Cow<'a, str> {
        self.text(number::UID, "uid")
    }

    /// Seconds since 1970; none when the object is not being deleted.
    pub fn deletion_timestamp(&self) -> Option<i64> {
        match self.form {
            Form::Proto { metadata, .. } => {
                let time = first_bytes(metadata, number::DELETION_TIMESTAMP).ok()??;
                if time.is_empty() { None } else { super::walk::first_varint(time, 1).ok().map(|s| s as i64) }
            }
            Form::Json(_) => {
                let text = self.scalar(&["metadata", "deletionTimestamp"])?;
                crate::time::parse(&text).ok().map(|m| m.seconds)
            }
            Form::Tree(tree) => crate::time::parse(meta::deletion_timestamp(tree)).ok().map(|m| m.seconds),
        }
    }

    pub fn is_being_deleted(&self) -> bool {
        match self.form {
            Form::Tree(tree) => meta::is_being_deleted(tree),
            _ => self.deletion_timestamp().is_some(),
        }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<Cow<'a, str>> {
        self.entry(number::LABELS, "labels", key)
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<Cow<'a, str>> {
        self.entry(number::ANNOTATIONS, "annotations", key)
    }

    /// All labels, sorted.
    pub fn labels(&self) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
        match self.form {
            Form::Proto { metadata, .. } => {
                let entries = Occurrences { reader: Reader::new(metadata), number: number::LABELS };
                entries.filter_map(|e| entry_of(e).ok()).map(|(k, v)| (lossy(k), lossy(v))).collect()
            }
            Form::Json(_) => match self.json(&["metadata", "labels"]) {
                Some(Value::Object(map)) => {
                    map.into_iter().map(|(k, v)| (Cow::Owned(k), Cow::Owned(scalar_text(v)))).collect()
                }
                _ => vec![],
            },
            Form::Tree(tree) => {
                let labels = meta::labels(tree).into_iter().flatten();
                labels.map(|(key, value)| (Cow::Borrowed(key.as_str()), text_of(value))).collect()
            }
        }
    }

    pub fn finalizers(&self) -> Vec<Cow<'a, str>> {
        match self.form {
            Form::Proto { metadata, .. } => {
                Occurrences { reader: Reader::new(metadata), number: number::FINALIZERS }.map(lossy).collect()
            }
            Form::Json(_) => match self.json(&["metadata", "finalizers"]) {
                Some(Value::Array(list)) => list.into_iter().map(|v| Cow::Owned(scalar_text(v))).collect(),
                _ => vec![],
            },
            Form::Tree(tree) => meta::finalizers(tree).map(Cow::Borrowed).collect(),
        }
    }

    /// The owner that manages the object.
    pub fn controller(&self) -> Option<OwnerReference> {
        self.owner_references().into_iter().find(|owner| owner.controller)
    }

    pub fn owner_references(&self) -> Vec<OwnerReference> {
        let metadata = match self.form {
            Form::Proto { metadata, .. } => {
                let found = first_bytes(metadata, number::OWNER_REFERENCES);
                if !matches!(found, Ok(Some(_))) {
                    return vec![];
                }
                crate::schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
                    .and_then(|m| from_proto(m, metadata).ok())
            }
            Form::Json(_) => self.json(&["metadata"]),
            Form::Tree(tree) => return meta::owner_references(tree),
        };
        meta::owner_references(&serde_json::json!({ "metadata": metadata }))
    }

    /// A scalar by its path of JSON names: strings as they are, numbers and booleans as text. None when absent (or
    /// when the path leads through a list, or to no scalar). What protobuf holds and JSON leaves out is absent.
    pub fn scalar(&self, path: &[&str]) -> Option<Cow<'a, str>> {
        match self.form {
            Form::Proto { message, raw, .. } => proto_scalar(message, raw, path),
            Form::Json(json) => {
                let slice = json_slice(json, path)?;
                if let Some(text) = plain_string(slice) {
                    return Some(Cow::Borrowed(text));
                }
                let value: Value = serde_json::from_slice(slice).ok()?;
                (!value.is_object() && !value.is_array() && !value.is_null())
                    .then(|| Cow::Owned(scalar_text(value)))
            }
            Form::Tree(tree) => {
                let value = path.iter().try_fold(tree, |value, name| value.as_object()?.get(*name))?;
                (!value.is_object() && !value.is_array() && !value.is_null()).then(|| text_of(value))
            }
        }
    }

    /// What stands at a path of JSON names, as a tree of its own; null when absent.
    pub fn part(&self, path: &[&str]) -> Cow<'a, Value> {
        match self.form {
            Form::Proto { message, raw, .. } => {
                Cow::Owned(proto_part(message, raw, path).unwrap_or_default())
            }
            Form::Json(_) => Cow::Owned(self.json(path).unwrap_or_default()),
            Form::Tree(tree) => Cow::Borrowed(path.iter().fold(tree, |value, name| &value[*name])),
        }
    }

    /// Whether two objects have the same bytes in a field of their own. What has others may still say the same.
    pub fn has_same_bytes(&self, other: &Peek<'_>, field: &str) -> bool {
        match (self.form, other.form) {
            (Form::Proto { message, raw, .. }, Form::Proto { message: same, raw: others, .. }) => {
                let number = message.field(field).map(|field| field.number);
                let bytes = |raw| first_bytes(raw, number.unwrap_or_default()).ok().flatten();
                number.is_some() && std::ptr::eq(message, same) && bytes(raw) == bytes(others)
            }
            (Form::Json(json), Form::Json(others)) => {
                !field.is_empty() && json_slice(json, &[field]) == json_slice(others, &[field])
            }
            (Form::Tree(tree), Form::Tree(others)) => std::ptr::eq(tree, others),
            _ => false,
        }
    }

    fn text(&self, number: u32, name: &str) -> Cow<'a, str> {
        match self.form {
            Form::Proto { metadata, .. } => {
                lossy(first_bytes(metadata, number).ok().flatten().unwrap_or_default())
            }
            Form::Json(_) | Form::Tree(_) => self.scalar(&["metadata", name]).unwrap_or_default(),
        }
    }

    fn entry(&self, number: u32, name: &str, key: &str) -> Option<Cow<'a, str>> {
        match self.form {
            Form::Proto { metadata, .. } => Occurrences { reader: Reader::new(metadata), number }
                .filter_map(|e| entry_of(e).ok())
                .find(|(k, _)| *k == key.as_bytes())
                .map(|(_, v)| lossy(v)),
            Form::Json(_) | Form::Tree(_) => self.scalar(&["metadata", name, key]),
        }
    }

    fn json(&self, path: &[&str]) -> Option<Value> {
        match self.form {
            Form::Json(json) => serde_json::from_slice(json_slice(json, path)?).ok(),
            Form::Proto { .. } | Form::Tree(_) => None,
        }
    }
}

fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn scalar_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn text_of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

/// The length-delimited occurrences of one field; broken bytes end it.
struct Occurrences<'a> {
    reader: Reader<'a>,
    number: u32,
}

impl<'a> Iterator for Occurrences<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while let Some((number, wire)) = self.reader.field().ok()? {
            if let (true, Wire::Bytes(bytes)) = (number == self.number, wire) {
                return Some(bytes);
            }
        }
        None
    }
}

fn entry_of(entry: &[u8]) -> Result<(&[u8], &[u8]), CodecError> {
    Ok((first_bytes(entry, 1)?.unwrap_or_default(), first_bytes(entry, 2)?.unwrap_or_default()))
}

fn json_slice<'a>(json: &'a [u8], path: &[&str]) -> Option<&'a [u8]> {
    let mut slice = json;
    for name in path {
        let found = member(slice, 0, |key| key == name.as_bytes()).ok()??;
        slice = &slice[found.value..found.end];
    }
    Some(slice)
}

/// The embedded struct that a field is of.
fn embedding(message: MessageId, name: &str) -> Option<&'static FieldInfo> {
    message.fields.iter().find(|f| f.inline && f.message().is_some_and(|m| m.field(name).is_some()))
}

fn proto_scalar<'a>(message: MessageId, raw: &'a [u8], path: &[&str]) -> Option<Cow<'a, str>> {
    let (name, rest) = path.split_first()?;
    let Some(field) = message.fields.iter().find(|f| f.name == *name) else {
        let embedded = embedding(message, name)?;
        return proto_scalar(embedded.message()?, first_bytes(raw, embedded.number).ok()??, path);
    };
    match (field.shape, field.ty) {
        (Shape::Single, Type::Message(inner)) if inner.special.is_none() => {
            proto_scalar(inner, first_bytes(raw, field.number).ok()??, rest)
        }
        (Shape::Single, _) if rest.is_empty() => leaf(field, raw),
        (Shape::Map, Type::String) if rest.len() == 1 => {
            Occurrences { reader: Reader::new(raw), number: field.number }
                .filter_map(|e| entry_of(e).ok())
                .find(|(k, _)| *k == rest[0].as_bytes())
                .map(|(_, v)| lossy(v))
        }
        _ => None,
    }
}

/// What stands at a path that leads through messages only.
fn proto_part(message: MessageId, raw: &[u8], path: &[&str]) -> Option<Value> {
    let (name, rest) = path.split_first()?;
    let Some(field) = message.fields.iter().find(|field| field.name == *name) else {
        let embedded = embedding(message, name)?;
        return proto_part(embedded.message()?, first_bytes(raw, embedded.number).ok()??, path);
    };
    if let (Shape::Single, Type::Message(inner), false) = (field.shape, field.ty, rest.is_empty())
        && inner.special.is_none()
    {
        return proto_part(inner, first_bytes(raw, field.number).ok()??, rest);
    }
    // The message with nothing else in it says it as the whole does.
    let (mut alone, mut reader) = (Vec::new(), Reader::new(raw));
    loop {
        let at = reader.at;
        match reader.field().ok()? {
            Some((number, _)) if number == field.number => alone.extend_from_slice(&raw[at..reader.at]),
            Some(_) => {}
            None => break,
        }
    }
    let part = from_proto(message, &alone).ok()?;
    path.iter().try_fold(part, |mut value, name| value.as_object_mut()?.remove(*name))
}

fn leaf<'a>(field: &FieldInfo, raw: &'a [u8]) -> Option<Cow<'a, str>> {
    let mut reader = Reader::new(raw);
    while let Some((number, wire)) = reader.field().ok()? {
        if number != field.number {
            continue;
        }
        if walk::is_left_out(field, wire) {
            return None;
        }
        return Some(match (field.ty, wire) {
            (Type::String, Wire::Bytes(text)) => lossy(text),
            (Type::Bool, Wire::Varint(flag)) => Cow::Borrowed(if flag != 0 { "true" } else { "false" }),
            (Type::Int32, Wire::Varint(value)) => Cow::Owned((value as i32).to_string()),
            (Type::Int64, Wire::Varint(value)) => Cow::Owned((value as i64).to_string()),
            (Type::Message(message), Wire::Bytes(bytes)) if message.special != Some(Special::Raw) => {
                Cow::Owned(scalar_text(from_proto(message, bytes).ok()?))
            }
            _ => return None,
        });
    }
    None
}
