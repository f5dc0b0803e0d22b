//! What a proxy with a namespace passes on.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| etcd_api::fuzz::namespace(data));
