//! Objects with every field filled, the same each time. Used by the tests of this crate and of `api-rules`.

use api_types::schema::{FieldInfo, MessageId, Shape, Special, Type};
use serde_json::{Value, json};

/// How often a message may stand in itself.
const MAX_NESTED: usize = 1;

/// An object with every field of a message, the same each time.
pub fn full(message: MessageId, around: &[MessageId]) -> Value {
    let mut inside = around.to_vec();
    inside.push(message);
    let fields = message.json_fields().into_iter().filter_map(|field| {
        let value = match field.shape {
            Shape::Single => one(field, &inside)?,
            Shape::List => json!([one(field, &inside)?]),
            Shape::Map => json!({format!("{}-key", field.name): one(field, &inside)?}),
        };
        Some((field.name.to_owned(), value))
    });
    Value::Object(fields.collect())
}

/// The value of a field; none where it would never end.
fn one(field: &FieldInfo, inside: &[MessageId]) -> Option<Value> {
    let number = field.number;
    Some(match field.ty {
        Type::Bool => true.into(),
        Type::Int32 | Type::Int64 => (number + 1).into(),
        Type::Double => (f64::from(number) + 0.5).into(),
        Type::String => {
            field.values.first().map_or_else(|| format!("{}-text", field.name), |v| (*v).to_owned()).into()
        }
        Type::Bytes => base64(field.name).into(),
        Type::Message(message) => {
            if inside.iter().filter(|outer| **outer == message).count() > MAX_NESTED {
                return None;
            }
            match message.special {
                None => full(message, inside),
                Some(special) => special_value(special, message, number, inside)?,
            }
        }
    })
}

fn special_value(special: Special, message: MessageId, number: u32, inside: &[MessageId]) -> Option<Value> {
    let schema = || {
        let inner = message.fields.iter().find_map(FieldInfo::message)?;
        let outer = inside.iter().filter(|outer| **outer == inner).count();
        (outer <= MAX_NESTED).then(|| full(inner, inside))
    };
    Some(match special {
        Special::Quantity => format!("{number}Gi").into(),
        Special::IntOrString => format!("{number}%").into(),
        Special::Time => "2026-01-02T03:04:05Z".into(),
        Special::MicroTime => "2026-01-02T03:04:05.123456Z".into(),
        Special::Duration => "1m30s".into(),
        Special::Raw => json!({"raw": [number, null, "<é>"]}),
        Special::Strings => json!(["first", "second"]),
        Special::PropsOrBool | Special::PropsOrStrings | Special::PropsOrArray => schema()?,
    })
}

/// Standard base64, padded.
pub fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits =
            chunk.iter().enumerate().fold(0_u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// Values in an object, its own and those of all parts.
pub fn leaves(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.values().map(leaves).sum(),
        Value::Array(items) => items.iter().map(leaves).sum(),
        _ => 1,
    }
}

/// FNV-1a.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

pub fn named(object: &Value, api_version: &str, kind: &str) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    object
}
