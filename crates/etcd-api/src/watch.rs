//! Watches: many on one stream, each with its own cursor in the store.

use std::collections::HashMap;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use mvcc::{EventKind, KeyRange};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::watch_request::RequestUnion;
use protos::etcd::etcdserverpb::watch_server::Watch;
use store::{WatchBatch, WatchError, WatchRequest, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamMap;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::Credentials;
use crate::context::Context;
use crate::convert;
use crate::counters::Counted;
use crate::error::auth_status;

/// Messages that wait for a slow client; then its watches stand still, and cost nothing but their cursors.
const QUEUE: usize = 128;
/// Bytes that a message may have beyond `--max-request-bytes` before it is split, if the client can join it.
const FRAGMENT_OVERHEAD: usize = 512 << 10;
/// Watches on one stream, at most.
const MAX_WATCHES: usize = 100_000;
/// Silences of a leader, in election timeouts, after which a stream that needs one is ended.
const NO_LEADER_TIMEOUTS: u32 = 3;
/// The id of an answer that is about the whole stream.
const STREAM: i64 = -1;

pub(crate) struct WatchService(pub Context);

type Outgoing = mpsc::Sender<Result<pb::WatchResponse, Status>>;
type Item = Result<WatchBatch, WatchError>;

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = ReceiverStream<Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let needs_leader = request.metadata().get("hasleader").is_some_and(|value| value == "true");
        if needs_leader && self.0.store.leadership().borrow().leader.is_none() {
            return Err(no_leader());
        }
        let (out, responses) = mpsc::channel(QUEUE);
        let session = Session {
            context: self.0.clone(),
            credentials: Credentials::of(&self.0, &request),
            out,
            watches: HashMap::new(),
            next_id: 0,
            asked: None,
        };
        let context = self.0.clone();
        self.0.tasks.spawn_detached("watch-stream", async move {
            let out = session.out.clone();
            let _counted = Counted::new(&context.counters.streams);
            tokio::select! {
                () = session.run(request.into_inner()) => {}
                () = leader_lost(&context, needs_leader) => drop(out.send(Err(no_leader())).await),
                () = context.shutdown.wait() => {}
                () = out.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

fn range_of(create: &pb::WatchCreateRequest) -> KeyRange {
    let first = || bytes::Bytes::from_static(&[0]);
    let key = if create.key.is_empty() { first() } else { create.key.clone() };
    KeyRange::from_etcd(key, create.range_end.clone())
}

fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}

/// Returns when there was no leader for long, if that matters.
async fn leader_lost(context: &Context, matters: bool) {
    if !matters {
        return std::future::pending().await;
    }
    let mut leadership = context.store.leadership();
    let patience = context.store.timing().election_max * NO_LEADER_TIMEOUTS;
    loop {
        if leadership.wait_for(|now| now.leader.is_none()).await.is_err() {
            return;
        }
        let found = leadership.wait_for(|now| now.leader.is_some());
        if tokio::time::timeout(patience, found).await.is_err() {
            return;
        }
    }
}

/// One watch as its stream sees it.
struct WatchState {
    prev_kv: bool,
    fragment: bool,
    no_put: bool,
    no_delete: bool,
    progress_notify: bool,
    /// Events before this revision are not wanted.
    start: i64,
    /// Everything up to here was delivered.
    delivered: i64,
    last_sent: Instant,
    _counted: Counted,
}

/// One stream.
struct Session {
    context: Context,
    /// Who asks is found out anew for each watch.
    credentials: Credentials,
    out: Outgoing,
    watches: HashMap<i64, WatchState>,
    next_id: i64,
    /// The revision at which the client asked for progress and has no answer yet.
    asked: Option<i64>,
}

/// The client has gone.
struct Gone;

impl Session {
    async fn run(mut self, mut requests: Streaming<pb::WatchRequest>) {
        let mut sources: StreamMap<i64, BoxStream<'static, Item>> = StreamMap::new();
        let tick = self.context.limits.progress_interval;
        let clock = self.context.env.clock.clone();
        let mut timer = Box::pin(clock.sleep(self.jittered(tick)));
        let mut open = true;
        loop {
            let step = tokio::select! {
                request = requests.message(), if open => match request {
                    Ok(Some(request)) => self.request(request, &mut sources).await,
                    // A client that said all it wanted may go on listening.
                    Ok(None) => { open = false; Ok(()) }
                    Err(_) => Err(Gone),
                },
                Some((id, item)) = sources.next(), if !sources.is_empty() => self.item(id, item, &mut sources).await,
                () = &mut timer => {
                    let pause = self.jittered(tick);
                    timer = Box::pin(clock.sleep(pause));
                    self.notify_progress(tick).await
                }
                else => Err(Gone),
            };
            if step.is_err() {
                return;
            }
        }
    }

    fn jittered(&self, interval: Duration) -> Duration {
        self.context.env.rng.jittered(interval, 0.1)
    }

    async fn send(&self, response: pb::WatchResponse) -> Result<(), Gone> {
        env::failpoints::hit("beforeSendWatchResponse");
        self.out.send(Ok(response)).await.map_err(|_| Gone)
    }

    async fn request(
        &mut self,
        request: pb::WatchRequest,
        sources: &mut StreamMap<i64, BoxStream<'static, Item>>,
    ) -> Result<(), Gone> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create, sources).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id, sources).await,
            Some(RequestUnion::ProgressRequest(_)) => {
                self.asked = Some(self.context.store.view().revision());
                self.answer_progress().await
            }
            None => Ok(()),
        }
    }

    async fn create(
        &mut self,
        create: pb::WatchCreateRequest,
        sources: &mut StreamMap<i64, BoxStream<'static, Item>>,
    ) -> Result<(), Gone> {
        let mut refused = self.refuse(&create).map(str::to_owned);
        if refused.is_none() {
            refused = self.forbid(&create).await;
        }
        if let Some(cancel_reason) = refused {
            let response = pb::WatchResponse {
                header: self.context.header_now(),
                watch_id: STREAM,
                created: true,
                canceled: true,
                cancel_reason,
                ..pb::WatchResponse::default()
            };
            return self.send(response).await;
        }
        let id = if create.watch_id == 0 { self.free_id() } else { create.watch_id };
        let request = WatchRequest { range: range_of(&create), start_revision: create.start_revision };
        let watcher = self.context.store.watch(request);
        let filters = create.filters;
        let filtered = |filter: pb::watch_create_request::FilterType| filters.contains(&i32::from(filter));
        let state = WatchState {
            prev_kv: create.prev_kv,
            fragment: create.fragment,
            no_put: filtered(pb::watch_create_request::FilterType::Noput),
            no_delete: filtered(pb::watch_create_request::FilterType::Nodelete),
            progress_notify: create.progress_notify,
            start: watcher.progress() + 1,
            delivered: watcher.progress(),
            last_sent: self.context.env.clock.monotonic(),
            _counted: Counted::new(&self.context.counters.watches),
        };
        self.watches.insert(id, state);
        let created = pb::WatchResponse {
            header: self.context.header_now(),
            watch_id: id,
            created: true,
            ..pb::WatchResponse::default()
        };
        self.send(created).await?;
        sources.insert(id, batches(watcher));
        Ok(())
    }

    /// Why a watch cannot be created, in etcd's words.
    fn refuse(&self, create: &pb::WatchCreateRequest) -> Option<&'static str> {
        let empty = !create.range_end.is_empty()
            && create.range_end.as_ref() != [0]
            && create.key >= create.range_end;
        if create.start_revision < 0 {
            Some("etcdserver: mvcc: required revision has been compacted")
        } else if empty {
            Some("mvcc: watcher range is empty")
        } else if create.watch_id != 0 && self.watches.contains_key(&create.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else if self.watches.len() >= MAX_WATCHES {
            Some("etcdserver: too many watches on one stream")
        } else {
            None
        }
    }

    /// Why who asks may not watch, as the error of a call would say it.
    async fn forbid(&self, create: &pb::WatchCreateRequest) -> Option<String> {
        let caller = self.context.identify(&self.credentials).await;
        let view = self.context.store.view();
        let checked = caller.and_then(|caller| view.auth().check_read(&caller, &range_of(create)));
        let status = auth_status(checked.err()?);
        Some(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn cancel(
        &mut self,
        id: i64,
        sources: &mut StreamMap<i64, BoxStream<'static, Item>>,
    ) -> Result<(), Gone> {
        sources.remove(&id);
        if self.watches.remove(&id).is_none() {
            return Ok(());
        }
        let header = self.context.header_now();
        self.send(pb::WatchResponse { header, watch_id: id, canceled: true, ..pb::WatchResponse::default() })
            .await?;
        self.answer_progress().await
    }

    async fn item(
        &mut self,
        id: i64,
        item: Item,
        sources: &mut StreamMap<i64, BoxStream<'static, Item>>,
    ) -> Result<(), Gone> {
        match item {
            Ok(batch) => {
                self.deliver(id, batch).await?;
                self.answer_progress().await
            }
            Err(error) => {
                sources.remove(&id);
                self.watches.remove(&id);
                self.end(id, error).await
            }
        }
    }

    async fn end(&self, id: i64, error: WatchError) -> Result<(), Gone> {
        let mut response = pb::WatchResponse {
            header: self.context.header_now(),
            watch_id: id,
            canceled: true,
            ..pb::WatchResponse::default()
        };
        match error {
            WatchError::Compacted { compact_revision } => {
                response.compact_revision = compact_revision;
                response.cancel_reason = "etcdserver: mvcc: required revision has been compacted".to_owned();
            }
            other => response.cancel_reason = format!("etcdserver: {other}"),
        }
        self.send(response).await
    }

    async fn deliver(&mut self, id: i64, batch: WatchBatch) -> Result<(), Gone> {
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
        watch.delivered = watch.delivered.max(batch.revision);
        let wanted = batch.events.iter().filter(|event| match event.kind {
            EventKind::Put => !watch.no_put,
            EventKind::Delete => !watch.no_delete,
        });
        let events: Vec<_> = wanted.map(|event| convert::event(event, watch.prev_kv)).collect();
        if events.is_empty() {
            return Ok(());
        }
        watch.last_sent = self.context.env.clock.monotonic();
        self.context.counters.events.increment(events.len() as u64);
        let max = watch.fragment.then_some(self.context.limits.max_request_bytes + FRAGMENT_OVERHEAD);
        let header = self.context.header(batch.revision);
        let response = pb::WatchResponse { header, watch_id: id, events, ..pb::WatchResponse::default() };
        for part in fragments(response, max) {
            self.send(part).await?;
        }
        Ok(())
    }

    /// Answers a question for progress once every watch of the stream has had everything up to it. A watch that
    /// begins in the future has no progress to tell: then the question goes unanswered, as etcd does.
    async fn answer_progress(&mut self) -> Result<(), Gone> {
        let Some(asked) = self.asked else { return Ok(()) };
        let revision = self.watches.values().map(|watch| watch.delivered).min().unwrap_or(asked);
        if self.watches.values().any(|watch| watch.start > asked + 1) {
            self.asked = None;
            return Ok(());
        }
        if revision < asked {
            return Ok(());
        }
        self.asked = None;
        let header = self.context.header(revision);
        self.send(pb::WatchResponse { header, watch_id: STREAM, ..pb::WatchResponse::default() }).await
    }

    /// Tells watches that asked for it, and had no event for a while, how far they are.
    async fn notify_progress(&mut self, interval: Duration) -> Result<(), Gone> {
        let now = self.context.env.clock.monotonic();
        let mut due = Vec::new();
        for (&id, watch) in &mut self.watches {
            let quiet = now.duration_since(watch.last_sent) >= interval / 2;
            if watch.progress_notify && quiet && watch.delivered >= watch.start - 1 {
                watch.last_sent = now;
                due.push((id, watch.delivered));
            }
        }
        for (watch_id, revision) in due {
            let header = self.context.header(revision);
            self.send(pb::WatchResponse { header, watch_id, ..pb::WatchResponse::default() }).await?;
        }
        Ok(())
    }
}

/// What a watcher sees, as a stream that ends after an error.
fn batches(watcher: Watcher) -> BoxStream<'static, Item> {
    Box::pin(stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        let item = watcher.next_or_progress().await;
        let again = item.is_ok().then_some(watcher);
        Some((item, again))
    }))
}

/// Splits an answer that is larger than `max` bytes; all parts but the last say so.
fn fragments(response: pb::WatchResponse, max: Option<usize>) -> Vec<pb::WatchResponse> {
    use prost::Message as _;
    let Some(max) = max.filter(|&max| response.encoded_len() > max) else { return vec![response] };
    let head = pb::WatchResponse { events: Vec::new(), ..response.clone() };
    let mut parts = Vec::new();
    let mut part = pb::WatchResponse { fragment: true, ..head.clone() };
    let mut bytes = head.encoded_len();
    for event in response.events {
        let size = event.encoded_len() + 8;
        if bytes + size > max && !part.events.is_empty() {
            parts.push(std::mem::replace(&mut part, pb::WatchResponse { fragment: true, ..head.clone() }));
            bytes = head.encoded_len();
        }
        bytes += size;
        part.events.push(event);
    }
    part.fragment = false;
    parts.push(part);
    parts
}
