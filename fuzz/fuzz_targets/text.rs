//! Texts in queries and fields: selectors, quantities, times, durations.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzz::kubernetes::text(data));
