//! What happens to objects of every kind behind their decoding: defaults, preparation, validation, columns.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzz::kubernetes::rules(data));
