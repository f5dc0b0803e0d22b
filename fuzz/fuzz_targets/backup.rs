//! The files of a backup: segments, the records in them, and the manifest.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| backup::fuzz::backup(data));
