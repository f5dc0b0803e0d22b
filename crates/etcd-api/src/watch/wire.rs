//! Answers of a watch as bytes: events are encoded once for all who watch, and an answer is put together from shared
//! pieces.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt as _};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use protos::etcd::etcdserverpb as pb;
use store::SharedEvent;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Body, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, WatchService};
use crate::convert;

/// Where events stand in an answer: field 11, of bytes.
const EVENTS: u8 = 11 << 3 | 2;

/// Events of an answer, encoded.
#[derive(Clone, Default)]
pub(super) struct Events {
    bytes: Bytes,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Events {
    /// Puts events together, with the previous keys or without.
    pub fn of<'a>(events: impl Iterator<Item = &'a Arc<SharedEvent>>, with_prev: bool) -> Self {
        let pieces: Vec<&Bytes> =
            events.map(|event| event.form(usize::from(with_prev), |event| field(event, with_prev))).collect();
        let mut end = 0;
        let ends = pieces.iter().map(|piece| {
            end += piece.len();
            end
        });
        let ends = ends.collect();
        let bytes = match pieces.as_slice() {
            [one] => (*one).clone(),
            many => {
                let mut bytes = BytesMut::with_capacity(end);
                many.iter().for_each(|piece| bytes.extend_from_slice(piece));
                bytes.freeze()
            }
        };
        Self { bytes, ends }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One answer with all of them.
    pub fn answer(&self, head: pb::WatchResponse) -> Answer {
        Answer { head, events: self.bytes.clone() }
    }

    /// More than one if that would be larger than `max`; all but the last say so.
    pub fn answers(&self, head: pb::WatchResponse, max: usize) -> impl Iterator<Item = Answer> + use<> {
        let size = head.encoded_len();
        let mut parts = match size + self.bytes.len() > max {
            // A part says that it is one, in two bytes.
            true => self.split(size + 2, max),
            false => vec![self.bytes.clone()],
        };
        let last = Answer { events: parts.pop().unwrap_or_default(), head: head.clone() };
        let head = pb::WatchResponse { fragment: true, ..head };
        parts
            .into_iter()
            .map(move |events| Answer { head: head.clone(), events })
            .chain(std::iter::once(last))
    }

    /// Parts of which none makes an answer with a head of some bytes larger than `max`, unless it is a single event.
    fn split(&self, head: usize, max: usize) -> Vec<Bytes> {
        let (mut parts, mut start, mut last) = (Vec::new(), 0, 0);
        for &end in &self.ends {
            if head + end - start > max && last > start {
                parts.push(self.bytes.slice(start..last));
                start = last;
            }
            last = end;
        }
        parts.push(self.bytes.slice(start..));
        parts
    }
}

/// An event as a field of an answer.
fn field(event: &mvcc::Event, with_prev: bool) -> Bytes {
    let event = convert::event(event, with_prev);
    let len = event.encoded_len();
    let mut bytes = BytesMut::with_capacity(1 + encoded_len_varint(len as u64) + len);
    bytes.put_u8(EVENTS);
    encode_varint(len as u64, &mut bytes);
    event.encode(&mut bytes).expect("invariant: a BytesMut grows");
    bytes.freeze()
}

/// One answer: a message without events, and those.
pub(crate) struct Answer {
    pub head: pb::WatchResponse,
    pub events: Bytes,
}

impl From<pb::WatchResponse> for Answer {
    fn from(head: pb::WatchResponse) -> Self {
        Self { head, events: Bytes::new() }
    }
}

/// Requests as messages, answers as they are.
#[derive(Clone, Copy, Default)]
struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Answer;
    type Decode = pb::WatchRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for WatchCodec {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, answer: Answer, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(answer.head.encoded_len() + answer.events.len());
        answer.head.encode(out).map_err(|error| Status::internal(error.to_string()))?;
        // Events have the last number of an answer's fields: they may stand behind all others.
        out.put(answer.events);
        Ok(())
    }
}

impl Decoder for WatchCodec {
    type Item = pb::WatchRequest;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<pb::WatchRequest>, Status> {
        pb::WatchRequest::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// The service on the wire. The generated one would encode every answer anew.
#[derive(Clone)]
pub(crate) struct WatchServer(pub WatchService);

impl NamedService for WatchServer {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl StreamingService<pb::WatchRequest> for WatchService {
    type Response = Answer;
    type ResponseStream = Answers;
    type Future = std::future::Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<pb::WatchRequest>>) -> Self::Future {
        std::future::ready(self.watch(request))
    }
}

impl<B> Service<http::Request<B>> for WatchServer
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.0.clone();
        async move {
            if request.uri().path() == "/etcdserverpb.Watch/Watch" {
                return Ok(Grpc::new(WatchCodec).streaming(service, request).await);
            }
            Ok(Status::unimplemented("").into_http())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(sizes: &[usize]) -> Events {
        let mut ends = Vec::new();
        let mut bytes = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            bytes.extend(std::iter::repeat_n(number as u8, *size));
            ends.push(bytes.len());
        }
        Events { bytes: bytes.into(), ends }
    }

    #[test]
    fn what_is_too_large_is_split_between_events_and_every_part_but_the_last_says_so() {
        let head = pb::WatchResponse { watch_id: 7, ..pb::WatchResponse::default() };
        let whole: Vec<_> = events(&[10, 10, 10]).answers(head.clone(), 1000).collect();
        assert_eq!(whole.len(), 1);
        assert!(!whole[0].head.fragment);
        let max = head.encoded_len() + 2 + 20;
        let parts = events(&[10, 10, 50, 10]).answers(head, max);
        let shown: Vec<_> = parts.map(|part| (part.events.len(), part.head.fragment)).collect();
        assert_eq!(shown, [(20, true), (50, true), (10, false)]);
    }

    #[test]
    fn an_answer_is_what_the_message_would_be() {
        let kv = mvcc::KeyValue { key: "k".into(), value: "v".into(), mod_revision: 5, ..Default::default() };
        let event = mvcc::Event {
            kind: mvcc::EventKind::Put,
            kv: kv.clone(),
            prev: Some(Box::new(kv)),
            prev_at: None,
        };
        let head = pb::WatchResponse {
            header: Some(pb::ResponseHeader { revision: 5, ..pb::ResponseHeader::default() }),
            watch_id: 3,
            ..pb::WatchResponse::default()
        };
        for with_prev in [false, true] {
            let mut bytes = head.encode_to_vec();
            bytes.extend(field(&event, with_prev));
            bytes.extend(field(&event, with_prev));
            let message =
                pb::WatchResponse { events: vec![convert::event(&event, with_prev); 2], ..head.clone() };
            assert_eq!(bytes, message.encode_to_vec());
        }
    }
}
