//! What operators make of values.

use std::cmp::Ordering;
use std::sync::Arc;

use kube_cel::cel::common::ast::{LiteralValue, operators};
use kube_cel::cel::objects::{Key, OptionalValue};
use kube_cel::cel::{ExecutionError, Value as Cel};

type Outcome = Result<Cel, ExecutionError>;

/// Bytes that a value takes besides its text or its parts.
const VALUE_BYTES: usize = 16;

pub(super) fn literal(value: &LiteralValue) -> Cel {
    match value {
        LiteralValue::Boolean(value) => Cel::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Cel::Bytes(Arc::new(value.inner().to_vec())),
        LiteralValue::Double(value) => Cel::Float(*value.inner()),
        LiteralValue::Int(value) => Cel::Int(*value.inner()),
        LiteralValue::Null => Cel::Null,
        LiteralValue::String(value) => Cel::String(Arc::new(value.inner().to_owned())),
        LiteralValue::UInt(value) => Cel::UInt(*value.inner()),
    }
}

pub(super) fn is_true(value: &Cel) -> bool {
    matches!(value, Cel::Bool(true))
}

/// What is in an optional value; none for what is no optional value.
pub(super) fn as_optional(value: &Cel) -> Option<Option<&Cel>> {
    match value {
        Cel::Opaque(value) => value.downcast_ref::<OptionalValue>().map(OptionalValue::value),
        _ => None,
    }
}

/// Bytes that are copied with a value and all that is in it.
pub(super) fn weight(value: &Cel) -> usize {
    VALUE_BYTES
        + match value {
            Cel::String(text) => text.len(),
            Cel::Bytes(bytes) => bytes.len(),
            Cel::List(items) => items.iter().map(weight).sum(),
            Cel::Map(map) => map.map.values().map(weight).sum(),
            _ => 0,
        }
}

pub(super) fn key(value: Cel) -> Result<Key, ExecutionError> {
    value.try_into().map_err(ExecutionError::UnsupportedKeyType)
}

pub(super) fn field(of: &Cel, name: &str) -> Option<Cel> {
    match of {
        Cel::Map(map) => map.map.get(&Key::String(Arc::new(name.to_owned()))).cloned(),
        Cel::Opaque(_) => as_optional(of).flatten().and_then(|inner| field(inner, name)),
        _ => None,
    }
}

pub(super) fn index(of: &Cel, at: &Cel) -> Outcome {
    match of {
        Cel::List(items) => {
            let place = match at {
                Cel::Int(at) => usize::try_from(*at).ok(),
                Cel::UInt(at) => usize::try_from(*at).ok(),
                Cel::Float(at) if at.fract() == 0.0 && *at >= 0.0 => format!("{at:.0}").parse().ok(),
                _ => return Err(ExecutionError::NoSuchOverload),
            };
            let found = place.and_then(|place| items.get(place)).cloned();
            found.ok_or_else(|| ExecutionError::IndexOutOfBounds(at.clone()))
        }
        Cel::Map(map) => {
            let key = key(at.clone())?;
            map.get(&key).cloned().ok_or_else(|| match &key {
                Key::String(text) => ExecutionError::no_such_key(text),
                other => ExecutionError::no_such_key(&other.to_string()),
            })
        }
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

/// What a comprehension goes through: the elements of a list, the keys of a map in their order.
pub(super) fn elements(range: &Cel) -> Result<Vec<Cel>, ExecutionError> {
    match range {
        Cel::List(items) => Ok(items.as_ref().clone()),
        Cel::Map(map) => {
            let mut keys: Vec<&Key> = map.map.keys().collect();
            keys.sort_unstable();
            Ok(keys.into_iter().map(Cel::from).collect())
        }
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

pub(super) fn contains(container: &Cel, value: Cel) -> Outcome {
    match container {
        Cel::List(items) => Ok(Cel::Bool(items.contains(&value))),
        Cel::Map(map) => Ok(Cel::Bool(map.get(&key(value)?).is_some())),
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

pub(super) fn negate(value: Cel) -> Outcome {
    match value {
        Cel::Int(number) => number.checked_neg().map(Cel::Int).ok_or_else(|| overflow("integer")),
        Cel::Float(number) => Ok(Cel::Float(-number)),
        Cel::Duration(length) => Ok(Cel::Duration(-length)),
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

fn overflow(what: &str) -> ExecutionError {
    ExecutionError::function_error("overflow", format!("{what} overflow"))
}

pub(super) fn add(a: Cel, b: Cel) -> Outcome {
    match (a, b) {
        (Cel::Bytes(mut a), Cel::Bytes(b)) => {
            Arc::make_mut(&mut a).extend_from_slice(&b);
            Ok(Cel::Bytes(a))
        }
        (a, b) => a + b,
    }
}

/// All operators between two values that are evaluated both and always.
pub(super) fn binary(name: &str, a: Cel, b: Cel) -> Outcome {
    let ordered = |wanted: &[Ordering]| Ok(Cel::Bool(wanted.contains(&compare(&a, &b)?)));
    match name {
        operators::EQUALS => Ok(Cel::Bool(a == b)),
        operators::NOT_EQUALS => Ok(Cel::Bool(a != b)),
        operators::LESS => ordered(&[Ordering::Less]),
        operators::LESS_EQUALS => ordered(&[Ordering::Less, Ordering::Equal]),
        operators::GREATER => ordered(&[Ordering::Greater]),
        operators::GREATER_EQUALS => ordered(&[Ordering::Greater, Ordering::Equal]),
        operators::SUBSTRACT => a - b,
        operators::MULTIPLY => a * b,
        operators::DIVIDE => a / b,
        operators::MODULO => a % b,
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

fn compare(a: &Cel, b: &Cel) -> Result<Ordering, ExecutionError> {
    match (a, b) {
        (Cel::Bytes(a), Cel::Bytes(b)) => Ok(a.cmp(b)),
        (Cel::Null, _) => Err(ExecutionError::NoSuchOverload),
        (Cel::Float(number), _) | (_, Cel::Float(number)) if number.is_nan() => {
            Err(ExecutionError::function_error("compare", "NaN values cannot be ordered"))
        }
        _ => a.partial_cmp(b).ok_or(ExecutionError::NoSuchOverload),
    }
}
