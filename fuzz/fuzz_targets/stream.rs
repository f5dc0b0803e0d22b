//! What clients and runtimes send on streams; the first byte says which of them.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use node_agent::stream::remote_command::{Channels, begin};
use node_agent::stream::{Down, Up, websocket};

fuzz_target!(|data: &[u8]| {
    let Some((who, bytes)) = data.split_first() else { return };
    let channels = Channels { stdin: true, stdout: true, stderr: true, tty: who & 2 != 0 };
    let (mut up, mut down, ..) = begin(channels);
    let (mut input, mut out, mut answer) = (BytesMut::from(bytes), BytesMut::new(), BytesMut::new());
    if who & 1 != 0 {
        let _ = down.bytes(&mut input, &mut out, &mut answer);
        down.end(&mut out);
        return;
    }
    let mut decoder = websocket::Decoder::default();
    while let Ok(Some(event)) = decoder.next(&mut input) {
        if let websocket::Event::Data { first, bytes, last } = event
            && up.part(first, Bytes::clone(&bytes), last, &mut out).is_err()
        {
            return;
        }
    }
});
