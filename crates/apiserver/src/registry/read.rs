//! Get and list.

use std::sync::Arc;

use api_types::codec::STORED_MEDIA_TYPE;
use api_types::field::{FieldError, Path, quote};
use api_types::status::Status;
use api_types::{Value, meta};
use bytes::Bytes;
use http::Response;
use mvcc::{KeyRange, KeyValue, MvccError, RangeRequest};
use serde_json::{Map, json};

use super::Target;
use super::pages::{self, Page};
use crate::api::Api;
use crate::body::{self, Body};
use crate::call::{Call, status_response};
use crate::encode::Writer;
use crate::flow::{self, Permit};
use crate::info::Query;
use crate::negotiate::Media;
use crate::options::ListOptions;
use crate::select::Selection;
use crate::storage::{self, View};
use crate::stored;

/// A page of a list.
struct Found {
    items: Vec<KeyValue>,
    /// How many objects were looked at.
    seen: usize,
    revision: i64,
    /// The last key, when there is more behind it.
    last: Option<Bytes>,
    remaining: Option<i64>,
}

impl Found {
    fn bytes(&self) -> usize {
        self.items.iter().map(|kv| kv.value.len()).sum()
    }
}

/// A `resourceVersion` parameter; none when it is not given.
///
/// # Errors
/// What is no revision, as a field error.
pub(crate) fn revision(text: &str) -> Result<Option<i64>, FieldError> {
    match text {
        "" => Ok(None),
        text => text.parse().ok().filter(|&revision: &i64| revision >= 0).map(Some).ok_or_else(|| {
            let why = format!("strconv.ParseUint: parsing {}: invalid syntax", quote(text));
            FieldError::invalid(&Path::new("resourceVersion"), text, why)
        }),
    }
}

/// The parameter `export`, which is gone.
fn check_export(query: &Query) -> Result<(), Status> {
    match query.get("export") {
        "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(()),
        "1" | "t" | "T" | "true" | "True" | "TRUE" => {
            let text = "the export parameter, deprecated since v1.14, is no longer supported";
            Err(Status::bad_request(text))
        }
        text => Err(Status::bad_request(format!(
            "the export parameter cannot be parsed: strconv.ParseBool: parsing {}: invalid syntax",
            quote(text)
        ))),
    }
}

impl Api {
    /// The stored object, or 404.
    pub(crate) fn find(&self, view: &View, target: &Target) -> Result<KeyValue, Status> {
        storage::get(view, &target.key())?.ok_or_else(|| target.not_found())
    }

    /// The view that a `resourceVersion` asks for: fresh, any, or not older than a revision.
    pub(crate) async fn view_for(&self, revision: Option<i64>) -> Result<Arc<View>, Status> {
        match revision {
            None => self.storage.fresh().await,
            Some(0) => Ok(self.storage.view()),
            Some(revision) => self.storage.at_least(revision).await,
        }
    }

    pub(crate) async fn get(&self, call: &Call, target: &Target) -> Result<Response<Body>, Status> {
        check_export(&call.query)?;
        let revision = revision(call.query.get("resourceVersion"));
        let view = self.view_for(revision.map_err(|error| Status::unknown(error.to_string()))?).await?;
        let kv = self.find(&view, target)?;
        self.respond(call, target, 200, kv).await
    }

    pub(crate) async fn list(&self, call: &Call, target: &Target) -> Result<Response<Body>, Status> {
        let writer = call.writer(&target.resource, self.now())?;
        let options = ListOptions::parse(&target.resource, &call.query, &call.info.name)?;
        let prefix = target.prefix();
        let page = page_of(&prefix, &options)?;
        let revision = options.revision()?;
        if page.is_some() && revision.is_some_and(|revision| revision > 0) {
            let text = "specifying resource version is not allowed when using continue";
            return Err(Status::bad_request(text));
        }
        let wanted = page.as_ref().map(|page| page.revision.max(0)).or(revision);
        let view = match &page {
            Some(page) if page.revision == pages::INCONSISTENT => self.storage.fresh().await?,
            _ => self.view_for(wanted).await?,
        };
        let exact = match &page {
            Some(page) => Some(page.revision).filter(|&revision| revision > 0),
            None => revision.filter(|_| options.matching == "Exact"),
        };
        let wanted = Wanted { view: &view, target, options: &options, page: page.as_ref(), exact };
        let mut found = match self.find_with_room(call, &writer, &wanted).await? {
            Ok(found) => found,
            Err(MvccError::Compacted { .. }) => return Ok(expired(call, &prefix, page.as_ref())),
            Err(error) => return Err(Status::internal(error)),
        };
        let kind = &target.resource;
        self.counts.of(kind).listed(kind, found.seen, found.items.len());
        self.sift(&options.selection, &mut found.items).await?;
        let metadata = list_metadata(&found, &prefix);
        let (form, body) = match stored::is_wanted(call, &writer) {
            true => (STORED_MEDIA_TYPE, stored::list(&writer, &metadata, &found.items)?),
            false => (writer.content_type(), writer.list(&metadata, found.items)?),
        };
        let mut response = body::response(200, form, Bytes::new());
        *response.body_mut() = body;
        Ok(response)
    }

    /// The page, and room for it in memory, which goes with the answer. Only what is selected is held: how much that is
    /// shows when it has been found, and if there is no room then, it is let go and found again when there is.
    async fn find_with_room(
        &self,
        call: &Call,
        writer: &Writer,
        wanted: &Wanted<'_>,
    ) -> Result<Result<Found, MvccError>, Status> {
        let Some(flow) = charged_flow(call) else { return Ok(wanted.find()) };
        let mut charge = None;
        if wanted.options.selection.is_everything() {
            let bytes = writer.held_bytes(wanted.bytes());
            if bytes >= flow::LARGE {
                charge = Some(self.room.take(flow, bytes).await?);
            }
        }
        let mut found = wanted.find();
        let bytes = writer.held_bytes(found.as_ref().map_or(0, Found::bytes));
        if charge.is_none() && bytes >= flow::LARGE {
            charge = self.room.try_take(flow, bytes);
            if charge.is_none() {
                drop(found);
                charge = Some(self.room.take(flow, bytes).await?);
                found = wanted.find();
            }
        }
        call.held.lock().charge = charge;
        Ok(found)
    }

    /// All objects of a collection that a selection may want ([`Selection::matches`]).
    pub(crate) fn select(
        &self,
        view: &View,
        target: &Target,
        selection: &Selection,
    ) -> Result<Vec<KeyValue>, Status> {
        let range = KeyRange::prefix(target.prefix());
        let wanted = |kv: &Result<KeyValue, Status>| kv.as_ref().map_or(true, |kv| selection.matches(kv));
        storage::each(view, &range).filter(wanted).collect()
    }
}

/// The page that a list goes on with.
pub(super) fn page_of(prefix: &str, options: &ListOptions) -> Result<Option<Page>, Status> {
    let token = options.token.as_str();
    (!token.is_empty()).then(|| pages::decode(prefix, token)).transpose()
}

/// A page that is asked for.
struct Wanted<'a> {
    view: &'a View,
    target: &'a Target,
    options: &'a ListOptions,
    page: Option<&'a Page>,
    exact: Option<i64>,
}

impl Wanted<'_> {
    fn range(&self) -> KeyRange {
        range(self.target, &self.options.selection, &self.target.prefix(), self.page)
    }

    fn size(&self) -> usize {
        self.options.limit.unwrap_or(usize::MAX)
    }

    /// Bytes of the page, if everything is selected.
    fn bytes(&self) -> usize {
        self.view.sizes(&self.range()).take(self.size()).sum()
    }

    fn find(&self) -> Result<Found, MvccError> {
        let (view, selection, size, range) = (self.view, &self.options.selection, self.size(), self.range());
        match self.exact {
            Some(revision) if revision != view.revision() => {
                let limit = if selection.is_everything() { limit(size) } else { 0 };
                let request = RangeRequest { limit, revision, ..RangeRequest::new(range) };
                let answer = view.range(&request)?;
                let items = answer.kvs.into_iter().map(Ok);
                collect(items, answer.count, selection, size, revision)
            }
            _ => collect(view.iter(&range), view.count(&range), selection, size, view.revision()),
        }
    }
}

/// The flow whose room an answer takes; none for callers in the process, who take what there is at once, and for those
/// who never wait.
fn charged_flow(call: &Call) -> Option<u64> {
    call.wire.door.as_ref()?;
    let held = call.held.lock();
    held.seat.as_ref().filter(|seat| !seat.is_exempt()).map(Permit::flow)
}

fn limit(limit: usize) -> i64 {
    if limit == usize::MAX { 0 } else { i64::try_from(limit).unwrap_or(0) }
}

fn range(target: &Target, selection: &Selection, prefix: &str, page: Option<&Page>) -> KeyRange {
    let single = match (target.resource.namespaced, target.namespace.as_str()) {
        (false, _) => selection.name().map(|name| format!("{prefix}{name}")),
        (true, "") => match (selection.namespace(), selection.name()) {
            (Some(namespace), Some(name)) => Some(format!("{prefix}{namespace}/{name}")),
            _ => None,
        },
        (true, _) => selection.name().map(|name| format!("{prefix}{name}")),
    };
    if let (Some(key), None) = (single, page) {
        return KeyRange::Key(Bytes::from(key));
    }
    match (KeyRange::prefix(prefix.to_owned()), page) {
        (KeyRange::Interval { end, .. }, Some(page)) => {
            KeyRange::Interval { start: Bytes::from(page.start.clone()), end }
        }
        (range, _) => range,
    }
}

/// Takes up to `limit` wanted items. `count`: how many keys the range has.
fn collect(
    mut keys: impl Iterator<Item = Result<KeyValue, MvccError>>,
    count: i64,
    selection: &Selection,
    limit: usize,
    revision: i64,
) -> Result<Found, MvccError> {
    let (mut items, mut seen) = (Vec::new(), 0_usize);
    let mut last = Bytes::new();
    while items.len() < limit {
        let Some(kv) = keys.next().transpose()? else { break };
        seen += 1;
        last = kv.key.clone();
        if selection.matches(&kv) {
            items.push(kv);
        }
    }
    let rest = usize::try_from(count).unwrap_or(0).saturating_sub(seen);
    let remaining = (rest > 0 && selection.is_everything()).then(|| i64::try_from(rest).unwrap_or(i64::MAX));
    Ok(Found { items, seen, revision, last: (rest > 0).then_some(last), remaining })
}

fn list_metadata(found: &Found, prefix: &str) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), found.revision.to_string().into());
    if let Some(last) = &found.last {
        metadata.insert("continue".into(), pages::encode(prefix, last, found.revision).into());
    }
    if let Some(remaining) = found.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    Value::Object(metadata)
}

fn expired(call: &Call, prefix: &str, page: Option<&Page>) -> Response<Body> {
    let media = call.media(false).unwrap_or(Media::JSON);
    let Some(page) = page else {
        return status_response(&Status::expired(pages::LIST_EXPIRED), media);
    };
    let status = Status::expired(pages::EXPIRED);
    let mut value = status.to_value();
    meta::metadata_mut(&mut value).insert("continue".into(), pages::inconsistent(prefix, page).into());
    let message = api_types::schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.Status")
        .expect("invariant: the tables hold Status");
    match crate::encode::value(message, media, &value) {
        Ok(bytes) => body::response(410, media.format.media_type(), bytes),
        Err(_) => body::response(410, crate::negotiate::JSON, json!(value).to_string()),
    }
}
