//! What a strategic merge patch needs to know of a field, from the tables of the API.

use api_types::MessageId;
use api_types::schema::Shape;

/// How a field is patched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    /// Lists are merged by key or as sets.
    Merge,
    /// The patch replaces the field.
    Replace,
    /// Nothing is declared: maps merge, lists are replaced.
    Unset,
}

/// A field as a patch sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub strategy: Strategy,
    /// The field that tells the elements of a list apart.
    pub merge_key: Option<&'static str>,
    /// The type of the field or of its elements, `None` when nothing is known of it.
    pub message: Option<MessageId>,
}

/// The field of that JSON name; what is not known merges as plain JSON.
pub(super) fn field(message: Option<MessageId>, name: &str) -> Field {
    let unknown = Field { strategy: Strategy::Unset, merge_key: None, message: None };
    let Some(info) = message.and_then(|m| m.field(name)) else { return unknown };
    let strategy = match info.patch_strategy {
        s if s.split(',').any(|word| word == "merge") => Strategy::Merge,
        s if s.split(',').any(|word| word == "replace") => Strategy::Replace,
        _ => Strategy::Unset,
    };
    let merge_key = (!info.patch_merge_key.is_empty()).then_some(info.patch_merge_key);
    let inner = info.message().filter(|m| m.special.is_none() && info.shape != Shape::Map);
    Field { strategy, merge_key, message: inner }
}
