//! Calls of etcd's API as JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| etcd_api::fuzz::gateway(data));
