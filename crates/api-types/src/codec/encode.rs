//! Tree to protobuf, byte for byte as upstream's generated code writes it: ascending field numbers, every field that
//! is not a Go pointer, maps sorted by key.

use super::CodecError;
use super::walk::props_fields;
use super::wire::{put_bytes, put_double, put_int, put_part};
use crate::quantity;
use crate::schema::{FieldInfo, MAX_FIELDS, MessageId, Shape, Special, Type};
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

/// Appends the protobuf of a tree. Unknown fields, `kind` and `apiVersion` are left out.
///
/// # Errors
/// A value of the wrong type, with its path.
pub fn to_proto(message: MessageId, value: &Value, out: &mut Vec<u8>) -> Result<(), CodecError> {
    if super::is_too_deep(value) {
        return Err(CodecError::TooDeep);
    }
    encode(message, value, Drop::Nothing, out)
}

/// Whether a resourceVersion is left empty.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Drop {
    Nothing,
    /// That of the object's metadata.
    InMetadata,
    /// That of the message at hand.
    Here,
}

pub(super) fn encode(
    message: MessageId,
    value: &Value,
    drop: Drop,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    if let Some(special) = message.special {
        return encode_special(message, special, value, out);
    }
    match value {
        Value::Object(map) => fields(message, map, drop, out),
        Value::Null => fields(message, &Map::new(), drop, out),
        other => Err(wrong(other, message.go_type())),
    }
}

fn wrong(value: &Value, expected: &'static str) -> CodecError {
    CodecError::Type { path: String::new(), expected, found: json_type(value) }
}

/// The name of a JSON type in Go's messages.
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn fault(detail: impl ToString) -> CodecError {
    CodecError::Value { path: String::new(), detail: detail.to_string() }
}

fn fields(
    message: MessageId,
    map: &Map<String, Value>,
    drop: Drop,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let mut values = [None; MAX_FIELDS];
    let mut wanted = message.written;
    for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        let Some(field) = message.own_field(name) else { continue };
        if drop != Drop::Here || field.name != "resourceVersion" {
            values[field.number as usize] = Some(value);
            wanted |= 1 << field.number;
        }
    }
    while wanted != 0 {
        let number = wanted.trailing_zeros() as usize;
        wanted &= wanted - 1;
        let field = &message.fields[usize::from(message.by_number[number])];
        if let (true, Type::Message(inner)) = (field.inline, field.ty) {
            put_part(out, field.number, |o| fields(inner, map, Drop::Nothing, o))?;
            continue;
        }
        let value = values[number];
        match field.shape {
            Shape::List => list(field, value, out),
            Shape::Map => entries(field, value, out),
            Shape::Single => single(field, value, drop, out),
        }
        .map_err(|e| e.within(field.name))?;
    }
    Ok(())
}

fn list(field: &FieldInfo, value: Option<&Value>, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let Some(value) = value else { return Ok(()) };
    let items = value.as_array().ok_or_else(|| wrong(value, field.go_type))?;
    for (index, item) in items.iter().enumerate() {
        put_value(field, field.number, item, Drop::Nothing, out)
            .map_err(|e| e.within(&format!("[{index}]")))?;
    }
    Ok(())
}

/// A tree's object is sorted by key already.
fn entries(field: &FieldInfo, value: Option<&Value>, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let Some(value) = value else { return Ok(()) };
    let map = value.as_object().ok_or_else(|| wrong(value, field.go_type))?;
    for (key, item) in map {
        put_part(out, field.number, |o| {
            put_bytes(o, 1, key.as_bytes());
            if item.is_null() && matches!(field.ty, Type::Bytes) {
                return Ok(());
            }
            put_value(field, 2, item, Drop::Nothing, o)
        })
        .map_err(|e| e.within(&format!("[{key}]")))?;
    }
    Ok(())
}

fn single(field: &FieldInfo, value: Option<&Value>, drop: Drop, out: &mut Vec<u8>) -> Result<(), CodecError> {
    match value {
        Some(value) => put_value(field, field.number, value, drop, out),
        None if field.pointer || matches!(field.ty, Type::Bytes) => Ok(()),
        // A named slice in Go: nil is not written.
        None if field.message().is_some_and(|m| m.special == Some(Special::Strings)) => Ok(()),
        None => put_value(field, field.number, &Value::Null, drop, out),
    }
}

/// One value with its tag; null is the zero value of the type.
fn put_value(
    field: &FieldInfo,
    number: u32,
    value: &Value,
    drop: Drop,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let expected = || wrong(value, field.go_type);
    match field.ty {
        Type::Bool => {
            let flag = if value.is_null() { false } else { value.as_bool().ok_or_else(expected)? };
            put_int(out, number, i64::from(flag));
        }
        Type::Int32 => {
            put_int(out, number, i64::from(i32::try_from(int(field, value)?).map_err(|_| expected())?))
        }
        Type::Int64 => put_int(out, number, int(field, value)?),
        Type::Double => {
            let real = if value.is_null() { 0.0 } else { value.as_f64().ok_or_else(expected)? };
            put_double(out, number, real);
        }
        Type::String => {
            let text = if value.is_null() { "" } else { value.as_str().ok_or_else(expected)? };
            put_bytes(out, number, text.as_bytes());
        }
        Type::Bytes => {
            let text = if value.is_null() { "" } else { value.as_str().ok_or_else(expected)? };
            put_bytes(out, number, &decode_base64(text).map_err(fault)?);
        }
        Type::Message(message) => {
            let drop = match drop {
                Drop::InMetadata if field.name == "metadata" => Drop::Here,
                _ => Drop::Nothing,
            };
            put_part(out, number, |o| encode(message, value, drop, o))?;
        }
    }
    Ok(())
}

fn int(field: &FieldInfo, value: &Value) -> Result<i64, CodecError> {
    if value.is_null() { Ok(0) } else { value.as_i64().ok_or_else(|| wrong(value, field.go_type)) }
}

/// Standard base64, line ends ignored; the error text is Go's.
pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let decode = |t: &[u8]| STANDARD.decode(t);
    let found = if text.contains(['\r', '\n']) {
        decode(text.replace(['\r', '\n'], "").as_bytes())
    } else {
        decode(text.as_bytes())
    };
    found.map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(length) => length / 4 * 4,
            base64::DecodeError::InvalidPadding => text.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {at}")
    })
}

fn encode_special(
    message: MessageId,
    special: Special,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let expected = || wrong(value, message.go_type());
    match special {
        Special::Quantity => put_bytes(out, 1, canonical_quantity(value).map_err(fault)?.as_bytes()),
        Special::IntOrString => int_or_string(value, out)?,
        Special::Time | Special::MicroTime => moment(special, value, out)?,
        Special::Duration => {
            let text = value.as_str();
            let nanos = match text {
                None if value.is_null() => 0,
                None => return Err(expected()),
                Some(text) => time::parse_duration(text)
                    .ok_or_else(|| fault(format!("time: invalid duration {}", crate::field::quote(text))))?,
            };
            put_int(out, 1, nanos);
        }
        Special::Raw if value.is_null() => {}
        Special::Raw => raw(message, value, out)?,
        Special::Strings => strings(value, 1, message.go_type(), out)?,
        Special::PropsOrArray | Special::PropsOrStrings => {
            let [schema, list_field] = props_fields(message);
            match (value, special) {
                (Value::Null, _) => {}
                (Value::Array(_), Special::PropsOrArray) => list(list_field, Some(value), out)?,
                (Value::Array(_), _) => strings(value, list_field.number, message.go_type(), out)?,
                // Upstream's decoder ignores what is neither.
                (Value::Bool(_) | Value::Number(_) | Value::String(_), _) => {}
                _ => put_value(schema, schema.number, value, Drop::Nothing, out)?,
            }
        }
        Special::PropsOrBool => {
            let [_, schema] = props_fields(message);
            put_int(out, 1, i64::from(value.as_bool().unwrap_or(value.is_object())));
            match value {
                Value::Bool(_) | Value::Null => {}
                _ => put_value(schema, schema.number, value, Drop::Nothing, out)?,
            }
        }
    }
    Ok(())
}

/// Any JSON. What fields a manager owns may stand in a tree as the text of an object, and is taken for that object.
fn raw(message: MessageId, value: &Value, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let is_object = |text: &str| text.starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok();
    match value {
        Value::String(text) if message.go_name() == "FieldsV1" && is_object(text) => {
            put_bytes(out, 1, text.as_bytes());
            Ok(())
        }
        _ => put_part(out, 1, |out| serde_json::to_writer(out, value).map_err(fault)),
    }
}

/// The text that is kept of a quantity given as text or number; null is `0`.
pub(crate) fn canonical_quantity(value: &Value) -> Result<String, quantity::QuantityError> {
    let text = match value {
        Value::Null => return Ok("0".into()),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    quantity::normalize(&text)
}

fn strings(value: &Value, number: u32, expected: &'static str, out: &mut Vec<u8>) -> Result<(), CodecError> {
    if value.is_null() {
        return Ok(());
    }
    for item in value.as_array().ok_or_else(|| wrong(value, expected))? {
        put_bytes(out, number, item.as_str().ok_or_else(|| wrong(item, "string"))?.as_bytes());
    }
    Ok(())
}

fn int_or_string(value: &Value, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let (ty, number, text) = match value {
        Value::Null => (0, 0, ""),
        Value::String(text) => (1, 0, text.as_str()),
        Value::Number(n) => {
            let number = n.as_i64().and_then(|n| i32::try_from(n).ok());
            (0, number.ok_or_else(|| wrong(value, "int32"))?, "")
        }
        other => return Err(wrong(other, "string")),
    };
    put_int(out, 1, ty);
    put_int(out, 2, i64::from(number));
    put_bytes(out, 3, text.as_bytes());
    Ok(())
}

fn moment(special: Special, value: &Value, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let text = match value {
        Value::Null => return Ok(()),
        Value::String(text) => text,
        other => return Err(wrong(other, "string")),
    };
    let moment = match special {
        Special::MicroTime => time::parse_micro(text),
        _ => time::parse(text),
    };
    let moment = moment.map_err(fault)?;
    let nanos = if special == Special::Time { 0 } else { moment.nanos / 1000 * 1000 };
    put_int(out, 1, moment.seconds);
    put_int(out, 2, i64::from(nanos));
    Ok(())
}
