//! The server over a store of one member, asked over TLS and in process.

mod agents;
mod apply;
mod audit;
mod cluster;
mod conversion;
mod crud;
mod custom;
mod encryption;
mod fences;
mod flow;
mod formats;
mod hook_server;
mod hooks;
mod kubectl;
mod lists;
mod logs;
mod plugins;
mod pod_security;
mod policies;
mod quotas;
mod replicas;
mod security;
mod services;
mod streams;
mod watches;
