//! The server over a store of one member, asked over TLS and in process.

mod agents;
mod aggregation;
mod apply;
mod attacks;
mod audit;
mod bad_connections;
mod bad_input;
mod cluster;
mod conversion;
mod counted;
mod crud;
mod custom;
mod deciders;
mod drain;
mod encryption;
mod fences;
mod flow;
mod formats;
mod front_proxies;
mod golden;
mod health;
mod hook_server;
mod hooks;
mod kms_plugin;
mod kubectl;
mod lists;
mod logs;
mod odd_requests;
mod optional_plugins;
mod other_server;
mod plugins;
mod pod_security;
mod policies;
mod quotas;
#[allow(dead_code, reason = "the tests of the etcd API, whose it is, use more of it")]
#[path = "../../../etcd-api/tests/it/raw.rs"]
mod raw;
mod replicas;
mod reviewer;
mod rights;
mod rotation;
mod security;
mod services;
mod streams;
mod tokens;
mod watches;
