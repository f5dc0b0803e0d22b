//! KV's door for the calls that clients make most. Nothing of them is streamed: a message is read and written in one piece,
//! without what tonic needs for streams. Plain ranges leave as they are stored, a page at a time while the client reads,
//! with the length in front that the index knows: an answer of any size takes the memory of a page.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use mvcc::{EncodedRange, View};
use prost::{DecodeError, Message};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::kv_server::Kv as _;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Request, Status};
use tower::Service;

use crate::budget::{Reserved, Share};
use crate::context::Context;
use crate::convert;
use crate::error::{auth_status, mvcc_status};
use crate::framing::{self, PREFIX};
use crate::kv::KvService;

/// Bytes of an answer that are read at a time.
const PAGE_BYTES: usize = 1 << 20;
/// Answers of fewer bytes are read at once, on the thread that serves the connection: handing them to another takes as
/// long.
const SHORT_BYTES: u64 = 64 << 10;

/// In front of KV's service; what it does not answer goes on as it came.
#[derive(Clone)]
pub(crate) struct KvFront<S> {
    context: Context,
    max_message: usize,
    inner: S,
}

impl<S> KvFront<S> {
    pub fn new(context: &Context, max_message: usize, inner: S) -> Self {
        Self { context: context.clone(), max_message, inner }
    }
}

impl<S: NamedService> NamedService for KvFront<S> {
    const NAME: &'static str = S::NAME;
}

type Response = http::Response<Body>;

impl<S> Service<http::Request<Body>> for KvFront<S>
where
    S: Service<http::Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(self.inner.poll_ready(context))?;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let read = Asked::reader(request.uri().path());
        let Some(read) = read.filter(|_| !request.headers().contains_key("grpc-encoding")) else {
            return Box::pin(self.inner.call(request));
        };
        let (context, max, mut inner) = (self.context.clone(), self.max_message, self.inner.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let bytes = match Limited::new(body, max + PREFIX).collect().await {
                Ok(read) => read.to_bytes(),
                Err(error) => return Ok(unread(error, max).into_http()),
            };
            match message(&bytes).and_then(|message| read(message).ok()) {
                Some(asked) => Ok(asked.answer(context, parts).await.unwrap_or_else(Status::into_http)),
                // Whatever is wrong with it is for tonic to tell.
                None => inner.call(http::Request::from_parts(parts, Body::new(Full::new(bytes)))).await,
            }
        })
    }
}

/// What a call asks that is answered here.
enum Asked {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
}

impl Asked {
    /// What reads the message of a call.
    fn reader(path: &str) -> Option<fn(Bytes) -> Result<Self, DecodeError>> {
        Some(match path.strip_prefix("/etcdserverpb.KV/")? {
            "Range" => |message| pb::RangeRequest::decode(message).map(Self::Range),
            "Put" => |message| pb::PutRequest::decode(message).map(Self::Put),
            "DeleteRange" => |message| pb::DeleteRangeRequest::decode(message).map(Self::DeleteRange),
            "Txn" => |message| pb::TxnRequest::decode(message).map(Self::Txn),
            _ => return None,
        })
    }

    async fn answer(self, context: Context, parts: http::request::Parts) -> Result<Response, Status> {
        match self {
            Self::Range(range) => {
                if is_plain(&range)
                    && let Some(response) = counted(&context, answer(&context, &parts, range.clone())).await?
                {
                    return Ok(response);
                }
                whole(KvService(context).range(request(parts, range)).await?)
            }
            Self::Put(put) => whole(KvService(context).put(request(parts, put)).await?),
            Self::DeleteRange(range) => whole(KvService(context).delete_range(request(parts, range)).await?),
            Self::Txn(txn) => whole(KvService(context).txn(request(parts, txn)).await?),
        }
    }
}

fn request<T>(parts: http::request::Parts, message: T) -> Request<T> {
    Request::from_parts(MetadataMap::from_headers(parts.headers), parts.extensions, message)
}

/// The one message of a body, when it is there as a whole and not compressed.
fn message(bytes: &Bytes) -> Option<Bytes> {
    let is_whole = framing::length(bytes)? == bytes.len() - PREFIX;
    (bytes[0] == 0 && is_whole).then(|| bytes.slice(PREFIX..))
}

fn too_large() -> Status {
    Status::resource_exhausted("the answer is too large: ask for pages")
}

/// A response of one message.
fn whole<T: Message>(response: tonic::Response<T>) -> Result<Response, Status> {
    let (metadata, message, extensions) = response.into_parts();
    let mut response = framing::frame(&message).map(framing::response).ok_or_else(too_large)?;
    response.headers_mut().extend(metadata.into_headers());
    *response.extensions_mut() = extensions;
    Ok(response)
}

/// Why a request could not be read.
fn unread(error: Box<dyn std::error::Error + Send + Sync>, max: usize) -> Status {
    let too_large = |_| {
        Status::out_of_range(format!("Error, decoded message length too large: the limit is: {max} bytes"))
    };
    error.downcast::<Status>().map_or_else(too_large, |status| *status)
}

/// Whether a request is for current keys of a range, in key order, with values, unfiltered.
fn is_plain(range: &pb::RangeRequest) -> bool {
    let filters = range.min_mod_revision
        | range.max_mod_revision
        | range.min_create_revision
        | range.max_create_revision;
    let special = range.range_end.is_empty()
        || range.keys_only
        || range.count_only
        || range.revision > 0
        || range.sort_order != 0
        || range.sort_target != 0
        || filters != 0;
    !special
}

/// Answers, and counts what was answered here.
async fn counted(
    context: &Context,
    answer: impl Future<Output = Result<Option<Response>, Status>>,
) -> Result<Option<Response>, Status> {
    let (counters, clock) = (&context.counters, &context.env.clock);
    let start = clock.monotonic();
    let answer = answer.await;
    if !matches!(answer, Ok(None)) {
        let (took, ok) = (clock.monotonic() - start, usize::from(answer.is_ok()));
        counters.range_took[ok].record(took);
        counters.read_took[ok].record(took);
        counters.ranges.increment(1);
        context.tell_slow_read("read-only range ", took);
    }
    answer
}

async fn answer(
    context: &Context,
    parts: &http::request::Parts,
    range: pb::RangeRequest,
) -> Result<Option<Response>, Status> {
    context.barrier(range.serializable).await?;
    let share = Share::of_call(context, &parts.extensions);
    let metadata = MetadataMap::from_headers(parts.headers.clone());
    let request = Request::from_parts(metadata, parts.extensions.clone(), range);
    let caller = context.caller(&request).await?;
    let request = convert::range(request.into_inner())?;
    let view = context.store.view();
    view.auth().check_read(&caller, &request.range).map_err(auth_status)?;
    let head = pb::RangeResponse { header: context.header(view.revision()), ..Default::default() };
    let Some(encoded) = encode(view, request).await? else { return Ok(None) };
    let tail = pb::RangeResponse { more: encoded.more, count: encoded.count, ..Default::default() };
    let (head, tail) = (head.encode_to_vec(), tail.encode_to_vec());
    let length = head.len() as u64 + encoded.bytes() + tail.len() as u64;
    let mut first = framing::begin(length, head.len()).ok_or_else(too_large)?;
    first.put_slice(&head);
    let memory = (share, context.env.clock.clone());
    Ok(Some(respond(Pieces { first: Some(first), encoded: Some(encoded), tail: Some(tail), memory })))
}

/// The length of a long answer takes a walk over its keys, which others on this thread must not wait for.
async fn encode(view: Arc<View>, request: mvcc::RangeRequest) -> Result<Option<EncodedRange>, Status> {
    /// Keys that are walked over at once.
    const FEW_KEYS: i64 = 1000;
    let few = (1..=FEW_KEYS).contains(&request.limit) || view.count(&request.range) <= FEW_KEYS;
    let encoded = if few {
        view.encoded_range(&request)
    } else {
        let walk = tokio::task::spawn_blocking(move || view.encoded_range(&request)).await;
        walk.map_err(|error| Status::internal(error.to_string()))?
    };
    encoded.map_err(|error| mvcc_status(&error))
}

fn respond(pieces: Pieces) -> Response {
    let frames = stream::unfold(Some(pieces), |pieces| async {
        let mut pieces = pieces?;
        match pieces.next().await {
            Ok(Some(bytes)) => Some((Ok::<_, Infallible>(Frame::data(bytes)), Some(pieces))),
            Ok(None) => Some((Ok(Frame::trailers(framing::succeeded())), None)),
            // The message stays incomplete, and the client is told why.
            Err(status) => Some((Ok(Frame::trailers(failed(&status))), None)),
        }
    });
    let mut response = framing::with_body(Body::new(StreamBody::new(frames)));
    // Pages are counted when they are read.
    response.extensions_mut().insert(Reserved::default());
    response
}

/// The message stays incomplete, and the client is told why.
fn failed(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    drop(status.add_header(&mut trailers));
    trailers
}

/// An answer on its way.
struct Pieces {
    first: Option<BytesMut>,
    encoded: Option<EncodedRange>,
    tail: Option<Vec<u8>>,
    /// Whose memory pages are, and the time to wait for it.
    memory: (Share, env::Clock),
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if let Some(encoded) = self.encoded.take_if(|encoded| encoded.bytes() > SHORT_BYTES) {
            let (share, clock) = &self.memory;
            let permit = share.take(encoded.bytes().min(PAGE_BYTES as u64), clock).await?;
            let (mut page, encoded) = read_page(encoded).await?;
            self.encoded = Some(encoded);
            if let Some(mut first) = self.first.take() {
                first.extend_from_slice(&page);
                page = first.freeze();
            }
            return Ok(Some(permit.hold(page)));
        }
        // What is left is short, and goes together with the end.
        let Some(tail) = self.tail.take() else { return Ok(None) };
        let mut last = self.first.take().unwrap_or_default();
        if let Some(mut encoded) = self.encoded.take() {
            while let Some(page) = encoded.next_page(PAGE_BYTES).map_err(|error| mvcc_status(&error))? {
                last.extend_from_slice(&page);
            }
        }
        last.extend_from_slice(&tail);
        Ok(Some(last.freeze()))
    }
}

async fn read_page(mut encoded: EncodedRange) -> Result<(Bytes, EncodedRange), Status> {
    let read = tokio::task::spawn_blocking(move || {
        let page = encoded.next_page(PAGE_BYTES).map_err(|error| mvcc_status(&error))?;
        Ok((page.unwrap_or_default(), encoded))
    });
    read.await.map_err(|error| Status::internal(error.to_string()))?
}
