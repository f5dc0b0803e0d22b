//! The server over a store of one member, asked over TLS and in process.

mod apply;
mod cluster;
mod crud;
mod custom;
mod fences;
mod flow;
mod formats;
mod kubectl;
mod lists;
mod logs;
mod pod_security;
mod quotas;
mod replicas;
mod security;
mod services;
mod watches;
