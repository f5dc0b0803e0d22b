//! Watches: the store's events as the API's, filtered, encoded once for all who watch alike.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api_types::codec::{STORED_MEDIA_TYPE, What};
use api_types::status::Status;
use api_types::{codec, meta};
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use http::Response;
use mvcc::{Event, EventKind, KeyRange, KeyValue};
use parking_lot::Mutex;
use store::{SharedEvent, WatchError, WatchRequest};

use crate::api::Api;
use crate::body::{self, Body, BoxError};
use crate::call::Call;
use crate::counters::Watched;
use crate::encode::{self, Form, Writer};
use crate::flow::Seated;
use crate::initial::{Initial, PIECE_BYTES, Piece};
use crate::negotiate::{Format, Media, Shape};
use crate::newest::Newest;
use crate::options::ListOptions;
use crate::registry::Target;
use crate::select::Selection;
use crate::storage::Watcher;
use crate::stored;

/// Between two bookmarks.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes of an initial event that goes over the edge of its piece, mostly.
const LAST_OBJECT: usize = 8 << 10;
/// Encoded events that are shared between watchers, at most.
const SHARED_EVENTS: usize = 4096;
/// Bytes of them, at most.
const SHARED_BYTES: usize = 16 << 20;

/// Events as they were last written for watchers: each is encoded once for all who watch in the same form, and its bytes
/// go to all of them.
pub(crate) type Shared = Mutex<Newest<SharedKey, Encoded, SHARED_EVENTS, SHARED_BYTES>>;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct SharedKey {
    key: Bytes,
    revision: i64,
    event: What,
    form: Form,
}

/// An event.
#[derive(Clone)]
pub(crate) struct Encoded {
    bytes: Bytes,
    /// Bytes of the object.
    object: usize,
}

/// What a watch begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// Everything there is now as ADDED (legacy `resourceVersion` 0 or none).
    Existing { fresh: bool },
    /// Everything not older than a revision as ADDED, then a bookmark (WatchList).
    Initial { at_least: i64 },
    /// What comes after a revision; 0: after now.
    After(i64),
}

fn begin(options: &ListOptions) -> Result<Begin, Status> {
    let revision = options.watch_revision()?;
    Ok(match (options.initial_events, revision) {
        (Some(true), revision) => Begin::Initial { at_least: revision.unwrap_or(-1) },
        (Some(false), revision) => Begin::After(revision.unwrap_or(0)),
        (None, None) => Begin::Existing { fresh: true },
        (None, Some(0)) => Begin::Existing { fresh: false },
        (None, Some(revision)) => Begin::After(revision),
    })
}

/// A running watch: pulled by the socket, so that nothing piles up for a client that does not read.
struct Stream {
    api: Arc<Api>,
    writer: Writer,
    selection: Selection,
    watcher: Watcher,
    /// What may happen beside events. It waits by itself, and costs nothing while events come.
    beside: FuturesUnordered<BoxFuture<'static, Beside>>,
    initial: Initial,
    /// Held until what there was has been told.
    seat: Option<Seated>,
    /// Revision of the bookmark that ends the initial events.
    initial_end: Option<i64>,
    headed: bool,
    ended: bool,
    counts: Watched,
    /// What goes to the caller next, for one who takes objects as they are stored.
    stored: Option<VecDeque<Bytes>>,
}

/// What happens to a watch beside events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// Its time is over, the server stops, or what it was begun with does not hold any more.
    End,
    /// It is time to say how far it is.
    Bookmark,
}

impl Api {
    pub(crate) async fn watch(
        self: &Arc<Self>,
        call: &Call,
        target: &Target,
    ) -> Result<Response<Body>, Status> {
        let writer = call.writer(&target.resource, self.now())?;
        if writer.media.format == Format::Yaml {
            return Err(crate::negotiate::not_a_stream());
        }
        writer.check_shape(false)?;
        let options = ListOptions::parse(&target.resource, &call.query, &call.info.name)?;
        let begin = begin(&options)?;
        let format = writer.media.format;
        // Who is told first what there was shares that with others who are.
        let is_stored = matches!(begin, Begin::After(_)) && stored::is_wanted(call, &writer);
        let mut stream = self.begin_watch(target, writer, options, begin).await?;
        stream.stored = is_stored.then(VecDeque::new);
        stream.seat = self.seated(call, &stream.initial);
        let content_type = match format {
            _ if is_stored => STORED_MEDIA_TYPE,
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        };
        let pieces = futures::stream::unfold(stream, |mut stream| async move {
            let piece = stream.next().await?;
            Some((Ok::<Bytes, BoxError>(piece), stream))
        });
        let mut response = body::response(200, content_type, Bytes::new());
        *response.body_mut() = body::stream(pieces);
        Ok(self.watch_as_asked(call, response, format != Format::Protobuf))
    }

    /// The seats that a watch holds while it is told what there was, for as long as other requests may take.
    fn seated(&self, call: &Call, initial: &Initial) -> Option<Seated> {
        let seat = call.held.lock().seat.take().filter(|_| initial.bytes() > 0)?;
        let clock = self.storage.env.clock.clone();
        Some(Seated::until(seat, clock.monotonic() + self.request_timeout, clock, &self.tasks))
    }

    async fn begin_watch(
        self: &Arc<Self>,
        target: &Target,
        writer: Writer,
        options: ListOptions,
        begin: Begin,
    ) -> Result<Stream, Status> {
        let view = match begin {
            Begin::Existing { fresh: false } => self.storage.view(),
            Begin::Existing { fresh: true } | Begin::After(0) => self.storage.fresh().await?,
            Begin::Initial { at_least } if at_least < 0 => self.storage.fresh().await?,
            Begin::Initial { at_least: revision } | Begin::After(revision) => {
                self.storage.at_least(revision).await?
            }
        };
        let range = match (target.name.as_str(), target.namespace.as_str()) {
            (name, namespace)
                if !name.is_empty() && (!namespace.is_empty() || !target.resource.namespaced) =>
            {
                KeyRange::Key(target.key())
            }
            _ => KeyRange::prefix(target.prefix()),
        };
        let (mut initial, start) = match begin {
            Begin::After(0) => (Initial::default(), view.revision() + 1),
            Begin::After(revision) => (Initial::default(), revision + 1),
            _ => (Initial::of(self, &view, &range), view.revision() + 1),
        };
        initial.fill(self, &options.selection).await?;
        let beside = self.beside(target, &options, view.revision() + 1);
        Ok(Stream {
            api: self.clone(),
            writer,
            selection: options.selection,
            watcher: self.storage.watch(WatchRequest { range, start_revision: start }),
            beside,
            initial,
            seat: None,
            initial_end: matches!(begin, Begin::Initial { .. })
                .then(|| view.revision())
                .filter(|_| options.bookmarks),
            headed: true,
            ended: false,
            stored: None,
            counts: self.counts.of(&target.resource).watched(&target.resource),
        })
    }

    /// What ends a watch, and when it is to say how far it is.
    fn beside(
        &self,
        target: &Target,
        options: &ListOptions,
        start_revision: i64,
    ) -> FuturesUnordered<BoxFuture<'static, Beside>> {
        let (clock, shutdown) = (self.storage.env.clock.clone(), self.shutdown.clone());
        let deadline = clock.monotonic() + self.watch_timeout(options.timeout_seconds);
        let definition = self.follow_definition(target, start_revision);
        let end = async move {
            tokio::select! {
                () = clock.sleep_until(deadline) => {}
                () = shutdown.wait() => {}
                () = changed(definition) => {}
            }
            Beside::End
        };
        let beside = FuturesUnordered::new();
        beside.push(end.boxed());
        if options.bookmarks {
            beside.push(self.bookmark_time());
        }
        beside
    }

    fn bookmark_time(&self) -> BoxFuture<'static, Beside> {
        let clock = self.storage.env.clock.clone();
        let at = clock.monotonic() + self.storage.env.rng.jittered(BOOKMARK_INTERVAL, 0.25);
        async move {
            clock.sleep_until(at).await;
            Beside::Bookmark
        }
        .boxed()
    }

    /// The definition of a custom kind: a watch ends when what it was begun with does not hold any more.
    fn follow_definition(&self, target: &Target, start_revision: i64) -> Option<Definition> {
        let kind = target.resource.custom()?;
        let range = KeyRange::Key(crate::catalog::definition_key(&kind.resource.qualified()).into());
        let watcher = self.storage.watch(WatchRequest { range, start_revision });
        Some(Definition { generation: kind.generation, watcher })
    }

    /// How long a watch lasts; one of less than nothing has ended when it begins.
    fn watch_timeout(&self, asked: Option<i64>) -> Duration {
        match asked {
            None | Some(0) => self.storage.env.rng.jittered(self.min_request_timeout, 1.0),
            Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        }
    }
}

/// A definition that is followed.
struct Definition {
    /// Of the definition that the watch was begun with.
    generation: i64,
    watcher: Watcher,
}

/// Waits until a definition is another one, or gone.
async fn changed(definition: Option<Definition>) {
    let Some(Definition { generation, mut watcher }) = definition else {
        return std::future::pending().await;
    };
    loop {
        let Ok(batch) = watcher.next().await else { return };
        let is_same = |event: &Event| match event.kind {
            EventKind::Delete => false,
            EventKind::Put => codec::from_stored(&event.kv.value, 0)
                .is_ok_and(|definition| meta::generation(&definition) == generation),
        };
        if !batch.events.iter().all(|event| is_same(event)) {
            return;
        }
    }
}

impl Stream {
    /// The next bytes for the socket; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.next_stored() {
            return Some(piece);
        }
        if self.ended {
            return None;
        }
        if let Some(piece) = self.next_initial().await {
            return Some(piece);
        }
        self.seat = None;
        loop {
            let batch = tokio::select! {
                biased;
                beside = self.beside.next() => Err(beside),
                batch = self.watcher.next() => Ok(batch),
            };
            match batch {
                Ok(Ok(batch)) => {
                    let piece = self.events(&batch.events).await;
                    if let Some(piece) = piece.or_else(|| self.next_stored()) {
                        return Some(piece);
                    }
                }
                Ok(Err(error)) => return self.broken(&error),
                Err(Some(Beside::Bookmark)) => {
                    self.beside.push(self.api.bookmark_time());
                    return Some(self.bookmark(self.watcher.progress(), false));
                }
                Err(Some(Beside::End) | None) => return None,
            }
        }
    }

    /// Events as this watcher sees them; none when they do not concern it.
    async fn events(&mut self, events: &[Arc<SharedEvent>]) -> Option<Bytes> {
        let mut out = Pieces::default();
        for event in events {
            match self.event(event).await {
                Ok(piece) => out.extend(piece),
                Err(status) => {
                    out.extend(Some(self.fail(&status, BytesMut::new())));
                    break;
                }
            }
        }
        out.joined()
    }

    async fn next_initial(&mut self) -> Option<Bytes> {
        match self.initial_piece().await {
            Ok(Some(piece)) => {
                piece.sizes().for_each(|size| self.counts.sent(size));
                self.counts.began_with(piece.sizes().len() as u64);
                Some(piece.bytes.clone())
            }
            Ok(None) => self.initial_end.take().map(|revision| self.bookmark(revision, true)),
            Err(status) => Some(self.fail(&status, BytesMut::new())),
        }
    }

    /// The next of what was there at the beginning; none at its end.
    async fn initial_piece(&mut self) -> Result<Option<Arc<Piece>>, Status> {
        self.initial.fill(&self.api, &self.selection).await?;
        if let Some(piece) = self.initial.take_shared(&self.writer) {
            return Ok(Some(piece));
        }
        let room = self.initial.bytes().min(PIECE_BYTES) + LAST_OBJECT;
        let (mut piece, mut out) = (Piece::default(), BytesMut::with_capacity(room));
        while out.len() < PIECE_BYTES
            && let Some(kv) = self.initial.next()
        {
            let object = self.written(&kv).await?;
            self.frame(What::Added, &object, &mut out);
            piece.add(&kv, object.len());
        }
        piece.bytes = out.freeze();
        let piece = Arc::new(piece);
        self.initial.share(&self.writer, &piece);
        Ok(Some(piece).filter(|piece| !piece.bytes.is_empty()))
    }

    /// One event of the store as this watcher sees it: what leaves the selection is deleted, what enters it is added.
    async fn event(&mut self, event: &Event) -> Result<Option<Bytes>, Status> {
        if event.prev.is_none() && event.prev_at.is_some() {
            // Compacted meanwhile: whether the object was selected before cannot be told.
            let text = format!("too old resource version: {}", event.kv.mod_revision - 1);
            return Err(Status::expired(text));
        }
        let (api, selection) = (&self.api, &self.selection);
        let before = selected(api, selection, event.prev.as_deref()).await?;
        let after = Some(&event.kv).filter(|_| event.kind == EventKind::Put);
        let after = selected(api, selection, after).await?;
        match (before, after) {
            (None, None) => Ok(None),
            (None, Some(kv)) => self.framed(What::Added, &kv).await.map(Some),
            (Some(_), Some(kv)) => self.framed(What::Modified, &kv).await.map(Some),
            (Some(kv), None) => {
                let gone = KeyValue { mod_revision: event.kv.mod_revision, ..kv.into_owned() };
                self.framed(What::Deleted, &gone).await.map(Some)
            }
        }
    }

    /// An event, in the bytes that all have who watch in the same form; nothing if it goes as a piece of its own.
    async fn framed(&mut self, event: What, kv: &KeyValue) -> Result<Bytes, Status> {
        if let Some(frames) = &mut self.stored {
            self.counts.sent(kv.value.len());
            stored::put(&self.writer, event, kv, frames)?;
            return Ok(Bytes::new());
        }
        let key = self.shared_key(event, kv);
        let shared = key.as_ref().and_then(|key| self.api.watched.lock().get(key));
        let encoded = match shared {
            Some(shared) => shared,
            None => {
                let object = self.written(kv).await?;
                let mut frame = BytesMut::new();
                self.frame(event, &object, &mut frame);
                let encoded = Encoded { bytes: frame.freeze(), object: object.len() };
                if let Some(key) = key {
                    self.api.watched.lock().put(key, encoded.clone(), encoded.bytes.len());
                }
                encoded
            }
        };
        self.counts.sent(encoded.object);
        Ok(encoded.bytes)
    }

    /// The next of what goes to a caller who takes objects as they are stored.
    fn next_stored(&mut self) -> Option<Bytes> {
        self.stored.as_mut()?.pop_front()
    }

    /// What an object is shared by; none when each watcher has its own.
    fn shared_key(&self, event: What, kv: &KeyValue) -> Option<SharedKey> {
        let form = self.writer.form()?;
        Some(SharedKey { key: kv.key.clone(), revision: kv.mod_revision, event, form })
    }

    async fn written(&mut self, kv: &KeyValue) -> Result<Bytes, Status> {
        let mut headed = false;
        if self.writer.media.shape == Shape::Table {
            self.writer.now = self.api.now();
            headed = std::mem::take(&mut self.headed);
        }
        if !self.writer.resource.is_converted() {
            return self.writer.watched(kv, headed);
        }
        let mut kv = kv.clone();
        self.api.bring_to(&self.writer.resource, std::slice::from_mut(&mut kv)).await?;
        self.writer.watched(&kv, headed)
    }

    fn bookmark(&self, revision: i64, initial_events_end: bool) -> Bytes {
        if self.stored.is_some() {
            return stored::head(What::Bookmark, revision, 0);
        }
        let mut out = BytesMut::new();
        if let Ok(object) = self.writer.bookmark(revision, initial_events_end) {
            self.counted(What::Bookmark, &object, &mut out);
        }
        out.freeze()
    }

    fn broken(&mut self, error: &WatchError) -> Option<Bytes> {
        match error {
            WatchError::Compacted { compact_revision } => {
                let text =
                    format!("too old resource version: {} ({compact_revision})", self.watcher.progress());
                Some(self.fail(&Status::expired(text), BytesMut::new()))
            }
            WatchError::Engine(text) => Some(self.fail(&Status::internal(text), BytesMut::new())),
            WatchError::Stopped => None,
        }
    }

    /// The last event of a watch that cannot go on.
    fn fail(&mut self, status: &Status, mut out: BytesMut) -> Bytes {
        self.ended = true;
        let media = Media { format: self.writer.media.format, ..Media::JSON };
        let message = api_types::schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.Status")
            .expect("invariant: the tables hold Status");
        if let Ok(object) = encode::value(message, media, &status.to_value()) {
            if let Some(frames) = &mut self.stored {
                stored::put_bytes(What::Failure, 0, object, frames);
                return frames.pop_front().unwrap_or_default();
            }
            self.counted(What::Failure, &object, &mut out);
        }
        out.freeze()
    }

    fn counted(&self, event: What, object: &[u8], out: &mut BytesMut) {
        self.counts.sent(object.len());
        self.frame(event, object, out);
    }

    fn frame(&self, event: What, object: &[u8], out: &mut BytesMut) {
        match self.writer.media.format {
            Format::Protobuf => proto_frame(event.event_type(), object, out),
            _ => json_frame(event.event_type(), object, out),
        }
    }
}

async fn selected<'a>(
    api: &Api,
    selection: &Selection,
    kv: Option<&'a KeyValue>,
) -> Result<Option<Cow<'a, KeyValue>>, Status> {
    match kv {
        Some(kv) => api.selected(selection, kv).await,
        None => Ok(None),
    }
}

/// Bytes that go out together: those of one event alone are not copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    all: BytesMut,
}

impl Extend<Bytes> for Pieces {
    fn extend<P: IntoIterator<Item = Bytes>>(&mut self, pieces: P) {
        for piece in pieces {
            if self.first.is_empty() && self.all.is_empty() {
                self.first = piece;
            } else {
                self.all.extend_from_slice(&std::mem::take(&mut self.first));
                self.all.extend_from_slice(&piece);
            }
        }
    }
}

impl Pieces {
    /// None of nothing.
    fn joined(self) -> Option<Bytes> {
        let whole = if self.all.is_empty() { self.first } else { self.all.freeze() };
        (!whole.is_empty()).then_some(whole)
    }
}

fn json_frame(kind: &str, object: &[u8], out: &mut BytesMut) {
    let object = object.strip_suffix(b"\n").unwrap_or(object);
    out.reserve(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

/// Four bytes of length, then `WatchEvent { type = 1, object = 2 { raw = 1 } }`.
fn proto_frame(kind: &str, object: &[u8], out: &mut BytesMut) {
    let mut raw = Vec::with_capacity(object.len() + 8);
    encode::put_field(1, object, &mut raw);
    let mut event = Vec::with_capacity(raw.len() + 24);
    encode::put_field(1, kind.as_bytes(), &mut event);
    encode::put_field(2, &raw, &mut event);
    out.reserve(event.len() + 4);
    out.put_u32(u32::try_from(event.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(&event);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_where_a_watch_begins() {
        let pods = crate::catalog::Kind::from(api_types::table::find("", "v1", "pods").unwrap());
        let of = |text: &str| {
            let query = crate::info::Query::parse(&format!("watch=1&{text}"));
            begin(&ListOptions::parse(&pods, &query, "")?)
        };
        assert_eq!(of(""), Ok(Begin::Existing { fresh: true }));
        assert_eq!(of("resourceVersion=0"), Ok(Begin::Existing { fresh: false }));
        assert_eq!(of("resourceVersion=7"), Ok(Begin::After(7)));
        assert_eq!(
            of("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=3"),
            Ok(Begin::Initial { at_least: 3 })
        );
        assert_eq!(of("sendInitialEvents=true").unwrap_err().code, 422);
        assert_eq!(of("resourceVersion=x").unwrap_err().code, 500);
    }

    #[test]
    fn one_piece_is_passed_on_and_several_are_joined() {
        let joined = |pieces: &[&'static [u8]]| {
            let mut all = Pieces::default();
            pieces.iter().for_each(|piece| all.extend(Some(Bytes::from_static(piece))));
            all.joined()
        };
        let one: &'static [u8] = b"one";
        assert_eq!(joined(&[]), None);
        assert_eq!(joined(&[one]).map(|bytes| bytes.as_ptr()), Some(one.as_ptr()));
        assert_eq!(joined(&[one, b"two", b"three"]).as_deref(), Some(&b"onetwothree"[..]));
    }

    #[test]
    fn protobuf_frames_carry_their_length() {
        let mut out = BytesMut::new();
        proto_frame("ADDED", b"k8s\0", &mut out);
        assert_eq!(&out[..4], [0, 0, 0, 15]);
        assert_eq!(&out[4..], b"\x0a\x05ADDED\x12\x06\x0a\x04k8s\0");
    }
}
