//! What an entry of etcd's log says, and the name of a version in its database.
#![no_main]

use etcd_files::{InternalRequest, VersionKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    drop(InternalRequest::read(data));
    let _ = VersionKey::decode(data);
});
