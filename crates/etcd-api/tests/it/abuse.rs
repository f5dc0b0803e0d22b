//! Clients that do what clients do not: their connection ends, or what they ask, and others are served.

use std::time::Duration;

use etcd_client::Client;

use crate::raw::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Raw, SETTINGS,
    WINDOW_UPDATE, frame, headers, message,
};
use crate::{Server, connect, eventually, start, start_with};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// Reasons of ends (RFC 9113, section 7).
const PROTOCOL_ERROR: u32 = 1;
/// What a frame that is malformed may be called: of the protocol, of the stream, of its size, of the compression.
const CODES: [u32; 4] = [PROTOCOL_ERROR, 5, 6, 9];
const ENHANCE_YOUR_CALM: u32 = 11;

async fn raw(server: &Server) -> Raw {
    Raw::connect(server.address, [127, 0, 0, 2]).await
}

/// A range of one key.
fn key(name: &[u8]) -> Vec<u8> {
    [&[0x0a, u8::try_from(name.len()).expect("short")], name].concat()
}

async fn is_served(client: &mut Client) {
    client.put("still", "served", None).await.expect("others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pings_too_often_without_a_call_is_sent_away() {
    let server = start().await;
    let mut client = connect(&server).await;
    let mut raw = raw(&server).await;
    for number in 0..3 {
        raw.send(&frame(PING, 0, 0, &[number; 8])).await;
        let answer = raw.next_of(PING).await.expect("an answer");
        assert_eq!((answer.flags, answer.payload), (ACK, vec![number; 8]));
    }
    raw.send(&frame(PING, 0, 0, &[9; 8])).await;
    assert_eq!(raw.farewell().await, Some((ENHANCE_YOUR_CALM, "too_many_pings".to_owned())));
    // It goes on, and is not heard.
    for _ in 0..1000 {
        raw.send(&frame(PING, 0, 0, &[9; 8])).await;
    }
    assert!(raw.next().await.is_none(), "the connection ends");
    is_served(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_call_open_may_ping_as_often_as_is_allowed() {
    for (every, allowed) in [(Duration::from_nanos(1), true), (Duration::from_secs(3600), false)] {
        let server = start_with(|api| api.keep_alive_min = every).await;
        let mut client = connect(&server).await;
        let mut raw = raw(&server).await;
        raw.send(&frame(HEADERS, END_HEADERS, 1, &headers(WATCH))).await;
        raw.send(&frame(DATA, 0, 1, &message(&[0x0a, 3, 0x0a, 1, b'k']))).await;
        // Said, so that there is nothing more to be said.
        raw.next_of(DATA).await.expect("the watch is there");
        let mut answered = 0;
        for _ in 0..20 {
            raw.send(&frame(PING, 0, 0, &[0; 8])).await;
            answered += u32::from(raw.next_of(PING).await.is_some());
        }
        assert_eq!(answered == 20, allowed, "{answered} of 20 pings, one every {every:?}");
        is_served(&mut client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_answered_may_ping_each_time() {
    let server = start().await;
    connect(&server).await;
    let mut raw = raw(&server).await;
    for number in 0..10 {
        let stream = 2 * number + 1;
        raw.call(stream, RANGE, &key(b"k")).await;
        assert!(raw.ended(stream).await);
        raw.send(&frame(PING, 0, 0, &[0; 8])).await;
        raw.next_of(PING).await.expect("an answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_that_want_an_answer_keep_nobody_from_being_served() {
    let server = start().await;
    let mut client = connect(&server).await;
    let mut raw = raw(&server).await;
    let flood = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(1000);
    // Nothing is read: sooner or later nothing more is taken.
    let flooding = async {
        for _ in 0..1000 {
            raw.send(&flood).await;
        }
    };
    let flooded = tokio::time::timeout(Duration::from_secs(2), flooding).await;
    is_served(&mut client).await;
    drop((flooded, raw));
    is_served(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_taken_back_at_once_hold_nothing() {
    let server = start().await;
    let mut client = connect(&server).await;
    let mut raw = raw(&server).await;
    let mut stream = 1;
    let mut open = true;
    for _ in 0..200 {
        let mut burst = Vec::new();
        for _ in 0..100 {
            burst.extend(frame(HEADERS, END_HEADERS, stream, &headers(PUT)));
            burst.extend(frame(
                DATA,
                END_STREAM,
                stream,
                &message(&[&key(b"k")[..], &[0x12, 1, b'v']].concat()),
            ));
            burst.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            stream += 2;
        }
        open = open && raw.try_send(&burst).await;
    }
    is_served(&mut client).await;
    drop(raw);
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_end_the_connection() {
    let server = start().await;
    let mut client = connect(&server).await;
    let mut raw = raw(&server).await;
    raw.send(&frame(HEADERS, 0, 1, &headers(RANGE))).await;
    for _ in 0..2000 {
        raw.send(&frame(CONTINUATION, 0, 1, &[0x00, 0x01, b'a', 0x01, b'b'].repeat(20))).await;
    }
    let said = raw.farewell().await;
    assert!(said.is_none_or(|(code, _)| code == ENHANCE_YOUR_CALM || code == PROTOCOL_ERROR));
    is_served(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_grow_when_they_are_read_are_refused() {
    let server = start().await;
    let mut client = connect(&server).await;
    let mut raw = raw(&server).await;
    // One header of 3,000 bytes is put into the table, and is named a thousand times: a few bytes become three million.
    let name = [&[0x40, 1, b'a', 0x7f, 0xb9, 0x16][..], &[b'v'; 3000]].concat();
    let bomb = [headers(RANGE), name, vec![0xbe; 1000]].concat();
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await;
    if raw.ended(1).await {
        raw.call(3, RANGE, &key(b"k")).await;
        assert!(raw.ended(3).await, "the connection goes on");
    }
    is_served(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames_end_the_connection_with_the_reason() {
    let server = start().await;
    let mut client = connect(&server).await;
    let path = headers(RANGE);
    let malformed: [(&str, Vec<u8>); 9] = [
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8])),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("data without a stream", frame(DATA, 0, 0, b"x")),
        ("data on a stream that is not there", frame(DATA, 0, 7, b"x")),
        ("a stream of the server's", frame(HEADERS, END_HEADERS, 2, &path)),
        ("a window of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("headers of nonsense", frame(HEADERS, END_HEADERS, 1, &[0xff; 40])),
        ("a frame that is too large", frame(DATA, 0, 1, &vec![0; 20_000])),
    ];
    for (what, bytes) in malformed {
        let mut raw = raw(&server).await;
        raw.send(&bytes).await;
        let said = raw.farewell().await.map(|(code, _)| code);
        assert!(said.is_some_and(|code| CODES.contains(&code)), "{what}: {said:?}");
    }
    is_served(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_end_their_call_alone() {
    let server = start().await;
    let mut client = connect(&server).await;
    let mut raw = raw(&server).await;
    let paths = [RANGE, PUT, WATCH, "/etcdserverpb.KV/Txn", "/etcdserverpb.Lease/LeaseKeepAlive"];
    let bodies: [Vec<u8>; 5] = [
        // Nonsense, a field that is longer than the message, a message that is shorter than it says, one that says that it
        // is compressed, and no message.
        message(&[0xff; 64]),
        message(&[0x0a, 0x7f, b'k']),
        [&[0, 0, 0, 1, 0][..], b"short"].concat(),
        [&[1, 0, 0, 0, 3][..], b"abc"].concat(),
        Vec::new(),
    ];
    let mut stream = 1;
    for path in paths {
        // Who says nothing of what is to be watched may say it later.
        let bodies = bodies.iter().filter(|body| path != WATCH || !body.is_empty());
        for body in bodies {
            raw.send(&frame(HEADERS, END_HEADERS, stream, &headers(path))).await;
            raw.send(&frame(DATA, END_STREAM, stream, body)).await;
            assert!(raw.ended(stream).await, "{path}: {body:?}");
            stream += 2;
        }
    }
    raw.call(stream, RANGE, &key(b"k")).await;
    assert!(raw.ended(stream).await, "the connection goes on");
    is_served(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_say_what_it_speaks_does_not_stay() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = start_with(|api| api.hello_timeout = Duration::from_millis(100)).await;
    let mut client = connect(&server).await;
    let mut quiet = raw(&server).await;
    for said in ["", "PRI * HT"] {
        let mut socket = tokio::net::TcpStream::connect(server.address).await.expect("connected");
        socket.write_all(said.as_bytes()).await.expect("sent");
        let mut heard = Vec::new();
        let ended = tokio::time::timeout(crate::DEADLINE, socket.read_to_end(&mut heard)).await;
        assert!(ended.is_ok(), "{said:?}: the connection stays");
    }
    is_served(&mut client).await;
    quiet.send(&frame(PING, 0, 0, &[7; 8])).await;
    assert!(quiet.next_of(PING).await.is_some(), "who has said hello stays");
}
