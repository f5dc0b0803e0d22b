//! A snapshot as a file: its checksum, and what there is to say of it.
#![no_main]

use std::fs::File;

use etcd_files::{check_trailer, status};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("fuzz-etcd-snapshot-{}", std::process::id()));
    std::fs::write(&path, data).expect("a file");
    let file = File::open(&path).expect("the file");
    drop((check_trailer(&file, false), check_trailer(&file, true), status(&file)));
});
