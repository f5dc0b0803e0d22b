//! What is counted of requests (upstream: `apiserver/pkg/endpoints/metrics`). The handles of a kind of request are
//! looked up when the first such request comes: what is counted then costs no text.
//!
//! Kinds of requests are few: verbs, scopes and subresources are words of this program, groups, versions and resources
//! those of served kinds. What is no served kind has none.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use api_types::{Resource, Text};
use bytes::Bytes;
use http::{Method, Response};
use http_body::{Body as _, Frame, SizeHint};
use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};
use tokio::time::Instant;

use super::few::Few;
use crate::body::{Body, BoxError};
use crate::info::{Query, RequestInfo};

/// Who answered.
const COMPONENT: &str = "apiserver";

/// What is asked of a kind, or of what is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    verb: &'static str,
    subresource: &'static str,
    scope: &'static str,
    component: &'static str,
    /// Whether upstream counts what is answered here.
    is_counted: bool,
}

/// Whether the path is one object's, a namespace's or the cluster's.
fn scope(info: &RequestInfo) -> &'static str {
    // The name of a list or a watch comes from its field selector, unless the path asks for the watch.
    let is_named = !info.name.is_empty() && (info.by_watch_path || !matches!(info.verb, "list" | "watch"));
    match info.is_resource {
        false => "",
        true if is_named || info.verb == "create" => "resource",
        true if !info.namespace.is_empty() => "namespace",
        true => "cluster",
    }
}

fn verb(method: &Method, info: &RequestInfo, scope: &str, is_apply: bool) -> &'static str {
    if info.is_connection() || info.is_resource && info.subresource == "log" {
        return "CONNECT";
    }
    if info.verb == "watch" {
        return "WATCH";
    }
    match *method {
        Method::GET | Method::HEAD if matches!(scope, "namespace" | "cluster") => "LIST",
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH if is_apply => "APPLY",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// What upstream calls a path that is no resource, and who answers there; none for those that it does not count.
fn plain(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "/healthz" => Some(("/healthz", "")),
        "/livez" => Some(("/livez", "")),
        "/readyz" => Some(("/readyz", "")),
        "/openapi/v3" => Some(("openapi/v3", "")),
        path if path.starts_with("/openapi/v3/") => Some(("openapi/v3/", "")),
        "/api" => Some(("/api", COMPONENT)),
        "/apis" => Some(("/apis", COMPONENT)),
        _ => None,
    }
}

impl Asked {
    /// `kind`: what the request is about, if that is served.
    pub fn of(method: &Method, info: &RequestInfo, is_apply: bool, kind: Option<&Resource>) -> Self {
        let scope = scope(info);
        let plain = if info.is_resource { None } else { plain(&info.path) };
        let of_kind = |kind: &Resource| match info.subresource.as_str() {
            "" => Some(("", COMPONENT)),
            name => kind.subresource(name).map(|known| (known.name, COMPONENT)),
        };
        let known = kind.map_or(plain, of_kind);
        let (subresource, component) = known.unwrap_or(("", COMPONENT));
        let verb = verb(method, info, scope, is_apply);
        Self { verb, subresource, scope, component, is_counted: known.is_some() }
    }
}

/// What a request says of dry runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DryRun {
    No,
    All,
    Invalid,
}

impl DryRun {
    pub fn of(query: &Query) -> Self {
        if !query.has("dryRun") {
            return Self::No;
        }
        if query.all("dryRun").all(|value| value == "All") { Self::All } else { Self::Invalid }
    }

    fn text(self) -> &'static str {
        match self {
            Self::No => "",
            Self::All => "All",
            Self::Invalid => "invalid",
        }
    }
}

/// What is counted of one kind of request.
pub(crate) struct Series {
    asked: Asked,
    group: Text,
    version: Text,
    resource: Text,
    /// Answers by code.
    answers: Few<(u16, DryRun), Counter>,
    durations: Few<DryRun, Histogram>,
    objective: OnceLock<Histogram>,
    sizes: OnceLock<Histogram>,
    bodies: OnceLock<Histogram>,
    lasting: OnceLock<Gauge>,
}

impl Series {
    /// `kind`: what the requests are about, if that is served.
    pub fn of(asked: Asked, kind: Option<&Resource>) -> Self {
        let part = |part: fn(&Resource) -> &Text| kind.map_or(Text::Static(""), |kind| part(kind).clone());
        Self {
            asked,
            group: part(|kind| &kind.group),
            version: part(|kind| &kind.version),
            resource: part(|kind| &kind.resource),
            answers: Few::default(),
            durations: Few::default(),
            objective: OnceLock::new(),
            sizes: OnceLock::new(),
            bodies: OnceLock::new(),
            lasting: OnceLock::new(),
        }
    }

    /// Labels of all metrics of requests.
    fn common(&self) -> Vec<Label> {
        let text = |text: &Text| text.as_str().to_owned();
        vec![
            Label::new("verb", self.asked.verb),
            Label::new("group", text(&self.group)),
            Label::new("version", text(&self.version)),
            Label::new("resource", text(&self.resource)),
            Label::new("subresource", self.asked.subresource),
            Label::new("scope", self.asked.scope),
        ]
    }

    fn labels(&self) -> Vec<Label> {
        let mut labels = self.common();
        labels.push(Label::new("component", self.asked.component));
        labels
    }

    fn answered(&self, code: u16, dry_run: DryRun) {
        let counter = self.answers.get((code, dry_run), || {
            let mut labels = self.labels();
            labels.push(Label::new("dry_run", dry_run.text()));
            labels.push(Label::new("code", code.to_string()));
            counter!("apiserver_request_total", labels)
        });
        counter.increment(1);
    }

    fn took(&self, dry_run: DryRun, took: Duration, waited: Duration) {
        let of_dry_run = self.durations.get(dry_run, || {
            let mut labels = self.labels();
            labels.push(Label::new("dry_run", dry_run.text()));
            histogram!("apiserver_request_duration_seconds", labels)
        });
        of_dry_run.record(took.as_secs_f64());
        if dry_run == DryRun::No {
            let objective = self
                .objective
                .get_or_init(|| histogram!("apiserver_request_sli_duration_seconds", self.labels()));
            objective.record(took.saturating_sub(waited).as_secs_f64());
        }
    }

    fn sent(&self, bytes: u64) {
        let sizes = self.sizes.get_or_init(|| histogram!("apiserver_response_sizes", self.labels()));
        sizes.record(bytes as f64);
    }

    fn received(&self, verb: &'static str, bytes: usize) {
        let verb = match verb {
            "create" | "update" | "patch" => verb,
            "delete" | "deletecollection" if bytes == 0 => return,
            "delete" => "delete",
            "deletecollection" => "delete_collection",
            _ => return,
        };
        if !self.asked.is_counted {
            return;
        }
        let bodies = self.bodies.get_or_init(|| {
            let (group, resource) = (self.group.to_string(), self.resource.to_string());
            histogram!(
                "apiserver_request_body_size_bytes",
                "group" => group, "resource" => resource, "verb" => verb
            )
        });
        bodies.record(bytes as f64);
    }

    /// The server ended a request to protect itself.
    fn terminated(&self, code: u16) {
        let mut labels = self.labels();
        labels.push(Label::new("code", code.to_string()));
        counter!("apiserver_request_terminations_total", labels).increment(1);
    }

    /// A request ended without an answer.
    fn aborted(&self) {
        counter!("apiserver_request_aborts_total", self.common()).increment(1);
    }

    fn lasting(&self) -> &Gauge {
        self.lasting.get_or_init(|| gauge!("apiserver_longrunning_requests", self.labels()))
    }
}

/// What is counted of requests that are about no kind, and of all together.
#[derive(Default)]
pub(crate) struct Requests {
    /// Requests on paths that are no kind's.
    others: Few<Asked, Arc<Series>>,
    /// Requests that are answered just now and change nothing, and those that change something.
    pub reading: Inflight,
    pub mutating: Inflight,
}

impl Requests {
    /// What is counted of requests like this one, which is about no kind.
    pub fn series(&self, asked: Asked) -> Arc<Series> {
        self.others.get(asked, || Arc::new(Series::of(asked, None))).clone()
    }

    /// A request is carried out, until what is returned goes.
    pub fn executing(&self, verb: &str) -> Executing<'_> {
        let inflight = if matches!(verb, "get" | "list" | "watch") { &self.reading } else { &self.mutating };
        inflight.begin()
    }
}

/// How many requests are carried out at a time.
#[derive(Default)]
pub(crate) struct Inflight {
    now: AtomicI64,
    most: AtomicI64,
}

impl Inflight {
    fn begin(&self) -> Executing<'_> {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        Executing(self)
    }

    /// The most at a time since this was asked before.
    pub fn most(&self) -> i64 {
        let now = self.now.load(Ordering::Relaxed);
        self.most.swap(now, Ordering::Relaxed).max(now)
    }
}

/// One of them.
pub(crate) struct Executing<'a>(&'a Inflight);

impl Drop for Executing<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What becomes known of a request on its way.
#[derive(Default)]
pub(crate) struct Way {
    /// It came to who answers.
    arrived: AtomicBool,
    /// There was no turn for it.
    dropped: AtomicBool,
    /// Nanoseconds that it waited for its turn and for webhooks.
    waited: AtomicU64,
}

impl Way {
    pub fn arrive(&self) {
        self.arrived.store(true, Ordering::Relaxed);
    }

    pub fn drop_out(&self) {
        self.dropped.store(true, Ordering::Relaxed);
    }

    pub fn wait(&self, waited: Duration) {
        let nanoseconds = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }
}

/// A request that is being answered: how it ends is counted. One that goes before was aborted.
pub(crate) struct Counted {
    series: Arc<Series>,
    dry_run: DryRun,
    started: Instant,
    /// Whether the size of the answer counts.
    is_read: bool,
    is_lasting: bool,
    is_over: bool,
}

impl Counted {
    pub fn new(series: Arc<Series>, info: &RequestInfo, dry_run: DryRun, started: Instant) -> Self {
        // To upstream a watch is a list, unless the path asks for it, and a connection is none.
        let is_read = match info.verb {
            "get" | "list" => !info.is_connection(),
            verb => verb == "watch" && !info.by_watch_path,
        };
        let is_lasting = info.is_long_running();
        Self { series, dry_run, started, is_read, is_lasting, is_over: false }
    }

    /// Its body of so many bytes came. `verb`: what it does.
    pub fn received(&self, verb: &'static str, bytes: usize) {
        self.series.received(verb, bytes);
    }

    /// The request is answered. `timed_out`: because it took too long.
    pub fn answered(mut self, response: Response<Body>, way: &Way, timed_out: bool) -> Response<Body> {
        self.is_over = true;
        let code = response.status().as_u16();
        if way.dropped.load(Ordering::Relaxed) {
            self.series.terminated(code);
            self.series.answered(code, self.dry_run);
            return response;
        }
        if timed_out {
            self.series.terminated(code);
        }
        if !self.series.asked.is_counted || !(timed_out || way.arrived.load(Ordering::Relaxed)) {
            return response;
        }
        let end = Ending { counted: self, code, waited: way.waited() };
        match response.body().size_hint().exact() {
            Some(bytes) => {
                end.ended(bytes);
                response
            }
            None => end.follow(response),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.is_over && !std::thread::panicking() {
            self.series.aborted();
        }
    }
}

/// What is counted when an answer is sent.
struct Ending {
    counted: Counted,
    code: u16,
    waited: Duration,
}

impl Ending {
    fn ended(&self, bytes: u64) {
        let Counted { series, dry_run, started, is_read, .. } = &self.counted;
        series.answered(self.code, *dry_run);
        series.took(*dry_run, started.elapsed(), self.waited);
        if *is_read {
            series.sent(bytes);
        }
    }

    /// Waits for the end of an answer that comes in pieces.
    fn follow(self, response: Response<Body>) -> Response<Body> {
        if self.counted.is_lasting {
            self.counted.series.lasting().increment(1.0);
        }
        response.map(|body| {
            let followed = Followed { body, end: self, bytes: 0 };
            http_body_util::BodyExt::boxed_unsync(followed)
        })
    }
}

/// The body of an answer that is counted when it goes.
struct Followed {
    body: Body,
    end: Ending,
    bytes: u64,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.end.ended(self.bytes);
        if self.end.counted.is_lasting {
            self.end.counted.series.lasting().decrement(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, path: &str, is_apply: bool) -> String {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let info = RequestInfo::parse(&method, path, &Query::parse(query));
        let kind = crate::discovery::find(&info.group, &info.version, &info.resource);
        let asked = Asked::of(&method, &info, is_apply, kind);
        let Series { group, version, resource, .. } = Series::of(asked, kind);
        let Asked { verb, subresource, scope, component, is_counted } = asked;
        let counted = if is_counted { "" } else { " -" };
        format!("{verb} {group}/{version}/{resource}/{subresource} {scope} {component}{counted}")
    }

    #[test]
    fn requests_are_called_as_by_upstream() {
        let of = |method, path| asked(method, path, false);
        assert_eq!(of(Method::GET, "/api/v1/pods"), "LIST /v1/pods/ cluster apiserver");
        assert_eq!(of(Method::GET, "/api/v1/namespaces/n/pods"), "LIST /v1/pods/ namespace apiserver");
        assert_eq!(of(Method::GET, "/api/v1/namespaces/n/pods/p"), "GET /v1/pods/ resource apiserver");
        assert_eq!(of(Method::HEAD, "/api/v1/nodes/n"), "GET /v1/nodes/ resource apiserver");
        assert_eq!(of(Method::POST, "/api/v1/namespaces/n/pods"), "POST /v1/pods/ resource apiserver");
        assert_eq!(of(Method::DELETE, "/api/v1/namespaces/n/pods"), "DELETE /v1/pods/ namespace apiserver");
        assert_eq!(of(Method::GET, "/api/v1/pods?watch=1"), "WATCH /v1/pods/ cluster apiserver");
        assert_eq!(of(Method::GET, "/api/v1/watch/nodes/n"), "WATCH /v1/nodes/ resource apiserver");
        assert_eq!(
            of(Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Da"),
            "LIST /v1/nodes/ cluster apiserver"
        );
        assert_eq!(
            of(Method::GET, "/api/v1/namespaces/n/pods/p/log"),
            "CONNECT /v1/pods/log resource apiserver"
        );
        assert_eq!(
            of(Method::PUT, "/apis/apps/v1/namespaces/n/deployments/d/scale"),
            "PUT apps/v1/deployments/scale resource apiserver"
        );
        let patch = "/api/v1/namespaces/n/pods/p/status";
        assert_eq!(asked(Method::PATCH, patch, true), "APPLY /v1/pods/status resource apiserver");
        assert_eq!(asked(Method::PATCH, patch, false), "PATCH /v1/pods/status resource apiserver");
        assert_eq!(of(Method::GET, "/livez"), "GET ////livez  ");
        assert_eq!(of(Method::OPTIONS, "/apis"), "other ////apis  apiserver");
    }

    #[test]
    fn what_is_not_served_has_no_names_of_its_own() {
        assert_eq!(
            asked(Method::GET, "/apis/a.b/v1/things/x/odd", false),
            "GET /// resource apiserver -",
            "clients cannot make label values"
        );
        let odd = "/api/v1/namespaces/n/pods/p/odd";
        assert_eq!(asked(Method::GET, odd, false), "GET /v1/pods/ resource apiserver -");
        assert_eq!(asked(Method::GET, "/anything", false), "GET ///  apiserver -");
    }

    #[test]
    fn dry_runs_have_three_names() {
        let of = |query: &str| DryRun::of(&Query::parse(query)).text();
        assert_eq!((of(""), of("dryRun=All&dryRun=All"), of("dryRun=")), ("", "All", "invalid"));
    }

    #[test]
    fn the_most_at_a_time_is_told_once() {
        let inflight = Inflight::default();
        let first = inflight.begin();
        drop(inflight.begin());
        assert_eq!(inflight.most(), 2);
        assert_eq!(inflight.most(), 1);
        drop(first);
        assert_eq!((inflight.most(), inflight.most()), (1, 0));
    }
}
