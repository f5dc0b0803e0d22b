//! Objects of every kind, between protobuf, trees and JSON: what was written once is read, and written again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzz::kubernetes::round_trip(data));
