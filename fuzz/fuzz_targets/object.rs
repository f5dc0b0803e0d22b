#![no_main]

use api_types::codec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    drop(codec::from_envelope(data));
    drop(codec::from_stored(data, 1));
    drop(codec::stored_to_json(data, &mut Vec::new(), 1));
    drop(codec::stored_to_proto(data, &mut Vec::new(), 1));
    if let Ok(peek) = codec::peek::open(data) {
        drop((peek.labels(), peek.finalizers(), peek.owner_references(), peek.deletion_timestamp()));
    }
    drop(codec::decode_json(data));
    drop(codec::decode_yaml(data));
});
