//! Messages in the bodies of gRPC.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| etcd_api::fuzz::frames(data));
