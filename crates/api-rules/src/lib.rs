//! What is true of a Kubernetes object whoever asks: defaults, what a client may set, validation, printing, patches.
//!
//! Pure: no store, no HTTP, no clock, no randomness. Objects are [`serde_json::Value`] trees with `apiVersion` and
//! `kind` set, already checked against their schema; time and generated names come in as arguments.
//!
//! [`rules`] gives the rules of a kind. The order in which an API server calls them for a create:
//! `default`, [`meta::fill_system_fields`], [`patch::apply::update`] (ownership), `prepare_create`, `validate`,
//! `warnings`; for an update: `default`, [`patch::apply::update`], `prepare_update` (or `prepare_status_update`),
//! `validate_update` (or `validate_status_update`), `warnings`, [`patch::apply::keep_times`]. A version of a custom
//! resource has [`CustomRules`], made from its definition.
//!
//! Invariants: a rule never fails and never panics, whatever the tree holds: a field of another type reads as its
//! zero value. Defaulting is idempotent. Error texts, field paths and the order of alternatives are upstream's
//! (Kubernetes v1.37).
//!
//! Reading order: [`look`] (reading trees), [`errors`] (paths and the collector), [`Rules`], one file of `kinds`,
//! then [`defaults`], [`strategy`], [`columns`], [`patch`].

pub mod cel;
pub mod columns;
mod cron;
pub mod custom;
pub mod defaults;
pub mod errors;
mod expression;
pub mod fields;
pub mod format;
mod index;
mod kinds;
pub mod look;
pub mod meta;
pub mod patch;
pub mod pod_disruption;
pub mod pod_security;
pub mod qos;
pub mod quota;
mod rules;
pub mod strategy;
mod warnings;

pub use custom::{CREATION_TIMESTAMP, CustomRules, CustomSchema, JsonPath, ScalePaths};
pub use kinds::flow::mandatory_flow_spec;
pub use kinds::pod::{
    is_extended_resource, validate_binding, validate_ephemeral_containers_update, validate_resize,
    validate_tolerations,
};
pub use kinds::pod_certificate as pod_certificates;
pub use kinds::resource as devices;
pub use rules::{Rules, custom_rules, rules, rules_of};
pub use warnings::{Deprecation, deprecation};
