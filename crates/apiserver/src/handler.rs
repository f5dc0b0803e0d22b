//! The way of a request: what it is about, who asks, whether they may, and who answers.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api_rules::Deprecation;
use api_types::status::Status;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header, request};
use mvcc::KeyRange;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::aggregation::ApiService;
use crate::api::Api;
use crate::audit::{Arrival, Trail};
use crate::authn::Shown;
use crate::authz::{Ask, Decision};
use crate::body::{self, Body};
use crate::call::{Call, status_response};
use crate::catalog::Kind;
use crate::counters::{Asked, Counted, DryRun, Way};
use crate::discovery;
use crate::flow::{self, Classified, Held, Permit};
use crate::info::{self, Query, RequestInfo};
use crate::negotiate::{self, Media};
use crate::registry::{Target, UpdateKind};
use crate::storage::View;
use crate::user::UserInfo;
use crate::wire::{Door, Stranger};
use crate::zpages::Page;

/// Where a request comes from.
#[derive(Clone)]
pub(crate) enum Origin {
    /// The network: the client's certificate, if there is one, and the peer's address.
    Network(Option<Arc<Shown>>, IpAddr),
    /// This process, in the name of a user.
    Process(Arc<UserInfo>),
}

/// How long the keys of service accounts may be kept.
const KEYS_CACHED: &str = "public, max-age=3600";

/// What somebody is told whose token begins with a space.
const SPACED_TOKEN: &str =
    "the provided Authorization header contains extra space before the bearer token, and is ignored";

/// What the audit log says about authorization.
const DECISION: &str = "authorization.k8s.io/decision";
const REASON: &str = "authorization.k8s.io/reason";
/// What it says about kinds and versions that will not stay.
const DEPRECATED: &str = "k8s.io/deprecated";
const REMOVED_RELEASE: &str = "k8s.io/removed-release";

/// An answer to come.
type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send + 'a>>;

/// Bytes of an `Audit-Id` that a caller may choose.
const MAX_AUDIT_ID: usize = 64;

/// What becomes known of a request on its way, and is needed when it is answered.
struct Notes {
    id: String,
    started: Instant,
    classified: OnceLock<Classified>,
    /// What is written of it, if it is audited.
    trail: OnceLock<Arc<Trail>>,
    /// Set once it is known that it is not known who asks.
    stranger: OnceLock<()>,
    /// The kind that it is about, if this replica knew it when it came.
    kind: Option<Kind>,
    /// What its answer holds until it is sent.
    held: OnceLock<Held>,
    /// What is counted of it, and what that depends on.
    counted: Counted,
    way: Way,
}

impl Api {
    /// Answers a request; every failure is an answer too.
    pub(crate) async fn handle(self: Arc<Self>, request: Request<Body>, origin: Origin) -> Response<Body> {
        if !info::is_escaped_well(request.uri().path()) {
            return body::plain(400, "400 Bad Request");
        }
        let started = self.storage.env.clock.monotonic();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
        let accept =
            request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = negotiate::accept(accept, false).unwrap_or(Media::JSON);
        let limit = time_limit(&info, &query, self.request_timeout);
        let compressible = crate::compress::is_wanted(request.headers())
            && matches!(info.verb, "get" | "list")
            && !info.is_long_running();
        let notes = self.notes(&request, &info, &query, started);
        let answer = self.clone().answer(request, info, query, origin, &notes);
        let mut timed_out = false;
        let answer = match limit {
            None => answer.await,
            Some(limit) => tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
                timed_out = true;
                Err(Status::timeout("request did not complete within the allotted timeout", 0))
            }),
        };
        let mut response = answer.unwrap_or_else(|status| status_response(&status, media));
        let Notes { id, classified, trail, stranger, counted, way, held, .. } = notes;
        if let Some(trail) = trail.into_inner() {
            response = Box::pin(trail.answered(response)).await;
        }
        if compressible {
            response = crate::compress::response(response).await;
        }
        if let Some(held) = held.into_inner() {
            let until = started + limit.unwrap_or(self.request_timeout);
            response = flow::hold(response, held, until, self.storage.env.clock.clone(), &self.tasks);
        }
        body::set_header(&mut response, header::HeaderName::from_static("audit-id"), &id);
        if let Some(classified) = classified.get() {
            classified.tell(&mut response);
        }
        if !response.headers().contains_key(header::CACHE_CONTROL) {
            body::set_header(&mut response, header::CACHE_CONTROL, "no-cache, private");
        }
        if stranger.get().is_some() {
            response.extensions_mut().insert(Stranger);
        }
        counted.answered(response, &way, timed_out)
    }

    fn notes(&self, request: &Request<Body>, info: &RequestInfo, query: &Query, started: Instant) -> Notes {
        let kind = self.known_kind(info);
        let asked = Asked::of(request.method(), info, is_apply(request), kind.as_deref());
        let series = self.counts.series(kind.as_ref(), asked);
        Notes {
            id: self.audit_id(request.headers()),
            started,
            classified: OnceLock::new(),
            trail: OnceLock::new(),
            stranger: OnceLock::new(),
            held: OnceLock::new(),
            kind,
            counted: Counted::new(series, info, DryRun::of(query), started),
            way: Way::default(),
        }
    }

    /// The kind that a request names, as far as this replica knows.
    fn known_kind(&self, info: &RequestInfo) -> Option<Kind> {
        let (group, version, resource) = (&info.group, &info.version, &info.resource);
        if !info.is_resource {
            return None;
        }
        if let Some(row) = discovery::find(group, version, resource) {
            return Some(Kind::BuiltIn(row));
        }
        self.catalog.find(&self.storage.view(), group, version, resource).ok()?
    }

    /// What tells a request from all others: the caller's own, or a new one.
    fn audit_id(&self, headers: &HeaderMap) -> String {
        let own = headers.get("audit-id").and_then(|id| id.to_str().ok());
        let own = own.filter(|id| !id.is_empty() && id.len() <= MAX_AUDIT_ID);
        own.map_or_else(|| self.new_uid(), str::to_owned)
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Body>,
        info: RequestInfo,
        query: Query,
        origin: Origin,
        notes: &Notes,
    ) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        let is_spaced = crate::authn::has_spaced_token(&parts.headers);
        let user = self.identify(&mut parts.headers, &info.path, &origin, notes.started).await;
        if self.audit.is_some() {
            Box::pin(self.begin_trail(&parts, &info, &origin, user.as_ref().ok(), notes)).await?;
        }
        if user.as_ref().map_or(true, UserInfo::is_anonymous) {
            notes.stranger.get_or_init(|| ());
        }
        if !info.is_long_running() {
            asked_time(&query)?;
        }
        let acting = crate::impersonate::user(&self, &parts.headers, (&info, &query), user?).await?;
        let mut call = Call::new(parts.method, info, query, parts.headers, acting.user, bytes::Bytes::new());
        call.audit_id.clone_from(&notes.id);
        call.trail = notes.trail.get().cloned();
        if let Some(trail) = &call.trail {
            trail.acts_as(&call.headers, &call.user, acting.constraint);
        }
        if is_spaced {
            call.warn(SPACED_TOKEN);
        }
        let answer = self.serve(&mut call, parts.uri, parts.extensions.remove::<Door>(), body, notes).await;
        // Warnings go with failures too.
        let mut response = answer.unwrap_or_else(|status| call.status(&status));
        call.finish(&mut response);
        Ok(response)
    }

    /// Answers a request when it is its turn, if it may be.
    async fn serve(
        self: &Arc<Self>,
        call: &mut Call,
        uri: Uri,
        door: Option<Door>,
        body: Body,
        notes: &Notes,
    ) -> Result<Response<Body>, Status> {
        let permit = self.admit_flow(call, notes).await;
        let permit = permit.inspect_err(|_| notes.way.drop_out())?;
        let _executing = permit.is_some().then(|| self.counts.requests.executing(call.info.verb));
        notes.way.wait(permit.as_ref().map_or(Duration::ZERO, Permit::waited));
        let began = permit.as_ref().map_or_else(|| self.storage.env.clock.monotonic(), Permit::began);
        call.held.get_mut().seat = permit;
        call.lap("apf-queue-wait");
        if let Err(status) = self.authorize(call, began).await {
            let mut response = call.status(&status);
            if status.code == 403 {
                body::set_header(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
            }
            return Ok(response);
        }
        call.wire.door = door;
        let service = self.api_service(&call.info, notes.kind.is_some()).await?;
        let remote = service.as_ref().and_then(|service| Some((service, service.remote.as_ref()?)));
        if remote.is_some() || call.info.is_connection() {
            call.wire.query = uri.query().unwrap_or_default().to_owned();
            call.wire.body = Mutex::new(Some(body));
            // HTTP/2 says the host in another place.
            let authority = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
            if let (Some(host), false) = (authority, call.headers.contains_key(header::HOST)) {
                call.headers.insert(header::HOST, host);
            }
        } else {
            call.body = body::read(body).await?;
            notes.counted.received(call.info.verb, call.body.len());
        }
        if let Some(trail) = &call.trail {
            trail.sent(&call.body, &call.headers, &call.info);
        }
        notes.way.arrive();
        let answer = match remote {
            Some((service, remote)) => Box::pin(self.pass_on(call, service, remote)).await,
            None => self.dispatch(call).await,
        };
        notes.way.wait(call.waited());
        // What goes on for long has no time by which it must be read, and no seat but while a watch begins.
        let is_read_in_time = call.wire.door.is_some() && !call.info.is_long_running();
        if is_read_in_time && answer.as_ref().is_ok_and(|response| is_large(response.body())) {
            drop(notes.held.set(std::mem::take(call.held.get_mut())));
        }
        answer
    }

    /// Begins to audit a request, if the policy says so.
    async fn begin_trail(
        &self,
        parts: &request::Parts,
        info: &RequestInfo,
        origin: &Origin,
        user: Option<&UserInfo>,
        notes: &Notes,
    ) -> Result<(), Status> {
        let peer = match origin {
            Origin::Network(_, peer) => Some(*peer),
            Origin::Process(_) => None,
        };
        let (id, uri, headers, started) = (&notes.id, &parts.uri, &parts.headers, notes.started);
        let arrival = Arrival { id, info, uri, headers, peer, user, started };
        let Some(trail) = self.audit.as_ref().and_then(|audit| audit.open(&arrival)) else { return Ok(()) };
        trail.lap("authentication");
        drop(notes.trail.set(trail.clone()));
        trail.received().await
    }

    async fn identify(
        &self,
        headers: &mut HeaderMap,
        path: &str,
        origin: &Origin,
        since: Instant,
    ) -> Result<UserInfo, Status> {
        match origin {
            Origin::Process(user) => Ok(UserInfo::clone(user)),
            Origin::Network(shown, _) => {
                self.authenticator.authenticate(self, shown.as_deref(), headers, path, since).await
            }
        }
    }

    /// Waits until it is the request's turn by the priority of its flow.
    async fn admit_flow(&self, call: &Call, notes: &Notes) -> Result<Option<Permit>, Status> {
        // A watch takes seats until it has begun.
        if call.info.is_long_running() && call.info.verb != "watch" {
            return Ok(None);
        }
        let way = {
            let view = self.storage.view();
            let bytes = notes.kind.as_ref().map_or(0, |kind| listed(&view, call, kind));
            let request = flow::Request { info: &call.info, user: &call.user, bytes };
            let (found, way) = self.flow.classify(&view, &request);
            drop(notes.classified.set(found));
            way
        };
        self.flow.enter(way).await.map(Some)
    }

    /// Whether a request may be answered; `since`: from when on it is asked.
    async fn authorize(&self, call: &Call, since: Instant) -> Result<(), Status> {
        let ask = Ask::of(&call.info, &call.query);
        let decision = self.decide(call, &ask).await?;
        let took = self.storage.env.clock.monotonic().saturating_duration_since(since);
        self.counts.access.decided(decision.result(), took);
        if call.trail.is_some() {
            self.note_decision(call, &ask, &decision);
        }
        match &decision.error {
            Some(error) if !decision.allows() => {
                let path = api_types::field::quote(&call.info.path);
                Err(Status::failure(500, "InternalError", format!("Internal Server Error: {path}: {error}")))
            }
            _ => decision.check(&ask, &call.user),
        }
    }

    /// Tells the audit log what was decided, and why.
    fn note_decision(&self, call: &Call, ask: &Ask<'_>, decision: &Decision) {
        call.lap("authorization");
        if !decision.allows() && decision.error.is_some() {
            return call.annotate(REASON, "internal error");
        }
        let word = if decision.allows() { "allow" } else { "forbid" };
        call.annotate(DECISION, word);
        call.annotate(REASON, self.authorizer.reason(&self.storage.view(), &call.user, ask, decision));
    }

    async fn decide(&self, call: &Call, ask: &Ask<'_>) -> Result<Decision, Status> {
        if crate::authn::is_public(&call.info.path) {
            return Ok(Decision::allow());
        }
        // What this replica holds is not to be shown while it is known to be wrong.
        if let Err(error) = self.storage.store.check_sound() {
            call.lap("authorization");
            call.annotate(REASON, "internal error");
            return Err(crate::storage::store_failure(&error));
        }
        Ok(self.authorizer.decide(&self.storage.view(), &call.user, ask).await)
    }

    /// The APIService that a request belongs to; `is_own`: this server serves the kind. What this replica does not know
    /// yet it may have missed: it looks again behind the barrier before it says that there is none, or that its server
    /// is not available.
    async fn api_service(&self, info: &RequestInfo, is_own: bool) -> Result<Option<Arc<ApiService>>, Status> {
        let find = |view: &View| self.aggregation.of_path(view, &info.path);
        let found = find(&self.storage.view());
        let is_sure = match &found {
            Some(service) => service.remote.as_ref().is_none_or(|remote| remote.is_available),
            None => !info.is_resource || is_own || discovery::has_version(&info.group, &info.version),
        };
        if is_sure { Ok(found) } else { Ok(find(&*self.storage.fresh().await?)) }
    }

    /// Boxed, so that the tasks of connections stay small.
    fn dispatch<'a>(self: &'a Arc<Self>, call: &'a Call) -> Answer<'a> {
        match call.info.is_resource {
            true => Box::pin(self.resource(call)),
            false => Box::pin(self.other(call)),
        }
    }

    /// Answers on paths that are no resources. Upstream's plain handlers take any method, its routes only `GET`.
    async fn other(&self, call: &Call) -> Result<Response<Body>, Status> {
        let path = call.info.path.as_str();
        match path {
            "/" => return Ok(self.root()),
            "/metrics" if call.method != Method::DELETE => return Ok(self.metrics_text()),
            "/metrics/slis" => return Ok(self.health_metrics()),
            path if crate::health::is_check(path) => return self.health(call).await,
            _ => {}
        }
        if let Some(page) = Page::of(path) {
            return self.zpage(call, page);
        }
        let (accept, is_route) = (call.header(header::ACCEPT), discovery::is_route(path));
        if is_route && call.method != Method::GET {
            return Err(Status::method_not_allowed());
        }
        match path.trim_end_matches('/') {
            "/metrics" if path == "/metrics" => return Err(Status::method_not_allowed()),
            "/version" => {
                return negotiate::check_accept(accept, &[negotiate::JSON]).map(|()| self.version());
            }
            "/openid/v1/jwks" => {
                let told = self.authenticator.discovery.as_ref().ok_or_else(Status::path_not_found)?;
                negotiate::check_accept(accept, &["application/jwk-set+json"])?;
                return Ok(cached(told.jwks(), KEYS_CACHED));
            }
            "/.well-known/openid-configuration" => {
                let told = self.authenticator.discovery.as_ref().ok_or_else(Status::path_not_found)?;
                negotiate::check_accept(accept, &[negotiate::JSON])?;
                return Ok(cached(told.configuration(), KEYS_CACHED));
            }
            _ => {}
        }
        if is_route {
            negotiate::check_object_accept(accept, false)?;
        }
        if let Some(response) = self.discovery(call)? {
            return Ok(response);
        }
        if !path.ends_with('/')
            && let Some(response) = self.openapi(call).await?
        {
            return Ok(response);
        }
        if discovery::is_below_route(path) { Err(Status::path_not_found()) } else { Ok(not_found()) }
    }

    fn root(&self) -> Response<Body> {
        let paths = [
            "/api",
            "/api/v1",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/readyz",
            "/version",
        ];
        let text = serde_json::json!({"paths": paths}).to_string();
        body::response(200, negotiate::JSON, crate::encode::indent(text.as_bytes()))
    }

    /// The kind that a request names. What this replica does not know yet it may have missed: it looks again behind the
    /// barrier before it says so.
    async fn kind(&self, call: &Call) -> Result<Option<Kind>, Status> {
        let info = &call.info;
        let find =
            |view: &crate::storage::View| self.catalog.find(view, &info.group, &info.version, &info.resource);
        match find(&self.storage.view())? {
            None if !discovery::has_version(&info.group, &info.version) => {
                let view = self.storage.fresh().await?;
                find(&view)
            }
            found => Ok(found),
        }
    }

    /// Tells the client, the audit log and whoever looks at the metrics that a deprecated version is asked for.
    fn tell_deprecated(&self, call: &Call, kind: &Kind, deprecation: Deprecation) {
        let Deprecation { warning, removed } = deprecation;
        call.warn(warning);
        call.annotate(DEPRECATED, "true");
        if !removed.is_empty() {
            call.annotate(REMOVED_RELEASE, removed);
        }
        let subresource = kind.subresource(&call.info.subresource).map_or("", |known| known.name);
        self.counts.of(kind).deprecated(kind, subresource, removed);
    }

    async fn resource(self: &Arc<Self>, call: &Call) -> Result<Response<Body>, Status> {
        let info = &call.info;
        if info.path.starts_with("//") {
            return Ok(not_found());
        }
        let Some(resource) = self.kind(call).await? else {
            return match discovery::has_group(&info.group) {
                true => Err(Status::path_not_found()),
                false => Ok(not_found()),
            };
        };
        if is_misplaced(&resource, info) {
            let is_custom = resource.custom().is_some();
            return if is_custom { Ok(not_found()) } else { Err(Status::path_not_found()) };
        }
        let is_read_only = info.by_watch_path && call.method != Method::GET;
        if is_read_only || call.method == Method::HEAD && !info.is_connection() {
            return Err(Status::method_not_allowed());
        }
        if let Some(deprecation) = resource.deprecation() {
            self.tell_deprecated(call, &resource, deprecation);
        }
        let namespace = if resource.namespaced { info.namespace.as_str() } else { "" };
        let target = Target::new(&resource, namespace, &info.name);
        if !info.subresource.is_empty() {
            let Some(sub) = resource.subresource(&info.subresource).filter(|sub| sub.served_by_default)
            else {
                let is_custom = resource.custom().is_some();
                return Err(if is_custom { target.not_found() } else { Status::path_not_found() });
            };
            return self.subresource(call, &target, sub).await;
        }
        if !resource.is_stored() {
            return self.review(call, &target).await;
        }
        if !resource.has_verb(info.verb) {
            return Err(Status::method_not_allowed());
        }
        // Objects in namespaces are written by the path of their namespace only.
        let whole_cluster = resource.namespaced && namespace.is_empty();
        if whole_cluster && !matches!(info.verb, "list" | "watch") {
            return Err(Status::method_not_allowed());
        }
        if resource.custom().is_none() {
            let streams = matches!(info.verb, "list" | "watch");
            negotiate::check_object_accept(call.header(header::ACCEPT), streams)?;
        }
        match info.verb {
            "get" => self.get(call, &target).await,
            "list" => self.list(call, &Target::new(&resource, namespace, "")).await,
            "watch" => self.watch(call, &target).await,
            "create" if info.name.is_empty() => self.create_request(call, &target).await,
            "update" if !info.name.is_empty() => self.update_request(call, &target, UpdateKind::Main).await,
            "patch" if !info.name.is_empty() => self.patch_request(call, &target, UpdateKind::Main).await,
            "delete" => self.delete_request(call, &target).await,
            "deletecollection" => self.delete_collection(call, &Target::new(&resource, namespace, "")).await,
            _ => Err(Status::method_not_allowed()),
        }
    }
}

/// Whether upstream has no route for a kind at such a place: kinds without namespaces are not found in one, others by
/// name in one only, and what is only created has no names.
fn is_misplaced(resource: &Kind, info: &RequestInfo) -> bool {
    let named = !info.name.is_empty() && !matches!(info.verb, "list" | "watch");
    match (resource.namespaced, info.is_in_namespace()) {
        (false, true) => true,
        (true, false) if named => true,
        _ => named && !resource.is_stored() && !resource.has_verb("get"),
    }
}

/// How long a request may take, `most` unless it asks for less; none: as long as it lasts.
fn time_limit(info: &RequestInfo, query: &Query, most: Duration) -> Option<Duration> {
    let asked = asked_time(query).unwrap_or_default().filter(|asked| !asked.is_zero());
    (!info.is_long_running()).then(|| asked.map_or(most, |asked| asked.min(most)))
}

/// The `timeout` that a client gives its request, a duration as Go writes it; less than nothing counts as none.
fn asked_time(query: &Query) -> Result<Option<Duration>, Status> {
    let text = query.get("timeout");
    if text.is_empty() {
        return Ok(None);
    }
    match api_types::time::parse_duration(text) {
        Some(nanoseconds) => Ok(u64::try_from(nanoseconds).ok().map(Duration::from_nanos)),
        None => {
            let digits = |byte: u8| byte.is_ascii_digit() || byte == b'.';
            let fault = match text.trim_start_matches(['-', '+']).bytes().all(digits) {
                true => "missing unit in duration",
                false => "invalid duration",
            };
            let text = api_types::field::quote(text);
            Err(Status::bad_request(format!(
                "invalid timeout specified in the request URL - time: {fault} {text}"
            )))
        }
    }
}

/// Bytes of the objects that a list goes through, or a watch that begins with one, as far as they count.
fn listed(view: &View, call: &Call, kind: &Kind) -> u64 {
    let is_list = match call.info.verb {
        "list" => true,
        verb => verb == "watch" && call.query.switch("sendInitialEvents") == Some(true),
    };
    if !is_list || !call.info.name.is_empty() {
        return 0;
    }
    let range = KeyRange::prefix(Target::new(kind, &call.info.namespace, "").prefix());
    let limit = call.query.get("limit").parse().ok().filter(|limit| *limit > 0);
    let mut bytes = 0;
    for size in view.sizes(&range).take(limit.unwrap_or(usize::MAX)) {
        bytes += size as u64;
        if bytes >= flow::MOST_BYTES {
            break;
        }
    }
    bytes
}

/// Whether an answer may be on its way for long.
fn is_large(body: &Body) -> bool {
    http_body::Body::size_hint(body).exact().is_none_or(|bytes| bytes >= flow::LARGE as u64)
}

/// What upstream answers on a path of no group that it knows.
fn not_found() -> Response<Body> {
    body::plain(404, "404 page not found\n")
}

/// An answer that others may keep for a while.
fn cached(mut response: Response<Body>, how: &str) -> Response<Body> {
    body::set_header(&mut response, header::CACHE_CONTROL, how);
    response
}

/// Whether a request applies a configuration.
fn is_apply(request: &Request<Body>) -> bool {
    let content = || request.headers().get(header::CONTENT_TYPE)?.to_str().ok();
    request.method() == Method::PATCH
        && content().is_some_and(|text| negotiate::media_type(text) == crate::registry::APPLY_PATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_ask_for_less_time() {
        let most = Duration::from_secs(60);
        let of = |path: &str, query: &str| {
            let query = Query::parse(query);
            time_limit(&RequestInfo::parse(&http::Method::GET, path, &query), &query, most)
        };
        assert_eq!(of("/api/v1/pods", ""), Some(most));
        assert_eq!(of("/api/v1/pods", "timeout=1.5s"), Some(Duration::from_millis(1500)));
        for query in ["timeout=0s", "timeout=2h", "timeout=-1s", "timeout=x"] {
            assert_eq!(of("/api/v1/pods", query), Some(most), "{query}");
        }
        assert_eq!(of("/api/v1/pods", "watch=1&timeout=1s"), None);
        let fault = |text: &str| asked_time(&Query::parse(&format!("timeout={text}"))).unwrap_err().message;
        assert_eq!(
            fault("5"),
            "invalid timeout specified in the request URL - time: missing unit in duration \"5\""
        );
        assert_eq!(fault("x"), "invalid timeout specified in the request URL - time: invalid duration \"x\"");
    }
}
