#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mvcc::Command;

fuzz_target!(|data: &[u8]| {
    if let Ok(command) = Command::decode(Bytes::copy_from_slice(data)) {
        assert_eq!(Command::decode(command.encode()), Ok(command));
    }
});
