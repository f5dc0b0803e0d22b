//! The agent against a real API server, with simulated containers and with containerd.

mod cluster;
mod containerd;
mod proxy;
mod simulated;
mod streams;
