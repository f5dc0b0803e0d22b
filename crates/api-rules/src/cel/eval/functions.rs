//! Functions that are run here: those that look at a value without copying it, and those that make more than they are
//! given.

use std::sync::Arc;

use kube_cel::cel::{ExecutionError, Value as Cel};

use super::values::{as_optional, weight};
use super::{Machine, Outcome, optional};

impl Machine<'_, '_> {
    /// Calls a function; of a method the first argument is what it is called on.
    pub(super) fn apply(&mut self, name: &str, is_method: bool, arguments: &[Cel]) -> Outcome {
        match (name, arguments) {
            ("size", [of]) => size(of),
            ("dyn", [of]) => Ok(of.clone()),
            ("type", [of]) => Ok(type_of(of)),
            ("optional.none", []) => Ok(optional(None)),
            ("optional.of", [of]) => Ok(optional(Some(of.clone()))),
            ("optional.ofNonZeroValue", [of]) => Ok(optional(Some(of.clone()).filter(|of| !of.is_zero()))),
            ("value", [of]) if as_optional(of).is_some() => as_optional(of)
                .flatten()
                .cloned()
                .ok_or_else(|| ExecutionError::function_error("value", "optional.none() dereference")),
            ("hasValue", [of]) if as_optional(of).is_some() => {
                Ok(Cel::Bool(as_optional(of).flatten().is_some()))
            }
            ("orValue" | "or", [of, other]) if as_optional(of).is_some() => {
                Ok(as_optional(of).flatten().unwrap_or(other).clone())
            }
            ("first", [Cel::List(items)]) => Ok(optional(items.first().cloned())),
            ("last", [Cel::List(items)]) => Ok(optional(items.last().cloned())),
            ("startsWith", [Cel::String(text), Cel::String(part)]) => {
                Ok(Cel::Bool(text.starts_with(part.as_str())))
            }
            ("endsWith", [Cel::String(text), Cel::String(part)]) => {
                Ok(Cel::Bool(text.ends_with(part.as_str())))
            }
            ("contains", [Cel::String(text), Cel::String(part)]) => {
                Ok(Cel::Bool(text.contains(part.as_str())))
            }
            ("replace", [Cel::String(text), Cel::String(old), Cel::String(new)]) => {
                self.replace(text, old, new, -1)
            }
            ("replace", [Cel::String(text), Cel::String(old), Cel::String(new), Cel::Int(most)]) => {
                self.replace(text, old, new, *most)
            }
            ("join", [Cel::List(items)]) => self.join(items, ""),
            ("join", [Cel::List(items), Cel::String(separator)]) => self.join(items, separator),
            ("lists.range", [Cel::Int(end)]) => self.range(*end),
            ("split", [Cel::String(text), Cel::String(separator), ..]) => {
                let parts =
                    if separator.is_empty() { text.len() } else { text.matches(separator.as_str()).count() };
                self.copy(parts.saturating_mul(2 * size_of::<Cel>()))?;
                self.foreign(name, is_method, arguments)
            }
            _ => self.foreign(name, is_method, arguments),
        }
    }

    fn replace(&mut self, text: &str, old: &str, new: &str, most: i64) -> Outcome {
        let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
        let places = usize::try_from(most).map_or(places, |most| most.min(places));
        self.copy(text.len().saturating_add(places.saturating_mul(new.len())))?;
        Ok(Cel::String(Arc::new(text.replacen(old, new, places))))
    }

    fn join(&mut self, items: &[Cel], separator: &str) -> Outcome {
        let parts: usize = items.iter().map(weight).sum();
        self.copy(parts.saturating_add(items.len().saturating_mul(separator.len())))?;
        let mut joined = String::new();
        for (at, item) in items.iter().enumerate() {
            let Cel::String(text) = item else { return Err(ExecutionError::NoSuchOverload) };
            if at > 0 {
                joined.push_str(separator);
            }
            joined.push_str(text);
        }
        Ok(Cel::String(Arc::new(joined)))
    }

    /// The numbers below one.
    fn range(&mut self, end: i64) -> Outcome {
        let count = usize::try_from(end.max(0)).unwrap_or(usize::MAX);
        self.copy(count.saturating_mul(size_of::<Cel>()))?;
        Ok(Cel::List(Arc::new((0..end).map(Cel::Int).collect())))
    }
}

/// Characters, bytes, elements or keys.
fn size(of: &Cel) -> Outcome {
    match of {
        Cel::String(_) | Cel::Bytes(_) | Cel::List(_) | Cel::Map(_) => {
            Ok(Cel::Int(i64::try_from(super::cost::size(of)).unwrap_or(i64::MAX)))
        }
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

/// The name of a value's type.
fn type_of(of: &Cel) -> Cel {
    let name = match of {
        Cel::Null => "null_type",
        Cel::Float(_) => "double",
        Cel::Duration(_) => "google.protobuf.Duration",
        Cel::Timestamp(_) => "google.protobuf.Timestamp",
        Cel::Opaque(value) => value.runtime_type_name(),
        other => return Cel::String(Arc::new(other.type_of().to_string())),
    };
    Cel::String(Arc::new(name.to_owned()))
}
