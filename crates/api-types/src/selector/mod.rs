//! Label and field selectors: text, object form, matching.
//!
//! ```
//! use api_types::selector::LabelSelector;
//! let selector = LabelSelector::parse("app in (web,api),tier!=db,!canary").unwrap();
//! assert!(selector.matches(|key| (key == "app").then_some("web")));
//! assert_eq!(selector.to_string(), "app in (api,web),!canary,tier!=db");
//! ```

mod field;
mod label;
mod names;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement};
pub use names::{is_label_key, is_label_value, label_key_fault};

/// A selector that does not parse; the text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
