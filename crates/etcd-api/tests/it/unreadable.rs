//! Messages that are none of their call's: each is answered with grpc-go's words, and nothing else ends.

use std::net::SocketAddr;

use futures::StreamExt as _;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::{DEADLINE, connect, next, start};

/// Messages as they are.
#[derive(Clone, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; bytes::Buf::remaining(buffer)];
        bytes::Buf::copy_to_slice(buffer, &mut item);
        Ok(Some(item))
    }
}

/// A connection.
pub async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("connect")
}

/// What a call of some messages ends with; the client says no more, and does not end.
async fn ends(channel: &Channel, path: &str, messages: &[&[u8]]) -> Status {
    let (ask, requests) = tokio::sync::mpsc::channel(messages.len());
    for message in messages {
        ask.try_send(message.to_vec()).expect("room");
    }
    let mut grpc = Grpc::new(channel.clone());
    let path = path.parse().expect("a path");
    let asked = async {
        grpc.ready().await.expect("ready");
        let answers = grpc.streaming(Request::new(ReceiverStream::new(requests)), path, Bytes).await;
        let mut answers = match answers {
            Ok(answers) => answers.into_inner(),
            Err(status) => return status,
        };
        loop {
            match answers.next().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => return status,
                None => return Status::ok("it ended well"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, asked).await.expect("an end in time")
}

/// Every method of the API.
pub fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(protos::ETCD_DESCRIPTORS).expect("descriptors");
    pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_answered_so_in_every_call() {
    let server = start().await;
    connect(&server).await;
    let channel = channel(server.address).await;
    let methods = methods();
    assert!(methods.len() > 40, "{}", methods.len());
    for method in methods {
        unreadable(&method, &asked(&channel, &method, &[0xff; 8]).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_as_large_as_they_may_be_and_no_larger_in_every_call() {
    const MAX: usize = 2 << 20;
    let server = start().await;
    connect(&server).await;
    let channel = channel(server.address).await;
    for method in methods() {
        unreadable(&method, &asked(&channel, &method, &vec![0xff; MAX]).await);
        let status = asked(&channel, &method, &vec![0xff; MAX + 1]).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{}: {status}", method.full_name());
        let text = "grpc: received message larger than max (2097153 vs. 2097152)";
        assert_eq!(status.message(), text, "{}", method.full_name());
    }
    connect(&server).await.put("k", "v", None).await.expect("others are served");
}

/// That a call was told that its message cannot be read.
pub fn unreadable(method: &MethodDescriptor, status: &Status) {
    let words = match method.is_client_streaming() || method.is_server_streaming() {
        false => "grpc: error unmarshalling request: proto: ",
        true => "grpc: failed to unmarshal the received message: proto: ",
    };
    assert_eq!(status.code(), Code::Internal, "{}: {status}", method.full_name());
    assert!(status.message().starts_with(words), "{}: {status}", method.full_name());
}

/// What a call of one message ends with.
async fn asked(channel: &Channel, method: &MethodDescriptor, message: &[u8]) -> Status {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    if method.is_client_streaming() {
        return ends(channel, &path, &[message]).await;
    }
    // Go waits for nothing behind the message; this server for the client's end.
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("ready");
    let path = path.parse().expect("a path");
    let mut answers = match grpc.server_streaming(Request::new(message.to_vec()), path, Bytes).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    match answers.next().await {
        Some(Err(status)) => status,
        other => panic!("{}: {other:?}", method.full_name()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_streams_of_its_connection_go_on() {
    let server = start().await;
    let mut client = connect(&server).await;
    let mut watch = client.watch("k", None).await.expect("watch");
    assert!(next(&mut watch).await.created());
    let channel = channel(server.address).await;
    // A watch of `k`, and then nonsense: what came before is answered first.
    let create: &[u8] = &[0x0a, 3, 0x0a, 1, b'k'];
    let (ask, requests) = tokio::sync::mpsc::channel(4);
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("ready");
    ask.send(create.to_vec()).await.expect("open");
    let path = "/etcdserverpb.Watch/Watch".parse().expect("a path");
    let answers = grpc.streaming(Request::new(ReceiverStream::new(requests)), path, Bytes).await;
    let mut other = answers.expect("a stream").into_inner();
    other.next().await.expect("open").expect("it is created");
    let status = ends(&channel, "/etcdserverpb.Watch/Watch", &[create, &[0xff; 8]]).await;
    assert_eq!(status.code(), Code::Internal, "{status}");
    let keep_alive: &[u8] = &[8, 7];
    let status = ends(&channel, "/etcdserverpb.Lease/LeaseKeepAlive", &[keep_alive, &[0xff; 8]]).await;
    assert_eq!(status.code(), Code::Internal, "{status}");
    client.put("k", "v", None).await.expect("put");
    assert_eq!(next(&mut watch).await.events().len(), 1);
    other.next().await.expect("open").expect("an event");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_none_of_is_named() {
    let server = start().await;
    connect(&server).await;
    let channel = channel(server.address).await;
    for (path, text) in [
        ("/etcdserverpb.KV/Nothing", "unknown method Nothing for service etcdserverpb.KV"),
        ("/etcdserverpb.Watch/Nothing", "unknown method Nothing for service etcdserverpb.Watch"),
        ("/v3lockpb.Lock/Nothing", "unknown method Nothing for service v3lockpb.Lock"),
        ("/grpc.health.v1.Health/Nothing", "unknown method Nothing for service grpc.health.v1.Health"),
        ("/nothing.Nothing/Nothing", "unknown service nothing.Nothing"),
        ("/a/b/c", "unknown service a/b"),
        ("/nothing", "malformed method name: \"/nothing\""),
    ] {
        let status = ends(&channel, path, &[b""]).await;
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, text), "{path}");
    }
}
