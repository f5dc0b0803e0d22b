//! Patches of every sort, of objects of every kind.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzz::kubernetes::patch(data));
