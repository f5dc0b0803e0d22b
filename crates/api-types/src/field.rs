//! Field paths and field errors (`k8s.io/apimachinery/pkg/util/validation/field`), in upstream's words.
//!
//! ```
//! use api_types::field::{FieldError, Path};
//! let path = Path::new("spec").child("containers").index(0).child("name");
//! assert_eq!(FieldError::required(&path, "").to_string(), "spec.containers[0].name: Required value");
//! ```

use serde_json::Value;
use std::fmt;

/// A path into an object: `spec.containers[0].env[1].name`, `metadata.labels[a/b]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The path of the whole object; its first child has no leading dot.
    pub fn root() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("<nil>") } else { f.write_str(&self.0) }
    }
}

/// The kind of a field error: `FieldValue…` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooShort,
    TooMany,
    TooFew,
    InternalError,
    TypeInvalid,
}

impl ErrorType {
    /// `causes[].reason` of a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::InternalError => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::InternalError => "Internal error",
        }
    }

    /// Types whose text names no value.
    fn hides_value(self) -> bool {
        matches!(
            self,
            Self::Required | Self::Forbidden | Self::TooLong | Self::TooShort | Self::InternalError
        )
    }
}

/// Stands for a value that the text of an error does not show (upstream: `field.OmitValueType`).
pub const OMITTED: &str = "\0";

/// One fault of an object. Its text is the `causes[].message` (without the field) and part of the Status message.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub field: String,
    pub ty: ErrorType,
    /// Null for types that name no value.
    pub bad_value: Value,
    pub detail: String,
    /// What produced the error in upstream's bookkeeping (`format=…`); not part of the text.
    pub origin: &'static str,
}

impl FieldError {
    pub fn new(path: &Path, ty: ErrorType, bad_value: Value, detail: impl Into<String>) -> Self {
        Self { field: path.to_string(), ty, bad_value, detail: detail.into(), origin: "" }
    }

    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(path, ErrorType::Required, Value::Null, detail)
    }

    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(path, ErrorType::Invalid, value.into(), detail)
    }

    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(path, ErrorType::Forbidden, Value::Null, detail)
    }

    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(path, ErrorType::Duplicate, value.into(), "")
    }

    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(path, ErrorType::NotFound, value.into(), "")
    }

    /// `supported` in the order given.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(path, ErrorType::NotSupported, value.into(), detail)
    }

    /// `max` in bytes.
    pub fn too_long(path: &Path, max: i64) -> Self {
        let detail = match max {
            1 => "may not be more than 1 byte".to_owned(),
            max if max >= 0 => format!("may not be more than {max} bytes"),
            _ => "value is too long".to_owned(),
        };
        Self::new(path, ErrorType::TooLong, Value::from("<value omitted>"), detail)
    }

    /// [`Self::too_long`] with the limit in characters.
    pub fn too_long_characters(path: &Path, max: i64) -> Self {
        let error = Self::too_long(path, max);
        Self { detail: error.detail.replace("byte", "character"), ..error }
    }

    /// `min` in characters.
    pub fn too_short(path: &Path, min: i64) -> Self {
        let plural = if min == 1 { "" } else { "s" };
        let detail = format!("must be at least {min} character{plural}");
        Self::new(path, ErrorType::TooShort, Value::from("<value omitted>"), detail)
    }

    pub fn too_many(path: &Path, found: i64, max: i64) -> Self {
        let detail = match max {
            1 => "must have at most 1 item".to_owned(),
            max if max >= 0 => format!("must have at most {max} items"),
            _ => "has too many items".to_owned(),
        };
        Self::new(path, ErrorType::TooMany, Value::from(found), detail)
    }

    pub fn too_few(path: &Path, found: i64, min: i64) -> Self {
        let detail = match min {
            1 => "must have at least 1 item".to_owned(),
            min if min >= 0 => format!("must have at least {min} items"),
            _ => "has too few items".to_owned(),
        };
        Self::new(path, ErrorType::TooFew, Value::from(found), detail)
    }

    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(path, ErrorType::InternalError, Value::Null, detail)
    }

    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(path, ErrorType::TypeInvalid, value.into(), detail)
    }

    #[must_use]
    pub fn with_origin(mut self, origin: &'static str) -> Self {
        self.origin = origin;
        self
    }

    /// The text without the field: `Invalid value: "x": must be …`.
    pub fn body(&self) -> String {
        let mut text = self.ty.text().to_owned();
        if !self.ty.hides_value() && self.bad_value != OMITTED {
            text.push_str(": ");
            text.push_str(&value_text(&self.bad_value));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

/// Strings as Go's `%q`, numbers and booleans plain, others as JSON.
fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

/// Go's `%q` for a string: double quotes, Go escapes, printable characters as they are.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Several errors as upstream's aggregate prints them: one alone, more as `[a, b]`, the same text once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let path = Path::new("spec").child("type");
        for (error, text) in [
            (FieldError::required(&path, "why"), "spec.type: Required value: why"),
            (FieldError::invalid(&path, "a\"b", "no"), "spec.type: Invalid value: \"a\\\"b\": no"),
            (FieldError::invalid(&path, -1, "no"), "spec.type: Invalid value: -1: no"),
            (FieldError::forbidden(&path, "no"), "spec.type: Forbidden: no"),
            (FieldError::duplicate(&path, "x"), "spec.type: Duplicate value: \"x\""),
            (
                FieldError::not_supported(&path, "x", &["A", "B"]),
                "spec.type: Unsupported value: \"x\": supported values: \"A\", \"B\"",
            ),
            (FieldError::too_long(&path, 63), "spec.type: Too long: may not be more than 63 bytes"),
            (FieldError::too_many(&path, 3, 2), "spec.type: Too many: 3: must have at most 2 items"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn aggregates_drop_repeats() {
        let one = FieldError::required(&Path::new("a"), "");
        let two = FieldError::required(&Path::new("b"), "");
        assert_eq!(aggregate(&[one.clone(), one.clone()]), "a: Required value");
        assert_eq!(aggregate(&[one, two]), "[a: Required value, b: Required value]");
    }
}
