//! Kubernetes API objects as data: no storage, no HTTP, no clock.
//!
//! An object is a [`serde_json::Value`]; what is known about its kind stands in generated tables.
//!
//! * [`table`]: every built-in resource (names, scope, verbs, storage key, subresources, message) and the groups.
//! * [`schema`]: every message and field (type, required, enum, list type, merge key), strict checks.
//! * [`codec`]: JSON, YAML and protobuf; the stored form; cheap reads of stored bytes ([`codec::peek`]).
//! * [`openapi`]: OpenAPI v3 documents from the same tables.
//! * [`definition`]: what a CustomResourceDefinition says of its kinds.
//! * [`condition`]: conditions of a status.
//! * [`meta`], [`selector`], [`quantity`], [`taint`], [`time`]: questions about data.
//! * [`status`], [`field`]: the API's errors in upstream's words.
//!
//! ```
//! use api_types::{codec, meta, table};
//!
//! let pods = table::find("", "v1", "pods").unwrap();
//! assert_eq!(pods.kind, "Pod");
//! let pod = codec::decode_json(br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#).unwrap().value;
//! assert_eq!(meta::name(&pod), "a");
//! let stored = codec::to_stored(pods.built_in_message(), "v1", "Pod", &pod).unwrap();
//! let mut json = Vec::new();
//! codec::stored_to_json(&stored, &mut json, 7).unwrap();
//! assert!(json.starts_with(br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"7"}"#));
//! ```
//!
//! Invariants: the JSON written is what Go's encoder writes for the upstream types (order of fields, omitted
//! zero values, escapes); the protobuf written is byte for byte what upstream stores; `metadata.resourceVersion`
//! is never stored, it is filled in on the way out.
//!
//! Reading order: [`schema`], [`table`], [`codec`], then any of the small ones.

/// The release of Kubernetes that this project speaks.
pub const RELEASE: &str = "v1.37.2";

pub mod codec;
pub mod condition;
pub mod definition;
pub mod field;
#[rustfmt::skip]
mod generated;
pub mod meta;
pub mod openapi;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod taint;
pub mod text;
pub mod time;

pub use schema::MessageId;
pub use serde_json::Value;
pub use table::{Resource, ResourceRef, Subresource};
pub use text::{List, Text};
