//! Definitions of custom kinds, and objects of theirs.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: fuzz::forgive_others(), |data: &[u8]| fuzz::kubernetes::custom(data));
