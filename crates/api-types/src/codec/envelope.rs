//! The stored form: `k8s\0` and a `runtime.Unknown` around the protobuf of built-in kinds; plain JSON for others.
//! `metadata.resourceVersion` is never stored and is filled in on the way out.

use super::encode::{Drop, encode};
use super::sink::{JsonSink, TreeSink};
use super::walk::{Fill, TypeMeta, object};
use super::wire::{Reader, Wire, first_bytes, put_bytes, put_varint};
use super::{CodecError, stored_json, to_proto};
use crate::schema::{MessageId, by_name, lookup_api_version};
use serde_json::Value;
use std::borrow::Cow;

/// First bytes of every protobuf body and stored value.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// `runtime.Unknown`: an object with its kind beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    /// The message (or, with a `content_type`, a document of that type).
    pub raw: &'a [u8],
    /// Empty for protobuf.
    pub content_type: &'a str,
}

impl Unknown<'_> {
    pub(crate) fn not_known(&self) -> CodecError {
        CodecError::NotRegistered { api_version: self.api_version.into(), kind: self.kind.into() }
    }

    pub(super) fn message(&self) -> Result<MessageId, CodecError> {
        lookup_api_version(self.api_version, self.kind).ok_or_else(|| self.not_known())
    }

    fn types(&self) -> TypeMeta<'_> {
        TypeMeta { kind: self.kind, api_version: self.api_version }
    }

    /// Appends the JSON of a stored object with resourceVersion (left out when not above 0), no line end. `typed`: with
    /// `kind` and `apiVersion`, which upstream leaves out of items of lists.
    ///
    /// # Errors
    /// A kind that is not in the tables, or bytes that are no object of it; `out` then holds a part of the text.
    pub fn to_json(&self, out: &mut Vec<u8>, resource_version: i64, typed: bool) -> Result<(), CodecError> {
        let (message, types) = (self.message()?, typed.then(|| self.types()));
        let mut buffer = itoa::Buffer::new();
        let fill = fill(version_text(resource_version, &mut buffer));
        JsonSink::append(out, |sink| object(sink, message, self.raw, types, fill))
    }

    /// Appends a stored object as a protobuf body with resourceVersion.
    ///
    /// # Errors
    /// A message that does not begin with its metadata.
    pub fn to_proto(&self, out: &mut Vec<u8>, resource_version: i64) -> Result<(), CodecError> {
        let mut buffer = itoa::Buffer::new();
        let parts = Parts::of(self.raw, version_text(resource_version, &mut buffer))?;
        begin_envelope(out, self.api_version, self.kind, parts.len());
        parts.write(out);
        out.extend_from_slice(&END_OF_ENVELOPE);
        Ok(())
    }

    /// Appends field `items` (number 2) of a protobuf list with a stored object in it: a list is the concatenation of
    /// these behind its ListMeta.
    ///
    /// # Errors
    /// As [`Self::to_proto`].
    pub fn to_proto_item(&self, out: &mut Vec<u8>, resource_version: i64) -> Result<(), CodecError> {
        let mut buffer = itoa::Buffer::new();
        let parts = Parts::of(self.raw, version_text(resource_version, &mut buffer))?;
        put_varint(out, 2 << 3 | 2);
        put_varint(out, parts.len() as u64);
        parts.write(out);
        Ok(())
    }

    /// How many bytes [`Self::to_proto_item`] appends.
    ///
    /// # Errors
    /// As [`Self::to_proto`].
    pub fn proto_item_len(&self, resource_version: i64) -> Result<usize, CodecError> {
        let mut buffer = itoa::Buffer::new();
        let len = Parts::of(self.raw, version_text(resource_version, &mut buffer))?.len();
        Ok(1 + super::wire::varint_len(len as u64) + len)
    }

    /// Appends a message that has nothing but the metadata (field 1) of a stored object, with resourceVersion.
    ///
    /// # Errors
    /// As [`Self::to_proto`].
    pub fn metadata_to_proto(&self, out: &mut Vec<u8>, resource_version: i64) -> Result<(), CodecError> {
        let mut buffer = itoa::Buffer::new();
        let parts = Parts::of(self.raw, version_text(resource_version, &mut buffer))?;
        Parts { rest: &[], ..parts }.write(out);
        Ok(())
    }

    /// A message of this kind as a tree with a resourceVersion.
    fn tree(&self, raw: &[u8], resource_version: i64, mut sink: TreeSink) -> Result<Value, CodecError> {
        let mut buffer = itoa::Buffer::new();
        let fill = fill(version_text(resource_version, &mut buffer));
        object(&mut sink, self.message()?, raw, Some(self.types()), fill)?;
        Ok(sink.finish())
    }
}

/// Whether bytes start as a protobuf envelope does.
pub fn is_proto(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Puts a message into its envelope.
pub fn wrap_unknown(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 24);
    begin_envelope(&mut out, api_version, kind, raw.len());
    out.extend_from_slice(raw);
    out.extend_from_slice(&END_OF_ENVELOPE);
    out
}

/// Begins the envelope of a message of `len` bytes, which is to be appended, and [`END_OF_ENVELOPE`] behind it.
pub fn begin_envelope(out: &mut Vec<u8>, api_version: &str, kind: &str, len: usize) {
    out.extend_from_slice(&MAGIC);
    let mut types = Vec::with_capacity(api_version.len() + kind.len() + 4);
    put_bytes(&mut types, 1, api_version.as_bytes());
    put_bytes(&mut types, 2, kind.as_bytes());
    put_bytes(out, 1, &types);
    put_varint(out, 2 << 3 | 2);
    put_varint(out, len as u64);
}

/// What ends an envelope: contentEncoding and contentType, always written.
pub const END_OF_ENVELOPE: [u8; 4] = [0x1a, 0, 0x22, 0];

/// Takes an envelope apart.
///
/// # Errors
/// Bytes without the prefix, or an envelope that is not whole.
pub fn unwrap_unknown(bytes: &[u8]) -> Result<Unknown<'_>, CodecError> {
    let body = bytes.strip_prefix(&MAGIC).ok_or(CodecError::NotEnvelope)?;
    let mut unknown = Unknown { api_version: "", kind: "", raw: &[], content_type: "" };
    let text = |b| std::str::from_utf8(b).map_err(|_| CodecError::Wire("a name is not UTF-8"));
    let mut reader = Reader::new(body);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(types)) => {
                unknown.api_version = text(first_bytes(types, 1)?.unwrap_or_default())?;
                unknown.kind = text(first_bytes(types, 2)?.unwrap_or_default())?;
            }
            (2, Wire::Bytes(raw)) => unknown.raw = raw,
            (4, Wire::Bytes(content_type)) => unknown.content_type = text(content_type)?,
            _ => {}
        }
    }
    Ok(unknown)
}

/// A tree as a protobuf body (resourceVersion kept): what a client or server sends.
///
/// # Errors
/// A value of the wrong type.
pub fn to_envelope(
    message: MessageId,
    api_version: &str,
    kind: &str,
    value: &Value,
) -> Result<Vec<u8>, CodecError> {
    let mut raw = Vec::new();
    to_proto(message, value, &mut raw)?;
    Ok(wrap_unknown(api_version, kind, &raw))
}

/// A protobuf body as a tree with `apiVersion` and `kind`.
///
/// # Errors
/// Bytes that are not an envelope of a known kind.
pub fn from_envelope(bytes: &[u8]) -> Result<Value, CodecError> {
    let unknown = unwrap_unknown(bytes)?;
    if unknown.content_type.contains("json") {
        return serde_json::from_slice(unknown.raw).map_err(|e| CodecError::Raw(e.to_string()));
    }
    let mut sink = TreeSink::default();
    object(&mut sink, unknown.message()?, unknown.raw, Some(unknown.types()), Fill::Nowhere)?;
    Ok(sink.finish())
}

/// A protobuf body without `metadata.managedFields`, which are half of many an object, as one of the given kind, which
/// metadata alone does not say; [`unpack`] reads it.
///
/// # Errors
/// Bytes that are not an envelope of an object.
pub fn to_bare(bytes: &[u8], api_version: &str, kind: &str) -> Result<Vec<u8>, CodecError> {
    bare(unwrap_unknown(bytes)?.raw, api_version, kind)
}

fn bare(raw: &[u8], api_version: &str, kind: &str) -> Result<Vec<u8>, CodecError> {
    Ok(wrap_unknown(api_version, kind, &without_managed_fields(raw)?))
}

/// The body of a list in protobuf: its metadata, and its items as [`to_bare`] gives them.
///
/// # Errors
/// Bytes that are not an envelope of a list.
pub fn list_to_bare(
    bytes: &[u8],
    api_version: &str,
    kind: &str,
) -> Result<(Value, Vec<Vec<u8>>), CodecError> {
    let unknown = unwrap_unknown(bytes)?;
    if !unknown.kind.ends_with("List") {
        return Err(unknown.not_known());
    }
    let list_meta = by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")
        .expect("invariant: the tables hold ListMeta");
    let (mut metadata, mut items) = (Value::Null, Vec::new());
    let mut reader = Reader::new(unknown.raw);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(raw)) => metadata = super::from_proto(list_meta, raw)?,
            (2, Wire::Bytes(raw)) => items.push(bare(raw, api_version, kind)?),
            _ => {}
        }
    }
    Ok((metadata, items))
}

/// A message without the managed fields in its metadata (field 1).
pub(super) fn without_managed_fields(raw: &[u8]) -> Result<Cow<'_, [u8]>, CodecError> {
    let mut reader = Reader::new(raw);
    let Some((1, Wire::Bytes(metadata))) = reader.field()? else { return Ok(raw.into()) };
    let rest = &raw[reader.at..];
    let mut kept = Vec::with_capacity(metadata.len());
    let mut reader = Reader::new(metadata);
    loop {
        let at = reader.at;
        match reader.field()? {
            Some((MANAGED_FIELDS, _)) => {}
            Some(_) => kept.extend_from_slice(&metadata[at..reader.at]),
            None => break,
        }
    }
    if kept.len() == metadata.len() {
        return Ok(raw.into());
    }
    let mut out = Vec::with_capacity(raw.len());
    put_bytes(&mut out, 1, &kept);
    out.extend_from_slice(rest);
    Ok(out.into())
}

/// An object in few bytes, for who keeps many and reads few: an envelope where its kind is in the tables, else JSON.
pub fn pack(value: &Value) -> Vec<u8> {
    let (api_version, kind) = (crate::meta::api_version(value), crate::meta::kind(value));
    let message = lookup_api_version(api_version, kind).filter(|message| message.special.is_none());
    let packed = message.and_then(|message| to_envelope(message, api_version, kind, value).ok());
    packed.unwrap_or_else(|| value.to_string().into_bytes())
}

/// What [`pack`] packed.
///
/// # Errors
/// Bytes that it has not made.
pub fn unpack(packed: &[u8]) -> Result<Value, CodecError> {
    if is_proto(packed) {
        return from_envelope(packed);
    }
    serde_json::from_slice(packed).map_err(|error| CodecError::Raw(error.to_string()))
}

/// A built-in object as it is stored: resourceVersion left out, in its envelope.
///
/// # Errors
/// A value of the wrong type.
pub fn to_stored(
    message: MessageId,
    api_version: &str,
    kind: &str,
    value: &Value,
) -> Result<Vec<u8>, CodecError> {
    if super::is_too_deep(value) {
        return Err(CodecError::TooDeep);
    }
    let mut raw = Vec::new();
    encode(message, value, Drop::InMetadata, &mut raw)?;
    Ok(wrap_unknown(api_version, kind, &raw))
}

/// A custom object as it is stored: JSON with sorted keys, resourceVersion left out.
pub fn json_to_stored(value: &Value) -> Vec<u8> {
    let stored = |v: &Value| v.to_string().into_bytes();
    if value["metadata"].get("resourceVersion").is_none() {
        return stored(value);
    }
    let mut copy = value.clone();
    crate::meta::metadata_mut(&mut copy).remove("resourceVersion");
    stored(&copy)
}

/// Stored bytes as a tree with `apiVersion`, `kind` and resourceVersion (left out when not above 0).
///
/// # Errors
/// Bytes that are not a stored object.
pub fn from_stored(stored: &[u8], resource_version: i64) -> Result<Value, CodecError> {
    tree_of_stored(stored, resource_version, TreeSink::default())
}

/// [`from_stored`] for who changes the object: of built-in kinds, what fields managers own stays text
/// (`metadata.managedFields[].fieldsV1`), which is half of many an object and nobody reads who changes another part.
/// [`to_stored`] takes the text for what it stands for.
///
/// # Errors
/// Bytes that are not a stored object.
pub fn from_stored_for_update(stored: &[u8], resource_version: i64) -> Result<Value, CodecError> {
    tree_of_stored(stored, resource_version, TreeSink::with_fields_as_text())
}

fn tree_of_stored(stored: &[u8], resource_version: i64, sink: TreeSink) -> Result<Value, CodecError> {
    if !is_proto(stored) {
        return stored_json_tree(stored, resource_version);
    }
    let unknown = unwrap_unknown(stored)?;
    unknown.tree(unknown.raw, resource_version, sink)
}

/// [`from_stored`] without `metadata.managedFields`, which are half of many an object.
///
/// # Errors
/// As [`from_stored`].
pub fn from_stored_bare(stored: &[u8], resource_version: i64) -> Result<Value, CodecError> {
    if !is_proto(stored) {
        let mut value = stored_json_tree(stored, resource_version)?;
        crate::meta::metadata_mut(&mut value).remove("managedFields");
        return Ok(value);
    }
    let unknown = unwrap_unknown(stored)?;
    unknown.tree(&without_managed_fields(unknown.raw)?, resource_version, TreeSink::default())
}

fn stored_json_tree(stored: &[u8], resource_version: i64) -> Result<Value, CodecError> {
    let mut value = serde_json::from_slice(stored).map_err(|e| CodecError::Raw(e.to_string()))?;
    let mut buffer = itoa::Buffer::new();
    crate::meta::set_resource_version(&mut value, version_text(resource_version, &mut buffer));
    Ok(value)
}

/// Appends the JSON of a stored object, with `kind`, `apiVersion` and resourceVersion, no line end.
///
/// # Errors
/// Bytes that are not a stored object; `out` then holds a part of the text.
pub fn stored_to_json(stored: &[u8], out: &mut Vec<u8>, resource_version: i64) -> Result<(), CodecError> {
    match is_proto(stored) {
        true => unwrap_unknown(stored)?.to_json(out, resource_version, true),
        false => {
            let mut buffer = itoa::Buffer::new();
            stored_json::write(stored, version_text(resource_version, &mut buffer), out)
        }
    }
}

/// Appends the JSON of a message with the given `apiVersion` and `kind` (empty: left out) and resourceVersion
/// (left as it is when not above 0).
///
/// Given the message of `meta.k8s.io/v1 PartialObjectMetadata` it writes the metadata of any built-in object.
///
/// # Errors
/// Bytes that are not such a message; `out` then holds a part of the text.
pub fn object_to_json(
    message: MessageId,
    api_version: &str,
    kind: &str,
    raw: &[u8],
    resource_version: i64,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let mut buffer = itoa::Buffer::new();
    let fill = fill(version_text(resource_version, &mut buffer));
    let types = Some(TypeMeta { kind, api_version });
    JsonSink::append(out, |sink| object(sink, message, raw, types, fill))
}

fn fill(version: &str) -> Fill<'_> {
    if version.is_empty() { Fill::Nowhere } else { Fill::InMetadata(version) }
}

/// Empty when not above 0.
fn version_text(resource_version: i64, buffer: &mut itoa::Buffer) -> &str {
    if resource_version > 0 { buffer.format(resource_version) } else { "" }
}

/// Appends a stored built-in object as a protobuf body with resourceVersion.
///
/// # Errors
/// Bytes that are not a stored protobuf object.
pub fn stored_to_proto(stored: &[u8], out: &mut Vec<u8>, resource_version: i64) -> Result<(), CodecError> {
    unwrap_unknown(stored)?.to_proto(out, resource_version)
}

/// Appends a `meta/v1 WatchEvent` (`ADDED`, …) around an object's protobuf body: one frame of a protobuf watch, without
/// the four bytes of length in front.
pub fn watch_event_to_proto(event: &str, body: &[u8], out: &mut Vec<u8>) {
    let varint = |n: usize| super::wire::varint_len(n as u64);
    let object = 1 + varint(body.len()) + body.len();
    out.reserve(object + event.len() + 16);
    put_bytes(out, 1, event.as_bytes());
    put_varint(out, 2 << 3 | 2);
    put_varint(out, object as u64);
    put_bytes(out, 1, body);
}

/// Takes a frame of a protobuf watch apart: (`ADDED`, …; the object's body).
///
/// # Errors
/// Bytes that are not a WatchEvent.
pub fn watch_event_from_proto(frame: &[u8]) -> Result<(&str, &[u8]), CodecError> {
    let event = first_bytes(frame, 1)?.unwrap_or_default();
    let event = std::str::from_utf8(event).map_err(|_| CodecError::Wire("a name is not UTF-8"))?;
    let object = first_bytes(frame, 2)?.unwrap_or_default();
    Ok((event, first_bytes(object, 1)?.unwrap_or_default()))
}

/// A message with another resourceVersion in its metadata (field 1), without decoding the rest.
struct Parts<'a> {
    /// Metadata up to its resourceVersion.
    head: &'a [u8],
    version: &'a str,
    /// Metadata behind its resourceVersion.
    tail: &'a [u8],
    /// The message behind its metadata.
    rest: &'a [u8],
}

/// Number of `managedFields` in ObjectMeta.
const MANAGED_FIELDS: u32 = 17;
/// Number of `resourceVersion` in ObjectMeta.
const RESOURCE_VERSION: u32 = 6;

impl<'a> Parts<'a> {
    fn of(raw: &'a [u8], version: &'a str) -> Result<Self, CodecError> {
        let mut reader = Reader::new(raw);
        let (metadata, rest) = match reader.field()? {
            Some((1, Wire::Bytes(metadata))) => (metadata, &raw[reader.at..]),
            _ => return Err(CodecError::Wire("a stored object does not start with its metadata")),
        };
        let mut reader = Reader::new(metadata);
        loop {
            let at = reader.at;
            match reader.field()? {
                Some((number, _)) if number < RESOURCE_VERSION => {}
                Some((RESOURCE_VERSION, _)) => {
                    return Ok(Self { head: &metadata[..at], version, tail: &metadata[reader.at..], rest });
                }
                _ => return Ok(Self { head: &metadata[..at], version, tail: &metadata[at..], rest }),
            }
        }
    }

    fn metadata_len(&self) -> usize {
        // The field's number and length are a byte each.
        self.head.len() + 2 + self.version.len() + self.tail.len()
    }

    fn len(&self) -> usize {
        let metadata = self.metadata_len();
        1 + super::wire::varint_len(metadata as u64) + metadata + self.rest.len()
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.reserve(self.len());
        put_varint(out, 1 << 3 | 2);
        put_varint(out, self.metadata_len() as u64);
        out.extend_from_slice(self.head);
        put_bytes(out, RESOURCE_VERSION, self.version.as_bytes());
        out.extend_from_slice(self.tail);
        out.extend_from_slice(self.rest);
    }
}
