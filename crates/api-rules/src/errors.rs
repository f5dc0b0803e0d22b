//! Field paths without allocation and the collector of field errors that all validation writes to.

use api_types::field::{ErrorType, FieldError};
use serde_json::Value;

/// A path into an object, linked through the stack: text is only made when an error is reported.
#[derive(Clone, Copy)]
pub struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl At<'static> {
    /// A path that starts at a field (or several, dotted); the empty path is the object itself.
    pub const fn root(field: &'static str) -> At<'static> {
        At { parent: None, step: Step::Field(field) }
    }
}

impl<'a> At<'a> {
    /// `path.field`; the field may be dotted.
    pub const fn at(&'a self, field: &'a str) -> At<'a> {
        At { parent: Some(self), step: Step::Field(field) }
    }

    /// `path[index]`.
    pub const fn index(&'a self, index: usize) -> At<'a> {
        At { parent: Some(self), step: Step::Index(index) }
    }

    /// `path[key]`.
    pub const fn key(&'a self, key: &'a str) -> At<'a> {
        At { parent: Some(self), step: Step::Key(key) }
    }
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut inside = false;
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
            inside = !parent.is_empty();
        }
        match self.step {
            Step::Field(name) if inside && !name.is_empty() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl At<'_> {
    fn is_empty(&self) -> bool {
        matches!(self.step, Step::Field("")) && self.parent.is_none_or(At::is_empty)
    }
}

/// Collects the errors of one object.
///
/// Upstream checks an object twice, by code and by rules that are declared at its types, and tells what the code found
/// first ([`Errors::declared`] keeps the second part).
#[derive(Debug, Default)]
pub struct Errors {
    written: Vec<FieldError>,
    declared: Vec<FieldError>,
}

impl Errors {
    /// No errors yet.
    pub fn new() -> Errors {
        Errors::default()
    }

    /// The errors in the order found.
    pub fn done(mut self) -> Vec<FieldError> {
        self.written.append(&mut self.declared);
        self.written
    }

    /// What `check` finds is told behind everything that was found otherwise, however early it is found.
    pub fn declared(&mut self, check: impl FnOnce(&mut Errors)) {
        let mut found = Errors::new();
        check(&mut found);
        self.declared.append(&mut found.done());
    }

    /// What the other one found by declared rules moves here.
    pub fn take_declared(&mut self, other: &mut Errors) {
        self.declared.append(&mut other.declared);
    }

    fn push(&mut self, ty: ErrorType, at: At<'_>, bad_value: Value, detail: impl Into<String>) {
        let path = at.to_string();
        let field = if path.is_empty() { "<nil>".to_owned() } else { path };
        self.written.push(FieldError { field, ty, bad_value, detail: detail.into(), origin: "" });
    }

    /// A value is missing.
    pub fn required(&mut self, at: At<'_>, detail: impl Into<String>) {
        self.push(ErrorType::Required, at, Value::Null, detail);
    }

    /// A value is malformed.
    pub fn invalid(&mut self, at: At<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(ErrorType::Invalid, at, value.into(), detail);
    }

    /// The messages of a format check, each as one error.
    pub fn format(&mut self, at: At<'_>, value: &str, problems: Vec<String>) {
        for problem in problems {
            self.invalid(at, value, problem);
        }
    }

    /// A field may not be set, or not be changed in this way.
    pub fn forbidden(&mut self, at: At<'_>, detail: impl Into<String>) {
        self.push(ErrorType::Forbidden, at, Value::Null, detail);
    }

    /// A value is not one of the known ones (given sorted, as upstream prints them).
    pub fn not_supported(&mut self, at: At<'_>, value: impl Into<Value>, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|s| api_types::field::quote(s)).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        self.push(ErrorType::NotSupported, at, value.into(), detail);
    }

    /// A value that must be unique occurs twice.
    pub fn duplicate(&mut self, at: At<'_>, value: impl Into<Value>) {
        self.push(ErrorType::Duplicate, at, value.into(), "");
    }

    /// A text or the total of a map is longer than `max` bytes.
    pub fn too_long(&mut self, at: At<'_>, max: usize) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        self.push(
            ErrorType::TooLong,
            at,
            Value::from("<value omitted>"),
            format!("may not be more than {max} {unit}"),
        );
    }

    /// A text has more than `max` characters.
    pub fn too_many_characters(&mut self, at: At<'_>, max: usize) {
        let omitted = Value::from("<value omitted>");
        self.push(ErrorType::TooLong, at, omitted, format!("may not be more than {max} characters"));
    }

    /// A list has more than `max` elements.
    pub fn too_many(&mut self, at: At<'_>, count: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        self.push(ErrorType::TooMany, at, Value::from(count), format!("must have at most {max} {unit}"));
    }

    /// A reference points nowhere.
    pub fn not_found(&mut self, at: At<'_>, value: &str) {
        self.push(ErrorType::NotFound, at, Value::from(value), "");
    }

    /// The value must be one of `supported` (sorted); empty is an error of its own kind.
    pub fn one_of(&mut self, at: At<'_>, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(at, "");
        } else if !supported.contains(&value) {
            self.not_supported(at, value, supported);
        }
    }

    /// The value, if set, must be one of `supported`.
    pub fn optional_of(&mut self, at: At<'_>, value: &str, supported: &[&str]) {
        if !value.is_empty() && !supported.contains(&value) {
            self.not_supported(at, value, supported);
        }
    }

    /// The integer may not be negative.
    pub fn non_negative(&mut self, at: At<'_>, value: i64) {
        if value < 0 {
            self.invalid(at, value, NON_NEGATIVE);
        }
    }

    /// A value has the wrong type.
    pub fn type_invalid(&mut self, at: At<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(ErrorType::TypeInvalid, at, value.into(), detail);
    }

    /// An error that the server itself is to blame for.
    pub fn internal(&mut self, at: At<'_>, detail: impl Into<String>) {
        self.push(ErrorType::InternalError, at, Value::Null, detail);
    }

    /// A list has fewer than `min` elements.
    pub fn too_few(&mut self, at: At<'_>, count: usize, min: usize) {
        let unit = if min == 1 { "item" } else { "items" };
        self.push(ErrorType::TooFew, at, Value::from(count), format!("must have at least {min} {unit}"));
    }

    /// Adds errors found elsewhere.
    pub fn extend(&mut self, more: Vec<FieldError>) {
        self.written.extend(more);
    }

    /// Adds errors of a value that was looked at on its own and stands at `at`.
    pub fn extend_below(&mut self, at: At<'_>, more: Vec<FieldError>) {
        let at = at.to_string();
        self.written.extend(more.into_iter().map(|error| {
            let field = match error.field.as_str() {
                "<nil>" => at.clone(),
                below if at.is_empty() || below.starts_with('[') => format!("{at}{below}"),
                below => format!("{at}.{below}"),
            };
            FieldError { field, ..error }
        }));
    }

    /// Whether no error was found yet.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.declared.is_empty()
    }

    /// The value may not change once the object exists.
    pub fn immutable(&mut self, at: At<'_>, new: &Value, old: &Value) {
        if !crate::look::same(new, old) {
            self.invalid(at, new.clone(), IMMUTABLE);
        }
    }
}

/// Text for a negative number.
pub const NON_NEGATIVE: &str = "must be greater than or equal to 0";
/// Text for a changed field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_upstream() {
        let root = At::root("spec");
        let containers = root.at("containers");
        let first = containers.index(0);
        let limits = first.at("resources.limits");
        assert_eq!(limits.key("cpu").to_string(), "spec.containers[0].resources.limits[cpu]");
        let nothing = At::root("");
        assert_eq!(nothing.at("data").to_string(), "data");
    }

    #[test]
    fn what_was_looked_at_alone_is_told_where_it_stands() {
        let mut own = Errors::new();
        let root = At::root("");
        own.required(root, "");
        own.required(root.at("a"), "");
        own.required(root.index(1), "");
        let mut errors = Errors::new();
        errors.extend_below(At::root("spec"), own.done());
        let fields: Vec<String> = errors.done().into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["spec", "spec.a", "spec[1]"]);
    }
}
