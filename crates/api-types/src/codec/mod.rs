//! JSON, YAML and protobuf of API objects, driven by the tables of [`crate::schema`].
//!
//! | from | to | function |
//! |---|---|---|
//! | JSON, YAML text | tree | [`decode_json`], [`decode_yaml`] (duplicate fields reported) |
//! | tree | JSON as Go writes it | [`encode_json`] |
//! | tree | YAML | [`encode_yaml`] |
//! | tree | protobuf message | [`to_proto`] |
//! | protobuf message | tree | [`from_proto`] |
//! | protobuf message | JSON, no tree between | [`proto_to_json`] |
//! | tree | stored bytes | [`to_stored`] (built-in kinds), [`json_to_stored`] (custom kinds) |
//! | stored bytes | tree, JSON, protobuf with resourceVersion | [`from_stored`], [`from_stored_for_update`], [`stored_to_json`], [`stored_to_proto`] |
//! | the same, taken apart ([`unwrap_unknown`]) | JSON, protobuf, also as items of lists | [`Unknown`] |
//! | stored bytes | one field, cheaply | [`peek`] |
//! | tree | the same as Go's types would have it | [`normalize`], [`normalize_in_place`] |
//! | tree | few bytes, and back | [`pack`], [`unpack`] |
//! | protobuf body | the same without managed fields, for [`unpack`] | [`to_bare`], [`list_to_bare`] |
//! | stored bytes | tree without managed fields | [`from_stored_bare`] |
//!
//! Trees leave out what is null or absent, but hold the structs that Go always writes (`"status": {}`), so that a
//! tree read from the store and one read from JSON text agree.
//!
//! Reading order: `wire`, `scan`, `sink`, `walk` (protobuf → JSON or tree), `encode` (tree → protobuf), `envelope`,
//! `peek`, `normal`.

mod decode;
mod encode;
mod envelope;
mod normal;
pub mod peek;
mod scan;
mod sink;
mod stored_frames;
mod stored_json;
mod walk;
pub(crate) mod wire;
mod yaml;

pub use decode::{DecodeError, Decoded, decode_json, decode_yaml};
pub(crate) use decode::{Digest, MAX_STRICT_BYTES, paths_in_order};
pub(crate) use encode::{canonical_quantity, decode_base64};
pub use encode::{json_type, to_proto};
pub use envelope::{
    END_OF_ENVELOPE, MAGIC, Unknown, begin_envelope, from_envelope, from_stored, from_stored_bare,
    from_stored_for_update, is_proto, json_to_stored, list_to_bare, object_to_json, pack, stored_to_json,
    stored_to_proto, to_bare, to_envelope, to_stored, unpack, unwrap_unknown, watch_event_from_proto,
    watch_event_to_proto, wrap_unknown,
};
pub use normal::{normalize, normalize_in_place};
pub use stored_frames::{Head, STORED_MEDIA_TYPE, What};
pub use yaml::encode_yaml;

use crate::schema::MessageId;
use serde_json::Value;
use sink::{JsonSink, TreeSink};
use walk::{Fill, TypeMeta};

/// Deepest nesting of objects and arrays that is read or written: no document can exhaust the stack.
pub const MAX_DEPTH: usize = 128;

/// Why bytes or a tree do not fit a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A protobuf message ends in the middle of a field.
    #[error("unexpected EOF")]
    Truncated,
    /// Protobuf that breaks the wire format or has another type than the table.
    #[error("proto: {0}")]
    Wire(&'static str),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("exceeded max depth")]
    TooDeep,
    /// The bytes are not `k8s\0` and a `runtime.Unknown`.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NotEnvelope,
    /// The envelope names a kind that is not in the tables.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    NotRegistered { api_version: String, kind: String },
    /// Embedded JSON that is none.
    #[error("embedded JSON: {0}")]
    Raw(String),
    /// A tree with a value of the wrong type; `path` as in [`crate::field::Path`].
    #[error("{path}: expected {expected}, found {found}")]
    Type { path: String, expected: &'static str, found: &'static str },
    /// A text that does not parse (quantity, time, base64, …).
    #[error("{path}: {detail}")]
    Value { path: String, detail: String },
}

impl CodecError {
    /// The same error with the path put below `name`.
    fn within(mut self, name: &str) -> Self {
        if let Self::Type { path, .. } | Self::Value { path, .. } = &mut self {
            let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
            *path = format!("{name}{dot}{path}");
        }
        self
    }
}

/// Whether a tree is nested deeper than [`MAX_DEPTH`]. Trees from [`decode_json`] and [`decode_yaml`] never are; what is
/// put together of them can be.
pub fn is_too_deep(value: &Value) -> bool {
    is_deeper(value, MAX_DEPTH)
}

/// Whether a tree has more than so many levels of lists and objects.
pub fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| is_deeper(item, levels - 1)),
        Value::Object(map) => levels == 0 || map.values().any(|item| is_deeper(item, levels - 1)),
        _ => false,
    }
}

/// Decodes a protobuf message to a tree. `kind` and `apiVersion` are in the envelope, not in the message.
///
/// # Errors
/// Bytes that are not such a message.
pub fn from_proto(message: MessageId, bytes: &[u8]) -> Result<Value, CodecError> {
    let mut sink = TreeSink::default();
    walk::value_of(&mut sink, message, bytes, Fill::Nowhere)?;
    Ok(sink.finish())
}

/// Appends the JSON of a protobuf message, without `kind` and `apiVersion` (see [`object_to_json`] for those).
///
/// # Errors
/// Bytes that are not such a message; `out` then holds a part of the text.
pub fn proto_to_json(message: MessageId, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    JsonSink::append(out, |sink| walk::value_of(sink, message, bytes, Fill::Nowhere))
}

/// Appends the JSON of a tree as Go writes it: order of fields, omissions, canonical quantities. Unknown fields are
/// lost.
///
/// # Errors
/// A value of the wrong type.
pub fn encode_json(message: MessageId, value: &Value, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let mut proto = Vec::new();
    to_proto(message, value, &mut proto)?;
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let types = TypeMeta { kind: text("kind"), api_version: text("apiVersion") };
    let types = message.typed.then_some(types);
    match message.special {
        None => JsonSink::append(out, |sink| walk::object(sink, message, &proto, types, Fill::Nowhere)),
        Some(_) => proto_to_json(message, &proto, out),
    }
}
