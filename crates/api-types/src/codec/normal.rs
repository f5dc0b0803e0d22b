//! The form that a tree has after a round trip through Go's types, made in place.
//!
//! What is not settled here (a value of the wrong type, the odd parts of a JSON schema) goes through protobuf, which also
//! has the words for what is wrong with it.

use super::encode::{canonical_quantity, decode_base64, to_proto};
use super::sink::number;
use super::{CodecError, from_proto, is_too_deep};
use crate::schema::{FieldInfo, MessageId, Shape, Special, Type};
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// A tree in the form it has after a round trip through Go's types: unknown fields and nulls gone, empty omitted fields
/// gone, quantities and times canonical. `kind` and `apiVersion` stay.
///
/// # Errors
/// A value of the wrong type.
pub fn normalize(message: MessageId, value: &Value) -> Result<Value, CodecError> {
    let mut normal = value.clone();
    normalize_in_place(message, &mut normal)?;
    Ok(normal)
}

/// Brings a tree into the form that [`normalize`] gives.
///
/// # Errors
/// A value of the wrong type; parts of the tree may have that form then.
pub fn normalize_in_place(message: MessageId, value: &mut Value) -> Result<(), CodecError> {
    if is_too_deep(value) {
        return Err(CodecError::TooDeep);
    }
    let types = if message.typed { Types::Kept } else { Types::Dropped };
    if settle(message, value, types).is_none() {
        *value = round_trip(message, value)?;
    }
    Ok(())
}

/// What [`normalize`] makes of a tree, by the longer way.
fn round_trip(message: MessageId, value: &Value) -> Result<Value, CodecError> {
    let mut proto = Vec::new();
    to_proto(message, value, &mut proto)?;
    let mut normal = from_proto(message, &proto)?;
    if let (true, Some(object)) = (message.typed, normal.as_object_mut()) {
        let types = ["apiVersion", "kind"].into_iter();
        object.extend(types.filter_map(|key| Some((key.to_owned(), value.get(key)?.clone()))));
    }
    Ok(normal)
}

/// What becomes of an object's `kind` and `apiVersion`.
#[derive(Clone, Copy, PartialEq)]
enum Types {
    Kept,
    Dropped,
}

/// Whether protobuf has anything of a value; none if the value is not settled here.
type Settled = Option<bool>;

/// Settles a value of a message. Null is the zero value.
fn settle(message: MessageId, value: &mut Value, types: Types) -> Settled {
    if let Some(special) = message.special {
        return settle_special(special, value);
    }
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    settle_object(message, value.as_object_mut()?, types)
}

fn settle_object(message: MessageId, map: &mut Map<String, Value>, types: Types) -> Settled {
    let (mut is_settled, mut is_written) = (true, false);
    map.retain(|name, value| {
        if value.is_null() && types == Types::Dropped {
            return false;
        }
        let Some(field) = message.field(name) else {
            return types == Types::Kept && matches!(name.as_str(), "kind" | "apiVersion");
        };
        if value.is_null() || !is_settled {
            return !is_settled;
        }
        match settle_field(field, value) {
            Some(kept) => {
                is_written |= kept || field.shape == Shape::Single;
                kept
            }
            None => {
                is_settled = false;
                true
            }
        }
    });
    if !is_settled {
        return None;
    }
    Some(fill(message, map)? || is_written)
}

/// Adds what Go writes of fields that are absent; whether protobuf has anything of absent ones.
fn fill(message: MessageId, map: &mut Map<String, Value>) -> Settled {
    let (mut absent, mut is_written) = (message.written, false);
    while absent != 0 {
        let number = absent.trailing_zeros() as usize;
        absent &= absent - 1;
        let field = &message.fields[usize::from(message.by_number[number])];
        let is_list = field.message().is_some_and(|inner| inner.special == Some(Special::Strings));
        is_written |= !is_list;
        match field.ty {
            Type::Message(inner) if field.inline => {
                fill(inner, map)?;
            }
            _ if is_list || map.contains_key(field.name) => {}
            Type::Message(inner) => {
                let mut zero = Value::Null;
                let has_any = settle(inner, &mut zero, Types::Dropped)?;
                if !zero.is_null() && (has_any || !field.omit_zero) {
                    map.insert(field.name.to_owned(), zero);
                }
            }
            _ if field.omit_empty => {}
            scalar => drop(map.insert(field.name.to_owned(), zero_of(scalar))),
        }
    }
    Some(is_written)
}

fn zero_of(ty: Type) -> Value {
    match ty {
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Double => 0.into(),
        Type::String | Type::Bytes => "".into(),
        Type::Message(_) => Value::Null,
    }
}

/// Settles a field that is not null; whether it stays.
fn settle_field(field: &FieldInfo, value: &mut Value) -> Settled {
    match field.shape {
        Shape::List => {
            let items = value.as_array_mut()?;
            items.iter_mut().try_for_each(|item| settle_item(field, item))?;
            Some(!items.is_empty())
        }
        Shape::Map => {
            let items = value.as_object_mut()?;
            items.values_mut().try_for_each(|item| settle_item(field, item))?;
            let is_empty = items.is_empty();
            items.retain(|_, item| !item.is_null());
            Some(!is_empty)
        }
        Shape::Single => match field.ty {
            Type::Message(message) => {
                let is_written = settle(message, value, Types::Dropped)?;
                let is_left_out = field.omit_zero || message.special == Some(Special::Strings);
                Some(!value.is_null() && (is_written || !is_left_out))
            }
            scalar => {
                let is_zero = settle_scalar(scalar, value)?;
                Some(field.pointer || !field.omit_empty || !is_zero)
            }
        },
    }
}

/// Settles an element of a list, or the value of an entry.
fn settle_item(field: &FieldInfo, item: &mut Value) -> Option<()> {
    match field.ty {
        Type::Message(message) => {
            settle(message, item, Types::Dropped)?;
            if let (true, Some(object)) =
                (field.typed_items && field.shape == Shape::List, item.as_object_mut())
            {
                object.insert("kind".into(), message.go_name().into());
                object.insert("apiVersion".into(), "v1".into());
            }
        }
        scalar => {
            if item.is_null() {
                *item = zero_of(scalar);
            }
            settle_scalar(scalar, item)?;
        }
    }
    Some(())
}

/// Settles a scalar; whether it is the zero value.
fn settle_scalar(ty: Type, value: &mut Value) -> Option<bool> {
    match ty {
        Type::Bool => Some(!value.as_bool()?),
        Type::Int32 => Some(i32::try_from(value.as_i64()?).ok()? == 0),
        Type::Int64 => Some(value.as_i64()? == 0),
        Type::Double => {
            let real = value.as_f64()?;
            *value = number(real);
            Some(real.to_bits() == 0)
        }
        Type::String => Some(value.as_str()?.is_empty()),
        Type::Bytes => {
            let text = value.as_str()?;
            let canonical = STANDARD.encode(decode_base64(text).ok()?);
            let is_empty = canonical.is_empty();
            put_text(value, canonical);
            Some(is_empty)
        }
        Type::Message(_) => None,
    }
}

fn settle_special(special: Special, value: &mut Value) -> Settled {
    match special {
        Special::Quantity => {
            let canonical = canonical_quantity(value).ok()?;
            put_text(value, canonical);
        }
        Special::IntOrString => match value {
            Value::Null => *value = 0.into(),
            Value::String(_) => {}
            Value::Number(number) => {
                i32::try_from(number.as_i64()?).ok()?;
            }
            _ => return None,
        },
        Special::Time | Special::MicroTime if value.is_null() => return Some(false),
        Special::Time => {
            let moment = time::parse(value.as_str()?).ok()?;
            put_text(value, time::from_seconds(moment.seconds));
        }
        Special::MicroTime => {
            let moment = time::parse_micro(value.as_str()?).ok()?;
            put_text(value, time::micro(moment.seconds, moment.nanos / 1000 * 1000));
        }
        Special::Duration => {
            let nanos = if value.is_null() { 0 } else { time::parse_duration(value.as_str()?)? };
            put_text(value, time::format_duration(nanos));
        }
        Special::Raw => return Some(!value.is_null()),
        Special::Strings => {
            if value.is_null() {
                *value = Value::Array(Vec::new());
            }
            let items = value.as_array()?;
            return items.iter().all(Value::is_string).then_some(!items.is_empty());
        }
        Special::PropsOrArray | Special::PropsOrBool | Special::PropsOrStrings => return None,
    }
    Some(true)
}

fn put_text(value: &mut Value, text: String) {
    if value.as_str() != Some(&*text) {
        *value = Value::String(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::messages;
    use serde_json::json;

    /// Values of each type: none, the zero value, another one, one that is not canonical, and wrong ones.
    const FORMS: usize = 7;

    fn scalar(ty: Type, form: usize) -> Value {
        let forms = match ty {
            Type::Bool => {
                [json!(null), json!(false), json!(true), json!(true), json!("true"), json!(1), json!([])]
            }
            Type::Int32 | Type::Int64 => {
                [json!(null), json!(0), json!(-7), json!(1_u64 << 31), json!(1.5), json!("1"), json!({})]
            }
            Type::Double => {
                [json!(null), json!(0.0), json!(1.5), json!(-2.0), json!("1"), json!(-0.0), json!([])]
            }
            Type::Bytes => {
                [json!(null), json!(""), json!("YWI="), json!("YW\nI="), json!("?"), json!(1), json!({})]
            }
            _ => [json!(null), json!(""), json!("a"), json!("ü"), json!(1), json!(false), json!([])],
        };
        forms[form].clone()
    }

    fn special(special: Special, form: usize) -> Value {
        let forms = match special {
            Special::Quantity => {
                [json!(null), json!("0"), json!("1Gi"), json!(" 1000m"), json!(2), json!("x"), json!({})]
            }
            Special::IntOrString => {
                [json!(null), json!(0), json!("80%"), json!(7), json!(1.5), json!(false), json!([])]
            }
            Special::Time | Special::MicroTime => [
                json!(null),
                json!("1970-01-01T00:00:00Z"),
                json!("2026-01-02T03:04:05Z"),
                json!("2026-01-02T03:04:05.123456789+01:00"),
                json!("now"),
                json!(1),
                json!({}),
            ],
            Special::Duration => {
                [json!(null), json!("0s"), json!("5m"), json!("1h30m"), json!("x"), json!(1), json!([])]
            }
            Special::Strings => [
                json!(null),
                json!([]),
                json!(["a"]),
                json!(["a", ""]),
                json!([null]),
                json!("a"),
                json!([1]),
            ],
            _ => [
                json!(null),
                json!({}),
                json!({"type": "string"}),
                json!(["a"]),
                json!(true),
                json!(1),
                json!([{"x": 1}]),
            ],
        };
        forms[form].clone()
    }

    /// An object in which every field has such a form.
    fn object(message: MessageId, form: usize, depth: usize) -> Value {
        let mut map = Map::new();
        map.insert("notAField".into(), json!({"a": 1}));
        map.insert("kind".into(), "Kind".into());
        for field in message.json_fields() {
            map.insert(field.name.to_owned(), value(field, form, depth));
        }
        Value::Object(map)
    }

    fn value(field: &FieldInfo, form: usize, depth: usize) -> Value {
        let item = |form: usize| match field.ty {
            Type::Message(message) => match message.special {
                Some(kind) => special(kind, form),
                None if depth == 0 => json!({}),
                None => object(message, form, depth - 1),
            },
            ty => scalar(ty, form),
        };
        match (field.shape, form) {
            (Shape::Single, form) => item(form),
            (_, 0) => Value::Null,
            (Shape::List, 1) => json!([]),
            (Shape::Map, 1) => json!({}),
            (Shape::List, form) => json!([item(form), null, item(0)]),
            (Shape::Map, form) => json!({"b": item(form), "a": null, "c": item(1)}),
        }
    }

    fn plain() -> impl Iterator<Item = MessageId> {
        messages().iter().copied().filter(|message| message.special.is_none())
    }

    fn check(message: MessageId, value: &Value) {
        let (found, expected) = (normalize(message, value), round_trip(message, value));
        assert_eq!(found, expected, "{message:?} of {value}");
    }

    #[test]
    fn every_message_gets_the_form_that_a_round_trip_gives() {
        for message in plain() {
            check(message, &Value::Null);
            check(message, &json!({}));
            check(message, &json!([]));
            for form in 0..FORMS {
                check(message, &object(message, form, 1));
                for field in message.json_fields() {
                    check(message, &json!({"apiVersion": null, (field.name): value(field, form, 2)}));
                }
            }
        }
    }

    #[test]
    fn most_is_settled_in_place() {
        let is_settled =
            |message: &MessageId| settle(message, &mut object(message, 2, 2), Types::Dropped).is_some();
        let (all, settled) = (plain().count(), plain().filter(is_settled).count());
        // The others have parts of a JSON schema.
        assert!(settled > all * 9 / 10, "{settled} of {all}");
    }

    #[test]
    fn special_values_stand_alone() {
        for &message in messages() {
            if let Some(kind) = message.special {
                (0..FORMS).for_each(|form| check(message, &special(kind, form)));
            }
        }
    }
}
