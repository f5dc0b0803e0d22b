//! Requests that come compressed, as Go's and other clients send them when they are told to.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use protos::etcd::etcdserverpb as pb;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use crate::unreadable::{channel, methods, unreadable};
use crate::{Server, connect, eventually, start, start_with};

/// Bytes that a message may have where nobody says otherwise.
const MAX: usize = 2 << 20;

/// Bytes, compressed.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("written");
    encoder.finish().expect("the end")
}

/// A message as it is sent, compressed or not.
pub fn framed(compressed: bool, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
    [&[u8::from(compressed)][..], &length, bytes].concat()
}

/// What a call is answered: the body, and how it ended.
pub async fn call(channel: &Channel, path: &str, encoding: &str, body: Vec<u8>) -> (Vec<u8>, Status) {
    let request = http::Request::post(format!("http://h{path}"))
        .header("content-type", "application/grpc")
        .header("grpc-encoding", encoding)
        .body(Body::new(Full::from(body)))
        .expect("a request");
    let response = channel.clone().oneshot(request).await.expect("answered");
    if let Some(status) = Status::from_header_map(response.headers()) {
        return (Vec::new(), status);
    }
    let whole = response.into_body().collect().await.expect("a body");
    let status = whole.trailers().and_then(Status::from_header_map).expect("trailers");
    (whole.to_bytes().to_vec(), status)
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_are_read_in_every_call() {
    let server = start().await;
    let mut client = connect(&server).await;
    let channel = channel(server.address).await;
    for method in methods() {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        // Nonsense: that it is told to be so shows that it was read.
        let (_, status) = call(&channel, &path, "gzip", framed(true, &gzip(&[0xff; 8]))).await;
        unreadable(&method, &status);
    }
    let put = pb::PutRequest { key: "k".into(), value: vec![b'v'; 100_000].into(), ..Default::default() };
    let put = put.encode_to_vec();
    // Two members of gzip are one message.
    for message in [framed(true, &gzip(&put)), framed(true, &[gzip(&put[..9]), gzip(&put[9..])].concat())] {
        let (_, status) = call(&channel, "/etcdserverpb.KV/Put", "gzip", message).await;
        assert_eq!(status.code(), Code::Ok, "{status}");
    }
    let plain = pb::PutRequest { key: "p".into(), ..Default::default() }.encode_to_vec();
    let (_, status) = call(&channel, "/etcdserverpb.KV/Put", "gzip", framed(false, &plain)).await;
    assert_eq!(status.code(), Code::Ok, "not every message is compressed: {status}");
    let found = client.get("k", None).await.expect("get");
    assert_eq!((found.kvs()[0].value().len(), found.kvs()[0].version()), (100_000, 2));
    // Several messages of a stream, some compressed.
    let renew = pb::LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
    let stream = [framed(true, &gzip(&renew)), framed(false, &renew), framed(true, &gzip(&renew))].concat();
    let (answers, status) = call(&channel, "/etcdserverpb.Lease/LeaseKeepAlive", "gzip", stream).await;
    assert_eq!(status.code(), Code::Ok, "{status}");
    let answer = 5 + u32::from_be_bytes(answers[1..5].try_into().expect("a length")) as usize;
    assert_eq!(answers.len(), 3 * answer, "an answer each");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compressed_may_become_as_large_as_any_other_message() {
    let server = start().await;
    connect(&server).await;
    let channel = channel(server.address).await;
    for method in methods() {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let (_, status) = call(&channel, &path, "gzip", framed(true, &gzip(&vec![0xff; MAX]))).await;
        unreadable(&method, &status);
        let (_, status) = call(&channel, &path, "gzip", framed(true, &gzip(&vec![0xff; MAX + 1]))).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{path}: {status}");
        assert_eq!(status.message(), "grpc: received message after decompression larger than max 2097152");
    }
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compressed_is_counted_as_what_it_becomes() {
    let server = start_with(|api| api.client_memory_bytes = 2 << 20).await;
    connect(&server).await;
    let channel = channel(server.address).await;
    let put = |bytes: usize| {
        let put = pb::PutRequest { key: "k".into(), value: vec![b'v'; bytes].into(), ..Default::default() };
        framed(true, &gzip(&put.encode_to_vec()))
    };
    let (_, status) = call(&channel, "/etcdserverpb.KV/Put", "gzip", put(1_200_000)).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().starts_with("etcdserver: too many requests: this takes "), "{status}");
    let (_, status) = call(&channel, "/etcdserverpb.KV/Put", "gzip", put(400_000)).await;
    assert_eq!(status.code(), Code::Ok, "{status}");
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_inflated_is_told_so() {
    let server = start().await;
    connect(&server).await;
    let channel = channel(server.address).await;
    let put = pb::PutRequest { key: "k".into(), ..Default::default() }.encode_to_vec();
    let whole = gzip(&put);
    let mut wrong = whole.clone();
    *wrong.last_mut().expect("a byte") ^= 1;
    for bytes in [&b"no gzip at all"[..], &whole[..whole.len() - 1], &wrong, b""] {
        for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch"] {
            let (_, status) = call(&channel, path, "gzip", framed(true, bytes)).await;
            assert_eq!(status.code(), Code::Internal, "{path}: {bytes:?}: {status}");
            assert!(status.message().starts_with("grpc: failed to decompress the message: "), "{status}");
        }
    }
    for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch"] {
        let (_, status) = call(&channel, path, "snappy", framed(true, &put)).await;
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        let text = "grpc: Decompressor is not installed for grpc-encoding \"snappy\"";
        assert_eq!(status.message(), text, "{path}");
        let (_, status) = call(&channel, path, "identity", framed(true, &put)).await;
        assert_eq!(status.code(), Code::Internal, "{status}");
        let text = "grpc: compressed flag set with identity or empty encoding";
        assert_eq!(status.message(), text, "{path}");
    }
    assert_eq!(server_keys(&server).await, 0);
}

async fn server_keys(server: &Server) -> i64 {
    let all = etcd_client::GetOptions::new().with_all_keys().with_count_only();
    connect(server).await.get("", Some(all)).await.expect("get").count()
}
