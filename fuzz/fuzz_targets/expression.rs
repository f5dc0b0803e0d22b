//! Expressions: rules in CEL, over an object, and paths into objects.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: fuzz::forgive_others(), |data: &[u8]| fuzz::kubernetes::expression(data));
