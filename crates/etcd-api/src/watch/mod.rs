//! Watches: many on one stream, in one set of the store's.
//!
//! A stream is pulled by its client's connection: what is not read is not made, so a slow client costs the cursors of its
//! watches and one round of answers, whose events are shared. Read `wire.rs` for how answers become bytes.

mod wire;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use mvcc::{EventKind, KeyRange};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::watch_request::RequestUnion;
use store::{Delivery, Ended, WatchError, WatchRequest, WatchSet};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::wire::WatchServer;
use self::wire::{Answer, Events};
use crate::auth::Credentials;
use crate::budget::{CALL, Permit, Share};
use crate::context::Context;
use crate::counters::Counted;
use crate::error::{auth_status, unreadable};

/// Bytes that a message may have beyond `--max-request-bytes` before it is split, if the client can join it.
const FRAGMENT_OVERHEAD: usize = 512 << 10;
/// Watches on one stream, at most.
const MAX_WATCHES: usize = 100_000;
/// Bytes that a watch takes beside its range, about.
const WATCH_BYTES: u64 = 512;
/// Silences of a leader, in election timeouts, after which a stream that needs one is ended.
const NO_LEADER_TIMEOUTS: u32 = 3;
/// The id of an answer that is about the whole stream.
const STREAM: i64 = -1;

#[derive(Clone)]
pub(crate) struct WatchService(pub Context);

impl WatchService {
    fn watch(&self, request: Request<Streaming<pb::WatchRequest>>) -> Result<Response<Answers>, Status> {
        let needs_leader = request.metadata().get("hasleader").is_some_and(|value| value == "true");
        if needs_leader && self.0.store.leadership().borrow().leader.is_none() {
            return Err(no_leader());
        }
        let credentials = Credentials::of(&self.0, &request);
        let share = Share::of_call(&self.0, request.extensions());
        let session = Session::new(self.0.clone(), credentials, share, request.into_inner(), needs_leader);
        Ok(Response::new(Answers { working: session.work().boxed(), ready: VecDeque::new(), permit: None }))
    }
}

/// The answers of one stream.
pub(crate) struct Answers {
    working: BoxFuture<'static, Option<Box<Session>>>,
    ready: VecDeque<Result<Answer, Status>>,
    /// What the events in them take, if they are many.
    permit: Option<Permit>,
}

impl Stream for Answers {
    type Item = Result<Answer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                env::failpoints::hit("beforeSendWatchResponse");
                return Poll::Ready(Some(answer));
            }
            self.permit = None;
            let Some(mut session) = std::task::ready!(self.working.as_mut().poll(task)) else {
                // Asked again it goes on saying so.
                self.working = std::future::ready(None).boxed();
                return Poll::Ready(None);
            };
            std::mem::swap(&mut self.ready, &mut session.desk.out);
            let bytes = std::mem::take(&mut session.desk.bytes);
            self.permit = (bytes > CALL).then(|| session.desk.share.charge(bytes));
            self.working = session.work().boxed();
        }
    }
}

fn range_of(create: &pb::WatchCreateRequest) -> KeyRange {
    let first = || bytes::Bytes::from_static(&[0]);
    let key = if create.key.is_empty() { first() } else { create.key.clone() };
    KeyRange::from_etcd(key, create.range_end.clone())
}

/// A client takes a stream that ends in any other way for the end of its watches, and does not go on elsewhere.
fn stopped(why: &dyn std::fmt::Display) -> Status {
    Status::unavailable(format!("etcdserver: {why}"))
}

fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}

/// Returns when there was no leader for long, if that matters.
async fn leader_lost(context: Context, matters: bool) {
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

/// Returns when there may be something to tell, and memory for it: without, events stay where they are. `due` is that
/// something has changed, which is told once.
async fn changed(set: &WatchSet, desk: &Desk, due: bool) -> Result<(), WatchError> {
    desk.share.room(&desk.context.env.clock).await;
    if due { Ok(()) } else { set.changed().await }
}

/// One watch as its stream sees it.
struct WatchState {
    flavour: Flavour,
    fragment: bool,
    progress_notify: bool,
    /// Where the client said that it begins; 0 is here and now.
    start: i64,
    last_sent: Instant,
    _counted: Counted,
    _permit: Permit,
}

/// Watches of one range and one flavour are told the same.
#[derive(Clone, Copy)]
struct Flavour {
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
}

impl Flavour {
    const COUNT: usize = 8;

    fn number(self) -> usize {
        usize::from(self.prev_kv) | usize::from(self.no_put) << 1 | usize::from(self.no_delete) << 2
    }

    fn encode(self, events: &[std::sync::Arc<store::SharedEvent>]) -> Events {
        let wanted = events.iter().filter(|event| match event.kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        });
        Events::of(wanted, self.prev_kv)
    }
}

/// What a stream's client is to be told, and about which watches.
struct Desk {
    context: Context,
    watches: HashMap<i64, WatchState>,
    out: VecDeque<Result<Answer, Status>>,
    /// Bytes of events in them; what several watches are told is in memory once.
    bytes: u64,
    /// Whose memory it is.
    share: Share,
}

impl Desk {
    fn send(&mut self, response: pb::WatchResponse) {
        self.out.push_back(Ok(response.into()));
    }

    fn deliver(&mut self, delivery: &Delivery<'_>) {
        let now = self.context.env.clock.monotonic();
        let header = self.context.header(delivery.revision);
        let max = self.context.limits.max_request_bytes + FRAGMENT_OVERHEAD;
        let mut shared: [Option<Events>; Flavour::COUNT] = Default::default();
        let mut sent = 0;
        for member in delivery.members {
            let Some(watch) = self.watches.get_mut(&member.id) else { continue };
            let events = member.wanted(delivery.events);
            let own;
            let held = &mut self.bytes;
            let mut encode = || {
                let encoded = watch.flavour.encode(events);
                *held += encoded.bytes();
                encoded
            };
            let encoded = if events.len() == delivery.events.len() {
                shared[watch.flavour.number()].get_or_insert_with(encode)
            } else {
                own = encode();
                &own
            };
            if encoded.is_empty() {
                continue;
            }
            watch.last_sent = now;
            sent += encoded.len() as u64;
            let head = pb::WatchResponse { header, watch_id: member.id, ..pb::WatchResponse::default() };
            if watch.fragment {
                self.out.extend(encoded.answers(head, max).map(Ok));
            } else {
                self.out.push_back(Ok(encoded.answer(head)));
            }
        }
        self.context.counters.events.increment(sent);
    }

    /// Ends watches of which something was compacted before it could be told.
    fn end(&mut self, ids: Vec<i64>, compact_revision: i64) {
        for id in ids {
            self.watches.remove(&id);
            self.send(pb::WatchResponse {
                header: self.context.header_now(),
                watch_id: id,
                canceled: true,
                compact_revision,
                cancel_reason: "etcdserver: mvcc: required revision has been compacted".to_owned(),
                ..pb::WatchResponse::default()
            });
        }
    }
}

/// One stream.
struct Session {
    desk: Desk,
    /// Who asks is found out anew for each watch.
    credentials: Credentials,
    requests: Streaming<pb::WatchRequest>,
    /// Whether the client may say more.
    open: bool,
    set: WatchSet,
    next_id: i64,
    /// The revision at which the client asked for progress and has no answer yet.
    asked: Option<i64>,
    timer: BoxFuture<'static, ()>,
    leader_lost: BoxFuture<'static, ()>,
    /// Something has changed that was not looked at.
    due: bool,
    /// Nothing comes behind what is on the desk.
    over: bool,
    _counted: Counted,
}

/// What a stream has to do next.
enum Step {
    Request(Option<pb::WatchRequest>),
    Changed(Result<(), WatchError>),
    Timer,
    LeaderLost,
    Stopped,
    /// The client has said what nobody can read, or has gone.
    Unreadable(Status),
}

impl Session {
    fn new(
        context: Context,
        credentials: Credentials,
        share: Share,
        requests: Streaming<pb::WatchRequest>,
        needs_leader: bool,
    ) -> Box<Self> {
        let mut session = Self {
            credentials,
            requests,
            open: true,
            set: context.store.watches(),
            next_id: 0,
            asked: None,
            timer: std::future::pending().boxed(),
            leader_lost: leader_lost(context.clone(), needs_leader).boxed(),
            due: false,
            over: false,
            _counted: Counted::new(&context.counters.streams),
            desk: Desk { context, watches: HashMap::new(), out: VecDeque::new(), bytes: 0, share },
        };
        session.wind_up();
        Box::new(session)
    }

    /// Sets the timer.
    fn wind_up(&mut self) {
        let env = self.desk.context.env.clone();
        let pause = env.rng.jittered(self.desk.context.limits.progress_interval, 0.1);
        self.timer = async move { env.clock.sleep(pause).await }.boxed();
    }

    /// Works until there is something to tell; nothing when the stream is over.
    async fn work(mut self: Box<Self>) -> Option<Box<Self>> {
        while self.desk.out.is_empty() {
            if self.over {
                return None;
            }
            match self.step().await {
                Step::Request(Some(request)) => self.request(request).await,
                // A client that said all it wanted may go on listening.
                Step::Request(None) => self.open = false,
                Step::Changed(Ok(())) if self.desk.share.has_room() => {
                    self.due = false;
                    self.look();
                }
                // All who waited were called, and some of them have taken what there was.
                Step::Changed(Ok(())) => self.due = true,
                Step::Changed(Err(error)) => {
                    self.desk.out.push_back(Err(stopped(&error)));
                    self.over = true;
                }
                Step::Timer => {
                    self.wind_up();
                    self.notify_progress();
                }
                Step::LeaderLost => {
                    self.desk.out.push_back(Err(no_leader()));
                    self.over = true;
                }
                Step::Stopped => {
                    self.desk.out.push_back(Err(stopped(&WatchError::Stopped)));
                    self.over = true;
                }
                Step::Unreadable(status) => {
                    self.desk.out.push_back(Err(unreadable(status, true)));
                    self.over = true;
                }
            }
        }
        Some(self)
    }

    async fn step(&mut self) -> Step {
        tokio::select! {
            request = self.requests.message(), if self.open => request.map_or_else(Step::Unreadable, Step::Request),
            changed = changed(&self.set, &self.desk, self.due) => Step::Changed(changed),
            () = &mut self.timer => Step::Timer,
            () = &mut self.leader_lost => Step::LeaderLost,
            () = self.desk.context.shutdown.wait() => Step::Stopped,
        }
    }

    /// Takes what there is for the watches.
    fn look(&mut self) {
        let Self { set, desk, .. } = self;
        match set.poll(|delivery| desk.deliver(&delivery)) {
            Ok(_) => {}
            Err(Ended { ids, error: WatchError::Compacted { compact_revision } }) => {
                desk.end(ids, compact_revision);
            }
            Err(Ended { error, .. }) => {
                desk.out.push_back(Err(stopped(&error)));
                self.over = true;
                return;
            }
        }
        self.answer_progress();
    }

    async fn request(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => {
                self.asked = Some(self.set.head());
                self.set.refresh();
                self.look();
            }
            None => {}
        }
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) {
        let mut refused = self.refuse(&create).map(str::to_owned);
        if refused.is_none() {
            refused = forbid(&self.desk.context, &self.credentials, &create).await;
        }
        let header = self.desk.context.header_now();
        let bytes = WATCH_BYTES + create.key.len() as u64 + create.range_end.len() as u64;
        let taken = match refused {
            Some(reason) => Err(reason),
            None => self.desk.share.try_take(bytes).map_err(|status| status.message().to_owned()),
        };
        let permit = match taken {
            Ok(permit) => permit,
            Err(cancel_reason) => {
                return self.desk.send(pb::WatchResponse {
                    header,
                    watch_id: STREAM,
                    created: true,
                    canceled: true,
                    cancel_reason,
                    ..pb::WatchResponse::default()
                });
            }
        };
        let id = if create.watch_id == 0 { self.free_id() } else { create.watch_id };
        let start = create.start_revision;
        self.set.add(id, WatchRequest { range: range_of(&create), start_revision: start });
        let filters = create.filters;
        let filtered = |filter: pb::watch_create_request::FilterType| filters.contains(&i32::from(filter));
        let state = WatchState {
            flavour: Flavour {
                prev_kv: create.prev_kv,
                no_put: filtered(pb::watch_create_request::FilterType::Noput),
                no_delete: filtered(pb::watch_create_request::FilterType::Nodelete),
            },
            fragment: create.fragment,
            progress_notify: create.progress_notify,
            start,
            last_sent: self.desk.context.env.clock.monotonic(),
            _counted: Counted::new(&self.desk.context.counters.watches),
            _permit: permit,
        };
        self.desk.watches.insert(id, state);
        // Taken behind the start, so that the header is never before what the watch leaves out.
        let header = self.desk.context.header_now();
        self.desk.send(pb::WatchResponse {
            header,
            watch_id: id,
            created: true,
            ..pb::WatchResponse::default()
        });
    }

    /// Why a watch cannot be created, in etcd's words.
    fn refuse(&self, create: &pb::WatchCreateRequest) -> Option<&'static str> {
        let empty = !create.range_end.is_empty()
            && create.range_end.as_ref() != [0]
            && create.key >= create.range_end;
        let watches = &self.desk.watches;
        if create.start_revision < 0 {
            Some("etcdserver: mvcc: required revision has been compacted")
        } else if empty {
            Some("mvcc: watcher range is empty")
        } else if create.watch_id != 0 && watches.contains_key(&create.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else if watches.len() >= MAX_WATCHES {
            Some("etcdserver: too many watches on one stream")
        } else {
            None
        }
    }

    fn free_id(&mut self) -> i64 {
        while self.desk.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn cancel(&mut self, id: i64) {
        self.set.remove(id);
        if self.desk.watches.remove(&id).is_none() {
            return;
        }
        let header = self.desk.context.header_now();
        self.desk.send(pb::WatchResponse {
            header,
            watch_id: id,
            canceled: true,
            ..pb::WatchResponse::default()
        });
        self.answer_progress();
    }

    /// Answers a question for progress once every watch of the stream has had everything up to it. A watch that
    /// begins in the future has no progress to tell: then the question goes unanswered, as etcd does.
    fn answer_progress(&mut self) {
        let Some(asked) = self.asked else { return };
        if self.desk.watches.values().any(|watch| watch.start > asked) {
            self.asked = None;
            return;
        }
        let revision = if self.desk.watches.is_empty() { asked } else { self.set.progress() };
        if revision < asked {
            return;
        }
        self.asked = None;
        let header = self.desk.context.header(revision);
        self.desk.send(pb::WatchResponse { header, watch_id: STREAM, ..pb::WatchResponse::default() });
    }

    /// Tells watches that asked for it, and had no event for a while, how far they are. One that begins in the future is
    /// told nothing: its client would go on from what it was told, not from where it is to begin.
    fn notify_progress(&mut self) {
        let interval = self.desk.context.limits.progress_interval;
        let now = self.desk.context.env.clock.monotonic();
        let mut due = Vec::new();
        for (&id, watch) in &mut self.desk.watches {
            let quiet = now.duration_since(watch.last_sent) >= interval / 2;
            if !watch.progress_notify || !quiet {
                continue;
            }
            let delivered = self.set.delivered(id);
            if delivered >= watch.start {
                watch.last_sent = now;
                due.push((id, delivered));
            }
        }
        for (watch_id, revision) in due {
            let header = self.desk.context.header(revision);
            self.desk.send(pb::WatchResponse { header, watch_id, ..pb::WatchResponse::default() });
        }
    }
}

/// Why who asks may not watch, as the error of a call would say it.
async fn forbid(
    context: &Context,
    credentials: &Credentials,
    create: &pb::WatchCreateRequest,
) -> Option<String> {
    let caller = context.identify(credentials).await;
    let view = context.store.view();
    let checked = caller.and_then(|caller| view.auth().check_read(&caller, &range_of(create)));
    let status = auth_status(checked.err()?);
    Some(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
}
