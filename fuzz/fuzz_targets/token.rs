//! Signed tokens of etcd's API.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| etcd_api::fuzz::token(data));
