//! Whole clusters as their users have them: the program that is shipped, `kubectl` and `etcdctl`.

mod bad_input;
mod chaos;
mod charts;
mod clients;
mod cluster;
mod containers;
mod definitions;
mod etcd;
mod failpoints;
mod helm;
mod integrity;
mod kube_rs;
mod kubectl;
mod server;
#[path = "../shared/mod.rs"]
mod shared;
mod simulated;
mod streams;
