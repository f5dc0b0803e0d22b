//! What comes on streams, however it is cut and damaged.

use bytes::BytesMut;
use node_agent::stream::remote_command::{Channels, begin};
use node_agent::stream::{Broken, Down as _, Up as _, websocket};
use proptest::prelude::*;

const ALL: Channels = Channels { stdin: true, stdout: true, stderr: true, tty: true };

/// A file of the fuzz targets' corpus, without the byte that says whose it is.
fn corpus(name: &str) -> Vec<u8> {
    let path = format!("{}/../../fuzz/corpus/stream/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("a corpus").split_off(1)
}

/// What a client's bytes become for the runtime, up to where they break the protocol.
fn up(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<Broken>) {
    let (mut up, ..) = begin(ALL);
    let (mut decoder, mut input, mut out) = (websocket::Decoder::default(), BytesMut::new(), BytesMut::new());
    for part in bytes.chunks(piece) {
        input.extend_from_slice(part);
        loop {
            let done = match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(websocket::Event::Data { first, bytes, last })) => {
                    up.part(first, bytes, last, &mut out)
                }
                Ok(Some(_)) => Ok(()),
                Err(broken) => Err(broken),
            };
            if let Err(broken) = done {
                return (payload(&out), Some(broken));
            }
        }
    }
    (payload(&out), None)
}

/// The data frames' bytes by stream: how they are cut says nothing.
fn payload(frames: &[u8]) -> Vec<u8> {
    let (mut rest, mut found) = (frames, Vec::new());
    while rest.len() >= 8 {
        let length = u32::from_be_bytes([0, rest[5], rest[6], rest[7]]) as usize;
        found.extend(rest[8..8 + length].iter().map(|byte| byte ^ rest[3]));
        if rest[4] != 0 {
            found.push(rest[3]);
        }
        rest = &rest[8 + length..];
    }
    found
}

/// Whether a runtime's bytes end the command, and how many bytes they become.
fn down(bytes: &[u8], piece: usize) -> (Result<bool, Broken>, usize) {
    let (_, mut down, ..) = begin(ALL);
    let (mut input, mut client, mut runtime) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    for part in bytes.chunks(piece) {
        input.extend_from_slice(part);
        match down.bytes(&mut input, &mut client, &mut runtime) {
            Ok(false) => {}
            over => return (over, client.len()),
        }
    }
    (Ok(false), client.len())
}

#[test]
fn the_fuzz_corpus_is_decoded() {
    let (said, broken) = up(&corpus("client"), usize::MAX);
    assert_eq!(broken, None);
    assert!(said.starts_with(&b"hello\n".map(|byte| byte ^ 3)), "{said:?}");
    assert_eq!(down(&corpus("runtime"), usize::MAX).0, Ok(true));
}

proptest! {
    #[test]
    fn pieces_and_damage_are_no_matter(at in any::<prop::sample::Index>(), byte in any::<u8>(), piece in 1_usize..40) {
        for name in ["client", "runtime"] {
            let mut bytes = corpus(name);
            let place = at.index(bytes.len());
            bytes[place] = byte;
            let (whole, pieces) = (up(&bytes, usize::MAX), up(&bytes, piece));
            prop_assert_eq!(whole, pieces);
            let (whole, pieces) = (down(&bytes, usize::MAX), down(&bytes, piece));
            prop_assert_eq!(whole.0, pieces.0);
            prop_assert!(pieces.1 <= 20 * bytes.len() + 64);
        }
    }
}
